//! The state that all contexts of one worker share. They live in one VM, on one thread, so plain cells do.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::alerts::Outbox;
use super::census::Vm;
use super::metrics::{Global, WarningMetrics};
use super::requests::Requests;
use super::secrets::Secrets;
use super::service::Service;
use super::services::Services;
use crate::host::{self, Clock};
use crate::plan::Plan;
use crate::plan::pool::Secret;
use crate::shared::cell::SharedCell;
use crate::shared::dropped::Drops;
use crate::time::Micros;

thread_local! {
    static WORKER: Rc<Worker> = Rc::new(Worker::new());
}

/// The part of the filter on one worker thread.
pub struct Worker {
    /// The clocks.
    pub clock: Clock,
    /// The metrics that have neither deployment nor pool.
    pub metrics: Global,
    /// The requests in flight.
    pub requests: Requests,
    /// The plans.
    pub services: Services,
    /// The secrets documents.
    pub secrets: Secrets,
    /// The gauges of warnings.
    pub warnings_shown: SharedCell<WarningMetrics>,
    /// Alerts to be posted.
    pub outbox: SharedCell<Outbox>,
    random: SharedCell<fastrand::Rng>,
    vm: Vm,
}

impl Worker {
    fn new() -> Worker {
        Worker {
            clock: Clock::new(),
            metrics: Global::new(),
            requests: Requests::new(host::seed()),
            services: Services::default(),
            secrets: Secrets::read_back(),
            warnings_shown: SharedCell::default(),
            outbox: SharedCell::default(),
            random: SharedCell::new(fastrand::Rng::with_seed(host::seed())),
            vm: Vm::new(host::seed()),
        }
    }

    /// Returns this thread's worker.
    pub fn current() -> Rc<Worker> {
        WORKER.with(Rc::clone)
    }

    /// Returns 64 uniform random bits.
    pub fn random(&self) -> u64 {
        self.random.with_mut(|random| random.u64(..)).unwrap_or(0)
    }

    /// Counts things that were dropped.
    pub fn count_dropped(&self, drops: Drops) {
        for (dropped, count) in drops.0 {
            self.metrics.dropped(dropped, count);
        }
    }

    /// Reports this VM to the census, if that is due.
    pub fn report_census(&self, now: Micros) {
        self.vm.report(self.requests.in_flight(), now, &self.metrics);
    }

    /// Puts a plan in service.
    pub fn install(&self, plan: Plan) -> Rc<Service> {
        self.services.add(plan, &self.secrets.by_name().unwrap_or_default(), self.clock.now())
    }

    /// Puts a secrets document in force, in place of the filter's former one.
    pub fn take_document(&self, filter: &str, document: &Rc<[u8]>, secrets: BTreeMap<String, Secret>) {
        self.secrets.take(filter, document, secrets);
        self.resolve_pools();
    }

    /// Drops the document of a `keys` role that has ended.
    pub fn drop_document(&self, document: &Rc<[u8]>) {
        if self.secrets.drop(document) {
            self.resolve_pools();
        }
    }

    /// Resolves the pools of all plans against the secrets in force, and publishes an event for each pool that has lost its last
    /// usable key.
    fn resolve_pools(&self) {
        let Some(secrets) = self.secrets.by_name() else { return };
        let now = self.clock.now();
        for service in self.services.held() {
            for (pool, live) in service.plan.pools.iter().zip(&service.pools) {
                let is_available = || live.availability(now.mono).is_ok();
                let before = is_available();
                live.resolve(pool, &secrets);
                if before && service.served.get() && !is_available() {
                    self.publish_exhausted(&service, &pool.name, now);
                }
            }
        }
    }
}
