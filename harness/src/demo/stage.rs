//! The two providers and the Envoy between them and the traffic.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, router_config};
use bellwether_harness::provider::{Behaviour, Latency, Provider};
use serde_json::{Value, json};

/// Ids of the versions in the sample.
pub const STABLE: &str = "v1";
pub const CANARY: &str = "v2";

/// The canary's share. The sample has 10 %, which takes longer to watch.
pub const CANARY_PERCENT: u32 = 20;

/// The ports of `--keep`, which are those of the samples.
pub const ENVOY_PORT: u16 = 10_000;
pub const ADMIN_PORT: u16 = 9901;
pub const ADMIN_ROLE_PORT: u16 = 9902;
pub const V1_PORT: u16 = 18_001;
pub const V2_PORT: u16 = 18_002;

/// Like a service in the same region, with a tail.
pub const LATENCY: Latency = Latency::Lognormal { median_ms: 20.0, sigma: 0.35 };

/// Everything that runs.
pub struct Stage {
    pub envoy: EnvoyProcess,
    pub v1: Provider,
    pub v2: Provider,
}

impl Stage {
    /// Starts everything, on the fixed ports or on free ones.
    pub async fn start(fixed: bool) -> Result<Stage> {
        let mut options = EnvoyOptions::default().router_config(config("1")?);
        let (mut v1_port, mut v2_port) = (0, 0);
        if fixed {
            (v1_port, v2_port) = (V1_PORT, V2_PORT);
            // Asked here because two Envoys can listen on one port, each with a share of the connections.
            for (port, whose) in [
                (ENVOY_PORT, "Envoy"),
                (ADMIN_PORT, "Envoy's admin interface"),
                (ADMIN_ROLE_PORT, "the filter's admin role"),
            ] {
                drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| taken(port, whose))?);
            }
            options.edit = Some(Box::new(fix_ports));
        }
        let v1 = start_provider(STABLE, v1_port).await?;
        let v2 = start_provider(CANARY, v2_port).await?;
        let options = options.cluster("openai", v1.port()).cluster("relay", v2.port());
        let envoy = EnvoyProcess::start(options).await?;
        Ok(Stage { envoy, v1, v2 })
    }
}

async fn start_provider(name: &str, port: u16) -> Result<Provider> {
    let provider = Provider::start_on(name, (Ipv4Addr::LOCALHOST, port).into())
        .await
        .with_context(|| taken(port, &format!("provider {name}")))?;
    provider.set(healthy());
    Ok(provider)
}

fn taken(port: u16, whose: &str) -> String {
    format!(
        "port {port} of 127.0.0.1 is for {whose} and cannot be had (`ss -ltnp sport = :{port}` shows who has it)"
    )
}

fn fix_ports(bootstrap: &mut Value) {
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = json!(ADMIN_PORT);
    bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] =
        json!(ENVOY_PORT);
    bootstrap["static_resources"]["listeners"][1]["address"]["socket_address"]["port_value"] =
        json!(ADMIN_ROLE_PORT);
}

/// A provider that does well.
pub fn healthy() -> Behaviour {
    Behaviour { latency: LATENCY, chunk_delay_ms: 2, ..Behaviour::default() }
}

/// The sample configuration as this release, with the canary's share raised.
pub fn config(release: &str) -> Result<Value> {
    let mut config = router_config()?;
    let deployment = &mut config["deployments"][0];
    deployment["release"] = json!(release);
    // The sample's canary is tried again by itself. Here everybody can see that a rollback lasts.
    deployment["recovery"] = json!({"mode": "hold"});
    let Some(versions) = deployment["versions"].as_array_mut() else { bail!("the sample has no versions") };
    for (version, weight) in versions.iter_mut().zip([100 - CANARY_PERCENT, CANARY_PERCENT]) {
        version["weight"] = json!(weight);
    }
    Ok(config)
}
