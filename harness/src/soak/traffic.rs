//! The clients: plain requests as fast as they are answered, streams, clients that leave, and some for a canary that fails.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bellwether_harness::client::{Client, Request};
use bellwether_harness::load::{Sample, send_one};
use bellwether_harness::provider::Behaviour;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The header that tells the deployments apart.
pub const DEPLOYMENT: &str = "x-soak";

/// How long a client without patience waits; its provider takes five times as long.
const IMPATIENT: Duration = Duration::from_millis(20);

/// Different failures kept in words.
const FAILURES_MAX: usize = 20;

/// What every provider does when nothing is wrong: a stream takes some milliseconds.
pub fn streaming() -> Behaviour {
    Behaviour { chunks: 4, chunk_delay_ms: 3, ..Behaviour::default() }
}

/// What a connection is used for.
#[derive(Clone, Copy)]
enum Lane {
    /// Plain requests to a deployment that is well; the ones whose latency is measured.
    Steady,
    /// Streams of that deployment.
    Stream,
    /// Streams whose client leaves in the middle.
    LeaveStream,
    /// Requests whose client leaves before there is an answer.
    LeaveEarly,
    /// Requests of the deployment whose canary fails, streamed every second time.
    Faulty,
}

/// Counts since the beginning.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Requests sent.
    pub sent: u64,
    /// Clients that left.
    pub left: u64,
    /// Answers that the failing canary broke off after they had begun: nobody can repair these.
    pub broken: u64,
    /// Requests that failed and should not have.
    pub failed: u64,
}

/// What became of the requests.
#[derive(Default)]
pub struct Tally {
    sent: AtomicU64,
    left: AtomicU64,
    left_early: AtomicU64,
    broken: AtomicU64,
    failed: AtomicU64,
    /// Microseconds of the plain requests since the last row.
    latency: Mutex<Option<Histogram<u64>>>,
    failures: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Requests sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Clients that left before there was an answer: perhaps before Envoy had the request.
    pub fn left_early(&self) -> u64 {
        self.left_early.load(Ordering::Relaxed)
    }

    /// Failures that should not have been, and how often.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latencies since the last time, and the counts since the beginning.
    pub fn take(&self) -> (Histogram<u64>, Counts) {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner).take();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = Counts {
            sent: self.sent(),
            left: of(&self.left),
            broken: of(&self.broken),
            failed: of(&self.failed),
        };
        (latency.unwrap_or_else(histogram), counts)
    }

    fn record(&self, latency: Duration) {
        let mut held = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        held.get_or_insert_with(histogram).saturating_record(micros);
    }

    fn fail(&self, what: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < FAILURES_MAX || failures.contains_key(&what) {
            *failures.entry(what).or_default() += 1;
        }
    }

    fn judge(&self, sample: &Sample, lane: Lane) {
        if sample.ok() {
            return;
        }
        let by_canary = sample.version.as_deref() == Some("v2");
        match &sample.result {
            Err(_) if by_canary && matches!(lane, Lane::Faulty) => {
                self.broken.fetch_add(1, Ordering::Relaxed);
            }
            result => self.fail(format!("{result:?} by {:?}", sample.version)),
        }
    }
}

/// Three significant digits up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("the library accepts these constants")
}

/// Clients at work.
pub struct Traffic {
    stopped: Arc<AtomicBool>,
    lanes: JoinSet<()>,
}

impl Traffic {
    /// So many connections of plain requests, and two thirds as many of all the others.
    pub fn start(port: u16, connections: u64, tally: &Arc<Tally>) -> Traffic {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut lanes = JoinSet::new();
        let share = |of_24: u64| (connections * of_24).div_ceil(24);
        for (lane, count) in [
            (Lane::Steady, connections),
            (Lane::Stream, share(6)),
            (Lane::LeaveStream, share(3)),
            (Lane::LeaveEarly, share(3)),
            (Lane::Faulty, share(4)),
        ] {
            for _ in 0..count {
                let (stopped, tally) = (Arc::clone(&stopped), Arc::clone(tally));
                lanes.spawn(async move {
                    let client = Client::new(port);
                    let mut number = 0;
                    while !stopped.load(Ordering::Relaxed) {
                        tally.sent.fetch_add(1, Ordering::Relaxed);
                        one(lane, &client, number, &tally).await;
                        number += 1;
                    }
                });
            }
        }
        Traffic { stopped, lanes }
    }

    /// Stops them and waits for the last answers.
    pub async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.lanes.join_all().await;
    }
}

/// One request of a lane.
async fn one(lane: Lane, client: &Client, number: u64, tally: &Tally) {
    let chat = |stream, deployment| Request::chat(stream).header(DEPLOYMENT, deployment);
    match lane {
        Lane::Steady => {
            let sample = send_one(client, number, Instant::now(), chat(false, "steady")).await;
            tally.record(sample.latency());
            tally.judge(&sample, lane);
        }
        Lane::Stream => {
            let sample = send_one(client, number, Instant::now(), chat(true, "steady")).await;
            tally.judge(&sample, lane);
        }
        Lane::Faulty => {
            let sample =
                send_one(client, number, Instant::now(), chat(number.is_multiple_of(2), "faulty")).await;
            tally.judge(&sample, lane);
        }
        Lane::LeaveStream => match client.open(chat(true, "steady")).await {
            Ok(mut opened) if opened.status == 200 => match opened.chunk().await {
                Ok(Some(_)) => {
                    drop(opened);
                    tally.left.fetch_add(1, Ordering::Relaxed);
                    // A connection a request: others need the ports, too.
                    sleep(Duration::from_millis(5)).await;
                }
                other => tally.fail(format!("{other:?} in a stream")),
            },
            Ok(opened) => tally.fail(format!("Ok({}) to a stream", opened.status)),
            Err(error) => tally.fail(format!("{error:#}")),
        },
        Lane::LeaveEarly => match timeout(IMPATIENT, client.open(chat(false, "slow"))).await {
            Err(_) => {
                tally.left.fetch_add(1, Ordering::Relaxed);
                tally.left_early.fetch_add(1, Ordering::Relaxed);
            }
            // Faster than it should be, and well.
            Ok(Ok(opened)) if opened.status == 200 => {}
            Ok(Ok(opened)) => tally.fail(format!("Ok({}) in no time", opened.status)),
            Ok(Err(error)) => tally.fail(format!("{error:#}")),
        },
    }
}
