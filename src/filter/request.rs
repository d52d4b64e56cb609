//! A request in flight, as the router role and the attempts of the `keys` role share it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::rewrite::OriginalHeaders;
use super::service::Service;
use crate::engine::Assigned;
use crate::outcome::attempts::Attempts;
use crate::outcome::judgement::Carried;
use crate::plan::Deployment;
use crate::plan::guard::Guard;
use crate::time::Millis;

/// A request between its headers and its end.
pub struct Request {
    /// The plan it was decided by.
    pub service: Rc<Service>,
    /// Index of the deployment.
    pub deployment: usize,
    /// The decision and its circumstances.
    pub assigned: Assigned,
    /// The key that the router role has put in. It goes with the first attempt; with `inject: attempt` the `keys` role, where
    /// there is one, puts in another for each further one.
    pub router_key: Cell<Carried>,
    /// The client's own headers where the version has changed them, for a failover to stable.
    pub original: Option<OriginalHeaders>,
    /// An attempt has gone to an endpoint with a label: its cluster is an aggregate, and the label says which member it is of.
    pub labelled: Cell<bool>,
    /// The canary it was assigned to has no key left for another attempt: the next one goes to stable, if the route can.
    pub out_of_keys: Cell<bool>,
    /// Its attempts.
    pub attempts: RefCell<Attempts>,
    /// The requests in flight on this worker, of which it is one for as long as anybody holds it; see [`Worker::board`].
    pub in_flight: Rc<Cell<u64>>,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }
}

impl Request {
    /// The deployment of the plan it was decided by.
    pub fn deployment(&self) -> Option<&Deployment> {
        self.service.plan.deployments.get(self.deployment)
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
        let by_stable = self.attempts.try_borrow().is_ok_and(|attempts| attempts.served_by_stable());
        match self.deployment() {
            Some(deployment) if by_stable => deployment.stable,
            _ => self.version(),
        }
    }
}

/// The smallest latency limit: a client that leaves later than this has waited too long.
pub fn smallest_latency_limit(guard: &Guard) -> Option<Millis> {
    let limits = &guard.max_latency;
    [limits.avg, limits.p50, limits.p95, limits.p99].into_iter().flatten().min()
}
