//! The `keys` role: one context an *attempt*, in the upstream chain of Envoy's router.
//!
//! Attempts share one header map with each other and with the downstream filters, so a header is always replaced, never
//! added.

use std::cell::LazyCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::reply;
use super::request::Request;
use super::rewrite::rewrite;
use super::service::{Service, turn};
use super::worker::Worker;
use crate::engine::Notes;
use crate::host;
use crate::keys::pool::{KeyQuery, Pick};
use crate::outcome::attempts::Attempts;
use crate::outcome::flags;
use crate::outcome::judgement::Carried;
use crate::outcome::member::{Clusters, Side};
use crate::plan::pool::{Inject, KeyRef};
use crate::plan::{Deployment, Version};
use crate::shared::dropped::Dropped;
use crate::time::{Micros, Millis};

/// One attempt.
pub struct AttemptStream {
    worker: Rc<Worker>,
    attempt: Option<(Rc<Request>, usize)>,
    answered: bool,
}

impl AttemptStream {
    /// An attempt whose request is not known yet.
    pub fn new(worker: Rc<Worker>) -> AttemptStream {
        AttemptStream { worker, attempt: None, answered: false }
    }

    fn begin(&mut self) -> Action {
        let (id, request) = match self.latest_request() {
            Some(found) => found,
            None => {
                // Requests that no deployment took carry no number, and neither do mirrored ones.
                let Some((id, home)) = host::request_link() else { return Action::Continue };
                let Some(request) = self.worker.in_flight(id) else { return self.begin_for_other_vm(&home) };
                (id, request)
            }
        };
        let Some(deployment) = request.deployment() else { return Action::Continue };
        // The first attempt, as the router has made it, needs none: it began when the request was seen.
        let now = LazyCell::new(|| self.worker.clock.now());
        let service = &request.service;
        let mut judged = Vec::new();
        let mut notes = Notes::default();
        let Ok(mut attempts) = request.attempts.try_borrow_mut() else { return Action::Continue };
        let Some((version, to_stable)) = self.version_for(&request, deployment, &attempts) else {
            return self.refuse_unknown_side();
        };
        // The first attempt goes with the key that the router has put in.
        let first = !attempts.seen_by_keys_role();
        let mut carried = Carried { to_stable, ..Carried::default() };
        if to_stable != attempts.served_by_stable() {
            // Envoy has gone over to the other version since the last attempt, or before the first.
            if let Some(original) = &request.original {
                original.restore();
                rewrite(service, version, original.path(), &|_| true);
            }
            host::set_request_link(id, version.cluster.as_bytes());
        } else if !to_stable {
            carried = request.router_key.get();
        }
        let mut refused = None;
        if let Some((n, pool)) = version.pool.and_then(|n| Some((n, service.plan.pools.get(n)?)))
            && (carried.key.is_none() || (pool.inject == Inject::Attempt && !first))
        {
            let identity = request.assigned.choice.identity;
            let tried = attempts.tried_keys(n);
            let query = KeyQuery { tried: &tried, identity, random: self.worker.random() };
            match service.pick(n, query, &mut turn(now.mono, &mut notes)) {
                Some(Pick::Key(key)) => {
                    carried = service.inject_key(KeyRef { pool: n, key }, to_stable);
                }
                Some(Pick::Exhausted { .. }) | None => {
                    refused = Some(first_return(service, deployment, version, now.mono))
                }
            }
        }
        if let Some(returns_in) = refused {
            // The pool has lost its last key since the router looked, to this very request perhaps. Nothing is attempted.
            drop(attempts);
            self.worker.publish_notes(service, request.deployment, notes);
            reply::refuse(returns_in);
            return Action::Pause;
        }
        let errors = &request.guard(deployment).errors;
        if first && to_stable {
            judged.extend(attempts.record_skipped(now.mono, errors));
        }
        let began = if first && !to_stable { attempts.seen_at() } else { now.mono };
        let attempt = attempts.begin(began, carried, errors, &mut judged);
        let next_to_stable = deployment.failover.is_some_and(|after| attempts.count_on_assigned() >= after);
        drop(attempts);
        if first && to_stable {
            self.worker.router_key_unused(&request, *now);
        }
        self.attempt = Some((Rc::clone(&request), attempt));
        if next_to_stable
            && !to_stable
            && request.original.is_some()
            && service.route_keeps_header()
            && let Some(stable) = deployment.versions.get(deployment.stable)
        {
            // Read by the route only if this attempt fails and is retried.
            host::set_request_header(&service.plan.cluster_header, stable.cluster.as_bytes());
        }
        if !judged.is_empty() {
            self.worker.record(&request, &judged, None, *now);
        }
        self.worker.publish_notes(service, request.deployment, notes);
        Action::Continue
    }

    /// The request that the router has seen last, if this is its first attempt.
    fn latest_request(&self) -> Option<(u64, Rc<Request>)> {
        let id = self.worker.take_latest()?;
        let request = self.worker.in_flight(id)?;
        host::is_request(id).then_some((id, request))
    }

