//! A plan in service on one worker: its states, its metrics, and its pools with the values of their keys.

use std::cell::Cell;

use super::metrics::{DeploymentMetrics, label};
use super::pool::{Exhausted, LivePool};
use super::warnings::Lookout;
use crate::engine::Binding;
use crate::host::{self, SharedData, UpstreamOk};
use crate::keys::pool::{KeyQuery, KeyReport, KeyTransition};
use crate::outcome::judgement::Carried;
use crate::plan::pool::KeyRef;
use crate::plan::{Plan, Version};
use crate::report::gauges::Gauges;
use crate::route::Choice;
use crate::shared::turn::Turn;
use crate::time::{Micros, Now};

/// A plan in service on this worker.
pub struct Service {
    /// The configuration.
    pub plan: Plan,
    /// The state of each deployment of the plan.
    pub bindings: Vec<Binding>,
    /// The metrics of each deployment of the plan.
    pub metrics: Vec<DeploymentMetrics>,
    /// The live part of each pool of the plan.
    pub pools: Vec<LivePool>,
    /// Name of the filter that it was configured for.
    pub plugin: Vec<u8>,
    /// Set when its context has ended: only streams still under way keep the plan.
    pub ended: Cell<bool>,
    /// Set when it has served or ticked: this is not the throw-away VM that checks a configuration.
    pub served: Cell<bool>,
    /// The search for conditions that lose something in silence.
    pub lookout: Lookout,
    /// Whether the gauges of this plan are registered as those that its filter shows.
    pub registered: Cell<bool>,
    /// Whether this plan is among those counted with these gauges.
    pub counted: Cell<bool>,
    /// An attempt has found the cluster header: the route leaves it there, to read it again before a retry.
    header_kept: Cell<bool>,
    /// Asks Envoy whether an upstream has answered with 200.
    pub upstream_ok: UpstreamOk,
}

impl Service {
    /// Makes a service of a plan, its deployments' states and its pools. Only in the plugin's root context.
    pub fn new(plan: Plan, bindings: Vec<Binding>, pools: Vec<LivePool>) -> Service {
        Service {
            bindings,
            metrics: plan.deployments.iter().map(DeploymentMetrics::new).collect(),
            pools,
            plugin: host::property("plugin_name").unwrap_or_default(),
            ended: Cell::new(false),
            served: Cell::new(false),
            lookout: Lookout::new(&plan),
            registered: Cell::new(false),
            counted: Cell::new(false),
            header_kept: Cell::new(false),
            upstream_ok: UpstreamOk::new(),
            plan,
        }
    }

    /// Writes a deployment's gauges.
    pub fn write_gauges(&self, deployment: usize) {
        let (Some(plan), Some(binding), Some(metrics)) = (
            self.plan.deployments.get(deployment),
            self.bindings.get(deployment),
            self.metrics.get(deployment),
        ) else {
            return;
        };
        metrics.phase(binding.phase_gauge(plan));
        metrics.evidence(binding.evidence(plan));
        for (version, weight) in metrics.versions.iter().zip(binding.effective_weights(plan).iter()) {
            version.weight(u64::from(*weight));
        }
    }

    /// Returns the names of this plan's gauges.
    pub fn gauges(&self) -> Gauges {
        Gauges::of(&self.plan, label)
    }

    /// Has all gauges written anew.
    pub fn forget_gauges(&self) {
        self.metrics.iter().for_each(DeploymentMetrics::forget_gauges);
        self.pools.iter().for_each(LivePool::forget_gauges);
    }

    /// Returns whether the route reads the cluster header again before a retry. A route that does not has removed it, and a provider
    /// need not see it. Asks the host until it is there once.
    pub fn route_keeps_header(&self) -> bool {
        if !self.header_kept.get() {
            self.header_kept.set(host::has_request_header(&self.plan.cluster_header));
        }
        self.header_kept.get()
    }

    /// Chooses a key of a pool for an attempt.
    pub fn pick(&self, pool: usize, query: KeyQuery<'_>, turn: &mut Turn<'_>) -> Result<KeyRef, Exhausted> {
        let live = self.pools.get(pool).zip(self.plan.pools.get(pool));
        let key = live.ok_or(Exhausted::default()).and_then(|(live, config)| live.pick(config, query, turn));
        key.map(|key| KeyRef { pool, key })
    }

    /// Checks whether a request could have a key of a pool now.
    pub fn availability(&self, pool: usize, now: Micros) -> Result<(), Exhausted> {
        self.pools.get(pool).ok_or(Exhausted::default())?.availability(now)
    }

    /// Whether Envoy's circuit breaker would probably refuse a request of a canary, where a failed request goes to stable and
    /// stable has a key. Envoy does not retry what it refuses itself. Requests that a rule sends there, and probes, try it all the
    /// same. `n`: index of the deployment.
    pub fn is_refused(&self, n: usize, choice: Choice, now: Micros) -> bool {
        let Some(deployment) = self.plan.deployments.get(n) else { return false };
        let has_key =
            |version: &Version| version.pool.is_none_or(|pool| self.availability(pool, now).is_ok());
        choice.version != deployment.stable
            && !choice.forced
            && !choice.probe
            && deployment.failover.is_some()
            && self.lookout.was_refused(n, choice.version, now)
            && deployment.versions.get(deployment.stable).is_some_and(has_key)
    }

    /// Returns whether the pool has a key for another attempt of a request: an active one that the request has not `tried`, and whose
    /// last outcome was no refusal.
    pub fn has_fresh_key(&self, pool: usize, tried: &[usize], now: Micros) -> bool {
        self.pools.get(pool).is_some_and(|live| live.has_fresh_key(tried, now))
    }

    /// Reports the outcome of an attempt to a pool. `fingerprint`: that of the value which the attempt carried. Returns the keys'
    /// changes of status.
    pub fn report(
        &self,
        pool: usize,
        report: KeyReport<'_>,
        fingerprint: Option<u64>,
        turn: &mut Turn<'_>,
    ) -> Vec<KeyTransition> {
        let Some((live, config)) = self.pools.get(pool).zip(self.plan.pools.get(pool)) else {
            return Vec::new();
        };
        live.report(config, report, fingerprint, turn)
    }

    /// Puts a key's value into the header of its pool, in place of any value there. Returns the credential of the request.
    pub fn inject_key(&self, key: KeyRef, to_stable: bool) -> Carried {
        let live = self.pools.get(key.pool).zip(self.plan.pools.get(key.pool));
        let fingerprint = live.and_then(|(live, config)| live.inject(config, key.key));
        Carried { key: fingerprint.map(|_| key), fingerprint, to_stable }
    }
}

/// Returns the turn of a callback that began at `now`.
pub fn turn(now: Now) -> Turn<'static> {
    Turn::new(&SharedData, now)
}
