//! What the engine has to tell the world: transitions, and what was dropped.

use crate::rollout::Cause;
use crate::shared::dropped::Drops;

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
    pub dropped: Drops,
}
