//! The `router` role: one context a request, in the connection manager's chain.

mod answer; // the answer to a request, and its end

use std::cell::Cell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::body::{self, Form, Held, Look, Read, RequestBody, Taken};
use super::pool::Exhausted;
use super::reply::{self, Invalid};
use super::request::{Request, smallest_latency_limit};
use super::rewrite::{OriginalHeaders, remove_spoofed, rewrite};
use super::service::{Service, turn};
use super::worker::Worker;
use crate::engine::{Assigned, Transition};
use crate::headers::Headers;
use crate::host;
use crate::keys::pool::KeyQuery;
use crate::llm::LITE;
use crate::outcome::attempts::Attempts;
use crate::plan::matching::{self, Asked};
use crate::plan::model::Unreadable;
use crate::plan::pool::KeyRef;
use crate::plan::{Deployment, Version};
use crate::route::{self, RequestFacts};
use crate::shared::cell::SharedCell;
use crate::shared::turn::Turn;
use crate::time::Micros;

/// Longest id of a request in an event, in bytes; Envoy's own ids have 36.
const REQUEST_ID_BYTES: usize = 128;

/// One request.
pub struct RouterStream {
    worker: Rc<Worker>,
    service: Rc<Service>,
    serving: Option<Serving>,
    /// A request whose body is read before it is decided.
    held: Option<Box<HeldRequest>>,
}

/// A request that a deployment has taken.
struct Serving {
    request: Rc<Request>,
    /// Its id, where the `keys` role may ask for it.
    id: Option<u64>,
}

/// The decision about a request.
struct Decision {
    assigned: Assigned,
    /// Time at which the request was seen.
    seen: Micros,
    /// Its key; `None` if the version needs no key.
    key: Result<Option<KeyRef>, Exhausted>,
    /// The transition that a probe has made which could not have a key.
    transition: Option<Transition>,
}

/// A request whose body is read before it is decided.
struct HeldRequest {
    taken: Taken,
    /// Index of the first deployment that reads the body.
    first: usize,
    body: Box<Held>,
}

/// A request whose version is chosen.
struct Choosing<'a> {
    /// Index of the deployment.
    n: usize,
    deployment: &'a Deployment,
    headers: &'a Headers,
    /// The body, as the deployment reads it; `None` for a body that cannot be read, which stable serves.
    asked: Option<Asked<'a>>,
}

impl RouterStream {
    /// Makes a stream under this plan.
    pub fn new(worker: Rc<Worker>, service: Rc<Service>) -> RouterStream {
        RouterStream { worker, service, serving: None, held: None }
    }

    /// Takes a request: decides it by its headers, or holds it until its body has told enough.
    fn begin(&mut self, ended: bool) -> Action {
        let mut headers = host::request_headers();
        remove_spoofed(&self.service.plan, &mut headers);
        self.worker.keep_keys_from_redirect(&mut headers);
        let service = Rc::clone(&self.service);
        let candidates = route::candidates(&service.plan, &headers);
        if LITE || !service.plan.reads_bodies {
            return match candidates.taker {
                Some(n) => self.serve(&headers, n, Read::Nothing),
                None => Action::Continue,
            };
        }
        let path_model = body::path_model(&headers);
        self.begin_reading(Taken { headers, candidates, path_model }, ended)
    }

    /// Holds a request whose candidates read its body, if that can be read.
    fn begin_reading(&mut self, taken: Taken, ended: bool) -> Action {
        let service = Rc::clone(&self.service);
        let reading = body::reading(&service.plan, &taken.candidates, taken.path_model.as_deref());
        let Some(body::Reading { wants, first, limit }) = reading else {
            return self.route(&taken, Read::Nothing);
        };
        let too_long = || body::length(&taken.headers).is_some_and(|length| length > limit);
        match body::form(&taken.headers, ended) {
            Form::Other => self.route(&taken, Read::Nothing),
            Form::Compressed => self.route_unreadable(&taken, first),
            Form::Json if too_long() => self.route_unreadable(&taken, first),
            Form::Json => {
                self.held =
                    Some(Box::new(HeldRequest { taken, first, body: Box::new(Held::new(wants, limit)) }));
                Action::Pause
            }
        }
    }

    /// Reads more of a held body, and decides when enough is known. `size`: bytes that Envoy holds; `ended`: they are all.
    fn read_body(&mut self, size: usize, ended: bool) -> Action {
        if LITE {
            return Action::Continue;
        }
        let Some(mut held) = self.held.take() else { return Action::Continue };
        match held.body.look(size, ended) {
            Look::More => {
                self.held = Some(held);
                Action::Pause
            }
            Look::Unreadable => self.route_unreadable(&held.taken, held.first),
            Look::Ambiguous => {
                reply::invalid(&held.taken.headers, &Invalid::Ambiguous);
                Action::Pause
            }
            Look::Enough if held.body.lacks_model() => self.route_unreadable(&held.taken, held.first),
            Look::Enough => self.route(&held.taken, Read::Body { body: held.body, size }),
        }
    }

