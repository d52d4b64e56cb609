//! Verdicts beyond limits on a real Envoy with two workers: comparison, probing, ramps, alerts.

use std::time::Duration;

use bellwether_harness::client::Client;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, sum_metric};
use bellwether_harness::provider::{Behaviour, Provider};
use bellwether_harness::testing::load::{
    Lanes, Load, SOON, chat, deployment, events, eventually, without_retries,
};
use serde_json::{Value, json};
use tokio::time::sleep;

struct Rig {
    envoy: EnvoyProcess,
    lanes: Lanes,
    /// Stable.
    v1: Provider,
    v2: Provider,
    /// Receives alerts.
    hooks: Provider,
}

impl Rig {
    async fn start(config: Value) -> Rig {
        let [v1, v2, hooks] = ["v1", "v2", "hooks"].map(Provider::start);
        let (v1, v2, hooks) = (v1.await.unwrap(), v2.await.unwrap(), hooks.await.unwrap());
        let options = EnvoyOptions { edit: Some(Box::new(without_retries)), ..EnvoyOptions::default() }
            .cluster("v1", v1.port())
            .cluster("v2", v2.port())
            .cluster("hooks", hooks.port());
        let envoy = EnvoyProcess::start(options.router_config(config)).await.unwrap();
        let lanes = Lanes::open(&envoy).await;
        v2.clear();
        Rig { envoy, lanes, v1, v2, hooks }
    }

    fn load(&self, name: &'static str, per_second: f64) -> Load {
        Load::start(&self.lanes, per_second, move |_| chat(name, false))
    }

    /// Waits until a deployment has had so many events; returns `from→to` of each, stages as `stage N`.
    async fn history(&self, name: &str, count: usize) -> Vec<String> {
        eventually(format!("{count} events of {name}; log:\n{}", self.envoy.log_tail()), || async {
            let events = events(&self.envoy, name);
            let shown = events.iter().map(|event| match event["bellwether"].as_str() {
                Some("stage") => format!("stage {}", event["stage"]),
                _ => format!("{}→{}", event["from"].as_str().unwrap(), event["to"].as_str().unwrap()),
            });
            (events.len() >= count).then(|| shown.collect())
        })
        .await
    }

    async fn weight(&self, name: &str) -> u64 {
        let page = self.envoy.prometheus().await.unwrap();
        sum_metric(&page, "bellwether_weight", &[("deployment", name), ("version", "v2")]) as u64
    }
}

