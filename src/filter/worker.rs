//! What all contexts of one worker share: they live in one VM, on one thread, so plain cells do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

use super::alerts::Outbox;
use super::dress::Before;
use super::metrics::{DeploymentMetrics, Global, PoolMetrics};
use crate::census::{self, Census, Holding};
use crate::codec::{Found, SCHEMA};
use crate::config;
use crate::engine::{Assigned, Binding, Dropped, Engine, Notes};
use crate::events::{self, EventLog};
use crate::flight::{Carried, Flight, Judgement};
use crate::host::{self, Clock, SharedData};
use crate::keyring::{Fault, Status};
use crate::keys::Ring;
use crate::outcome::Outcome;
use crate::plan::{Deployment, Guard, Plan, Secret};
use crate::pools::{Pick, PoolState, Pools, Wish};
use crate::stats::Event;
use crate::store::{Change, Store, update};
use crate::units::{Micros, Millis, Now};
use crate::usage::Usage;

/// Shared key of the secrets document.
const SECRETS: &str = "bellwether/1/secrets";
/// Shared key of the last transitions of the process.
pub const EVENTS: &str = "bellwether/1/events";
/// Shared key of the last events of pools: apart, so that an exhausted pool does not push out why a canary was rolled back.
pub const POOL_EVENTS: &str = "bellwether/1/pool-events";
/// Shared key of what all VMs hold.
const CENSUS: &str = "bellwether/1/census";

thread_local! {
    static WORKER: Rc<Worker> = Rc::new(Worker::new());
}

/// One worker thread's share of the filter.
pub struct Worker {
    /// The clocks.
    pub clock: Clock,
    /// Metrics that belong to nobody else.
    pub metrics: Global,
    engine: RefCell<Engine>,
    random: RefCell<fastrand::Rng>,
    flights: RefCell<HashMap<u64, Rc<InFlight>>>,
    next_flight: Cell<u64>,
    /// Number of this VM.
    vm: u64,
    /// Requests in flight, whether or not their attempts can find them.
    aboard: Rc<Cell<u64>>,
    /// When this VM last said what it holds.
    reported: Cell<Option<Micros>>,
    secrets: RefCell<BTreeMap<String, Secret>>,
    /// Every plan that something still holds, in the order in which they came.
    pub routers: RefCell<Vec<Weak<Router>>>,
    /// Contexts of the `keys` role that are configured on this worker.
    keys_roles: Cell<u32>,
    pools: RefCell<Pools>,
    /// Use of keys by the pool's name: it outlives reloads.
    pub usages: RefCell<BTreeMap<String, Rc<RefCell<Usage>>>>,
    /// Alerts to be posted.
    pub outbox: RefCell<Outbox>,
}

/// A plan in service: with its states, its keys and its metrics.
pub struct Router {
    /// The configuration.
    pub plan: Plan,
    /// Per deployment.
    pub bindings: Vec<Binding>,
    /// Per deployment.
    pub metrics: Vec<DeploymentMetrics>,
    /// Per pool.
    pub pool_metrics: Vec<PoolMetrics>,
    /// Per pool; made anew when secrets come.
    pub rings: RefCell<Vec<Ring>>,
    /// Per pool: its keys' states.
    pub pools: Vec<Rc<RefCell<PoolState>>>,
    /// Per pool: how much its keys are used.
    pub usages: Vec<Rc<RefCell<Usage>>>,
    /// Name of the filter that it was configured for.
    pub plugin: Vec<u8>,
    /// Its context has ended; only streams still under way keep it.
    pub retired: Cell<bool>,
    /// It has served, or ticked: this is not the throw-away VM that checks a configuration.
    pub served: Cell<bool>,
    /// An attempt has found the cluster header: the route leaves it there, to read it again before a retry.
    header_kept: Cell<bool>,
}

/// A request between its headers and its log entry.
pub struct InFlight {
    /// The plan it was decided by.
    pub router: Rc<Router>,
    /// Index of the deployment.
    pub deployment: usize,
    /// The decision and its circumstances.
    pub assigned: Assigned,
    /// The key that the router role has put in. It goes with the first attempt; with `inject: attempt` the `keys` role, where
    /// there is one, puts in another for each further one.
    pub router_key: Cell<Carried>,
    /// The client's own headers where the version has changed them, for a failover to stable.
    pub before: Option<Before>,
    /// An attempt has gone to an endpoint with a label: its cluster is an aggregate, and the label says which member it is of.
    pub labelled: Cell<bool>,
    /// The canary it was assigned to has no key left for another attempt: the next one goes to stable, if the route can.
    pub out_of_keys: Cell<bool>,
    /// Its attempts.
    pub flight: RefCell<Flight>,
    /// The requests in flight on this worker, of which it is one for as long as anybody holds it; see [`Worker::board`].
    pub aboard: Rc<Cell<u64>>,
}

