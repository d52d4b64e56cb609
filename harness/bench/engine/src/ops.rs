//! The decisions.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroU32;

use anyhow::{Context, Result, anyhow, bail};
use bellwether::config::compile;
use bellwether::engine::Engine;
use bellwether::headers::Headers;
use bellwether::judge::stats::{Delta, Stats};
use bellwether::judge::verdict::judge;
use bellwether::keys::key_set::KeySet;
use bellwether::keys::pool::{KeyQuery, Pool, Pools};
use bellwether::outcome::Outcome;
use bellwether::outcome::blame::Event;
use bellwether::plan::Plan;
use bellwether::plan::matching::Asked;
use bellwether::route::{Content, RequestFacts, candidates};
use bellwether::shared::store::{Expected, Store, StoreError, Versioned};
use bellwether::shared::turn::Turn;
use bellwether::time::{Micros, Now, Span, UnixMillis};

/// Names, and what they are.
pub const ALL: [(&str, &str); 9] = [
    ("find-1", "find the deployment, 1 of them"),
    ("find-1000", "find the deployment, the last of 1 000"),
    ("assign", "choose the version at random"),
    ("assign-sticky", "choose the version by a sticky identity"),
    ("record", "record a good answer"),
    ("merge", "record a good answer, merge it and judge the canary"),
    ("judge", "judge all limits on a full window"),
    ("pick-1", "choose a key, 1 of them"),
    ("pick-100", "choose a key, 100 of them"),
];

/// Does one of them so often.
///
/// # Errors
/// If there is none of this name.
pub fn run(name: &str, count: u64) -> Result<()> {
    match name {
        "find-1" => finding(1, count),
        "find-1000" => finding(1000, count),
        "assign" => assigning("", count),
        "assign-sticky" => assigning(r#""sticky": {"on": [{"header": "x-user-id"}]},"#, count),
        "record" => recording(1, count),
        "merge" => recording(20_000, count),
        "judge" => judging(count),
        "pick-1" => picking(1, count),
        "pick-100" => picking(100, count),
        _ => bail!("no decision is called {name}"),
    }
}

const GUARD: &str = r#""guard": {"max_error_rate": 5, "max_errors": 1000, "max_consecutive_errors": 50,
    "max_latency": {"avg": "9s", "p50": "9s", "p95": "9s", "p99": "9s"}},"#;

fn plan(deployments: usize, keys: usize, rest: &str) -> Result<Plan> {
    let one = |n: usize| {
        let matches = match deployments {
            1 => String::new(),
            _ => format!(r#""match": {{"headers": [{{"name": "x-deployment-id", "exact": "d{n}"}}]}},"#),
        };
        format!(
            r#"{{"name": "d{n}", "stable": "v1", {matches} {rest} "versions": [
                {{"id": "v1", "weight": 90, "cluster": "a", "key_pool": "p"}}, {{"id": "v2", "weight": 10, "cluster": "b"}}]}}"#
        )
    };
    let deployments: Vec<String> = (0..deployments).map(one).collect();
    let keys: Vec<String> = (0..keys).map(|n| format!(r#"{{"id": "k{n}", "value": "sk-{n}"}}"#)).collect();
    let document = format!(
        r#"{{"deployments": [{}], "key_pools": [{{"name": "p", "keys": [{}]}}]}}"#,
        deployments.join(","),
        keys.join(",")
    );
    compile(document.as_bytes(), &|_| None).map_err(|problems| anyhow!("{problems}"))
}

fn headers(deployment: &str) -> Headers {
    let pairs = [
        (":authority", "api.example.com"),
        (":path", "/v1/chat/completions"),
        (":method", "POST"),
        (":scheme", "http"),
        ("user-agent", "bench"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-client"),
        ("x-user-id", "user-4711"),
        ("x-deployment-id", deployment),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "5f9d0f1c-2e1a-4c39-9a3e-5d1c0a1b2c3d"),
    ];
    Headers::new(pairs.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec())
}

fn finding(deployments: usize, count: u64) -> Result<()> {
    let plan = plan(deployments, 1, "")?;
    let headers = headers(&format!("d{}", deployments - 1));
    for _ in 0..count {
        let found = candidates(&plan, black_box(&headers)).find(&plan, Content::default());
        black_box(found.context("not found")?);
    }
    Ok(())
}

fn assigning(rest: &str, count: u64) -> Result<()> {
    let (plan, store, headers) = (plan(1, 1, rest)?, Memory::default(), headers("d0"));
    let bindings = Engine::default().attach(&plan);
    let (deployment, binding) = plan.deployments.iter().zip(&bindings).next().context("no deployment")?;
    for n in 0..count {
        // Golden-ratio steps fill the range evenly.
        let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let facts =
            RequestFacts { headers: &headers, client_address: &|| None, random, asked: Asked::default() };
        black_box(binding.assign(deployment, &facts, &mut turn(&store, 1_000_000 + n / 100)));
    }
    Ok(())
}

fn turn(store: &Memory, micros: u64) -> Turn<'_> {
    Turn::new(store, Now { mono: Micros(micros), wall: UnixMillis(1_790_000_000_000) })
}

