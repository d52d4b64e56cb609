//! The engine: one worker's part in the decision, and the only place where the parts meet.
//!
//! Requests and outcomes touch memory of this worker only. What was counted is merged into shared data in batches: at once
//! when a canary fails (somebody is suffering), otherwise when the last merge is older than [`MERGE_AFTER`]. Whoever merges
//! also judges, on what all workers have merged so far; whoever's verdict wins the compare-and-swap on the standings makes
//! the transition and reports it, so that each is reported once. All workers re-read the standings when their copy is older
//! than [`REFRESH_AFTER`]: within that a rollback is in force everywhere.
//!
//! What cannot be read is never taken for "all is well": the deployment then serves stable only, and says so in a count.

mod advance; // transitions: applies a signal to the shared record; probes; the ramp
mod judge; // merges counts and asks for a verdict
mod notes; // results of a step for the adapter: transitions and drops
mod order; // an operator's orders
mod state; // one release of one deployment on this worker
mod transition; // the report of a transition
mod view; // a deployment as its status shows it

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

pub use self::notes::Notes;
pub use self::order::{Order, Refused};
use self::state::{Scene, State, VersionState};
pub use self::transition::{Change, Counts, Evidence, Score, Transition};
pub use self::view::{VersionView, View};
use crate::outcome::blame::Event;
use crate::plan::split::Split;
use crate::plan::{Deployment, Plan};
use crate::route::{self, Access, Choice, RequestFacts};
use crate::shared::REFRESH_AFTER;
use crate::shared::store::Store;
use crate::time::{Micros, Now, Span};
use crate::units::Bps;

/// What was counted is merged when the last merge is older than this (20 ms). Halving it makes stable's
/// numbers fresher by 10 ms and doubles the writes under the process-wide lock; a canary's failure never waits for it.
pub const MERGE_AFTER: Span = Span::from_millis(20);
/// An idle deployment's standings and held verdicts are looked at this often (1 s).
const IDLE_AFTER: Span = Span::from_secs(1);

/// The states of this worker, by (deployment, release): they outlive reloads and die with their last plan.
#[derive(Default)]
pub struct Engine {
    states: BTreeMap<(String, String), Rc<RefCell<State>>>,
}

impl Engine {
    /// Binds a plan's deployments to their states, which are made where they do not exist. Other releases of the same
    /// deployments are superseded: what is still under way under them decides nothing any more.
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
                let (generation, slots, claims) = match state.try_borrow_mut() {
                    Ok(mut state) => {
                        let places = deployment.versions.iter().map(|v| state.slot(deployment, &v.id));
                        let (slots, claims) = places.unzip();
                        (state.newest(), slots, claims)
                    }
                    Err(_) => Default::default(),
                };
                Binding { state, slots, _claims: claims, in_effect: RefCell::default(), generation }
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
    /// While one of these is held, the version's state is kept.
    _claims: Vec<Rc<()>>,
    /// The shares in effect, and the revision of the state that they were computed from.
    in_effect: RefCell<InEffect>,
    /// Of the plans that share the state the newest decides.
    generation: Rc<()>,
}

#[derive(Default)]
struct InEffect {
    revision: Option<u64>,
    shares: Rc<[u16]>,
    /// The split of the ramp's stage; without a ramp the deployment's own is used.
    split: Option<Split>,
}

/// A decision, and the circumstances under which it was made: whatever becomes of the request is judged by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The decision.
    pub choice: Choice,
    /// Epoch of the chosen version.
    pub epoch: u32,
    /// What share each version had, in basis points.
    pub shares: Rc<[u16]>,
    /// Stage of the ramp: its guard says what is an error.
    pub stage: Option<u32>,
    /// Its place as a probe, if it is one.
    pub lease: Option<u64>,
    /// The request's id, where it may become evidence: for canaries.
    pub request_id: Option<Rc<str>>,
    /// What of this request has been compared: the coin was tossed once for it, however often Envoy tries.
    pub compared: Cell<Compared>,
}

/// What of a request has been compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// A failure.
    pub failed: bool,
    /// That it was quick, or slow.
    pub timed: bool,
}

