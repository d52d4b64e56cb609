//! A configuration, a secret or a key on trial that returns before its last use is over, on a real Envoy with two
//! workers.

use std::time::Duration;

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, Route, wasm_path};
use bellwether_harness::provider::{Behaviour, Latency};
use bellwether_harness::testing::load::{DEPLOYMENT, SOON, chat, eventually, without_retries};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::common::pools::{Rig, keys, pooled};

fn canary_at(release: &str, weight: u64) -> Value {
    json!({"deployments": [{"name": "d", "release": release, "stable": "v1", "failover": false, "guard": {"compare": false},
        "versions": [{"id": "v1", "weight": 100 - weight, "cluster": "v1"}, {"id": "v2", "weight": weight, "cluster": "v2"}]}]})
}

/// Streams of half a minute on both workers; they end when the returned value is dropped.
async fn long_streams(rig: &Rig) -> JoinSet<()> {
    let slow = Behaviour { chunks: 300, chunk_delay_ms: 100, ..Behaviour::default() };
    rig.v1.set(slow.clone());
    rig.v2.set(slow);
    let before = rig.v1.count() + rig.v2.count();
    let mut streams = JoinSet::new();
    for _ in 0..12 {
        let client = rig.envoy.client();
        streams.spawn(async move { drop(client.send(Request::chat(true)).await) });
    }
    eventually("the streams", || async { (rig.v1.count() + rig.v2.count() >= before + 12).then_some(()) })
        .await;
    rig.v1.set(Behaviour::default());
    rig.v2.set(Behaviour::default());
    streams
}

/// How many of forty requests a client's connections get from `v2`.
async fn on_v2(client: impl Fn(u64) -> Client) -> usize {
    let mut count = 0;
    for n in 0..40 {
        let answer = client(n).send(Request::chat(false)).await.unwrap();
        count += usize::from(answer.version() == Some("v2"));
    }
    count
}

