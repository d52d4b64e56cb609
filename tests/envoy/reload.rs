//! Hot reloads of a real Envoy with two workers: nothing fails, nothing is lost, a new configuration takes effect at
//! once, and a wrong one changes nothing.

use std::time::{Duration, Instant};

use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, sum_metric};
use bellwether_harness::load::Sample;
use bellwether_harness::provider::{Behaviour, Latency, Provider};
use bellwether_harness::testing::load::{Lanes, Load, SOON, chat, deployment, eventually, outcomes};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Requests a second.
const RATE: f64 = 400.0;

/// An Envoy with three providers, each on a cluster of its name.
struct Rig {
    envoy: EnvoyProcess,
    lanes: Lanes,
    v1: Provider,
    v2: Provider,
    v3: Provider,
}

impl Rig {
    async fn start(keys_role: bool, config: Value, secrets: Value) -> Rig {
        let (v1, v2, v3) = (Provider::start("v1"), Provider::start("v2"), Provider::start("v3"));
        let (v1, v2, v3) = (v1.await.unwrap(), v2.await.unwrap(), v3.await.unwrap());
        let options = EnvoyOptions {
            keys_role,
            keys_config: keys_role.then(|| json!({"secrets": secrets})),
            ..EnvoyOptions::default()
        };
        let options = options.cluster("v1", v1.port()).cluster("v2", v2.port()).cluster("v3", v3.port());
        let envoy = EnvoyProcess::start(options.router_config(config)).await.unwrap();
        let lanes = Lanes::open(&envoy).await;
        for provider in [&v1, &v2, &v3] {
            provider.clear();
        }
        Rig { envoy, lanes, v1, v2, v3 }
    }

    /// The updates counted as accepted and as rejected.
    async fn updates(&self) -> (u64, u64) {
        let page = self.envoy.prometheus().await.unwrap();
        let count =
            |result| sum_metric(&page, "bellwether_config_updates_total", &[("result", result)]) as u64;
        (count("accepted"), count("rejected"))
    }

    /// Waits until so many updates are counted.
    async fn expect_updates(&self, accepted: u64, rejected: u64) {
        eventually(format!("{accepted} updates are accepted and {rejected} rejected"), || async {
            (self.updates().await == (accepted, rejected)).then_some(())
        })
        .await;
    }

    /// Gives the router another configuration and waits until Envoy has taken it.
    async fn write(&self, config: &Value) {
        let update = self.envoy.write_router_config(config).await.unwrap();
        self.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    }

    /// Runs `load` until `count` more requests have been received.
    async fn more(&self, provider: &Provider, count: u64) {
        let before = provider.count();
        eventually(format!("{count} more requests at {}", provider.name()), || async {
            (provider.count() >= before + count).then_some(())
        })
        .await;
    }
}

/// One deployment with a canary of this weight.
fn canary_at(weight: u64) -> Value {
    let mut flip = deployment("flip", json!({"max_error_rate": 50}));
    (flip["versions"][0]["weight"], flip["versions"][1]["weight"]) = (json!(100 - weight), json!(weight));
    json!({"deployments": [flip]})
}