fn only(deployment: Value) -> Value {
    json!({"deployments": [deployment]})
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_limit_a_dead_canary_is_found_by_comparison_and_the_event_says_why() {
    let mut d = deployment("compared", json!({"compare": {}}));
    (d["versions"][0]["weight"], d["versions"][1]["weight"]) = (json!(90), json!(10));
    let rig = Rig::start(only(d)).await;
    let load = rig.load("compared", 400.0);
    eventually("some traffic", || async { (rig.v2.count() > 20).then_some(()) }).await;
    assert!(events(&rig.envoy, "compared").is_empty(), "a healthy canary is left alone");
    let before = rig.v2.count();
    rig.v2.set(Behaviour::status(500));
    assert_eq!(rig.history("compared", 1).await, ["active→rolled_back"]);
    load.stop().await;
    let event = &events(&rig.envoy, "compared")[0];
    assert_eq!(event["reason"], "worse_errors", "{event}");
    assert!(event["evidence"]["score"].as_f64() >= event["evidence"]["limit"].as_f64(), "{event}");
    assert!(event["why"].as_str().unwrap().contains("of stable's 0 of"), "{event}");
    let ids = event["requests"].as_array().unwrap();
    assert!((1..=5).contains(&ids.len()), "{event}");
    let traced = rig.v2.requests().iter().any(|r| r.header("x-request-id") == ids[0].as_str());
    assert!(traced, "the ids are those of requests that v2 got: {event}");
    println!("a dead canary at 10 % cost {} requests", rig.v2.count() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_recovers_by_probing_and_only_when_it_is_healthy() {
    let mut d = deployment("probed", json!({"max_consecutive_errors": 3}));
    d["recovery"] =
        json!({"mode": "probe", "after": "1s", "max_after": "2s", "max_probes_in_flight": 1, "successes": 3});
    let rig = Rig::start(only(d)).await;
    rig.v2.set(Behaviour::status(500));
    let load = rig.load("probed", 200.0);
    let sick = rig.history("probed", 3).await;
    assert_eq!(sick[..3], ["active→rolled_back", "rolled_back→probing", "probing→rolled_back"]);
    let during = rig.v2.count();
    assert!(during <= 3 + 3 + 2, "three failures, those in flight, and a probe: {during}");
    rig.v2.set(Behaviour::default());
    let history = eventually("recovery", || async {
        let history = rig.history("probed", 4).await;
        history.last().filter(|last| *last == "probing→active").is_some().then_some(history)
    })
    .await;
    // However many rounds it took, each went through probing.
    assert!(
        history.windows(2).all(|pair| pair[0].split('→').nth(1) == pair[1].split('→').next()),
        "{history:?}"
    );
    eventually("its share is back", || async { (rig.weight("probed").await == 5000).then_some(()) }).await;
    let samples = load.stop().await;
    let failed = samples.iter().filter(|sample| !sample.ok()).count() as u64;
    assert!(failed >= during && failed <= during + 1, "{failed} of {} failed", samples.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn occasional_failures_of_stable_do_not_protect_the_canary_from_its_limits() {
    let cases = [
        ("consecutive", json!({"max_consecutive_errors": 5}), 10, 100, 5),
        ("count", json!({"max_errors": 5}), 1, 0, 5),
        ("rate", json!({"max_error_rate": 5}), 1, 0, 20),
    ];
    let deployments: Vec<Value> = cases
        .iter()
        .map(|(name, guard, ..)| {
            let mut d = deployment(name, guard.clone());
            let rule = |v: &str| json!({"headers": [{"name": "x-v", "exact": v}], "version": v});
            d["rules"] = json!([rule("v1"), rule("v2")]);
            d
        })
        .collect();
    let rig = Rig::start(json!({"deployments": deployments})).await;
    for (name, _, tens, good, limit) in cases {
        let ask = async |version: &str, count: u64| {
            for _ in 0..count {
                rig.lanes.client(0).send(chat(name, false).header("x-v", version)).await.unwrap();
            }
        };
        rig.v2.set(Behaviour::default());
        for _ in 0..tens {
            rig.v1.set(Behaviour::status(500));
            ask("v1", 1).await;
            rig.v1.set(Behaviour::default());
            ask("v1", 9).await;
        }
        ask("v2", good).await;
        // Stable's counts are merged by now.
        sleep(Duration::from_millis(100)).await;
        rig.v2.set(Behaviour::status(500));
        ask("v2", limit - 1).await;
        sleep(Duration::from_millis(100)).await;
        assert!(events(&rig.envoy, name).is_empty(), "{name}: {:?}", events(&rig.envoy, name));
        ask("v2", 1).await;
        assert_eq!(rig.history(name, 1).await, ["active→rolled_back"], "{name}");
        let event = &events(&rig.envoy, name)[0];
        assert_eq!(event["evidence"]["canary"]["errors"], limit, "{event}");
        assert_eq!(event["evidence"]["stable"]["errors"], tens, "{event}");
    }
}

fn ramped(paused: bool, stages: Value) -> Value {
    let mut d = deployment("ramped", json!({"max_consecutive_errors": 3}));
    for version in d["versions"].as_array_mut().unwrap() {
        version.as_object_mut().unwrap().remove("weight");
    }
    d["ramp"] = json!({"stages": stages, "paused": paused});
    only(d)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ramp_goes_through_its_stages_across_a_reload_and_a_rollback_fires_while_paused() {
    let stages = json!([{"weight": 10, "for": "1s", "min_requests": 20}, {"weight": 30, "for": "2s"}, {"weight": 60, "for": "1h"}]);
    let rig = Rig::start(ramped(false, stages.clone())).await;
    eventually("the first stage", || async { (rig.weight("ramped").await == 1000).then_some(()) }).await;
    // Time alone is not enough: nobody has asked the canary yet.
    assert!(events(&rig.envoy, "ramped").is_empty());
    let load = rig.load("ramped", 300.0);
    assert_eq!(rig.history("ramped", 1).await, ["stage 1"]);
    eventually("its weight", || async { (rig.weight("ramped").await == 3000).then_some(()) }).await;
    // The same release, a changed last stage: the second stage goes on.
    let mut longer = stages.clone();
    longer[2]["weight"] = json!(70);
    let update = rig.envoy.write_router_config(&ramped(false, longer.clone())).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    assert_eq!(rig.history("ramped", 2).await, ["stage 1", "stage 2"]);
    eventually("the changed weight", || async { (rig.weight("ramped").await == 7000).then_some(()) }).await;
    let update = rig.envoy.write_router_config(&ramped(true, longer)).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    rig.v2.set(Behaviour::status(503));
    assert_eq!(rig.history("ramped", 3).await.last().unwrap(), "active→rolled_back");
    eventually("nothing", || async { (rig.weight("ramped").await == 0).then_some(()) }).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ramp_that_was_removed_has_no_stage() {
    let rig =
        Rig::start(ramped(false, json!([{"weight": 10, "for": "0s"}, {"weight": 30, "for": "1h"}]))).await;
    let admin = Client::new(rig.envoy.admin_role_port());
    let status = async || admin.get("/status", &[]).await.unwrap().json()["deployments"][0].clone();
    eventually("the second stage", || async { (status().await["stage"] == 1).then_some(()) }).await;
    let without = only(deployment("ramped", json!({"max_consecutive_errors": 3})));
    let update = rig.envoy.write_router_config(&without).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    let seen = eventually("its weight is the configured one", || async {
        let seen = status().await;
        (seen["versions"][1]["effective_weight"] == 50.0).then_some(seen)
    })
    .await;
    assert_eq!((&seen["stage"], &seen["ramp"]), (&Value::Null, &Value::Null), "{seen}");
    rig.v2.set(Behaviour::status(500));
    let load = rig.load("ramped", 200.0);
    assert_eq!(rig.history("ramped", 2).await, ["stage 1", "active→rolled_back"]);
    load.stop().await;
    assert_eq!(events(&rig.envoy, "ramped")[1]["stage"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_posted_once_and_again_only_if_it_was_refused() {
    let mut config = only(deployment("alerted", json!({"max_consecutive_errors": 3})));
    config["alerts"] =
        json!({"cluster": "hooks", "host": "hooks.local", "path": "/bellwether", "timeout": "5s"});
    let rig = Rig::start(config.clone()).await;
    rig.v2.set(Behaviour::status(500));
    let load = rig.load("alerted", 200.0);
    rig.history("alerted", 1).await;
    eventually("the alert", || async { (rig.hooks.count() == 1).then_some(()) }).await;
    let received = &rig.hooks.requests()[0];
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/bellwether"));
    assert_eq!(received.header("host"), Some("hooks.local"));
    assert!(received.body_len > 300, "the event with its evidence: {} bytes", received.body_len);

    // A receiver that refuses is asked again, a second later.
    rig.hooks.set(Behaviour::status(503));
    config["deployments"][0]["release"] = json!("2");
    let update = rig.envoy.write_router_config(&config).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    eventually("a refused alert", || async { (rig.hooks.count() == 2).then_some(()) }).await;
    rig.hooks.set(Behaviour::default());
    eventually("the second try", || async { (rig.hooks.count() == 3).then_some(()) }).await;
    load.stop().await;
    let lengths: Vec<usize> = rig.hooks.requests().iter().map(|r| r.body_len).collect();
    assert_eq!(lengths[1], lengths[2], "the same event");
    assert_eq!(events(&rig.envoy, "alerted").len(), 2, "two transitions, one alert each");
}
