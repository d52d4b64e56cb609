//! The `router` role: one context a request, in the connection manager's chain.

use std::cell::{Cell, RefCell};
use std::iter;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::reply;
use super::request::{Request, smallest_latency_limit};
use super::rewrite::{OriginalHeaders, rewrite};
use super::service::{Service, turn};
use super::worker::Worker;
use crate::engine::{Assigned, Notes};
use crate::headers::{Headers, OWN_PREFIX};
use crate::host::{self, SharedData};
use crate::keys::pool::{KeyQuery, Pick};
use crate::outcome::attempts::{Attempts, RequestEnd, RouterAnswer};
use crate::outcome::{self, Outcome};
use crate::plan::pool::KeyRef;
use crate::plan::{Deployment, matching};
use crate::route::{self, RequestFacts};
use crate::time::{Micros, Millis};

/// Longest id of a request that events name, in bytes; Envoy's own have 36.
const REQUEST_ID_BYTES: usize = 128;

/// One request.
pub struct RouterStream {
    worker: Rc<Worker>,
    service: Rc<Service>,
    serving: Option<Serving>,
    /// What the response headers say of a rate limit, for a judgement that waits for the end.
    wait: Cell<Option<Millis>>,
}

/// A request that a deployment has taken.
struct Serving {
    request: Rc<Request>,
    /// Its number, where the `keys` role may ask for it.
    id: Option<u64>,
}

impl RouterStream {
    /// A stream under this plan.
    pub fn new(worker: Rc<Worker>, service: Rc<Service>) -> RouterStream {
        RouterStream { worker, service, serving: None, wait: Cell::new(None) }
    }

    fn route(&mut self) -> Action {
        let mut headers = host::request_headers();
        self.remove_spoofed(&mut headers);
        let service = Rc::clone(&self.service);
        let plan = &service.plan;
        let Some(n) = route::find(plan, &headers) else { return Action::Continue };
        let (Some(deployment), Some(binding)) = (plan.deployments.get(n), service.bindings.get(n)) else {
            return Action::Continue;
        };
        let seen = self.worker.clock.mono();
        let facts = RequestFacts {
            headers: &headers,
            client_address: &|| {
                host::source_address().map(|address| matching::address_without_port(&address).to_vec())
            },
            random: self.worker.random(),
        };
        let mut notes = Notes::default();
        let mut assigned = binding.assign(deployment, &facts, &SharedData, seen, &mut notes);
        let mut waits = Vec::new();
        let mut key = self.choose_key(deployment, &assigned, seen, &mut waits, &mut notes);
        if key.is_none() {
            // The version has no key now. It may have been let through as a probe: it says nothing.
            let now = self.worker.clock.now();
            binding.finish(deployment, &assigned, None, &SharedData, now, &mut notes);
            assigned = binding.forced(deployment.stable);
            key = self.choose_key(deployment, &assigned, seen, &mut waits, &mut notes);
        }
        let Some(key) = key else {
            self.worker.publish_notes(&service, n, notes);
            self.start(n, assigned, seen, None);
            reply::refuse(waits.into_iter().min());
            return Action::Pause;
        };
        let Some(version) = deployment.versions.get(assigned.choice.version) else { return Action::Continue };
        let mut original = None;
        if assigned.choice.version != deployment.stable {
            assigned.request_id = headers.get("x-request-id").map(|id| {
                // Where Envoy keeps a client's, it may be as long as the client likes, and several are in one event.
                let id = id.get(..REQUEST_ID_BYTES).unwrap_or(&id);
                String::from_utf8_lossy(id).into()
            });
            // Also without `failover`: where the cluster is an aggregate, Envoy decides.
            original = deployment
                .versions
                .get(deployment.stable)
                .filter(|_| self.worker.has_keys_role())
                .map(|stable| OriginalHeaders::new(&service, [version, stable], &headers));
        }
        self.start(n, assigned, seen, original);
        host::set_request_header(&plan.cluster_header, version.cluster.as_bytes());
        // The key takes the place of what the client has in the pool's header: no need to remove that first.
        let pool = key.and(version.pool).and_then(|pool| plan.pools.get(pool));
        let replaced = pool.map(|pool| pool.header.as_str());
        let has = |name: &str| replaced != Some(name) && headers.has(name);
        rewrite(&service, version, headers.get(":path").as_deref(), &has);
        // Always, also where the `keys` role will see the attempts: whether it does cannot be known here (another listener may
        // have no such role, or it may be about to be reloaded), and a request must never leave without its credential.
        if let (Some(key), Some(serving)) = (key, &self.serving) {
            serving.request.router_key.set(service.inject_key(key, false));
        }
        self.worker.publish_notes(&service, n, notes);
        Action::Continue
    }

    /// The key that a request to its version takes: `Some(None)` if the version needs none, `None` if none can be had (and then
    /// in `waits` when one comes back).
    fn choose_key(
        &self,
        deployment: &Deployment,
        assigned: &Assigned,
        now: Micros,
        waits: &mut Vec<Millis>,
        notes: &mut Notes,
    ) -> Option<Option<KeyRef>> {
        let version = deployment.versions.get(assigned.choice.version)?;
        let Some(pool) = version.pool else { return Some(None) };
        let identity = assigned.choice.identity;
        let query = KeyQuery { tried: &[], identity, random: self.worker.random() };
        match self.service.pick(pool, query, &mut turn(now, notes))? {
            Pick::Key(key) => Some(Some(KeyRef { pool, key })),
            Pick::Exhausted { returns_in } => {
                waits.extend(returns_in);
                None
            }
        }
    }

