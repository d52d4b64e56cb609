//! Several workers on one store: each must act on the counts of the others.

use std::cell::Cell;

mod comparison;
mod orders;
mod probes;
mod ramp;
mod reload;
mod rollback;
mod shared_data;

use super::*;
use crate::headers::Headers;
use crate::outcome::Outcome;
use crate::outcome::blame::Event;
use crate::plan::matching::Asked;
use crate::rollout::PhaseKind::{Active, Holding, Probing, RolledBack};
use crate::rollout::{Cause, OPERATOR, PhaseKind, Standing};
use crate::route::{Choice, RequestFacts};
use crate::shared::codec::TOMBSTONE;
use crate::shared::dropped::{Dropped, Drops};
use crate::shared::turn::Turn;
use crate::testing::{MemoryStore, deployment_plan, ramp_plan};
use crate::time::{Micros, Now};
use crate::time::{Span, UnixMillis};

const GOOD: Event = Event::Answered { outcome: Outcome::Good, latency: Some(Span(9_000)) };
const BAD: Event = Event::Answered { outcome: Outcome::Bad, latency: None };
/// The first random number of the canary's tenth, and one of stable's.
const TO_CANARY: u64 = 0;
const TO_STABLE: u64 = u64::MAX;

struct Worker {
    engine: Engine,
    plan: Plan,
    bindings: Vec<Binding>,
}

impl Worker {
    fn new(rest: &str) -> Worker {
        Worker::on(deployment_plan(rest))
    }

    fn ramp(ramp: &str) -> Worker {
        Worker::on(ramp_plan(ramp))
    }

    fn on(plan: Plan) -> Worker {
        let mut engine = Engine::default();
        let bindings = engine.attach(&plan);
        Worker { engine, plan, bindings }
    }

    fn reload(&mut self, store: &MemoryStore, rest: &str) {
        self.plan = deployment_plan(rest);
        self.bindings = self.engine.attach(&self.plan);
        self.engine.sweep(store, true);
    }

    fn assign(&self, store: &MemoryStore, at: u64, random: u64) -> Assigned {
        self.assign_with(&Headers::default(), random, &mut turn(store, at))
    }

    fn assign_with(&self, headers: &Headers, random: u64, turn: &mut Turn<'_>) -> Assigned {
        let facts = RequestFacts { headers, client_address: &|| None, random, asked: Asked::default() };
        self.bindings[0].assign(&self.plan.deployments[0], &facts, turn)
    }

    /// Returns the version of a request with these random bits.
    fn goes_to(&self, store: &MemoryStore, now: u64, random: u64) -> usize {
        self.assign(store, now, random).choice.version
    }

    fn see(&self, store: &MemoryStore, at: u64, of: (usize, u32), event: Event) -> Results {
        let choice = Choice { version: of.0, forced: false, probe: false, identity: None };
        let shares = self.bindings[0].effective_weights(&self.plan.deployments[0]);
        self.result(
            store,
            at,
            &Assigned {
                choice,
                epoch: of.1,
                shares,
                stage: None,
                lease: None,
                request_id: None,
                compared: Cell::default(),
            },
            event,
        )
    }

    fn result(&self, store: &MemoryStore, at: u64, of: &Assigned, event: Event) -> Results {
        let mut turn = turn(store, at);
        let transitions = self.bindings[0].record(&self.plan.deployments[0], of, event, &mut turn);
        Results { transitions, dropped: turn.drops }
    }

    fn tick(&self, store: &MemoryStore, at: u64) -> Results {
        let mut turn = turn(store, at);
        let transitions = self.bindings[0].tick(&self.plan.deployments[0], &mut turn);
        Results { transitions, dropped: turn.drops }
    }

    fn weights(&self) -> Vec<u16> {
        self.bindings[0].effective_weights(&self.plan.deployments[0]).to_vec()
    }
}

fn change(from: PhaseKind, to: PhaseKind) -> Change {
    Change::Moved { from, to }
}

fn observed(from: PhaseKind, to: PhaseKind) -> Change {
    Change::Observed { from, to }
}

/// The transitions and the drops of a call.
#[derive(Debug, Default, PartialEq)]
struct Results {
    transitions: Vec<Transition>,
    dropped: Drops,
}

fn turn(store: &MemoryStore, at: u64) -> Turn<'_> {
    Turn::new(store, now(at))
}

fn now(micros: u64) -> Now {
    Now { mono: Micros(micros), wall: UnixMillis(1_795_000_000_000) }
}

const CONSECUTIVE: &str = r#""guard": {"max_consecutive_errors": 3, "compare": false},"#;
const MS: u64 = 1000;
const PROBING: &str = r#""guard": {"max_consecutive_errors": 3, "compare": false},
    "recovery": {"mode": "probe", "after": "10s", "max_probes_in_flight": 1, "successes": 2},"#;
const SECOND: u64 = 1000 * MS;

fn order(
    worker: &Worker,
    store: &MemoryStore,
    at: u64,
    order: Order,
    text: &str,
) -> (Result<(), Refused>, Results) {
    let Now { mono: since, wall } = now(at);
    let cause = Cause { label: OPERATOR.to_owned(), text: text.to_owned(), since, wall };
    let mut turn = turn(store, at);
    let ordered = worker.bindings[0].order(&worker.plan.deployments[0], order, &cause, &mut turn);
    match ordered {
        Ok(transitions) => (Ok(()), Results { transitions, dropped: turn.drops }),
        Err(refused) => (Err(refused), Results { transitions: Vec::new(), dropped: turn.drops }),
    }
}

fn view(worker: &Worker, store: &MemoryStore, at: u64) -> View {
    worker.bindings[0].view(&worker.plan.deployments[0], &mut turn(store, at))
}

/// Assigns requests as the split does, and gives each the event of `fate`. Returns the transitions and the canary's failures.
fn run(
    worker: &Worker,
    store: &MemoryStore,
    requests: u64,
    identity: Option<u64>,
    fate: impl Fn(usize, u64) -> Event,
) -> (Vec<Transition>, u64) {
    let (mut transitions, mut failed) = (Vec::new(), 0);
    for i in 0..requests {
        let at = i * 10 * MS;
        // A fixed, even sequence of points: every tenth request is the canary's.
        let random = (i % 10) * (u64::MAX / 10) + u64::MAX / 20;
        let mut assigned = worker.assign(store, at, random);
        assigned.choice.identity = identity;
        let event = fate(assigned.choice.version, i);
        if assigned.choice.version == 1 && event == BAD {
            failed += 1;
        }
        transitions.extend(worker.result(store, at, &assigned, event).transitions);
        if !transitions.is_empty() {
            break;
        }
    }
    (transitions, failed)
}
