//! The two parties that an attempt may judge: its version and its key.

use crate::outcome::Outcome;
use crate::time::{Millis, Span};

/// An event of an attempt that counts for its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Headers arrived, or there will be none.
    Answered {
        /// Outcome by the status, or by the fault.
        outcome: Outcome,
        /// Time since the request was seen (for a retry: since it began), if it says something about the version's speed.
        latency: Option<Span>,
    },
    /// The stream broke after good headers.
    Broke,
    /// The stream ended well.
    Completed,
}

/// Outcome of an attempt for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOutcome {
    /// A good answer came whole: the key works.
    Completed,
    /// A good answer began: the key is neither limited nor refused.
    Accepted,
    /// 429, with the wait that the provider asked for.
    Limited(Option<Millis>),
    /// 401 or 403.
    Rejected,
    /// A bad answer, or none.
    Failed,
    /// A stream broke after good headers.
    Broke,
    /// The client left, or its request was wrong: nothing is known about the key. After such a trial another one may follow.
    Inconclusive,
}
