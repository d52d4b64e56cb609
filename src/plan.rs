//! The plan: a configuration that has been checked. Immutable, complete, and valid by construction, so that nothing on
//! the request path can meet a configuration error: references are indices, weights sum to the whole, defaults are filled in.
//!
//! A [`Plan`] comes from [`crate::config::compile`] and from nowhere else (`#[non_exhaustive]` sees to it).

pub mod index;
pub mod split;

use crate::plan::index::Index;
use crate::plan::split::Split;
use crate::time::{Millis, UnixMillis};
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
        let staged = self.ramp.as_ref().and_then(|ramp| crate::rollout::ramp::stage(ramp, stage));
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

/// Conditions that must all hold; an absent part holds for every request.
#[derive(Debug, Default)]
pub struct Match {
    /// Any of these; empty holds for all.
    pub hosts: Vec<HostPattern>,
    /// The path, query included, begins with this.
    pub path_prefix: Option<String>,
    /// All of these.
    pub headers: Vec<HeaderCondition>,
}

/// A host as a match names it; lower case. The request's port is ignored unless the pattern has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `api.example.com`
    Exact(String),
    /// `*.example.com`, held as `.example.com`: any host that ends so and has at least one label more.
    Suffix(String),
}

/// A condition on one request header. A header sent several times is joined by `,` as HTTP has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Lower case.
    pub name: String,
    /// What the value must be.
    pub test: HeaderTest,
    /// The condition holds when the test does not.
    pub invert: bool,
}

/// What a header's value must be. An absent header fails every test but `Present(false)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    /// Equal, byte by byte.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Has within.
    Contains(String),
    /// Equal to one of these; never empty.
    OneOf(Vec<String>),
    /// Present (true) or absent (false), whatever the value.
    Present(bool),
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

/// A weighted pool of API keys.
#[derive(Debug)]
#[non_exhaustive]
pub struct KeyPool {
    /// Unique in the plan.
    pub name: String,
    /// Request header that carries the key; lower case.
    pub header: String,
    /// Written before the key.
    pub prefix: String,
    /// `1..=256`; at least one has a weight above 0.
    pub keys: Vec<Key>,
    /// Where the key is put in.
    pub inject: Inject,
    /// 429: first cooldown, and the bound of its doubling.
    pub rate_limited: (Millis, Millis),
    /// 401 and 403: after how many in a row, for how long.
    pub rejected: (u32, Millis),
    /// Bad outcomes: after how many in a row, for how long.
    pub failing: (u32, Millis),
    /// Same identity, same key while it is usable.
    pub sticky: bool,
}

/// Where the key is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inject {
    /// By the `keys` role, once per attempt.
    Attempt,
    /// By the `router`, once per request.
    Request,
}

/// One API key of a pool.
#[derive(Debug)]
#[non_exhaustive]
pub struct Key {
    /// Unique in the pool.
    pub id: String,
    /// The value, or the name under which the `keys` role's document will bring it.
    pub value: KeyValue,
    /// `0..=1000`.
    pub weight: u32,
    /// Keys of one group cool together.
    pub quota_group: Option<String>,
}

/// A key's value, or where it will come from.
pub enum KeyValue {
    /// Known: inline or from the environment; trimmed, without a doubled prefix.
    Known(Secret),
    /// In the `keys` role's secrets document under this name; until it is there the key is disabled.
    Named(String),
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyValue::Known(_) => f.write_str("Known(<secret>)"),
            KeyValue::Named(name) => write!(f, "Named({name:?})"),
        }
    }
}

/// A secret. It implements neither `Debug` nor `Display` nor `Serialize`, so it cannot slip into a log line.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a key as people paste it: white space around it and one leading copy of `prefix` (in any case, with or without
    /// the white space after it) are removed, so that `Bearer Bearer sk-…` is never sent.
    pub fn clean(raw: &str, prefix: &str) -> Secret {
        let value = raw.trim();
        let scheme = prefix.trim();
        let rest = match (scheme.is_empty(), value.split_at_checked(scheme.len())) {
            (false, Some((head, rest))) if head.eq_ignore_ascii_case(scheme) => {
                // `Bearerxyz` is a key, `Bearer xyz` is a doubled prefix; a prefix without a space has no such border.
                let border =
                    prefix.len() == scheme.len() || rest.is_empty() || rest.starts_with(char::is_whitespace);
                if border { rest.trim_start() } else { value }
            }
            _ => value,
        };
        Secret(rest.to_owned())
    }

    /// The value as it goes into a header, after `prefix`.
    pub fn prefixed(&self, prefix: &str) -> Secret {
        Secret([prefix, &self.0].concat())
    }

    /// The value itself. Only for writing it into a request header.
    pub fn expose(&self) -> &str {
        &self.0
    }
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
