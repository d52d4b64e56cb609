//! The filter's metrics. Labels are in the dotted form that the shipped `stats_tags` cut out of the name:
//! `bellwether_requests_total.deployment.X.version.Y.outcome.Z`. A dot inside an id would end its label, so it is shown as `_`.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::host::Metric;
use crate::outcome::Outcome;
use crate::plan::Deployment;
use crate::plan::pool::KeyPool;
use crate::shared::cell::SharedCell;
use crate::shared::dropped::Dropped;

/// One counter an outcome.
struct ByOutcome([Metric; Outcome::ALL.len()]);

impl ByOutcome {
    fn new() -> ByOutcome {
        ByOutcome([const { Metric::new() }; Outcome::ALL.len()])
    }

    fn count(&self, outcome: Outcome, name: &str, labels: &str) {
        if let Some((_, counter)) = Outcome::ALL.iter().zip(&self.0).find(|(o, _)| **o == outcome) {
            counter.add(&[name, labels, ".outcome.", outcome.label()], 1);
        }
    }
}

/// A gauge that is written only when its value changes on this worker.
struct Gauge {
    metric: Metric,
    /// [`NOTHING_SHOWN`] before the first value.
    shown: Cell<u64>,
}

const NOTHING_SHOWN: u64 = u64::MAX;

impl Gauge {
    fn new() -> Gauge {
        Gauge { metric: Metric::new(), shown: Cell::new(NOTHING_SHOWN) }
    }

    fn show(&self, value: u64, name: &[&str]) {
        if self.shown.replace(value) != value {
            self.metric.set(name, value);
        }
    }
}

/// Metrics of one version of a deployment.
pub struct VersionMetrics {
    labels: Box<str>,
    requests: ByOutcome,
    attempts: ByOutcome,
    latency: Metric,
    weight: Gauge,
}

impl VersionMetrics {
    fn new(of: &str, id: &str) -> VersionMetrics {
        VersionMetrics {
            labels: [of, ".version.", &label(id)].concat().into(),
            requests: ByOutcome::new(),
            attempts: ByOutcome::new(),
            latency: Metric::new(),
            weight: Gauge::new(),
        }
    }

    /// Counts a request by its final outcome.
    pub fn request(&self, outcome: Outcome) {
        self.requests.count(outcome, "bellwether_requests_total", &self.labels);
    }

    /// Counts an attempt by its outcome.
    pub fn attempt(&self, outcome: Outcome) {
        self.attempts.count(outcome, "bellwether_attempts_total", &self.labels);
    }

    /// Records the time from the request to the response headers, in milliseconds.
    pub fn latency(&self, millis: u64) {
        self.latency.observe(&["bellwether_latency_ms", &self.labels], millis);
    }

    /// Shows the weight in effect, in basis points.
    pub fn weight(&self, weight: u64) {
        self.weight.show(weight, &["bellwether_weight", &self.labels]);
    }

    /// Counts a rollback.
    pub fn rollback(&self, reason: &str) {
        // A rollback is rare, so no metric is held for it: the host finds the series by its name.
        Metric::new().add(&["bellwether_rollbacks_total", &self.labels, ".reason.", reason], 1);
    }
}

/// Metrics of one deployment.
pub struct DeploymentMetrics {
    /// Metrics of each version, in the plan's order.
    pub versions: Vec<VersionMetrics>,
    labels: Box<str>,
    phase: Gauge,
    evidence: Gauge,
}

impl DeploymentMetrics {
    /// Makes the metrics of a deployment.
    pub fn new(deployment: &Deployment) -> DeploymentMetrics {
        let labels = [".deployment.", &deployment.name].concat();
        DeploymentMetrics {
            versions: deployment.versions.iter().map(|v| VersionMetrics::new(&labels, &v.id)).collect(),
            labels: labels.into(),
            phase: Gauge::new(),
            evidence: Gauge::new(),
        }
    }

    /// Shows the phase: 0 active, 1 holding, 2 probing, 3 rolled back.
    pub fn phase(&self, phase: u64) {
        self.phase.show(phase, &["bellwether_phase", &self.labels]);
    }

    /// Shows how far the worst canary is on its way to a rollback, in percent.
    pub fn evidence(&self, percent: u64) {
        self.evidence.show(percent, &["bellwether_evidence", &self.labels]);
    }
}

/// Metrics of one key of a pool.
pub struct KeyMetrics {
    labels: Box<str>,
    requests: ByOutcome,
    status: Gauge,
}

impl KeyMetrics {
    /// Makes the metrics of a pool's keys, in the plan's order.
    pub fn of(pool: &KeyPool) -> Vec<KeyMetrics> {
        let name = label(&pool.name);
        let of = |id: &str| KeyMetrics {
            labels: [".pool.", &name, ".key.", &label(id)].concat().into(),
            requests: ByOutcome::new(),
            status: Gauge::new(),
        };
        pool.keys.iter().map(|key| of(&key.id)).collect()
    }

    /// Counts an attempt with the key.
    pub fn attempt(&self, outcome: Outcome) {
        self.requests.count(outcome, "bellwether_key_requests_total", &self.labels);
    }

    /// Shows the status of the key, as a number.
    pub fn status(&self, status: u64) {
        self.status.show(status, &["bellwether_key_status", &self.labels]);
    }
}

const UPDATES: &str = "bellwether_config_updates_total.result.";

/// Metrics of the whole filter.
pub struct Global {
    accepted: Metric,
    rejected: Metric,
    in_flight: Metric,
    memory: Metric,
    dropped: SharedCell<BTreeMap<&'static str, Metric>>,
}

impl Global {
    /// Makes the metrics. The counters of updates are defined at once: an alert on a rejected update needs the series before the
    /// first one.
    pub fn new() -> Global {
        let [accepted, rejected, in_flight, memory] = [const { Metric::new() }; 4];
        accepted.define(&[UPDATES, "accepted"]);
        rejected.define(&[UPDATES, "rejected"]);
        Global { accepted, rejected, in_flight, memory, dropped: SharedCell::default() }
    }

    /// Counts an update that was accepted.
    pub fn accepted(&self) {
        self.accepted.add(&[UPDATES, "accepted"], 1);
    }

    /// Counts an update that was rejected.
    pub fn rejected(&self) {
        self.rejected.add(&[UPDATES, "rejected"], 1);
    }

    /// Shows the requests in flight and the bytes of linear memory, of all VMs.
    pub fn census(&self, in_flight: u64, memory: u64) {
        self.in_flight.set(&["bellwether_in_flight"], in_flight);
        self.memory.set(&["bellwether_vm_memory_bytes"], memory);
    }

    /// Counts things that were dropped.
    pub fn dropped(&self, dropped: Dropped, count: u64) {
        let label = dropped.label();
        self.dropped.with_mut(|all| {
            let counter = all.entry(label).or_insert_with(Metric::new);
            counter.add(&["bellwether_dropped_total.what.", label], count);
        });
    }
}

fn label(id: &str) -> String {
    id.replace('.', "_")
}
