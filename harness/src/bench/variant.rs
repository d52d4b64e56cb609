//! What is compared: the shipped configuration, in which the choice of a cluster and a key is made by different things.
//!
//! Everything else is the same for all of them, retry policy included; only the access log is left out.

use std::path::Path;

use anyhow::{Context, Result};
use bellwether_harness::envoy::{Edit, EnvoyOptions, router_config};
use serde_json::{Value, json};

/// Who chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// Nobody: one cluster.
    Plain,
    /// Envoy itself: weighted clusters and a fixed header. What the others are compared with.
    Native,
    /// Envoy's Lua filter.
    Lua,
    /// Envoy itself, and a filter on the SDK that does nothing, in the router's place.
    Empty,
    /// The same in the places of both roles.
    EmptyTwice,
    /// The router role, without keys.
    Router,
    /// The router role, which also puts in the key.
    RouterWithKey,
    /// Both roles.
    RouterAndKeys,
}

/// How large the configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Deployments; requests are for the last one.
    pub deployments: usize,
    /// Keys of each pool.
    pub keys: usize,
}

/// The sample's.
pub const SMALL: Size = Size { deployments: 1, keys: 1 };

impl Variant {
    /// All, those that others are compared with first.
    pub const ALL: [Variant; 8] = [
        Variant::Native,
        Variant::Plain,
        Variant::Lua,
        Variant::Empty,
        Variant::EmptyTwice,
        Variant::Router,
        Variant::RouterWithKey,
        Variant::RouterAndKeys,
    ];

    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Plain => "plain proxy",
            Variant::Native => "weighted_clusters and a fixed header",
            Variant::Lua => "Lua: choice and header",
            Variant::Empty => "an empty SDK filter",
            Variant::EmptyTwice => "two empty SDK filters",
            Variant::Router => "Bellwether: router",
            Variant::RouterWithKey => "Bellwether: router, which puts in the key",
            Variant::RouterAndKeys => "Bellwether: router and keys",
        }
    }

    /// The options of an Envoy that has it, with one worker. `empty`: the module that does nothing.
    pub fn options(self, upstream: u16, empty: &Path, size: Size) -> Result<EnvoyOptions> {
        let mut options = EnvoyOptions { concurrency: 1, ..EnvoyOptions::default() }
            .cluster("openai", upstream)
            .cluster("relay", upstream);
        options.keys_role = matches!(self, Variant::EmptyTwice | Variant::RouterAndKeys);
        let edit: Edit = match self {
            Variant::Plain => Box::new(|b| native(b, json!({"cluster": "openai"}), false)),
            Variant::Native => Box::new(|b| native(b, weighted(), false)),
            Variant::Lua => Box::new(lua),
            Variant::Empty | Variant::EmptyTwice => Box::new(|b| native(b, weighted(), true)),
            _ => Box::new(without_log),
        };
        options.edit = Some(edit);
        match self {
            Variant::Empty | Variant::EmptyTwice => options.wasm = Some(empty.to_path_buf()),
            Variant::Router => options.router_config = Some(document(size, None)?),
            Variant::RouterWithKey => options.router_config = Some(document(size, Some("request"))?),
            Variant::RouterAndKeys => options.router_config = Some(document(size, Some("attempt"))?),
            _ => {}
        }
        Ok(options)
    }
}

/// The sample's configuration at this size. `inject`: who puts keys in; without it there are none.
pub fn document(size: Size, inject: Option<&str>) -> Result<Value> {
    let mut document = router_config()?;
    let template = document.pointer("/deployments/0").cloned().context("the sample has no deployment")?;
    let mut deployments = vec![template; size.deployments];
    for (n, deployment) in deployments.iter_mut().enumerate() {
        deployment["name"] = json!(format!("d{n}"));
        if size.deployments > 1 {
            deployment["match"] = json!({"headers": [{"name": "x-deployment-id", "exact": format!("d{n}")}]});
        }
        if inject.is_none() {
            let versions = deployment["versions"].as_array_mut().context("the sample has no versions")?;
            versions.iter_mut().for_each(|version| {
                version.as_object_mut().map(|version| version.remove("key_pool"));
            });
        }
    }
    document["deployments"] = json!(deployments);
    match inject {
        None => document["key_pools"] = json!([]),
        Some(inject) => {
            let pools = document["key_pools"].as_array_mut().context("the sample has no pools")?;
            for pool in pools {
                pool["inject"] = json!(inject);
                let keys =
                    (0..size.keys).map(|n| json!({"id": format!("k{n}"), "value": format!("sk-bench-{n}")}));
                pool["keys"] = keys.collect();
            }
        }
    }
    Ok(document)
}

fn weighted() -> Value {
    json!({"weighted_clusters": {"clusters": [
        {"name": "openai", "weight": 90}, {"name": "relay", "weight": 10},
    ]}})
}

/// Envoy's own routing in place of ours.
fn native(bootstrap: &mut Value, cluster: Value, wasm: bool) {
    without_log(bootstrap);
    let Some(manager) = manager(bootstrap) else { return };
    let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
    let mut route = routes[0]["route"].clone();
    if let (Some(route), Value::Object(cluster)) = (route.as_object_mut(), &cluster) {
        route.remove("inline_cluster_specifier_plugin");
        route.extend(cluster.clone());
    }
    if let Some(policy) = route["retry_policy"].as_object_mut() {
        policy.remove("refresh_cluster_on_retry");
    }
    let mut entry = json!({"match": {"prefix": "/"}, "route": route});
    if cluster.get("weighted_clusters").is_some() {
        entry["request_headers_to_add"] = json!([{
            "header": {"key": "authorization", "value": "Bearer sk-bench-0"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }]);
    }
    *routes = json!([entry]);
    if let (false, Some(filters)) = (wasm, manager["http_filters"].as_array_mut()) {
        filters.remove(0);
    }
}

/// What the router role does, by hand: a client chooses no cluster, one request in ten goes to the relay, with a key.
const SCRIPT: &str = r#"
function envoy_on_request(handle)
  local headers = handle:headers()
  local relay = math.random(10000) > 9000
  headers:replace("x-bellwether-cluster", relay and "relay" or "openai")
  headers:replace("authorization", relay and "Bearer sk-bench-1" or "Bearer sk-bench-0")
end
"#;

fn lua(bootstrap: &mut Value) {
    without_log(bootstrap);
    let Some(manager) = manager(bootstrap) else { return };
    manager["http_filters"][0] = json!({
        "name": "lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": SCRIPT},
        },
    });
}

fn without_log(bootstrap: &mut Value) {
    if let Some(manager) = manager(bootstrap).and_then(Value::as_object_mut) {
        manager.remove("access_log");
    }
}

fn manager(bootstrap: &mut Value) -> Option<&mut Value> {
    bootstrap.pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config")
}
