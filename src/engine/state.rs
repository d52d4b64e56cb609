//! One release of one deployment as a worker holds it: its copy of the standings, and what it has counted since it last
//! merged. Merging, judging and moving on happen here, and nowhere else.

use super::{Dropped, IDLE_AFTER, MERGE_AFTER, Notes, REFRESH_AFTER, Transition};
use crate::codec::TOMBSTONE;
use crate::outcome::Outcome;
use crate::plan::{Deployment, GuardMode};
use crate::rollout::{Cause, Phase, Signal, Standing, Standings};
use crate::stats::{Delta, Event, Found, Snapshot, Stats};
use crate::store::{Change, Expected, Store, StoreError, update};
use crate::units::{Micros, Now};
use crate::verdict::{self, Limit, Verdict};

/// Where and when something is decided: the plan's deployment with its versions' places in the state, the store, the time.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) slots: &'a [usize],
    pub(super) store: &'a dyn Store,
    pub(super) now: Now,
}

/// What this worker holds of one release of one deployment.
pub(super) struct State {
    name: String,
    release: String,
    standings_key: String,
    versions: Vec<VersionState>,
    /// When the standings were last read.
    read_at: Option<Micros>,
    merged_at: Micros,
    /// When verdicts were last looked at without a request.
    looked_at: Option<Micros>,
    /// Something waits to be merged.
    dirty: bool,
    /// The standings could not be read: stable only.
    pub(super) unreadable: bool,
    /// Another release has taken this one's place: nothing is decided about it any more.
    pub(super) superseded: bool,
}

pub(super) struct VersionState {
    id: String,
    stats_key: String,
    pub(super) standing: Standing,
    pending: Delta,
    pub(super) evidence: u64,
    /// Its numbers could not be read: whether it fails cannot be known, so it gets nothing.
    blind: bool,
}

/// What became of a merge.
enum Merged {
    Into(Snapshot),
    /// The record is of a later epoch.
    Late,
    Undecodable,
}

/// What became of a transition.
enum Moved {
    /// This worker made it.
    Won(Standings, Standing),
    /// Nothing to do; the record as it is.
    Lost(Option<Standings>),
    Undecodable,
}

impl State {
    pub(super) fn new(deployment: &Deployment) -> State {
        State {
            name: deployment.name.clone(),
            release: deployment.release.clone(),
            standings_key: ["bellwether/1/standings/", &deployment.name, "/", &deployment.release].concat(),
            versions: Vec::new(),
            read_at: None,
            merged_at: Micros(0),
            looked_at: None,
            dirty: false,
            unreadable: false,
            superseded: false,
        }
    }

    /// The place of a version, made if it is new.
    pub(super) fn slot(&mut self, deployment: &Deployment, id: &str) -> usize {
        if let Some(slot) = self.versions.iter().position(|version| version.id == id) {
            return slot;
        }
        self.versions.push(VersionState {
            id: id.to_owned(),
            stats_key: ["bellwether/1/stats/", &deployment.name, "/", &deployment.release, "/", id].concat(),
            standing: Standing::NEW,
            pending: Delta::default(),
            evidence: 0,
            blind: false,
        });
        // The standing of a version that was away comes from the record.
        self.read_at = None;
        self.versions.len().saturating_sub(1)
    }

    pub(super) fn available(&self, slot: usize) -> bool {
        let known = |version: &VersionState| !version.blind && version.standing.available();
        !self.unreadable && self.versions.get(slot).is_some_and(known)
    }

    pub(super) fn epoch(&self, slot: usize) -> u32 {
        self.versions.get(slot).map_or(0, |version| version.standing.epoch)
    }

    /// The versions in these places.
    pub(super) fn versions<'a>(&'a self, slots: &'a [usize]) -> impl Iterator<Item = &'a VersionState> {
        slots.iter().filter_map(|slot| self.versions.get(*slot))
    }

