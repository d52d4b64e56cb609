//! Many requests, at a rate or as fast as they are answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::client::{Client, Request};

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its number, from 0.
    pub number: u64,
    /// When it was due. A generator that lags makes the request look slow, never the load look lower.
    pub sent_at: Instant,
    /// When its answer was complete or it had failed.
    pub finished_at: Instant,
    /// The status code, or what went wrong below HTTP: no connection, no answer, a body that broke off.
    pub result: Result<u16, String>,
    /// The version that served, by the version header.
    pub version: Option<String>,
}

impl Sample {
    /// From when it was due to when it was over.
    pub fn latency(&self) -> Duration {
        self.finished_at.saturating_duration_since(self.sent_at)
    }

    /// Whether it was answered completely and with a status below 400.
    pub fn ok(&self) -> bool {
        matches!(self.result, Ok(..400))
    }
}

/// Sends requests at a constant rate whatever becomes of them (open loop), and returns when all are over.
///
/// `request` makes the n-th request, from 0. Samples come in the order in which they were due.
pub async fn constant_rate(
    client: &Client,
    per_second: f64,
    duration: Duration,
    request: impl Fn(u64) -> Request,
) -> Vec<Sample> {
    let count = (per_second * duration.as_secs_f64()).round() as u64;
    let start = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..count {
        let due = start + Duration::from_secs_f64(number as f64 / per_second);
        // The timer has a resolution of a millisecond: at higher rates several are sent at once, and none is late.
        sleep_until(due.into()).await;
        let (client, request) = (client.clone(), request(number));
        running.spawn(async move { send_one(&client, number, due, request).await });
    }
    in_order(running.join_all().await)
}

/// Keeps `connections` requests going for `duration` (closed loop), and returns when the last ones are over.
///
/// `request` makes the n-th request, from 0. Samples come in the order of their numbers.
pub async fn closed_loop(
    client: &Client,
    connections: u64,
    duration: Duration,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Vec<Sample> {
    let end = Instant::now() + duration;
    let request = Arc::new(request);
    let mut running = JoinSet::new();
    for lane in 0..connections {
        let (client, request) = (client.clone(), Arc::clone(&request));
        running.spawn(async move {
            let mut samples = Vec::new();
            let mut number = lane;
            while Instant::now() < end {
                samples.push(send_one(&client, number, Instant::now(), request(number)).await);
                number += connections;
            }
            samples
        });
    }
    in_order(running.join_all().await.into_iter().flatten().collect())
}

/// Sends one request that was due at `sent_at`, and returns when it is over.
pub async fn send_one(client: &Client, number: u64, sent_at: Instant, request: Request) -> Sample {
    let (result, version) = match client.send(request).await {
        Ok(answer) => {
            let version = answer.version().map(str::to_owned);
            (answer.broken.map_or(Ok(answer.status), Err), version)
        }
        Err(error) => (Err(format!("{error:#}")), None),
    };
    Sample { number, sent_at, finished_at: Instant::now(), result, version }
}

fn in_order(mut samples: Vec<Sample>) -> Vec<Sample> {
    samples.sort_by_key(|sample| sample.number);
    samples
}

/// Counts of samples, for assertions and for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// All of them.
    pub count: usize,
    /// Those not [`Sample::ok`].
    pub failed: usize,
    /// By status code; 0 is a failure below HTTP.
    pub by_status: BTreeMap<u16, usize>,
    /// By version; the empty name is no version header.
    pub by_version: BTreeMap<String, usize>,
}

impl Summary {
    /// Counts samples.
    pub fn of(samples: &[Sample]) -> Summary {
        let mut summary = Summary { count: samples.len(), ..Summary::default() };
        for sample in samples {
            summary.failed += usize::from(!sample.ok());
            *summary.by_status.entry(*sample.result.as_ref().unwrap_or(&0)).or_default() += 1;
            *summary.by_version.entry(sample.version.clone().unwrap_or_default()).or_default() += 1;
        }
        summary
    }

