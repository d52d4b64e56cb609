//! A request in flight, as the router role and the attempts of the `keys` role share it.

use std::cell::Cell;
use std::rc::Rc;

use super::body::RequestBody;
use super::requests::InFlight;
use super::rewrite::OriginalHeaders;
use super::service::Service;
use crate::engine::Assigned;
use crate::hash::hash;
use crate::host;
use crate::outcome::attempts::Attempts;
use crate::outcome::judgement::Carried;
use crate::plan::guard::Guard;
use crate::plan::matching::address_without_port;
use crate::plan::{Deployment, Version};
use crate::shared::cell::SharedCell;
use crate::time::Millis;

/// The name of no cluster.
const NOWHERE: &[u8] = b"\n";

/// A request between its headers and its end.
pub struct Request {
    /// The plan it was decided by.
    pub service: Rc<Service>,
    /// Index of the deployment.
    pub deployment: usize,
    /// The decision and its circumstances.
    pub assigned: Assigned,
    /// The key that the router role has put in. It goes with the first attempt. With `inject: attempt` the `keys` role, where
    /// there is one, puts in another key for each further attempt.
    pub router_key: Cell<Carried>,
    /// The client's own headers where the version has changed them, for a failover to stable.
    pub original: Option<OriginalHeaders>,
    /// An attempt has gone to an endpoint with a label: its cluster is an aggregate, and the label names the member.
    pub labelled: Cell<bool>,
    /// The canary it was assigned to has no key left for another attempt: the next one goes to stable, if the route can.
    pub out_of_keys: Cell<bool>,
    /// The body, where a version of the deployment changes it.
    pub body: Option<RequestBody>,
    /// The length of the body was announced anew, for an attempt. The map of headers keeps it.
    pub announced: Cell<bool>,
    /// The route was told to go to stable with the next attempt.
    pub stable_named: Cell<bool>,
    /// The route was told so by the property that it reads before the cluster header.
    pub next_named: Cell<bool>,
    /// Hash of the client's identity, once it was needed.
    pub client: Cell<Option<u64>>,
    /// Its attempts.
    pub attempts: SharedCell<Attempts>,
    /// Keeps it in the number of requests in flight.
    pub _in_flight: InFlight,
}

impl Request {
    /// Returns the deployment of the plan it was decided by.
    pub fn deployment(&self) -> Option<&Deployment> {
        self.service.plan.deployments.get(self.deployment)
    }

    /// Returns the guard it is judged by.
    pub fn guard<'a>(&self, deployment: &'a Deployment) -> &'a Guard {
        deployment.guard_at(self.assigned.stage)
    }

    /// Returns where another VM may send it that takes over from this one: to the cluster that it was last rewritten for. A body
    /// that is changed on its way only this VM can send.
    pub fn home<'a>(&self, version: &'a Version) -> &'a [u8] {
        if self.body.is_some() { NOWHERE } else { version.cluster.as_bytes() }
    }

    /// Returns the index of the version it was assigned to.
    pub fn version(&self) -> usize {
        self.assigned.choice.version
    }

    /// Returns the hash of the client's identity: the sticky one, or else that of its address.
    pub fn client(&self) -> u64 {
        if let Some(known) = self.assigned.choice.identity.or(self.client.get()) {
            return known;
        }
        let address = host::source_address().unwrap_or_default();
        let hashed = hash(&[b"bellwether/client", address_without_port(&address)]);
        self.client.set(Some(hashed));
        hashed
    }

    /// Has the route choose this cluster, stable's, for the next attempt.
    pub fn name_next_cluster(&self, stable: &str) {
        self.stable_named.set(true);
        self.next_named.set(true);
        host::set_next_cluster(stable);
    }

    /// Returns the index of the version that the last attempt went to.
    pub fn served_by(&self) -> usize {
        let by_stable = self.attempts.with(|attempts| attempts.served_by_stable()) == Some(true);
        match self.deployment() {
            Some(deployment) if by_stable => deployment.stable,
            _ => self.version(),
        }
    }
}

/// Returns the smallest latency limit: a client that leaves later than this has waited too long.
pub fn smallest_latency_limit(guard: &Guard) -> Option<Millis> {
    let limits = &guard.max_latency;
    [limits.avg, limits.p50, limits.p95, limits.p99].into_iter().flatten().min()
}