    /// Counts an event of a version, if it is of the present release and the version's present epoch; merges and judges when that is due.
    pub(super) fn record(
        &mut self,
        scene: Scene<'_>,
        (version, epoch): (usize, u32),
        event: Event,
        notes: &mut Notes,
    ) {
        let Scene { deployment, slots, now, .. } = scene;
        let slot = slots.get(version).copied().unwrap_or(usize::MAX);
        let Some(held) = self.versions.get_mut(slot) else { return };
        if self.superseded || held.standing.epoch != epoch {
            notes.drop(Dropped::LateResult, 1);
            return;
        }
        held.pending.add(event);
        self.dirty |= !held.pending.is_empty();
        let failed = matches!(event, Event::Broke | Event::Answered { outcome: Outcome::Bad, .. });
        let suffering = failed && version != deployment.stable;
        if self.dirty && (suffering || now.mono.since(self.merged_at) >= MERGE_AFTER) {
            self.flush(scene, notes);
        }
    }

    /// What is due without a request: leftovers to merge, standings to read, verdicts to look at again.
    pub(super) fn tick(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { store, now, .. } = scene;
        if self.superseded {
            return;
        }
        if self.dirty && now.mono.since(self.merged_at) >= MERGE_AFTER {
            self.flush(scene, notes);
        }
        if self.looked_at.is_none_or(|at| now.mono.since(at) >= IDLE_AFTER) {
            self.looked_at = Some(now.mono);
            self.refresh(store, now.mono, REFRESH_AFTER, notes);
            self.look_again(scene, notes);
        }
    }