impl Assigned {
    /// To a version by force, not by chance: what becomes of it does not compare the versions. Of epoch 0; see
    /// [`Binding::forced`] for one of the version's present epoch.
    pub fn forced(version: usize) -> Assigned {
        let choice = Choice { version, forced: true, probe: false, identity: None };
        Assigned {
            choice,
            epoch: 0,
            shares: Rc::default(),
            stage: None,
            lease: None,
            request_id: None,
            compared: Cell::default(),
        }
    }
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
        let Ok(mut state) = self.state.try_borrow_mut() else { return Assigned::forced(deployment.stable) };
        // Another listener may still serve this release: then it is watched like any other.
        state.superseded = false;
        state.in_use(&self.generation);
        state.refresh(store, now, REFRESH_AFTER, notes);
        self.bring_up_to_date(deployment, &state);
        let Ok(in_effect) = self.in_effect.try_borrow() else { return Assigned::forced(deployment.stable) };
        let split = in_effect.split.as_ref().unwrap_or(&deployment.split);
        let mut choice = route::choose(deployment, split, facts, &|version| state.access(self.slot(version)));
        let mut lease = None;
        if choice.probe {
            lease = state.lend(deployment, self.slot(choice.version), store, now, facts.random);
            choice.probe = lease.is_some();
            if lease.is_none() {
                choice.version = deployment.stable;
            }
        }
        // A rule's `keep` outlives a rollback, but not a loss of sight: what cannot be read is served by stable.
        if state.unreadable {
            choice.version = deployment.stable;
        }
        let epoch = state.epoch(self.slot(choice.version));
        Assigned {
            choice,
            epoch,
            shares: Rc::clone(&in_effect.shares),
            stage: state.stage(deployment),
            lease,
            request_id: None,
            compared: Cell::default(),
        }
    }

    /// Reads the standings. Done when a plan is put in service, also in a VM that has just been built for another module or
    /// environment: the VM it replaces buries what only it had bound, and whoever has read it before puts it back.
    pub fn prime(&self, store: &dyn Store, now: Micros, notes: &mut Notes) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.refresh(store, now, Span::ZERO, notes);
        }
    }

    /// A request that is sent to a version by force, now.
    pub fn forced(&self, version: usize) -> Assigned {
        let epoch = self.state.try_borrow().map_or(0, |state| state.epoch(self.slot(version)));
        Assigned { epoch, ..Assigned::forced(version) }
    }

    /// Records what happened to a version. May merge and judge.
    pub fn record(
        &self,
        deployment: &Deployment,
        assigned: &Assigned,
        event: Event,
        store: &dyn Store,
        now: Now,
        notes: &mut Notes,
    ) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.record(self.scene(deployment, store, now), assigned, event, notes);
        }
    }

    /// A request is over. Gives back its place as a probe, if it was one: `good` if the version served it well, `None` if it
    /// says nothing.
    pub fn finish(
        &self,
        deployment: &Deployment,
        assigned: &Assigned,
        good: Option<bool>,
        store: &dyn Store,
        now: Now,
        notes: &mut Notes,
    ) {
        if let (Some(lease), Ok(mut state)) = (assigned.lease, self.state.try_borrow_mut()) {
            state.probed(self.scene(deployment, store, now), assigned, lease, good, notes);
        }
    }

    /// What is due without a request.
    pub fn tick(&self, deployment: &Deployment, store: &dyn Store, now: Now, notes: &mut Notes) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.tick(self.scene(deployment, store, now), notes);
        }
    }

    /// The share of the traffic that each version gets now, in basis points.
    pub fn effective_weights(&self, deployment: &Deployment) -> Rc<[u16]> {
        if let Ok(state) = self.state.try_borrow() {
            self.bring_up_to_date(deployment, &state);
        }
        self.in_effect.try_borrow().map(|held| Rc::clone(&held.shares)).unwrap_or_default()
    }

    fn bring_up_to_date(&self, deployment: &Deployment, state: &State) {
        let Ok(mut held) = self.in_effect.try_borrow_mut() else { return };
        if held.revision == Some(state.revision) {
            return;
        }
        let split = deployment.ramp.as_ref().map(|ramp| {
            let weight = ramp.weight(state.stage(deployment));
            Split::new(deployment.stable, &vec![weight; deployment.versions.len()])
        });
        let mut left = Bps::ALL.get();
        let mut shares = vec![0; deployment.versions.len()];
        for (version, share) in shares.iter_mut().enumerate() {
            if version != deployment.stable && state.access(self.slot(version)) == Access::Open {
                *share = split.as_ref().unwrap_or(&deployment.split).share_of(version).get();
                left = left.saturating_sub(*share);
            }
        }
        if let Some(stable) = shares.get_mut(deployment.stable) {
            *stable = left;
        }
        *held = InEffect { revision: Some(state.revision), shares: shares.into(), split };
    }

    /// Value of the deployment's phase gauge: that of its worst canary.
    pub fn phase_gauge(&self, deployment: &Deployment) -> u64 {
        let Ok(state) = self.state.try_borrow() else { return 0 };
        self.canaries(deployment, &state).map(|version| version.standing.phase.gauge()).max().unwrap_or(0)
    }

    /// How far the worst canary is on its way to a rollback, in percent, as of the last merge on this worker.
    pub fn evidence(&self, deployment: &Deployment) -> u64 {
        let Ok(state) = self.state.try_borrow() else { return 0 };
        self.canaries(deployment, &state).map(State::percent).max().unwrap_or(0)
    }

    fn scene<'a>(&'a self, deployment: &'a Deployment, store: &'a dyn Store, now: Now) -> Scene<'a> {
        Scene { deployment, slots: &self.slots, generation: &self.generation, store, now }
    }

    fn canaries<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: &'a State,
    ) -> impl Iterator<Item = &'a VersionState> {
        let canaries = self.slots.iter().enumerate().filter(|(version, _)| *version != deployment.stable);
        canaries.filter_map(|(_, slot)| state.version(*slot))
    }

    fn slot(&self, version: usize) -> usize {
        self.slots.get(version).copied().unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests;
