//! Faults for an Envoy with a stable version and a canary, and the conditions that must hold afterwards.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyProcess, sum_metric};
use bellwether_harness::load::Sample;
use bellwether_harness::testing::load::{Lanes, eventually, outcomes_on, routes, sample};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::common::rig::assert_no_trap;

/// Stable `v1` and canary `v2`, half of the traffic each, each with a pool of two keys of its own; failover on.
///
/// By default the guard only observes, so that a canary in trouble goes on getting requests, all of which must be served.
pub fn config(guard: Value) -> Value {
    let pool = |name: &str| {
        let key = |n: u32| json!({"id": format!("{name}-{n}"), "value": format!("sk-{name}-{n}")});
        json!({"name": name, "keys": [key(1), key(2)]})
    };
    let guard = if guard.is_null() { json!({"mode": "observe"}) } else { guard };
    json!({
        "deployments": [{"name": "d", "stable": "v1", "guard": guard, "versions": [
            {"id": "v1", "weight": 50, "cluster": "v1", "key_pool": "one"},
            {"id": "v2", "weight": 50, "cluster": "v2", "key_pool": "two"}]}],
        "key_pools": [pool("one"), pool("two")],
    })
}

/// An edit of a bootstrap: a provider that is silent for a second is given up.
pub fn impatient(bootstrap: &mut Value) {
    for route in routes(bootstrap) {
        if let Some(policy) = route["route"].get_mut("retry_policy") {
            policy["per_try_idle_timeout"] = json!("1s");
        }
    }
}

/// Sends so many requests at once, over all lanes, and waits for all of them.
pub async fn burst(lanes: &Lanes, count: u64, request: impl Fn(u64) -> Request) -> Vec<Sample> {
    let mut running = JoinSet::new();
    for number in 0..count {
        let (client, request) = (lanes.client(number).clone(), request(number));
        running.spawn(async move { sample(&client, number, request).await });
    }
    running.join_all().await
}

/// Fails unless every request was answered with success.
pub fn all_ok<'a>(samples: impl IntoIterator<Item = &'a Sample>, after: &str) {
    let failed: Vec<&Sample> = samples.into_iter().filter(|sample| !sample.ok()).collect();
    let shown = &failed[..failed.len().min(3)];
    assert!(failed.is_empty(), "{after}: {} requests failed, among them {shown:#?}", failed.len());
}

/// The filter's counts for the deployment, by `version outcome`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: BTreeMap<String, u64>,
    pub attempts: BTreeMap<String, u64>,
}

impl Counts {
    pub async fn of(envoy: &EnvoyProcess) -> Counts {
        let page = envoy.prometheus().await.unwrap();
        Counts {
            requests: outcomes_on(&page, "bellwether_requests_total", "d"),
            attempts: outcomes_on(&page, "bellwether_attempts_total", "d"),
        }
    }

    /// Waits until all answered requests are counted, which happens just after their answers, and returns the difference
    /// from `before`.
    pub async fn since(before: &Counts, envoy: &EnvoyProcess, answered: u64) -> Counts {
        let all = before.requests.values().sum::<u64>() + answered;
        let now = eventually(format!("{all} requests are counted"), || async {
            let now = Counts::of(envoy).await;
            (now.requests.values().sum::<u64>() >= all).then_some(now)
        })
        .await;
        let less = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let rest = now.iter().map(|(name, n)| (name.clone(), n - before.get(name).unwrap_or(&0)));
            rest.filter(|(_, n)| *n > 0).collect()
        };
        Counts {
            requests: less(&now.requests, &before.requests),
            attempts: less(&now.attempts, &before.attempts),
        }
    }
}

/// Counts by their names.
pub fn counts(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().filter(|(_, n)| *n > 0).map(|(name, n)| ((*name).to_owned(), *n)).collect()
}

/// Fails unless an idle Envoy is in order: no request in flight, every key in use, this phase, no trap.
pub async fn at_rest(envoy: &EnvoyProcess, phase: u64, after: &str) {
    assert_no_trap(envoy, after).await;
    nothing_in_flight(envoy, after).await;
    let page = envoy.prometheus().await.unwrap();
    assert_eq!(sum_metric(&page, "bellwether_phase", &[("deployment", "d")]) as u64, phase, "after {after}");
    assert_eq!(sum_metric(&page, "bellwether_key_status", &[]), 0.0, "a key is out after {after}");
    for kind in ["undecodable", "refused", "event", "alert"] {
        let dropped = sum_metric(&page, "bellwether_dropped_total", &[("what", kind)]);
        assert_eq!(dropped, 0.0, "{kind} after {after}");
    }
}

/// Waits until no worker holds a request any more.
pub async fn nothing_in_flight(envoy: &EnvoyProcess, after: &str) {
    // The gauge's present value may be older than the trouble, because a VM writes it twice a second.
    sleep(Duration::from_millis(600)).await;
    eventually(format!("nothing is in flight after {after}"), || async {
        (envoy.metric("bellwether_in_flight", &[]).await.unwrap() == 0.0).then_some(())
    })
    .await;
}

/// The reaction of a [`Saboteur`] to a request.
#[derive(Debug, Clone)]
pub enum Sabotage {
    /// These bytes, and the end of the connection.
    Say(Vec<u8>),
    /// These bytes, and then nothing, on a connection that stays open.
    SayAndHang(Vec<u8>),
    /// The first bytes at once, the others one by one with so much time between them, and the end of the connection.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// The connection is reset.
    Reset,
}

/// A provider that does not speak HTTP, or not well.
pub struct Saboteur {
    pub port: u16,
    does: Arc<Mutex<Sabotage>>,
    count: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl Saboteur {
    pub async fn start() -> Saboteur {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let does = Arc::new(Mutex::new(Sabotage::Reset));
        let count = Arc::new(AtomicU64::new(0));
        let (shared, counter) = (Arc::clone(&does), Arc::clone(&count));
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (does, counter) = (Arc::clone(&shared), Arc::clone(&counter));
                connections.spawn(async move { sabotage(stream, &does, &counter).await });
            }
        });
        Saboteur { port, does, count, server }
    }

    /// From now on it does this.
    pub fn set(&self, does: Sabotage) {
        *self.does.lock().unwrap() = does;
    }

    /// The requests that have arrived whole.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves the one request of a connection.
async fn sabotage(mut stream: TcpStream, does: &Mutex<Sabotage>, counter: &AtomicU64) {
    let mut request = Vec::new();
    loop {
        let head = request.windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if request.len() >= head + 4 + length.unwrap_or(0) {
                break;
            }
        }
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    counter.fetch_add(1, Ordering::Relaxed);
    let does = does.lock().unwrap().clone();
    match does {
        Sabotage::Say(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Sabotage::SayAndHang(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Sabotage::Drip(first, bytes, every) => {
            let _ = stream.set_nodelay(true);
            let _ = stream.write_all(&first).await;
            for byte in bytes {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                sleep(every).await;
            }
            let _ = stream.shutdown().await;
        }
        Sabotage::Reset => {
            let _ = stream.set_zero_linger();
            return;
        }
    }
    // Until the other side has had enough.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}
