//! How long a rollback by hand takes: from the answer to the POST to the last request that the canary gets, on any worker.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess};
use bellwether_harness::load::closed_loop;
use bellwether_harness::provider::Provider;
use serde_json::json;

const TRIES: usize = 30;
/// Connections with one request each at a time, spread over both workers by the kernel.
const CONNECTIONS: u64 = 16;
/// Traffic before each order, and after it: long enough for what was sent before to arrive.
const BETWEEN: Duration = Duration::from_millis(200);

/// What orders took.
pub struct Orders {
    /// From sending the POST to its answer.
    pub answered: Vec<Duration>,
    /// From the answer to the last request that reached the canary after it; zero if none did.
    pub last: Vec<Duration>,
    /// Requests a second meanwhile.
    pub rate: f64,
}

/// Rolls a canary with half of the traffic back and resumes it, again and again, under as much load as the machine takes.
pub async fn measure() -> Result<Orders> {
    let (v1, v2) = (Provider::start("v1").await?, Provider::start("v2").await?);
    let router = json!({"deployments": [{
        "name": "d", "stable": "v1", "guard": {"compare": false},
        "versions": [{"id": "v1", "weight": 50, "cluster": "v1"}, {"id": "v2", "weight": 50, "cluster": "v2"}],
    }]});
    let options = EnvoyOptions::default().cluster("v1", v1.port()).cluster("v2", v2.port());
    let envoy = EnvoyProcess::start(options.router_config(router)).await?;
    let admin = Client::new(envoy.admin_role_port());
    let order = async |what: &str| -> Result<()> {
        let path = format!("/deployments/d/{what}");
        let answer = admin.send(Request::post(&path, "").header("x-requested-with", "bench")).await?;
        ensure!(answer.status == 200, "{what}: {} {}", answer.status, answer.text());
        Ok(())
    };
    let client = envoy.client();
    let load = closed_loop(&client, CONNECTIONS, BETWEEN * 2 * (TRIES as u32 + 2), |_| Request::chat(false));
    let orders = async {
        let (mut answered, mut last) = (Vec::new(), Vec::new());
        tokio::time::sleep(BETWEEN).await;
        for _ in 0..TRIES {
            tokio::time::sleep(BETWEEN).await;
            let asked = Instant::now();
            order("rollback").await?;
            let done = Instant::now();
            tokio::time::sleep(BETWEEN).await;
            let arrived = v2.requests().into_iter().map(|request| request.at).max();
            ensure!(
                arrived.is_some_and(|at| at > asked - BETWEEN),
                "the canary had no traffic before the order"
            );
            answered.push(done - asked);
            last.push(arrived.map_or(Duration::ZERO, |at| at.saturating_duration_since(done)));
            order("resume").await?;
            v2.clear();
        }
        Ok((answered, last))
    };
    let began = Instant::now();
    let (samples, orders) = tokio::join!(load, orders);
    let (answered, last) = orders?;
    ensure!(samples.iter().all(|sample| sample.ok()), "an order has cost a request");
    Ok(Orders { answered, last, rate: samples.len() as f64 / began.elapsed().as_secs_f64() })
}
