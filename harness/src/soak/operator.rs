//! Somebody who never leaves the gateway alone: weights, releases, keys, and a canary that fails in every way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bellwether_harness::client::Request;
use bellwether_harness::envoy::EnvoyProcess;
use bellwether_harness::provider::{Behaviour, Fault};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Providers;
use super::traffic::{DEPLOYMENT, streaming};

/// Names of releases that are used in turn.
const NAMES: u64 = 16;

/// Values that a key has in turn.
const VALUES: u64 = 8;

/// How long Envoy may take to look at a file.
const LIMIT: Duration = Duration::from_secs(60);

/// What the documents depend on.
pub struct State {
    /// Percent of the canary that is always well.
    weight: u64,
    /// Of the deployment whose canary fails.
    release: String,
    /// Which of their values the keys have.
    values: u64,
}

impl Default for State {
    fn default() -> State {
        State { weight: 0, release: "first".to_owned(), values: 0 }
    }
}

/// What was done since the beginning.
#[derive(Debug, Default, Clone, Copy)]
pub struct Done {
    /// Configurations of the router that were taken.
    pub reloads: u64,
    /// Secrets documents that were taken.
    pub rotations: u64,
    /// Faults that the canary, or one of stable's keys, was given.
    pub faults: u64,
    /// Releases.
    pub releases: u64,
}

#[derive(Default)]
struct Counters {
    reloads: AtomicU64,
    rotations: AtomicU64,
    faults: AtomicU64,
    releases: AtomicU64,
}

/// At work until stopped.
pub struct Operator {
    stopped: Arc<AtomicBool>,
    counters: Arc<Counters>,
    running: JoinHandle<Result<()>>,
}

impl Operator {
    /// Starts it.
    pub fn start(envoy: &Arc<EnvoyProcess>, providers: &Arc<Providers>, pause: Duration) -> Operator {
        let (stopped, counters) = (Arc::new(AtomicBool::new(false)), Arc::new(Counters::default()));
        let (stop, count) = (Arc::clone(&stopped), Arc::clone(&counters));
        let (envoy, providers) = (Arc::clone(envoy), Arc::clone(providers));
        let running = tokio::spawn(async move {
            let mut state = State::default();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                step(n, &mut state, &envoy, &providers, &count).await?;
                sleep(pause).await;
            }
            providers.canary.set(streaming());
            providers.stable.set(streaming());
            Ok(())
        });
        Operator { stopped, counters, running }
    }

    /// What was done so far.
    pub fn done(&self) -> Done {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { reloads, rotations, faults, releases } = &*self.counters;
        Done { reloads: of(reloads), rotations: of(rotations), faults: of(faults), releases: of(releases) }
    }

    /// Stops it; everything is well afterwards.
    ///
    /// # Errors
    /// If Envoy did not take a valid configuration, or took one that is not.
    pub async fn stop(self) -> Result<Done> {
        self.stopped.store(true, Ordering::Relaxed);
        let (done, running) = (self.done(), self.running);
        running.await??;
        Ok(done)
    }
}

async fn step(
    n: u64,
    state: &mut State,
    envoy: &EnvoyProcess,
    providers: &Providers,
    count: &Counters,
) -> Result<()> {
    let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    let round = n / 6;
    match n % 6 {
        0 => {
            state.weight = round % 51;
            reload(envoy, state).await?;
            add(&count.reloads);
        }
        // One of these is found out and rolled back, the next release is another.
        1 | 4 => {
            let fault = match n / 3 % 5 {
                0 => Fault::status(500, &[]),
                1 => Fault::Reset,
                2 => Fault::ResetAfter { chunks: 2 },
                3 => Fault::Hang,
                _ => Fault::HangAfter { chunks: 1 },
            };
            providers.canary.set(Behaviour { fault: Some(fault), ..streaming() });
            // One of stable's keys is limited as well: the others serve.
            let limited = format!("sk-one-1-{}", state.values);
            providers.stable.set(streaming().key(&limited, 429, &[("retry-after", "1")]));
            add(&count.faults);
        }
        2 => {
            providers.canary.set(streaming());
            providers.stable.set(streaming());
            state.release = format!("r{}", round % NAMES);
            reload(envoy, state).await?;
            add(&count.reloads);
            add(&count.releases);
        }
        3 => {
            state.values = round % VALUES;
            let update = envoy.write_keys_config(&secrets(state.values)).await?;
            envoy.wait_config_accepted(&update, LIMIT).await?;
            add(&count.rotations);
        }
        _ => {
            providers.canary.set(streaming());
            let update = envoy.write_router_config(&json!({"wrong": n})).await?;
            envoy.wait_rejected(&update, LIMIT).await?;
        }
    }
    Ok(())
}