impl Worker {
    fn new() -> Worker {
        Worker {
            clock: Clock::new(),
            metrics: Global::new(),
            engine: RefCell::default(),
            random: RefCell::new(fastrand::Rng::with_seed(host::seed())),
            flights: RefCell::default(),
            // A number outlives the VM that gave it, in a request that is still under way when another VM takes over. Numbers
            // of two VMs must not meet, or one request would be taken for another.
            next_flight: Cell::new(host::seed()),
            vm: host::seed(),
            aboard: Rc::default(),
            reported: Cell::new(None),
            // A VM that is built anew after a trap has its router before its `keys` role, which an attempt brings: until then
            // the document that was kept last serves.
            secrets: RefCell::new(kept_secrets()),
            routers: RefCell::default(),
            keys_roles: Cell::new(0),
            pools: RefCell::default(),
            usages: RefCell::default(),
            outbox: RefCell::default(),
        }
    }

    /// This thread's worker.
    pub fn current() -> Rc<Worker> {
        WORKER.with(Rc::clone)
    }

    /// 64 uniform random bits.
    pub fn random(&self) -> u64 {
        self.random.try_borrow_mut().map_or(0, |mut random| random.u64(..))
    }

    /// Puts a plan in service.
    pub fn install(&self, plan: Plan) -> Rc<Router> {
        let bindings = self.engine.try_borrow_mut().map(|mut e| e.attach(&plan)).unwrap_or_default();
        let router = Rc::new(Router {
            bindings,
            metrics: plan.deployments.iter().map(DeploymentMetrics::new).collect(),
            pool_metrics: plan.pools.iter().map(PoolMetrics::new).collect(),
            rings: RefCell::default(),
            pools: self
                .pools
                .try_borrow_mut()
                .map(|mut pools| plan.pools.iter().map(|pool| pools.attach(&pool.name)).collect())
                .unwrap_or_default(),
            usages: self.usages_of(&plan),
            plugin: host::property(&["plugin_name"]).unwrap_or_default(),
            retired: Cell::new(false),
            served: Cell::new(false),
            header_kept: Cell::new(false),
            plan,
        });
        self.fill_rings(&router);
        let now = self.clock.mono();
        router.bindings.iter().for_each(|binding| binding.prime(&SharedData, now, &mut Notes::default()));
        if let Ok(mut routers) = self.routers.try_borrow_mut() {
            routers.retain(|held| held.strong_count() > 0);
            routers.push(Rc::downgrade(&router));
        }
        router
    }

    /// Counts what was dropped.
    pub fn count(&self, dropped: Vec<(Dropped, u64)>) {
        for (what, count) in dropped {
            self.metrics.dropped(what, count);
        }
    }

