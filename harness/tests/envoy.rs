//! The runner against a real Envoy and a probe module.
//!
//! The probe is any module that rejects a configuration with the word `bad` in it, sends requests to the cluster named
//! in `probe_cluster` and a retry to that in `probe_retry`, and sets `authorization` to a key and the number of the
//! attempt. `BELLWETHER_PROBE` is its path, and `cargo test -- --ignored` runs these. What the filter itself does in
//! Envoy is tested by the root package.

use std::path::PathBuf;
use std::time::Duration;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, Route};
use bellwether_harness::load::{Summary, constant_rate, until};
use bellwether_harness::provider::{Behaviour, Fault, Latency, Provider};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(10);

fn probe() -> Option<PathBuf> {
    Some(std::env::var_os("BELLWETHER_PROBE").expect("BELLWETHER_PROBE names a module").into())
}

fn options(openai: &Provider, relay: &Provider) -> EnvoyOptions {
    EnvoyOptions { wasm: probe(), ..EnvoyOptions::default() }
        .cluster("openai", openai.port())
        .cluster("relay", relay.port())
        .router_config(json!({"probe_cluster": "relay"}))
}

async fn providers() -> (Provider, Provider) {
    (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap())
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn a_configuration_is_taken_or_rejected_and_the_last_good_one_serves() {
    let (openai, relay) = providers().await;
    let envoy = EnvoyProcess::start(options(&openai, &relay)).await.unwrap();
    let client = envoy.client();
    let serves = async |name: &'static str| {
        until(LIMIT, || async {
            client.send(Request::chat(false)).await.is_ok_and(|answer| answer.text().contains(name))
        })
        .await
    };
    assert!(serves("hello from v2").await);

    let update = envoy.write_router_config(&json!({"probe_cluster": "openai"})).await.unwrap();
    envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
    assert!(serves("hello from v1").await);

    let update = envoy.write_router_config(&json!({"probe_cluster": "relay", "bad": 1})).await.unwrap();
    let said = envoy.wait_rejected(&update, LIMIT).await.unwrap();
    assert!(said.contains("deployments[0].name: bad"), "{said}");
    assert!(envoy.wait_config_accepted(&update, Duration::ZERO).await.is_err());
    relay.clear();
    assert!(serves("hello from v1").await && relay.count() == 0);

    let update = envoy.write_keys_config(&json!({"secrets": {}})).await.unwrap();
    envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
    let update = envoy.write_config(Role::Keys, "bad").await.unwrap();
    envoy.wait_rejected(&update, LIMIT).await.unwrap();
    envoy.quit().await.unwrap();
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn a_first_configuration_that_is_rejected_is_an_error_with_the_log() {
    let (openai, relay) = providers().await;
    let bad = || options(&openai, &relay).router_config(json!({"bad": 1}));
    let error = format!("{:#}", EnvoyProcess::start(bad()).await.unwrap_err());
    assert!(error.contains("deployments[0].name: bad"), "{error}");
    let envoy = EnvoyProcess::start(EnvoyOptions { allow_rejected_config: true, ..bad() }).await.unwrap();
    assert_eq!(envoy.client().get("/", &[]).await.unwrap().status, 500);
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn a_retry_goes_to_another_cluster_with_the_matcher_and_stays_with_the_header() {
    for (route, served_by) in [(Route::Matcher, 1), (Route::ClusterHeader, 0)] {
        let (openai, relay) = providers().await;
        let config = json!({"probe_cluster": "relay", "probe_retry": "openai"});
        let options = EnvoyOptions { route, ..options(&openai, &relay).router_config(config) };
        let envoy = EnvoyProcess::start(options).await.unwrap();
        for fault in [Fault::status(503, &[]), Fault::status(429, &[]), Fault::Reset] {
            relay.set(Behaviour::failing(fault.clone()));
            openai.clear();
            let answer = envoy.client().send(Request::chat(true)).await.unwrap();
            assert_eq!(answer.status == 200, served_by == 1, "{route:?} {fault:?}");
            assert_eq!(openai.count(), served_by, "{route:?} {fault:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn clusters_and_environment_are_the_tests_own() {
    for route in [Route::Matcher, Route::ClusterHeader] {
        let provider = Provider::start("canary").await.unwrap();
        let options = EnvoyOptions { route, wasm: probe(), ..EnvoyOptions::default() }
            .cluster("other", provider.port())
            .env("OPENAI_KEY_1", "sk-mine")
            .router_config(json!({"probe_cluster": "other"}));
        let envoy = EnvoyProcess::start(options).await.unwrap();
        assert_eq!(envoy.client().send(Request::chat(false)).await.unwrap().status, 200);
        assert_eq!(provider.requests()[0].key.as_deref(), Some("sk-mine-1"), "{route:?}");
        let update = envoy.write_router_config(&json!({})).await.unwrap();
        envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
        // What has no cluster header goes to the first of the test's clusters, on the default route.
        let default_route = async || {
            let answer = envoy.client().send(Request::chat(false)).await.unwrap();
            answer.status == 200
                && provider.requests().iter().any(|r| r.header("x-bellwether-cluster").is_none())
        };
        assert!(until(LIMIT, default_route).await, "{route:?}");
    }
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn a_cluster_that_the_routes_do_not_know_is_answered_by_envoy_and_not_by_another_cluster() {
    for route in [Route::Matcher, Route::ClusterHeader] {
        let (openai, relay) = providers().await;
        let config = json!({"probe_cluster": "elsewhere"});
        let options = EnvoyOptions { route, ..options(&openai, &relay).router_config(config) };
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let answer = envoy.client().send(Request::chat(false)).await.unwrap();
        assert_eq!((answer.status, openai.count() + relay.count()), (503, 0), "{route:?}");
    }
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn a_provider_learns_nothing_of_the_client_and_with_the_header_route_nothing_of_the_cluster() {
    let (openai, relay) = providers().await;
    let options = EnvoyOptions { route: Route::ClusterHeader, ..options(&openai, &relay) };
    let envoy = EnvoyProcess::start(options).await.unwrap();
    envoy.client().send(Request::chat(false)).await.unwrap();
    let received = relay.requests().remove(0);
    for name in ["x-bellwether-cluster", "x-forwarded-for", "x-envoy-external-address"] {
        assert_eq!(received.header(name), None, "{name}");
    }
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn an_outage_of_the_canary_is_retried_on_stable_at_any_rate() {
    let (openai, relay) = providers().await;
    let config = json!({"probe_cluster": "relay", "probe_retry": "openai"});
    let envoy = EnvoyProcess::start(options(&openai, &relay).router_config(config)).await.unwrap();
    relay.set(Behaviour::status(503));
    // Slow enough that far more than three retries run at a time, which is what Envoy allows by default.
    openai.set(Behaviour::slow(Latency::Fixed { ms: 200.0 }));
    let samples =
        constant_rate(&envoy.client(), 200.0, Duration::from_secs(1), |_| Request::chat(true)).await;
    assert_eq!(Summary::of(&samples).failed, 0, "{:?}", Summary::of(&samples));
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn without_the_keys_role_nothing_is_injected() {
    let (openai, relay) = providers().await;
    let envoy =
        EnvoyProcess::start(EnvoyOptions { keys_role: false, ..options(&openai, &relay) }).await.unwrap();
    envoy.client().send(Request::chat(false)).await.unwrap();
    assert_eq!(relay.requests()[0].key, None);
    assert!(envoy.write_keys_config(&json!({})).await.is_err());
}

#[tokio::test]
#[ignore = "needs BELLWETHER_PROBE"]
async fn metrics_have_labels_and_the_access_log_has_the_version() {
    let (openai, relay) = providers().await;
    let envoy = EnvoyProcess::start(options(&openai, &relay)).await.unwrap();
    envoy.client().get("/v1/models?key=secret", &[]).await.unwrap();
    let page = envoy.prometheus().await.unwrap();
    for (name, labels) in [
        (
            "bellwether_requests_total",
            &[("deployment", "version"), ("version", "v1"), ("outcome", "good")][..],
        ),
        ("bellwether_key_requests_total", &[("pool", "key"), ("key", "pool"), ("outcome", "what")][..]),
        ("bellwether_config_updates_total", &[("result", "accepted")][..]),
        ("bellwether_dropped_total", &[("what", "merges")][..]),
        ("bellwether_rollbacks_total", &[("reason", "max_errors")][..]),
    ] {
        assert!(envoy.metric(name, labels).await.unwrap() > 0.0, "{name} {labels:?} in\n{page}");
    }
    assert!(
        page.contains("bellwether_latency_ms_bucket{deployment=\"d\",version=\"v1\",le=\"600000\"}"),
        "{page}"
    );
    assert!(until(LIMIT, || async { !envoy.access_log().is_empty() }).await);
    let line = envoy.access_log().remove(0);
    assert_eq!(
        (&line["version"], &line["path"], &line["attempts"]),
        (&json!("relay"), &json!("/v1/models"), &json!(1))
    );
}
