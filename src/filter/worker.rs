//! What all contexts of one worker share: they live in one VM, on one thread, so plain cells do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::rc::{Rc, Weak};

use super::alerts::Outbox;
use super::metrics::{DeploymentMetrics, Global, KeyMetrics};
use super::request::Request;
use super::service::Service;
use crate::engine::{Engine, Notes};
use crate::hash::Spread;
use crate::host::{self, Clock, SharedData, UpstreamOk};
use crate::keys::documents::Documents;
use crate::keys::key_set::KeySet;
use crate::keys::pool::Pools;
use crate::keys::usage::WorkerUsage;
use crate::plan::Plan;
use crate::plan::pool::Secret;
use crate::shared::census::{self, Census, Holding};
use crate::shared::codec::Found;
use crate::shared::dropped::{Dropped, Drops};
use crate::shared::names::{CENSUS, DOCUMENTS};
use crate::shared::store::{Change, Store, update};
use crate::time::Micros;

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
    flights: RefCell<HashMap<u64, Rc<Request>, BuildHasherDefault<Spread>>>,
    next_flight: Cell<u64>,
    /// The last one registered, until its first attempt has begun: most often that is what comes next.
    latest: Cell<Option<u64>>,
    /// Number of this VM.
    vm: u64,
    /// Requests in flight, whether or not their attempts can find them.
    in_flight: Rc<Cell<u64>>,
    /// When this VM last said what it holds.
    reported: Cell<Option<Micros>>,
    documents: RefCell<Documents>,
    /// Every plan that something still holds, in the order in which they came.
    pub services: RefCell<Vec<Weak<Service>>>,
    /// Contexts of the `keys` role that are configured on this worker.
    keys_roles: Cell<u32>,
    pools: RefCell<Pools>,
    /// Use of keys by the pool's name: it outlives reloads.
    pub usages: RefCell<BTreeMap<String, Rc<RefCell<WorkerUsage>>>>,
    /// Alerts to be posted.
    pub outbox: RefCell<Outbox>,
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
            latest: Cell::new(None),
            vm: host::seed(),
            in_flight: Rc::default(),
            reported: Cell::new(None),
            // A VM that is built anew after a trap has its router before its `keys` role, which an attempt brings: until then
            // the documents that were kept last serve.
            documents: RefCell::new(kept_documents()),
            services: RefCell::default(),
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
    pub fn install(&self, plan: Plan) -> Rc<Service> {
        let bindings = self.engine.try_borrow_mut().map(|mut e| e.attach(&plan)).unwrap_or_default();
        let service = Rc::new(Service {
            bindings,
            metrics: plan.deployments.iter().map(DeploymentMetrics::new).collect(),
            pool_metrics: plan.pools.iter().map(KeyMetrics::of).collect(),
            key_sets: RefCell::default(),
            pools: self
                .pools
                .try_borrow_mut()
                .map(|mut pools| plan.pools.iter().map(|pool| pools.attach(&pool.name)).collect())
                .unwrap_or_default(),
            usages: self.usages_of(&plan),
            plugin: host::property("plugin_name").unwrap_or_default(),
            retired: Cell::new(false),
            served: Cell::new(false),
            header_kept: Cell::new(false),
            upstream_ok: UpstreamOk::new(),
            plan,
        });
        self.fill_key_sets(&service);
        let now = self.clock.mono();
        service.bindings.iter().for_each(|binding| binding.prime(&SharedData, now, &mut Notes::default()));
        if let Ok(mut services) = self.services.try_borrow_mut() {
            services.retain(|held| held.strong_count() > 0);
            services.push(Rc::downgrade(&service));
        }
        service
    }

    /// Counts what was dropped.
    pub fn count_dropped(&self, dropped: Drops) {
        for (what, count) in dropped.0 {
            self.metrics.dropped(what, count);
        }
    }

    /// Drops the states that only this plan bound.
    pub fn retire(&self, service: Rc<Service>) {
        let served = service.served.get();
        service.retired.set(true);
        drop(service);
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.sweep(&SharedData, served);
        }
    }

    /// A router is given a new request: of those of its filter it is the one in service.
    pub fn in_service(&self, service: &Rc<Service>) {
        let Ok(mut services) = self.services.try_borrow_mut() else { return };
        if services.last().is_some_and(|last| std::ptr::eq(last.as_ptr(), Rc::as_ptr(service))) {
            return;
        }
        let at = services.iter().position(|held| std::ptr::eq(held.as_ptr(), Rc::as_ptr(service)));
        let Some(at) = at else { return };
        let behind = services.iter().skip(at.saturating_add(1)).filter_map(Weak::upgrade);
        if behind.into_iter().any(|other| other.plugin == service.plugin) {
            let held = services.remove(at);
            services.push(held);
        }
    }

    /// Whether this very copy of a secrets document is in force.
    pub fn has_document(&self, document: &Rc<[u8]>) -> bool {
        self.documents.try_borrow().is_ok_and(|held| held.is_in_force(document))
    }

    /// Puts a secrets document in force, in place of the filter's former one.
    pub fn take_document(&self, filter: &str, document: &Rc<[u8]>, secrets: BTreeMap<String, Secret>) {
        if let Ok(mut held) = self.documents.try_borrow_mut() {
            held.insert(filter, document, secrets);
        }
        self.fill_all_key_sets();
    }

    /// The role that had this document has ended.
    pub fn drop_document(&self, document: &Rc<[u8]>) {
        if self.documents.try_borrow_mut().is_ok_and(|mut held| held.remove(document)) {
            self.fill_all_key_sets();
        }
    }

    fn fill_all_key_sets(&self) {
        let services: Vec<Rc<Service>> = self
            .services
            .try_borrow()
            .map(|all| all.iter().filter_map(Weak::upgrade).collect())
            .unwrap_or_default();
        let now = self.clock.now();
        for service in services {
            let usable = |n: &usize| service.outlook(*n, now.mono).is_ok();
            let before: Vec<usize> = (0..).take(service.plan.pools.len()).filter(usable).collect();
            self.fill_key_sets(&service);
            let lost = before.iter().filter(|n| service.served.get() && !usable(n));
            for pool in lost.filter_map(|n| service.plan.pools.get(*n)) {
                self.publish_exhausted(&service, &pool.name, now);
            }
        }
    }

    fn fill_key_sets(&self, service: &Service) {
        if let (Ok(documents), Ok(mut key_sets)) =
            (self.documents.try_borrow(), service.key_sets.try_borrow_mut())
        {
            let secrets = documents.secrets();
            *key_sets = service.plan.pools.iter().map(|pool| KeySet::new(pool, &secrets)).collect();
        }
    }

    /// Keeps the secrets documents in shared data, which no page of Envoy shows, for a VM that has to be built anew.
    pub fn keep_documents(&self) {
        let Ok(value) = self.documents.try_borrow().map(|held| held.encode()) else { return };
        let _ = update(&SharedData, DOCUMENTS, &mut |held| {
            if held == Some(value.as_slice()) { Change::Keep(()) } else { Change::Write(value.clone(), ()) }
        });
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
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        Rc::clone(&self.in_flight)
    }

    /// Says, when it is time to, what this VM holds, and shows what all of them do.
    pub fn report_census(&self, now: Micros) {
        if self.reported.get().is_some_and(|last| now.since(last) < census::PERIOD) {
            return;
        }
        self.reported.set(Some(now));
        let held = Holding { in_flight: self.in_flight.get(), memory: host::memory() };
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
                self.metrics.census(sum.in_flight, sum.memory);
            }
            Ok(Err(what)) => self.metrics.dropped(what, 1),
            // The next report says the same, or better.
            Err(_) => {}
        }
    }

    /// Registers a request, so that its attempts find it; returns its number.
    pub fn launch(&self, request: &Rc<Request>) -> u64 {
        let id = self.next_flight.get();
        self.next_flight.set(id.wrapping_add(1));
        if let Ok(mut flights) = self.flights.try_borrow_mut() {
            flights.insert(id, Rc::clone(request));
        }
        self.latest.set(Some(id));
        id
    }

    /// The number of the request that was registered last, if it was not asked for since: an attempt that begins now is
    /// probably its first one.
    pub fn take_latest(&self) -> Option<u64> {
        self.latest.take()
    }

    /// The request of this number, while it lasts.
    pub fn in_flight(&self, id: u64) -> Option<Rc<Request>> {
        self.flights.try_borrow().ok()?.get(&id).cloned()
    }

    /// Forgets a request.
    pub fn land(&self, id: u64) {
        if let Ok(mut flights) = self.flights.try_borrow_mut() {
            flights.remove(&id);
        }
    }
}

fn kept_documents() -> Documents {
    let held = SharedData.get(DOCUMENTS).ok().flatten();
    match Documents::decode(held.as_ref().map(|held| held.bytes.as_slice())) {
        Found::Value(documents) => documents,
        Found::Nothing | Found::Undecodable => Documents::default(),
    }
}
