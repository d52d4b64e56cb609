//! The engine: one worker's part in the decision, and the only place where the parts meet.
//!
//! Requests and outcomes touch memory of this worker only. What was counted is merged into shared data in batches: at once
//! when a canary fails (somebody is suffering), otherwise when the last merge is older than [`MERGE_AFTER`]. Whoever merges
//! also judges, on what all workers have merged so far; whoever's verdict wins the compare-and-swap on the standings makes
//! the transition and reports it, so that each is reported once. All workers re-read the standings when their copy is older
//! than [`REFRESH_AFTER`]: within that a rollback is in force everywhere.
//!
//! What cannot be read is never taken for "all is well": the deployment then serves stable only, and says so in a count.

mod state;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use self::state::{Scene, State};
use crate::plan::{Deployment, Plan};
use crate::rollout::{Cause, Phase};
use crate::route::{self, Choice, RequestFacts};
use crate::stats::Event;
use crate::store::Store;
use crate::units::{Bps, Micros, Now};

/// A copy of the standings older than this (10 ms, in microseconds) is read anew before it decides. The read costs about
/// 0.7 µs; at 10 ms that is below a ten-thousandth of a worker.
pub const REFRESH_AFTER: u64 = 10_000;
/// What was counted is merged when the last merge is older than this (20 ms, in microseconds). Halving it makes stable's
/// numbers fresher by 10 ms and doubles the writes under the process-wide lock; a canary's failure never waits for it.
pub const MERGE_AFTER: u64 = 20_000;
/// An idle deployment's standings and held verdicts are looked at this often (1 s, in microseconds).
const IDLE_AFTER: u64 = 1_000_000;

/// What a bound or a fault has dropped or put off; each is a label of the metric of dropped things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Outcomes of an older epoch: counted in metrics, decide nothing.
    LateResult,
    /// Merges put off because other workers interfered too often; the counts are kept for the next merge.
    MergeDeferred,
    /// A verdict put off for the same reason; the next merge judges again.
    VerdictDeferred,
    /// Shared values that this build cannot read.
    Undecodable,
    /// Host calls refused.
    Refused,
}

impl Dropped {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Dropped::LateResult => "late_result",
            Dropped::MergeDeferred => "merge_deferred",
            Dropped::VerdictDeferred => "verdict_deferred",
            Dropped::Undecodable => "undecodable",
            Dropped::Refused => "refused",
        }
    }
}

/// A change of a version's standing, reported by the one worker that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Deployment.
    pub deployment: String,
    /// Its release.
    pub release: String,
    /// The canary.
    pub version: String,
    /// Epoch after the change.
    pub epoch: u32,
    /// Name of the phase before.
    pub from: &'static str,
    /// Name of the phase after.
    pub to: &'static str,
    /// False in observe mode: what would have happened.
    pub enforced: bool,
    /// Why; absent when trouble has ended.
    pub cause: Option<Cause>,
    /// Judged and bad outcomes of the canary in the window.
    pub canary: (u64, u64),
    /// Judged and bad outcomes of stable in the window.
    pub stable: (u64, u64),
}

/// What the adapter should tell the world after a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// To log, and to count where they are rollbacks.
    pub transitions: Vec<Transition>,
    /// To count.
    pub dropped: Vec<(Dropped, u64)>,
}

impl Notes {
    fn drop(&mut self, what: Dropped, count: u64) {
        if count > 0 {
            self.dropped.push((what, count));
        }
    }
}

/// The states of this worker, by (deployment, release): they outlive reloads and die with their last plan.
#[derive(Default)]
pub struct Engine {
    states: BTreeMap<(String, String), Rc<RefCell<State>>>,
}

impl Engine {
    /// Binds a plan's deployments to their states, which are made where they do not exist. Other releases of the same
    /// deployments are superseded: requests that are still under way under them decide nothing any more.
    pub fn attach(&mut self, plan: &Plan) -> Vec<Binding> {
        plan.deployments
            .iter()
            .map(|deployment| {
                let releases = self.states.range((deployment.name.clone(), String::new())..);
                for ((_, release), state) in releases.take_while(|((name, _), _)| *name == deployment.name) {
                    if let Ok(mut state) = state.try_borrow_mut() {
                        state.superseded = *release != deployment.release;
                    }
                }
                let key = (deployment.name.clone(), deployment.release.clone());
                let state =
                    self.states.entry(key).or_insert_with(|| Rc::new(RefCell::new(State::new(deployment))));
                let state = Rc::clone(state);
                let slots = match state.try_borrow_mut() {
                    Ok(mut state) => {
                        deployment.versions.iter().map(|v| state.slot(deployment, &v.id)).collect()
                    }
                    Err(_) => Vec::new(),
                };
                Binding { state, slots }
            })
            .collect()
    }

