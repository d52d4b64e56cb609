//! Credentials that must not go astray, on a real Envoy with two workers: those of clients, and the pools' keys where Envoy mirrors or
//! redirects a request.

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route};
use bellwether_harness::provider::{Behaviour, Fault, Provider, Received};
use bellwether_harness::testing::load::{eventually, routes};
use serde_json::{Value, json};

use crate::common::rig::only;

/// A client's secret; nothing of ours has it.
const MINE: &str = "of-the-client";

/// Every header in which a client may carry a credential; the last one is of the operator's invention.
const HEADERS: [&str; 10] = [
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "x-amz-security-token",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
    "x-tenant-token",
];

/// A request that carries a client's credentials in every place.
fn request() -> Request {
    let request = Request::post(&format!("/v1/chat/completions?alt=json&key={MINE}&API%2Dkey={MINE}"), "{}");
    let request =
        HEADERS.into_iter().fold(request, |request, name| request.header(name, &format!("x {MINE}")));
    request.header(
        "sec-websocket-protocol",
        &format!("realtime, openai-insecure-api-key.{MINE}, openai-project.{MINE}, v1"),
    )
}

/// The places of a received request that hold the client's secret.
fn traces(received: &Received) -> Vec<&str> {
    let has = |text: &[u8]| text.windows(MINE.len()).any(|part| part == MINE.as_bytes());
    let names = received.headers.iter().filter(|(_, value)| has(value)).map(|(name, _)| name.as_str());
    names.chain(has(received.path.as_bytes()).then_some(":path")).collect()
}

