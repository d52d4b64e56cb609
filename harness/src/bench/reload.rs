//! What a reload costs: CPU time on each thread, and the latency of what is under way meanwhile.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bellwether_harness::envoy::{EnvoyProcess, Role};
use bellwether_harness::load::until;
use serde_json::{Value, json};

use super::process::{cpu_time, wasm_memories};
use super::traffic::{Load, Upstream, WHOLE};
use super::variant::{Size, Variant, document};

/// Reloads of a measurement.
const RELOADS: usize = 10;
/// Few connections: the latencies are to show the reload, not a queue.
const CONNECTIONS: usize = 4;
/// Until an update is in force.
const PATIENCE: Duration = Duration::from_secs(30);

/// What reloads cost.
pub struct Reload {
    /// Deployments.
    pub deployments: usize,
    /// CPU time of one on the worker, and on the main thread (which checks the configuration in a VM of its own).
    pub worker: Vec<Duration>,
    /// See `worker`.
    pub main: Vec<Duration>,
    /// The longest of the requests that ran while nothing was reloaded, and while the configuration was reloaded.
    pub quiet: Duration,
    /// See `quiet`.
    pub reloading: Duration,
    /// CPU time an idle second takes on the worker.
    pub idle: Duration,
    /// The largest linear memory of its VMs in the end, in bytes: while a reload goes on they hold two plans.
    pub memory: u64,
}

/// Reloads a configuration of this many deployments again and again, without traffic and with.
pub async fn measure(deployments: usize, empty: &Path) -> Result<Reload> {
    let size = Size { deployments, keys: 1 };
    let upstream = Upstream::start().await?;
    let envoy = EnvoyProcess::start(Variant::RouterAndKeys.options(upstream.port, empty, size)?).await?;
    let pid = envoy.pid();
    let documents = [1, 2].map(|n| variation(size, n));
    let [first, second] = documents;
    let documents = [first?, second?];

    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cpu_time(pid, "wrk:")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = (cpu_time(pid, "wrk:")? - before) / 2;

    let (mut worker, mut main) = (Vec::new(), Vec::new());
    for document in documents.iter().cycle().take(RELOADS) {
        let before = (cpu_time(pid, "wrk:")?, cpu_time(pid, "envoy")?);
        reload(&envoy, document).await?;
        // The former configuration is torn down too.
        tokio::time::sleep(Duration::from_millis(200)).await;
        worker.push(cpu_time(pid, "wrk:")? - before.0);
        main.push(cpu_time(pid, "envoy")? - before.1);
    }

    let last = format!("d{}", deployments.saturating_sub(1));
    let mut load = Load::open(envoy.port(), CONNECTIONS, WHOLE, &last).await?;
    load.send(2_000).await?;
    let quiet = longest(&mut load, async { tokio::time::sleep(Duration::from_secs(3)).await }).await?;
    let reloads = async {
        for document in documents.iter().cycle().take(RELOADS) {
            reload(&envoy, document).await.ok();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let reloading = longest(&mut load, reloads).await?;
    let memory = wasm_memories(pid)?.into_iter().max().unwrap_or(0);
    Ok(Reload { deployments, worker, main, quiet, reloading, idle, memory })
}

/// The longest of the requests that are sent while something goes on.
async fn longest(load: &mut Load, while_this: impl Future<Output = ()>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    let mut done = std::pin::pin!(while_this);
    loop {
        let mut sent = Box::pin(load.keep_up(200, |latency| longest = longest.max(latency)));
        let over = tokio::select! {
            biased;
            () = &mut done => {
                // What is under way may be what was held up.
                (&mut sent).await?;
                true
            }
            result = &mut sent => {
                result?;
                false
            }
        };
        drop(sent);
        if over {
            return Ok(longest);
        }
    }
}

/// Renames a configuration into place and waits until the main thread has it.
async fn reload(envoy: &EnvoyProcess, document: &Value) -> Result<()> {
    let update = envoy.write_router_config(document).await?;
    let name = Role::Router.stat("version_text");
    let taken = until(PATIENCE, || async {
        envoy.text_stat(&name).await.ok().flatten().as_deref() == Some(update.version.as_str())
    });
    ensure!(taken.await, "the configuration was not taken\n{}", envoy.log_tail());
    Ok(())
}

/// The document with other weights, under the same releases.
fn variation(size: Size, n: u32) -> Result<Value> {
    let mut document = document(size, Some("attempt"))?;
    for deployment in document["deployments"].as_array_mut().into_iter().flatten() {
        deployment["versions"][0]["weight"] = json!(90 - n);
        deployment["versions"][1]["weight"] = json!(10 + n);
    }
    Ok(document)
}
