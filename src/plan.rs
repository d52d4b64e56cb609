//! The plan: a configuration that has been checked. Immutable, complete, and valid by construction, so that nothing on
//! the request path can meet a configuration error: references are indices, weights sum to the whole, defaults are filled in.
//!
//! A [`Plan`] comes from [`crate::config::compile`] and from nowhere else (`#[non_exhaustive]` sees to it).

pub mod guard;
pub mod index;
pub mod matching;
pub mod pool;
pub mod ramp;
pub mod split;

use crate::plan::guard::{Guard, Recovery};
use crate::plan::index::Index;
use crate::plan::matching::{HeaderCondition, Match};
use crate::plan::pool::KeyPool;
use crate::plan::ramp::Ramp;
use crate::plan::split::Split;
use crate::time::Millis;
use crate::units::Bps;

/// Everything the router needs, compiled from one configuration document.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan {
    /// In configuration order: the first whose match holds takes the request. `1..=1024` of them.
    pub deployments: Vec<Deployment>,
    /// Where to look for a request's deployment.
    pub index: Index,
    /// Key pools; versions refer to them by index.
    pub pools: Vec<KeyPool>,
    /// Request header that carries the chosen cluster to the route; lower case.
    pub cluster_header: String,
    /// Response header that names the version which served; `None` for none; lower case.
    pub version_header: Option<String>,
    /// Where transitions are POSTed.
    pub alerts: Option<Alerts>,
}

/// One gray release: a stable version and its canaries.
#[derive(Debug)]
#[non_exhaustive]
pub struct Deployment {
    /// Unique in the plan, `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`.
    pub name: String,
    /// Identity of this rollout; state belongs to it. `^[A-Za-z0-9._-]{1,63}$`.
    pub release: String,
    /// Which requests belong here.
    pub matches: Match,
    /// Index into `versions` of the version traffic falls back to.
    pub stable: usize,
    /// `1..=16`, in configuration order.
    pub versions: Vec<Version>,
    /// How points map to versions: the configured weights, or those of the ramp's first stage.
    pub split: Split,
    /// Before the split; the first that matches wins.
    pub rules: Vec<Rule>,
    /// Identities that keep their version, if any are configured.
    pub sticky: Option<Sticky>,
    /// The effective salt of the sticky hash, whether configured or defaulted to `name/release`.
    pub salt: String,
    /// After how many failed attempts on a canary the next one goes to stable; `None` for never.
    pub failover: Option<u32>,
    /// What makes a canary fail. Present also when the document has none: then all limits are off.
    pub guard: Guard,
    /// What happens after a rollback.
    pub recovery: Recovery,
    /// Stages of the canary's share; then there are exactly two versions, and they carry no weights.
    pub ramp: Option<Ramp>,
}

impl Deployment {
    /// The guard in effect at a stage of the ramp; the deployment's own before it starts, and without a ramp.
    pub fn guard_at(&self, stage: Option<u32>) -> &Guard {
        let staged = self.ramp.as_ref().and_then(|ramp| ramp.stage(stage));
        staged.map_or(&self.guard, |stage| &stage.guard)
    }
}

/// One upstream cluster with its share, key pool and headers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Version {
    /// Unique in the deployment.
    pub id: String,
    /// Configured share; `None` under a ramp.
    pub weight: Option<Bps>,
    /// Envoy cluster.
    pub cluster: String,
    /// Index into [`Plan::pools`].
    pub pool: Option<usize>,
    /// `:authority` for this version.
    pub host: Option<String>,
    /// Replacement of the path's beginning.
    pub rewrite_prefix: Option<PrefixRewrite>,
    /// Request headers set for this version; names in lower case.
    pub set_headers: Vec<(String, String)>,
}

/// A path that begins with `from` begins with `to` instead; any other path stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRewrite {
    /// What the path must begin with.
    pub from: String,
    /// What it begins with afterwards.
    pub to: String,
}

/// A rule sends matching requests to a version before weights are asked.
#[derive(Debug)]
pub struct Rule {
    /// All must hold; never empty.
    pub headers: Vec<HeaderCondition>,
    /// Index into the deployment's versions.
    pub version: usize,
    /// Share of the identities that the rule takes; the rest falls through to later rules and the weights.
    pub percent: Bps,
    /// `after_rollback: keep`: the rule still holds while its version is rolled back.
    pub keep_after_rollback: bool,
}

/// Sticky identities, in order of preference; the first one present in the request wins.
#[derive(Debug)]
pub struct Sticky {
    /// Never empty.
    pub on: Vec<IdentitySource>,
}

/// Where an identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// The value of a request header, not empty; lower-case name.
    Header(String),
    /// The value of a cookie, not empty; names are case-sensitive.
    Cookie(String),
    /// The downstream address without the port.
    ClientAddress,
}

/// Where transitions are POSTed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Envoy cluster.
    pub cluster: String,
    /// `:authority`.
    pub host: String,
    /// `:path`.
    pub path: String,
    /// How long one try may take.
    pub timeout: Millis,
}
