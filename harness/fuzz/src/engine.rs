//! Two workers under one store, with time going by, a store that interferes or refuses, plans that are reloaded, and somebody
//! else who writes whatever he likes under their keys.

use std::collections::BTreeMap;
use std::rc::Rc;

use arbitrary::{Result, Unstructured};
use bellwether::engine::{Assigned, Binding, Engine, Transition};
use bellwether::headers::Headers;
use bellwether::judge::comparison::Comparison;
use bellwether::judge::stats::Stats;
use bellwether::keys::health::PoolHealth;
use bellwether::keys::key_set::KeySet;
use bellwether::keys::pool::{KeyQuery, KeyReport, Pick, Pool, PoolState, Pools};
use bellwether::keys::usage::WorkerUsage;
use bellwether::outcome::Outcome;
use bellwether::outcome::blame::Event;
use bellwether::outcome::blame::KeyOutcome;
use bellwether::plan::Plan;
use bellwether::plan::matching::Asked;
use bellwether::report::event::Event as Reported;
use bellwether::rollout::standings::Standings;
use bellwether::route::RequestFacts;
use bellwether::shared::cell::SharedCell;
use bellwether::shared::codec::Found;
use bellwether::shared::turn::Turn;
use bellwether::time::{Micros, Millis, Span};

use super::exercise::now;
use super::samples::plans;
use super::store::Memory;

pub fn run(data: &[u8]) {
    let _ = days(&mut Unstructured::new(data));
}

struct Worker {
    engine: Engine,
    pools: Pools,
    plan: &'static Plan,
    bindings: Vec<Binding>,
    key_sets: Vec<(Rc<SharedCell<PoolState>>, KeySet)>,
    /// Requests under way: deployment, and under what circumstances.
    under_way: Vec<(usize, Assigned)>,
}

impl Worker {
    fn new() -> Worker {
        let (plan, engine) = (&plans()[0], Engine::default());
        let mut worker = Worker {
            engine,
            pools: Pools::default(),
            plan,
            bindings: vec![],
            key_sets: vec![],
            under_way: vec![],
        };
        worker.bind();
        worker
    }

    fn bind(&mut self) {
        self.bindings = self.engine.attach(self.plan);
        let pools = &mut self.pools;
        let keys = |pool| (KeySet::new(pool, &BTreeMap::new()), pool);
        let key_sets = self.plan.pools.iter().map(keys);
        self.key_sets = key_sets.map(|(keys, pool)| (pools.attach(&pool.name), keys)).collect();
        // A request belongs to the plan that it was assigned under; here, where they are indices, it goes with it.
        self.under_way.clear();
    }
}

/// What the engine writes it can read: the bytes go to every other worker.
fn watch(key: &str, bytes: &[u8]) {
    let undecodable = match key.split('/').nth(2) {
        Some("standings") => matches!(Standings::decode(Some(bytes)), Found::Undecodable),
        Some("stats") => matches!(Stats::decode(Some(bytes)), Found::Undecodable),
        Some("compare") => matches!(Comparison::decode(Some(bytes)), Found::Undecodable),
        Some("keys") => matches!(PoolHealth::decode(Some(bytes)), Found::Undecodable),
        _ => panic!("an unknown key: {key}"),
    };
    assert!(!undecodable, "{key}: {bytes:?}");
}

fn days(u: &mut Unstructured<'_>) -> Result<()> {
    let store = Memory::watched(watch);
    let mut workers = [Worker::new(), Worker::new()];
    let mut at = 5_000_000u64;
    for _ in 0..200 {
        if u.is_empty() {
            break;
        }
        let turn = &mut Turn::new(&store, now(at));
        let worker = &mut workers[usize::from(u.arbitrary::<bool>()?)];
        match u.int_in_range(0..=15)? {
            0..=4 => request(worker, u, turn)?,
            5..=9 => answer(worker, u, turn)?,
            10 => tick(worker, turn),
            11 => at = at.saturating_add(1 << u.int_in_range(0..=36)?),
            12 => tamper(&store, u)?,
            13 => key(worker, u, turn)?,
            14 => match u.int_in_range(0..=2)? {
                0 => store.late.set(u.int_in_range(0..=20)?),
                _ => store.broken.set(!store.broken.get()),
            },
            _ => reload(worker, &store, u)?,
        }
    }
    Ok(())
}

fn request(worker: &mut Worker, u: &mut Unstructured<'_>, turn: &mut Turn<'_>) -> Result<()> {
    let n = u.choose_index(worker.plan.deployments.len())?;
    let (deployment, binding) = (&worker.plan.deployments[n], &worker.bindings[n]);
    let mut pairs = Vec::new();
    if u.ratio(1, 4)? {
        pairs.push(("x-force".to_owned(), b"two".to_vec()));
    }
    if u.ratio(1, 2)? {
        pairs.push(("x-user-id".to_owned(), vec![u.arbitrary()?]));
    }
    let headers = Headers::new(pairs);
    let facts = RequestFacts {
        headers: &headers,
        client_address: &|| None,
        random: u.arbitrary()?,
        asked: Asked::default(),
    };
    let mut assigned = binding.assign(deployment, &facts, turn);
    assert!(assigned.choice.version < deployment.versions.len());
    let to_canary = assigned.choice.version != deployment.stable;
    assert!(assigned.lease.is_none() || to_canary, "only a canary is probed");
    if to_canary {
        assigned.request_id = Some("an \"id\"\n".into());
    }
    let shares: u32 = binding.effective_weights(deployment).iter().map(|share| u32::from(*share)).sum();
    assert_eq!(shares, 10_000);
    if worker.under_way.len() < 64 {
        worker.under_way.push((n, assigned));
    }
    Ok(())
}

