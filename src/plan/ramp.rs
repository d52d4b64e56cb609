//! Stages of the canary's share.

use crate::plan::guard::Guard;
use crate::time::{Millis, UnixMillis};
use crate::units::Bps;

/// Stages of the canary's share.
#[derive(Debug, Clone, PartialEq)]
pub struct Ramp {
    /// In order; never empty.
    pub stages: Vec<Stage>,
    /// When the first stage begins; `None`: when this release is first seen.
    pub start: Option<UnixMillis>,
    /// The clock of the stages stands still.
    pub paused: bool,
}

/// One stage of a ramp.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The canary's share.
    pub weight: Bps,
    /// How long the stage lasts at least.
    pub duration: Millis,
    /// Outcomes of the canary that must be seen in it.
    pub min_requests: u32,
    /// The deployment's guard with this stage's overrides applied.
    pub guard: Guard,
}

impl Ramp {
    /// The stage at an index, or the last one if a reload has left fewer; `None` before the start.
    pub fn stage(&self, n: Option<u32>) -> Option<&Stage> {
        let n = usize::try_from(n?).ok()?;
        self.stages.get(n).or(self.stages.last())
    }

    /// The canary's share at a stage; zero before the start.
    pub fn weight(&self, n: Option<u32>) -> Bps {
        self.stage(n).map_or(Bps::ZERO, |stage| stage.weight)
    }
}
