//! Events: written to the log, kept in shared data for the admin listener, posted as alerts.

use super::service::Service;
use super::worker::Worker;
use crate::engine::Transition;
use crate::host::{self, SharedData};
use crate::problems::Problems;
use crate::report::event::Event;
use crate::report::log::{EventLog, newest_first};
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::names::{EVENTS, POOL_EVENTS, REJECTIONS, WARNING_EVENTS};
use crate::shared::store::{Change, Store, update};
use crate::time::{Millis, Now, UnixMillis};

/// Equal events of several workers within this time of each other are one event (5 s): a secrets document reaches all workers in
/// far less.
const SAME_EVENT: Millis = Millis(5000);

/// Time within which a repeated refusal is no further event (one minute).
const REPEATED_EVENT: Millis = Millis(60_000);

/// The result of keeping an event.
#[derive(Clone, Copy)]
enum Kept {
    Written,
    AlreadyThere,
    Failed,
}

impl Worker {
    /// Publishes the transitions that this worker has made in a deployment.
    pub fn publish_transitions(&self, service: &Service, deployment: usize, transitions: &[Transition]) {
        for transition in transitions {
            self.publish(service, EVENTS, Event::transition(transition, self.clock.now().wall).line());
            count_rollback(service, deployment, transition);
        }
        if !transitions.is_empty() {
            service.write_gauges(deployment);
        }
    }

    /// Publishes that a pool has lost its last usable key by an attempt. Only the worker that made the change gets here with it,
    /// so the event is published once.
    pub fn publish_last_key(&self, service: &Service, pool: &str, now: Now) {
        self.publish(service, POOL_EVENTS, Event::pool_exhausted(pool, now.wall).line());
    }

    /// Publishes that a pool has lost its last usable key with its secret. All workers learn that at about the same time, each
    /// by itself; the first one publishes it.
    pub fn publish_exhausted(&self, service: &Service, pool: &str, now: Now) {
        self.publish_once(service, &Event::pool_exhausted(pool, now.wall), SAME_EVENT, now);
    }

    /// Publishes that a key is suspect. A key that is refused now and then is one event a minute.
    pub fn publish_suspect(&self, service: &Service, pool: &str, key: &str, now: Now) {
        self.publish_once(service, &Event::key_suspect(pool, key, now.wall), REPEATED_EVENT, now);
    }

    /// Publishes that the provider has refused a key and the client got 503 in its place: once a minute for a pool and a status.
    pub fn publish_refused(&self, service: &Service, pool: &str, status: u16, now: Now) {
        self.publish_once(service, &Event::key_refused(pool, status, now.wall), REPEATED_EVENT, now);
    }

    /// Publishes an event of a pool, unless an equal one was published within this time.
    fn publish_once(&self, service: &Service, event: &Event, within: Millis, now: Now) {
        let line = event.line();
        let since = UnixMillis(now.wall.0.saturating_sub(within.0));
        if self.keep(POOL_EVENTS, &line, Some(since)) {
            host::warn(&line);
            self.alert(service, line);
        }
    }

    /// Counts a rejected configuration and keeps an event for it. The log has each of the problems.
    pub fn reject(&self, problems: &Problems) {
        self.metrics.rejected();
        let line = Event::rejected(&host::filter_name(), problems, self.clock.now().wall).line();
        self.keep(REJECTIONS, &line, None);
    }

    /// Logs an event, keeps it in shared data and, with `alerts`, has it posted.
    pub fn publish(&self, service: &Service, log: &str, line: String) {
        host::warn(&line);
        self.keep(log, &line, None);
        self.alert(service, line);
    }

    /// Keeps an event in shared data, unless an equal one was kept at `since` or later. Returns false if one was.
    fn keep(&self, log: &str, line: &str, since: Option<UnixMillis>) -> bool {
        let kept = update(&SharedData, log, &mut |bytes| match EventLog::decode(bytes) {
            Found::Undecodable => Change::Keep(Kept::Failed),
            Found::Value(log) if since.is_some_and(|since| log.has_since(line, since)) => {
                Change::Keep(Kept::AlreadyThere)
            }
            found => {
                let mut log = if let Found::Value(log) = found { log } else { EventLog::default() };
                let kept = if log.push(line) { Kept::Written } else { Kept::Failed };
                Change::Write(log.encode(), kept)
            }
        });
        if !matches!(kept, Ok(Kept::Written | Kept::AlreadyThere)) {
            self.metrics.dropped(Dropped::Event, 1);
        }
        !matches!(kept, Ok(Kept::AlreadyThere))
    }

    fn alert(&self, service: &Service, line: String) {
        let Some(alerts) = &service.plan.alerts else { return };
        if self.outbox.with_mut(|outbox| outbox.push(alerts.clone(), line)) == Some(false) {
            self.metrics.dropped(Dropped::Alert, 1);
        }
    }
}

/// Counts a transition in the metrics, if it is a rollback that was carried out.
fn count_rollback(service: &Service, deployment: usize, transition: &Transition) {
    if let (true, Some(cause)) = (transition.change.is_rollback(), &transition.cause)
        && let Some(plan) = service.plan.deployments.get(deployment)
        && let Some(n) = plan.versions.iter().position(|v| v.id == transition.version)
        && let Some(metrics) = service.metrics.get(deployment).and_then(|m| m.versions.get(n))
    {
        metrics.rollback(&cause.label);
    }
}

/// Returns the last events of the process, newest first; `None` if they cannot be read.
pub fn kept_events() -> Option<Vec<String>> {
    let mut logs = Vec::new();
    for key in [EVENTS, POOL_EVENTS, REJECTIONS, WARNING_EVENTS] {
        let found = SharedData.get(key).ok()?;
        match EventLog::decode(found.as_ref().map(|found| found.bytes.as_slice())) {
            Found::Nothing => {}
            Found::Value(log) => logs.push(log),
            Found::Undecodable => return None,
        }
    }
    Some(newest_first(logs))
}
