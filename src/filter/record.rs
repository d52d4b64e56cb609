//! What becomes of requests and attempts: counted, blamed, told.

use super::request::Request;
use super::service::{Service, turn};
use super::worker::Worker;
use crate::engine::Notes;
use crate::host::{self, SharedData};
use crate::keys::health::Status;
use crate::outcome::Outcome;
use crate::outcome::blame::KeyOutcome;
use crate::outcome::judgement::Judgement;
use crate::plan::pool::KeyRef;
use crate::problems::Problems;
use crate::report::event::Event;
use crate::report::log::EventLog;
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::names::{EVENTS, POOL_EVENTS, REJECTIONS};
use crate::shared::store::{Change, update};
use crate::time::{Millis, Now, UnixMillis};

/// What workers say within this time of each other is said of one occasion (5 s): a secrets document reaches all of them in far
/// less.
const AT_ONCE: Millis = Millis(5000);

/// What has become of an event.
#[derive(Clone, Copy)]
enum Kept {
    Now,
    Before,
    Not,
}

impl Worker {
    /// Records judgements about a request's attempts. `wait`: what the response says of a rate limit.
    pub fn record(&self, request: &Request, judgements: &[Judgement], wait: Option<Millis>, now: Now) {
        let Some(deployment) = request.deployment() else { return };
        let Some(binding) = request.service.bindings.get(request.deployment) else { return };
        let metrics = request.service.metrics.get(request.deployment);
        let mut notes = Notes::default();
        for judgement in judgements {
            let to_stable = judgement.carried.to_stable;
            let version = if to_stable { deployment.stable } else { request.version() };
            if let (Some(metrics), Some(outcome)) =
                (metrics.and_then(|m| m.versions.get(version)), judgement.outcome)
            {
                metrics.attempt(outcome);
            }
            if let Some(key) = judgement.carried.key {
                self.report_key(&request.service, key, judgement, wait, now, &mut notes);
            }
            if let Some(event) = judgement.event {
                // What a failover does to stable is no sample of stable's share.
                let forced = to_stable.then(|| binding.forced(deployment.stable));
                let assigned = forced.as_ref().unwrap_or(&request.assigned);
                binding.record(deployment, assigned, event, &SharedData, now, &mut notes);
            }
        }
        self.publish_notes(&request.service, request.deployment, notes);
    }

    /// The key that the router role has put in was carried by no attempt: if it was a trial, another may follow.
    pub fn router_key_unused(&self, request: &Request, now: Now) {
        let carried = request.router_key.get();
        let began = request.attempts.try_borrow().map_or(now.mono, |attempts| attempts.seen_at());
        let mut notes = Notes::default();
        request.service.report(carried, KeyOutcome::Inconclusive, began, &mut turn(now.mono, &mut notes));
        self.count_dropped(notes.dropped);
    }

    /// Counts an attempt for its key, and reports to the pool what it says about it.
    fn report_key(
        &self,
        service: &Service,
        KeyRef { pool: n, key }: KeyRef,
        judgement: &Judgement,
        wait: Option<Millis>,
        now: Now,
        notes: &mut Notes,
    ) {
        let metrics = service.pool_metrics.get(n);
        if let (Some(outcome), Some(metrics)) = (judgement.outcome, metrics.and_then(|keys| keys.get(key))) {
            metrics.attempt(outcome);
        }
        if let (Some(fingerprint), Some(Ok(mut usage))) =
            (judgement.carried.fingerprint, service.usages.get(n).map(|usage| usage.try_borrow_mut()))
        {
            usage.count(fingerprint, judgement, now.wall);
        }
        let (Some(key_outcome), Some(pool)) = (judgement.key_outcome(wait), service.plan.pools.get(n)) else {
            return;
        };
        let moved = service
            .report(judgement.carried, key_outcome, judgement.began, &mut turn(now.mono, notes))
            .unwrap_or_default();
        for moved in &moved {
            let id = pool.keys.get(moved.key).map_or("", |key| key.id.as_str());
            host::info(&Event::key(&pool.name, id, moved, now).line());
        }
        let lost_one = moved.iter().any(|moved| moved.from == Status::Active);
        if lost_one && service.outlook(n, now.mono).is_err() {
            self.publish(service, POOL_EVENTS, Event::pool_exhausted(&pool.name, now.wall).line());
        }
    }

