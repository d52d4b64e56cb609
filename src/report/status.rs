//! The document of `GET /status`. Its members are written in the order of the fields here.

use serde::{Deserialize, Serialize};

use crate::keys::health;
use crate::plan::guard::GuardMode;
use crate::rollout::PhaseKind;
use crate::shared::warnings::Condition;
use crate::time::{Millis, UnixMillis};
use crate::units::Hundredths;

/// The status of one Envoy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The time at which the status was read.
    pub now: UnixMillis,
    /// The deployments of all plans in service.
    pub deployments: Vec<DeploymentStatus>,
    /// The key pools of all plans in service.
    pub key_pools: Vec<KeyPoolStatus>,
    /// The warnings that stand, in the order in which they began.
    #[serde(default)]
    pub warnings: Vec<WarningStatus>,
}

/// A condition that rejects nothing and loses something in silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningStatus {
    /// The condition.
    pub what: Condition,
    /// Name of the deployment, if the warning is about one.
    pub deployment: Option<String>,
    /// Id of the version, if the warning is about one.
    pub version: Option<String>,
    /// Time at which it began.
    pub since: UnixMillis,
    /// The condition, its consequence and its cure in one sentence.
    pub text: String,
}

/// The status of one deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// Name of the deployment.
    pub name: String,
    /// Its release.
    pub release: String,
    /// The phase of the worst canary.
    pub phase: PhaseKind,
    /// Index of the ramp's stage; `None` without a ramp and before its start.
    pub stage: Option<u32>,
    /// The versions in the order of the configuration.
    pub versions: Vec<VersionStatus>,
    /// The reason of the phase, in words.
    pub reason: Option<String>,
    /// The time since which the reason holds.
    pub since: Option<UnixMillis>,
    /// The highest evidence against a canary, in percent of a rollback.
    pub evidence: u64,
    /// The consequence of a broken limit.
    pub mode: GuardMode,
    /// How the phase ends, in words; `None` while all canaries are active.
    pub recovery: Option<String>,
    /// Length of the guard's window.
    pub window: Millis,
    /// The ramp, if there is one.
    pub ramp: Option<RampStatus>,
}

/// The status of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Id of the version.
    pub id: String,
    /// Whether it is the stable version.
    pub stable: bool,
    /// Configured share in percent; under a ramp the share of the stage.
    pub weight: Hundredths,
    /// Share in percent that it gets now.
    pub effective_weight: Hundredths,
    /// Judged answers in the window.
    pub requests: u64,
    /// Bad outcomes in the window.
    pub errors: u64,
    /// Bad outcomes in percent of the judged answers.
    pub error_rate: Hundredths,
    /// Time from a request to the headers of its answer, in the window.
    pub latency_ms: LatencyStatus,
    /// Envoy cluster.
    pub cluster: String,
    /// Phase of a canary; `None` for stable.
    pub phase: Option<PhaseKind>,
    /// Evidence against a canary, in percent of a rollback.
    pub evidence: u64,
    /// Epoch of its standing.
    pub epoch: u32,
    /// Judged answers since the release was first seen.
    pub requests_total: u64,
    /// Bad outcomes since the release was first seen.
    pub errors_total: u64,
}

/// Latencies in milliseconds; `None` without a measured answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// Arithmetic mean.
    pub avg: Option<Hundredths>,
    /// Median.
    pub p50: Option<u64>,
    /// 95th percentile.
    pub p95: Option<u64>,
    /// 99th percentile.
    pub p99: Option<u64>,
}

/// The status of a ramp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RampStatus {
    /// Whether the clock of the stages stands still.
    pub paused: bool,
    /// The earliest time at which the next stage begins; `None` if none does, or if the clock stands still.
    pub next_stage_at: Option<UnixMillis>,
    /// The configured stages.
    pub stages: Vec<StageStatus>,
}

/// One stage of a ramp, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStatus {
    /// The canary's share in percent.
    pub weight: Hundredths,
    /// Shortest duration.
    #[serde(rename = "for")]
    pub duration: Millis,
    /// Outcomes of the canary that the stage needs.
    pub min_requests: u32,
}

/// The status of a key pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPoolStatus {
    /// Name of the pool.
    pub name: String,
    /// The keys in the order of the configuration.
    pub keys: Vec<KeyStatus>,
}

/// The status of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Id of the key.
    pub id: String,
    /// An ellipsis and at most the last four characters; empty without a value.
    pub mask: String,
    /// Its status.
    pub status: health::Status,
    /// Its weight; 0 for a key with the same value as another.
    pub weight: u32,
    /// Failed attempts with it; `None` if its use cannot be read.
    pub errors: Option<u64>,
    /// All attempts with it; `None` if its use cannot be read.
    pub requests: Option<u64>,
    /// The end of the last attempt with it.
    pub last_used: Option<UnixMillis>,
    /// The time of its next trial; in the past while a trial is running or until a request asks for it.
    pub until: Option<UnixMillis>,
    /// Whether its value is known.
    pub has_value: bool,
    /// Id of the key of the pool that has the same value and is used in its place.
    pub same_as: Option<String>,
}
