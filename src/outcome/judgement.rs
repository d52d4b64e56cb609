//! Judgements: an attempt as the statistics, the metrics and the key pools see it.

use crate::outcome::Outcome;
use crate::outcome::blame::{Event, KeyAnswer, KeyOutcome};
use crate::plan::pool::KeyRef;
use crate::time::Micros;

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
    /// What the answer says about the key.
    pub on_key: KeyAnswer,
}

impl Judgement {
    /// Returns the outcome for the attempt's key; `None` if there is nothing to report yet. A refusal is reported when its request
    /// is decided: the ledger keeps it until then (see [`crate::outcome::attempts::Attempts::take_refusals`]).
    pub fn key_outcome(&self) -> Option<KeyOutcome> {
        // By the answer first: a guard may count 429 against the version as well.
        match (self.on_key, self.event?) {
            (KeyAnswer::Limited(wait), _) => Some(KeyOutcome::Limited(wait)),
            (KeyAnswer::Refused(_), _) => None,
            (KeyAnswer::QuotaLeft, _) => Some(KeyOutcome::Inconclusive),
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