    /// Reads the standings if the copy is older than `after` microseconds.
    pub(super) fn refresh(&mut self, store: &dyn Store, now: Micros, after: u64, notes: &mut Notes) {
        if self.read_at.is_some_and(|at| now.since(at) < after) {
            return;
        }
        self.read_at = Some(now);
        match store.get(&self.standings_key) {
            Ok(found) => match Standings::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
                Found::Nothing => {
                    self.unreadable = false;
                    self.republish(store);
                }
                Found::Value(standings) => {
                    self.unreadable = false;
                    self.adopt(&standings);
                }
                Found::Undecodable => {
                    self.unreadable = true;
                    notes.drop(Dropped::Undecodable, 1);
                }
            },
            Err(_) => {
                self.unreadable = true;
                notes.drop(Dropped::Refused, 1);
            }
        }
    }

    /// The record is gone (a worker that had dropped this release buried it while this one still serves it): what is known
    /// here goes back, so that all workers agree, and on the safe side. Interference means that somebody else did it.
    fn republish(&self, store: &dyn Store) {
        let mut known = Standings::default();
        for version in self.versions.iter().filter(|version| version.standing != Standing::NEW) {
            known.put(&version.id, version.standing.clone());
        }
        if !known.0.is_empty() {
            let _ = update(store, &self.standings_key, &mut |bytes| match Standings::decode(bytes) {
                Found::Nothing => Change::Write(known.encode(), ()),
                Found::Value(_) | Found::Undecodable => Change::Keep(()),
            });
        }
    }

    /// Takes over what the record says, unless it is older than what is known here: a value that was lost or dropped must
    /// not bring a canary back.
    fn adopt(&mut self, standings: &Standings) {
        for version in &mut self.versions {
            if let Some(shared) = standings.get(&version.id)
                && shared.epoch >= version.standing.epoch
            {
                if shared.epoch > version.standing.epoch {
                    version.pending = Delta::default();
                }
                version.standing = shared.clone();
            }
        }
    }

    /// Merges everything that waits, and judges the canaries that were merged.
    fn flush(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, now, .. } = scene;
        self.merged_at = now.mono;
        self.dirty = false;
        let mut merged: Vec<(usize, Snapshot)> = Vec::new();
        for (version, slot) in slots.iter().enumerate() {
            let Some(held) = self.versions.get_mut(*slot).filter(|held| !held.pending.is_empty()) else {
                continue;
            };
            match merge(scene, held) {
                Ok(Merged::Into(snapshot)) => {
                    held.pending = Delta::default();
                    merged.push((version, snapshot));
                }
                Ok(Merged::Late) => {
                    notes.drop(Dropped::LateResult, held.pending.outcomes());
                    held.pending = Delta::default();
                    self.read_at = None;
                }
                Ok(Merged::Undecodable) => {
                    notes.drop(Dropped::Undecodable, held.pending.outcomes().max(1));
                    held.pending = Delta::default();
                    held.blind = true;
                }
                Err(error) => {
                    self.dirty = true;
                    notes.drop(
                        match error {
                            StoreError::Mismatch => Dropped::MergeDeferred,
                            StoreError::Refused => Dropped::Refused,
                        },
                        1,
                    );
                }
            }
        }
        let stable = merged.iter().find(|(version, _)| *version == deployment.stable).map(|(_, s)| s.clone());
        for (version, snapshot) in &merged {
            if *version != deployment.stable {
                self.judge(scene, *version, snapshot, stable.as_ref(), notes);
            }
        }
    }

    /// Judges canaries with something against them although nothing was merged here: their trouble may have left the window,
    /// other workers may have seen more, or the last verdict could not be written.
    fn look_again(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, .. } = scene;
        for (version, slot) in slots.iter().enumerate() {
            let Some(held) = self.versions.get_mut(*slot) else { continue };
            if version != deployment.stable
                && (held.blind || held.evidence > 0 || matches!(held.standing.phase, Phase::Holding(_)))
            {
                let found = snapshot_of(scene, held, notes);
                held.blind = found.is_none();
                let Some(snapshot) = found else { continue };
                self.judge(scene, version, &snapshot, None, notes);
            }
        }
    }

    fn judge(
        &mut self,
        scene: Scene<'_>,
        version: usize,
        canary: &Snapshot,
        stable: Option<&Snapshot>,
        notes: &mut Notes,
    ) {
        let Scene { deployment, slots, store, now } = scene;
        let guard = &deployment.guard;
        let slot = slots.get(version).copied().unwrap_or(usize::MAX);
        let Some(held) = self.versions.get_mut(slot) else { return };
        held.evidence = verdict::evidence(guard, canary);
        if !verdict::any_exceeded(guard, canary) {
            let signal = Signal::Pass { now: now.mono, window: guard.window };
            if held.standing.on(&signal).is_some() {
                self.transit(slot, signal, canary, &Snapshot::default(), store, notes);
            }
            return;
        }
        let mut read;
        let stable = match stable {
            Some(stable) => stable,
            None => {
                let slot = slots.get(deployment.stable).and_then(|slot| self.versions.get(*slot));
                read = slot.and_then(|held| snapshot_of(scene, held, notes));
                // Stable's numbers cannot excuse a canary if they cannot be read.
                read.get_or_insert_default()
            }
        };
        let cause = |limit: Limit| Cause {
            label: limit.label().to_owned(),
            text: verdict::explain(limit, guard, canary, stable),
            since: now.mono,
            wall: now.wall,
        };
        let signal = match (verdict::judge(guard, canary, stable), guard.mode) {
            (Verdict::Fail(limit), GuardMode::Enforce) => Signal::Fail(cause(limit)),
            (Verdict::Fail(limit), GuardMode::Observe) => Signal::WouldFail(cause(limit)),
            (Verdict::Shared(limit), _) => Signal::Shared(cause(limit)),
            (Verdict::Pass | Verdict::Inconclusive, _) => return,
        };
        if self.versions.get(slot).is_some_and(|held| held.standing.on(&signal).is_some()) {
            self.transit(slot, signal, canary, stable, store, notes);
        }
    }

    /// Makes a transition in the shared record. It is reported by the worker whose write made it.
    fn transit(
        &mut self,
        slot: usize,
        signal: Signal,
        canary: &Snapshot,
        stable: &Snapshot,
        store: &dyn Store,
        notes: &mut Notes,
    ) {
        let Some(held) = self.versions.get(slot) else { return };
        let (id, known) = (held.id.clone(), held.standing.clone());
        let moved = update(store, &self.standings_key, &mut |bytes| {
            let mut standings = match Standings::decode(bytes) {
                Found::Nothing => Standings::default(),
                Found::Value(standings) => standings,
                Found::Undecodable => return Change::Keep(Moved::Undecodable),
            };
            // What is known here counts if the record is older or gone.
            let current = match standings.get(&id) {
                Some(shared) if shared.epoch >= known.epoch => shared.clone(),
                _ => known.clone(),
            };
            if current.epoch > known.epoch {
                return Change::Keep(Moved::Lost(Some(standings)));
            }
            match current.on(&signal) {
                Some(next) if standings.put(&id, next.clone()) => {
                    Change::Write(standings.encode(), Moved::Won(standings, next))
                }
                _ => Change::Keep(Moved::Lost(Some(standings))),
            }
        });
        match moved {
            Ok(Moved::Won(standings, next)) => {
                self.adopt(&standings);
                let cause = match &signal {
                    Signal::Fail(cause) | Signal::WouldFail(cause) | Signal::Shared(cause) => {
                        Some(cause.clone())
                    }
                    Signal::Pass { .. } => None,
                };
                let enforced = !matches!(signal, Signal::WouldFail(_));
                notes.transitions.push(Transition {
                    deployment: self.name.clone(),
                    release: self.release.clone(),
                    version: id,
                    epoch: next.epoch,
                    from: known.phase.name(),
                    to: if enforced { next.phase.name() } else { "rolled_back" },
                    enforced,
                    cause,
                    canary: (canary.tally.judged, canary.tally.bad),
                    stable: (stable.tally.judged, stable.tally.bad),
                });
            }
            Ok(Moved::Lost(standings)) => {
                if let Some(standings) = standings {
                    self.adopt(&standings);
                }
            }
            Ok(Moved::Undecodable) => {
                self.unreadable = true;
                notes.drop(Dropped::Undecodable, 1);
            }
            Err(StoreError::Mismatch) => notes.drop(Dropped::VerdictDeferred, 1),
            Err(StoreError::Refused) => notes.drop(Dropped::Refused, 1),
        }
    }

    /// Replaces this release's shared values by tombstones. Nothing can be done about a refusal.
    pub(super) fn bury(&self, store: &dyn Store) {
        let keys = self.versions.iter().map(|version| &version.stats_key).chain([&self.standings_key]);
        for key in keys {
            if let Ok(Some(found)) = store.get(key)
                && found.bytes != TOMBSTONE
            {
                let _ = store.set(key, TOMBSTONE, Expected::Version(found.token));
            }
        }
    }
}

