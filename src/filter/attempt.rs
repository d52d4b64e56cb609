//! The `keys` role: one context an *attempt*, in the upstream chain of Envoy's router.
//!
//! Attempts share one header map with each other and with the downstream filters, so a header is always replaced, never
//! added.

mod start;

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use self::start::{Earlier, NewAttempt};
use super::request::Request;
use super::worker::Worker;
use super::{body, reply};
use crate::host;
use crate::llm::LITE;
use crate::llm::edit::Edits;
use crate::outcome::attempts::AnswerHeaders;
use crate::outcome::blame::KeyAnswer;
use crate::outcome::{self, Ending};
use crate::plan::{Deployment, Version};
use crate::shared::dropped::Dropped;
use crate::time::Micros;

/// One attempt.
pub struct AttemptStream {
    worker: Rc<Worker>,
    begun: Option<Begun>,
    /// Changes of the body, until it comes.
    edits: Option<Edits>,
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
        AttemptStream { worker, begun: None, edits: None, answered: false }
    }

    fn begin(&mut self) -> Action {
        let (id, request) = match self.find_request() {
            Found::Here(id, request) => (id, request),
            Found::OtherVm { home } => return self.begin_for_other_vm(&home),
            Found::Nowhere => {
                self.worker.keep_keys_from_mirror();
                return Action::Continue;
            }
        };
        let Some(deployment) = request.deployment() else { return Action::Continue };
        let Some(earlier) = request.attempts.with(Earlier::of) else { return Action::Continue };
        let Some(new) = NewAttempt::new(&self.worker, &request, deployment, earlier) else {
            return self.refuse_unknown_target();
        };
        let carried = new.rewrite(id);
        match new.take_key(carried) {
            Ok(carried) => {
                let number = new.insert(carried);
                self.edits = new.announce_body();
                self.begun = number.map(|number| Begun { request: Rc::clone(&request), number });
                Action::Continue
            }
            // The pool has lost its last key since the router looked, perhaps to this very request. Nothing is attempted.
            Err(exhausted) => {
                reply::refuse(exhausted.returns_in);
                Action::Pause
            }
        }
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
        let key = request.attempts.with(|attempts| attempts.key_of(*number)).flatten();
        let pool = key.and_then(|key| request.service.plan.pools.get(key.pool));
        let headers = AnswerHeaders { status, on_key: reply::key_answer(pool, status, now.wall) };
        let errors = &request.guard(deployment).errors;
        let judged =
            request.attempts.with_mut(|attempts| attempts.record_headers(*number, headers, now.mono, errors));
        if let Some(judged) = judged.flatten() {
            self.worker.record(request, &[judged], now);
            if judged.outcome.is_some() {
                prepare_retry(request, deployment, judged.on_key, now.mono);
            }
        }
    }

    /// Records an attempt that is over without headers: its client has left, or it has failed.
    fn end_without_answer(&self, Begun { request, number }: &Begun) {
        let Some(deployment) = request.deployment() else { return };
        let now = self.worker.clock.now();
        let flags = host::response_flags();
        let gave_up = match outcome::ending(flags, false) {
            ending @ (Ending::Cancelled | Ending::ClientFault) => Some(ending),
            // Envoy has answered in place of this attempt, and it blames the client. It sets the flag only later.
            _ if host::answered_status().is_some_and(|code| (400..500).contains(&code)) => {
                Some(Ending::ClientFault)
            }
            _ => None,
        };
        let errors = &request.guard(deployment).errors;
        let judged = request.attempts.with_mut(|attempts| match gave_up {
            Some(ending) => attempts.settle_abandoned(*number, ending, now.mono, errors),
            None => attempts.settle_failed(*number, now.mono, errors),
        });
        if let Some(judged) = judged.flatten() {
            self.worker.record(request, &[judged], now);
            prepare_retry(request, deployment, KeyAnswer::Silent, now.mono);
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

    fn on_http_request_body(&mut self, size: usize, _: bool) -> Action {
        let Some(edits) = self.edits.take().filter(|_| !LITE) else { return Action::Continue };
        // The first part of the body has all that the router has read. Otherwise the announced length would be wrong.
        if body::apply(&edits, size) { Action::Continue } else { self.refuse_unknown_target() }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.answer();
        Action::Continue
    }
}

/// Prepares the attempt that Envoy may make after a failed one. After a refusal or a limit of its key the request stays with the
/// canary while that has another key for it, and else goes to stable, without waiting for `failover.after`.
fn prepare_retry(request: &Request, deployment: &Deployment, on_key: KeyAnswer, now: Micros) {
    let (Some(version), Some(stable)) =
        (deployment.versions.get(request.version()), deployment.versions.get(deployment.stable))
    else {
        return;
    };
    let service = &request.service;
    let has_keys = |version: &Version| version.pool.is_none_or(|n| service.availability(n, now).is_ok());
    let may_fail_over = deployment.failover.is_some() && request.original.is_some();
    if !may_fail_over || !has_keys(stable) {
        return;
    }
    let stays = on_key != KeyAnswer::Silent && version.pool.is_some_and(|n| has_fresh_key(request, n, now));
    if stays {
        if request.next_named.get() {
            host::set_next_cluster(&version.cluster);
        }
    } else if on_key != KeyAnswer::Silent || !has_keys(version) {
        request.out_of_keys.set(true);
        request.name_next_cluster(&stable.cluster);
    }
}

/// Returns whether the pool has a key for another attempt of a request; see [`crate::filter::service::Service::has_fresh_key`].
fn has_fresh_key(request: &Request, pool: usize, now: Micros) -> bool {
    let tried = request.attempts.with(|attempts| attempts.tried_keys(pool)).unwrap_or_default();
    request.service.has_fresh_key(pool, &tried, now)
}
