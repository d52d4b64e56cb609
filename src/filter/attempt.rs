//! The `keys` role: one context an *attempt*, in the upstream chain of Envoy's router.
//!
//! Attempts share one header map with each other and with the downstream filters, so a header is always replaced, never
//! added.

use std::cell::OnceCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::pool::Exhausted;
use super::reply;
use super::request::Request;
use super::rewrite::rewrite;
use super::service::turn;
use super::worker::Worker;
use crate::engine::Notes;
use crate::host;
use crate::keys::pool::KeyQuery;
use crate::outcome::attempts::Attempts;
use crate::outcome::flags;
use crate::outcome::judgement::Carried;
use crate::outcome::member::{Clusters, Side};
use crate::plan::pool::Inject;
use crate::plan::{Deployment, Version};
use crate::shared::dropped::Dropped;
use crate::time::{Micros, Now};

/// One attempt.
pub struct AttemptStream {
    worker: Rc<Worker>,
    begun: Option<Begun>,
    answered: bool,
}

/// An attempt that is in the ledger of its request.
struct Begun {
    request: Rc<Request>,
    /// Its number in the ledger.
    number: usize,
}

/// The request of an attempt.
enum Found {
    /// It is on this worker, under this id.
    Here(u64, Rc<Request>),
    /// Another VM knew it: this VM is newer than the request.
    OtherVm {
        /// Name of the cluster that the attempt may go to; empty for any cluster.
        home: Vec<u8>,
    },
    /// No deployment took it, or it is a mirrored one.
    Nowhere,
}

impl AttemptStream {
    /// Makes a stream for an attempt that has not begun.
    pub fn new(worker: Rc<Worker>) -> AttemptStream {
        AttemptStream { worker, begun: None, answered: false }
    }

    fn begin(&mut self) -> Action {
        let (id, request) = match self.find_request() {
            Found::Here(id, request) => (id, request),
            Found::OtherVm { home } => return self.begin_for_other_vm(&home),
            Found::Nowhere => return Action::Continue,
        };
        let Some(deployment) = request.deployment() else { return Action::Continue };
        let Some(earlier) = request.attempts.with(Earlier::of) else { return Action::Continue };
        let Some(target) = choose_target(&request, deployment, earlier) else {
            return self.refuse_unknown_target();
        };
        let new = NewAttempt {
            worker: &self.worker,
            request: &request,
            deployment,
            target,
            earlier,
            now: OnceCell::new(),
        };
        let mut notes = Notes::default();
        let carried = new.rewrite(id);
        let action = match new.take_key(carried, &mut notes) {
            Ok(carried) => {
                let number = new.insert(carried);
                self.begun = number.map(|number| Begun { request: Rc::clone(&request), number });
                Action::Continue
            }
            // The pool has lost its last key since the router looked, perhaps to this very request. Nothing is attempted.
            Err(exhausted) => {
                reply::refuse(exhausted.returns_in);
                Action::Pause
            }
        };
        self.worker.publish_notes(&request.service, request.deployment, notes);
        action
    }

    /// Finds the request of this attempt. Most often it is the one that the router has seen last.
    fn find_request(&self) -> Found {
        if let Some(id) = self.worker.requests.take_latest()
            && let Some(request) = self.worker.requests.get(id)
            && host::is_request(id)
        {
            return Found::Here(id, request);
        }
        let Some(link) = host::request_link() else { return Found::Nowhere };
        match self.worker.requests.get(link.id) {
            Some(request) => Found::Here(link.id, request),
            None => Found::OtherVm { home: link.home },
        }
    }

    /// Lets an attempt of another VM's request pass unchanged, but only to the home of its request.
    fn begin_for_other_vm(&self, home: &[u8]) -> Action {
        let at_home =
            || host::attempt_label().or_else(host::attempt_cluster).is_none_or(|cluster| cluster == home);
        if home.is_empty() || at_home() { Action::Continue } else { self.refuse_unknown_target() }
    }

    /// Refuses an attempt because it is not known which provider's key it may carry.
    fn refuse_unknown_target(&self) -> Action {
        self.worker.metrics.dropped(Dropped::Attempt, 1);
        reply::refuse(None);
        Action::Pause
    }

    fn answer(&mut self) {
        let (false, Some(Begun { request, number })) = (self.answered, &self.begun) else { return };
        let (Some(status), Some(deployment)) = (host::response_status(), request.deployment()) else {
            return;
        };
        self.answered = true;
        let now = self.worker.clock.now();
        let wait = reply::rate_limit_wait(status, now.wall);
        let errors = &request.guard(deployment).errors;
        let judged =
            request.attempts.with_mut(|attempts| attempts.record_headers(*number, status, now.mono, errors));
        if let Some(judged) = judged.flatten() {
            self.worker.record(request, &[judged], wait, now);
            if judged.outcome.is_some() {
                prepare_retry(request, deployment, now.mono);
            }
        }
    }