async fn reload(envoy: &EnvoyProcess, state: &State) -> Result<()> {
    let update = envoy.write_router_config(&document(state)).await?;
    envoy.wait_config_accepted(&update, LIMIT).await
}

/// What reloads leave behind for good at rest, in bytes that Envoy's allocator has given out.
#[derive(Debug, Default, Clone, Copy)]
pub struct Costs {
    /// Of a reload between two releases that were there before.
    pub reload: f64,
    /// Of a reload to a release with a name that never was: shared data has no deletion.
    pub name: f64,
    /// Bytes by which the VMs have grown with all of them: linear memory, in pages of 64 KiB.
    pub vms: f64,
}

/// Measures [`Costs`], each over so many reloads with some requests after each. Nothing else may be going on.
///
/// # Errors
/// If Envoy does not take a configuration or does not answer.
pub async fn costs(envoy: &EnvoyProcess, reloads: u64) -> Result<Costs> {
    let client = [envoy.client(), envoy.client(), envoy.client(), envoy.client()];
    let vm_memory = async || envoy.metric("bellwether_vm_memory_bytes", &[]).await;
    let vms_before = vm_memory().await?;
    let mut costs = [0.0; 2];
    for (cost, new) in costs.iter_mut().zip([false, true]) {
        // First some that do not count, so that whatever grows at the beginning only has grown.
        let settled = reloads / 10 + 1;
        let mut before = 0;
        for n in 0..settled + reloads {
            if n == settled {
                before = super::memory(envoy).await?;
            }
            let release = if new { format!("named-{n}") } else { format!("r{}", n % 2) };
            reload(envoy, &State { release, ..State::default() }).await?;
            for n in 0..12 {
                client[n % 4].send(Request::chat(false).header(DEPLOYMENT, "faulty")).await?;
            }
        }
        *cost = (super::memory(envoy).await? as f64 - before as f64) / reloads.max(1) as f64;
    }
    // Every VM reports twice a second.
    sleep(Duration::from_millis(1_200)).await;
    Ok(Costs { reload: costs[0], name: costs[1], vms: vm_memory().await? - vms_before })
}

/// The router's configuration.
pub fn document(state: &State) -> Value {
    let of = |name: &str| json!({"headers": [{"name": DEPLOYMENT, "exact": name}]});
    let key = |id: String| json!({"id": id, "value": {"secret": id}});
    let keys = |pool: &str, count: u32| (0..count).map(|n| key(format!("{pool}-{n}"))).collect::<Vec<_>>();
    json!({
        "deployments": [
            {"name": "steady", "match": of("steady"), "stable": "v1", "versions": [
                {"id": "v1", "weight": 100 - state.weight, "cluster": "v1", "key_pool": "one"},
                {"id": "v1b", "weight": state.weight, "cluster": "v1", "key_pool": "one"}]},
            {"name": "faulty", "match": of("faulty"), "stable": "v1",
             "release": state.release,
             "guard": {"max_consecutive_errors": 5},
             "sticky": {"on": [{"header": "x-user"}]},
             "versions": [
                {"id": "v1", "weight": 50, "cluster": "v1", "key_pool": "one"},
                {"id": "v2", "weight": 50, "cluster": "v2", "key_pool": "two"}]},
            {"name": "slow", "match": of("slow"), "stable": "v3",
             "versions": [{"id": "v3", "weight": 100, "cluster": "v3"}]},
        ],
        "key_pools": [{"name": "one", "keys": keys("one", 4)}, {"name": "two", "keys": keys("two", 2)}],
    })
}

/// The secrets of the `keys` role; `values`: which of its values each key has.
pub fn secrets(values: u64) -> Value {
    let ids = ["one-0", "one-1", "one-2", "one-3", "two-0", "two-1"];
    let value = |id: &str| format!("sk-{id}-{values}");
    let all: BTreeMap<&str, String> = ids.into_iter().map(|id| (id, value(id))).collect();
    json!({"secrets": all})
}
