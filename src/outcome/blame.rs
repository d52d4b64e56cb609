//! What an attempt says about its version and about its key.

use crate::outcome::Outcome;
use crate::time::{Millis, Span};

/// Something that happened to an attempt and judges its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Headers arrived, or there will be none.
    Answered {
        /// By the status, or by the fault.
        outcome: Outcome,
        /// Since the request was seen (a retry: since it began), if it says something about the version's speed.
        latency: Option<Span>,
    },
    /// The stream broke after good headers.
    Broke,
    /// The stream ended well.
    Completed,
}

/// What an attempt says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOutcome {
    /// It works: a good answer has come, whole.
    Completed,
    /// It is neither limited nor refused: a good answer has begun.
    Accepted,
    /// 429, with the wait that the provider asked for.
    Limited(Option<Millis>),
    /// 401 or 403.
    Rejected,
    /// A bad answer, or none.
    Failed,
    /// An answer that began well has broken off.
    Broke,
    /// Nothing: its client has left, or has asked for what cannot be had. If it was the trial, another one may follow.
    Inconclusive,
}
