//! Hours of load in which everything changes all the time: whether anything grows, leaks, or fails that should not.
//!
//! Envoy runs on the sample configuration without its access log, which would be gigabytes. Clients, providers and Envoy share
//! this machine, so the figures say what grows and not how fast Envoy is.

mod operator;
mod report;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, sum_metric, wasm_path};
use bellwether_harness::load::until;
use bellwether_harness::provider::{Behaviour, Latency, Provider};
use clap::Args;
use serde_json::Value;
use tokio::time::sleep_until;

use operator::Operator;
use report::{Report, Row};
use traffic::{Tally, Traffic};

/// Rows of the table; a multiple of five, because the second and the last fifth are compared.
const ROWS: u32 = 20;

/// What to do.
#[derive(Args)]
pub struct Soak {
    /// How long the load goes on; a fraction will do.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Connections of the plain requests; all others together have two thirds as many again.
    #[arg(long, default_value_t = 24)]
    connections: u64,
    /// Percent by which memory may grow between the second and the last fifth.
    #[arg(long, default_value_t = 5.0)]
    growth: f64,
    /// Milliseconds between two things that the operator does: a reload, a rotation, a fault, a release.
    #[arg(long, default_value_t = 500)]
    pause_ms: u64,
    /// Reloads after the load, at rest, to see what one leaves behind, without and with a new name of a release.
    #[arg(long, default_value_t = 500)]
    reloads: u64,
}

/// The providers by the clusters they are behind.
pub struct Providers {
    /// Of every stable version.
    pub stable: Provider,
    /// Of the canary that fails from time to time.
    pub canary: Provider,
    /// Of the deployment whose clients do not wait.
    pub slow: Provider,
}

/// Runs it and prints a report in Markdown.
///
/// # Errors
/// If something does not start, and if the verdict is bad.
pub async fn run(options: Soak) -> Result<()> {
    ensure!(options.minutes > 0.0 && options.minutes.is_finite(), "--minutes: must be above 0");
    ensure!(options.connections > 0, "--connections: must be above 0");
    let providers = Providers {
        stable: Provider::start("v1").await?,
        canary: Provider::start("v2").await?,
        slow: Provider::start("v3").await?,
    };
    for provider in [&providers.stable, &providers.canary, &providers.slow] {
        provider.count_only();
        provider.set(traffic::streaming());
    }
    providers.slow.set(Behaviour { latency: Latency::Fixed { ms: 100.0 }, ..traffic::streaming() });
    let envoy = Arc::new(start(&providers).await?);
    let providers = Arc::new(providers);
    let tally = Arc::new(Tally::default());
    let operator = Operator::start(&envoy, &providers, Duration::from_millis(options.pause_ms));
    let traffic = Traffic::start(envoy.port(), options.connections, &tally);

    let interval = Duration::from_secs_f64(options.minutes * 60.0 / f64::from(ROWS));
    let begun = Instant::now();
    let mut report = Report::new(options.growth, wasm_path()?.metadata()?.len());
    println!("{}", Report::HEAD);
    for n in 1..=ROWS {
        sleep_until((begun + interval * n).into()).await;
        let row = measure(&envoy, &tally, &operator, begun.elapsed()).await?;
        println!("{row}");
        report.rows.push(row);
    }
    let done = operator.stop().await?;
    traffic.stop().await;

    // Every VM reports twice a second.
    let in_flight = async || envoy.metric("bellwether_in_flight", &[]).await.unwrap_or(f64::NAN);
    tokio::time::sleep(Duration::from_millis(700)).await;
    until(Duration::from_secs(10), || async { in_flight().await == 0.0 }).await;
    report.left_in_flight = in_flight().await;
    report.counted = envoy.metric("bellwether_requests_total", &[]).await? as u64;
    report.sent = tally.sent();
    report.early_cancels = tally.left_early();
    report.failures = tally.failures();
    report.releases = done.releases;
    report.costs = operator::costs(&envoy, options.reloads).await?;
    report.traps = traps(&envoy).await?;
    println!("\n{report}");
    ensure!(report.faults().is_empty(), "{}", report.faults().join("; "));
    Ok(())
}

async fn start(providers: &Providers) -> Result<EnvoyProcess> {
    let options = EnvoyOptions {
        edit: Some(Box::new(edit)),
        keys_config: Some(operator::secrets(0)),
        log_level: "error".to_owned(),
        ..EnvoyOptions::default()
    };
    let options = options
        .cluster("v1", providers.stable.port())
        .cluster("v2", providers.canary.port())
        .cluster("v3", providers.slow.port())
        .router_config(operator::document(&operator::State::default()));
    EnvoyProcess::start(options).await.context("start Envoy")
}

/// No access log; a provider that is silent for three seconds is given up (one that runs on this machine may be late).
fn edit(bootstrap: &mut Value) {
    let manager =
        &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().map(|manager| manager.remove("access_log"));
    let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut();
    for route in routes.into_iter().flatten() {
        if let Some(policy) = route["route"].get_mut("retry_policy") {
            policy["per_try_idle_timeout"] = serde_json::json!("3s");
        }
    }
}

/// Reads everything that could grow.
async fn measure(envoy: &EnvoyProcess, tally: &Tally, operator: &Operator, at: Duration) -> Result<Row> {
    let page = envoy.prometheus().await?;
    let (latency, counts) = tally.take();
    Ok(Row {
        at,
        counts,
        latency,
        operator: operator.done(),
        rollbacks: sum_metric(&page, "bellwether_rollbacks_total", &[]) as u64,
        in_flight: sum_metric(&page, "bellwether_in_flight", &[]) as u64,
        rss: resident(envoy.pid())?,
        allocated: memory(envoy).await?,
        vm_memory: sum_metric(&page, "bellwether_vm_memory_bytes", &[]) as u64,
    })
}

/// What Envoy's allocator has given out, in bytes.
async fn memory(envoy: &EnvoyProcess) -> Result<u64> {
    let memory: Value = serde_json::from_str(&envoy.admin("/memory").await?)?;
    memory["allocated"].as_str().context("allocated")?.parse().context("allocated")
}

/// The resident memory of a process in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

/// How often a VM had to be built anew, which nothing here gives a reason for.
async fn traps(envoy: &EnvoyProcess) -> Result<u64> {
    let stats = envoy.stats().await?;
    let of = |name: &str| name.starts_with("wasm.") && name.contains(".vm_reload");
    Ok(stats.iter().filter(|(name, _)| of(name)).filter_map(|(_, n)| n.parse::<u64>().ok()).sum())
}
