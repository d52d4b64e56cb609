//! Warnings: looks for conditions that lose something in silence, publishes each once, and shows those that stand.

use std::cell::Cell;

use super::service::{Service, turn};
use super::worker::Worker;
use crate::engine::warnings::{self, Watch};
use crate::host::SharedData;
use crate::plan::Plan;
use crate::report::event::Event;
use crate::shared::cell::SharedCell;
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::names::{WARNING_EVENTS, WARNINGS};
use crate::shared::store::{Change, Store, update};
use crate::shared::warnings::{Held, Holding, Warning, Warnings};
use crate::time::{Micros, Now, Span};

/// A plan is looked at this often (1 s).
const EVERY: Span = Span::from_secs(1);
/// A look at a plan looks at the traffic of at most so many deployments, about 50 µs each if they have many versions.
const DEPLOYMENTS_A_LOOK: usize = 16;
/// Roles and documents come one after the other. What is still missing or doubled after this time (10 s) is meant to be so.
const SETTLED: Span = Span::from_secs(10);
/// After a refusal by a circuit breaker this worker sends the version's share to stable for this long (1 s).
const REFUSED: Span = Span::from_secs(1);
/// A circuit breaker counts as open for this long after it has refused a request (60 s).
const OPEN: Span = Span::from_secs(60);

/// The look-out of one plan.
pub struct Lookout {
    /// Moment of the first look.
    began: Cell<Option<Micros>>,
    /// Moment of the last look.
    last: Cell<Option<Micros>>,
    /// The warnings that the plan alone gives rise to.
    standing: Vec<Warning>,
    /// The traffic of each deployment of the plan.
    traffic: SharedCell<Vec<Traffic>>,
    /// The deployment whose traffic is looked at next.
    next: Cell<usize>,
    /// Versions, as deployment and version, whose circuit breaker has refused a request, and when it did so last.
    overflows: SharedCell<Vec<Overflow>>,
}

/// The traffic of one deployment.
#[derive(Default)]
struct Traffic {
    watch: Watch,
    /// The warnings of the last look.
    found: Vec<Warning>,
}

/// The last refusal of a version's requests by a circuit breaker.
pub struct Overflow {
    /// Index of the deployment in the plan.
    pub deployment: usize,
    /// Index of the version in the deployment.
    pub version: usize,
    /// Whether no attempt of the request had an answer before. Otherwise a retry was refused, and the client has that answer.
    pub unanswered: bool,
    /// The time of the refusal.
    pub last: Micros,
}

impl Overflow {
    /// Returns whether two refusals are of the same kind.
    fn is_alike(&self, other: &Overflow) -> bool {
        self.deployment == other.deployment
            && self.version == other.version
            && self.unanswered == other.unanswered
    }
}

impl Lookout {
    /// Makes the look-out of a plan.
    pub fn new(plan: &Plan) -> Lookout {
        Lookout {
            began: Cell::new(None),
            last: Cell::new(None),
            standing: warnings::of_plan(plan),
            traffic: SharedCell::new(plan.deployments.iter().map(|_| Traffic::default()).collect()),
            next: Cell::new(0),
            overflows: SharedCell::default(),
        }
    }

    /// Takes note of a refusal by a circuit breaker.
    pub fn note_overflow(&self, overflow: Overflow) {
        self.overflows.with_mut(|all| {
            all.retain(|held| !held.is_alike(&overflow));
            all.push(overflow);
        });
    }

    /// Returns whether the circuit breaker of a version's cluster has refused a request a moment ago.
    pub fn was_refused(&self, deployment: usize, version: usize, now: Micros) -> bool {
        let here = |held: &Overflow| {
            held.unanswered
                && held.deployment == deployment
                && held.version == version
                && now.since(held.last) < REFUSED
        };
        self.overflows.with(|all| all.iter().any(here)) == Some(true)
    }

    /// Returns the versions whose circuit breaker is open.
    fn open_breakers(&self, plan: &Plan, now: Micros) -> Vec<Warning> {
        let open = self.overflows.with_mut(|all| {
            all.retain(|held| now.since(held.last) < OPEN);
            let warning = |held: &Overflow| {
                warnings::breaker_open(plan.deployments.get(held.deployment)?, held.version)
            };
            all.iter().filter_map(warning).collect()
        });
        open.unwrap_or_default()
    }
}

