//! This worker's copy of the shared record of one release: the standings of its versions and the position of its ramp.

use std::rc::Rc;

use super::transition::{Change as Changed, Evidence, Transition};
use super::version::{VersionState, bury};
use crate::plan::Deployment;
use crate::rollout::ramp::Position;
use crate::rollout::standings::Standings;
use crate::rollout::{Cause, Phase};
use crate::route::Access;
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::names::STANDINGS;
use crate::shared::store::{Change, Store, StoreError, update};
use crate::shared::turn::Turn;
use crate::time::{Micros, Span};

/// The place of a version in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(usize);

/// The copy of one release of one deployment.
pub(super) struct Record {
    deployment: String,
    release: String,
    /// Shared key of the standings.
    key: String,
    versions: Vec<VersionState>,
    /// Position of the ramp.
    position: Option<Position>,
    /// The time at which the standings were last read.
    read_at: Option<Micros>,
    /// Set if the standings could not be read: only stable gets traffic.
    pub(super) unreadable: bool,
    /// Goes up with each change that may change the shares in effect.
    pub(super) revision: u64,
}

/// The decision about opened standings.
pub(super) enum Decision<T> {
    /// The standings are written.
    Write(T),
    /// The shared standings stay as they are.
    Keep(T),
}

/// The parts of a transition that its maker knows; the record has the others.
pub(super) struct Report {
    pub(super) version: String,
    pub(super) epoch: u32,
    pub(super) change: Changed,
    pub(super) cause: Option<Cause>,
    pub(super) evidence: Evidence,
}

impl Record {
    pub(super) fn new(deployment: &Deployment) -> Record {
        Record {
            deployment: deployment.name.clone(),
            release: deployment.release.clone(),
            key: [STANDINGS, &deployment.name, "/", &deployment.release].concat(),
            versions: Vec::with_capacity(deployment.versions.len()),
            position: None,
            read_at: None,
            unreadable: false,
            revision: 0,
        }
    }

    /// Returns the place of a version, made if it is new, and a claim to it.
    pub(super) fn claim(&mut self, deployment: &Deployment, id: &str) -> (Slot, Rc<()>) {
        let held = self.versions.iter().position(|version| version.id == id);
        let slot = held.unwrap_or(self.versions.len());
        if let Some(version) = self.versions.get(slot).filter(|version| version.is_claimed()) {
            return (Slot(slot), Rc::clone(&version.claim));
        }
        // The version is new or was away. The shared record knows it; the copy is out of date.
        let version = VersionState::new(deployment, id);
        let claim = Rc::clone(&version.claim);
        match self.versions.get_mut(slot) {
            Some(held) => *held = version,
            None => self.versions.push(version),
        }
        self.expire();
        (Slot(slot), claim)
    }

    pub(super) fn version(&self, slot: Slot) -> Option<&VersionState> {
        self.versions.get(slot.0)
    }

    pub(super) fn version_mut(&mut self, slot: Slot) -> Option<&mut VersionState> {
        self.versions.get_mut(slot.0)
    }

    /// Returns a version's right to traffic.
    pub(super) fn access(&self, slot: Slot) -> Access {
        match self.version(slot) {
            Some(version) if !self.unreadable && !version.blind => match version.standing.phase {
                Phase::Active | Phase::Holding(_) => Access::Open,
                Phase::Probing { .. } => Access::Probe,
                Phase::RolledBack { .. } => Access::Shut,
            },
            _ => Access::Shut,
        }
    }

    pub(super) fn epoch(&self, slot: Slot) -> u32 {
        self.version(slot).map_or(0, |version| version.standing.epoch)
    }

    /// Returns the stage of the plan's ramp; `None` without a ramp, even if the record still has the position of a ramp that
    /// was removed.
    pub(super) fn stage(&self, deployment: &Deployment) -> Option<u32> {
        self.position(deployment).and_then(|position| position.stage)
    }

    /// Returns the position of the plan's ramp.
    pub(super) fn position(&self, deployment: &Deployment) -> Option<Position> {
        deployment.ramp.as_ref().and(self.position)
    }

    /// Notes a change that may change the shares in effect.
    pub(super) fn touch(&mut self) {
        self.revision = self.revision.wrapping_add(1);
    }

    /// Has the standings read again before they next decide.
    pub(super) fn expire(&mut self) {
        self.read_at = None;
    }

    /// Gives all traffic to stable because the standings cannot be read.
    pub(super) fn lose_sight(&mut self) {
        self.unreadable = true;
        self.touch();
    }

