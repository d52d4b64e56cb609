//! The `router` role: one context a request, in the connection manager's chain.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::worker::{InFlight, Router, Worker, impatience};
use crate::engine::{Assigned, Notes};
use crate::flight::Flight;
use crate::host::{self, SharedData};
use crate::keys;
use crate::outcome;
use crate::plan::{Inject, Version};
use crate::route::{self, Headers, RequestFacts};
use crate::units::Micros;

/// One request.
pub struct RouterStream {
    worker: Rc<Worker>,
    router: Rc<Router>,
    serving: Option<Serving>,
}

/// A request that a deployment has taken.
struct Serving {
    request: Rc<InFlight>,
    /// Its number, where the `keys` role may ask for it.
    id: Option<u64>,
}

impl RouterStream {
    /// A stream under this plan.
    pub fn new(worker: Rc<Worker>, router: Rc<Router>) -> RouterStream {
        RouterStream { worker, router, serving: None }
    }

    fn route(&mut self) -> Action {
        let headers = host::request_headers();
        self.remove_spoofed(&headers);
        let router = Rc::clone(&self.router);
        let plan = &router.plan;
        let Some(n) = route::find(plan, &headers) else { return Action::Continue };
        let (Some(deployment), Some(binding)) = (plan.deployments.get(n), router.bindings.get(n)) else {
            return Action::Continue;
        };
        let seen = self.worker.clock.mono();
        let facts = RequestFacts {
            headers: &headers,
            client_address: &|| {
                host::source_address().map(|address| route::address_without_port(&address).to_vec())
            },
            random: self.worker.random(),
        };
        let mut notes = Notes::default();
        let mut assigned = binding.assign(deployment, &facts, &SharedData, seen, &mut notes);
        if notes != Notes::default() {
            self.worker.tell(&self.router, n, notes);
        }
        if !self.router.can_serve(deployment, assigned.choice.version) {
            if !self.router.can_serve(deployment, deployment.stable) {
                self.start(n, Assigned::forced(deployment.stable), None, seen);
                host::reply(keys::UNAVAILABLE.0, keys::UNAVAILABLE.1);
                return Action::Pause;
            }
            assigned = Assigned::forced(deployment.stable);
        }
        let Some(version) = deployment.versions.get(assigned.choice.version) else { return Action::Continue };
        if assigned.choice.version != deployment.stable {
            assigned.request_id = headers.get("x-request-id").map(|id| String::from_utf8_lossy(&id).into());
        }
        self.start(n, assigned, version.pool, seen);
        self.apply(version, &headers);
        Action::Continue
    }

    /// A client chooses neither cluster nor version, except through rules.
    fn remove_spoofed(&self, headers: &Headers) {
        let plan = &self.router.plan;
        for name in headers.names() {
            if name.starts_with("x-bellwether-")
                || name == plan.cluster_header
                || plan.version_header.as_deref() == Some(name)
            {
                host::remove_request_header(name);
            }
        }
    }

    /// Opens the request's ledger and, where there is a `keys` role, ties its attempts to it.
    fn start(&mut self, deployment: usize, assigned: Assigned, pool: Option<usize>, seen: Micros) {
        let taken_by = self.router.plan.deployments.get(deployment);
        let impatient_after = taken_by.and_then(|d| impatience(d.guard_at(assigned.stage)));
        let request = Rc::new(InFlight {
            router: Rc::clone(&self.router),
            deployment,
            assigned,
            pool,
            flight: RefCell::new(Flight::new(seen, pool.is_some(), impatient_after)),
        });
        let id = self.worker.has_keys_role().then(|| self.worker.launch(&request));
        if let Some(id) = id {
            host::set_flight(id);
        }
        self.serving = Some(Serving { request, id });
    }

    /// Makes the request what the version's upstream expects.
    fn apply(&self, version: &Version, headers: &Headers) {
        host::set_request_header(&self.router.plan.cluster_header, version.cluster.as_bytes());
        if let Some(host) = &version.host {
            host::set_request_header(":authority", host.as_bytes());
        }
        if version.rewrite_prefix.is_some()
            && let Some(path) = headers.get(":path").and_then(|path| route::rewritten_path(version, &path))
        {
            host::set_request_header(":path", &path);
        }
        for (name, value) in &version.set_headers {
            host::set_request_header(name, value.as_bytes());
        }
        if let Some(pool) = version.pool {
            self.credentials(pool, headers);
        }
    }