    /// How many samples a version served.
    pub fn version(&self, version: &str) -> usize {
        self.by_version.get(version).copied().unwrap_or(0)
    }
}

/// The latency that `percent` of the samples do not exceed, zero without samples.
pub fn percentile(samples: &[Sample], percent: f64) -> Duration {
    let mut latencies: Vec<Duration> = samples.iter().map(Sample::latency).collect();
    latencies.sort();
    let rank = (percent / 100.0 * latencies.len() as f64).ceil() as usize;
    latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Asks again and again until `done` holds, and says whether it did before the deadline.
///
/// For what becomes true in its own time; it replaces a sleep of just the right length.
pub async fn until<F: Future<Output = bool>>(limit: Duration, mut done: impl FnMut() -> F) -> bool {
    let deadline = Instant::now() + limit;
    let mut ticks = interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if done().await {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Behaviour, Fault, Latency, Provider};

    async fn provider(behaviour: Behaviour) -> (Provider, Client) {
        let provider = Provider::start("v1").await.unwrap();
        provider.set(behaviour);
        let client = Client::new(provider.port());
        (provider, client)
    }

    #[tokio::test]
    async fn a_constant_rate_is_kept_however_slow_the_answers_are() {
        let (provider, client) = provider(Behaviour::slow(Latency::Fixed { ms: 300.0 })).await;
        let samples = constant_rate(&client, 100.0, Duration::from_millis(500), |_| Request::get("/x")).await;
        assert_eq!((samples.len(), provider.count()), (50, 50));
        let sending = samples[49].sent_at - samples[0].sent_at;
        assert_eq!(sending.as_millis(), 490, "the last is due 49 hundredths after the first");
        assert!(samples.iter().all(|sample| sample.latency() >= Duration::from_millis(300)));
    }

    #[tokio::test]
    async fn a_closed_loop_numbers_its_requests() {
        let (provider, client) = provider(Behaviour::slow(Latency::Fixed { ms: 5.0 })).await;
        let path = |number| Request::get(&format!("/{number}"));
        let samples = closed_loop(&client, 3, Duration::from_millis(100), path).await;
        assert_eq!(samples.len() as u64, provider.count());
        assert!(samples.windows(2).all(|pair| pair[0].number < pair[1].number), "in order and none twice");
        assert!(samples.len() <= 3 * 21, "{} at three at a time and 5 ms each", samples.len());
    }

    #[tokio::test]
    async fn a_summary_tells_statuses_from_failures_below_http() {
        let (provider, client) = provider(Behaviour::status(503).ratio(0.5)).await;
        let header = |version: &str| [("x-bellwether-version".to_owned(), version.to_owned())].into();
        let mut samples =
            constant_rate(&client, 1000.0, Duration::from_millis(10), |_| Request::get("/x")).await;
        let broken = Behaviour::failing(Fault::ResetAfter { chunks: 1 });
        provider.set(Behaviour { headers: header("v2"), ..broken });
        samples
            .extend(constant_rate(&client, 1000.0, Duration::from_millis(5), |_| Request::get("/x")).await);
        let summary = Summary::of(&samples);
        assert_eq!((summary.count, summary.failed, summary.version("v2")), (15, 10, 5));
        assert_eq!(summary.by_status, BTreeMap::from([(0, 5), (200, 5), (503, 5)]));
    }

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let start = Instant::now();
        let sample = |ms| Sample {
            number: ms,
            sent_at: start,
            finished_at: start + Duration::from_millis(ms),
            result: Ok(200),
            version: None,
        };
        let samples: Vec<Sample> = (1..=100).map(sample).collect();
        for (percent, ms) in [(50.0, 50), (95.0, 95), (99.0, 99), (100.0, 100), (0.0, 1)] {
            assert_eq!(percentile(&samples, percent), Duration::from_millis(ms), "p{percent}");
        }
        assert_eq!(percentile(&[], 50.0), Duration::ZERO);
    }
}