    /// Drops the states that only this plan bound.
    pub fn retire(&self, router: Rc<Router>) {
        let served = router.served.get();
        router.retired.set(true);
        drop(router);
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.sweep(&SharedData, served);
        }
    }

    /// Takes over a secrets document.
    pub fn set_secrets(&self, secrets: BTreeMap<String, Secret>) {
        if let Ok(mut held) = self.secrets.try_borrow_mut() {
            *held = secrets;
        }
        let routers: Vec<Rc<Router>> = self
            .routers
            .try_borrow()
            .map(|all| all.iter().filter_map(Weak::upgrade).collect())
            .unwrap_or_default();
        routers.iter().for_each(|router| self.fill_rings(router));
    }

    fn fill_rings(&self, router: &Router) {
        if let (Ok(secrets), Ok(mut rings)) = (self.secrets.try_borrow(), router.rings.try_borrow_mut()) {
            *rings = router.plan.pools.iter().map(|pool| Ring::new(pool, &secrets)).collect();
        }
    }

    /// A context of the `keys` role was configured (`+1`) or has ended (`-1`).
    pub fn count_keys_role(&self, by: i32) {
        self.keys_roles.set(self.keys_roles.get().saturating_add_signed(by));
    }

    /// Whether there is a `keys` role on this worker at all.
    pub fn has_keys_role(&self) -> bool {
        self.keys_roles.get() > 0
    }

    /// Counts one more request in flight, which takes itself off what is returned when it is dropped.
    pub fn board(&self) -> Rc<Cell<u64>> {
        self.aboard.set(self.aboard.get().saturating_add(1));
        Rc::clone(&self.aboard)
    }

    /// Says, when it is time to, what this VM holds, and shows what all of them do.
    pub fn report(&self, now: Micros) {
        if self.reported.get().is_some_and(|last| now.since(last) < census::PERIOD) {
            return;
        }
        self.reported.set(Some(now));
        let held = Holding { in_flight: self.aboard.get(), memory: host::memory() };
        let sum = update(&SharedData, CENSUS, &mut |bytes| {
            let mut census = match Census::decode(bytes) {
                Found::Undecodable => return Change::Keep(Err(Dropped::Undecodable)),
                Found::Value(census) => census,
                Found::Nothing => Census::default(),
            };
            census.report(self.vm, held, now);
            Change::Write(census.encode(), Ok(census.sum()))
        });
        match sum {
            Ok(Ok(sum)) => {
                self.metrics.in_flight.record(sum.in_flight);
                self.metrics.memory.record(sum.memory);
            }
            Ok(Err(what)) => self.metrics.dropped(what, 1),
            // The next report says the same, or better.
            Err(_) => {}
        }
    }

    /// Registers a request, so that its attempts find it; returns its number.
    pub fn launch(&self, request: &Rc<InFlight>) -> u64 {
        let id = self.next_flight.get();
        self.next_flight.set(id.wrapping_add(1));
        if let Ok(mut flights) = self.flights.try_borrow_mut() {
            flights.insert(id, Rc::clone(request));
        }
        id
    }

    /// The request of this number, while it lasts.
    pub fn in_flight(&self, id: u64) -> Option<Rc<InFlight>> {
        self.flights.try_borrow().ok()?.get(&id).cloned()
    }

    /// Forgets a request.
    pub fn land(&self, id: u64) {
        if let Ok(mut flights) = self.flights.try_borrow_mut() {
            flights.remove(&id);
        }
    }

    /// Records judgements about a request's attempts. `wait`: what the response says of a rate limit.
    pub fn record(&self, request: &InFlight, judgements: &[Judgement], wait: Option<Millis>, now: Now) {
        let Some(deployment) = request.deployment() else { return };
        let Some(binding) = request.router.bindings.get(request.deployment) else { return };
        let metrics = request.router.metrics.get(request.deployment);
        let mut notes = Notes::default();
        for judgement in judgements {
            let to_stable = judgement.carried.to_stable;
            let version = if to_stable { deployment.stable } else { request.version() };
            if let (Some(metrics), Some(outcome)) =
                (metrics.and_then(|m| m.versions.get(version)), judgement.outcome)
            {
                metrics.attempts.count(outcome);
            }
            if let Some((pool, key)) = judgement.carried.key {
                self.blame_key(&request.router, (pool, key), judgement, wait, now, &mut notes);
            }
            if let Some(event) = judgement.event {
                // What a failover does to stable is no sample of stable's share.
                let forced = to_stable.then(|| binding.forced(deployment.stable));
                let assigned = forced.as_ref().unwrap_or(&request.assigned);
                binding.record(deployment, assigned, event, &SharedData, now, &mut notes);
            }
        }
        self.tell(&request.router, request.deployment, notes);
    }

    /// Counts an attempt for its key, and reports to the pool what it says about it.
    fn blame_key(
        &self,
        router: &Router,
        (n, key): (usize, usize),
        judgement: &Judgement,
        wait: Option<Millis>,
        now: Now,
        notes: &mut Notes,
    ) {
        let metrics = router.pool_metrics.get(n);
        if let (Some(outcome), Some((requests, _))) =
            (judgement.outcome, metrics.and_then(|m| m.keys.get(key)))
        {
            requests.count(outcome);
            if let (Some(fingerprint), Some(Ok(mut usage))) =
                (judgement.carried.fingerprint, router.usages.get(n).map(|usage| usage.try_borrow_mut()))
            {
                usage.count(fingerprint, outcome, now.wall);
            }
        }
        let (Some(fault), Some(pool)) = (fault_of(judgement, wait), router.plan.pools.get(n)) else { return };
        let (Ok(rings), Some(state)) = (router.rings.try_borrow(), router.pools.get(n)) else { return };
        let (Some(ring), Ok(mut state)) = (rings.get(n), state.try_borrow_mut()) else { return };
        // The secret may have been rotated meanwhile: what the old one did is not the new one's fault.
        if ring.fingerprint(key) != judgement.carried.fingerprint {
            return;
        }
        let times = (judgement.began, now.mono);
        let moved = state.report(pool, ring, key, fault, times, &SharedData, notes);
        for moved in &moved {
            let id = pool.keys.get(moved.key).map_or("", |key| key.id.as_str());
            host::info(&events::key_line(&pool.name, id, moved, now));
        }
        drop(rings);
        let lost_one = moved.iter().any(|moved| moved.from == Status::Active);
        if lost_one && !router.pool_usable(&state, n, now.mono) {
            self.publish(router, POOL_EVENTS, events::pool_line(&pool.name, now));
        }
    }

    /// A request is over: counts it, and ends its probe, if it was one.
    pub fn finish(&self, request: &InFlight, outcome: Outcome, now: Now) {
        let metrics = request.router.metrics.get(request.deployment);
        if let Some(version) = metrics.and_then(|metrics| metrics.versions.get(request.served_by())) {
            version.requests.count(outcome);
        }
        if request.assigned.lease.is_some()
            && let Some(deployment) = request.deployment()
            && let Some(binding) = request.router.bindings.get(request.deployment)
        {
            // What stable made of it after a failover says nothing about the canary.
            let by_stable = request.served_by() != request.version();
            let good = match outcome {
                _ if by_stable => None,
                Outcome::Good => Some(true),
                Outcome::Bad => Some(false),
                _ => None,
            };
            let mut notes = Notes::default();
            binding.finish(deployment, &request.assigned, good, &SharedData, now, &mut notes);
            self.tell(&request.router, request.deployment, notes);
        }
    }

    /// Logs and counts what the engine reports.
    pub fn tell(&self, router: &Router, deployment: usize, notes: Notes) {
        self.count(notes.dropped);
        let moved = !notes.transitions.is_empty();
        for transition in notes.transitions {
            self.publish(router, EVENTS, events::line(&transition, self.clock.now().wall));
            let rolled_back = transition.enforced && transition.to == "rolled_back";
            if let (true, Some(cause)) = (rolled_back, &transition.cause)
                && let Some(plan) = router.plan.deployments.get(deployment)
                && let Some(n) = plan.versions.iter().position(|v| v.id == transition.version)
                && let Some(metrics) = router.metrics.get(deployment).and_then(|m| m.versions.get(n))
            {
                metrics.rollback(&cause.label);
            }
        }
        if moved {
            router.show(deployment);
        }
    }

    /// Logs an event, keeps it in shared data and, with `alerts`, has it posted. Only the worker that made a transition gets
    /// here with it, so each is published once.
    fn publish(&self, router: &Router, log: &str, line: String) {
        host::warn(&line);
        let kept = update(&SharedData, log, &mut |bytes| match EventLog::decode(bytes) {
            Found::Undecodable => Change::Keep(false),
            found => {
                let mut log = if let Found::Value(log) = found { log } else { EventLog::default() };
                log.push(&line);
                Change::Write(log.encode(), true)
            }
        });
        if kept != Ok(true) {
            self.metrics.dropped_label("event", 1);
        }
        self.alert(router, line);
    }

    fn alert(&self, router: &Router, line: String) {
        if let (Some(alerts), Ok(mut outbox)) = (&router.plan.alerts, self.outbox.try_borrow_mut())
            && !outbox.push(alerts.clone(), line)
        {
            self.metrics.dropped_label("alert", 1);
        }
    }
}