    /// Drops the states that no plan on this worker binds any more. With `bury`, their shared values are replaced by
    /// tombstones, so that a release that comes back starts afresh; without it (a plan that never served, in the throw-away
    /// VM that checks a configuration) they are left alone.
    pub fn sweep(&mut self, store: &dyn Store, bury: bool) {
        self.states.retain(|_, state| {
            let alive = Rc::strong_count(state) > 1;
            if !alive
                && bury
                && let Ok(state) = state.try_borrow()
            {
                state.bury(store);
            }
            alive
        });
    }
}

/// One deployment of one plan, bound to its state.
pub struct Binding {
    state: Rc<RefCell<State>>,
    /// For each version of the plan its place in the state.
    slots: Vec<usize>,
}

/// Under which standing a request was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// The decision.
    pub choice: Choice,
    /// Epoch of the chosen version.
    pub epoch: u32,
}

impl Binding {
    /// Decides about one request.
    pub fn assign(
        &self,
        deployment: &Deployment,
        facts: &RequestFacts<'_>,
        store: &dyn Store,
        now: Micros,
        notes: &mut Notes,
    ) -> Assigned {
        // A state that is in use further up the stack cannot be asked; then nothing but stable is safe.
        let Ok(mut state) = self.state.try_borrow_mut() else {
            let choice = Choice { version: deployment.stable, forced: true, identity: None };
            return Assigned { choice, epoch: 0 };
        };
        state.refresh(store, now, REFRESH_AFTER, notes);
        let choice = route::choose(deployment, facts, &|version| state.available(self.slot(version)));
        // `keep` outlives a rollback, but not a loss of sight: what cannot be read is served by stable.
        let version = if state.unreadable { deployment.stable } else { choice.version };
        Assigned { choice: Choice { version, ..choice }, epoch: state.epoch(self.slot(version)) }
    }

    /// Records what happened to a version. May merge and judge.
    pub fn record(
        &self,
        deployment: &Deployment,
        assigned: (usize, u32),
        event: Event,
        store: &dyn Store,
        now: Now,
        notes: &mut Notes,
    ) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.record(Scene { deployment, slots: &self.slots, store, now }, assigned, event, notes);
        }
    }

    /// What is due without a request.
    pub fn tick(&self, deployment: &Deployment, store: &dyn Store, now: Now, notes: &mut Notes) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.tick(Scene { deployment, slots: &self.slots, store, now }, notes);
        }
    }

    /// The share of the traffic that each version gets now.
    pub fn effective_weights(&self, deployment: &Deployment) -> Vec<Bps> {
        let Ok(state) = self.state.try_borrow() else { return Vec::new() };
        let mut left = Bps::ALL.get();
        let mut shares: Vec<Bps> = (0..deployment.versions.len())
            .map(|version| {
                let share = match version != deployment.stable && state.available(self.slot(version)) {
                    true => deployment.split.share_of(version),
                    false => Bps::ZERO,
                };
                left = left.saturating_sub(share.get());
                share
            })
            .collect();
        if let Some(stable) = shares.get_mut(deployment.stable) {
            *stable = Bps::new(left).unwrap_or(Bps::ALL);
        }
        shares
    }

    /// Value of the deployment's phase gauge: that of its worst canary.
    pub fn phase_gauge(&self) -> u64 {
        let Ok(state) = self.state.try_borrow() else { return 0 };
        state.versions(&self.slots).map(|version| version.standing.phase.gauge()).max().unwrap_or(0)
    }

    /// How far the worst canary is on its way to a rollback, in percent, as of the last merge on this worker.
    pub fn evidence(&self) -> u64 {
        let Ok(state) = self.state.try_borrow() else { return 0 };
        state
            .versions(&self.slots)
            .map(|version| match version.standing.phase {
                Phase::RolledBack(_) => 100,
                _ => version.evidence,
            })
            .max()
            .unwrap_or(0)
    }

    fn slot(&self, version: usize) -> usize {
        self.slots.get(version).copied().unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