fn merge(scene: Scene<'_>, held: &VersionState) -> Result<Merged, StoreError> {
    let Scene { deployment, store, now, .. } = scene;
    let window = deployment.guard.window;
    let epoch = held.standing.epoch;
    update(store, &held.stats_key, &mut |bytes| {
        let mut stats = match Stats::decode(bytes) {
            Found::Nothing => Stats::new(epoch, window),
            Found::Value(stats) => stats,
            Found::Undecodable => return Change::Keep(Merged::Undecodable),
        };
        if stats.epoch > epoch {
            return Change::Keep(Merged::Late);
        }
        if stats.epoch < epoch {
            stats.restart(epoch, window);
        }
        stats.window.resize(window);
        stats.merge(&held.pending, now.mono);
        let snapshot = stats.snapshot(now.mono, window);
        Change::Write(stats.encode(), Merged::Into(snapshot))
    })
}

/// A version's shared numbers as they are now; `None` if they cannot be read.
fn snapshot_of(scene: Scene<'_>, held: &VersionState, notes: &mut Notes) -> Option<Snapshot> {
    let Scene { deployment, store, now, .. } = scene;
    let Ok(found) = store.get(&held.stats_key) else {
        notes.drop(Dropped::Refused, 1);
        return None;
    };
    match Stats::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
        Found::Value(stats) if stats.epoch == held.standing.epoch => {
            Some(stats.snapshot(now.mono, deployment.guard.window))
        }
        Found::Value(_) | Found::Nothing => Some(Snapshot::default()),
        Found::Undecodable => {
            notes.drop(Dropped::Undecodable, 1);
            None
        }
    }
}