/// A canary at Gemini that gets every request, and a stable version at Anthropic; `stable_pool`: it has a pool too.
fn config(stable_pool: bool) -> Value {
    let mut config = json!({
        "deployments": [{"name": "d", "stable": "v1", "guard": {"compare": false}, "versions": [
            {"id": "v1", "weight": 0, "cluster": "v1", "set_headers": {"openai-organization": "ours"}},
            {"id": "v2", "weight": 100, "cluster": "v2", "key_pool": "gemini"}]}],
        "key_pools": [
            {"name": "anthropic", "header": "x-api-key", "prefix": "", "remove_headers": ["X-Tenant-Token"],
             "keys": [{"id": "a", "value": "sk-anthropic"}]},
            {"name": "gemini", "header": "x-goog-api-key", "prefix": "", "remove_headers": ["X-Tenant-Token"],
             "keys": [{"id": "g", "value": "sk-gemini"}], "failing": {"after": 1000}}],
    });
    if stable_pool {
        config["deployments"][0]["versions"][0]["key_pool"] = json!("anthropic");
    }
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_of_a_client_reaches_a_version_with_a_pool_also_after_a_failover() {
    for route in Route::here(&Route::WITH_FAILOVER) {
        for stable_pool in [true, false] {
            let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
            let options = EnvoyOptions { route, ..EnvoyOptions::default() };
            let options = options.cluster("v1", v1.port()).cluster("v2", v2.port());
            let envoy = EnvoyProcess::start(options.router_config(config(stable_pool))).await.unwrap();
            let context = format!("{route:?}, stable with a pool: {stable_pool}");

            let answer = envoy.client().send(request()).await.unwrap();
            assert_eq!((answer.status, answer.version()), (200, Some("v2")), "{context}");
            let received = v2.requests();
            let received = only(&received);
            assert_eq!(traces(received), [""; 0], "{context}");
            assert_eq!(received.path, "/v1/chat/completions?alt=json", "{context}");
            assert_eq!(received.header("x-goog-api-key"), Some("sk-gemini"), "{context}");
            assert_eq!(received.header("sec-websocket-protocol"), Some("realtime, v1"), "{context}");
            let gone = HEADERS.iter().filter(|name| received.header(name).is_some());
            assert_eq!(gone.collect::<Vec<_>>(), [&"x-goog-api-key"], "{context}");

            v2.clear();
            v2.set(Behaviour { fault: Some(Fault::status(500, &[])), ..Behaviour::default() });
            let answer = envoy.client().send(request()).await.unwrap();
            assert_eq!((answer.status, answer.version()), (200, Some("v1")), "{context}");
            assert_eq!(traces(only(&v2.requests())), [""; 0], "{context}");
            let received = v1.requests();
            let received = only(&received);
            assert!(!received.headers.iter().any(|(_, value)| value == b"sk-gemini"), "{context}");
            assert_eq!(received.header("openai-organization"), Some("ours"), "{context}");
            if stable_pool {
                assert_eq!(traces(received), [""; 0], "{context}: after a failover");
                assert_eq!(received.path, "/v1/chat/completions?alt=json", "{context}");
                assert_eq!(received.header("x-api-key"), Some("sk-anthropic"), "{context}");
                assert_eq!(received.header("sec-websocket-protocol"), Some("realtime, v1"), "{context}");
            } else {
                // Such a version gets the client's own credentials from every request.
                let kept = HEADERS.iter().filter(|name| **name != "openai-organization");
                for name in kept {
                    assert_eq!(
                        received.header(name),
                        Some(format!("x {MINE}").as_str()),
                        "{context}: {name}"
                    );
                }
                assert!(received.path.contains(MINE), "{context}");
            }
        }
    }
}

// Mirrors and redirects

/// The keys of all pools in [`mirrored`].
const KEYS: [&str; 2] = ["sk-stable", "sk-canary"];

/// Whether a request carries a key of a pool in any header.
fn has_key(received: &Received) -> bool {
    let held = |value: &[u8]| {
        let text = String::from_utf8_lossy(value).into_owned();
        KEYS.iter().any(|key| text.contains(key))
    };
    received.headers.iter().any(|(_, value)| held(value))
}

/// A stable version and a canary, each with a pool; with `failover` half of the requests go over.
fn mirrored(inject: &str) -> Value {
    let pool = |name: &str, header: &str| {
        json!({"name": name, "header": header, "inject": inject, "failing": {"after": 1000},
               "keys": [{"id": "one", "value": format!("sk-{name}")}]})
    };
    json!({
        "deployments": [{"name": "d", "match": {"path_prefix": "/v1/"}, "stable": "v1", "guard": {"compare": false},
            "versions": [
                {"id": "v1", "weight": 50, "cluster": "v1", "key_pool": "stable"},
                {"id": "v2", "weight": 50, "cluster": "v2", "key_pool": "canary"}]}],
        "key_pools": [pool("stable", "authorization"), pool("canary", "x-canary-key")],
    })
}

/// An Envoy with two versions, a mirror of the deployments' route, and a default cluster.
struct Astray {
    envoy: EnvoyProcess,
    v1: Provider,
    v2: Provider,
    mirror: Provider,
    other: Provider,
}

impl Astray {
    async fn start(options: EnvoyOptions, config: Value, edit: fn(&mut Value)) -> Astray {
        let start = async |name: &str| Provider::start(name).await.unwrap();
        let (v1, v2) = (start("v1").await, start("v2").await);
        let (mirror, other) = (start("mirror").await, start("other").await);
        let options =
            options.cluster("other", other.port()).cluster("v1", v1.port()).cluster("v2", v2.port());
        let mut options = options.cluster("mirror", mirror.port()).router_config(config);
        options.edit = Some(Box::new(move |bootstrap| {
            // Envoy follows no redirect of a request without this header.
            let manager =
                &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            manager["typed_config"]["route_config"]["virtual_hosts"][0]["request_headers_to_remove"] =
                json!([]);
            for route in routes(bootstrap).iter_mut().filter(|route| route["route"].is_object()) {
                edit(&mut route["route"]);
            }
        }));
        let envoy = EnvoyProcess::start(options).await.unwrap();
        Astray { envoy, v1, v2, mirror, other }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_of_the_operators_own_gets_no_key() {
    const REQUESTS: usize = 40;
    for route in Route::here(&Route::ALL) {
        for inject in ["attempt", "request"] {
            let context = format!("{route:?}, {inject}");
            let options = EnvoyOptions { route, ..EnvoyOptions::default() };
            let astray = Astray::start(options, mirrored(inject), |action| {
                action["request_mirror_policies"] = json!([{"cluster": "mirror"}]);
            })
            .await;
            for n in 0..REQUESTS {
                let request = Request::chat(n % 2 == 0).header("x-n", &n.to_string());
                let answer = astray.envoy.client().send(request).await.unwrap();
                assert_eq!(answer.status, 200, "{context}");
            }
            let served: Vec<Received> = [astray.v1.requests(), astray.v2.requests()].concat();
            assert_eq!(served.len(), REQUESTS, "{context}");
            assert!(served.iter().all(has_key), "{context}: the providers get their keys");
            eventually(format!("{REQUESTS} mirrored requests, {context}"), || async {
                (astray.mirror.count() >= REQUESTS as u64).then_some(())
            })
            .await;
            let leaked = astray.mirror.requests().into_iter().find(has_key);
            assert!(leaked.is_none(), "{context}: {leaked:?}");
            // A client that sends such a key itself, past all deployments, keeps it.
            let own = Request::get("/other").header("authorization", "Bearer sk-stable");
            astray.other.clear();
            astray.envoy.client().send(own).await.unwrap();
            assert_eq!(
                only(&astray.other.requests()).header("authorization"),
                Some("Bearer sk-stable"),
                "{context}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_past_all_deployments_loses_the_key() {
    for keys_role in [true, false] {
        for route in Route::here(&Route::ALL) {
            let context = format!("{route:?}, keys role: {keys_role}");
            let options = EnvoyOptions { route, keys_role, ..EnvoyOptions::default() };
            let astray = Astray::start(options, mirrored("attempt"), |action| {
                action["internal_redirect_policy"] =
                    json!({"max_internal_redirects": 2, "allow_cross_scheme_redirect": true});
            })
            .await;
            let location = [("location", "http://other.example/elsewhere")];
            let moved = Behaviour { fault: Some(Fault::status(302, &location)), ..Behaviour::default() };
            astray.v1.set(moved.clone());
            astray.v2.set(moved);
            for _ in 0..30 {
                let answer = astray.envoy.client().send(Request::get("/v1/models")).await.unwrap();
                assert_eq!((answer.status, answer.version()), (200, None), "{context}: {}", answer.text());
            }
            let received = astray.other.requests();
            assert_eq!(received.len(), 30, "{context}");
            assert!(astray.v1.count() > 0 && astray.v2.count() > 0, "{context}");
            for received in received {
                assert_eq!(received.header("host"), Some("other.example"), "{context}");
                assert!(!has_key(&received), "{context}: {received:?}");
            }
        }
    }
}
