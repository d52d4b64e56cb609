//! The limits that make a canary fail, and what follows.

use crate::time::Millis;
use crate::units::Bps;

/// What a breach leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardMode {
    /// Roll back.
    Enforce,
    /// Count and report what would have happened.
    Observe,
}

/// What happens when stable breaches the same limit in the same window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedOutage {
    /// Do not blame the canary; freeze and report.
    Hold,
    /// Roll back all the same.
    Rollback,
}

/// When a canary is rolled back. Limits that are `None` are off.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    /// Enforce or observe.
    pub mode: GuardMode,
    /// What is a bad outcome.
    pub errors: BadOutcomes,
    /// Length of the sliding window, `1s..=1h`.
    pub window: Millis,
    /// Limits on rates and latencies are judged only with this many outcomes in the window.
    pub min_requests: u32,
    /// Share of bad outcomes above which the canary fails.
    pub max_error_rate: Option<Bps>,
    /// Bad outcomes in the window at which the canary fails.
    pub max_errors: Option<u32>,
    /// Bad outcomes in a row at which the canary fails.
    pub max_consecutive_errors: Option<u32>,
    /// Latency (request seen → response headers) above which the canary fails.
    pub max_latency: LatencyLimits,
    /// Sequential comparison with stable; `None` when switched off.
    pub compare: Option<Compare>,
    /// Shared trouble.
    pub shared_outage: SharedOutage,
}

/// Which answers and faults count as bad.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BadOutcomes {
    /// Any status 500…599.
    pub server_errors: bool,
    /// Any status 400…499, except 429 and a pool key's 401 and 403, which are the key's matter unless listed by number.
    pub client_errors: bool,
    /// Single statuses, ascending, `100..=599`.
    pub statuses: Vec<u16>,
    /// The connection failed, or the stream was reset before or during the response.
    pub reset: bool,
    /// Envoy gave up waiting.
    pub timeout: bool,
}

/// Latency limits over the window; each optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencyLimits {
    /// Arithmetic mean.
    pub avg: Option<Millis>,
    /// Median.
    pub p50: Option<Millis>,
    /// 95th percentile.
    pub p95: Option<Millis>,
    /// 99th percentile.
    pub p99: Option<Millis>,
}

/// Parameters of the sequential comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compare {
    /// Tolerated ratio of the canary's bad rate to stable's, in thousandths, `1_000..=100_000` (1.5 is 1 500).
    pub worse_than_stable_milli: u32,
    /// Mean number of failing requests between false rollbacks, `1e2..=1e12`.
    pub confidence: f64,
    /// The canary's rate must exceed stable's by this much.
    pub min_difference: Bps,
    /// The canary's rate must be at least this.
    pub floor: Bps,
    /// A response faster than this is never a slow one: where everything answers in a few milliseconds, stable's 95th percentile
    /// tells how busy the machine is.
    pub latency_floor: Millis,
}

/// What follows a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Rolled back until the release changes or an operator resumes.
    Hold,
    /// Back in by probing.
    Probe(Probe),
}

/// How a rolled-back canary is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Wait before the first probe.
    pub after: Millis,
    /// The wait doubles after a failed probe up to this.
    pub max_after: Millis,
    /// Probes in flight at once.
    pub max_in_flight: u32,
    /// Successful probes that reopen the canary.
    pub successes: u32,
}
