//! Limits that make a canary fail, and the behaviour after a rollback, as configured.

use serde::{Deserialize, Serialize};

use crate::time::Millis;
use crate::units::Bps;

/// The effect of a breached limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardMode {
    /// Roll back.
    Enforce,
    /// Only count and report that the canary would have been rolled back.
    Observe,
}

/// The effect if stable breaches the same limit in the same window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedOutage {
    /// Hold the canary: keep its share, stop its ramp, and report.
    Hold,
    /// Roll back.
    Rollback,
}

/// Conditions of a rollback. A limit that is `None` is off.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    /// Enforce or observe.
    pub mode: GuardMode,
    /// Outcomes that count as bad.
    pub errors: BadOutcomes,
    /// Length of the sliding window, `1s..=1h`.
    pub window: Millis,
    /// Outcomes in the window that limits on rates and latencies need.
    pub min_requests: u32,
    /// Share of bad outcomes above which the canary fails.
    pub max_error_rate: Option<Bps>,
    /// Bad outcomes in the window at which the canary fails.
    pub max_errors: Option<u32>,
    /// Bad outcomes in a row at which the canary fails.
    pub max_consecutive_errors: Option<u32>,
    /// Latencies (from the request to the response headers) above which the canary fails.
    pub max_latency: LatencyLimits,
    /// Sequential comparison with stable; `None` if it is off.
    pub compare: Option<Compare>,
    /// Effect of trouble that stable shares.
    pub shared_outage: SharedOutage,
}

/// Answers and faults that count as bad.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BadOutcomes {
    /// Any status 500…599.
    pub server_errors: bool,
    /// Any status 400…499 except 429 and, with a pool's key, 401 and 403. Those judge the key, unless they are in `statuses`.
    pub client_errors: bool,
    /// Single statuses, ascending, `100..=599`.
    pub statuses: Vec<u16>,
    /// The connection failed, or the stream was reset before or during the response.
    pub reset: bool,
    /// Envoy gave up waiting.
    pub timeout: bool,
}

/// Latency limits over the window; each may be absent.
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
    /// Least difference between the canary's rate and stable's.
    pub min_difference: Bps,
    /// Least rate of the canary.
    pub floor: Bps,
    /// Latency below which no response counts as slow. Where all responses take a few milliseconds, stable's 95th percentile
    /// only shows how busy the machine is.
    pub latency_floor: Millis,
}

/// The behaviour after a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Stay rolled back until the release changes or an operator resumes.
    Hold,
    /// Try the canary again with probes.
    Probe(Probe),
}

/// Parameters of probing a rolled-back canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Wait before the first probes.
    pub after: Millis,
    /// Longest wait; it doubles after each failed round.
    pub max_after: Millis,
    /// Most probes in flight at once.
    pub max_in_flight: u32,
    /// Successful probes after which the canary is active again.
    pub successes: u32,
}
