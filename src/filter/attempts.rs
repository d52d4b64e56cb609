//! The `keys` role: one context an *attempt*, in the upstream chain of Envoy's router.
//!
//! Attempts share one header map with each other and with the downstream filters, so a header is always replaced, never
//! added.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::worker::{InFlight, Worker};
use crate::host;
use crate::keys;
use crate::outcome::flags;
use crate::plan::Inject;

/// One attempt.
pub struct AttemptStream {
    worker: Rc<Worker>,
    attempt: Option<(Rc<InFlight>, usize)>,
    answered: bool,
}

impl AttemptStream {
    /// An attempt whose request is not known yet.
    pub fn new(worker: Rc<Worker>) -> AttemptStream {
        AttemptStream { worker, attempt: None, answered: false }
    }

    fn begin(&mut self) -> Action {
        // Requests that no deployment took carry no number, and neither do mirrored ones.
        let Some(request) = host::flight().and_then(|id| self.worker.in_flight(id)) else {
            return Action::Continue;
        };
        let Some(deployment) = request.deployment() else { return Action::Continue };
        let now = self.worker.clock.now();
        let mut judged = Vec::new();
        let mut keyless = false;
        if let Ok(mut flight) = request.flight.try_borrow_mut() {
            let pool = request.pool.and_then(|n| Some((n, request.router.plan.pools.get(n)?)));
            let mut picked = None;
            if let Some((n, pool)) = pool.filter(|(_, pool)| pool.inject == Inject::Attempt)
                && let Ok(rings) = request.router.rings.try_borrow()
                && let Some(ring) = rings.get(n)
            {
                let tried: Vec<usize> = flight.tried().collect();
                picked = ring.pick(&tried, self.worker.random());
                match picked.and_then(|key| ring.value(key)) {
                    Some(value) => host::set_request_header(&pool.header, value.expose().as_bytes()),
                    None => keyless = true,
                }
            }
            let attempt = flight.begin(now.mono, picked, &request.guard(deployment).errors, &mut judged);
            self.attempt = Some((Rc::clone(&request), attempt));
        }
        if let Some(seen) = request.router.keys_seen(request.deployment, request.version()) {
            seen.set(true);
        }
        if !judged.is_empty() {
            self.worker.record(&request, &judged, now);
        }
        if keyless {
            // The pool lost its last key between the router's look and this attempt.
            host::reply(keys::UNAVAILABLE.0, keys::UNAVAILABLE.1);
            return Action::Pause;
        }
        Action::Continue
    }

    fn answer(&mut self) {
        let (false, Some((request, attempt))) = (self.answered, &self.attempt) else { return };
        let (Some(status), Some(deployment)) = (host::response_status(), request.deployment()) else {
            return;
        };
        self.answered = true;
        let now = self.worker.clock.now();
        let judged = match request.flight.try_borrow_mut() {
            Ok(mut flight) => flight.answered(*attempt, status, now.mono, &request.guard(deployment).errors),
            Err(_) => None,
        };
        if let Some(judged) = judged {
            self.worker.record(request, &[judged], now);
        }
    }

    /// Over without headers: its client has left, or it has failed.
    fn give_up(&self, request: &InFlight, attempt: usize) {
        let Some(deployment) = request.deployment() else { return };
        let now = self.worker.clock.now();
        let cancelled = host::response_flags() & flags::CANCELLED != 0;
        let errors = &request.guard(deployment).errors;
        let judged = match request.flight.try_borrow_mut() {
            Ok(mut flight) if cancelled => flight.abandoned(attempt, now.mono, errors),
            Ok(mut flight) => flight.failed(attempt, now.mono, errors),
            Err(_) => None,
        };
        if let Some(judged) = judged {
            self.worker.record(request, &[judged], now);
        }
    }
}

impl Context for AttemptStream {
    fn on_done(&mut self) -> bool {
        if let (false, Some((request, attempt))) = (self.answered, self.attempt.take()) {
            self.give_up(&request, attempt);
        }
        true
    }
}

impl HttpContext for AttemptStream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.begin()
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.answer();
        Action::Continue
    }
}
