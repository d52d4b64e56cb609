//! The start of an attempt: which version it goes to, with which key, and its entry in the ledger of the request.

use std::cell::OnceCell;

use super::has_fresh_key;
use crate::filter::pool::Exhausted;
use crate::filter::request::Request;
use crate::filter::rewrite::rewrite;
use crate::filter::service::turn;
use crate::filter::worker::Worker;
use crate::host;
use crate::keys::pool::KeyQuery;
use crate::llm::LITE;
use crate::llm::edit::Edits;
use crate::outcome::attempts::Attempts;
use crate::outcome::judgement::Carried;
use crate::outcome::member::{Clusters, Side};
use crate::plan::pool::Inject;
use crate::plan::{Deployment, Version};
use crate::time::Now;

/// The attempts of a request before this one.
#[derive(Clone, Copy)]
pub struct Earlier {
    /// The `keys` role has seen none of them.
    none_seen: bool,
    /// The last one went to stable by failover.
    last_to_stable: bool,
    /// How many the assigned version has had.
    on_assigned: u32,
}

impl Earlier {
    /// Reads them from the ledger.
    pub fn of(attempts: &Attempts) -> Earlier {
        Earlier {
            none_seen: !attempts.seen_by_keys_role(),
            last_to_stable: attempts.served_by_stable(),
            on_assigned: attempts.count_on_assigned(),
        }
    }
}

/// The version that an attempt goes to.
#[derive(Clone, Copy)]
struct Target<'a> {
    version: &'a Version,
    /// It is stable instead of the canary that the request was assigned to.
    to_stable: bool,
}

/// Returns the version that an attempt goes to; `None` if it is unknown. Envoy chooses it, by the route or by the member of an
/// aggregate cluster.
fn choose_target<'a>(request: &Request, deployment: &'a Deployment, earlier: Earlier) -> Option<Target<'a>> {
    let assigned = deployment.versions.get(request.version())?;
    if request.original.is_none() {
        return Some(Target { version: assigned, to_stable: false });
    }
    let stable = deployment.versions.get(deployment.stable)?;
    let label = host::attempt_label();
    let clusters = Clusters {
        assigned: &assigned.cluster,
        stable: &stable.cluster,
        stable_due: request.out_of_keys.get() || failover_is_due(deployment, earlier.on_assigned),
        stable_named: request.stable_named.get(),
        labelled: request.labelled.get(),
    };
    let side = clusters.side(label.as_deref(), &host::attempt_cluster);
    request.labelled.set(clusters.labelled || label.is_some());
    match side {
        Side::Assigned => Some(Target { version: assigned, to_stable: false }),
        Side::Stable => Some(Target { version: stable, to_stable: true }),
        Side::Unknown => None,
    }
}

/// Returns whether the next attempt goes to stable, after this many on the assigned version.
fn failover_is_due(deployment: &Deployment, on_assigned: u32) -> bool {
    deployment.failover.is_some_and(|after| on_assigned >= after)
}

/// An attempt that begins.
pub struct NewAttempt<'a> {
    worker: &'a Worker,
    request: &'a Request,
    deployment: &'a Deployment,
    target: Target<'a>,
    earlier: Earlier,
    /// Read when it is first needed. An attempt that goes as the router has made it began when the request was seen, and needs no
    /// reading.
    now: OnceCell<Now>,
}