    /// Removes the client's credentials; puts in the pool's, unless the `keys` role is known to do it.
    fn credentials(&self, n: usize, headers: &Headers) {
        let Some(pool) = self.router.plan.pools.get(n) else { return };
        for name in keys::CLIENT_CREDENTIALS {
            if headers.has(name) {
                host::remove_request_header(name);
            }
        }
        // A pool's own header may be another one; a client's value in it must not reach the upstream either.
        if headers.has(&pool.header) {
            host::remove_request_header(&pool.header);
        }
        if pool.inject == Inject::Attempt && self.keys_seen() {
            return;
        }
        let Ok(rings) = self.router.rings.try_borrow() else { return };
        let Some(ring) = rings.get(n) else { return };
        let key = ring.pick(&[], self.worker.random());
        if let Some(value) = key.and_then(|key| ring.value(key)) {
            host::set_request_header(&pool.header, value.expose().as_bytes());
        }
    }

    fn keys_seen(&self) -> bool {
        let cell = self
            .serving
            .as_ref()
            .and_then(|serving| self.router.keys_seen(serving.request.deployment, serving.request.version()));
        self.worker.has_keys_role() && cell.is_some_and(std::cell::Cell::get)
    }

    fn answer(&self, serving: &Serving) {
        let request = &serving.request;
        let Some(deployment) = request.deployment() else { return };
        if let (Some(name), Some(version)) =
            (&self.router.plan.version_header, deployment.versions.get(request.version()))
        {
            host::set_response_header(name, &version.id);
        }
        let now = self.worker.clock.now();
        let Ok(mut flight) = request.flight.try_borrow_mut() else { return };
        let mut judged = None;
        if !flight.last_status_seen()
            && let Some(status) = host::response_status()
        {
            judged = flight.router_answer(
                status,
                host::via_upstream(),
                now.mono,
                &request.guard(deployment).errors,
            );
        }
        if flight.reached() {
            let millis = now.mono.since(flight.seen()).checked_div(1000).unwrap_or(0);
            let metrics = self.router.metrics.get(request.deployment);
            if let Some(version) = metrics.and_then(|m| m.versions.get(request.version())) {
                version.latency.record(millis);
            }
        }
        drop(flight);
        if let Some(judged) = judged {
            self.worker.record(request, &[judged], now);
        }
    }

    fn finish(&self, serving: &Serving) {
        let request = &serving.request;
        let Some(deployment) = request.deployment() else { return };
        let now = self.worker.clock.now();
        let flags = host::response_flags();
        let mut judged = Vec::new();
        let outcome = {
            let Ok(mut flight) = request.flight.try_borrow_mut() else { return };
            // An answer that came although the `keys` role saw no attempt: it is not in this version's chain.
            let unseen = flight.reached() && serving.id.is_some() && !flight.seen_by_keys();
            if let (true, Some(seen)) = (unseen, self.router.keys_seen(request.deployment, request.version()))
            {
                seen.set(false);
            }
            let ending = outcome::ending(flags, flight.reached());
            flight.finish(ending, now.mono, &request.guard(deployment).errors, &mut judged)
        };
        self.worker.record(request, &judged, now);
        self.worker.finish(request, outcome, now);
    }
}

impl Context for RouterStream {}

impl HttpContext for RouterStream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.router.served.set(true);
        self.route()
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if let Some(serving) = &self.serving {
            self.answer(serving);
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        if let Some(serving) = self.serving.take() {
            self.finish(&serving);
            if let Some(id) = serving.id {
                self.worker.land(id);
            }
        }
    }
}

impl Drop for RouterStream {
    /// A stream that ends without a log entry (the proxy is shutting down) leaves nothing behind.
    fn drop(&mut self) {
        if let Some(id) = self.serving.take().and_then(|serving| serving.id) {
            self.worker.land(id);
        }
    }
}
