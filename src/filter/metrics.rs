//! The filter's metrics: one list of names, labels in the dotted form that the shipped `stats_tags` cut out.
//!
//! `bellwether_requests_total.deployment.X.version.Y.outcome.Z`. A dot inside an id would end its label, so ids show `_`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::engine::Dropped;
use crate::host::{self, Metric, MetricId};
use crate::outcome::Outcome;
use crate::plan::{Deployment, KeyPool};

/// One counter an outcome. Names are put together when a series first counts: a gateway may hold thousands of them.
pub struct ByOutcome {
    prefix: String,
    ids: [Cell<Option<MetricId>>; 7],
}

impl ByOutcome {
    fn new(name: &str, labels: &str) -> ByOutcome {
        ByOutcome { prefix: [name, labels, ".outcome."].concat(), ids: [const { Cell::new(None) }; 7] }
    }

    /// Counts one.
    pub fn count(&self, outcome: Outcome) {
        let Some((_, id)) = Outcome::ALL.iter().zip(&self.ids).find(|(o, _)| **o == outcome) else { return };
        if id.get().is_none() {
            id.set(host::define_counter(&[self.prefix.as_str(), outcome.label()].concat()));
        }
        if let Some(id) = id.get() {
            host::increment(id, 1);
        }
    }
}

/// Metrics of one version of a deployment.
pub struct VersionMetrics {
    /// Requests by their final outcome.
    pub requests: ByOutcome,
    /// Attempts by theirs.
    pub attempts: ByOutcome,
    /// Request seen → response headers, in milliseconds.
    pub latency: Metric,
    /// Basis points in effect.
    pub weight: Gauge,
    deployment: String,
    version: String,
}

impl VersionMetrics {
    /// Counts a rollback.
    pub fn rollback(&self, reason: &str) {
        let labels = [".deployment.", &self.deployment, ".version.", &self.version, ".reason.", reason];
        Metric::counter(["bellwether_rollbacks_total", &labels.concat()].concat()).add(1);
    }
}

/// Metrics of one deployment.
pub struct DeploymentMetrics {
    /// In the plan's order.
    pub versions: Vec<VersionMetrics>,
    /// 0 active, 1 holding, 2 probing, 3 rolled back.
    pub phase: Gauge,
    /// Percent of the way to a rollback.
    pub evidence: Gauge,
}

impl DeploymentMetrics {
    /// Of a deployment.
    pub fn new(deployment: &Deployment) -> DeploymentMetrics {
        let of = [".deployment.", &deployment.name].concat();
        let versions = deployment
            .versions
            .iter()
            .map(|version| {
                let id = label(&version.id);
                let both = [&of, ".version.", &id].concat();
                VersionMetrics {
                    requests: ByOutcome::new("bellwether_requests_total", &both),
                    attempts: ByOutcome::new("bellwether_attempts_total", &both),
                    latency: Metric::histogram(["bellwether_latency_ms", &both].concat()),
                    weight: Gauge::new(["bellwether_weight", &both].concat()),
                    deployment: deployment.name.clone(),
                    version: id,
                }
            })
            .collect();
        DeploymentMetrics {
            versions,
            phase: Gauge::new(["bellwether_phase", &of].concat()),
            evidence: Gauge::new(["bellwether_evidence", &of].concat()),
        }
    }
}

/// Metrics of one pool's keys, in the plan's order.
pub struct PoolMetrics {
    /// Attempts by outcome and the key's status.
    pub keys: Vec<(ByOutcome, Gauge)>,
}

impl PoolMetrics {
    /// Of a pool.
    pub fn new(pool: &KeyPool) -> PoolMetrics {
        let keys = pool.keys.iter().map(|key| {
            let labels = [".pool.", &label(&pool.name), ".key.", &label(&key.id)].concat();
            let requests = ByOutcome::new("bellwether_key_requests_total", &labels);
            (requests, Gauge::new(["bellwether_key_status", &labels].concat()))
        });
        PoolMetrics { keys: keys.collect() }
    }
}

/// A gauge that is written only when its value changes on this worker.
pub struct Gauge {
    metric: Metric,
    shown: Cell<Option<u64>>,
}

impl Gauge {
    fn new(name: String) -> Gauge {
        Gauge { metric: Metric::gauge(name), shown: Cell::new(None) }
    }

    /// Shows a value.
    pub fn show(&self, value: u64) {
        if self.shown.replace(Some(value)) != Some(value) {
            self.metric.record(value);
        }
    }
}

/// Metrics of the whole filter.
pub struct Global {
    /// Updates that were accepted.
    pub accepted: Metric,
    /// Updates that were rejected.
    pub rejected: Metric,
    /// Requests in flight, in all VMs.
    pub in_flight: Metric,
    /// Linear memory of all VMs, in bytes.
    pub memory: Metric,
    dropped: RefCell<BTreeMap<&'static str, Metric>>,
}

impl Global {
    /// Defined at once: an alert on a rejected update needs the series before the first one.
    pub fn new() -> Global {
        let accepted = Metric::counter("bellwether_config_updates_total.result.accepted".to_owned());
        let rejected = Metric::counter("bellwether_config_updates_total.result.rejected".to_owned());
        accepted.define();
        rejected.define();
        let in_flight = Metric::gauge("bellwether_in_flight".to_owned());
        let memory = Metric::gauge("bellwether_vm_memory_bytes".to_owned());
        Global { accepted, rejected, in_flight, memory, dropped: RefCell::default() }
    }

    /// Counts what a bound or a fault has dropped.
    pub fn dropped(&self, what: Dropped, count: u64) {
        self.dropped_label(what.label(), count);
    }

    /// As [`Global::dropped`], for what the adapter itself drops.
    pub fn dropped_label(&self, what: &'static str, count: u64) {
        if let Ok(mut all) = self.dropped.try_borrow_mut() {
            let name = || Metric::counter(["bellwether_dropped_total.what.", what].concat());
            all.entry(what).or_insert_with(name).add(count);
        }
    }
}

fn label(id: &str) -> String {
    id.replace('.', "_")
}