impl Worker {
    /// Looks at a plan in service, if that is due: registers its gauges, and holds the warnings that are found.
    pub fn look_out(&self, service: &Service, now: Now) {
        let lookout = &service.lookout;
        if lookout.last.get().is_some_and(|last| now.mono.since(last) < EVERY) {
            return;
        }
        lookout.last.set(Some(now.mono));
        if !service.registered.get() {
            self.services.register(service);
        }
        let began = lookout.began.get().unwrap_or(now.mono);
        lookout.began.set(Some(began));
        let mut found = lookout.standing.clone();
        found.extend(lookout.open_breakers(&service.plan, now.mono));
        found.extend(self.out_of_reach(service, now));
        if now.mono.since(began) >= SETTLED {
            if !self.secrets.has_keys_role() {
                found.extend(warnings::keys_role_missing(&service.plan));
            }
            found.extend(self.duplicates(service, now.mono));
        }
        if !found.is_empty() {
            self.hold(service, &found, now);
        }
        self.show_warnings(now.mono);
    }

    /// Looks at the traffic of the deployments that are next. Returns the warnings about guards of all deployments that cannot fire
    /// at the traffic seen.
    fn out_of_reach(&self, service: &Service, now: Now) -> Vec<Warning> {
        let lookout = &service.lookout;
        let deployments = &service.plan.deployments;
        let mut turn = turn(now);
        let found = lookout.traffic.with_mut(|traffic| {
            for _ in 0..deployments.len().min(DEPLOYMENTS_A_LOOK) {
                let n = lookout.next.get();
                lookout.next.set(n.checked_add(1).filter(|n| *n < deployments.len()).unwrap_or(0));
                let (Some(deployment), Some(binding), Some(traffic)) =
                    (deployments.get(n), service.bindings.get(n), traffic.get_mut(n))
                else {
                    break;
                };
                if deployment.versions.len() > 1 {
                    let view = binding.view(deployment, &mut turn);
                    traffic.found = traffic.watch.look(deployment, &view, now.mono);
                }
            }
            traffic.iter().flat_map(|traffic| traffic.found.iter().cloned()).collect()
        });
        self.count_dropped(turn.drops);
        found.unwrap_or_default()
    }

    /// Returns warnings about deployments that another document has as well.
    fn duplicates(&self, service: &Service, now: Micros) -> Vec<Warning> {
        let mut found = Vec::new();
        let filter = String::from_utf8_lossy(&service.plugin);
        for other in self.services.in_service() {
            let began = other.lookout.began.get();
            if other.plugin != service.plugin && began.is_some_and(|began| now.since(began) >= SETTLED) {
                let others = String::from_utf8_lossy(&other.plugin);
                found.extend(warnings::duplicate_deployments(&service.plan, &filter, &other.plan, &others));
            }
        }
        found
    }

    /// Holds warnings in the list of all workers. Publishes those that nobody has held before.
    fn hold(&self, service: &Service, found: &[Warning], now: Now) {
        let held = update(&SharedData, WARNINGS, &mut |bytes| {
            let mut list = match Warnings::decode(bytes) {
                Found::Value(list) => list,
                Found::Nothing | Found::Undecodable => Warnings::default(),
            };
            let holdings: Vec<Holding> = found.iter().map(|warning| list.hold(warning, now)).collect();
            if holdings.iter().any(|holding| matches!(holding, Holding::Begun | Holding::Renewed)) {
                Change::Write(list.encode(), holdings)
            } else {
                Change::Keep(holdings)
            }
        });
        // Held again a second later.
        let Ok(holdings) = held else { return };
        for (warning, holding) in found.iter().zip(holdings) {
            match holding {
                Holding::Begun => {
                    self.publish(service, WARNING_EVENTS, Event::warning(warning, now.wall).line());
                }
                Holding::NoRoom => self.metrics.dropped(Dropped::Event, 1),
                Holding::Renewed | Holding::Unchanged => {}
            }
        }
    }

    /// Writes the gauges of all warnings.
    fn show_warnings(&self, now: Micros) {
        let all = held_warnings();
        self.warnings_shown.with_mut(|shown| {
            all.iter().for_each(|held| shown.show(&held.warning, held.stands(now)));
        });
    }

    /// Returns the warnings that stand.
    pub fn standing_warnings(&self, now: Micros) -> Vec<Held> {
        held_warnings().into_iter().filter(|held| held.stands(now)).collect()
    }
}

/// Returns all warnings of the list, ended ones included.
fn held_warnings() -> Vec<Held> {
    let found = SharedData.get(WARNINGS).ok().flatten();
    match Warnings::decode(found.as_ref().map(|found| found.bytes.as_slice())) {
        Found::Value(list) => list.all().to_vec(),
        Found::Nothing | Found::Undecodable => Vec::new(),
    }
}
