//! What the engine has to tell the world: transitions, and what was dropped.

use crate::rollout::Cause;
use crate::shared::store::StoreError;

/// What a bound or a fault has dropped or put off; each is a label of the metric of dropped things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Outcomes of an older epoch: counted in metrics, decide nothing.
    LateResult,
    /// Merges put off because other workers interfered too often; the counts are kept for the next merge.
    MergeDeferred,
    /// A verdict put off for the same reason; the next merge judges again.
    VerdictDeferred,
    /// What an attempt said about its key, given up because other workers interfered too often.
    KeyReport,
    /// Shared values that this build cannot read.
    Undecodable,
    /// Host calls refused.
    Refused,
}

impl Dropped {
    /// What an error puts off.
    pub(crate) const fn of(error: StoreError) -> Dropped {
        match error {
            StoreError::Mismatch => Dropped::MergeDeferred,
            StoreError::Refused => Dropped::Refused,
        }
    }

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Dropped::LateResult => "late_result",
            Dropped::MergeDeferred => "merge_deferred",
            Dropped::VerdictDeferred => "verdict_deferred",
            Dropped::KeyReport => "key_report",
            Dropped::Undecodable => "undecodable",
            Dropped::Refused => "refused",
        }
    }
}

/// A change of a version's standing, reported by the one worker that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Deployment.
    pub deployment: String,
    /// Its release.
    pub release: String,
    /// The canary.
    pub version: String,
    /// Epoch after the change.
    pub epoch: u32,
    /// Name of the phase before.
    pub from: &'static str,
    /// Name of the phase after.
    pub to: &'static str,
    /// Stage of the ramp after the change.
    pub stage: Option<u32>,
    /// False in observe mode: what would have happened.
    pub enforced: bool,
    /// Why; absent when trouble has ended.
    pub cause: Option<Cause>,
    /// Judged and bad outcomes of the canary in the window.
    pub canary: (u64, u64),
    /// Judged and bad outcomes of stable in the window.
    pub stable: (u64, u64),
    /// Score of the comparison, and the score that it takes; absent where a limit decided.
    pub score: Option<(f64, f64)>,
    /// Ids of a few requests that went badly, on the worker that made the transition.
    pub requests: Vec<String>,
}

/// What the adapter should tell the world after a call.
#[derive(Debug, Default, PartialEq)]
pub struct Notes {
    /// To log, and to count where they are rollbacks.
    pub transitions: Vec<Transition>,
    /// To count.
    pub dropped: Vec<(Dropped, u64)>,
}

impl Notes {
    /// Counts one thing.
    pub(crate) fn note(&mut self, what: Dropped) {
        self.drop(what, 1);
    }

    pub(super) fn drop(&mut self, what: Dropped, count: u64) {
        if count > 0 {
            self.dropped.push((what, count));
        }
    }
}
