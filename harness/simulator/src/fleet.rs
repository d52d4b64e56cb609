//! Whole engines, request by request: W workers of one proxy on one store, with everything that can disturb them.
//!
//! Requests arrive, are assigned by [`Binding::assign`], and are recorded by [`Binding::record`] when their answers come;
//! every worker ticks every 20 ms as the filter does. Nothing of the decision is the simulator's own.

mod flight;

use std::collections::BinaryHeap;

use bellwether::engine::{Binding, Engine, Transition};
use bellwether::headers::Headers;
use bellwether::outcome::Outcome;
use bellwether::outcome::blame::Event;
use bellwether::plan::Plan;
use bellwether::plan::matching::Asked;
use bellwether::rollout::PhaseKind;
use bellwether::route::RequestFacts;
use bellwether::shared::turn::Turn;
use bellwether::time::{Micros, Now, Span, UnixMillis};

use self::flight::Flight;
use crate::clients::{Clients, Population, STICKY};
use crate::reference::Reference;
use crate::rng::Rng;
use crate::setup;
use crate::store::Memory;
use crate::traffic::Curve;

/// The filter's tick (filter.rs).
const TICK: u64 = 20_000;
const SECOND: u64 = 1_000_000;
/// When a simulation begins on the proxy's clock.
const BEGIN: u64 = 1_000 * SECOND;

/// What may go wrong among workers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Disturbance {
    /// Probability that another process's write gets in between.
    pub interference: f64,
    /// A worker (each in turn) loses its memory and its requests in flight this often, in seconds; 0 for never.
    pub restart_every: u64,
    /// So many workers still have an older plan, with another share of the canary in basis points.
    pub old_plans: (usize, u16),
    /// Workers' clocks are apart by up to this many microseconds.
    pub skew: u64,
    /// The wall clock is set forth or back by an hour every ten seconds.
    pub wall_steps: bool,
}

/// Latency: lognormal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Median in milliseconds.
    pub median: f64,
    /// Standard deviation of the logarithm.
    pub shape: f64,
    /// How many times as slow the canary is once the trouble has begun.
    pub canary: f64,
}

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Requests a second.
    pub rps: f64,
    /// The canary's share in basis points.
    pub share: u16,
    /// Probability that a request of stable fails.
    pub stable: Curve,
    /// Probability that a request of the canary fails.
    pub canary: Curve,
    /// Latencies of both.
    pub latency: Latency,
    /// Inserted into the deployment: a guard, say.
    pub rest: String,
    /// Workers.
    pub workers: usize,
    /// What goes wrong among them.
    pub disturbance: Disturbance,
    /// Sticky clients, if there are any.
    pub clients: Option<Population>,
    /// When the trouble begins, in seconds.
    pub from: u64,
    /// When the simulation ends.
    pub seconds: u64,
}

/// What it came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// Reason of the rollback, if there was one.
    pub label: Option<String>,
    /// When, in microseconds since the beginning.
    pub at: u64,
    /// Failures of the canary since the trouble began, up to the flip.
    pub errors: u64,
    /// Slow answers of it (above stable's true 95th percentile).
    pub slow: u64,
    /// All its answers.
    pub requests: u64,
    /// Failures of canary requests that were in flight at the flip, or sent by workers that had not yet heard of it.
    pub after: u64,
    /// Failures at which one worker that merges each time would have decided.
    pub reference: Option<u64>,
    /// Transitions reported: more than one rollback would be an error.
    pub rollbacks: u64,
    /// Writes refused because somebody else was first.
    pub mismatches: u64,
}

struct Worker {
    engine: Engine,
    plan: Plan,
    bindings: Vec<Binding>,
    skew: u64,
    life: u32,
}

impl Worker {
    fn new(scenario: &Scenario, share: u16, skew: u64) -> Worker {
        let sticky = if scenario.clients.is_some() { STICKY } else { "" };
        let plan = setup::plan(share, &[sticky, &scenario.rest].concat());
        let mut engine = Engine::default();
        let bindings = engine.attach(&plan);
        Worker { engine, plan, bindings, skew, life: 0 }
    }

    fn restart(&mut self) {
        self.engine = Engine::default();
        self.bindings = self.engine.attach(&self.plan);
        self.life += 1;
    }
}

struct Run<'a> {
    scenario: &'a Scenario,
    store: Memory,
    workers: Vec<Worker>,
    clients: Option<Clients>,
    flights: BinaryHeap<Flight>,
    number: u64,
    reference: Reference,
    ended: Ended,
}

/// Runs a scenario until its end or, if the canary is rolled back, until its last answer is in.
pub fn run(scenario: &Scenario, rng: &mut Rng) -> Ended {
    let seed = rng.bits();
    // Streams of their own, so that the traffic is the same however many workers there are.
    let mut dice = Rng::of(seed, "workers", 0);
    let disturbance = scenario.disturbance;
    let (old, old_share) = disturbance.old_plans;
    let workers: Vec<Worker> = (0..scenario.workers)
        .map(|worker| {
            let share = if worker < old { old_share } else { scenario.share };
            Worker::new(scenario, share, dice.below(disturbance.skew as usize + 1) as u64)
        })
        .collect();
    let plan = &workers[0].plan;
    let clients = scenario.clients.map(|population| Clients::new(population, plan, rng));
    let compare = plan.deployments[0].guard.compare.unwrap_or_else(setup::compare);
    let mut run = Run {
        scenario,
        store: Memory::new(disturbance.interference, Rng::of(seed, "store", 0)),
        workers,
        clients,
        flights: BinaryHeap::new(),
        number: 0,
        reference: Reference::new(compare),
        ended: Ended::default(),
    };
    run.go(rng, &mut dice);
    run.ended.mismatches = run.store.mismatches.get();
    run.ended
}