fn all_ok(samples: &[Sample], context: &str) {
    let failed: Vec<&Sample> = samples.iter().filter(|sample| !sample.ok()).take(3).collect();
    assert!(
        failed.is_empty(),
        "{context}: of {} requests these failed, and more: {failed:#?}",
        samples.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_reloads_under_load_fail_no_request_break_no_stream_and_lose_no_count() {
    const STREAMS: u64 = 8;
    for keys_role in [true, false] {
        let config = |weight: u64| {
            let mut config = canary_at(weight);
            let mut streams = deployment("streams", json!({}));
            streams["versions"] = json!([{"id": "v1", "weight": 100, "cluster": "v3"}]);
            config["deployments"].as_array_mut().unwrap().push(streams);
            config
        };
        let rig = Rig::start(keys_role, config(50), json!({})).await;
        rig.expect_updates(1, 0).await;
        rig.v3.set(Behaviour { chunks: 40, chunk_delay_ms: 100, ..Behaviour::default() });
        let streams: Vec<_> = (0..STREAMS)
            .map(|lane| {
                let client = rig.lanes.client(lane).clone();
                tokio::spawn(async move { client.send(chat("streams", true)).await.unwrap() })
            })
            .collect();
        eventually("the streams have begun", || async { (rig.v3.count() == STREAMS).then_some(()) }).await;

        let load = Load::start(&rig.lanes, RATE, |n| chat("flip", n % 4 == 0));
        let mut survived = 0;
        for n in 1..=20 {
            rig.write(&config(n % 20 * 5)).await;
            rig.expect_updates(1 + n, 0).await;
            survived += u64::from(streams.iter().all(|stream| !stream.is_finished()));
            rig.more(&rig.v1, 20).await;
        }
        let samples = load.stop().await;
        all_ok(&samples, "twenty reloads");
        assert!(survived >= 1, "no reload fell into the streams");
        println!("{} requests, 20 reloads, {survived} of them within every stream", samples.len());
        for stream in streams {
            let answer = stream.await.unwrap();
            assert_eq!((answer.status, answer.broken.as_ref()), (200, None));
            assert!(answer.text().trim_end().ends_with("[DONE]"), "the stream is whole");
        }
        rig.expect_updates(21, 0).await;
        for counter in ["bellwether_requests_total", "bellwether_attempts_total"] {
            let sent = samples.len() as u64;
            let good = eventually(format!("{sent} requests are in {counter}"), || async {
                let counts = outcomes(&rig.envoy, counter, "flip").await;
                (counts.values().sum::<u64>() >= sent).then_some(counts)
            })
            .await;
            assert_eq!(
                good.get("v1 good").unwrap_or(&0) + good.get("v2 good").unwrap_or(&0),
                sent,
                "{good:?}"
            );
            let counts = outcomes(&rig.envoy, counter, "streams").await;
            assert_eq!(counts, [("v1 good".to_owned(), STREAMS)].into(), "{counter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_is_in_effect_within_200_ms_of_its_file() {
    const FLIPS: usize = 9;
    let rig = Rig::start(true, canary_at(0), json!({})).await;
    let load = Load::start(&rig.lanes, RATE, |_| chat("flip", false));
    rig.more(&rig.v1, 40).await;
    let mut flips: Vec<(Instant, Instant, &str)> = Vec::new();
    for n in 0..FLIPS {
        let (weight, wanted) = if n % 2 == 0 { (100, &rig.v2) } else { (0, &rig.v1) };
        let before = Instant::now();
        let update = rig.envoy.write_router_config(&canary_at(weight)).await.unwrap();
        // The rename is the last thing that happened.
        flips.push((before, Instant::now(), wanted.name()));
        rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
        // Some 250 ms of load under the new weight.
        rig.more(wanted, 100).await;
    }
    let samples = load.stop().await;
    all_ok(&samples, "flipped weights");
    let mut took: Vec<Duration> = Vec::new();
    for (n, (_, renamed, wanted)) in flips.iter().enumerate() {
        let next = flips.get(n + 1).map(|(before, _, _)| *before);
        let old = samples.iter().filter(|sample| {
            let within = sample.sent_at > *renamed && next.is_none_or(|next| sample.finished_at < next);
            within && sample.version.as_deref() != Some(*wanted)
        });
        took.push(old.map(|sample| sample.sent_at - *renamed).max().unwrap_or_default());
    }
    println!("from the rename to the last request under the old weight: {took:?}");
    took.sort();
    // The middle one: a moment in which the machine had something else to do decides nothing.
    assert!(took[FLIPS / 2] <= Duration::from_millis(200), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_update_names_each_problem_once_and_changes_nothing() {
    let rig = Rig::start(true, canary_at(0), json!({})).await;
    rig.expect_updates(1, 0).await;
    let load = Load::start(&rig.lanes, RATE, |_| chat("flip", false));
    let mut wrong = canary_at(100);
    let flip = &mut wrong["deployments"][0];
    flip["versions"][0]["weight"] = json!(10);
    flip["stable"] = json!("v9");
    flip["guard"]["max_error_rate"] = json!(101);
    flip["guard"]["windw"] = json!("1s");
    let problems = [
        r#"deployments[0].stable: unknown version, expected one of v1, v2, got "v9""#,
        "deployments[0].versions[1].weight: weights must sum to 100, got 110",
        "deployments[0].guard.max_error_rate: ",
        "deployments[0].guard.windw: unknown field",
    ];
    let update = rig.envoy.write_router_config(&wrong).await.unwrap();
    let log = rig.envoy.wait_rejected(&update, SOON).await.unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("configuration rejected")).collect();
    assert_eq!(lines.len(), problems.len(), "{log}");
    for problem in problems {
        let named = lines.iter().filter(|line| line.contains(problem)).count();
        assert_eq!(named, 1, "{problem}\n{log}");
    }
    assert!(lines.iter().all(|line| line.contains("[error][wasm]")), "{log}");
    assert!(lines.iter().any(|line| line.contains("max_error_rate") && line.ends_with("got 101")), "{log}");
    rig.expect_updates(1, 1).await;

    // A text that is not JSON, and a document of another role.
    let update = rig.envoy.write_config(Role::Router, "{\"deployments\": [").await.unwrap();
    rig.envoy.wait_rejected(&update, SOON).await.unwrap();
    rig.expect_updates(1, 2).await;
    let update = rig.envoy.write_keys_config(&json!({"secret": {}})).await.unwrap();
    rig.envoy.wait_rejected(&update, SOON).await.unwrap();
    rig.expect_updates(1, 3).await;

    rig.more(&rig.v1, 100).await;
    assert_eq!(rig.v2.count(), 0, "the former weights serve");
    // And the way back needs nothing but a good configuration.
    rig.write(&canary_at(100)).await;
    rig.expect_updates(2, 3).await;
    rig.more(&rig.v2, 100).await;
    all_ok(&load.stop().await, "rejected updates");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_roles_reload_independently() {
    let config = |number: &str| {
        let mut config = canary_at(0);
        config["deployments"][0]["versions"][0]["key_pool"] = json!("pool");
        config["deployments"][0]["versions"][0]["set_headers"] = json!({"x-configuration": number});
        config["key_pools"] = json!([{"name": "pool", "keys": [{"id": "one", "value": {"secret": "one"}}]}]);
        config
    };
    let rig = Rig::start(true, config("1"), json!({"one": "sk-first"})).await;
    rig.expect_updates(1, 0).await;
    let load = Load::start(&rig.lanes, RATE, |_| chat("flip", false));
    // Waits until the last requests of every lane all came with this key and under this configuration.
    let serves = async |key: &str, number: &str| {
        eventually(format!("{key} under configuration {number}"), || async {
            let all = rig.v1.requests();
            let last = &all[all.len().saturating_sub(4 * rig.lanes.count() as usize)..];
            let wanted = !last.is_empty()
                && last.iter().all(|request| {
                    request.key.as_deref() == Some(key) && request.header("x-configuration") == Some(number)
                });
            wanted.then_some(())
        })
        .await;
    };
    serves("sk-first", "1").await;
    let update = rig.envoy.write_keys_config(&json!({"secrets": {"one": "sk-second"}})).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    serves("sk-second", "1").await;
    assert_eq!(rig.updates().await, (1, 0), "the router has no new configuration");
    rig.write(&config("2")).await;
    serves("sk-second", "2").await;
    rig.expect_updates(2, 0).await;
    let samples = load.stop().await;
    all_ok(&samples, "reloads of both roles");
    let requests = rig.v1.requests();
    assert!(
        requests.iter().all(|request| matches!(request.key.as_deref(), Some("sk-first" | "sk-second"))),
        "no request left without a key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_without_trouble_logs_nothing() {
    let mut config = canary_at(50);
    config["deployments"][0]["guard"] =
        json!({"window": "1s", "max_error_rate": 90, "max_consecutive_errors": 50, "compare": false});
    let rig = Rig::start(true, config, json!({})).await;
    // Something for the ticks to do: evidence that is looked at again when it has left the window.
    rig.v2.set(Behaviour { latency: Latency::Fixed { ms: 5.0 }, ..Behaviour::status(500).ratio(0.5) });
    let load = Load::start(&rig.lanes, RATE, |_| chat("flip", false));
    rig.more(&rig.v2, 100).await;
    load.stop().await;
    // A hundred ticks on each thread, a window and a look at an idle deployment.
    sleep(Duration::from_millis(2_200)).await;
    let logs = rig.envoy.logs();
    let log: Vec<&str> = logs.lines().filter(|line| line.contains("[wasm]")).collect();
    assert_eq!(log, Vec::<&str>::new());
    let page = rig.envoy.prometheus().await.unwrap();
    assert_eq!(sum_metric(&page, "bellwether_dropped_total", &[("what", "undecodable")]), 0.0);
    assert_eq!(sum_metric(&page, "bellwether_dropped_total", &[("what", "refused")]), 0.0);
    assert_eq!(rig.v3.count(), 0);
}