    /// Records an attempt that is over without headers: its client has left, or it has failed.
    fn end_without_answer(&self, Begun { request, number }: &Begun) {
        let Some(deployment) = request.deployment() else { return };
        let now = self.worker.clock.now();
        let cancelled = host::response_flags() & flags::CANCELLED != 0;
        let errors = &request.guard(deployment).errors;
        let judged = request.attempts.with_mut(|attempts| {
            if cancelled {
                attempts.settle_abandoned(*number, now.mono, errors)
            } else {
                attempts.settle_failed(*number, now.mono, errors)
            }
        });
        if let Some(judged) = judged.flatten() {
            self.worker.record(request, &[judged], None, now);
            prepare_retry(request, deployment, now.mono);
        }
    }
}

impl Drop for AttemptStream {
    fn drop(&mut self) {
        if let (false, Some(begun)) = (self.answered, self.begun.take()) {
            self.end_without_answer(&begun);
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

/// The attempts of a request before this one.
#[derive(Clone, Copy)]
struct Earlier {
    /// The `keys` role has seen none of them.
    none_seen: bool,
    /// The last one went to stable by failover.
    last_to_stable: bool,
    /// How many the assigned version has had.
    on_assigned: u32,
}

impl Earlier {
    fn of(attempts: &Attempts) -> Earlier {
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
struct NewAttempt<'a> {
    worker: &'a Worker,
    request: &'a Request,
    deployment: &'a Deployment,
    target: Target<'a>,
    earlier: Earlier,
    /// Read when it is first needed. An attempt that goes as the router has made it began when the request was seen, and needs no
    /// reading.
    now: OnceCell<Now>,
}

impl NewAttempt<'_> {
    fn now(&self) -> Now {
        *self.now.get_or_init(|| self.worker.clock.now())
    }

    /// Rewrites the request if Envoy has gone over to the other version, since the last attempt or before the first. Returns the
    /// credential of the request so far: the first attempt goes with the key that the router has put in.
    fn rewrite(&self, id: u64) -> Carried {
        let Target { version, to_stable } = self.target;
        let nothing = Carried { to_stable, ..Carried::default() };
        if to_stable != self.earlier.last_to_stable {
            if let Some(original) = &self.request.original {
                original.restore();
                rewrite(&self.request.service, version, original.path(), &|_| true);
            }
            host::set_request_link(id, version.cluster.as_bytes());
            nothing
        } else if to_stable {
            nothing
        } else {
            self.request.router_key.get()
        }
    }

    /// Puts in a key, if the attempt needs one. Returns the credential of the attempt.
    fn take_key(&self, carried: Carried, notes: &mut Notes) -> Result<Carried, Exhausted> {
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
        let query = KeyQuery { tried: &tried, identity, random: self.worker.random() };
        match service.pick(n, query, &mut turn(self.now().mono, notes)) {
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
    fn insert(&self, carried: Carried) -> Option<usize> {
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
            self.worker.record(request, &judged, None, self.now());
        }
        Some(number)
    }

    /// Sets the cluster header to stable's cluster. The route reads it only if this attempt fails and is retried.
    fn route_retry_to_stable(&self) {
        let service = &self.request.service;
        if self.request.original.is_some()
            && service.route_keeps_header()
            && let Some(stable) = self.deployment.versions.get(self.deployment.stable)
        {
            host::set_request_header(&service.plan.cluster_header, stable.cluster.as_bytes());
        }
    }
}

/// Prepares the attempt that Envoy may make after a failed one. If the canary has no key left for it, perhaps because the failed
/// attempt had the last one, stable serves without waiting for `failover.after`.
fn prepare_retry(request: &Request, deployment: &Deployment, now: Micros) {
    let (Some(version), Some(stable)) =
        (deployment.versions.get(request.version()), deployment.versions.get(deployment.stable))
    else {
        return;
    };
    let has_keys =
        |version: &Version| version.pool.is_none_or(|n| request.service.availability(n, now).is_ok());
    let may_fail_over = deployment.failover.is_some() && request.original.is_some();
    if may_fail_over && !has_keys(version) && has_keys(stable) {
        request.out_of_keys.set(true);
        host::set_next_cluster(&stable.cluster);
    }
}
