//! The `admin` role: one context a request on the private listener. All its answers come from shared data and from the plans in
//! this VM; it waits for nothing.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::events::kept_events;
use super::reply;
use super::service::{Service, turn};
use super::worker::Worker;
use crate::admin::{self, Body, Refusal, Request, page};
use crate::engine::{Order, Refused};
use crate::host;
use crate::plan::Deployment;
use crate::report::json::to_json;
use crate::report::status::{DeploymentStatus, KeyPoolStatus, Status, WarningStatus};
use crate::shared::turn::Turn;
use crate::time::Now;

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// One request.
pub struct AdminStream {
    worker: Rc<Worker>,
    hosts: Rc<[String]>,
}

impl AdminStream {
    /// Makes a stream for a request. `hosts`: the host names that it may name, besides addresses and `localhost`.
    pub fn new(worker: Rc<Worker>, hosts: Rc<[String]>) -> AdminStream {
        AdminStream { worker, hosts }
    }

    fn answer(&self, body_follows: bool) -> Result<(&'static str, String), Refusal> {
        let now = self.worker.clock.now();
        let body = match admin::request(&host::request_headers(), &self.hosts)? {
            Request::Page => return Ok((HTML, String::new())),
            Request::Status => self.status(now)?,
            Request::Events => {
                let lines = kept_events().ok_or_else(Refusal::events)?;
                [r#"{"events":["#, &lines.join(","), "]}"].concat()
            }
            Request::Order(name, order) => {
                let body = match host::buffered_body() {
                    Some(body) => Body::Read(body),
                    None if body_follows => Body::Unread,
                    None => Body::Read(Vec::new()),
                };
                self.order(&name, order, &body, now)?
            }
        };
        Ok((JSON, body))
    }

    fn status(&self, now: Now) -> Result<String, Refusal> {
        let services = self.services()?;
        let (mut deployments, mut key_pools) = (Vec::new(), Vec::new());
        let mut turn = turn(now);
        let mut named: Vec<&str> = Vec::new();
        for service in &services {
            for (deployment, binding) in service.plan.deployments.iter().zip(&service.bindings) {
                if !named.contains(&deployment.name.as_str()) {
                    let view = binding.view(deployment, &mut turn);
                    deployments.push(DeploymentStatus::new(deployment, &view, now));
                }
            }
            named.extend(service.plan.deployments.iter().map(|deployment| deployment.name.as_str()));
        }
        let mut named: Vec<&str> = Vec::new();
        for service in &services {
            for (pool, live) in service.plan.pools.iter().zip(&service.pools) {
                if !named.contains(&pool.name.as_str()) {
                    let keys = live.views(pool, &mut turn);
                    key_pools.push(KeyPoolStatus::new(pool, keys, now));
                }
            }
            named.extend(service.plan.pools.iter().map(|pool| pool.name.as_str()));
        }
        self.worker.count_dropped(turn.drops);
        let warnings = self.worker.standing_warnings(now.mono).iter().map(WarningStatus::new).collect();
        Ok(to_json(&Status { now: now.wall, deployments, key_pools, warnings }))
    }

    fn order(&self, name: &str, order: Order, body: &Body, now: Now) -> Result<String, Refusal> {
        let mut turn = turn(now);
        let status = self.carry_out(name, order, body, &mut turn);
        self.worker.count_dropped(turn.drops);
        status
    }

    /// Carries out an order on every deployment of this name, in all plans: another listener may have one, or another worker may
    /// serve by a plan that is about to be replaced here. Returns the status of the deployment that is in service here.
    fn carry_out(
        &self,
        name: &str,
        order: Order,
        body: &Body,
        turn: &mut Turn<'_>,
    ) -> Result<String, Refusal> {
        let services = self.services()?;
        let first = services
            .iter()
            .find_map(|service| find_deployment(service, name))
            .ok_or_else(|| Refusal::unknown(name))?;
        let first = &first.1.release;
        let cause = admin::cause(body, turn.now)?;
        let mut answer = None;
        for service in self.worker.services.alive() {
            let Some((n, deployment)) = find_deployment(&service, name) else { continue };
            let Some(binding) = service.bindings.get(n) else { continue };
            match binding.order(deployment, order, &cause, turn) {
                // A plan that is about to go matters only if it has a canary.
                Err(Refused::NoCanary) if deployment.release != *first => continue,
                ordered => self.worker.publish_transitions(&service, n, &ordered?),
            }
            if deployment.release == *first && answer.is_none() {
                let view = binding.view(deployment, turn);
                answer = Some(to_json(&DeploymentStatus::new(deployment, &view, turn.now)));
            }
        }
        answer.ok_or_else(|| Refusal::unknown(name))
    }

    fn services(&self) -> Result<Vec<Rc<Service>>, Refusal> {
        let services = self.worker.services.in_service();
        if services.is_empty() { Err(Refusal::no_router()) } else { Ok(services) }
    }

    fn send(&self, answer: Result<(&'static str, String), Refusal>) {
        let bits = [self.worker.random(), self.worker.random()];
        let nonce = format!("{:016x}{:016x}", bits[0], bits[1]);
        match answer {
            Ok((HTML, _)) => reply::answer(200, HTML, &page::policy(&nonce), None, &page::document(&nonce)),
            Ok((kind, body)) => reply::answer(200, kind, page::NO_PAGE, None, &body),
            Err(refusal) => {
                reply::answer(refusal.status, JSON, page::NO_PAGE, refusal.allow, &refusal.body())
            }
        }
    }
}

/// Returns the deployment of this name, and its index in the plan.
fn find_deployment<'a>(service: &'a Service, name: &str) -> Option<(usize, &'a Deployment)> {
    service.plan.deployments.iter().enumerate().find(|(_, deployment)| deployment.name == name)
}

impl Context for AdminStream {}

impl HttpContext for AdminStream {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        self.send(self.answer(!end_of_stream));
        Action::Pause
    }
}
