//! Puts a plan in service: whatever was accepted must route any request, and show no key while it does.

use arbitrary::{Result, Unstructured};
use bellwether::config::secrets;
use bellwether::engine::Engine;
use bellwether::headers::Headers;
use bellwether::keys::key_set::KeySet;
use bellwether::keys::pool::{KeyQuery, Pick, Pool, Pools};
use bellwether::outcome::blame::Event;
use bellwether::outcome::{Outcome, classify, ending};
use bellwether::plan::matching::Asked;
use bellwether::plan::matching::{HeaderCondition, HeaderTest, HostPattern};
use bellwether::plan::{Deployment, IdentitySource, Plan};
use bellwether::route::{Access, Content, RequestFacts, candidates, choose, rewritten_path};
use bellwether::shared::turn::Turn;
use bellwether::time::{Micros, Now, Span, UnixMillis};

use super::store::Memory;

/// 2026-11-20T10:00:00Z.
pub const WALL: u64 = 1_795_168_800_000;

/// A moment on both clocks.
pub fn now(mono: u64) -> Now {
    Now { mono: Micros(mono), wall: UnixMillis(WALL + mono / 1000) }
}

/// A few requests, of which many meet the plan's conditions.
pub fn routes_anything(plan: &Plan, u: &mut Unstructured<'_>) -> Result<()> {
    assert!(!format!("{plan:?}").contains(super::samples::MARK), "a plan shows no key");
    let (store, mut engine, mut pools) = (Memory::default(), Engine::default(), Pools::default());
    let bindings = engine.attach(plan);
    let named = secrets(br#"{"secrets": {"openai-2": "sk-SECRET-two", "three": "sk-SECRET-three"}}"#);
    let named = named.ok().unwrap_or_default();
    let key_sets: Vec<KeySet> = plan.pools.iter().map(|pool| KeySet::new(pool, &named)).collect();
    let mut at = 1_000_000u64;
    for _ in 0..8 {
        at += u64::from(u.arbitrary::<u16>()?) * 1000;
        let headers = headers(plan, u)?;
        let address = u.arbitrary::<bool>()?.then(|| b"10.0.0.1".to_vec());
        let random = u.arbitrary()?;
        let facts = RequestFacts {
            headers: &headers,
            client_address: &|| address.clone(),
            random,
            asked: Asked::default(),
        };
        let Some(n) = candidates(plan, &headers).find(plan, Content::default()) else { continue };
        let mut turn = Turn::new(&store, now(at));
        let (deployment, binding) = (&plan.deployments[n], &bindings[n]);
        let shut: u16 = u.arbitrary()?;
        permitted(deployment, &facts, shut);
        let assigned = binding.assign(deployment, &facts, &mut turn);
        let version = &deployment.versions[assigned.choice.version];
        if let Some(path) = headers.get(":path") {
            rewritten_path(version, &path);
        }
        if let Some(pool) = version.pool {
            let (held, keys) = (pools.attach(&plan.pools[pool].name), &key_sets[pool]);
            let identity = assigned.choice.identity;
            let query = KeyQuery { tried: &[], identity, random, suspects: true };
            let pool = Pool { config: &plan.pools[pool], keys };
            let pick = held.with_mut(|state| state.pick(pool, query, &mut turn)).unwrap();
            if let Pick::Key(key) = pick {
                assert!(keys.header_value(key).is_some(), "a key that is picked has a value");
            }
        }
        let errors = &deployment.guard_at(assigned.stage).errors;
        let status: u16 = u.arbitrary()?;
        let refusal = version.pool.and_then(|pool| plan.pools[pool].refusal(status));
        let outcome = classify(errors, Some(status), ending(u.arbitrary()?, true), refusal);
        let event = Event::Answered { outcome, latency: Some(Span(u.arbitrary::<u32>()?.into())) };
        binding.record(deployment, &assigned, event, &mut turn);
        binding.finish(deployment, &assigned, Some(outcome == Outcome::Good), &mut turn);
        binding.tick(deployment, &mut turn);
        let shares: u32 = binding.effective_weights(deployment).iter().map(|share| u32::from(*share)).sum();
        assert_eq!(shares, 10_000, "of {}", deployment.name);
    }
    Ok(())
}

/// A choice with some of the versions shut: never one of those, unless a rule says `keep`, and always the same.
pub fn permitted(deployment: &Deployment, facts: &RequestFacts<'_>, shut: u16) {
    let access = |version: usize| if shut >> (version % 16) & 1 == 1 { Access::Shut } else { Access::Open };
    let choice = choose(deployment, &deployment.split, facts, &access);
    assert!(choice.version < deployment.versions.len());
    let keeps =
        deployment.rules.iter().any(|rule| rule.version == choice.version && rule.keep_after_rollback);
    assert!(
        choice.version == deployment.stable
            || access(choice.version) == Access::Open
            || (choice.forced && keeps),
        "a version that is shut serves"
    );
    assert_eq!(choose(deployment, &deployment.split, facts, &access), choice);
}

/// Headers of which many are what the plan asks about.
fn headers(plan: &Plan, u: &mut Unstructured<'_>) -> Result<Headers> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    let deployment = u.choose(&plan.deployments)?;
    if let Some(pattern) = deployment.matches.hosts.first() {
        let host = match pattern {
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Suffix(suffix) => format!("a{suffix}"),
        };
        pairs.push((":authority".to_owned(), host.into_bytes()));
    }
    let path = deployment.matches.path_prefix.clone().unwrap_or_else(|| "/v1/chat".to_owned());
    pairs.push((":path".to_owned(), path.into_bytes()));
    let meant = u.arbitrary::<u8>()?;
    for condition in &deployment.matches.headers {
        pairs.extend(meeting(condition));
    }
    for rule in deployment.rules.iter().skip(usize::from(meant & 3)).take(1) {
        pairs.extend(rule.headers.iter().filter_map(meeting));
    }
    if let Some(sticky) = &deployment.sticky {
        for source in sticky.on.iter().skip(usize::from(meant >> 2 & 3)).take(1) {
            match source {
                IdentitySource::Header(name) => pairs.push((name.clone(), noise(u)?)),
                IdentitySource::Cookie(name) => {
                    let value = [name.as_bytes(), b"=", &noise(u)?].concat();
                    pairs.push(("cookie".to_owned(), value));
                }
                IdentitySource::ClientAddress | IdentitySource::Body(_) | IdentitySource::Conversation => {}
            }
        }
    }
    if meant >> 7 == 1 && !pairs.is_empty() {
        let spoilt = u.choose_index(pairs.len())?;
        pairs[spoilt].1 = noise(u)?;
    }
    Ok(Headers::new(pairs))
}

fn noise(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length = u.int_in_range(0..=12)?;
    Ok(u.bytes(length.min(u.len()))?.to_vec())
}

/// A header that meets a condition; none where that takes its absence.
fn meeting(condition: &HeaderCondition) -> Option<(String, Vec<u8>)> {
    let value = match &condition.test {
        HeaderTest::Exact(text) | HeaderTest::Prefix(text) | HeaderTest::Suffix(text) => text.clone(),
        HeaderTest::Contains(text) => format!("a{text}b"),
        HeaderTest::OneOf(list) => list.last().cloned().unwrap_or_default(),
        HeaderTest::Present(true) => "here".to_owned(),
        HeaderTest::Present(false) => return None,
    };
    (!condition.invert).then(|| (condition.name.clone(), value.into_bytes()))
}