    /// A client chooses neither cluster nor version, except through rules, and rules do not see these headers either.
    fn remove_spoofed(&self, headers: &mut Headers) {
        let plan = &self.service.plan;
        let others = || iter::once(&plan.cluster_header).chain(&plan.version_header);
        if headers.names_with(OWN_PREFIX.as_bytes()).next().is_none()
            && !others().any(|name| headers.has(name))
        {
            return;
        }
        let spoofed = |name: &[u8]| {
            name.starts_with(OWN_PREFIX.as_bytes()) || others().any(|other| name == other.as_bytes())
        };
        headers.remove(&spoofed, &mut |name| {
            // Envoy lets no name pass that is no text.
            host::remove_request_header(std::str::from_utf8(name).unwrap_or_default());
        });
    }

    /// Opens the request's ledger and, where there is a `keys` role, ties its attempts to it.
    fn start(
        &mut self,
        deployment: usize,
        assigned: Assigned,
        seen: Micros,
        original: Option<OriginalHeaders>,
    ) {
        let taken_by = self.service.plan.deployments.get(deployment);
        let impatient_after = taken_by.and_then(|d| smallest_latency_limit(d.guard_at(assigned.stage)));
        let request = Rc::new(Request {
            service: Rc::clone(&self.service),
            deployment,
            assigned,
            router_key: Cell::default(),
            original,
            labelled: Cell::new(false),
            out_of_keys: Cell::new(false),
            attempts: RefCell::new(Attempts::new(seen, impatient_after)),
            in_flight: self.worker.board(),
        });
        let id = self.worker.has_keys_role().then(|| self.worker.launch(&request));
        if let Some(id) = id {
            // Should another VM have to tell where a canary's key may go.
            let canary = taken_by.filter(|d| request.version() != d.stable);
            let home = canary.and_then(|d| d.versions.get(request.version())).map(|v| v.cluster.as_bytes());
            host::set_request_link(id, home.unwrap_or_default());
            host::mark_request(id);
        }
        self.serving = Some(Serving { request, id });
    }

    fn answer(&self, serving: &Serving) {
        let request = &serving.request;
        let Some(deployment) = request.deployment() else { return };
        if let (Some(name), Some(version)) =
            (&self.service.plan.version_header, deployment.versions.get(request.served_by()))
        {
            host::set_response_header(name, &version.id);
        }
        let Ok(mut attempts) = request.attempts.try_borrow_mut() else { return };
        let mut judged = None;
        if !attempts.has_last_headers()
            && let Some(answer) = self.router_answer()
        {
            let now = self.worker.clock.now();
            self.wait.set(reply::rate_limit_wait(answer.status, now.wall));
            let carried = request.router_key.get();
            let errors = &request.guard(deployment).errors;
            judged = attempts
                .record_router_answer(answer, carried, now.mono, errors)
                .map(|judgement| (judgement, now));
        }
        if attempts.upstream_answered() {
            let heard = attempts.good_headers_at().unwrap_or_else(|| self.worker.clock.mono());
            let millis = heard.since(attempts.seen_at()).whole_millis();
            let metrics = self.service.metrics.get(request.deployment);
            let served_by = if attempts.served_by_stable() { deployment.stable } else { request.version() };
            if let Some(version) = metrics.and_then(|m| m.versions.get(served_by)) {
                version.latency(millis);
            }
        }
        drop(attempts);
        if let Some((judgement, now)) = judged {
            self.worker.record(request, &[judgement], None, now);
        }
    }

    /// Returns the answer as the router sees it.
    fn router_answer(&self) -> Option<RouterAnswer> {
        if self.service.upstream_ok.holds() {
            return Some(RouterAnswer { status: 200, from_upstream: true });
        }
        Some(RouterAnswer { status: host::response_status()?, from_upstream: host::via_upstream() })
    }

    fn finish(&self, serving: &Serving) {
        let request = &serving.request;
        let Some(deployment) = request.deployment() else { return };
        let now = self.worker.clock.now();
        let flags = host::response_flags();
        let mut judged = Vec::new();
        let outcome = {
            let Ok(mut attempts) = request.attempts.try_borrow_mut() else { return };
            let ending = outcome::ending(flags, attempts.upstream_answered());
            let carried = request.router_key.get();
            let end = RequestEnd { ending, carried, now: now.mono };
            attempts.finish(end, &request.guard(deployment).errors, &mut judged)
        };
        self.worker.record(request, &judged, self.wait.get(), now);
        if outcome == Outcome::Local {
            self.worker.router_key_unused(request, now);
        }
        self.worker.finish(request, outcome, now);
    }
}

impl Context for RouterStream {}

impl HttpContext for RouterStream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.service.served.set(true);
        self.route()
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if let Some(serving) = &self.serving {
            self.answer(serving);
        }
        Action::Continue
    }
}

impl Drop for RouterStream {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            self.finish(&serving);
            if let Some(id) = serving.id {
                self.worker.land(id);
            }
        }
    }
}
