//! Every key of shared data, and the schema byte of its value.
//!
//! If the layout of a value changes, its key gets another number or its value another schema byte. During an upgrade workers of
//! the old and of the new module run side by side, and neither may take the other's bytes for its own.

/// Statistics of a version, by deployment, release and version.
pub const STATS: &str = "bellwether/1/stats/";
/// Comparison of a version with stable, by deployment, release and version. Its value has the schema
/// [`COMPARISON_SCHEMA`].
pub const COMPARE: &str = "bellwether/1/compare/";
/// Standings of a release, by deployment and release.
pub const STANDINGS: &str = "bellwether/1/standings/";
/// Health of the keys of a pool, by pool. Number 1 belonged to builds that did not count broken streams, number
/// 2 to builds without refusals that nothing proves.
pub const KEYS: &str = "bellwether/3/keys/";
/// Use of the keys of a pool, by pool. Number 1 belonged to builds without the times of good answers.
pub const USAGE: &str = "bellwether/2/usage/";
/// The last transitions.
pub const EVENTS: &str = "bellwether/1/events";
/// The last events of pools. They are apart, so that an exhausted pool does not push out the reason of a rollback.
pub const POOL_EVENTS: &str = "bellwether/1/pool-events";
/// The last rejected configurations. They are apart for the same reason: a control plane may send one every second.
pub const REJECTIONS: &str = "bellwether/1/rejections";
/// The warnings that stand.
pub const WARNINGS: &str = "bellwether/1/warnings";
/// The last warnings as events: apart, like the rejections.
pub const WARNING_EVENTS: &str = "bellwether/1/warning-events";
/// The gauges of the latest document, by filter name.
pub const GAUGES: &str = "bellwether/1/gauges/";
/// Secrets documents.
pub const DOCUMENTS: &str = "bellwether/1/documents";
/// The census of the VMs.
pub const CENSUS: &str = "bellwether/1/census";
/// Hash of the configuration that was counted last, by filter name. The value is the hash itself, without a schema byte.
pub const CONFIGURATION: &str = "bellwether/1/configuration/";

/// Schema byte of most values.
pub const SCHEMA: u8 = 1;
/// Schema byte of comparisons. 1 had one sketch of clients for each signal; 2 has one for each score.
pub const COMPARISON_SCHEMA: u8 = 2;
