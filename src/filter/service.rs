//! A plan in service on one worker: its states, metrics and keys with their values.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::metrics::{DeploymentMetrics, KeyMetrics};
use crate::engine::{Binding, Notes};
use crate::host::{self, SharedData, UpstreamOk};
use crate::keys::key_set::KeySet;
use crate::keys::pool::{KeyQuery, KeyReport, KeyTransition, Pick, Pool, PoolState};
use crate::keys::usage::WorkerUsage;
use crate::outcome::blame::KeyOutcome;
use crate::outcome::judgement::Carried;
use crate::plan::Plan;
use crate::plan::pool::KeyRef;
use crate::shared::turn::Turn;
use crate::time::{Micros, Millis};

/// A plan in service: with its states, its keys and its metrics.
pub struct Service {
    /// The configuration.
    pub plan: Plan,
    /// Per deployment.
    pub bindings: Vec<Binding>,
    /// Per deployment.
    pub metrics: Vec<DeploymentMetrics>,
    /// Per pool.
    pub pool_metrics: Vec<Vec<KeyMetrics>>,
    /// Per pool; made anew when secrets come.
    pub key_sets: RefCell<Vec<KeySet>>,
    /// Per pool: its keys' states.
    pub pools: Vec<Rc<RefCell<PoolState>>>,
    /// Per pool: how much its keys are used.
    pub usages: Vec<Rc<RefCell<WorkerUsage>>>,
    /// Name of the filter that it was configured for.
    pub plugin: Vec<u8>,
    /// Its context has ended; only streams still under way keep it.
    pub retired: Cell<bool>,
    /// It has served, or ticked: this is not the throw-away VM that checks a configuration.
    pub served: Cell<bool>,
    /// An attempt has found the cluster header: the route leaves it there, to read it again before a retry.
    pub header_kept: Cell<bool>,
    /// Asks whether all is well.
    pub upstream_ok: UpstreamOk,
}

impl Service {
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

    /// Reads the states of the keys, if that is due, and writes their gauges.
    pub fn write_key_gauges(&self, now: Micros, notes: &mut Notes) {
        let Ok(key_sets) = self.key_sets.try_borrow() else { return };
        for ((keys, metrics), state) in key_sets.iter().zip(&self.pool_metrics).zip(&self.pools) {
            let Ok(mut state) = state.try_borrow_mut() else { continue };
            state.refresh(keys, &mut turn(now, notes));
            for (n, key) in metrics.iter().enumerate() {
                key.status(state.health(keys, n).status.gauge());
            }
        }
    }

    /// Whether the route reads the cluster header again before a retry. One that does not has removed it, and a provider need
    /// not see it. Asks the host until it is there once.
    pub fn route_keeps_header(&self) -> bool {
        if !self.header_kept.get() {
            self.header_kept.set(host::has_request_header(&self.plan.cluster_header));
        }
        self.header_kept.get()
    }

    /// A key of a pool for an attempt.
    pub fn pick(&self, n: usize, query: KeyQuery<'_>, turn: &mut Turn<'_>) -> Option<Pick> {
        let key_sets = self.key_sets.try_borrow().ok()?;
        let pool = Pool { config: self.plan.pools.get(n)?, keys: key_sets.get(n)? };
        let mut state = self.pools.get(n)?.try_borrow_mut().ok()?;
        Some(state.pick(pool, query, turn))
    }

    /// Whether a request could have a key of this pool now, and else when the first one comes back by itself, if one does.
    pub fn outlook(&self, n: usize, now: Micros) -> Result<(), Option<Millis>> {
        let key_sets = self.key_sets.try_borrow().map_err(|_| None)?;
        let (keys, state) = (key_sets.get(n).ok_or(None)?, self.pools.get(n).ok_or(None)?);
        let state = state.try_borrow().map_err(|_| None)?;
        if state.has_usable_key(keys, now) { Ok(()) } else { Err(state.returns_in(keys, now)) }
    }

    /// Reports the outcome of an attempt that began at `began` to the pool of its key. Returns `None` if there is no such key.
    pub fn report(
        &self,
        carried: Carried,
        outcome: KeyOutcome,
        began: Micros,
        turn: &mut Turn<'_>,
    ) -> Option<Vec<KeyTransition>> {
        let KeyRef { pool: n, key } = carried.key?;
        let key_sets = self.key_sets.try_borrow().ok()?;
        let pool = Pool { config: self.plan.pools.get(n)?, keys: key_sets.get(n)? };
        let mut state = self.pools.get(n)?.try_borrow_mut().ok()?;
        let usage = self.usages.get(n)?.try_borrow().ok()?;
        // If the secret was rotated meanwhile, the outcome of the old one is not the new one's fault.
        let same = pool.keys.fingerprint(key) == carried.fingerprint;
        same.then(|| state.report(pool, KeyReport { key, outcome, began }, &usage, turn))
    }

    /// Puts a key's value into the pool's header in place of whatever is there, and says what the request carries now.
    pub fn inject_key(&self, key: KeyRef, to_stable: bool) -> Carried {
        let carried = Carried { to_stable, ..Carried::default() };
        let Some(pool) = self.plan.pools.get(key.pool) else { return carried };
        let key_sets = self.key_sets.try_borrow().ok();
        let keys = key_sets.as_ref().and_then(|key_sets| key_sets.get(key.pool));
        let Some((keys, value)) = keys.and_then(|keys| Some((keys, keys.header_value(key.key)?))) else {
            // Nothing to put in, but what the client sent is not for this upstream.
            host::remove_request_header(&pool.header);
            return carried;
        };
        host::set_request_header(&pool.header, value.expose().as_bytes());
        Carried { key: Some(key), fingerprint: keys.fingerprint(key.key), to_stable }
    }
}

/// Returns the turn of a callback that began at `now`; drops are counted in `notes`.
pub fn turn(now: Micros, notes: &mut Notes) -> Turn<'_> {
    Turn { store: &SharedData, now, drops: &mut notes.dropped }
}
