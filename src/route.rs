//! Routing: chooses the version of a request, reads its sticky identity, rewrites its path. In order of precedence:
//!
//! 1. [`candidates`] and [`Candidates::find`] take the first deployment with a match that holds.
//! 2. [`choose`] takes the first rule that applies: its conditions hold, and its percentage includes this identity.
//! 3. Without such a rule, [`choose`] asks the split, at the point of the sticky identity or at a random point.
//!
//! Stable replaces a version that is rolled back, except for rules with `keep`. [`rewritten_path`] rewrites the path for the
//! chosen version.

mod path; // the path of an attempt: prefix, query parameters

use std::borrow::Cow;
use std::cell::RefCell;

use crate::hash::hash;
use crate::headers::Headers;
use crate::llm::api::Family;
use crate::llm::request::Seen;
use crate::plan::matching::{Asked, all_hold, matches};
use crate::plan::split::Split;
use crate::plan::{BodyPath, Deployment, IdentitySource, Plan, Rule};
use crate::units::{Bps, Point};

pub use path::rewritten_path;

/// The inputs of the decision.
pub struct RequestFacts<'a> {
    /// Request headers.
    pub headers: &'a Headers,
    /// Reads the client's address without port. Called only if a sticky source or a rule's percentage needs it: the host call
    /// costs as much as the rest of the decision.
    pub client_address: &'a dyn Fn() -> Option<Vec<u8>>,
    /// Uniform random bits.
    pub random: u64,
    /// The body, as the deployment reads it.
    pub asked: Asked<'a>,
}

/// The decision about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index into the deployment's versions.
    pub version: usize,
    /// Set if a rule decided, not the split. Such traffic is no random sample, so it is not compared.
    pub forced: bool,
    /// Set if the version is probing, and this request may be a probe.
    pub probe: bool,
    /// Hash of the sticky identity, if the request has one.
    pub identity: Option<u64>,
}

/// The deployments that a request may belong to, as far as its headers tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Those that also ask for the body, in configuration order.
    pub asking: Vec<usize>,
    /// The first one that takes the request whatever its body says. It stands behind all of `asking`.
    pub taker: Option<usize>,
}

impl Candidates {
    /// Returns the candidates in configuration order.
    pub fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.asking.iter().copied().chain(self.taker)
    }

    /// Returns the deployment that takes the request.
    pub fn find(&self, plan: &Plan, content: Content<'_>) -> Option<usize> {
        let takes =
            |n: &usize| plan.deployments.get(*n).is_some_and(|d| d.matches.holds_for(content.asked(d)));
        self.asking.iter().copied().find(takes).or(self.taker)
    }
}

/// Returns the deployments with conditions on host, path and headers that hold, up to the first without other conditions.
pub fn candidates(plan: &Plan, headers: &Headers) -> Candidates {
    let asking = RefCell::new(Vec::new());
    let taker = plan.index.first(headers, &|n| {
        let holding = plan.deployments.get(n).filter(|d| matches(&d.matches, headers));
        let asks = holding.is_some_and(|d| d.matches.asks_body());
        if asks && let Ok(mut asking) = asking.try_borrow_mut() {
            asking.push(n);
        }
        holding.is_some() && !asks
    });
    let mut asking = asking.into_inner();
    // The index looks a deployment up by each of its hosts, and not in order.
    asking.sort_unstable();
    asking.dedup();
    asking.retain(|n| taker.is_none_or(|taker| *n < taker));
    Candidates { asking, taker }
}

/// The part of a request that only its body tells, or, with Google's API, its path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Content<'a> {
    /// Model of the path.
    pub path_model: Option<&'a str>,
    /// Body, as far as it was read; `None` for a request without a JSON body.
    pub body: Option<&'a Seen>,
}

impl<'a> Content<'a> {
    /// Returns the content as a deployment reads it.
    pub fn asked(self, deployment: &Deployment) -> Asked<'a> {
        let Some(llm) = &deployment.llm else { return Asked::default() };
        let of_body = || self.body.and_then(|body| body.text("model"));
        let model = match llm.family {
            Family::Auto => self.path_model.or_else(of_body),
            Family::Gemini => self.path_model,
            Family::OpenAi | Family::Anthropic => of_body(),
        };
        Asked { model, body: self.body }
    }
}

