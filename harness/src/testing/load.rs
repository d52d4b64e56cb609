//! Load on both workers, and what the filter says of it: shared by the tests of outcomes, rollbacks and reloads.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until};

use crate::client::{Client, Request};
use crate::envoy::{EnvoyProcess, sum_metric};
use crate::load::{Sample, send_one};

/// Whatever should happen happens long before this, also on a machine that is busy with something else.
pub const SOON: Duration = Duration::from_secs(20);

/// A request of this deployment; see [`deployment`].
pub const DEPLOYMENT: &str = "x-deployment";

/// The number of a request of a [`Load`]; providers see it.
pub const NUMBER: &str = "x-number";

/// Asks until there is an answer, and panics if there is none [`SOON`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: impl Display,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in {SOON:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A deployment that takes the requests whose header [`DEPLOYMENT`] is its name: stable `v1` and canary `v2` with half
/// of the traffic each, on clusters of the same names, without keys.
///
/// Versions are not compared unless the guard says so: the limits are what these tests are about.
pub fn deployment(name: &str, mut guard: Value) -> Value {
    if guard.get("compare").is_none() {
        guard["compare"] = json!(false);
    }
    json!({
        "name": name,
        "match": {"headers": [{"name": DEPLOYMENT, "exact": name}]},
        "stable": "v1",
        "versions": [{"id": "v1", "weight": 50, "cluster": "v1"}, {"id": "v2", "weight": 50, "cluster": "v2"}],
        "failover": false,
        "guard": guard,
    })
}

/// A request of this deployment, streamed or not.
pub fn chat(deployment: &str, stream: bool) -> Request {
    Request::chat(stream).header(DEPLOYMENT, deployment)
}

/// The routes of a sample's bootstrap.
pub fn routes(bootstrap: &mut Value) -> &mut Vec<Value> {
    let manager = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().expect("routes")
}

/// An edit of a bootstrap: Envoy retries nothing, so each request is one attempt.
pub fn without_retries(bootstrap: &mut Value) {
    for route in routes(bootstrap) {
        route["route"].as_object_mut().map(|action| action.remove("retry_policy"));
    }
}

/// The counts of a counter of one deployment, by `version outcome`, without those that are 0.
pub async fn outcomes(envoy: &EnvoyProcess, counter: &str, deployment: &str) -> BTreeMap<String, u64> {
    let page = envoy.prometheus().await.expect("Envoy's admin interface answers");
    outcomes_on(&page, counter, deployment)
}

/// [`outcomes`] of a Prometheus page.
pub fn outcomes_on(page: &str, counter: &str, deployment: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for version in ["v1", "v2", "v3"] {
        for outcome in
            ["good", "bad", "rate_limited", "exhausted", "key_rejected", "caller_error", "cancelled", "local"]
        {
            let labels = [("deployment", deployment), ("version", version), ("outcome", outcome)];
            let count = sum_metric(page, counter, &labels) as u64;
            if count > 0 {
                counts.insert(format!("{version} {outcome}"), count);
            }
        }
    }
    counts
}

/// The events that the filter has logged about a deployment, oldest first; without warnings, which depend on time.
pub fn events(envoy: &EnvoyProcess, deployment: &str) -> Vec<Value> {
    let logs = envoy.logs();
    let lines = logs.lines().filter(|line| line.contains("wasm log"));
    lines
        .filter_map(|line| serde_json::from_str::<Value>(&line[line.find('{')?..]).ok())
        .filter(|event| {
            event["bellwether"] != "warning"
                && event.get("bellwether").is_some()
                && event["deployment"] == deployment
        })
        .collect()
}

/// Clients with connections of their own, so that a load on all of them is a load on both of Envoy's workers.
#[derive(Clone)]
pub struct Lanes(Arc<Vec<(Client, usize)>>);

/// The least number of lanes.
const LANES: usize = 8;

impl Lanes {
    /// At least eight, with at least three on each of two workers. The requests that open them match no deployment of
    /// [`deployment`].
    pub async fn open(envoy: &EnvoyProcess) -> Lanes {
        let mut lanes: Vec<(Client, usize)> = Vec::new();
        while lanes.len() < 64 {
            let before = connections(envoy).await;
            let client = envoy.client();
            client.get("/warm-up", &[]).await.expect("Envoy answers");
            let after = connections(envoy).await;
            lanes.push((client, usize::from(after[1] > before[1])));
            let on_second = lanes.iter().filter(|(_, worker)| *worker == 1).count();
            if lanes.len() >= LANES && on_second >= 3 && lanes.len() - on_second >= 3 {
                return Lanes(Arc::new(lanes));
            }
        }
        panic!("64 connections and one worker has less than three");
    }

    /// The client for the n-th request.
    pub fn client(&self, number: u64) -> &Client {
        &self.0[number as usize % self.0.len()].0
    }

    /// The worker, 0 or 1, that the n-th request goes to, unless its lane was busy and has opened another connection.
    pub fn worker(&self, number: u64) -> usize {
        self.0[number as usize % self.0.len()].1
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// The connections that each of two workers has accepted on the listener that serves requests.
async fn connections(envoy: &EnvoyProcess) -> [u64; 2] {
    let stats = envoy.stats().await.expect("Envoy's admin interface answers");
    let of = |worker: &str| {
        let of = |name: &str| name.starts_with("listener.") && name.ends_with(worker);
        stats.iter().filter(|(name, _)| of(name)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    };
    [of(".worker_0.downstream_cx_total"), of(".worker_1.downstream_cx_total")]
}

/// Requests at a constant rate, over all lanes in turn, until stopped.
pub struct Load {
    stopped: Arc<AtomicBool>,
    running: JoinHandle<Vec<Sample>>,
}

impl Load {
    /// Starts it. `request` makes the n-th request, which gets its number in the header [`NUMBER`].
    ///
    /// Of the samples, `sent_at` is the moment just before the request was really sent.
    pub fn start(
        lanes: &Lanes,
        per_second: f64,
        request: impl Fn(u64) -> Request + Send + Sync + 'static,
    ) -> Load {
        let stopped = Arc::new(AtomicBool::new(false));
        let (lanes, stop) = (lanes.clone(), Arc::clone(&stopped));
        let running = tokio::spawn(async move {
            let start = Instant::now();
            let mut requests = JoinSet::new();
            for number in 0.. {
                sleep_until((start + Duration::from_secs_f64(number as f64 / per_second)).into()).await;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let request = request(number).header(NUMBER, &number.to_string());
                let client = lanes.client(number).clone();
                requests.spawn(async move { sample(&client, number, request).await });
            }
            let mut samples = requests.join_all().await;
            samples.sort_by_key(|sample| sample.number);
            samples
        });
        Load { stopped, running }
    }

    /// Stops it and waits for the last answers.
    pub async fn stop(self) -> Vec<Sample> {
        self.stopped.store(true, Ordering::Relaxed);
        self.running.await.expect("the load does not panic")
    }
}

/// Sends one request now and says what became of it.
pub async fn sample(client: &Client, number: u64, request: Request) -> Sample {
    send_one(client, number, Instant::now(), request).await
}
