//! Envoy, the filter and two providers for tests in another language.

use anyhow::{Context, Result};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess};
use bellwether_harness::provider::Provider;
use serde_json::json;
use tokio::io::{AsyncReadExt, stdin};

/// Starts everything on free ports, prints these as one line of JSON, and runs until standard input is closed.
///
/// The providers `v1` and `v2` are the clusters `openai` and `relay`; without a configuration the sample's is used.
///
/// # Errors
/// If the configuration is not JSON, or something does not start.
pub async fn run(router_config: Option<&str>) -> Result<()> {
    let (v1, v2) = (Provider::start("v1").await?, Provider::start("v2").await?);
    let mut options = EnvoyOptions::default().cluster("openai", v1.port()).cluster("relay", v2.port());
    if let Some(text) = router_config {
        options = options.router_config(serde_json::from_str(text).context("the router's configuration")?);
    }
    let envoy = EnvoyProcess::start(options).await?;
    println!(
        "{}",
        json!({
            "envoy": envoy.port(), "admin": envoy.admin_port(), "admin_role": envoy.admin_role_port(),
            "v1": v1.port(), "v2": v2.port(),
            "log": envoy.directory().join("envoy.log"),
        })
    );
    stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
