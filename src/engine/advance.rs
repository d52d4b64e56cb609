//! Transitions: what a signal does to the shared record, probes and the ramp.

use super::state::{Scene, State, VersionState};
use crate::engine::{Assigned, Change, Counts, Evidence, IDLE_AFTER, Notes, Score, Transition};
use crate::hash::hash;
use crate::judge::limits;
use crate::judge::stats::{Snapshot, Stats};
use crate::plan::Deployment;
use crate::rollout::ramp::{Position, Sight};
use crate::rollout::standings::{Standings, VERSIONS};
use crate::rollout::{Cause, LEASE, Lease, Phase, PhaseKind, Rules, Signal, Standing};
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::store::{self, Store, StoreError, update};
use crate::time::{Micros, Now};

/// The numbers that a verdict was based on.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) canary: &'a Snapshot,
    pub(super) stable: &'a Snapshot,
    pub(super) score: Option<Score>,
}

/// What became of a transition.
enum Moved {
    /// This worker made it: the record, the standing before and after.
    Won(Standings, Box<(Standing, Standing)>),
    /// Nothing to do; the record as it is.
    Lost(Standings),
    Undecodable,
}

impl State {
    /// Gives a signal to a version's standing and, if it changes something, makes the transition in the shared record. It is
    /// reported by the worker whose write made it.
    pub(super) fn signal(
        &mut self,
        scene: Scene<'_>,
        slot: usize,
        signal: Signal,
        seen: Option<Seen<'_>>,
        notes: &mut Notes,
    ) {
        let Some(held) = self.versions.get(slot) else { return };
        let rules = Rules { recovery: scene.deployment.recovery, random: jitter(held, &signal, scene.now) };
        if held.standing.on(&signal, rules).is_none() {
            return;
        }
        let (id, total) = (held.id.clone(), held.total);
        // Taken before a new epoch forgets them.
        let failed = held.bad_requests.clone();
        let moved = self.transit(scene.deployment, scene.store, slot, &signal, rules, total);
        match moved {
            Ok(Moved::Won(standings, change)) => {
                let (before, after) = *change;
                self.adopt(&standings);
                let (from, to) = (before.phase.kind(), after.phase.kind());
                let change = match signal {
                    Signal::WouldFail(_) => Change::Observed { from, to: PhaseKind::RolledBack },
                    Signal::WouldHold(_) => Change::Observed { from, to: PhaseKind::Holding },
                    _ if from == to => return,
                    _ => Change::Moved { from, to },
                };
                let cause = match &signal {
                    Signal::Fail(cause)
                    | Signal::WouldFail(cause)
                    | Signal::Shared(cause)
                    | Signal::WouldHold(cause)
                    | Signal::Probed(_, Err(cause)) => Some(cause.clone()),
                    _ => None,
                };
                // Where trouble has ended, nothing is to be proved.
                let proof = cause.as_ref().map(|_| failed);
                let requests = proof.into_iter().flatten().map(|id| id.as_ref().to_owned()).collect();
                notes.transitions.push(Transition {
                    deployment: self.name.clone(),
                    release: self.release.clone(),
                    version: id,
                    epoch: after.epoch,
                    stage: self.stage(scene.deployment),
                    change,
                    cause,
                    evidence: Evidence {
                        canary: seen.map(|seen| counts(seen.canary)).unwrap_or_default(),
                        stable: seen.map(|seen| counts(seen.stable)).unwrap_or_default(),
                        score: seen.and_then(|seen| seen.score),
                        requests,
                    },
                });
            }
            Ok(Moved::Lost(standings)) => self.adopt(&standings),
            Ok(Moved::Undecodable) => {
                self.unreadable = true;
                self.revision = self.revision.wrapping_add(1);
                notes.dropped.many(Dropped::Undecodable, 1);
            }
            Err(StoreError::Mismatch) => notes.dropped.many(Dropped::VerdictDeferred, 1),
            Err(StoreError::Refused) => notes.dropped.many(Dropped::Refused, 1),
        }
    }

    fn transit(
        &self,
        deployment: &Deployment,
        store: &dyn Store,
        slot: usize,
        signal: &Signal,
        rules: Rules,
        total: u64,
    ) -> Result<Moved, StoreError> {
        let Some(held) = self.versions.get(slot) else { return Err(StoreError::Refused) };
        update(store, &self.standings_key, &mut |bytes| {
            let mut standings = match Standings::decode(bytes) {
                Found::Nothing => Standings { ramp: self.position, ..Standings::default() },
                Found::Value(standings) => standings,
                Found::Undecodable => return store::Change::Keep(Moved::Undecodable),
            };
            // What is known here counts if the record is older or gone.
            let current = match standings.get(&held.id) {
                Some(shared) if shared.epoch >= held.standing.epoch => shared.clone(),
                _ => held.standing.clone(),
            };
            if current.epoch > held.standing.epoch {
                return store::Change::Keep(Moved::Lost(standings));
            }
            // Versions that have left the plan make room for those that are in it.
            if standings.versions.len() >= VERSIONS {
                standings
                    .versions
                    .retain(|(id, _)| deployment.versions.iter().any(|version| version.id == *id));
            }
            match current.on(signal, rules) {
                Some(next) if standings.put(&held.id, next.clone()) => {
                    if matches!((&current.phase, &next.phase), (Phase::Probing { .. }, Phase::Active)) {
                        standings.ramp = standings.ramp.map(|position| position.restarted(total));
                    }
                    store::Change::Write(standings.encode(), Moved::Won(standings, Box::new((current, next))))
                }
                _ => store::Change::Keep(Moved::Lost(standings)),
            }
        })
    }

