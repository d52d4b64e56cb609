//! What the containers of `envoy/compose.yaml` run and are shown by.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::sum_metric;
use bellwether_harness::load::until;
use bellwether_harness::provider::{Behaviour, Latency};
use clap::Args;
use hyper::Method;
use serde_json::json;
use tokio::time::sleep;

use crate::demo::Traffic;
use crate::interrupted;

/// How long the healthy release is left alone, so that there is something to see before the break.
const HEALTHY: Duration = Duration::from_secs(10);

/// Envoy is there in seconds, on a busy machine in tens of them.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Two of twenty requests a second go to the canary: the comparison rolls it back with the ninth failure, five in a row do
/// before, and a busy machine takes longer than either.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(60);

/// Where the containers are published on 127.0.0.1; the defaults are those of `envoy/compose.yaml`.
#[derive(Debug, Args)]
pub struct Ports {
    /// Envoy.
    #[arg(long, env = "ENVOY_PORT", default_value_t = 10_000)]
    envoy: u16,
    /// Envoy's admin interface.
    #[arg(long, env = "ENVOY_ADMIN_PORT", default_value_t = 9901)]
    admin: u16,
    /// The stable version's provider.
    #[arg(long, env = "V1_PORT", default_value_t = 18_001)]
    v1: u16,
    /// The canary's provider.
    #[arg(long, env = "V2_PORT", default_value_t = 18_002)]
    v2: u16,
    /// Prometheus.
    #[arg(long, env = "PROMETHEUS_PORT", default_value_t = 9090)]
    prometheus: u16,
    /// Grafana, where there is one.
    #[arg(long, env = "GRAFANA_PORT", default_value_t = 3000)]
    grafana: u16,
}

/// Sends requests until interrupted.
///
/// # Errors
/// If signals cannot be waited for.
pub async fn traffic(port: u16, rate: f64) -> Result<()> {
    let traffic = Traffic::start(Client::new(port), rate);
    println!("{rate} requests a second to 127.0.0.1:{port}");
    loop {
        tokio::select! {
            done = interrupted() => return Ok(done?),
            // Of requests that are over nothing is needed, and it runs for days.
            () = sleep(Duration::from_secs(10)) => traffic.forget(),
        }
    }
}

/// Breaks the canary of a running `envoy/compose.yaml` with traffic, waits until it is rolled back, mends it, and says
/// where to look.
///
/// # Errors
/// If nothing answers, or there is no rollback.
pub async fn demo(ports: &Ports) -> Result<()> {
    let (admin, v1, v2) = (Client::new(ports.admin), Client::new(ports.v1), Client::new(ports.v2));
    println!("waiting for Envoy and traffic");
    let served = async || requests(&admin, "v2").await.is_some_and(|count| count > 0.0);
    ensure!(
        until(START_LIMIT, served).await,
        "no traffic reaches v2 in {START_LIMIT:?}: see harness/scripts/compose logs"
    );
    for (provider, name) in [(&v1, "v1"), (&v2, "v2")] {
        set(provider, &healthy()).await.with_context(|| format!("provider {name}"))?;
    }
    ensure!(
        phase(&admin).await == Some(0.0),
        "the deployment is not active: it was rolled back before; make compose-down, and start again"
    );
    println!("both versions are healthy, v2 gets 10 % of the traffic");
    sleep(HEALTHY).await;
    println!("breaking v2: it answers 500 to everything");
    set(&v2, &Behaviour { latency: LATENCY, ..Behaviour::status(500) }).await?;
    let rolled_back = async || phase(&admin).await == Some(3.0);
    ensure!(until(ROLLBACK_LIMIT, rolled_back).await, "v2 is not rolled back in {ROLLBACK_LIMIT:?}");
    set(&v2, &healthy()).await?;
    println!(
        "v2 is rolled back: all traffic goes to v1 (and v2 is mended, but stays out until somebody resumes it or the release changes)"
    );
    print!("{}", directions(ports));
    Ok(())
}

const LATENCY: Latency = Latency::Lognormal { median_ms: 20.0, sigma: 0.35 };

fn healthy() -> Behaviour {
    Behaviour::slow(LATENCY)
}

async fn set(provider: &Client, behaviour: &Behaviour) -> Result<()> {
    let body = json!(behaviour).to_string();
    let request = Request { method: Method::PUT, ..Request::post("/_mock/behaviour", body) };
    let answer = provider.send(request).await?;
    ensure!(answer.status == 200, "PUT /_mock/behaviour: status {}", answer.status);
    Ok(())
}

async fn requests(admin: &Client, version: &str) -> Option<f64> {
    metric(admin, "bellwether_requests_total", &[("version", version)]).await
}

async fn phase(admin: &Client) -> Option<f64> {
    metric(admin, "bellwether_phase", &[]).await
}

/// `None` while Envoy does not answer.
async fn metric(admin: &Client, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let answer = admin.get("/stats/prometheus", &[]).await.ok()?;
    (answer.status == 200).then(|| sum_metric(&answer.text(), name, labels))
}

fn directions(ports: &Ports) -> String {
    let Ports { envoy, admin, v2, prometheus, grafana, .. } = ports;
    let router = "target/compose/envoy/ecds/router.yaml";
    format!(
        r#"
  Envoy                  http://127.0.0.1:{envoy}
  the live page          http://127.0.0.1:9902/, or the port that PAGE_PORT names: also to resume v2
  metrics                http://127.0.0.1:{admin}/stats/prometheus
  Prometheus             http://127.0.0.1:{prometheus}/graph?g0.expr=sum%20by%20(version)%20(rate(bellwether_requests_total%5B1m%5D))&g0.tab=0&g0.range_input=15m
  Grafana                http://127.0.0.1:{grafana}, if it was not left out
  events                 harness/scripts/compose logs envoy | grep '"bellwether"'
  start release 2        sed 's/"release": "1"/"release": "2"/; s/^version_info: .*/version_info: "2"/' {router} > {router}.new && mv {router}.new {router}
  break v2 again         curl -X PUT 127.0.0.1:{v2}/_mock/behaviour -d '{{"fault":{{"kind":"status","status":500}}}}'
  mend it                curl -X PUT 127.0.0.1:{v2}/_mock/behaviour -d '{{"latency":{{"kind":"lognormal","median_ms":20,"sigma":0.35}}}}'
  stop a provider        harness/scripts/compose stop v2
  end everything         make compose-down
"#
    )
}
