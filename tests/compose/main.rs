//! The integration scenarios against containers: `make compose-test`. Envoy, two providers and Prometheus run as
//! `envoy/compose.yaml` says, on a network with names and addresses that come and go.
//!
//! No part of `make test`: it needs a Docker engine and images, which `harness/scripts/compose-images` finds or makes.

#![allow(clippy::arithmetic_side_effects, clippy::disallowed_methods, clippy::expect_used)]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod stack;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::Role;
use bellwether_harness::load::{Sample, Summary, constant_rate, until};
use bellwether_harness::provider::Behaviour;
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, sleep};

use stack::{LIMIT, Stack};

/// A client gives up after this: longer than Envoy takes to give up a connection attempt, twice.
const PATIENCE: Duration = Duration::from_secs(8);

/// A request sent later than this after a rollback was seen is assigned after the rollback, even on a busy machine.
const GRACE: Duration = Duration::from_secs(1);

/// Chat completions at a constant rate, every second one streamed.
async fn load(client: &Client, per_second: f64, seconds: u64) -> Vec<Sample> {
    let client = client.clone().patience(PATIENCE);
    constant_rate(&client, per_second, Duration::from_secs(seconds), |n| Request::chat(n % 2 == 1)).await
}

/// The same load until it is stopped, because the time that a container engine needs depends on the machine.
struct Load {
    stopped: Arc<AtomicBool>,
    running: JoinHandle<Vec<Sample>>,
}

impl Load {
    fn start(client: Client, per_second: f64) -> Load {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let running = tokio::spawn(async move {
            let mut parts = JoinSet::new();
            let mut ticks = interval(Duration::from_secs(1));
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let client = client.clone();
                // Not awaited here: a part with a request that hangs must not hold up the next one.
                parts.spawn(async move { load(&client, per_second, 1).await });
            }
            parts.join_all().await.into_iter().flatten().collect()
        });
        Load { stopped, running }
    }

    async fn stop(self) -> Vec<Sample> {
        self.stopped.store(true, Ordering::Relaxed);
        self.running.await.unwrap()
    }
}

fn sent_since(samples: &[Sample], moment: Instant) -> Vec<Sample> {
    samples.iter().filter(|sample| sample.sent_at >= moment).cloned().collect()
}

/// Fails unless a load went on after a moment and nothing of it failed.
fn assert_served_since(samples: &[Sample], moment: Instant, step: &str) {
    let after = Summary::of(&sent_since(samples, moment));
    assert!(after.count > 100, "the load ended too early to tell: {after:?}");
    assert_eq!(after.failed, 0, "{step}: {after:?}");
}

