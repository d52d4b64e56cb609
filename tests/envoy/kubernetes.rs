//! The Kubernetes samples on a plain Envoy: the filter's document and the routes of each file, rendered as Istio and
//! Envoy Gateway render them. Both samples rely on a route that is chosen by a header match. These tests show that such a
//! route follows the filter's choice; the platforms themselves are not run.

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, wasm_path};
use bellwether_harness::load::{Summary, constant_rate};
use bellwether_harness::provider::{Behaviour, Received};
use bellwether_harness::testing::manifests::{self, BACKENDS, CLUSTER_HEADER, Platform, Rule};
use serde_json::{Value, json};
use std::time::Duration;

use crate::common::rig::{Deadline, Rig, assert_share};

const BOTH: [Platform; 2] = [Platform::Istio, Platform::EnvoyGateway];

/// A rule as an Envoy route. Istio gives a destination with headers to change as a weighted cluster of one.
fn route(platform: Platform, rule: &Rule) -> Value {
    let mut route = json!({
        "match": {"prefix": "/"},
        "request_headers_to_remove": rule.removed,
        "route": {"host_rewrite_literal": rule.authority, "timeout": "0s"},
    });
    if let Some(value) = &rule.cluster {
        let header = json!({"name": CLUSTER_HEADER, "string_match": {"exact": value}});
        route["match"]["headers"] = json!([header]);
    }
    let (_, cluster) = BACKENDS.iter().find(|(host, _)| *host == rule.backend).expect("a known backend");
    match platform {
        Platform::Istio => {
            route["route"]["weighted_clusters"] = json!({"clusters": [{"name": cluster, "weight": 1}]});
        }
        Platform::EnvoyGateway => {
            route["route"]["cluster"] = json!(cluster);
            // The filter is off in the connection manager, and on for the routes that the policy is about.
            let on = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
            route["typed_per_filter_config"] = json!({FILTER: on});
        }
    }
    route
}

const FILTER: &str = "bellwether-router";

/// The filter as Envoy Gateway configures it: in the listener, its document as a string.
fn inline_filter(document: &Value, variables: &[String]) -> Value {
    json!({
        "name": FILTER,
        "disabled": true,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "bellwether",
                "root_id": "router",
                "vm_config": {
                    "vm_id": "envoyextensionpolicy/llm/bellwether/wasm/0",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": wasm_path().unwrap()}},
                    "environment_variables": {"host_env_keys": variables},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue", "value": document.to_string(),
                },
            },
        },
    })
}

/// Envoy with this document and the routes of a platform's sample.
async fn start(platform: Platform, document: Value) -> Rig {
    let manifest = manifests::read(platform);
    let routes: Vec<Value> = manifest.rules().iter().map(|rule| route(platform, rule)).collect();
    let filter = inline_filter(&document, &manifest.variables());
    let mut options = EnvoyOptions { keys_role: false, ..EnvoyOptions::default() }.router_config(document);
    options.edit = Some(Box::new(move |bootstrap| {
        let manager = bootstrap
            .pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config")
            .expect("the connection manager");
        manager["route_config"]["virtual_hosts"] =
            json!([{"name": "llm", "domains": ["llm.example.com", "llm.example.com:*"], "routes": routes}]);
        if platform == Platform::EnvoyGateway {
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            let ours = filters.iter_mut().find(|known| known["name"] == FILTER);
            *ours.expect("the router role") = filter;
        }
    }));
    Rig::start(options).await
}

fn chat() -> Request {
    Request::chat(true).header("host", "llm.example.com")
}

/// Checks a request that a version's provider received: for its own host, with its own key, without the cluster's name.
fn assert_adapted(received: &[Received], host: &str, key: &str, context: &str) {
    assert!(!received.is_empty(), "{context}: nothing arrived");
    for request in received {
        assert_eq!((request.header("host"), request.key.as_deref()), (Some(host), Some(key)), "{context}");
        assert_eq!(request.header(CLUSTER_HEADER), None, "{context}");
    }
}

#[tokio::test]
async fn the_samples_split_by_their_weights_and_adapt_each_request_to_its_provider() {
    for platform in BOTH {
        let mut document = manifests::read(platform).document();
        // Providers that answer in no time are as slow as the machine is busy, which is no affair of a split's.
        document["deployments"][0]["guard"]["compare"] = json!(false);
        let rig = start(platform, document).await;
        let samples = constant_rate(&rig.envoy.client(), 250.0, Duration::from_secs(4), |_| chat()).await;
        let summary = Summary::of(&samples);
        assert_eq!(summary.failed, 0, "{platform:?}: {summary:?}\n{}", rig.envoy.log_tail());
        assert_share(summary.version("v2"), summary.count, 0.1, "the canary");
        assert_adapted(&rig.openai.requests(), "api.openai.com", "sk-openai-one", "v1");
        assert_adapted(&rig.relay.requests(), "relay.example.net", "sk-relay-one", "v2");
        assert_eq!(rig.relay.count(), summary.version("v2") as u64, "{platform:?}");
    }
}

#[tokio::test]
async fn a_client_that_names_the_cluster_itself_chooses_nothing() {
    for platform in BOTH {
        let mut document = manifests::read(platform).document();
        document["deployments"][0]["versions"][0]["weight"] = json!(100);
        document["deployments"][0]["versions"][1]["weight"] = json!(0);
        let rig = start(platform, document).await;
        for _ in 0..20 {
            let (answer, _) = rig.ask(chat().header(CLUSTER_HEADER, "relay")).await;
            assert_eq!((answer.status, answer.version()), (200, Some("v1")), "{platform:?}");
        }
        // A request that matches no deployment keeps its own key, and the cluster header is removed here too.
        let other = Request::get("/other").header("host", "llm.example.com");
        let other = other.header(CLUSTER_HEADER, "relay").header("authorization", "Bearer mine");
        let (answer, received) = rig.ask(other).await;
        assert_eq!((answer.status, answer.version()), (200, None), "{platform:?}");
        assert_adapted(&received, "api.openai.com", "mine", "a request that matches no deployment");
        assert_eq!(rig.relay.count(), 0, "{platform:?}");
    }
}

#[tokio::test]
async fn a_canary_that_fails_is_rolled_back_on_the_routes_of_both_platforms() {
    for platform in BOTH {
        let rig = start(platform, manifests::read(platform).document()).await;
        rig.relay.set(Behaviour::status(500));
        let client = rig.envoy.client();
        let deadline = Deadline::soon();
        while rig.envoy.metric("bellwether_phase", &[]).await.unwrap() < 3.0 {
            client.send(chat()).await.unwrap();
            deadline.next(|| format!("{platform:?}: a rollback\n{}", rig.envoy.log_tail())).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = rig.relay.count();
        let samples = constant_rate(&client, 100.0, Duration::from_secs(1), |_| chat()).await;
        assert_eq!(Summary::of(&samples).version("v1"), 100, "{platform:?}");
        assert_eq!(rig.relay.count(), before, "{platform:?}");
    }
}

#[tokio::test]
async fn a_host_set_by_a_version_matches_no_route() {
    for platform in BOTH {
        let mut document = manifests::read(platform).document();
        document["deployments"][0]["versions"][0]["host"] = json!("api.openai.com");
        let rig = start(platform, document).await;
        let mut statuses = Vec::new();
        for _ in 0..20 {
            statuses.push(rig.envoy.client().send(chat()).await.unwrap().status);
        }
        // This is why the samples rewrite in the route.
        assert!(statuses.contains(&404), "{platform:?}: {statuses:?}");
        assert_eq!(rig.openai.count(), 0, "{platform:?}");
    }
}
