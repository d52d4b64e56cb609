//! Records the outcomes of requests and attempts: in the metrics, for the versions and for the keys.

use super::request::Request;
use super::service::{Service, turn};
use super::worker::Worker;
use crate::host;
use crate::keys::health::Status;
use crate::keys::pool::KeyReport;
use crate::outcome::Outcome;
use crate::outcome::attempts::Refused;
use crate::outcome::blame::{Event, KeyOutcome, Unproven};
use crate::outcome::judgement::{Carried, Judgement};
use crate::plan::pool::{KeyRef, Refusal};
use crate::report::event::Event as ReportEvent;
use crate::shared::turn::Turn;
use crate::time::{Micros, Now};

impl Worker {
    /// Records judgements about a request's attempts.
    pub fn record(&self, request: &Request, judgements: &[Judgement], now: Now) {
        let Some(deployment) = request.deployment() else { return };
        let Some(binding) = request.service.bindings.get(request.deployment) else { return };
        let metrics = request.service.metrics.get(request.deployment);
        let (mut turn, mut transitions) = (turn(now), Vec::new());
        for judgement in judgements {
            let to_stable = judgement.carried.to_stable;
            let version = if to_stable { deployment.stable } else { request.version() };
            if let (Some(metrics), Some(outcome)) =
                (metrics.and_then(|m| m.versions.get(version)), judgement.outcome)
            {
                metrics.attempt(outcome);
            }
            self.record_key(request, judgement, &mut turn);
            if let Some(event) = judgement.event {
                // The result of a failover is no sample of stable's share.
                let forced = to_stable.then(|| binding.forced(deployment.stable));
                let assigned = forced.as_ref().unwrap_or(&request.assigned);
                transitions.extend(binding.record(deployment, assigned, event, &mut turn));
            }
        }
        self.count_dropped(turn.drops);
        self.publish_transitions(&request.service, request.deployment, &transitions);
    }

    /// Reports that no attempt carried the key which the router role has put in: if it was a trial, another may follow.
    pub fn record_unused_key(&self, request: &Request, now: Now) {
        let began = request.attempts.with(|attempts| attempts.seen_at()).unwrap_or(now.mono);
        let mut turn = turn(now);
        self.report_key(request, request.router_key.get(), KeyOutcome::Inconclusive, began, &mut turn);
        self.count_dropped(turn.drops);
    }

    /// Counts an attempt for the key that it carried, and reports its outcome to the state of the key. A refusal waits until its
    /// request is decided; good headers of another key decide it.
    fn record_key(&self, request: &Request, judgement: &Judgement, turn: &mut Turn<'_>) {
        let service = &request.service;
        let is_good = matches!(judgement.event, Some(Event::Answered { outcome: Outcome::Good, .. }));
        let refused = if is_good { take_refusals(request) } else { Vec::new() };
        // Asked before the good answer is reported: it would end the doubts about its own key.
        let proven: Vec<bool> =
            refused.iter().map(|refused| is_proven(service, judgement, refused)).collect();
        if let Some(KeyRef { pool: n, key }) = judgement.carried.key
            && let Some(live) = service.pools.get(n)
        {
            if let (Some(outcome), Some(metrics)) = (judgement.outcome, live.metrics.get(key)) {
                metrics.attempt(outcome);
            }
            if let Some(fingerprint) = judgement.carried.fingerprint {
                live.count(|usage| usage.count(fingerprint, judgement, turn.now.wall));
            }
            if judgement.event.is_some() && judgement.on_key.refusal().is_some() {
                live.note_refusal(key, turn.now.mono);
            }
            if let Some(outcome) = judgement.key_outcome() {
                self.report_key(request, judgement.carried, outcome, judgement.began, turn);
            }
        }
        for (refused, proven) in refused.iter().zip(proven) {
            self.report_refusal(request, refused, proven, turn);
        }
    }

    /// Reports the refusal of a key, once its request is decided.
    fn report_refusal(&self, request: &Request, refused: &Refused, proven: bool, turn: &mut Turn<'_>) {
        let Refused { carried, began, refusal, alone } = *refused;
        let outcome = match refusal {
            _ if !proven => KeyOutcome::Unproven(Unproven { refusal, alone }),
            Refusal::Rejected => KeyOutcome::Rejected,
            Refusal::Exhausted => KeyOutcome::Exhausted,
            Refusal::Limited => KeyOutcome::Limited(None),
        };
        self.report_key(request, carried, outcome, began, turn);
    }

    /// Reports an outcome to the state of a key, and publishes the changes of status.
    fn report_key(
        &self,
        request: &Request,
        carried: Carried,
        outcome: KeyOutcome,
        began: Micros,
        turn: &mut Turn<'_>,
    ) {
        let (service, now) = (&request.service, turn.now);
        let Some(KeyRef { pool: n, key }) = carried.key else { return };
        let (Some(pool), Some(live)) = (service.plan.pools.get(n), service.pools.get(n)) else { return };
        let report = KeyReport { key, outcome, began, client: &|| request.client() };
        let moved = service.report(n, report, carried.fingerprint, turn);
        for moved in &moved {
            let id = pool.keys.get(moved.key).map_or("", |key| key.id.as_str());
            host::info(&ReportEvent::key(&pool.name, id, moved, now).line());
            if moved.to == Status::Suspect {
                self.publish_suspect(service, &pool.name, id, now);
            }
        }
        let lost_one = moved.iter().any(|moved| moved.from == Status::Active);
        if lost_one && live.availability(now.mono).is_err() {
            self.publish_last_key(service, &pool.name, now);
        }
    }

    /// Counts a request that is over, and ends its probe, if it was one.
    pub fn finish(&self, request: &Request, outcome: Outcome, now: Now) {
        let refused = take_refusals(request);
        if !refused.is_empty() {
            let mut turn = turn(now);
            refused.iter().for_each(|refused| self.report_refusal(request, refused, false, &mut turn));
            self.count_dropped(turn.drops);
        }
        let metrics = request.service.metrics.get(request.deployment);
        if let Some(version) = metrics.and_then(|metrics| metrics.versions.get(request.served_by())) {
            version.request(outcome);
        }
        if request.assigned.lease.is_some()
            && let Some(deployment) = request.deployment()
            && let Some(binding) = request.service.bindings.get(request.deployment)
        {
            // An outcome from stable after a failover says nothing about the canary.
            let by_stable = request.served_by() != request.version();
            let passed = match outcome {
                _ if by_stable => None,
                Outcome::Good => Some(true),
                Outcome::Bad => Some(false),
                _ => None,
            };
            let mut turn = turn(now);
            let transition = binding.finish(deployment, &request.assigned, passed, &mut turn);
            self.count_dropped(turn.drops);
            self.publish_transitions(&request.service, request.deployment, transition.as_slice());
        }
    }
}

/// Takes the refusals that a request has met.
fn take_refusals(request: &Request) -> Vec<Refused> {
    let has_some = request.attempts.with(|attempts| attempts.has_refusals()) == Some(true);
    let taken = if has_some { request.attempts.with_mut(|attempts| attempts.take_refusals()) } else { None };
    taken.unwrap_or_default()
}

/// Returns whether a good answer proves that a key which was refused on the same request is at fault.
fn is_proven(service: &Service, good: &Judgement, refused: &Refused) -> bool {
    let (Some(good), Some(key)) = (good.carried.key, refused.carried.key) else { return false };
    let proves = || service.pools.get(good.pool).is_some_and(|live| live.proves(good.key, refused.began));
    good.pool == key.pool && good.key != key.key && proves()
}