async fn write(rig: &Rig, config: &Value) {
    let update = rig.envoy.write_router_config(config).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_returns_during_long_streams_is_shown_and_can_be_rolled_back() {
    let (a, b) = (canary_at("a", 100), canary_at("b", 0));
    let rig = Rig::start(Route::default(), a.clone()).await;
    let lane = |n| rig.lanes.client(n).clone();
    let first = long_streams(&rig).await;
    write(&rig, &b).await;
    eventually("the second release", || async { (on_v2(lane).await == 0).then_some(()) }).await;
    let second = long_streams(&rig).await;
    write(&rig, &a).await;
    eventually("the first again", || async { (on_v2(lane).await == 40).then_some(()) }).await;
    for _ in 0..6 {
        let status = Client::new(rig.envoy.admin_role_port()).get("/status", &[]).await.unwrap().json();
        assert_eq!(status["deployments"][0]["release"], "a", "{status}");
    }
    let admin = Client::new(rig.envoy.admin_role_port());
    let answer = admin.post("/deployments/d/rollback", &[("x-requested-with", "me")], "").await.unwrap();
    assert_eq!((answer.status, &answer.json()["release"]), (200, &json!("a")));
    sleep(Duration::from_millis(20)).await;
    assert_eq!(on_v2(lane).await, 0, "the rollback is in force");
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_return_during_long_streams_are_in_use_again() {
    let config = pooled(json!({"keys": [{"id": "k", "value": {"secret": "s"}}]}));
    let secret = |value: &str| json!({"secrets": {"s": value}});
    let options = EnvoyOptions { keys_config: Some(secret("sk-good")), ..EnvoyOptions::default() };
    let rig = Rig::with(options, config).await;
    let streams = long_streams(&rig).await;
    for value in ["sk-bad", "sk-good"] {
        let update = rig.envoy.write_keys_config(&secret(value)).await.unwrap();
        rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
        eventually(format!("{value} in use on both workers"), || async {
            rig.v1.clear();
            on_v2(|n| rig.lanes.client(n).clone()).await;
            Rig::keys(&rig.v1).keys().eq([value]).then_some(())
        })
        .await;
    }
    drop(streams);
}

/// A second listener with a router of its own.
fn add_listener(bootstrap: &mut Value, config: &Value) {
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
    let mut listener = listeners[0].clone();
    listener["name"] = json!("second");
    let filter = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0];
    *filter = json!({"name": "another-router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {"name": "another-router", "root_id": "router", "failure_policy": "FAIL_RELOAD",
            "vm_config": {"vm_id": "bellwether", "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": wasm_path().unwrap()}},
                "environment_variables": {"host_env_keys": ["OPENAI_KEY_1", "RELAY_KEY_1"]}},
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": config.to_string()}}}});
    listeners.push(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_carried_out_in_every_listener_that_has_a_deployment_of_the_name() {
    let options = EnvoyOptions {
        edit: Some(Box::new(|bootstrap: &mut Value| add_listener(bootstrap, &canary_at("2", 50)))),
        ..EnvoyOptions::default()
    };
    let rig = Rig::with(options, canary_at("1", 50)).await;
    let second = rig.envoy.listener_port("second").unwrap();
    let (here, there) = (|n| rig.lanes.client(n).clone(), |_| Client::new(second));
    assert!(on_v2(here).await > 0 && on_v2(there).await > 0);
    let admin = Client::new(rig.envoy.admin_role_port());
    let answer = admin.post("/deployments/d/rollback", &[("x-requested-with", "me")], "").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    sleep(Duration::from_millis(20)).await;
    assert_eq!((on_v2(here).await, on_v2(there).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_cooldown_ends_may_serve_the_retry_of_its_own_request() {
    let config = json!({
        "deployments": [{"name": "d", "stable": "v1", "guard": {"compare": false}, "versions": [
            {"id": "v1", "weight": 100, "cluster": "v1", "key_pool": "pool"}]}],
        "key_pools": [{"name": "pool", "keys": keys(&["sk-one"])}],
    });
    let rig = Rig::start(Route::default(), config).await;
    // Fails late; meanwhile another request has the only key limited for a second, which is over then.
    rig.v1.set(Behaviour { latency: Latency::Fixed { ms: 2000.0 }, ..Behaviour::status(503) });
    let client = rig.envoy.client();
    let first = tokio::spawn(async move { client.send(Request::chat(false)).await.unwrap() });
    eventually("the first is on its way", || async { (rig.v1.count() == 1).then_some(()) }).await;
    rig.v1.set(Behaviour::default().key("sk-one", 429, &[("retry-after", "1")]));
    assert_eq!(rig.envoy.client().send(Request::chat(false)).await.unwrap().status, 429);
    rig.v1.set(Behaviour::default());
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_sends_no_attempt_frees_its_place_for_the_next() {
    let deployment = |name: &str| {
        let mut deployment = canary_at("1", 0)["deployments"][0].take();
        deployment["name"] = json!(name);
        deployment["match"] = json!({"headers": [{"name": DEPLOYMENT, "exact": name}]});
        deployment
    };
    let mut with_pool = deployment("pooled");
    with_pool["versions"][0]["key_pool"] = json!("pool");
    let config = json!({"deployments": [with_pool, deployment("bare")],
        "key_pools": [{"name": "pool", "keys": keys(&["sk-one"])}]});
    let narrow = |bootstrap: &mut Value| {
        without_retries(bootstrap);
        let thresholds = json!([{"max_requests": 1, "max_connections": 1, "max_pending_requests": 1}]);
        for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
            cluster["circuit_breakers"] = json!({"thresholds": thresholds});
        }
    };
    let rig =
        Rig::with(EnvoyOptions { edit: Some(Box::new(narrow)), ..EnvoyOptions::default() }, config).await;
    // All on one worker: on another one a connection that is idle, or the first, would serve whatever the breaker says.
    let mut lanes = (0..rig.lanes.count()).filter(|lane| rig.lanes.worker(*lane) == 0);
    let mut lane = || rig.lanes.client(lanes.next().unwrap()).clone();
    let (one, another, ours) = (lane(), lane(), lane());
    let ask = async || ours.send(chat("pooled", false)).await.unwrap();
    rig.v1.set(Behaviour::default().key("sk-one", 429, &[("retry-after", "1")]));
    assert_eq!(ask().await.status, 429);
    // Others fill the circuit breaker until the key is due, and the trial is refused by it.
    let slow = Behaviour { chunks: 25, chunk_delay_ms: 100, ..Behaviour::default() };
    rig.v1.set(slow);
    let mut held = JoinSet::new();
    for client in [one, another] {
        held.spawn(async move { client.send(chat("bare", true)).await.unwrap().status });
    }
    sleep(Duration::from_millis(1300)).await;
    let refused = ask().await;
    assert!(
        refused.status == 503 && refused.text().contains("overflow"),
        "{} {}",
        refused.status,
        refused.text()
    );
    held.join_all().await;
    rig.v1.set(Behaviour::default());
    eventually("the key is in use again", || async { (ask().await.status == 200).then_some(()) }).await;
    eventually("and shown so", || async { (rig.status_of("one").await == 0).then_some(()) }).await;
}