    /// Reads the standings if the copy is older than `after`.
    pub(super) fn refresh(&mut self, after: Span, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if self.read_at.is_some_and(|at| now.since(at) < after) {
            return;
        }
        self.read_at = Some(now);
        let was_unreadable = self.unreadable;
        let found = turn.store.get(&self.key);
        self.unreadable =
            match found.map(|found| Standings::decode(found.as_ref().map(|v| v.bytes.as_slice()))) {
                Ok(Found::Nothing) => {
                    if self.position.is_some() || self.is_ahead_of(&Standings::default()) {
                        self.republish(turn.store);
                    }
                    false
                }
                Ok(Found::Value(standings)) => {
                    if self.is_ahead_of(&standings) {
                        self.republish(turn.store);
                    }
                    self.adopt(&standings);
                    false
                }
                Ok(Found::Undecodable) => {
                    turn.drops.one(Dropped::Undecodable);
                    true
                }
                Err(_) => {
                    turn.drops.one(Dropped::Refused);
                    true
                }
            };
        if was_unreadable != self.unreadable {
            self.touch();
        }
    }

    fn is_ahead_of(&self, standings: &Standings) -> bool {
        self.versions.iter().any(|version| version.is_ahead_of(standings))
    }

    /// Puts back the standings that the shared record lacks: another worker may have buried a release that this one still
    /// serves. All workers then agree, on the safe side. If another worker interferes, it has done the same.
    fn republish(&self, store: &dyn Store) {
        let _ = self.update_standings(store, &mut |standings| {
            let before = standings.clone();
            for version in self.versions.iter().filter(|version| version.is_ahead_of(&before)) {
                standings.put(&version.id, version.standing.clone());
            }
            if *standings == before { Decision::Keep(()) } else { Decision::Write(()) }
        });
    }

    /// Takes over the shared standings that are not older than the copy. A value that was lost or dropped brings no canary
    /// back.
    pub(super) fn adopt(&mut self, standings: &Standings) {
        let mut changed = false;
        for version in self.versions.iter_mut().filter(|version| version.is_claimed()) {
            if let Some(shared) = standings.get(&version.id) {
                changed |= version.adopt(shared);
            }
        }
        if let Some(position) = standings.ramp {
            changed |= self.position.and_then(|held| held.stage) != position.stage;
            self.position = Some(position);
        }
        if changed {
            self.touch();
        }
    }

    /// Opens the shared standings and lets `decide` change them, until no other worker interferes. Standings that were never
    /// shared, or were dropped, begin with the ramp's position that is known here. Returns the standings with the result of
    /// `decide`; `None` if they cannot be read.
    ///
    /// # Errors
    /// Those of [`update`].
    pub(super) fn update_standings<T>(
        &self,
        store: &dyn Store,
        decide: &mut dyn FnMut(&mut Standings) -> Decision<T>,
    ) -> Result<Option<(Standings, T)>, StoreError> {
        update(store, &self.key, &mut |bytes| {
            let mut standings = match Standings::decode(bytes) {
                Found::Nothing => Standings { ramp: self.position, ..Standings::default() },
                Found::Value(standings) => standings,
                Found::Undecodable => return Change::Keep(None),
            };
            match decide(&mut standings) {
                Decision::Keep(result) => Change::Keep(Some((standings, result))),
                Decision::Write(result) => Change::Write(standings.encode(), Some((standings, result))),
            }
        })
    }

    /// Drops the shared values of versions that no plan on this worker has any more, so that a version that comes back starts
    /// afresh. A worker that still has a plan with such a version puts back its own knowledge; the values go with the last plan.
    /// Called by ticks only: the throw-away VM that checks a configuration never ticks.
    pub(super) fn drop_unclaimed(&mut self, store: &dyn Store) {
        let unclaimed = |version: &VersionState| !version.dropped && !version.is_claimed();
        for n in 0..self.versions.len() {
            let Some(held) = self.versions.get(n).filter(|version| unclaimed(version)) else { continue };
            let dropped = self.update_standings(store, &mut |standings| {
                if standings.remove(&held.id) { Decision::Write(()) } else { Decision::Keep(()) }
            });
            if dropped.is_ok() {
                held.bury(store);
                if let Some(held) = self.versions.get_mut(n) {
                    held.dropped = true;
                }
            }
        }
    }

    /// Replaces this release's shared values by tombstones.
    pub(super) fn bury(&self, store: &dyn Store) {
        self.versions.iter().for_each(|version| version.bury(store));
        bury(store, &self.key);
    }

    /// Builds a transition from a report.
    pub(super) fn transition(&self, deployment: &Deployment, report: Report) -> Transition {
        let Report { version, epoch, change, cause, evidence } = report;
        Transition {
            deployment: self.deployment.clone(),
            release: self.release.clone(),
            version,
            epoch,
            stage: self.stage(deployment),
            change,
            cause,
            evidence,
        }
    }
}
