//! The harness itself: its changes of the samples' clusters, keys and configurations, and its reports of an update. The
//! other tests rely on it.

use std::time::Duration;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, Route};
use bellwether_harness::load::until;
use bellwether_harness::provider::Provider;
use serde_json::{Value, json};

/// On loopback each awaited event takes milliseconds; on a busy machine, seconds.
const LIMIT: Duration = Duration::from_secs(20);

async fn providers() -> (Provider, Provider) {
    (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap())
}

fn options(openai: &Provider, relay: &Provider) -> EnvoyOptions {
    EnvoyOptions::default().cluster("openai", openai.port()).cluster("relay", relay.port())
}

/// One deployment with one version.
fn all_to(cluster: &str) -> Value {
    json!({"deployments": [{
        "name": "test", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": cluster}],
    }]})
}

#[tokio::test]
async fn clusters_and_environment_are_the_tests_own() {
    for route in Route::here(&Route::ALL) {
        let provider = Provider::start("canary").await.unwrap();
        let mut config = all_to("other");
        config["deployments"][0]["versions"][0]["key_pool"] = json!("pool");
        let key = json!({"id": "mine", "value": {"env": "OPENAI_KEY_1"}});
        config["key_pools"] = json!([{"name": "pool", "keys": [key]}]);
        let options = EnvoyOptions { route, ..EnvoyOptions::default() }
            .cluster("other", provider.port())
            .env("OPENAI_KEY_1", "sk-mine")
            .router_config(config);
        let envoy = EnvoyProcess::start(options).await.unwrap();
        assert_eq!(envoy.client().send(Request::chat(false)).await.unwrap().status, 200, "{route:?}");
        assert_eq!(provider.requests()[0].key.as_deref(), Some("sk-mine"), "{route:?}");
    }
}

#[tokio::test]
async fn a_configuration_is_taken_or_rejected_and_the_last_good_one_serves() {
    let (openai, relay) = providers().await;
    let envoy = EnvoyProcess::start(options(&openai, &relay).router_config(all_to("relay"))).await.unwrap();
    let client = envoy.client();
    let serves = async |name: &'static str| {
        let asked =
            async || client.send(Request::chat(false)).await.is_ok_and(|answer| answer.text().contains(name));
        until(LIMIT, asked).await
    };
    assert!(serves("hello from v2").await);

    let update = envoy.write_router_config(&all_to("openai")).await.unwrap();
    envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
    assert!(serves("hello from v1").await);

    let mut bad = all_to("relay");
    bad["deployments"][0]["name"] = json!("No Name");
    let update = envoy.write_router_config(&bad).await.unwrap();
    let log = envoy.wait_rejected(&update, LIMIT).await.unwrap();
    assert!(log.contains("deployments[0].name: "), "{log}");
    assert!(envoy.wait_config_accepted(&update, Duration::ZERO).await.is_err());
    assert!(serves("hello from v1").await);

    let update = envoy.write_keys_config(&json!({"secrets": {}})).await.unwrap();
    envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
    assert!(envoy.wait_rejected(&update, Duration::ZERO).await.is_err());
    let update = envoy.write_config(Role::Keys, "no JSON").await.unwrap();
    envoy.wait_rejected(&update, LIMIT).await.unwrap();
    envoy.quit().await.unwrap();
}

#[tokio::test]
async fn a_first_configuration_that_is_rejected_is_an_error_with_the_log() {
    let (openai, relay) = providers().await;
    let bad = || options(&openai, &relay).router_config(json!({"deployments": []}));
    let error = format!("{:#}", EnvoyProcess::start(bad()).await.unwrap_err());
    assert!(error.contains("bellwether: configuration rejected: deployments"), "{error}");
    let envoy = EnvoyProcess::start(EnvoyOptions { allow_rejected_config: true, ..bad() }).await.unwrap();
    assert_eq!(envoy.client().get("/", &[]).await.unwrap().status, 500, "nothing passes without its filter");
}