    /// Decides a request whose body cannot be read: stable serves it unchanged, or it is refused.
    fn route_unreadable(&mut self, taken: &Taken, n: usize) -> Action {
        let service = Rc::clone(&self.service);
        let llm = service.plan.deployments.get(n).and_then(|deployment| deployment.llm.as_ref());
        if llm.is_some_and(|llm| llm.unreadable == Unreadable::Reject) {
            reply::invalid(&taken.headers, &Invalid::Unreadable);
            return Action::Pause;
        }
        self.serve(&taken.headers, n, Read::Unreadable)
    }

    /// Decides a request, with what its body has told.
    fn route(&mut self, taken: &Taken, read: Read) -> Action {
        let service = Rc::clone(&self.service);
        let content = read.content(taken.path_model.as_deref());
        match taken.candidates.find(&service.plan, content) {
            Some(n) => self.serve(&taken.headers, n, read),
            None => match body::unknown_model(&service.plan, taken, content) {
                Some(invalid) => {
                    reply::invalid(&taken.headers, &invalid);
                    Action::Pause
                }
                None => Action::Continue,
            },
        }
    }

    /// Sends a request to a version of its deployment.
    fn serve(&mut self, headers: &Headers, n: usize, read: Read) -> Action {
        let service = Rc::clone(&self.service);
        let Some(deployment) = service.plan.deployments.get(n) else { return Action::Continue };
        let path_model = if !LITE && deployment.llm.is_some() { body::path_model(headers) } else { None };
        let asked = match &read {
            Read::Unreadable => None,
            read => Some(read.content(path_model.as_deref()).asked(deployment)),
        };
        let mut turn = turn(self.worker.clock.now());
        let decision = self.decide(Choosing { n, deployment, headers, asked }, &mut turn);
        self.worker.count_dropped(turn.drops);
        let Some(mut decision) = decision else { return Action::Continue };
        let transition = decision.transition.take();
        let action = match (decision.key, deployment.versions.get(decision.assigned.choice.version)) {
            (Ok(key), Some(version)) => {
                let mut original = None;
                if decision.assigned.choice.version != deployment.stable {
                    decision.assigned.request_id = request_id(headers);
                    original = self.original_headers(deployment, version, headers);
                }
                let size = read.size();
                let body = read.into_request_body(deployment, headers);
                self.start(n, decision, original, body);
                self.send(version, key, headers);
                self.change_body(version, size)
            }
            (Ok(_), None) => Action::Continue,
            (Err(exhausted), _) => {
                self.start(n, decision, None, None);
                reply::refuse(exhausted.returns_in);
                Action::Pause
            }
        };
        self.worker.publish_transitions(&service, n, transition.as_slice());
        action
    }

    /// Changes the body for the version, where no `keys` role does that for each attempt. `size`: bytes that Envoy holds.
    fn change_body(&self, version: &Version, size: usize) -> Action {
        if LITE {
            return Action::Continue;
        }
        let Some(Serving { request, id: None }) = &self.serving else { return Action::Continue };
        let Some(body) = &request.body else { return Action::Continue };
        let edits = version.dialect.edits(&body.seen);
        if edits.is_empty() {
            return Action::Continue;
        }
        if !body::apply(&edits, size) {
            reply::refuse(None);
            return Action::Pause;
        }
        body.announce(&edits);
        Action::Continue
    }

    /// Decides which version serves a request, and with which key: stable if the version has no key now, or if Envoy would
    /// refuse the request, or if the body cannot be read.
    fn decide(&self, choosing: Choosing<'_>, turn: &mut Turn<'_>) -> Option<Decision> {
        let Choosing { n, deployment, headers, asked } = choosing;
        let binding = self.service.bindings.get(n)?;
        let seen = turn.now.mono;
        let facts = RequestFacts {
            headers,
            client_address: &|| {
                host::source_address().map(|address| matching::address_without_port(&address).to_vec())
            },
            random: self.worker.random(),
            asked: asked.unwrap_or_default(),
        };
        let mut assigned = match asked {
            Some(_) => binding.assign(deployment, &facts, turn),
            None => binding.forced(deployment.stable),
        };
        if self.service.is_refused(n, assigned.choice, seen) {
            assigned = binding.forced(deployment.stable);
        }
        let is_canary = assigned.choice.version != deployment.stable;
        let exhausted = match self.choose_key(deployment, &assigned, !is_canary, turn) {
            Ok(key) => return Some(Decision { assigned, seen, key: Ok(key), transition: None }),
            Err(exhausted) => exhausted,
        };
        let stable = binding.forced(deployment.stable);
        let key = self.choose_key(deployment, &stable, true, turn);
        // A suspect key of the canary is better than none.
        if let (true, Err(_), Ok(key)) = (is_canary, key, self.choose_key(deployment, &assigned, true, turn))
        {
            return Some(Decision { assigned, seen, key: Ok(key), transition: None });
        }
        // The request may be a probe, which then says nothing about the version.
        let transition = binding.finish(deployment, &assigned, None, turn);
        let key = key.map_err(|stable| stable.sooner(exhausted));
        Some(Decision { assigned: stable, seen, key, transition })
    }

