//! The answer to a request, and its end, as the `router` role sees them.

use proxy_wasm::types::Action;

use super::{RouterStream, Serving};
use crate::filter::pool::Exhausted;
use crate::filter::reply;
use crate::filter::request::Request;
use crate::filter::warnings::Overflow;
use crate::host;
use crate::outcome::attempts::{AnswerHeaders, Attempts, KeyedAnswer, RequestEnd, RouterAnswer};
use crate::outcome::blame::KeyAnswer;
use crate::outcome::judgement::Judgement;
use crate::outcome::{self, Outcome};
use crate::plan::Deployment;
use crate::time::Now;

impl RouterStream {
    /// Handles the headers of the answer.
    pub(super) fn answer(&self, serving: &Serving) -> Action {
        let request = &serving.request;
        let Some(deployment) = request.deployment() else { return Action::Continue };
        if let (Some(name), Some(version)) =
            (&self.service.plan.version_header, deployment.versions.get(request.served_by()))
        {
            host::set_response_header(name, &version.id);
        }
        let judged = request.attempts.with_mut(|attempts| {
            let judged = self.judge(attempts, request, deployment);
            if attempts.upstream_answered() {
                self.observe_latency(attempts, request, deployment);
            }
            judged
        });
        if let Some((judgement, now)) = judged.flatten() {
            self.worker.record(request, &[judgement], now);
        }
        let answer = request.attempts.with(|attempts| attempts.last_answer(request.router_key.get()));
        match answer.flatten() {
            Some(answer) if answer.headers.on_key != KeyAnswer::Silent => {
                self.adapt(request, deployment, answer)
            }
            _ => Action::Continue,
        }
    }

    /// Adapts an answer about our key for the client: 401 and 402 become 503, because the client would take them for a refusal of its
    /// own; 429 states when a key returns, if none is left.
    fn adapt(&self, request: &Request, deployment: &Deployment, answer: KeyedAnswer) -> Action {
        let KeyedAnswer { key, headers: AnswerHeaders { status, on_key } } = answer;
        // Envoy may have kept the answer and given one of its own.
        if host::response_status() != Some(status) {
            return Action::Continue;
        }
        let now = self.worker.clock.now();
        if matches!(status, 401 | 402) && on_key.refusal().is_some() {
            let name = self.service.plan.version_header.as_deref();
            let version = deployment.versions.get(request.served_by()).map(|version| version.id.as_str());
            let pool = self.service.plan.pools.get(key.pool).map_or("", |pool| pool.name.as_str());
            self.worker.publish_refused(&self.service, pool, status, now);
            reply::hide_refusal(name.zip(version));
            return Action::Pause;
        }
        if status == 429 {
            let pool_of = |version: usize| deployment.versions.get(version).and_then(|version| version.pool);
            let pools = [Some(key.pool), pool_of(request.version()), pool_of(deployment.stable)];
            let exhausted = pools.into_iter().flatten().map(|n| self.service.availability(n, now.mono));
            let returns_in: Result<Vec<Exhausted>, ()> =
                exhausted.map(|available| available.err().ok_or(())).collect();
            let first = returns_in.ok().and_then(|all| all.into_iter().reduce(Exhausted::sooner));
            if let Some(returns_in) = first.and_then(|exhausted| exhausted.returns_in) {
                reply::state_return(returns_in);
            }
        }
        Action::Continue
    }

    /// Judges the answer, if the `keys` role has not seen it. Returns the judgement and its time.
    fn judge(
        &self,
        attempts: &mut Attempts,
        request: &Request,
        deployment: &Deployment,
    ) -> Option<(Judgement, Now)> {
        if attempts.has_last_headers() {
            return None;
        }
        let now = self.worker.clock.now();
        let answer = self.router_answer(request, now)?;
        let errors = &request.guard(deployment).errors;
        let judged = attempts.record_router_answer(answer, request.router_key.get(), now.mono, errors);
        judged.map(|judgement| (judgement, now))
    }

    fn observe_latency(&self, attempts: &Attempts, request: &Request, deployment: &Deployment) {
        let heard = attempts.good_headers_at().unwrap_or_else(|| self.worker.clock.mono());
        let millis = heard.since(attempts.waiting_since()).whole_millis();
        let served_by = if attempts.served_by_stable() { deployment.stable } else { request.version() };
        let metrics = self.service.metrics.get(request.deployment);
        if let Some(version) = metrics.and_then(|m| m.versions.get(served_by)) {
            version.latency(millis);
        }
    }

    /// Returns the answer as the router sees it.
    fn router_answer(&self, request: &Request, now: Now) -> Option<RouterAnswer> {
        if self.service.upstream_ok.holds() {
            let headers = AnswerHeaders { status: 200, on_key: KeyAnswer::Silent };
            return Some(RouterAnswer { headers, from_upstream: true });
        }
        let status = host::response_status()?;
        let key = request.router_key.get().key;
        let pool = key.and_then(|key| self.service.plan.pools.get(key.pool));
        let headers = AnswerHeaders { status, on_key: reply::key_answer(pool, status, now.wall) };
        Some(RouterAnswer { headers, from_upstream: host::via_upstream() })
    }

    /// Records the request when it is over.
    pub(super) fn finish(&self, serving: &Serving) {
        let request = &serving.request;
        let Some(deployment) = request.deployment() else { return };
        let now = self.worker.clock.now();
        let flags = host::response_flags();
        let errors = &request.guard(deployment).errors;
        let mut judged = Vec::new();
        let mut answered = false;
        let outcome = request.attempts.with_mut(|attempts| {
            answered = attempts.upstream_answered();
            let ending = outcome::ending(flags, answered);
            let end = RequestEnd { ending, carried: request.router_key.get(), now: now.mono };
            attempts.finish(end, errors, &mut judged)
        });
        let Some(outcome) = outcome else { return };
        if flags & outcome::flags::OVERFLOW != 0 {
            let overflow = Overflow {
                deployment: request.deployment,
                version: request.served_by(),
                unanswered: !answered,
                last: now.mono,
            };
            self.service.lookout.note_overflow(overflow);
        }
        self.worker.record(request, &judged, now);
        if outcome == Outcome::Local {
            self.worker.record_unused_key(request, now);
        }
        self.worker.finish(request, outcome, now);
    }
}
