//! What a rollback has cost, from what the canary received and what the clients got.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bellwether_harness::load::Sample;
use bellwether_harness::provider::Received;

use super::stage::CANARY;

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// A moment on both clocks: ours, and the one that Envoy's log has its times from.
#[derive(Clone, Copy)]
pub struct Moment {
    at: Instant,
    unix_millis: u64,
}

impl Moment {
    pub fn now() -> Moment {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { at: Instant::now(), unix_millis: u64::try_from(since_1970.as_millis()).unwrap_or_default() }
    }

    /// From here to the next time that the clock shows this.
    pub fn millis_to(self, millis_of_day: u64) -> u64 {
        (millis_of_day + DAY_MILLIS - self.unix_millis % DAY_MILLIS) % DAY_MILLIS
    }
}

/// The cost of a rollback.
pub struct Cost {
    /// Requests that the broken canary received, and how often it did, Envoy's retries included.
    requests: usize,
    attempts: usize,
    /// Of each request whose first attempt came after the rollback, how long after.
    after: Vec<Duration>,
    /// Of each request that failed for its client, how long after the rollback it was sent; zero if before.
    failed: Vec<Duration>,
}

impl Cost {
    /// From what the canary has received and the clients' requests since the break.
    pub fn measure(received: &[Received], samples: &[Sample], broken: Moment, flip_millis: u64) -> Cost {
        let flip = broken.at + Duration::from_millis(flip_millis);
        let bad: Vec<&Received> = received.iter().filter(|request| request.at >= broken.at).collect();
        // Envoy's request id is the same in every attempt of a request.
        let id = |request: &Received| request.header("x-request-id").unwrap_or_default().to_owned();
        let earlier: BTreeSet<String> =
            received.iter().filter(|request| request.at < broken.at).map(id).collect();
        let mut first = BTreeMap::new();
        for request in &bad {
            first.entry(id(request)).or_insert(request.at);
        }
        let after = first
            .iter()
            .filter(|(id, at)| **at > flip && !earlier.contains(*id))
            .map(|(_, at)| at.duration_since(flip))
            .collect();
        let failed = samples
            .iter()
            .filter(|sample| !sample.ok())
            .map(|sample| sample.sent_at.saturating_duration_since(flip))
            .collect();
        Cost { requests: first.len(), attempts: bad.len(), after, failed }
    }

    /// New requests at the canary later than this after the rollback.
    pub fn stragglers(&self, grace: Duration) -> usize {
        self.after.iter().filter(|after| **after > grace).count()
    }

    /// Requests sent later than this after the rollback that failed.
    pub fn failed_later(&self, grace: Duration) -> usize {
        self.failed.iter().filter(|after| **after > grace).count()
    }

    /// What a reader wants to know, in lines.
    pub fn lines(&self) -> [String; 3] {
        [
            format!(
                "{} requests met the broken {CANARY}, in {} attempts with Envoy's retries",
                self.requests, self.attempts
            ),
            format!("{} requests failed for their clients", self.failed.len()),
            match self.after.iter().max() {
                None => format!("no new request reached {CANARY} after the rollback"),
                Some(last) => format!(
                    "{} new requests reached {CANARY} after the rollback, the last {:.1} ms after it",
                    self.after.len(),
                    last.as_secs_f64() * 1000.0
                ),
            },
        ]
    }
}
