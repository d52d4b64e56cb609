//! A deployment of one plan, bound to its state.

use std::cell::Cell;
use std::rc::Rc;

use super::record::Slot;
use super::state::State;
use super::{Assigned, Transition};
use crate::outcome::blame::Event;
use crate::plan::Deployment;
use crate::plan::split::Split;
use crate::route::{self, Access, RequestFacts};
use crate::shared::REFRESH_AFTER;
use crate::shared::cell::SharedCell;
use crate::shared::turn::Turn;
use crate::time::Span;
use crate::units::Bps;

/// One deployment of one plan, bound to its state.
pub struct Binding {
    pub(super) state: Rc<SharedCell<State>>,
    /// The place of each version of the plan in the state.
    slots: Vec<Slot>,
    /// Keep the states of the versions while they are held.
    _claims: Vec<Rc<()>>,
    in_effect: SharedCell<InEffect>,
    /// Identity of the plan. Several plans may share the state; only the newest one judges.
    generation: Rc<()>,
}

/// The shares in effect.
#[derive(Default)]
struct InEffect {
    /// Revision of the record that they were computed from.
    revision: Option<u64>,
    shares: Rc<[u16]>,
    /// The split of the ramp's stage; without a ramp the deployment's own split is used.
    split: Option<Split>,
}

/// A deployment of a plan with the places of its versions in the state.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) slots: &'a [Slot],
    pub(super) generation: &'a Rc<()>,
}

impl<'a> Bound<'a> {
    /// Returns the place of a version.
    pub(super) fn slot(self, version: usize) -> Option<Slot> {
        self.slots.get(version).copied()
    }

    /// Returns the place of stable.
    pub(super) fn stable(self) -> Option<Slot> {
        self.slot(self.deployment.stable)
    }

    /// Returns the places of the canaries.
    pub(super) fn canaries(self) -> impl Iterator<Item = Slot> + 'a {
        let stable = self.deployment.stable;
        let canaries = self.slots.iter().enumerate().filter(move |(version, _)| *version != stable);
        canaries.map(|(_, slot)| *slot)
    }
}

impl Binding {
    pub(super) fn new(deployment: &Deployment, state: &Rc<SharedCell<State>>) -> Binding {
        let bound = state.with_mut(|state| {
            let versions = deployment.versions.iter();
            let (slots, claims) = versions.map(|v| state.record.claim(deployment, &v.id)).unzip();
            (state.bind_newest(), slots, claims)
        });
        let (generation, slots, claims) = bound.unwrap_or_default();
        let in_effect = SharedCell::default();
        Binding { state: Rc::clone(state), slots, _claims: claims, in_effect, generation }
    }

    pub(super) fn bound<'a>(&'a self, deployment: &'a Deployment) -> Bound<'a> {
        Bound { deployment, slots: &self.slots, generation: &self.generation }
    }

    /// Decides about one request.
    pub fn assign(&self, deployment: &Deployment, facts: &RequestFacts<'_>, turn: &mut Turn<'_>) -> Assigned {
        let assigned = self.state.with_mut(|state| self.assign_by(state, deployment, facts, turn));
        // A state in use further up the stack cannot be asked. Then only stable is safe.
        assigned.flatten().unwrap_or_else(|| Assigned::forced(deployment.stable))
    }

    fn assign_by(
        &self,
        state: &mut State,
        deployment: &Deployment,
        facts: &RequestFacts<'_>,
        turn: &mut Turn<'_>,
    ) -> Option<Assigned> {
        let bound = self.bound(deployment);
        // Another listener may still serve this release. Then it is watched like any other.
        state.superseded = false;
        state.mark_in_service(&self.generation);
        state.record.refresh(REFRESH_AFTER, turn);
        self.update_shares(deployment, state);
        self.in_effect.with(|in_effect| {
            let split = in_effect.split.as_ref().unwrap_or(&deployment.split);
            let access = |version| access(state, bound, version);
            let mut choice = route::choose(deployment, split, facts, &access);
            let mut lease = None;
            if choice.probe {
                let slot = bound.slot(choice.version);
                lease = slot.and_then(|slot| state.lease_probe(bound, slot, facts.random, turn));
                choice.probe = lease.is_some();
                if lease.is_none() {
                    choice.version = deployment.stable;
                }
            }
            // A rule's `keep` outlives a rollback, but not a loss of sight.
            if state.record.unreadable {
                choice.version = deployment.stable;
            }
            Assigned {
                choice,
                epoch: bound.slot(choice.version).map_or(0, |slot| state.record.epoch(slot)),
                shares: Rc::clone(&in_effect.shares),
                stage: state.record.stage(deployment),
                lease,
                request_id: None,
                compared: Cell::default(),
            }
        })
    }