fn answer(worker: &mut Worker, u: &mut Unstructured<'_>, turn: &mut Turn<'_>) -> Result<()> {
    if worker.under_way.is_empty() {
        return Ok(());
    }
    let which = u.choose_index(worker.under_way.len())?;
    let (n, assigned) = worker.under_way.swap_remove(which);
    let (deployment, binding) = (&worker.plan.deployments[n], &worker.bindings[n]);
    // Mostly failures of canaries: they are what something follows from.
    let bad = u.ratio(2, 3)? && assigned.choice.version != deployment.stable;
    let outcome = if bad { Outcome::Bad } else { *u.choose(&Outcome::ALL)? };
    let latency = u.arbitrary::<Option<u32>>()?.map(|micros| Span(u64::from(micros)));
    for _ in 0..=u.int_in_range(0..=3)? {
        let event = Event::Answered { outcome, latency };
        check_events(&binding.record(deployment, &assigned, event, turn), turn);
    }
    let end = if u.ratio(1, 8)? { Event::Broke } else { Event::Completed };
    check_events(&binding.record(deployment, &assigned, end, turn), turn);
    check_events(binding.finish(deployment, &assigned, u.arbitrary()?, turn).as_slice(), turn);
    Ok(())
}

fn tick(worker: &mut Worker, turn: &mut Turn<'_>) {
    for (deployment, binding) in worker.plan.deployments.iter().zip(&worker.bindings) {
        check_events(&binding.tick(deployment, turn), turn);
        assert!(binding.evidence(deployment) <= 100);
        assert!(binding.phase_gauge(deployment) <= 3);
    }
}

/// Another plugin with the same `vm_id`.
fn tamper(store: &Memory, u: &mut Unstructured<'_>) -> Result<()> {
    let Some(key) = store.key(u.arbitrary()?) else { return Ok(()) };
    let mut value = store.value(&key);
    match u.int_in_range(0..=3)? {
        0 => {
            let length = u.int_in_range(1..=40usize)?.min(u.len());
            let schema = value.first().copied().unwrap_or(1);
            value = [&[schema], u.bytes(length)?].concat();
        }
        1 if value.len() > 1 => value.truncate(1 + u.choose_index(value.len() - 1)?),
        2 => value = vec![0],
        _ if value.is_empty() => value = vec![u.arbitrary()?],
        // Another value of the same shape, mostly.
        _ => {
            for _ in 0..u.int_in_range(1..=4)? {
                let at = u.choose_index(value.len())?;
                value[at] = u.arbitrary()?;
            }
        }
    }
    store.force(&key, &value);
    Ok(())
}

fn key(worker: &mut Worker, u: &mut Unstructured<'_>, turn: &mut Turn<'_>) -> Result<()> {
    let n = u.choose_index(worker.plan.pools.len())?;
    let (config, (state, keys)) = (&worker.plan.pools[n], &worker.key_sets[n]);
    let pool = Pool { config, keys };
    let query =
        KeyQuery { tried: &[0], identity: u.arbitrary()?, random: u.arbitrary()?, suspects: u.arbitrary()? };
    let pick = state.with_mut(|state| state.pick(pool, query, turn)).unwrap();
    let Pick::Key(key) = pick else {
        return Ok(());
    };
    assert!(keys.header_value(key).is_some());
    let wait = u.arbitrary::<Option<u32>>()?.map(|millis| Millis(u64::from(millis)));
    let well = [KeyOutcome::Completed, KeyOutcome::Accepted, KeyOutcome::Inconclusive];
    let badly = [KeyOutcome::Limited(wait), KeyOutcome::Rejected, KeyOutcome::Failed, KeyOutcome::Broke];
    let outcomes: Vec<KeyOutcome> = well.into_iter().chain(badly).collect();
    let began = Micros(turn.now.mono.0.saturating_sub(u.arbitrary::<u32>()?.into()));
    let client: u64 = u.arbitrary()?;
    let report = KeyReport { key, outcome: *u.choose(&outcomes)?, began, client: &|| client };
    let usage = WorkerUsage::new(&config.name);
    let moved = state.with_mut(|state| state.report(pool, report, &usage, turn)).unwrap();
    for moved in &moved {
        one_line(&Reported::key(&config.name, &config.keys[moved.key].id, moved, turn.now).line());
    }
    Ok(())
}

fn reload(worker: &mut Worker, store: &Memory, u: &mut Unstructured<'_>) -> Result<()> {
    worker.plan = u.choose(plans())?;
    worker.bind();
    worker.engine.sweep(store, u.arbitrary()?);
    Ok(())
}

/// Each transition is one line of JSON.
fn check_events(transitions: &[Transition], turn: &Turn<'_>) {
    for transition in transitions {
        one_line(&Reported::transition(transition, turn.now.wall).line());
    }
}

fn one_line(line: &str) {
    assert!(!line.chars().any(char::is_control), "{line}");
    assert!(serde_json::from_str::<serde_json::Value>(line).is_ok_and(|json| json.is_object()), "{line}");
}