impl Run<'_> {
    fn go(&mut self, rng: &mut Rng, dice: &mut Rng) {
        let count = self.workers.len() as u64;
        let end = self.scenario.seconds * SECOND;
        let (mut arrival, mut tick, mut restart) =
            (0u64, (0u64, 0usize), self.scenario.disturbance.restart_every);
        let mut stop_at = end;
        arrival += (rng.exponential(self.scenario.rps) * 1e6) as u64;
        loop {
            let answer = self.flights.peek().map_or(u64::MAX, |flight| flight.ends);
            let now = arrival.min(answer).min(tick.0);
            // After a flip: as long as a worker may not have heard of it; then only what is in flight.
            if now >= stop_at && (self.ended.label.is_none() || self.flights.is_empty()) {
                return;
            }
            if restart > 0 && now >= restart * SECOND {
                self.workers[(restart as usize) % count as usize].restart();
                restart += self.scenario.disturbance.restart_every;
            }
            let mut transitions = Vec::new();
            if now == answer {
                transitions = self.answer();
            } else if now == tick.0 {
                let worker = &self.workers[tick.1];
                let turn = &mut Turn::new(&self.store, self.now(now, tick.1));
                transitions = worker.bindings[0].tick(&worker.plan.deployments[0], turn);
                tick = (tick.0 + TICK / count, (tick.1 + 1) % count as usize);
            } else {
                if now < stop_at {
                    self.arrive(now, rng, dice);
                }
                arrival += ((rng.exponential(self.scenario.rps) * 1e6) as u64).max(1);
            }
            let rollbacks = transitions.iter().filter(|t| t.change.to() == PhaseKind::RolledBack);
            for transition in rollbacks {
                self.ended.rollbacks += 1;
                if self.ended.label.is_none() {
                    self.ended.label = transition.cause.as_ref().map(|cause| cause.label.clone());
                    self.ended.at = now;
                    stop_at = now + 2 * TICK;
                }
            }
        }
    }

    fn now(&self, at: u64, worker: usize) -> Now {
        let mono = BEGIN + at + self.workers[worker].skew;
        let hour = if self.scenario.disturbance.wall_steps { at / (10 * SECOND) % 3 * 3_600_000 } else { 0 };
        Now { mono: Micros(mono), wall: UnixMillis(1_795_000_000_000 + hour + mono / 1000) }
    }

    fn arrive(&mut self, at: u64, rng: &mut Rng, dice: &mut Rng) {
        let scenario = self.scenario;
        let (random, fate, pace) = (rng.bits(), rng.unit(), rng.normal());
        let client = self.clients.as_ref().map(|clients| clients.pick(rng));
        let none = Headers::default();
        let (headers, worker) = match (&self.clients, client) {
            (Some(clients), Some(client)) => {
                (clients.headers(client), clients.worker(client, self.workers.len(), dice))
            }
            _ => (&none, dice.below(self.workers.len())),
        };
        let facts = RequestFacts { headers, client_address: &|| None, random, asked: Asked::default() };
        let now = self.now(at, worker);
        let Worker { plan, bindings, life, .. } = &self.workers[worker];
        let assigned = bindings[0].assign(&plan.deployments[0], &facts, &mut Turn::new(&self.store, now));
        let canary = assigned.choice.version != plan.deployments[0].stable;
        let second = at / SECOND;
        let rate = if canary { scenario.canary } else { scenario.stable }.at(second);
        let broken =
            matches!((&self.clients, client), (Some(clients), Some(client)) if clients.is_broken(client));
        let slower = if canary && second >= scenario.from { scenario.latency.canary } else { 1.0 };
        let Latency { median, shape, .. } = scenario.latency;
        let millis = median * slower * (shape * pace).exp();
        let latency = Span((millis * 1000.0) as u64);
        let event = match broken || fate <= rate {
            true => Event::Answered { outcome: Outcome::Bad, latency: None },
            false => Event::Answered { outcome: Outcome::Good, latency: Some(latency) },
        };
        self.number += 1;
        self.flights.push(Flight {
            ends: at + latency.0,
            number: self.number,
            worker,
            life: *life,
            assigned,
            event,
            slow: millis > median * (shape * 1.644_853_627).exp(),
        });
    }

    fn answer(&mut self) -> Vec<Transition> {
        let Some(flight) = self.flights.pop() else { return Vec::new() };
        let Flight { worker, assigned, event, ends, .. } = &flight;
        let canary = assigned.choice.version != 0;
        let failed = matches!(event, Event::Answered { outcome: Outcome::Bad, .. });
        if canary && *ends >= self.scenario.from * SECOND {
            match self.ended.label {
                Some(_) => self.ended.after += u64::from(failed),
                None => {
                    self.ended.requests += 1;
                    self.ended.errors += u64::from(failed);
                    self.ended.slow += u64::from(flight.slow && !failed);
                }
            }
        }
        let held = &self.workers[*worker];
        if flight.life != held.life {
            return Vec::new();
        }
        let now = self.now(*ends, *worker);
        if self.reference.decides(assigned, *event) && self.ended.label.is_none() {
            self.ended.reference = Some(self.ended.errors);
        }
        let turn = &mut Turn::new(&self.store, now);
        held.bindings[0].record(&held.plan.deployments[0], assigned, *event, turn)
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
