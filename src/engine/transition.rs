//! Transitions: reports of changes that a worker has made, for the log, for alerts and for metrics.

use crate::rollout::{Cause, PhaseKind};

/// A change of a version's standing or of the ramp's stage, reported by the one worker that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Name of the deployment.
    pub deployment: String,
    /// Its release.
    pub release: String,
    /// Id of the canary.
    pub version: String,
    /// Epoch of the canary after the change.
    pub epoch: u32,
    /// Stage of the ramp after the change.
    pub stage: Option<u32>,
    /// The change.
    pub change: Change,
    /// The reason; `None` when trouble has ended and when a stage begins.
    pub cause: Option<Cause>,
    /// The numbers that the change is based on.
    pub evidence: Evidence,
}

/// The change that a transition reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The version went from one phase to another.
    Moved {
        /// Phase before.
        from: PhaseKind,
        /// Phase after.
        to: PhaseKind,
    },
    /// The next stage of the ramp began. Stages begin only while the canary is active.
    StageBegun,
    /// The guard only observes: the version would have gone to another phase, and stayed.
    Observed {
        /// The phase that it is in.
        from: PhaseKind,
        /// The phase that it would have gone to.
        to: PhaseKind,
    },
}

impl Change {
    /// Returns the phase before the change.
    pub const fn from(self) -> PhaseKind {
        match self {
            Change::Moved { from, .. } | Change::Observed { from, .. } => from,
            Change::StageBegun => PhaseKind::Active,
        }
    }

    /// Returns the phase after the change, or the phase that the version would have gone to.
    pub const fn to(self) -> PhaseKind {
        match self {
            Change::Moved { to, .. } | Change::Observed { to, .. } => to,
            Change::StageBegun => PhaseKind::Active,
        }
    }

    /// Returns whether the version was rolled back.
    pub fn is_rollback(self) -> bool {
        matches!(self, Change::Moved { to: PhaseKind::RolledBack, .. })
    }
}

/// The numbers that a transition is based on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// Outcomes of the canary in the window.
    pub canary: Counts,
    /// Outcomes of stable in the window.
    pub stable: Counts,
    /// The comparison, if it decided.
    pub score: Option<Score>,
    /// Ids of a few requests that went badly, on the worker that made the transition.
    pub requests: Vec<String>,
}

/// Counted outcomes of a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Judged outcomes.
    pub judged: u64,
    /// Bad outcomes.
    pub bad: u64,
}

/// A score of the comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The score.
    pub value: f64,
    /// The score from which on the canary is blamed.
    pub limit: f64,
}