/// Keeps the secrets document in shared data, which no page of Envoy shows, for a VM that has to be built anew.
pub fn keep_secrets(document: &[u8]) {
    let value = [&[SCHEMA], document].concat();
    let _ = update(&SharedData, SECRETS, &mut |held| {
        if held == Some(value.as_slice()) { Change::Keep(()) } else { Change::Write(value.clone(), ()) }
    });
}

fn kept_secrets() -> BTreeMap<String, Secret> {
    let held = SharedData.get(SECRETS).ok().flatten();
    let document = held.as_ref().and_then(|held| held.bytes.strip_prefix(&[SCHEMA]));
    document.and_then(|document| config::secrets(document).ok()).unwrap_or_default()
}

/// What a judgement says about the key that the attempt carried; `None`: nothing.
fn fault_of(judgement: &Judgement, wait: Option<Millis>) -> Option<Fault> {
    // By the status first: a guard may count 429 against the version as well.
    match (judgement.status, judgement.event?) {
        (Some(429), _) => Some(Fault::Limited(wait)),
        (Some(401 | 403), _) => Some(Fault::Rejected),
        (_, Event::Broke) => Some(Fault::Failing),
        (_, Event::Answered { outcome, .. }) => match outcome {
            Outcome::Good | Outcome::CallerError => Some(Fault::None),
            Outcome::Bad => Some(Fault::Failing),
            Outcome::Cancelled => Some(Fault::Nothing),
            _ => None,
        },
        (_, Event::Completed) => None,
    }
}