/// Records with `step` microseconds between two answers.
fn recording(step: u64, count: u64) -> Result<()> {
    let (plan, store, headers) = (plan(1, 1, GUARD)?, Memory::default(), headers("d0"));
    let bindings = Engine::default().attach(&plan);
    let (deployment, binding) = plan.deployments.iter().zip(&bindings).next().context("no deployment")?;
    // The highest points are stable's: this one is the canary's.
    let facts =
        RequestFacts { headers: &headers, client_address: &|| None, random: 0, asked: Asked::default() };
    let assigned = binding.assign(deployment, &facts, &mut turn(&store, 1_000_000));
    for n in 0..count {
        let mut turn = turn(&store, 2_000_000 + n * step);
        let event = Event::Answered { outcome: Outcome::Good, latency: Some(Span(150_000 + n % 977 * 100)) };
        binding.record(deployment, &assigned, event, &mut turn);
    }
    Ok(())
}

fn judging(count: u64) -> Result<()> {
    let plan = plan(1, 1, GUARD)?;
    let deployment = plan.deployments.first().context("no deployment")?;
    let guard = &deployment.guard;
    let mut stats = Stats::new(0, guard.window);
    for n in 0..10_000u64 {
        let mut delta = Delta::default();
        delta.add(Event::Answered { outcome: Outcome::Good, latency: Some(Span(1_000 + n * n % 3_000_017)) });
        stats.merge(&delta, Micros(1_000_000 + n * 2_000));
    }
    let snapshot = stats.snapshot(Micros(21_000_000), guard.window);
    for _ in 0..count {
        black_box(judge(guard, black_box(&snapshot), black_box(&snapshot)));
    }
    Ok(())
}

fn picking(keys: usize, count: u64) -> Result<()> {
    let (plan, store) = (plan(1, keys, "")?, Memory::default());
    let pool = plan.pools.first().context("no pool")?;
    let (keys, state) = (KeySet::new(pool, &BTreeMap::new()), Pools::default().attach(&pool.name));
    let all = state.with_mut(|state| {
        for n in 0..count {
            let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let query = KeyQuery { tried: &[], identity: None, random, suspects: true };
            let mut turn = turn(&store, 1_000_000 + n / 100);
            black_box(state.pick(Pool { config: pool, keys: &keys }, query, &mut turn));
        }
    });
    all.context("the state is in use")
}

/// Shared data by the proxy's rules, as far as one worker meets them.
#[derive(Default)]
struct Memory {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    token: Cell<u32>,
}

impl Store for Memory {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let values = self.values.try_borrow().map_err(|_| StoreError::Refused)?;
        Ok(values.get(key).and_then(|(bytes, token)| {
            Some(Versioned { bytes: bytes.clone(), token: NonZeroU32::new(*token)? })
        }))
    }

    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError> {
        let mut values = self.values.try_borrow_mut().map_err(|_| StoreError::Refused)?;
        let fits = match (values.get(key), expected) {
            (Some((_, held)), Expected::Version(token)) => *held == token.get(),
            (Some(_), Expected::Absent) => false,
            (None, _) => true,
        };
        if !fits {
            return Err(StoreError::Mismatch);
        }
        self.token.set(self.token.get() + 1);
        values.insert(key.to_owned(), (bytes.to_vec(), self.token.get()));
        Ok(())
    }
}
