//! Alerts: events posted to a webhook, never at the cost of traffic.
//!
//! The worker that made a transition puts the event into its outbox. The router role's tick posts it: a call belongs to the
//! context that makes it, and would end with a request. A post that fails is tried again, a few times.

use std::collections::VecDeque;
use std::time::Duration;

use crate::host;
use crate::plan::Alerts;
use crate::time::{Micros, Millis};

/// Most alerts that wait at once; more are dropped and counted. An Envoy that makes so many transitions at a time has reported
/// enough.
const WAITING_MAX: usize = 64;
/// Tries of one alert.
const TRIES: u32 = 4;
/// Wait before the second try; doubled for each further one.
const RETRY_AFTER: Millis = Millis(1000);

/// The alerts that wait to be posted, and those under way.
#[derive(Default)]
pub struct Outbox {
    waiting: VecDeque<Alert>,
    under_way: Vec<Post>,
}

/// An alert under way.
struct Post {
    /// Number of the call.
    call: u32,
    /// The context that made the call.
    context: u64,
    alert: Alert,
}

struct Alert {
    to: Alerts,
    body: String,
    tries: u32,
    due: Micros,
}

impl Outbox {
    /// Adds an alert. Returns `false` if there is no room.
    pub fn push(&mut self, to: Alerts, body: String) -> bool {
        let room = self.waiting.len().saturating_add(self.under_way.len()) < WAITING_MAX;
        if room {
            self.waiting.push_back(Alert { to, body, tries: 0, due: Micros(0) });
        }
        room
    }

    /// Posts the alerts that are due. Returns how many were given up.
    pub fn post(&mut self, now: Micros, context: u64) -> u64 {
        let mut given_up = 0u64;
        for _ in 0..self.waiting.len() {
            let Some(mut alert) = self.waiting.pop_front() else { break };
            if alert.due > now {
                self.waiting.push_back(alert);
                continue;
            }
            alert.tries = alert.tries.saturating_add(1);
            let to = &alert.to;
            let timeout = Duration::from_millis(to.timeout.0);
            match host::post(&to.cluster, &to.host, &to.path, &alert.body, timeout) {
                Some(call) => self.under_way.push(Post { call, context, alert }),
                // No such cluster: it may come with a later configuration.
                None => given_up = given_up.saturating_add(u64::from(!self.retry(alert, now))),
            }
        }
        given_up
    }

    /// Ends a call that was answered with this status. Returns whether its alert was given up.
    pub fn answered(&mut self, call: u32, status: Option<u16>, now: Micros) -> bool {
        let Some(at) = self.under_way.iter().position(|post| post.call == call) else { return false };
        let Post { alert, .. } = self.under_way.swap_remove(at);
        !matches!(status, Some(200..=299)) && !self.retry(alert, now)
    }

    /// Lets the alerts of a context that has ended be posted again: they may not have arrived, and the answers to its calls are
    /// lost. An alert may so arrive twice; the event's id tells.
    pub fn context_ended(&mut self, now: Micros, context: u64) {
        let (lost, kept): (Vec<Post>, Vec<Post>) =
            std::mem::take(&mut self.under_way).into_iter().partition(|post| post.context == context);
        self.under_way = kept;
        for post in lost {
            self.retry(post.alert, now);
        }
    }

    /// Lets an alert wait for its next try. Returns `false` if it has had all of them.
    fn retry(&mut self, mut alert: Alert, now: Micros) -> bool {
        if alert.tries >= TRIES {
            return false;
        }
        let doubled = RETRY_AFTER.0.checked_shl(alert.tries.saturating_sub(1)).unwrap_or(RETRY_AFTER.0);
        alert.due = now.plus(Millis(doubled));
        self.waiting.push_back(alert);
        true
    }
}