    /// A place as a probe for a request, if one is free.
    pub(in crate::engine) fn lend(
        &mut self,
        deployment: &Deployment,
        slot: usize,
        store: &dyn Store,
        now: Micros,
        random: u64,
    ) -> Option<u64> {
        let lease = Lease { id: random, until: now.plus(LEASE) };
        let signal = Signal::Ask(lease, now);
        let rules = Rules { recovery: deployment.recovery, random };
        // This worker's copy says whether it is worth asking.
        self.versions.get(slot)?.standing.on(&signal, rules)?;
        let moved = self.transit(deployment, store, slot, &signal, rules, 0).ok()?;
        let (standings, won) = match moved {
            Moved::Won(standings, ..) => (standings, true),
            Moved::Lost(standings) => (standings, false),
            Moved::Undecodable => return None,
        };
        self.adopt(&standings);
        won.then_some(lease.id)
    }

    /// A probe is over.
    pub(in crate::engine) fn probed(
        &mut self,
        scene: Scene<'_>,
        assigned: &Assigned,
        lease: u64,
        good: Option<bool>,
        notes: &mut Notes,
    ) {
        let slot = scene.slots.get(assigned.choice.version).copied().unwrap_or(usize::MAX);
        if self.epoch(slot) != assigned.epoch {
            return;
        }
        let said = match good {
            Some(false) => Err(Cause {
                label: "probe".to_owned(),
                text: "a probe failed".to_owned(),
                since: scene.now.mono,
                wall: scene.now.wall,
            }),
            Some(true) => Ok(true),
            None => Ok(false),
        };
        self.signal(scene, slot, Signal::Probed(lease, said), None, notes);
    }

    /// Moves the ramp's clock on, about once a second in the whole process, and begins the next stage when it is due.
    pub(in crate::engine) fn look_at_ramp(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, store, now, .. } = scene;
        let Some(ramp) = &deployment.ramp else { return };
        // Under a ramp there is exactly one canary.
        let canary = slots.iter().enumerate().find(|(version, _)| *version != deployment.stable);
        let guard = deployment.guard_at(self.stage(deployment));
        let Some(held) = canary.and_then(|(_, slot)| self.versions.get_mut(*slot)) else { return };
        // Looked at anew: this worker, or the main thread, may never have judged this canary.
        let mut seen = Snapshot::default();
        if let Ok(Some(found)) = store.get(&held.stats_key)
            && let Found::Value(stats) = Stats::decode(Some(&found.bytes))
        {
            held.total = stats.total;
            if stats.epoch == held.standing.epoch {
                seen = stats.snapshot(now.mono, guard.window);
                held.limits_percent = limits::evidence(guard, &seen);
            }
        }
        let sight = Sight {
            now,
            outcomes: held.total,
            evidence: State::percent(held),
            active: held.standing.phase == Phase::Active && !held.blind,
        };
        let (id, epoch) = (held.id.clone(), held.standing.epoch);
        let known = self.position;
        let looked = update(store, &self.standings_key, &mut |bytes| {
            let mut standings = match Standings::decode(bytes) {
                Found::Nothing => Standings { ramp: known, ..Standings::default() },
                Found::Value(standings) => standings,
                Found::Undecodable => return store::Change::Keep(None),
            };
            let (position, begun) = match standings.ramp {
                None => (Position::first(ramp, now), false),
                Some(held) if now.mono.since(held.looked_at) < IDLE_AFTER => {
                    return store::Change::Keep(None);
                }
                Some(held) => held.look(ramp, sight),
            };
            standings.ramp = Some(position);
            store::Change::Write(standings.encode(), Some((standings, begun)))
        });
        match looked {
            Ok(Some((standings, begun))) => {
                self.adopt(&standings);
                if begun {
                    notes.transitions.push(Transition {
                        deployment: self.name.clone(),
                        release: self.release.clone(),
                        version: id,
                        epoch,
                        stage: self.stage(deployment),
                        change: Change::StageBegun,
                        cause: None,
                        evidence: Evidence { canary: counts(&seen), ..Evidence::default() },
                    });
                }
            }
            Ok(None) => {}
            Err(error) => notes.dropped.many(Dropped::of(error), 1),
        }
    }
}

fn counts(snapshot: &Snapshot) -> Counts {
    Counts { judged: snapshot.tally.judged, bad: snapshot.tally.bad }
}

/// Random enough to spread the probes of many Envoys, and the same for every try of one transition.
fn jitter(held: &VersionState, signal: &Signal, now: Now) -> u64 {
    let lease = if let Signal::Probed(id, _) = signal { *id } else { 0 };
    hash(&[held.id.as_bytes(), &now.mono.0.to_le_bytes(), &now.wall.0.to_le_bytes(), &lease.to_le_bytes()])
}