/// Prints a summary for readers of the test's output.
fn print_summary(step: &str, samples: &[Sample]) {
    let summary = Summary::of(samples);
    let slowest = samples.iter().map(Sample::latency).max().unwrap_or_default();
    println!(
        "{step}: {} requests, {} failed {:?}, versions {:?}, slowest {slowest:.1?}",
        summary.count, summary.failed, summary.by_status, summary.by_version
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make compose-test"]
async fn the_split_is_kept_and_each_provider_gets_its_own_key() {
    let stack = Stack::up(&[]).await;
    stack.reload(&Stack::config("1", 90, 10)).await;
    let samples = load(&stack.client(), 400.0, 5).await;
    print_summary("split", &samples);
    let summary = Summary::of(&samples);
    assert_eq!(summary.failed, 0, "{summary:?}");
    // Five standard deviations: by chance once in a million runs.
    let (canary, expected) = (summary.version("v2") as f64, 0.1 * summary.count as f64);
    assert_eq!(stack.events(), Vec::<String>::new(), "nothing happens to two healthy versions");
    assert!((canary - expected).abs() < 5.0 * (expected * 0.9).sqrt(), "{summary:?}");
    for (name, key) in [("v1", "sk-openai-one"), ("v2", "sk-relay-one")] {
        let provider = stack.provider(name);
        assert_eq!(provider.count().await, summary.version(name) as u64, "{name}");
        assert_eq!(provider.keys().await, [key], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make compose-test"]
async fn a_canary_that_breaks_is_rolled_back_unnoticed_by_clients_and_prometheus_shows_it() {
    let stack = Stack::up(&["prometheus"]).await;
    stack.provider("v2").set(&Behaviour::status(500)).await;
    let running = Load::start(stack.client(), 100.0);
    stack.wait_rolled_back().await;
    sleep(GRACE).await;
    let before = stack.provider("v2").count().await;
    sleep(3 * GRACE).await;
    let samples = running.stop().await;
    print_summary("rollback", &samples);
    assert_eq!(Summary::of(&samples).failed, 0, "stable serves what fails on the canary");
    assert_eq!(stack.provider("v2").count().await, before, "requests that the canary got after the rollback");
    let events = stack.events();
    let [event] = &events[..] else { panic!("one event is expected: {events:#?}") };
    assert!(event.contains("\"to\":\"rolled_back\"") && event.contains("\"version\":\"v2\""), "{event}");

    let status = stack.page().get("/status", &[]).await.unwrap();
    assert_eq!(status.json()["deployments"][0]["phase"], "rolled_back", "{}", status.text());
    assert!(stack.page().get("/", &[]).await.unwrap().text().contains("<html"), "the live page");

    let prometheus = stack.prometheus();
    let query = async |query: &str| {
        let answer = prometheus.get(&format!("/api/v1/query?query={query}"), &[]).await.ok()?;
        answer.json().pointer("/data/result/0/value/1")?.as_str()?.parse::<f64>().ok()
    };
    let seen = async || query("bellwether_phase").await == Some(3.0);
    assert!(until(LIMIT, seen).await, "Prometheus does not see the rollback");
    assert!(query("sum(bellwether_requests_total)").await > Some(0.0), "Prometheus has no requests");
    assert_eq!(query("sum(bellwether_rollbacks_total)").await, Some(1.0));
    let fires = async || {
        query("count(ALERTS{alertstate=%22firing%22,alertname=~%22.*RolledBack%22})").await == Some(1.0)
    };
    assert!(until(LIMIT, fires).await, "the alert of a rollback does not fire");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make compose-test"]
async fn a_file_renamed_on_the_host_is_in_force_in_the_container_without_a_dropped_request() {
    let stack = Stack::up(&[]).await;
    let running = Load::start(stack.client(), 200.0);
    let mut moments = Vec::new();
    for (stable, canary) in [(0, 100), (100, 0), (0, 100)] {
        stack.reload(&Stack::config("1", stable, canary)).await;
        moments.push(Instant::now());
        sleep(Duration::from_secs(2)).await;
    }
    // A bad one changes nothing.
    stack.write(&json!({"deployments": []}));
    let rejected = Role::Router.stat("update_rejected");
    let rejected = async || stack.stat(&rejected).await.as_deref() == Some("1");
    assert!(until(LIMIT, rejected).await, "an empty configuration is not rejected\n{}", stack.envoy_log());
    let since_rejected = Instant::now();
    sleep(2 * GRACE).await;
    let samples = running.stop().await;
    print_summary("reload", &samples);
    assert_eq!(Summary::of(&samples).failed, 0);
    let versions = |from: Instant, to: Instant| {
        // The workers follow a moment after the statistic.
        let of = |sample: &&Sample| sample.sent_at > from + GRACE / 2 && sample.sent_at < to;
        Summary::of(&samples.iter().filter(of).cloned().collect::<Vec<_>>())
    };
    let end = since_rejected + LIMIT;
    for (from, to, version) in [
        (moments[0], moments[1] - GRACE, "v2"),
        (moments[1], moments[2] - GRACE, "v1"),
        (moments[2], since_rejected, "v2"),
        (since_rejected, end, "v2"),
    ] {
        let summary = versions(from, to);
        assert!(summary.count > 20 && summary.version(version) == summary.count, "{version}: {summary:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make compose-test"]
async fn a_failed_attempt_is_served_by_stable_and_carries_nothing_of_the_canary() {
    let stack = Stack::up(&[]).await;
    let mut config = Stack::config("1", 0, 100);
    config["deployments"][0]["guard"]["mode"] = json!("observe");
    stack.reload(&config).await;
    for status in [503, 429, 401] {
        // A reload with another release keeps the states of all keys. A key's earlier failures must not disturb the next
        // round.
        for name in ["v1", "v2"] {
            stack.provider(name).clear().await;
        }
        stack.provider("v2").set(&Behaviour::status(status)).await;
        let samples = load(&stack.client(), 50.0, 2).await;
        print_summary(&format!("failover from {status}"), &samples);
        let summary = Summary::of(&samples);
        assert_eq!((summary.failed, summary.version("v1")), (0, summary.count), "{status}: {summary:?}");
        assert_eq!(stack.provider("v1").keys().await, ["sk-openai-one"], "{status}");
        assert_eq!(stack.provider("v1").count().await, summary.count as u64, "{status}");
        if status == 503 {
            assert_eq!(stack.provider("v2").keys().await, ["sk-relay-one"], "{status}");
            assert_eq!(
                stack.provider("v2").count().await,
                summary.count as u64,
                "{status}: each was tried there"
            );
        }
    }
}

/// The canary goes away in some way, is rolled back, comes back, and serves in a new release.
async fn lose_the_canary(step: &str, lose: impl FnOnce(&Stack), regain: impl FnOnce(&Stack)) {
    let stack = Stack::up(&[]).await;
    stack.reload(&Stack::config("1", 50, 50)).await;
    let running = Load::start(stack.client(), 100.0);
    sleep(Duration::from_secs(2)).await;
    let lost = Instant::now();
    lose(&stack);
    stack.wait_rolled_back().await;
    let rolled_back = Instant::now();
    // Longer than a client's patience, so that hanging requests end before the canary is back.
    sleep(PATIENCE + 2 * GRACE).await;
    let samples = running.stop().await;
    println!("{step}: rolled back {:.1?} after the loss", rolled_back - lost);
    print_summary(step, &samples);
    let before: Vec<Sample> = samples.iter().filter(|s| s.finished_at < lost).cloned().collect();
    assert_eq!(Summary::of(&before).failed, 0);
    assert_served_since(&samples, rolled_back + GRACE, step);

    regain(&stack);
    // First a tester's request, as a person would: a release begun before the provider is found would not last.
    stack.wait_served_by("v2").await;
    stack.reload(&Stack::config("2", 50, 50)).await;
    let samples = load(&stack.client(), 100.0, 3).await;
    print_summary(&format!("{step}, and back"), &samples);
    let summary = Summary::of(&samples);
    assert!(summary.failed == 0 && summary.version("v2") > 50, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make compose-test"]
async fn a_canary_whose_container_stops_is_rolled_back_and_serves_again_when_it_is_back() {
    let stop = |stack: &Stack| drop(stack.compose(&["stop", "--timeout", "2", "v2"]));
    let start = |stack: &Stack| drop(stack.compose(&["start", "v2"]));
    lose_the_canary("container stopped", stop, start).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make compose-test"]
async fn a_canary_that_is_cut_off_from_the_network_is_rolled_back_and_serves_again_when_it_is_back() {
    lose_the_canary("network cut", |stack| stack.cut_off("v2"), |stack| stack.connect("v2")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make compose-test"]
async fn a_stable_version_that_stops_moves_nothing_to_the_canary_and_rolls_nothing_back() {
    let stack = Stack::up(&[]).await;
    stack.reload(&Stack::config("1", 50, 50)).await;
    stack.compose(&["stop", "--timeout", "2", "v1"]);
    let samples = load(&stack.client(), 100.0, 8).await;
    print_summary("stable stopped", &samples);
    let (n, canary) = (samples.len() as f64, Summary::of(&samples).version("v2") as f64);
    let ok = samples.iter().filter(|sample| sample.ok()).count() as f64;
    assert!(
        (ok - n / 2.0).abs() < 2.5 * n.sqrt(),
        "half of the requests are the canary's, {ok} of {n} served"
    );
    assert!(canary >= ok, "{ok} requests were served, {canary} by the canary");
    assert_eq!(stack.metric("bellwether_rollbacks_total", &[]).await, 0.0);
    stack.compose(&["start", "v1"]);
    stack.wait_served_by("v1").await;
    let samples = load(&stack.client(), 100.0, 3).await;
    print_summary("stable stopped, and back", &samples);
    assert_eq!(Summary::of(&samples).failed, 0);
}
