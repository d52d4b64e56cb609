//! Transitions by signals, and the places of probes.

use super::binding::Bound;
use super::record::{Decision, Report, Slot};
use super::state::State;
use super::version::VersionState;
use super::{Assigned, Change, Counts, Evidence, Score, Transition};
use crate::hash::hash;
use crate::judge::stats::Snapshot;
use crate::plan::Deployment;
use crate::rollout::standings::Standings;
use crate::rollout::{Cause, LEASE, Lease, Phase, PhaseKind, ProbeOutcome, Rules, Signal, Standing};
use crate::shared::dropped::Dropped;
use crate::shared::store::{Store, StoreError};
use crate::shared::turn::Turn;
use crate::time::Now;

/// The numbers that a verdict is based on.
#[derive(Clone, Copy)]
pub(super) struct Basis<'a> {
    pub(super) canary: &'a Snapshot,
    pub(super) stable: &'a Snapshot,
    pub(super) score: Option<Score>,
}

/// A standing that this worker has changed in the shared record.
pub(super) struct Moved {
    pub(super) before: Standing,
    pub(super) after: Standing,
}

/// The shared standings after a signal, and this worker's change, if it made one.
struct Signalled {
    standings: Standings,
    moved: Option<Box<Moved>>,
}

impl From<&Snapshot> for Counts {
    fn from(snapshot: &Snapshot) -> Counts {
        Counts { judged: snapshot.tally.judged, bad: snapshot.tally.bad }
    }
}

impl State {
    /// Gives a signal to a version's standing. If that changes something, makes the transition in the shared record. Returns the
    /// transition if this worker's write made it.
    pub(super) fn signal(
        &mut self,
        bound: Bound<'_>,
        slot: Slot,
        signal: Signal,
        basis: Option<Basis<'_>>,
        turn: &mut Turn<'_>,
    ) -> Option<Transition> {
        let held = self.record.version(slot)?;
        let rules = Rules { recovery: bound.deployment.recovery, random: jitter(held, &signal, turn.now) };
        held.standing.on(&signal, rules)?;
        let version = held.id.clone();
        // Copied before a new epoch clears them.
        let bad_requests = held.bad_requests.clone();
        let signalled = match self.transit(bound.deployment, slot, &signal, rules, turn.store) {
            Ok(Some(signalled)) => signalled,
            Ok(None) => {
                self.record.lose_sight();
                turn.drops.one(Dropped::Undecodable);
                return None;
            }
            Err(StoreError::Mismatch) => {
                turn.drops.one(Dropped::VerdictDeferred);
                return None;
            }
            Err(StoreError::Refused) => {
                turn.drops.one(Dropped::Refused);
                return None;
            }
        };
        self.record.adopt(&signalled.standings);
        let Moved { before, after } = *signalled.moved?;
        let (from, to) = (before.phase.kind(), after.phase.kind());
        let change = match signal {
            Signal::WouldFail(_) => Change::Observed { from, to: PhaseKind::RolledBack },
            Signal::WouldHold(_) => Change::Observed { from, to: PhaseKind::Holding },
            _ if from == to => return None,
            _ => Change::Moved { from, to },
        };
        let cause = trouble(signal);
        // Where trouble has ended, no request is evidence.
        let requests = cause.iter().flat_map(|_| &bad_requests).map(|id| id.as_ref().to_owned()).collect();
        let counts = |snapshot: &dyn Fn(Basis<'_>) -> Counts| basis.map(snapshot).unwrap_or_default();
        let evidence = Evidence {
            canary: counts(&|basis| basis.canary.into()),
            stable: counts(&|basis| basis.stable.into()),
            score: basis.and_then(|basis| basis.score),
            requests,
        };
        let report = Report { version, epoch: after.epoch, change, cause, evidence };
        Some(self.record.transition(bound.deployment, report))
    }

    /// Applies a signal to the shared standing of a version; `None` if the standings cannot be read.
    fn transit(
        &self,
        deployment: &Deployment,
        slot: Slot,
        signal: &Signal,
        rules: Rules,
        store: &dyn Store,
    ) -> Result<Option<Signalled>, StoreError> {
        let Some(held) = self.record.version(slot) else { return Err(StoreError::Refused) };
        let signalled = self.record.update_standings(store, &mut |standings| {
            let before = held.latest(standings);
            if before.epoch > held.standing.epoch {
                return Decision::Keep(None);
            }
            standings.make_room(deployment);
            match before.on(signal, rules) {
                Some(after) if standings.put(&held.id, after.clone()) => {
                    if matches!((&before.phase, &after.phase), (Phase::Probing { .. }, Phase::Active)) {
                        standings.ramp = standings.ramp.map(|position| position.restart(held.total));
                    }
                    Decision::Write(Some(Box::new(Moved { before, after })))
                }
                _ => Decision::Keep(None),
            }
        })?;
        Ok(signalled.map(|(standings, moved)| Signalled { standings, moved }))
    }

    /// Takes a place as a probe for a request, if one is free. Returns the id of the place.
    pub(super) fn lease_probe(
        &mut self,
        bound: Bound<'_>,
        slot: Slot,
        random: u64,
        turn: &mut Turn<'_>,
    ) -> Option<u64> {
        let now = turn.now.mono;
        let lease = Lease { id: random, until: now.plus(LEASE) };
        let signal = Signal::Ask(lease, now);
        let rules = Rules { recovery: bound.deployment.recovery, random };
        // The copy says whether a look at the shared standings is worth its cost.
        self.record.version(slot)?.standing.on(&signal, rules)?;
        let signalled = self.transit(bound.deployment, slot, &signal, rules, turn.store).ok()??;
        self.record.adopt(&signalled.standings);
        signalled.moved.map(|_| lease.id)
    }

    /// Gives back the place of a probe that is over. `passed` is `None` if the probe says nothing.
    pub(super) fn finish_probe(
        &mut self,
        bound: Bound<'_>,
        assigned: &Assigned,
        passed: Option<bool>,
        turn: &mut Turn<'_>,
    ) -> Option<Transition> {
        let lease = assigned.lease?;
        let slot = bound.slot(assigned.choice.version)?;
        if self.record.epoch(slot) != assigned.epoch {
            return None;
        }
        let outcome = match passed {
            Some(true) => ProbeOutcome::Passed,
            Some(false) => ProbeOutcome::Failed(Cause {
                label: "probe".to_owned(),
                text: "a probe failed".to_owned(),
                since: turn.now.mono,
                wall: turn.now.wall,
            }),
            None => ProbeOutcome::Inconclusive,
        };
        self.signal(bound, slot, Signal::Probed(lease, outcome), None, turn)
    }
}

/// Returns the cause that a signal brings.
fn trouble(signal: Signal) -> Option<Cause> {
    match signal {
        Signal::Fail(cause)
        | Signal::WouldFail(cause)
        | Signal::Shared(cause)
        | Signal::WouldHold(cause)
        | Signal::Probed(_, ProbeOutcome::Failed(cause)) => Some(cause),
        _ => None,
    }
}

/// Returns a number that differs enough between Envoys to spread their probes, and is the same for each try of one transition.
fn jitter(held: &VersionState, signal: &Signal, now: Now) -> u64 {
    let lease = if let Signal::Probed(id, _) = signal { *id } else { 0 };
    hash(&[held.id.as_bytes(), &now.mono.0.to_le_bytes(), &now.wall.0.to_le_bytes(), &lease.to_le_bytes()])
}