    /// Reads the standings. Called when a plan is put in service, also in a VM that was just built for another module or
    /// environment: the VM that it replaces buries the states that only it had bound, and a worker that has read them before
    /// puts them back.
    pub fn prime(&self, turn: &mut Turn<'_>) {
        self.state.with_mut(|state| state.record.refresh(Span::ZERO, turn));
    }

    /// Forces a version for a request, at the version's present epoch.
    pub fn forced(&self, version: usize) -> Assigned {
        let slot = self.slots.get(version);
        let epoch = slot.and_then(|slot| self.state.with(|state| state.record.epoch(*slot)));
        Assigned { epoch: epoch.unwrap_or(0), ..Assigned::forced(version) }
    }

    /// Records an event of a version. May merge and judge. Returns the transitions that this worker has made.
    pub fn record(
        &self,
        deployment: &Deployment,
        assigned: &Assigned,
        event: Event,
        turn: &mut Turn<'_>,
    ) -> Vec<Transition> {
        let recorded =
            self.state.with_mut(|state| state.record_event(self.bound(deployment), assigned, event, turn));
        recorded.unwrap_or_default()
    }

    /// Ends a request, and gives back its place as a probe if it has one. `passed` is `None` if the request says nothing about
    /// the version. Returns the transition that this worker has made.
    pub fn finish(
        &self,
        deployment: &Deployment,
        assigned: &Assigned,
        passed: Option<bool>,
        turn: &mut Turn<'_>,
    ) -> Option<Transition> {
        assigned.lease?;
        let bound = self.bound(deployment);
        self.state.with_mut(|state| state.finish_probe(bound, assigned, passed, turn)).flatten()
    }

    /// Does the work that is due without a request. Returns the transitions that this worker has made.
    pub fn tick(&self, deployment: &Deployment, turn: &mut Turn<'_>) -> Vec<Transition> {
        self.state.with_mut(|state| state.tick(self.bound(deployment), turn)).unwrap_or_default()
    }

    /// Returns the present share of each version, in basis points.
    pub fn effective_weights(&self, deployment: &Deployment) -> Rc<[u16]> {
        self.state.with(|state| self.update_shares(deployment, state));
        self.in_effect.with(|held| Rc::clone(&held.shares)).unwrap_or_default()
    }

    /// Computes the shares anew if the record has changed.
    fn update_shares(&self, deployment: &Deployment, state: &State) {
        self.in_effect.with_mut(|held| {
            if held.revision == Some(state.record.revision) {
                return;
            }
            let split = deployment.ramp.as_ref().map(|ramp| {
                let weight = ramp.weight(state.record.stage(deployment));
                Split::new(deployment.stable, &vec![weight; deployment.versions.len()])
            });
            let mut left = Bps::ALL.get();
            let mut shares = vec![0; deployment.versions.len()];
            for (version, share) in shares.iter_mut().enumerate() {
                if version != deployment.stable
                    && access(state, self.bound(deployment), version) == Access::Open
                {
                    *share = split.as_ref().unwrap_or(&deployment.split).share_of(version).get();
                    left = left.saturating_sub(*share);
                }
            }
            if let Some(stable) = shares.get_mut(deployment.stable) {
                *stable = left;
            }
            *held = InEffect { revision: Some(state.record.revision), shares: shares.into(), split };
        });
    }

    /// Returns the value of the deployment's phase gauge, which is that of its worst canary.
    pub fn phase_gauge(&self, deployment: &Deployment) -> u64 {
        self.worst(deployment, &|state, slot| state.record.version(slot).map(|v| v.standing.phase.gauge()))
    }

    /// Returns how far the worst canary is on its way to a rollback, in percent, as of the last merge on this worker.
    pub fn evidence(&self, deployment: &Deployment) -> u64 {
        self.worst(deployment, &|state, slot| state.record.version(slot).map(|v| v.evidence()))
    }

    /// Returns the largest value of a canary, or 0.
    fn worst(&self, deployment: &Deployment, value: &dyn Fn(&State, Slot) -> Option<u64>) -> u64 {
        let canaries = self.bound(deployment).canaries();
        let worst = self.state.with(|state| canaries.filter_map(|slot| value(state, slot)).max());
        worst.flatten().unwrap_or(0)
    }
}

/// Returns a version's right to traffic.
fn access(state: &State, bound: Bound<'_>, version: usize) -> Access {
    bound.slot(version).map_or(Access::Shut, |slot| state.record.access(slot))
}