    /// Chooses the key of a request to its version; `None` if the version needs no key. `suspects`: whether a suspect key will do.
    fn choose_key(
        &self,
        deployment: &Deployment,
        assigned: &Assigned,
        suspects: bool,
        turn: &mut Turn<'_>,
    ) -> Result<Option<KeyRef>, Exhausted> {
        let version = deployment.versions.get(assigned.choice.version).ok_or(Exhausted::default())?;
        let Some(pool) = version.pool else { return Ok(None) };
        let identity = assigned.choice.identity;
        let query = KeyQuery { tried: &[], identity, random: self.worker.random(), suspects };
        self.service.pick(pool, query, turn).map(Some)
    }

    /// Copies the client's headers that a canary changes, for a failover to stable. Only a `keys` role needs them; also without
    /// `failover`, because with an aggregate cluster Envoy decides.
    fn original_headers(
        &self,
        deployment: &Deployment,
        canary: &Version,
        headers: &Headers,
    ) -> Option<OriginalHeaders> {
        if !self.worker.secrets.has_keys_role() {
            return None;
        }
        let stable = deployment.versions.get(deployment.stable)?;
        Some(OriginalHeaders::new(&self.service, [canary, stable], headers))
    }

    /// Rewrites the request for the version's upstream, and puts in the key.
    fn send(&self, version: &Version, key: Option<KeyRef>, headers: &Headers) {
        let plan = &self.service.plan;
        host::set_request_header(&plan.cluster_header, version.cluster.as_bytes());
        // The key takes the place of any value that the client has in the pool's header: no need to remove that first.
        let pool = key.and(version.pool).and_then(|pool| plan.pools.get(pool));
        rewrite(&self.service, version, headers, pool.map(|pool| pool.header.as_str()));
        // A request must never leave without its credential. The key is put in even if there is a `keys` role: that role may not
        // see the attempts (another listener may have no such role, or it may be about to be reloaded).
        if let (Some(key), Some(serving)) = (key, &self.serving) {
            serving.request.router_key.set(self.service.inject_key(key, false));
        }
    }

    /// Opens the request's ledger and, where there is a `keys` role, ties its attempts to it.
    fn start(
        &mut self,
        deployment: usize,
        decision: Decision,
        original: Option<OriginalHeaders>,
        body: Option<RequestBody>,
    ) {
        let Decision { assigned, seen, .. } = decision;
        let plan = self.service.plan.deployments.get(deployment);
        let impatient_after = plan.and_then(|plan| smallest_latency_limit(plan.guard_at(assigned.stage)));
        let request = Rc::new(Request {
            service: Rc::clone(&self.service),
            deployment,
            assigned,
            router_key: Cell::default(),
            original,
            labelled: Cell::new(false),
            out_of_keys: Cell::new(false),
            body,
            announced: Cell::new(false),
            stable_named: Cell::new(false),
            next_named: Cell::new(false),
            client: Cell::new(None),
            attempts: SharedCell::new(Attempts::new(seen, impatient_after)),
            _in_flight: self.worker.requests.count_one(),
        });
        let id = self.worker.secrets.has_keys_role().then(|| self.worker.requests.insert(&request));
        if let Some(id) = id {
            // Another VM that takes over reads from it where a canary's key may go.
            let moves = |plan: &&Deployment| request.version() != plan.stable || request.body.is_some();
            let version = plan.filter(moves).and_then(|plan| plan.versions.get(request.version()));
            let home = version.map(|version| request.home(version));
            host::set_request_link(id, home.unwrap_or_default());
            host::mark_request(id);
        }
        self.serving = Some(Serving { request, id });
    }

    /// Notes that the client has sent all of its request.
    fn note_request_end(&self) {
        if let Some(serving) = &self.serving {
            let now = self.worker.clock.mono();
            serving.request.attempts.with_mut(|attempts| attempts.record_request_end(now));
        }
    }
}

impl Context for RouterStream {}

impl HttpContext for RouterStream {
    fn on_http_request_headers(&mut self, _: usize, ended: bool) -> Action {
        self.service.served.set(true);
        self.begin(ended)
    }

    fn on_http_request_body(&mut self, size: usize, ended: bool) -> Action {
        let action = if self.held.is_none() { Action::Continue } else { self.read_body(size, ended) };
        if ended {
            self.note_request_end();
        }
        action
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        // A body that ends with trailers has no other end.
        let action = match self.held.as_ref().map(|held| held.body.read()) {
            Some(size) => self.read_body(size, true),
            None => Action::Continue,
        };
        self.note_request_end();
        action
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.serving.as_ref().map_or(Action::Continue, |serving| self.answer(serving))
    }
}

impl Drop for RouterStream {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            self.finish(&serving);
            if let Some(id) = serving.id {
                self.worker.requests.remove(id);
            }
        }
    }
}

/// Returns the id of a request, for events. It is cut because an event holds several ids, and a client's own id, where Envoy keeps
/// it, may have any length.
fn request_id(headers: &Headers) -> Option<Rc<str>> {
    let id = headers.get("x-request-id")?;
    let id = id.get(..REQUEST_ID_BYTES).unwrap_or(&id);
    Some(String::from_utf8_lossy(id).into())
}
