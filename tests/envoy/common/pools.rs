//! An Envoy with two workers, two providers with pools of keys, and counts of the requests that arrived with each key.

use std::collections::BTreeMap;

use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route, sum_metric};
use bellwether_harness::provider::Provider;
use bellwether_harness::testing::load::Lanes;
use serde_json::{Value, json};

/// An Envoy and the providers of stable and of a canary.
pub struct Rig {
    pub envoy: EnvoyProcess,
    /// Clients on both workers.
    pub lanes: Lanes,
    /// Stable's provider, behind the cluster `v1`.
    pub v1: Provider,
    /// The canary's, behind `v2`.
    pub v2: Provider,
}

impl Rig {
    /// Starts them with this configuration of the router.
    pub async fn start(route: Route, config: Value) -> Rig {
        Rig::with(EnvoyOptions { route, ..EnvoyOptions::default() }, config).await
    }

    /// Starts them with these options besides.
    pub async fn with(options: EnvoyOptions, config: Value) -> Rig {
        let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
        let options = options.cluster("v1", v1.port()).cluster("v2", v2.port()).router_config(config);
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let lanes = Lanes::open(&envoy).await;
        v1.clear();
        v2.clear();
        Rig { envoy, lanes, v1, v2 }
    }

    /// How often each key has arrived at a provider.
    pub fn keys(provider: &Provider) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in provider.requests() {
            *counts.entry(request.key.unwrap_or_default()).or_default() += 1;
        }
        counts
    }

    /// The gauge of a key's status.
    pub async fn status_of(&self, key: &str) -> u64 {
        let page = self.envoy.prometheus().await.unwrap();
        sum_metric(&page, "bellwether_key_status", &[("key", key)]) as u64
    }
}

/// Keys with these values, each under its value without `sk-`.
pub fn keys(values: &[&str]) -> Value {
    let key = |value: &&str| json!({"id": value.trim_start_matches("sk-"), "value": value});
    json!(values.iter().map(key).collect::<Vec<Value>>())
}

/// One version on one pool.
pub fn pooled(mut pool: Value) -> Value {
    pool["name"] = json!("pool");
    json!({
        "deployments": [{"name": "d", "stable": "v1", "versions": [
            {"id": "v1", "weight": 100, "cluster": "v1", "key_pool": "pool"}]}],
        "key_pools": [pool],
    })
}
