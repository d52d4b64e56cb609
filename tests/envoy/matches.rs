//! Matches by method and path, CORS preflights, and the path and headers of an attempt, on a real Envoy with two workers.

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, Route};
use bellwether_harness::provider::{Behaviour, Fault};
use serde_json::json;

use crate::common::rig::*;

/// A preflight as a browser sends it.
fn preflight(path: &str) -> Request {
    let mut request = Request::get(path);
    request.method = "OPTIONS".parse().unwrap();
    request
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization, content-type")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_passes_without_key_version_and_count() {
    let mut config = canary_at(50.0);
    for version in config["deployments"][0]["versions"].as_array_mut().unwrap() {
        version["key_pool"] = json!("pool");
    }
    config["key_pools"] = json!([{"name": "pool", "keys": [{"id": "one", "value": "sk-one"}]}]);
    config["deployments"][0]["match"] = json!({"path_prefix": "/v1/"});
    for route in Route::here(&Route::ALL) {
        let options = EnvoyOptions { route, ..EnvoyOptions::default() };
        let rig = Rig::start(options.router_config(config.clone())).await;
        // The provider refuses preflights: no key may suffer.
        rig.openai.set(Behaviour { fault: Some(Fault::status(403, &[])), ..Behaviour::default() });
        for client in rig.workers().await {
            for _ in 0..20 {
                let answer = client.send(preflight("/v1/chat/completions")).await.unwrap();
                assert_eq!((answer.status, answer.version()), (403, None), "{route:?}");
                let received = rig.take_received();
                let received = only(&received);
                assert_eq!(received.header("authorization"), None, "{route:?}: no key");
                assert_eq!(received.header("origin"), Some("https://app.example"), "{route:?}");
            }
        }
        rig.openai.set(Behaviour::default());
        for client in rig.workers().await {
            for _ in 0..10 {
                let answer = client.send(Request::chat(false)).await.unwrap();
                assert_eq!(answer.status, 200, "{route:?}: the key serves others");
            }
        }
        // An OPTIONS request without that header is no preflight.
        let mut plain = Request::get("/v1/models");
        plain.method = "OPTIONS".parse().unwrap();
        let (answer, _) = rig.ask(plain).await;
        assert!(answer.version().is_some(), "{route:?}");
        let deadline = Deadline::soon();
        loop {
            let counted =
                rig.envoy.metric("bellwether_requests_total", &[("deployment", "test")]).await.unwrap();
            assert!(counted <= 21.0, "{route:?}: {counted} requests are counted, and 21 were no preflight");
            if counted == 21.0 {
                break;
            }
            deadline.next(|| format!("{counted} requests are counted")).await;
        }
    }
    // Named among the methods, it is a request like any other.
    let mut named = config;
    named["deployments"][0]["match"] = json!({"methods": ["POST", "OPTIONS"]});
    let rig = Rig::configured(named).await;
    let (answer, received) = rig.ask(preflight("/v1/chat/completions")).await;
    assert!(answer.version().is_some());
    assert_eq!(only(&received).header("authorization"), Some("Bearer sk-one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_whole_paths_choose_the_deployment() {
    let deployment = |name: &str, conditions: serde_json::Value| {
        json!({"name": name, "match": conditions, "stable": name,
               "versions": [{"id": name, "weight": 100, "cluster": "relay"}]})
    };
    let config = json!({"deployments": [
        deployment("chat", json!({"methods": ["POST"], "paths": ["/v1/chat/completions", "/v1/responses"]})),
        deployment("reads", json!({"methods": ["GET", "HEAD"], "path_prefix": "/v1/"})),
        deployment("late", json!({"paths": ["/v1/responses"]})),
    ]});
    let rig = Rig::configured(config).await;
    for (method, path, wanted) in [
        ("POST", "/v1/chat/completions", Some("chat")),
        ("POST", "/v1/chat/completions?beta=true", Some("chat")),
        ("POST", "/v1/chat/completions/", None),
        ("POST", "/v1/chat/completionsx", None),
        ("POST", "/v1/chat", None),
        ("POST", "/v1/responses", Some("chat")),
        ("PUT", "/v1/responses", Some("late")),
        ("GET", "/v1/responses", Some("reads")),
        ("GET", "/v1/chat/completions", Some("reads")),
        ("DELETE", "/v1/chat/completions", None),
    ] {
        let mut request = Request::get(path);
        request.method = method.parse().unwrap();
        let (answer, received) = rig.ask(request).await;
        assert_eq!((answer.status, answer.version()), (200, wanted), "{method} {path}");
        assert_eq!(only(&received).path, path, "it arrives as it came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whole_segments_are_exchanged_and_the_query_is_the_versions() {
    let mut config = canary_at(100.0);
    let v2 = &mut config["deployments"][0]["versions"][1];
    v2["rewrite_prefix"] = json!({"from": "/v1", "to": "/compat"});
    v2["query"] = json!({"api-version": "2024-10-21", "note": "a b&c"});
    v2["remove_headers"] = json!(["OpenAI-Beta"]);
    let rig = Rig::configured(config).await;
    for (path, arrives) in [
        ("/v1", "/compat?api-version=2024-10-21&note=a%20b%26c"),
        ("/v1/chat?x=1", "/compat/chat?x=1&api-version=2024-10-21&note=a%20b%26c"),
        ("/v1?API-Version=mine", "/compat?api-version=2024-10-21&note=a%20b%26c"),
        ("/v1beta/x", "/v1beta/x?api-version=2024-10-21&note=a%20b%26c"),
        (
            "/v1/x?api%2Dversion=1&note=2&note=3&key=k",
            "/compat/x?api-version=2024-10-21&note=a%20b%26c&key=k",
        ),
    ] {
        let request = Request::get(path).header("openai-beta", "assistants=v2").header("x-other", "1");
        let (answer, received) = rig.ask(request).await;
        assert_eq!((answer.status, answer.version()), (200, Some("v2")), "{path}");
        let received = only(&received);
        assert_eq!(received.path, arrives, "{path}");
        assert_eq!((received.header("openai-beta"), received.header("x-other")), (None, Some("1")), "{path}");
    }
}
