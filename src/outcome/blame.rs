//! The two parties that an attempt may judge: its version and its key.

use crate::outcome::Outcome;
use crate::plan::pool::Refusal;
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

/// What the headers of an answer say about the key of its attempt, beyond the outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyAnswer {
    /// Nothing.
    #[default]
    Silent,
    /// The key is refused, or limited without evidence. The request may be the reason.
    Refused(Refusal),
    /// The key is limited, for the time that the provider states.
    Limited(Option<Millis>),
    /// 429 although quota is left: the reason is the request.
    QuotaLeft,
}

impl KeyAnswer {
    /// Returns the refusal, if it is one.
    pub fn refusal(self) -> Option<Refusal> {
        if let KeyAnswer::Refused(refusal) = self { Some(refusal) } else { None }
    }
}

/// A refusal that no other key has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unproven {
    /// The refusal.
    pub refusal: Refusal,
    /// The request has tried no other key of the pool.
    pub alone: bool,
}

/// Outcome of an attempt for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOutcome {
    /// A good answer came whole: the key works.
    Completed,
    /// A good answer began: the key is neither limited nor refused.
    Accepted,
    /// 429 with evidence, and the wait that the provider asked for.
    Limited(Option<Millis>),
    /// Refused, where another key did well on the same request.
    Rejected,
    /// Refused because its money or quota is used up, where another key did well on the same request.
    Exhausted,
    /// Refused on a request that no key has served.
    Unproven(Unproven),
    /// A bad answer, or none.
    Failed,
    /// A stream broke after good headers.
    Broke,
    /// The client left, or its request was wrong, or a 429 says itself that quota is left: nothing is known about the key. After such a trial another one may follow.
    Inconclusive,
}
