//! A plan in service on one worker: its states, metrics and keys with their values.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::metrics::{DeploymentMetrics, KeyMetrics};
use crate::engine::{Binding, Notes};
use crate::host::{self, SharedData, UpstreamOk};
use crate::keys::key_set::Ring;
use crate::keys::pool::{Moved, Pick, PoolState, Said, Wish};
use crate::keys::usage::Usage;
use crate::outcome::attempts::Carried;
use crate::outcome::blame::Fault;
use crate::plan::Plan;
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
    pub rings: RefCell<Vec<Ring>>,
    /// Per pool: its keys' states.
    pub pools: Vec<Rc<RefCell<PoolState>>>,
    /// Per pool: how much its keys are used.
    pub usages: Vec<Rc<RefCell<Usage>>>,
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
        let Ok(rings) = self.rings.try_borrow() else { return };
        for ((ring, metrics), state) in rings.iter().zip(&self.pool_metrics).zip(&self.pools) {
            let Ok(mut state) = state.try_borrow_mut() else { continue };
            state.refresh(ring, &SharedData, now, &mut notes.dropped);
            for (n, key) in metrics.iter().enumerate() {
                key.status(state.memory(ring, n).status.gauge());
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
    pub fn pick(&self, n: usize, wish: Wish<'_>, notes: &mut Notes) -> Option<Pick> {
        let pool = self.plan.pools.get(n)?;
        let rings = self.rings.try_borrow().ok()?;
        let mut state = self.pools.get(n)?.try_borrow_mut().ok()?;
        Some(state.pick(pool, rings.get(n)?, wish, &SharedData, &mut notes.dropped))
    }

    /// Whether a request could have a key of this pool now, and else when the first one comes back by itself, if one does.
    pub fn outlook(&self, n: usize, now: Micros) -> Result<(), Option<Millis>> {
        let rings = self.rings.try_borrow().map_err(|_| None)?;
        let (ring, state) = (rings.get(n).ok_or(None)?, self.pools.get(n).ok_or(None)?);
        let state = state.try_borrow().map_err(|_| None)?;
        if state.usable(ring, now) { Ok(()) } else { Err(state.returns_in(ring, now)) }
    }

    /// Reports to a pool what an attempt says about the key that it carried; `None` if there is nothing to report on. The times
    /// are when it began and now.
    pub fn report(
        &self,
        carried: Carried,
        fault: Fault,
        (began, now): (Micros, Micros),
        notes: &mut Notes,
    ) -> Option<Vec<Moved>> {
        let (n, key) = carried.key?;
        let rings = self.rings.try_borrow().ok()?;
        let (pool, ring) = (self.plan.pools.get(n)?, rings.get(n)?);
        let mut state = self.pools.get(n)?.try_borrow_mut().ok()?;
        let usage = self.usages.get(n)?.try_borrow().ok()?;
        // The secret may have been rotated meanwhile: what the old one did is not the new one's fault.
        let same = ring.fingerprint(key) == carried.fingerprint;
        same.then(|| {
            state.report(pool, ring, Said { key, fault, began, now }, &usage, &SharedData, &mut notes.dropped)
        })
    }

    /// Puts a key's value into the pool's header in place of whatever is there, and says what the request carries now.
    pub fn inject_key(&self, (n, key): (usize, usize), to_stable: bool) -> Carried {
        let carried = Carried { to_stable, ..Carried::default() };
        let Some(pool) = self.plan.pools.get(n) else { return carried };
        let rings = self.rings.try_borrow().ok();
        let ring = rings.as_ref().and_then(|rings| rings.get(n));
        let Some((ring, value)) = ring.and_then(|ring| Some((ring, ring.value(key)?))) else {
            // Nothing to put in, but what the client sent is not for this upstream.
            host::remove_request_header(&pool.header);
            return carried;
        };
        host::set_request_header(&pool.header, value.expose().as_bytes());
        Carried { key: Some((n, key)), fingerprint: ring.fingerprint(key), to_stable }
    }
}