impl<'a> NewAttempt<'a> {
    /// Makes an attempt of a request of this deployment; `None` if its target is unknown.
    pub fn new(
        worker: &'a Worker,
        request: &'a Request,
        deployment: &'a Deployment,
        earlier: Earlier,
    ) -> Option<NewAttempt<'a>> {
        let target = choose_target(request, deployment, earlier)?;
        Some(NewAttempt { worker, request, deployment, target, earlier, now: OnceCell::new() })
    }

    fn now(&self) -> Now {
        *self.now.get_or_init(|| self.worker.clock.now())
    }

    /// Rewrites the request if Envoy has gone over to the other version, since the last attempt or before the first. Returns the
    /// credential of the request so far: the first attempt goes with the key that the router has put in.
    pub fn rewrite(&self, id: u64) -> Carried {
        let Target { version, to_stable } = self.target;
        let nothing = Carried { to_stable, ..Carried::default() };
        if to_stable != self.earlier.last_to_stable {
            if let Some(original) = &self.request.original {
                original.restore();
                rewrite(&self.request.service, version, original, None);
            }
            host::set_request_link(id, self.request.home(version));
            nothing
        } else if to_stable {
            nothing
        } else {
            self.request.router_key.get()
        }
    }

    /// Announces the length of the body as this version changes it. Returns the changes, if there are any.
    pub fn announce_body(&self) -> Option<Edits> {
        let body = self.request.body.as_ref().filter(|_| !LITE)?;
        let edits = self.target.version.dialect.edits(&body.seen);
        // The attempts of a request share its headers: the length of an earlier one is still there.
        if !edits.is_empty() || self.request.announced.get() {
            self.request.announced.set(true);
            body.announce(&edits);
        }
        (!edits.is_empty()).then_some(edits)
    }

    /// Puts in a key, if the attempt needs one. Returns the credential of the attempt.
    pub fn take_key(&self, carried: Carried) -> Result<Carried, Exhausted> {
        let Target { version, to_stable } = self.target;
        let service = &self.request.service;
        let Some((n, pool)) = version.pool.and_then(|n| Some((n, service.plan.pools.get(n)?))) else {
            return Ok(carried);
        };
        let own_key = pool.inject == Inject::Attempt && !self.earlier.none_seen;
        if carried.key.is_some() && !own_key {
            return Ok(carried);
        }
        let tried = self.request.attempts.with(|attempts| attempts.tried_keys(n)).unwrap_or_default();
        let identity = self.request.assigned.choice.identity;
        let query = KeyQuery { tried: &tried, identity, random: self.worker.random(), suspects: true };
        let mut turn = turn(self.now());
        let picked = service.pick(n, query, &mut turn);
        self.worker.count_dropped(turn.drops);
        match picked {
            Ok(key) => Ok(service.inject_key(key, to_stable)),
            Err(_) => Err(self.first_return()),
        }
    }

    /// Returns when the first key comes back that the version or stable could use.
    fn first_return(&self) -> Exhausted {
        let stable = self.deployment.versions.get(self.deployment.stable).and_then(|stable| stable.pool);
        let pools = [self.target.version.pool, stable].into_iter().flatten();
        let now = self.now().mono;
        let exhausted = pools.filter_map(|n| self.request.service.availability(n, now).err());
        exhausted.reduce(Exhausted::sooner).unwrap_or_default()
    }

    /// Inserts the attempt into the ledger of its request and records the judgements that follow. Lets a retry go to stable if
    /// failover is due. Returns the attempt's number.
    pub fn insert(&self, carried: Carried) -> Option<usize> {
        let request = self.request;
        let errors = &request.guard(self.deployment).errors;
        let to_stable = self.target.to_stable;
        let passed_over = self.earlier.none_seen && to_stable;
        let mut judged = Vec::new();
        let (number, on_assigned) = request.attempts.with_mut(|attempts| {
            if passed_over {
                judged.extend(attempts.record_skipped(self.now().mono, errors));
            }
            let as_router_made_it = self.earlier.none_seen && !to_stable;
            let began = if as_router_made_it { attempts.seen_at() } else { self.now().mono };
            let number = attempts.begin(began, carried, errors, &mut judged);
            (number, attempts.count_on_assigned())
        })?;
        if passed_over {
            self.worker.record_unused_key(request, self.now());
        }
        if !to_stable && failover_is_due(self.deployment, on_assigned) {
            self.route_retry_to_stable();
        }
        if !judged.is_empty() {
            self.worker.record(request, &judged, self.now());
        }
        Some(number)
    }

    /// Has the route choose stable's cluster if this attempt fails and is retried. With another key at hand a refusal of this one must
    /// be able to change that, so the property says it that can be set after the attempt has begun; else the cluster header does, which
    /// every route that changes the cluster reads.
    fn route_retry_to_stable(&self) {
        let (request, service) = (self.request, &self.request.service);
        let (true, true, Some(stable)) = (
            request.original.is_some(),
            service.route_keeps_header(),
            self.deployment.versions.get(self.deployment.stable),
        ) else {
            return;
        };
        let has_other_key = || {
            let pool = self.target.version.pool;
            pool.is_some_and(|n| has_fresh_key(request, n, self.now().mono))
        };
        if request.next_named.get() || has_other_key() {
            request.name_next_cluster(&stable.cluster);
        } else {
            request.stable_named.set(true);
            host::set_request_header(&service.plan.cluster_header, stable.cluster.as_bytes());
        }
    }
}