/// A version's right to traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Traffic by weight and by rule.
    Open,
    /// Only probes.
    Probe,
    /// No traffic.
    Shut,
}

/// Chooses the version of a request. `split` has the shares in effect. `access` returns a canary's right to traffic; stable
/// always has it. A choice with `probe` still needs a free place as a probe.
pub fn choose(
    deployment: &Deployment,
    split: &Split,
    facts: &RequestFacts<'_>,
    access: &dyn Fn(usize) -> Access,
) -> Choice {
    let identity = sticky_identity(deployment, facts);
    let hashed = identity.as_deref().map(|identity| hash(&[deployment.salt.as_bytes(), identity]));
    for rule in &deployment.rules {
        let holds = all_hold(&rule.headers, facts.headers)
            && facts.asked.matches_models(&rule.models)
            && facts.asked.meets(&rule.body);
        if holds && includes(deployment, rule, identity.as_deref(), facts) {
            let keeps = rule.version == deployment.stable || rule.keep_after_rollback;
            let access = if keeps { Access::Open } else { access(rule.version) };
            let version = if access == Access::Shut { deployment.stable } else { rule.version };
            return Choice { version, forced: true, probe: access == Access::Probe, identity: hashed };
        }
    }
    let point = Point::from_random(hashed.unwrap_or(facts.random));
    let picked = split.pick(point);
    let access = if picked == deployment.stable { Access::Open } else { access(picked) };
    let version = if access == Access::Shut { deployment.stable } else { picked };
    Choice { version, forced: false, probe: access == Access::Probe, identity: hashed }
}

/// Returns whether the rule's percentage includes this request. The rule's version is part of the salt, so that the clients in a
/// rule's 10 % are not the clients in the split's first 10 %.
fn includes(deployment: &Deployment, rule: &Rule, identity: Option<&[u8]>, facts: &RequestFacts<'_>) -> bool {
    if rule.percent == Bps::ALL {
        return true;
    }
    let version = deployment.versions.get(rule.version).map_or("", |version| version.id.as_str());
    let of = |identity: &[u8]| hash(&[deployment.salt.as_bytes(), b"rule", version.as_bytes(), identity]);
    let bits = match identity {
        Some(identity) => of(identity),
        None => (facts.client_address)().map_or(facts.random, |address| of(&address)),
    };
    Point::from_random(bits).get() < rule.percent.get()
}

/// Reads the sticky identity of a request: the first of the deployment's sources that has a value.
fn sticky_identity<'a>(deployment: &Deployment, facts: &RequestFacts<'a>) -> Option<Cow<'a, [u8]>> {
    deployment.sticky.as_ref()?.on.iter().find_map(|source| identity_from(source, facts))
}

fn identity_from<'a>(source: &IdentitySource, facts: &RequestFacts<'a>) -> Option<Cow<'a, [u8]>> {
    let found = match source {
        IdentitySource::Header(name) => facts.headers.get(name),
        IdentitySource::Cookie(name) => cookie(facts.headers, name).map(Cow::Borrowed),
        IdentitySource::ClientAddress => (facts.client_address)().map(Cow::Owned),
        IdentitySource::Body(path) => {
            let text = facts.asked.body.and_then(|body| match path {
                BodyPath::Top(name) => body.text(name),
                BodyPath::Inner(parent, name) => body.inner(parent, name),
            });
            text.map(|text| Cow::Borrowed(text.as_bytes()))
        }
        IdentitySource::Conversation => facts
            .asked
            .body
            .and_then(Seen::conversation)
            .map(|conversation| Cow::Owned(conversation.to_le_bytes().to_vec())),
    };
    found.filter(|value| !value.is_empty())
}

/// Returns the value of the first cookie of this name, without quotes.
fn cookie<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    headers.all("cookie").flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
        Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers::new(pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect())
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let h = headers(&[("cookie", "xuid=1; uidx=2;uid = \"me\" ; uid=later"), ("cookie", "b=3")]);
        assert_eq!(cookie(&h, "uid"), Some(b"me".as_slice()));
        assert_eq!(cookie(&h, "b"), Some(b"3".as_slice()));
        assert_eq!(cookie(&h, "c"), None);
    }
}
