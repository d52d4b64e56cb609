//! The plan: a checked configuration. It is immutable, complete and valid by construction, so that no request can meet a
//! configuration error: references are indices, weights sum to the whole, defaults are filled in.
//!
//! Only [`crate::config::compile`] makes a [`Plan`]; `#[non_exhaustive]` ensures this.

pub mod guard; // limits, comparison and recovery of a deployment, as configured
pub mod index; // finds the few deployments that a request may belong to
pub mod matching; // conditions on hosts, paths and headers, and their evaluation; host and address without port
pub mod model; // models, body conditions and body changes of a deployment with `llm`
pub mod pool; // key pools as configured: cooldowns, limits, secrets
pub mod ramp; // stages of a canary's share
pub mod split; // computes the split, from the versions' weights to the points of each version

use crate::plan::guard::{Guard, Recovery};
use crate::plan::index::Index;
use crate::plan::matching::{BodyCondition, HeaderCondition, Match, ModelPattern};
use crate::plan::model::{Dialect, Llm, Wants};
use crate::plan::pool::KeyPool;
use crate::plan::ramp::Ramp;
use crate::plan::split::Split;
use crate::time::Millis;
use crate::units::Bps;

/// Everything the router needs, compiled from one configuration document.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan {
    /// `1..=1024`, in configuration order. A request belongs to the first with a match that holds.
    pub deployments: Vec<Deployment>,
    /// Finds the deployments that a request may belong to.
    pub index: Index,
    /// Key pools; versions refer to them by index.
    pub pools: Vec<KeyPool>,
    /// Request header that carries the chosen cluster to the route; lower case.
    pub cluster_header: String,
    /// Response header that names the version that served; lower case; `None` for none.
    pub version_header: Option<String>,
    /// A deployment reads request bodies, or models in paths.
    pub reads_bodies: bool,
    /// Receiver of alerts.
    pub alerts: Option<Alerts>,
}

/// One gray release: a stable version and its canaries.
#[derive(Debug)]
#[non_exhaustive]
pub struct Deployment {
    /// Name; unique in the plan, `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`.
    pub name: String,
    /// Identity of this rollout. All state belongs to a release. `^[A-Za-z0-9._-]{1,63}$`.
    pub release: String,
    /// Conditions of the requests that belong here.
    pub matches: Match,
    /// Index into `versions` of the stable version, to which traffic falls back.
    pub stable: usize,
    /// `1..=16` versions, in configuration order.
    pub versions: Vec<Version>,
    /// The map from points to versions, by the configured weights or those of the ramp's first stage.
    pub split: Split,
    /// Rules, tried before the split; the first that matches wins.
    pub rules: Vec<Rule>,
    /// Identities that keep their version; `None` if there are none.
    pub sticky: Option<Sticky>,
    /// Salt of the sticky hash: the configured one, or `name/release`.
    pub salt: String,
    /// Number of failed attempts on a canary after which the next one goes to stable; `None` for never.
    pub failover: Option<u32>,
    /// Limits that make a canary fail. If the document has no guard, only the comparison with stable is on.
    pub guard: Guard,
    /// Behaviour after a rollback.
    pub recovery: Recovery,
    /// Stages of the canary's share. With a ramp there are exactly two versions, and they have no weights.
    pub ramp: Option<Ramp>,
    /// LLM awareness; `None` for off.
    pub llm: Option<Llm>,
    /// The parts of a request body that it reads. Nothing without `llm`.
    pub wants: Wants,
}

impl Deployment {
    /// Returns the guard in effect at a stage of the ramp. Before the ramp starts, and without one, it is the deployment's own.
    pub fn guard_at(&self, stage: Option<u32>) -> &Guard {
        let staged = self.ramp.as_ref().and_then(|ramp| ramp.stage(stage));
        staged.map_or(&self.guard, |stage| &stage.guard)
    }
}

/// One upstream cluster with its share, key pool and headers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Version {
    /// Name; unique in the deployment.
    pub id: String,
    /// Configured share; `None` under a ramp.
    pub weight: Option<Bps>,
    /// Envoy cluster.
    pub cluster: String,
    /// Index into [`Plan::pools`].
    pub pool: Option<usize>,
    /// `:authority` of requests to this version; `None` leaves the client's.
    pub host: Option<String>,
    /// Replacement of the path's beginning.
    pub rewrite_prefix: Option<PrefixRewrite>,
    /// Request headers set for this version; names in lower case.
    pub set_headers: Vec<(String, String)>,
    /// The model and the changes of the body.
    pub dialect: Dialect,
    /// Query parameters set for this version.
    pub query: Vec<QueryParameter>,
    /// Request headers removed for this version; names in lower case.
    pub remove_headers: Vec<String>,
}

/// A query parameter of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryParameter {
    /// Name.
    pub name: String,
    /// `name=value` as it stands in the path, escaped where that is needed.
    pub pair: String,
}

impl QueryParameter {
    /// Makes a parameter from its name and its value as text.
    pub fn new(name: String, value: &str) -> QueryParameter {
        let pair = format!("{}={}", escaped(&name), escaped(value));
        QueryParameter { name, pair }
    }
}

/// Escapes all bytes that have a meaning in a query, or are not allowed there.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$'()*,;:@/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A replacement of a path prefix: a path that begins with the segments of `from` begins with `to` instead. Any other path stays.
/// [`crate::route::rewritten_path`] applies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRewrite {
    /// Prefix of the client's path.
    pub from: String,
    /// Prefix of the upstream's path.
    pub to: String,
}

/// A rule: sends matching requests to a version, before the split decides.
#[derive(Debug)]
pub struct Rule {
    /// Conditions that must all hold.
    pub headers: Vec<HeaderCondition>,
    /// Patterns for the model, of which one must match; empty holds for every request.
    pub models: Vec<ModelPattern>,
    /// Conditions on the body, which must all hold.
    pub body: Vec<BodyCondition>,
    /// Index into the deployment's versions.
    pub version: usize,
    /// Share of the identities that the rule takes; the others go on to later rules and the split.
    pub percent: Bps,
    /// `after_rollback: keep`: the rule applies even while its version is rolled back.
    pub keep_after_rollback: bool,
}

/// Sources of sticky identities, in order of preference. The first one that a request has is its identity.
#[derive(Debug)]
pub struct Sticky {
    /// Sources; never empty.
    pub on: Vec<IdentitySource>,
}

/// The source of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// The value of a request header, if it is not empty. The name is in lower case.
    Header(String),
    /// The value of a cookie, if it is not empty. The name is case-sensitive.
    Cookie(String),
    /// The client's address without the port.
    ClientAddress,
    /// A text of the body: a top-level member, or one of a top-level object.
    Body(BodyPath),
    /// The conversation: a hash of the system prompt and the first message of a user.
    Conversation,
}

/// The place of a text in a request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyPath {
    /// A top-level member.
    Top(String),
    /// A member one level down, as parent and name.
    Inner(String, String),
}

/// The receiver of alerts: each transition is POSTed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Envoy cluster.
    pub cluster: String,
    /// `:authority`.
    pub host: String,
    /// `:path`.
    pub path: String,
    /// Longest time of one try.
    pub timeout: Millis,
}