    /// A request is over: counts it, and ends its probe, if it was one.
    pub fn finish(&self, request: &Request, outcome: Outcome, now: Now) {
        let metrics = request.service.metrics.get(request.deployment);
        if let Some(version) = metrics.and_then(|metrics| metrics.versions.get(request.served_by())) {
            version.request(outcome);
        }
        if request.assigned.lease.is_some()
            && let Some(deployment) = request.deployment()
            && let Some(binding) = request.service.bindings.get(request.deployment)
        {
            // What stable made of it after a failover says nothing about the canary.
            let by_stable = request.served_by() != request.version();
            let good = match outcome {
                _ if by_stable => None,
                Outcome::Good => Some(true),
                Outcome::Bad => Some(false),
                _ => None,
            };
            let mut notes = Notes::default();
            binding.finish(deployment, &request.assigned, good, &SharedData, now, &mut notes);
            self.publish_notes(&request.service, request.deployment, notes);
        }
    }

    /// Logs and counts what the engine reports.
    pub fn publish_notes(&self, service: &Service, deployment: usize, notes: Notes) {
        self.count_dropped(notes.dropped);
        let moved = !notes.transitions.is_empty();
        for transition in notes.transitions {
            self.publish(service, EVENTS, Event::transition(&transition, self.clock.now().wall).line());
            if let (true, Some(cause)) = (transition.change.is_rollback(), &transition.cause)
                && let Some(plan) = service.plan.deployments.get(deployment)
                && let Some(n) = plan.versions.iter().position(|v| v.id == transition.version)
                && let Some(metrics) = service.metrics.get(deployment).and_then(|m| m.versions.get(n))
            {
                metrics.rollback(&cause.label);
            }
        }
        if moved {
            service.write_gauges(deployment);
        }
    }

    /// Logs an event, keeps it in shared data and, with `alerts`, has it posted. Only the worker that made a transition gets
    /// here with it, so each is published once.
    fn publish(&self, service: &Service, log: &str, line: String) {
        host::warn(&line);
        self.keep(log, &line, None);
        self.alert(service, line);
    }

    /// A pool has lost its last key with its secret. All workers learn that at about the same time, each by itself: the first
    /// one says so.
    pub fn publish_exhausted(&self, service: &Service, pool: &str, now: Now) {
        let line = Event::pool_exhausted(pool, now.wall).line();
        let since = UnixMillis(now.wall.0.saturating_sub(AT_ONCE.0));
        if self.keep(POOL_EVENTS, &line, Some(since)) {
            host::warn(&line);
            self.alert(service, line);
        }
    }

    /// Says that a configuration was rejected. The log has each problem; here those find them who look at the page.
    pub fn reject(&self, problems: &Problems) {
        self.metrics.rejected();
        let line = Event::rejected(&host::filter_name(), problems, self.clock.now().wall).line();
        self.keep(REJECTIONS, &line, None);
    }

    /// Keeps an event in shared data, unless the same has been said `since`; false if so.
    fn keep(&self, log: &str, line: &str, since: Option<UnixMillis>) -> bool {
        let kept = update(&SharedData, log, &mut |bytes| match EventLog::decode(bytes) {
            Found::Undecodable => Change::Keep(Kept::Not),
            Found::Value(log) if since.is_some_and(|since| log.has_said(line, since)) => {
                Change::Keep(Kept::Before)
            }
            found => {
                let mut log = if let Found::Value(log) = found { log } else { EventLog::default() };
                let kept = if log.push(line) { Kept::Now } else { Kept::Not };
                Change::Write(log.encode(), kept)
            }
        });
        if !matches!(kept, Ok(Kept::Now | Kept::Before)) {
            self.metrics.dropped(Dropped::Event, 1);
        }
        !matches!(kept, Ok(Kept::Before))
    }

    fn alert(&self, service: &Service, line: String) {
        if let (Some(alerts), Ok(mut outbox)) = (&service.plan.alerts, self.outbox.try_borrow_mut())
            && !outbox.push(alerts.clone(), line)
        {
            self.metrics.dropped(Dropped::Alert, 1);
        }
    }
}
