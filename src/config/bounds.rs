//! All bounds of the configuration. The check and the message use the same constant; the guide's tables show them.
//!
//! The guide promises some of these ranges. The others are generous: they only keep out obvious mistakes, such as a cooldown of
//! a year.

use std::ops::RangeInclusive;

use crate::time::Millis;

/// Deployments of a configuration.
pub const DEPLOYMENTS: RangeInclusive<usize> = 1..=1024;
/// Versions of a deployment.
pub const VERSIONS: RangeInclusive<usize> = 1..=16;
/// Key pools: as many as deployments.
pub const POOLS: RangeInclusive<usize> = 0..=1024;
/// Keys of a pool.
pub const KEYS: RangeInclusive<usize> = 1..=256;
/// Stages of a ramp.
pub const STAGES: RangeInclusive<usize> = 1..=100;
/// A list that must not be empty.
pub const SOME: RangeInclusive<usize> = 1..=usize::MAX;
/// A list that may be empty.
pub const ANY: RangeInclusive<usize> = 0..=usize::MAX;

/// Methods of a match: more than HTTP has in use.
pub const METHODS: RangeInclusive<usize> = 1..=32;
/// Paths of a match.
pub const PATHS: RangeInclusive<usize> = 1..=256;
/// Request headers that a version or a pool removes.
pub const REMOVE_HEADERS: RangeInclusive<usize> = 0..=64;
/// Query parameters that a version sets.
pub const QUERY_MAX: usize = 16;
/// Bytes of the name of a query parameter, and of its value.
pub const QUERY_BYTES_MAX: usize = 255;
/// Request headers that a version sets. Envoy takes a hundred in all by default.
pub const SET_HEADERS_MAX: usize = 64;

/// Largest request body that is held to be read.
pub const BODY_LIMIT: RangeInclusive<u64> = 65_536..=67_108_864;
/// Default of `body_limit`.
pub const BODY_LIMIT_DEFAULT: u64 = 8_388_608;
/// Bytes of a model's name. A longer name in a body is not read.
pub const MODEL_BYTES_MAX: usize = 256;
/// Names of models that a version replaces.
pub const MODELS_MAX: usize = 64;
/// Bytes of a member's name.
pub const MEMBER_BYTES_MAX: usize = 64;
/// Bytes of a value that a version sets in a body.
pub const MEMBER_VALUE_BYTES_MAX: usize = 4096;
/// Members of a body that a version sets, drops or renames.
pub const CHANGES: RangeInclusive<usize> = 1..=64;

/// Weight of a key.
pub const KEY_WEIGHT: RangeInclusive<u32> = 0..=1000;
/// Hosts that requests to the admin listener may name.
pub const ADMIN_HOSTS: RangeInclusive<usize> = 0..=64;

/// Failed attempts on a canary after which the next one goes to stable. Envoy's retries rarely exceed three.
pub const FAILOVER_AFTER: RangeInclusive<u32> = 1..=10;
/// Outcomes that a verdict needs. Zero would judge without data; with more than a million there would be no verdict.
pub const MIN_REQUESTS: RangeInclusive<u32> = 1..=1_000_000;
/// Outcomes that a stage needs; zero means that only time counts.
pub const STAGE_MIN_REQUESTS: RangeInclusive<u32> = 0..=1_000_000;
/// Limits on numbers of errors.
pub const ERROR_COUNT: RangeInclusive<u32> = 1..=1_000_000;
/// Faults in a row after which a key is taken out.
pub const KEY_FAULTS: RangeInclusive<u32> = 1..=1000;
/// Statuses in a list of those that refuse a key.
pub const KEY_STATUSES: RangeInclusive<usize> = 1..=16;
/// Statuses that may refuse a key.
pub const KEY_STATUS: RangeInclusive<u16> = 400..=499;
/// Probes in flight.
pub const PROBES: RangeInclusive<u32> = 1..=1000;
/// Successful probes in a row.
pub const SUCCESSES: RangeInclusive<u32> = 1..=1000;
/// Statuses that `errors` may list.
pub const STATUS: RangeInclusive<u32> = 100..=599;

/// Tolerated ratio to stable, in thousandths.
pub const WORSE_THAN_STABLE_MILLI: RangeInclusive<u32> = 1_000..=100_000;
/// Failing requests between false rollbacks.
pub const CONFIDENCE: RangeInclusive<f64> = 1e2..=1e12;

/// The guard's sliding window.
pub const WINDOW: RangeInclusive<Millis> = Millis(1_000)..=Millis(3_600_000);
/// `compare.latency_floor`.
pub const LATENCY_FLOOR: RangeInclusive<Millis> = Millis(0)..=Millis(3_600_000);
/// Latency limits.
pub const LATENCY: RangeInclusive<Millis> = Millis(1)..=Millis(3_600_000);
/// Times for which a key is out of use.
pub const COOLDOWN: RangeInclusive<Millis> = Millis(100)..=Millis(86_400_000);
/// Waits before a probe.
pub const PROBE_AFTER: RangeInclusive<Millis> = Millis(1)..=Millis(86_400_000);
/// Length of a stage: up to a year.
pub const STAGE_FOR: RangeInclusive<Millis> = Millis(0)..=Millis(8_760 * 3_600_000);
/// Longest time of one POST of an alert.
pub const ALERT_TIMEOUT: RangeInclusive<Millis> = Millis(1)..=Millis(60_000);

/// Bytes of a header name, a cookie name, a host and a cluster.
pub const NAME_BYTES_MAX: usize = 255;
