//! Records the outcomes of requests and attempts: in the metrics, for the versions and for the keys.

use super::request::Request;
use super::service::{Service, turn};
use super::worker::Worker;
use crate::host;
use crate::keys::health::Status;
use crate::outcome::Outcome;
use crate::outcome::blame::KeyOutcome;
use crate::outcome::judgement::Judgement;
use crate::plan::pool::KeyRef;
use crate::report::event::Event;
use crate::shared::turn::Turn;
use crate::time::{Millis, Now};

impl Worker {
    /// Records judgements about a request's attempts. `wait`: the time that the response states for a rate limit.
    pub fn record(&self, request: &Request, judgements: &[Judgement], wait: Option<Millis>, now: Now) {
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
            self.record_key(&request.service, judgement, wait, &mut turn);
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
        request.service.report(request.router_key.get(), KeyOutcome::Inconclusive, began, &mut turn);
        self.count_dropped(turn.drops);
    }

    /// Counts an attempt for the key that it carried, and reports its outcome to the state of the key.
    fn record_key(
        &self,
        service: &Service,
        judgement: &Judgement,
        wait: Option<Millis>,
        turn: &mut Turn<'_>,
    ) {
        let now = turn.now;
        let Some(KeyRef { pool: n, key }) = judgement.carried.key else { return };
        let (Some(pool), Some(live)) = (service.plan.pools.get(n), service.pools.get(n)) else { return };
        if let (Some(outcome), Some(metrics)) = (judgement.outcome, live.metrics.get(key)) {
            metrics.attempt(outcome);
        }
        if let Some(fingerprint) = judgement.carried.fingerprint {
            live.count(|usage| usage.count(fingerprint, judgement, now.wall));
        }
        let Some(outcome) = judgement.key_outcome(wait) else { return };
        let moved = service.report(judgement.carried, outcome, judgement.began, turn);
        for moved in &moved {
            let id = pool.keys.get(moved.key).map_or("", |key| key.id.as_str());
            host::info(&Event::key(&pool.name, id, moved, now).line());
        }
        let lost_one = moved.iter().any(|moved| moved.from == Status::Active);
        if lost_one && live.availability(now.mono).is_err() {
            self.publish_last_key(service, &pool.name, now);
        }
    }

    /// Counts a request that is over, and ends its probe, if it was one.
    pub fn finish(&self, request: &Request, outcome: Outcome, now: Now) {
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