    /// The version whose provider this attempt goes to, and whether that is stable instead of the canary that the request was
    /// assigned to; `None` if that cannot be told. Envoy chooses, by the route or by the member of an aggregate cluster.
    fn version_for<'a>(
        &self,
        request: &Request,
        deployment: &'a Deployment,
        attempts: &Attempts,
    ) -> Option<(&'a Version, bool)> {
        let assigned = deployment.versions.get(request.version())?;
        if request.original.is_none() {
            return Some((assigned, false));
        }
        let stable = deployment.versions.get(deployment.stable)?;
        let label = host::attempt_label();
        let clusters = Clusters {
            assigned: &assigned.cluster,
            stable: &stable.cluster,
            stable_due: request.out_of_keys.get()
                || deployment.failover.is_some_and(|after| attempts.count_on_assigned() >= after),
            labelled: request.labelled.get(),
        };
        let side = clusters.side(label.as_deref(), &host::attempt_cluster);
        request.labelled.set(clusters.labelled || label.is_some());
        match side {
            Side::Assigned => Some((assigned, false)),
            Side::Stable => Some((stable, true)),
            Side::Unknown => None,
        }
    }

    /// An attempt of a request that another VM knows: this one is new, the request is older. It goes as the former attempt went,
    /// or as the router has made it, but only to where that was meant to go, its home.
    fn begin_for_other_vm(&self, home: &[u8]) -> Action {
        let at_home =
            || host::attempt_label().or_else(host::attempt_cluster).is_none_or(|cluster| cluster == home);
        if home.is_empty() || at_home() { Action::Continue } else { self.refuse_unknown_side() }
    }

    /// Nobody knows whose key this attempt may carry, so it is not made.
    fn refuse_unknown_side(&self) -> Action {
        self.worker.metrics.dropped(Dropped::Attempt, 1);
        reply::refuse(None);
        Action::Pause
    }

    fn answer(&mut self) {
        let (false, Some((request, attempt))) = (self.answered, &self.attempt) else { return };
        let (Some(status), Some(deployment)) = (host::response_status(), request.deployment()) else {
            return;
        };
        self.answered = true;
        let now = self.worker.clock.now();
        let wait = reply::rate_limit_wait(status, now.wall);
        let judged = match request.attempts.try_borrow_mut() {
            Ok(mut attempts) => {
                attempts.record_headers(*attempt, status, now.mono, &request.guard(deployment).errors)
            }
            Err(_) => None,
        };
        if let Some(judged) = judged {
            self.worker.record(request, &[judged], wait, now);
            if judged.outcome.is_some() {
                self.prepare_retry(request, deployment, now.mono);
            }
        }
    }

    /// This attempt has failed and Envoy may try again. Where the canary has no key left for that, perhaps because this very
    /// attempt was its last key's, stable serves without waiting for `failover.after`.
    fn prepare_retry(&self, request: &Request, deployment: &Deployment, now: Micros) {
        let (Some(version), Some(stable)) =
            (deployment.versions.get(request.version()), deployment.versions.get(deployment.stable))
        else {
            return;
        };
        let has_keys =
            |version: &Version| version.pool.is_none_or(|n| request.service.outlook(n, now).is_ok());
        let may_fail_over = deployment.failover.is_some() && request.original.is_some();
        if may_fail_over && !has_keys(version) && has_keys(stable) {
            request.out_of_keys.set(true);
            host::set_next_cluster(&stable.cluster);
        }
    }

    /// Over without headers: its client has left, or it has failed.
    fn end_without_answer(&self, request: &Request, attempt: usize) {
        let Some(deployment) = request.deployment() else { return };
        let now = self.worker.clock.now();
        let cancelled = host::response_flags() & flags::CANCELLED != 0;
        let errors = &request.guard(deployment).errors;
        let judged = match request.attempts.try_borrow_mut() {
            Ok(mut attempts) if cancelled => attempts.settle_abandoned(attempt, now.mono, errors),
            Ok(mut attempts) => attempts.settle_failed(attempt, now.mono, errors),
            Err(_) => None,
        };
        if let Some(judged) = judged {
            self.worker.record(request, &[judged], None, now);
            self.prepare_retry(request, deployment, now.mono);
        }
    }
}

/// When the first key comes back from a rate limit that this version or stable could use.
fn first_return(
    service: &Service,
    deployment: &Deployment,
    version: &Version,
    now: Micros,
) -> Option<Millis> {
    let stable = deployment.versions.get(deployment.stable).and_then(|stable| stable.pool);
    let pools = [version.pool, stable].into_iter().flatten();
    pools.filter_map(|n| service.outlook(n, now).err().flatten()).min()
}

impl Drop for AttemptStream {
    fn drop(&mut self) {
        if let (false, Some((request, attempt))) = (self.answered, self.attempt.take()) {
            self.end_without_answer(&request, attempt);
        }
    }
}

impl Context for AttemptStream {}

impl HttpContext for AttemptStream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.begin()
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.answer();
        Action::Continue
    }
}
