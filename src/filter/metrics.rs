//! The filter's metrics. Labels are in the dotted form that the shipped `stats_tags` cut out of the name:
//! `bellwether_requests_total.deployment.X.version.Y.outcome.Z`. A dot inside an id would end its label, so it is shown as `_`.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::host::Metric;
use crate::outcome::Outcome;
use crate::plan::Deployment;
use crate::plan::pool::KeyPool;
use crate::report::gauges::{Gauges, Group};
use crate::shared::cell::SharedCell;
use crate::shared::dropped::Dropped;
use crate::shared::warnings::Warning;

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

    /// Has the value written anew, whatever it is.
    fn forget(&self) {
        self.shown.set(NOTHING_SHOWN);
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

impl DeploymentMetrics {
    /// Has all gauges written anew, because another plan has taken them back meanwhile.
    pub fn forget_gauges(&self) {
        [&self.phase, &self.evidence].into_iter().for_each(Gauge::forget);
        self.versions.iter().for_each(|version| version.weight.forget());
    }
}

impl KeyMetrics {
    /// Has the gauge written anew.
    pub fn forget_gauge(&self) {
        self.status.forget();
    }
}

/// Sets gauges to 0 that no plan writes any more. `kept`: the gauges that stay.
pub fn take_back(gone: &Gauges, kept: &[Gauges]) {
    let zero = |name: &[&str]| Metric::new().set(name, 0);
    for Group { name, members } in &gone.deployments {
        if !kept.iter().any(|kept| kept.deployments.iter().any(|stays| stays.name == *name)) {
            zero(&["bellwether_phase", ".deployment.", name]);
            zero(&["bellwether_evidence", ".deployment.", name]);
        }
        members.iter().for_each(|id| zero(&["bellwether_weight", ".deployment.", name, ".version.", id]));
    }
    for Group { name, members } in &gone.pools {
        if !kept.iter().any(|kept| kept.pools.iter().any(|stays| stays.name == *name)) {
            zero(&["bellwether_pool_without_keys", ".pool.", name]);
        }
        members.iter().for_each(|id| zero(&["bellwether_key_status", ".pool.", name, ".key.", id]));
    }
}

/// The gauge of a pool.
pub struct PoolMetrics {
    labels: Box<str>,
    without_keys: Gauge,
}

impl PoolMetrics {
    /// Makes the gauge of a pool.
    pub fn new(pool: &KeyPool) -> PoolMetrics {
        PoolMetrics { labels: [".pool.", &label(&pool.name)].concat().into(), without_keys: Gauge::new() }
    }

    /// Shows whether no key is usable.
    pub fn without_keys(&self, without: bool) {
        self.without_keys.show(without.into(), &["bellwether_pool_without_keys", &self.labels]);
    }

    /// Has the gauge written anew.
    pub fn forget_gauge(&self) {
        self.without_keys.forget();
    }
}

/// The gauges of the warnings that this worker has shown, by their labels.
#[derive(Default)]
pub struct WarningMetrics(Vec<(Box<str>, Gauge)>);

/// Most gauges of warnings that a worker remembers. A forgotten one is written again with the next look.
const WARNING_GAUGES_MAX: usize = 64;

impl WarningMetrics {
    /// Shows whether a warning stands. A warning that has ended is taken back also where it was not shown: another VM may have
    /// shown it.
    pub fn show(&mut self, warning: &Warning, stands: bool) {
        let mut labels = String::new();
        for (name, value) in [(".deployment.", &warning.deployment), (".version.", &warning.version)] {
            if !value.is_empty() {
                labels.push_str(name);
                labels.push_str(&label(value));
            }
        }
        labels.push_str(".what.");
        labels.push_str(warning.condition.label());
        if !self.0.iter().any(|(held, _)| **held == *labels) {
            if self.0.len() >= WARNING_GAUGES_MAX {
                self.0.clear();
            }
            self.0.push((labels.clone().into(), Gauge::new()));
        }
        if let Some((_, gauge)) = self.0.iter().find(|(held, _)| **held == *labels) {
            gauge.show(stands.into(), &["bellwether_warning", &labels]);
        }
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

/// Returns a name as labels have it.
pub fn label(id: &str) -> String {
    id.replace('.', "_")
}
