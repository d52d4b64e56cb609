//! Alerts: events posted to whoever wants to know, never at the cost of traffic.
//!
//! The worker that made a transition puts the event into its outbox; the router role's tick posts it, because calls belong to
//! the context that makes them and a request's would end with the request. A post that fails is tried again, a few times.

use std::collections::VecDeque;
use std::time::Duration;

use crate::host;
use crate::plan::Alerts;
use crate::time::{Micros, Millis};

/// Alerts that wait at once; more are dropped and counted. An Envoy that makes so many transitions at a time has told enough.
const WAITING_MAX: usize = 64;
/// Tries of one alert.
const TRIES: u32 = 4;
/// Wait before the second try; doubled for each further one.
const RETRY_AFTER: Millis = Millis(1000);

/// What waits to be posted, and what is under way.
#[derive(Default)]
pub struct Outbox {
    waiting: VecDeque<Alert>,
    /// By the number of the call, with the context that made it.
    under_way: Vec<(u32, u64, Alert)>,
}

struct Alert {
    to: Alerts,
    body: String,
    tries: u32,
    due: Micros,
}

impl Outbox {
    /// Takes an alert; `false` if there is no room.
    pub fn push(&mut self, to: Alerts, body: String) -> bool {
        let room = self.waiting.len().saturating_add(self.under_way.len()) < WAITING_MAX;
        if room {
            self.waiting.push_back(Alert { to, body, tries: 0, due: Micros(0) });
        }
        room
    }

    /// Posts what is due. Returns how many were given up.
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
                Some(call) => self.under_way.push((call, context, alert)),
                // No such cluster: it may come with a later configuration.
                None => given_up = given_up.saturating_add(u64::from(!self.retry(alert, now))),
            }
        }
        given_up
    }

    /// A call was answered. Returns whether its alert was given up.
    pub fn answered(&mut self, call: u32, status: Option<u16>, now: Micros) -> bool {
        let Some(at) = self.under_way.iter().position(|(held, ..)| *held == call) else { return false };
        let (.., alert) = self.under_way.swap_remove(at);
        !matches!(status, Some(200..=299)) && !self.retry(alert, now)
    }

    /// A context is gone, and the answers to its calls with it: their alerts may not have arrived. Better twice than never;
    /// the event's id tells.
    pub fn context_ended(&mut self, now: Micros, context: u64) {
        let (lost, kept) =
            std::mem::take(&mut self.under_way).into_iter().partition(|(_, of, _)| *of == context);
        self.under_way = kept;
        let lost: Vec<(u32, u64, Alert)> = lost;
        for (.., alert) in lost {
            self.retry(alert, now);
        }
    }

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
