//! Stages of the canary's share, as configured.

use crate::plan::guard::Guard;
use crate::time::{Millis, UnixMillis};
use crate::units::Bps;

/// Stages of the canary's share.
#[derive(Debug, Clone, PartialEq)]
pub struct Ramp {
    /// Stages in order; never empty.
    pub stages: Vec<Stage>,
    /// Time at which the first stage begins; `None` if it begins with the first sight of the release.
    pub start: Option<UnixMillis>,
    /// Stops the clock of the stages.
    pub paused: bool,
}

/// One stage of a ramp.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Share of the canary.
    pub weight: Bps,
    /// Least duration of the stage.
    pub duration: Millis,
    /// Least number of the canary's outcomes in the stage.
    pub min_requests: u32,
    /// Guard of the deployment, with the fields that this stage overrides.
    pub guard: Guard,
}

impl Ramp {
    /// Returns the stage at an index, or the last one if a reload has removed that stage; `None` before the start.
    pub fn stage(&self, n: Option<u32>) -> Option<&Stage> {
        let n = usize::try_from(n?).ok()?;
        self.stages.get(n).or(self.stages.last())
    }

    /// Returns the canary's share at a stage; zero before the start.
    pub fn weight(&self, n: Option<u32>) -> Bps {
        self.stage(n).map_or(Bps::ZERO, |stage| stage.weight)
    }
}
