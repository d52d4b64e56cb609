//! Judgements: an attempt as the statistics, the metrics and the key pools see it.

use crate::outcome::Outcome;
use crate::outcome::blame::{Event, KeyOutcome};
use crate::plan::pool::KeyRef;
use crate::time::{Micros, Millis};

/// The key of an attempt, and its direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Key of a pool.
    pub key: Option<KeyRef>,
    /// Fingerprint of the key's value.
    pub fingerprint: Option<u64>,
    /// The attempt went to stable although the request was assigned to a canary (failover).
    pub to_stable: bool,
}

impl Carried {
    /// Returns whether the attempt carried a key of a pool. Only then is a refusal the key's fault and not the caller's.
    pub(super) fn has_pool_key(&self) -> bool {
        self.key.is_some()
    }
}

/// A judgement of an attempt: an event for the version's statistics, and at its end the outcome for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Event for the version; `None` if there is nothing to count (yet).
    pub event: Option<Event>,
    /// Final outcome, once the attempt is over.
    pub outcome: Option<Outcome>,
    /// Key and direction of the attempt.
    pub carried: Carried,
    /// Time at which the attempt began.
    pub began: Micros,
    /// Status of the answer, if there was one.
    pub status: Option<u16>,
}

impl Judgement {
    /// Returns the outcome for the attempt's key; `None` if there is nothing to report. `wait`: the wait that the answer of a
    /// rate limit asks for.
    pub fn key_outcome(&self, wait: Option<Millis>) -> Option<KeyOutcome> {
        // By the status first: a guard may count 429 against the version as well.
        match (self.status, self.event?) {
            (Some(429), _) => Some(KeyOutcome::Limited(wait)),
            (Some(401 | 403), _) => Some(KeyOutcome::Rejected),
            (_, Event::Completed) => Some(KeyOutcome::Completed),
            (_, Event::Broke) => Some(KeyOutcome::Broke),
            (_, Event::Answered { outcome, .. }) => match outcome {
                Outcome::Good => Some(KeyOutcome::Accepted),
                Outcome::Bad => Some(KeyOutcome::Failed),
                Outcome::Cancelled | Outcome::CallerError => Some(KeyOutcome::Inconclusive),
                _ => None,
            },
        }
    }
}