impl Router {
    /// Writes a deployment's gauges.
    pub fn show(&self, deployment: usize) {
        let (Some(plan), Some(binding), Some(metrics)) = (
            self.plan.deployments.get(deployment),
            self.bindings.get(deployment),
            self.metrics.get(deployment),
        ) else {
            return;
        };
        metrics.phase.show(binding.phase_gauge(plan));
        metrics.evidence.show(binding.evidence(plan));
        for (version, weight) in metrics.versions.iter().zip(binding.effective_weights(plan).iter()) {
            version.weight.show(u64::from(*weight));
        }
    }

    /// Reads the states of the keys, if that is due, and writes their gauges.
    pub fn show_keys(&self, now: Micros, notes: &mut Notes) {
        let Ok(rings) = self.rings.try_borrow() else { return };
        for ((ring, metrics), state) in rings.iter().zip(&self.pool_metrics).zip(&self.pools) {
            let Ok(mut state) = state.try_borrow_mut() else { continue };
            state.refresh(&SharedData, now, notes);
            for (n, (_, status)) in metrics.keys.iter().enumerate() {
                status.show(state.memory(ring, n).status.gauge());
            }
        }
    }

    /// Whether the route reads the cluster header again before a retry. One that does not has removed it, and a provider need
    /// not see it. Asks the host until it is there once.
    pub fn route_keeps_header(&self) -> bool {
        if !self.header_kept.get() {
            self.header_kept.set(host::has_request_header(&self.plan.cluster_header));
        }
        self.header_kept.get()
    }

    /// A key of a pool for an attempt.
    pub fn pick(&self, n: usize, wish: Wish<'_>, notes: &mut Notes) -> Option<Pick> {
        let pool = self.plan.pools.get(n)?;
        let rings = self.rings.try_borrow().ok()?;
        let mut state = self.pools.get(n)?.try_borrow_mut().ok()?;
        Some(state.pick(pool, rings.get(n)?, wish, &SharedData, notes))
    }

    /// Whether a request could have a key of this pool now, and else when the first one comes back by itself, if one does.
    pub fn outlook(&self, n: usize, now: Micros) -> Result<(), Option<Millis>> {
        let rings = self.rings.try_borrow().map_err(|_| None)?;
        let (ring, state) = (rings.get(n).ok_or(None)?, self.pools.get(n).ok_or(None)?);
        let state = state.try_borrow().map_err(|_| None)?;
        if state.usable(ring, now) { Ok(()) } else { Err(state.returns_in(ring, now)) }
    }

    fn pool_usable(&self, state: &PoolState, n: usize, now: Micros) -> bool {
        self.rings.try_borrow().is_ok_and(|rings| rings.get(n).is_some_and(|ring| state.usable(ring, now)))
    }

    /// Puts a key's value into the pool's header in place of whatever is there, and says what the request carries now.
    pub fn put_in(&self, (n, key): (usize, usize), to_stable: bool) -> Carried {
        let carried = Carried { to_stable, ..Carried::default() };
        let Some(pool) = self.plan.pools.get(n) else { return carried };
        let rings = self.rings.try_borrow().ok();
        let ring = rings.as_ref().and_then(|rings| rings.get(n));
        let Some((ring, value)) = ring.and_then(|ring| Some((ring, ring.value(key)?))) else {
            // Nothing to put in, but what the client sent is not for this upstream.
            host::remove_request_header(&pool.header);
            return carried;
        };
        host::set_request_header(&pool.header, value.expose().as_bytes());
        Carried { key: Some((n, key)), fingerprint: ring.fingerprint(key), to_stable }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.aboard.set(self.aboard.get().saturating_sub(1));
    }
}

impl InFlight {
    /// The deployment of the plan it was decided by.
    pub fn deployment(&self) -> Option<&Deployment> {
        self.router.plan.deployments.get(self.deployment)
    }

    /// The guard it is judged by.
    pub fn guard<'a>(&self, deployment: &'a Deployment) -> &'a Guard {
        deployment.guard_at(self.assigned.stage)
    }

    /// Index of the version.
    pub fn version(&self) -> usize {
        self.assigned.choice.version
    }

    /// Index of the version that the last attempt went to.
    pub fn served_by(&self) -> usize {
        let by_stable = self.flight.try_borrow().is_ok_and(|flight| flight.served_by_stable());
        match self.deployment() {
            Some(deployment) if by_stable => deployment.stable,
            _ => self.version(),
        }
    }
}

/// The smallest latency limit: a client that leaves later than this has waited too long.
pub fn impatience(guard: &Guard) -> Option<Millis> {
    let limits = &guard.max_latency;
    [limits.avg, limits.p50, limits.p95, limits.p99].into_iter().flatten().min()
}
