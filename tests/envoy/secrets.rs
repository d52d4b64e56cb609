//! Secrets documents of the `keys` role on a real Envoy with two workers.

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, wasm_path};
use bellwether_harness::testing::load::{SOON, eventually};
use serde_json::{Value, json};

use crate::common::pools::{Rig, pooled};

/// A pool of one key with the secret `name`.
fn named(name: &str) -> Value {
    pooled(json!({"keys": [{"id": "k", "value": {"secret": name}}]}))
}

fn with_secrets(secrets: Value) -> EnvoyOptions {
    EnvoyOptions { keys_config: Some(json!({"secrets": secrets})), ..EnvoyOptions::default() }
}

/// Statuses of twenty requests, on both workers.
async fn statuses(rig: &Rig) -> Vec<u16> {
    let mut statuses = Vec::new();
    for n in 0..20 {
        statuses.push(rig.lanes.client(n).send(Request::chat(false)).await.unwrap().status);
    }
    statuses.dedup();
    statuses
}

/// Adds a listener with a router and a `keys` role of its own: other filters in the same VM.
fn second_listener(plan: Value, secrets: Value) -> impl Fn(&mut Value) {
    let module = wasm_path().unwrap().canonicalize().unwrap();
    let role = move |name: &str, root_id: &str, document: &Value| {
        let vm = json!({
            "vm_id": "bellwether", "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}},
            "environment_variables": {"host_env_keys": ["OPENAI_KEY_1", "RELAY_KEY_1"]},
        });
        json!({"name": name, "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": name, "root_id": root_id, "failure_policy": "FAIL_RELOAD", "vm_config": vm,
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue", "value": document.to_string(),
                },
            },
        }})
    };
    move |bootstrap| {
        let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
        let mut listener = listeners[0].clone();
        listener["name"] = json!("second");
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager["http_filters"][0] = role("second-router", "router", &plan);
        manager["http_filters"][1]["typed_config"]["upstream_http_filters"][0] =
            role("second-keys", "keys", &secrets);
        listeners.push(listener);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_listeners_may_have_a_document_each() {
    let mut second = named("second");
    second["deployments"][0]["name"] = json!("second");
    second["key_pools"][0]["name"] = json!("second");
    second["deployments"][0]["versions"][0]["key_pool"] = json!("second");
    let edit = second_listener(second, json!({"secrets": {"second": "sk-second"}}));
    let options = EnvoyOptions { edit: Some(Box::new(edit)), ..with_secrets(json!({"first": "sk-first"})) };
    let rig = Rig::with(options, named("first")).await;
    let second = rig.envoy.listener_port("second").unwrap();
    for round in 0..3 {
        assert_eq!(statuses(&rig).await, [200], "the first listener, round {round}");
        for _ in 0..20 {
            let answer = Client::new(second).send(Request::chat(false)).await.unwrap();
            assert_eq!(answer.status, 200, "the second listener, round {round}");
        }
    }
    let used = Rig::keys(&rig.v1);
    assert_eq!(
        used.into_iter().collect::<Vec<_>>(),
        [("sk-first".to_owned(), 60), ("sk-second".to_owned(), 60)]
    );
    // A secret that is gone from one of the documents is out of use, even if the other document still has secrets.
    let update = rig.envoy.write_keys_config(&json!({"secrets": {"other": "sk-other"}})).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    assert_eq!(statuses(&rig).await, [503]);
    assert_eq!(Client::new(second).send(Request::chat(false)).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_loses_its_last_key_with_its_secret_logs_one_event() {
    let rig = Rig::with(with_secrets(json!({"n": "sk-named"})), named("n")).await;
    assert_eq!(statuses(&rig).await, [200]);
    let update = rig.envoy.write_keys_config(&json!({})).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    assert_eq!(statuses(&rig).await, [503]);
    let admin = Client::new(rig.envoy.admin_role_port());
    let events =
        || async { admin.get("/events", &[]).await.unwrap().json()["events"].as_array().unwrap().clone() };
    let event = eventually("an event", || async { events().await.pop() }).await;
    assert_eq!((&event["bellwether"], &event["pool"]), (&json!("pool_exhausted"), &json!("pool")));
    let update = rig.envoy.write_keys_config(&json!({"secrets": {"n": "sk-other"}})).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    assert_eq!(statuses(&rig).await, [200], "it comes back");
    let logged = rig.envoy.logs().lines().filter(|line| line.contains("pool_exhausted")).count();
    assert_eq!((events().await.len(), logged), (1, 1), "not once a worker");
}
