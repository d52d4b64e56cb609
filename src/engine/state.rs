//! One release of one deployment as a worker holds it: its copy of the standings, and what it has counted since it last
//! merged. Merging, judging and moving on happen here, and nowhere else.

use super::{Assigned, Dropped, IDLE_AFTER, MERGE_AFTER, Notes, REFRESH_AFTER, Transition};
use crate::codec::TOMBSTONE;
use crate::compare::{Comparison, Observed, Pending, Signal as Kind, YARDSTICK_MIN};
use crate::hash::hash;
use crate::outcome::Outcome;
use crate::plan::{Deployment, GuardMode};
use crate::ramp::{Position, Sight};
use crate::rollout::{Cause, LEASE, Lease, Phase, Rules, Signal, Standing};
use crate::route::Access;
use crate::share::{Arm, Evidence, Odds};
use crate::standings::Standings;
use crate::stats::{Delta, Event, Found, Snapshot, Stats};
use crate::store::{Change, Expected, Store, StoreError, update};
use crate::units::{Micros, Millis, Now};
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
    /// Moves on with every change that may change the shares in effect.
    pub(super) revision: u64,
    /// Where the ramp is.
    position: Option<Position>,
    /// Above this a response is slow: the upper border of stable's 95th percentile.
    yardstick: Option<Micros>,
}

pub(super) struct VersionState {
    id: String,
    stats_key: String,
    compare_key: String,
    pub(super) standing: Standing,
    pending: Delta,
    /// For the comparison with stable; unused in stable's own place.
    compared: Pending,
    /// Nothing was held against this canary when the comparison was last read.
    at_zero: bool,
    /// How far the limits are, and how far the comparison is, in percent.
    limits_percent: u64,
    compare_percent: u64,
    /// Judged outcomes since the release was first seen, when the record was last looked at.
    total: u64,
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
    /// This worker made it: the record, the standing before and after.
    Won(Standings, Standing, Standing),
    /// Nothing to do; the record as it is.
    Lost(Standings),
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
            revision: 0,
            position: None,
            yardstick: None,
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
            compare_key: ["bellwether/1/compare/", &deployment.name, "/", &deployment.release, "/", id]
                .concat(),
            standing: Standing::NEW,
            pending: Delta::default(),
            compared: Pending::default(),
            at_zero: true,
            limits_percent: 0,
            compare_percent: 0,
            total: 0,
            blind: false,
        });
        // The standing of a version that was away comes from the record.
        self.read_at = None;
        self.versions.len().saturating_sub(1)
    }

    /// Whether a canary may be given traffic.
    pub(super) fn access(&self, slot: usize) -> Access {
        match self.versions.get(slot) {
            Some(version) if !self.unreadable && !version.blind => match version.standing.phase {
                Phase::Active | Phase::Holding(_) => Access::Open,
                Phase::Probing { .. } => Access::Probe,
                Phase::RolledBack { .. } => Access::Shut,
            },
            _ => Access::Shut,
        }
    }

    /// Stage of the ramp.
    pub(super) fn stage(&self) -> Option<u32> {
        self.position.and_then(|position| position.stage)
    }

    pub(super) fn epoch(&self, slot: usize) -> u32 {
        self.versions.get(slot).map_or(0, |version| version.standing.epoch)
    }

    /// The versions in these places.
    pub(super) fn versions<'a>(&'a self, slots: &'a [usize]) -> impl Iterator<Item = &'a VersionState> {
        slots.iter().filter_map(|slot| self.versions.get(*slot))
    }

    /// How far this canary is on its way to a rollback, in percent: the nearest of its limits, or the comparison.
    pub(super) fn percent(version: &VersionState) -> u64 {
        match version.standing.phase {
            Phase::RolledBack { .. } => 100,
            _ => version.limits_percent.max(version.compare_percent),
        }
    }

    /// Counts an event of a version, if it is of the version's present epoch; merges and judges when that is due.
    pub(super) fn record(&mut self, scene: Scene<'_>, assigned: &Assigned, event: Event, notes: &mut Notes) {
        let Scene { deployment, slots, now, .. } = scene;
        let version = assigned.choice.version;
        let slot = slots.get(version).copied().unwrap_or(usize::MAX);
        let Some(held) = self.versions.get_mut(slot) else { return };
        if held.standing.epoch != assigned.epoch {
            notes.drop(Dropped::LateResult, 1);
            return;
        }
        held.pending.add(event);
        self.dirty |= !held.pending.is_empty();
        let mut due = now.mono.since(self.merged_at) >= MERGE_AFTER;
        let failed = matches!(event, Event::Broke | Event::Answered { outcome: Outcome::Bad, .. });
        due |= failed && version != deployment.stable;
        if !assigned.choice.forced && deployment.guard_at(assigned.stage).compare.is_some() {
            due |= self.observe(scene, assigned, event);
        }
        if self.dirty && due {
            self.flush(scene, notes);
        }
        if let (true, Some(lease)) = (failed, assigned.lease) {
            self.probed(scene, assigned, lease, Some(false), notes);
        }
    }

    /// Holds an event back for the comparisons that it belongs to. Returns whether they should be merged at once.
    fn observe(&mut self, scene: Scene<'_>, assigned: &Assigned, event: Event) -> bool {
        let Scene { deployment, slots, now, .. } = scene;
        let share = |version: usize| assigned.shares.get(version).copied().unwrap_or(0);
        let (yardstick, identity) = (self.yardstick, assigned.choice.identity);
        let mut full = false;
        for (canary, slot) in slots.iter().enumerate() {
            let arm = match assigned.choice.version {
                version if version == canary => Arm::Canary,
                version if version == deployment.stable => Arm::Stable,
                _ => continue,
            };
            if let (true, Some(held)) = (canary != deployment.stable, self.versions.get_mut(*slot)) {
                let odds = Odds { canary: share(canary), stable: share(deployment.stable) };
                held.compared.add(Observed { arm, odds, identity, event, yardstick }, now);
                full |= held.compared.is_full();
            }
        }
        full
    }

    /// What is due without a request: leftovers to merge, standings to read, verdicts to look at again.
    pub(super) fn tick(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { store, now, .. } = scene;
        if self.dirty && now.mono.since(self.merged_at) >= MERGE_AFTER {
            self.flush(scene, notes);
        }
        if self.looked_at.is_none_or(|at| now.mono.since(at) >= IDLE_AFTER) {
            self.looked_at = Some(now.mono);
            self.refresh(store, now.mono, REFRESH_AFTER, notes);
            self.look_again(scene, notes);
            self.look_at_ramp(scene, notes);
        }
    }

    /// Reads the standings if the copy is older than `after` microseconds.
    pub(super) fn refresh(&mut self, store: &dyn Store, now: Micros, after: u64, notes: &mut Notes) {
        if self.read_at.is_some_and(|at| now.since(at) < after) {
            return;
        }
        self.read_at = Some(now);
        let was_unreadable = self.unreadable;
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
        self.revision = self.revision.wrapping_add(u64::from(was_unreadable != self.unreadable));
    }

    /// The record is gone (a worker that had dropped this release buried it while this one still serves it): what is known
    /// here goes back, so that all workers agree, and on the safe side. Interference means that somebody else did it.
    fn republish(&self, store: &dyn Store) {
        let mut known = Standings::default();
        for version in self.versions.iter().filter(|version| version.standing != Standing::NEW) {
            known.put(&version.id, version.standing.clone());
        }
        known.ramp = self.position;
        if known != Standings::default() {
            let _ = update(store, &self.standings_key, &mut |bytes| match Standings::decode(bytes) {
                Found::Nothing => Change::Write(known.encode(), ()),
                Found::Value(_) | Found::Undecodable => Change::Keep(()),
            });
        }
    }

    /// Takes over what the record says, unless it is older than what is known here: a value that was lost or dropped must
    /// not bring a canary back.
    fn adopt(&mut self, standings: &Standings) {
        let mut changed = false;
        for version in &mut self.versions {
            if let Some(shared) = standings.get(&version.id)
                && shared.epoch >= version.standing.epoch
            {
                if shared.epoch > version.standing.epoch {
                    version.pending = Delta::default();
                    version.compared.clear();
                    version.limits_percent = 0;
                    version.compare_percent = 0;
                }
                changed |= version.standing != *shared;
                version.standing = shared.clone();
            }
        }
        if let Some(position) = standings.ramp {
            changed |= self.stage() != position.stage;
            self.position = Some(position);
        }
        self.revision = self.revision.wrapping_add(u64::from(changed));
    }

    /// Merges everything that waits, and judges the canaries that were merged.
    fn flush(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, now, .. } = scene;
        let window = deployment.guard_at(self.stage()).window;
        self.merged_at = now.mono;
        self.dirty = false;
        let mut merged: Vec<(usize, Snapshot)> = Vec::new();
        for (version, slot) in slots.iter().enumerate() {
            let Some(held) = self.versions.get_mut(*slot).filter(|held| !held.pending.is_empty()) else {
                continue;
            };
            match merge(scene, held, window) {
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
                    self.revision = self.revision.wrapping_add(1);
                }
                Err(error) => {
                    self.dirty = true;
                    notes.drop(Dropped::of(error), 1);
                }
            }
        }
        let stable = merged.iter().find(|(version, _)| *version == deployment.stable).map(|(_, s)| s.clone());
        if let Some(stable) = &stable {
            let enough = stable.tally.latency.count() >= YARDSTICK_MIN;
            self.yardstick = stable.tally.latency.percentile_ceiling(9500).filter(|_| enough);
        }
        for (version, _) in slots.iter().enumerate() {
            if version == deployment.stable {
                continue;
            }
            let blame = self.compare(scene, version, notes);
            match merged.iter().find(|(merged, _)| *merged == version) {
                Some((_, snapshot)) => self.judge(scene, version, snapshot, stable.as_ref(), blame, notes),
                None if blame.is_some() => self.look_at(scene, version, blame, notes),
                None => {}
            }
        }
    }

    /// Merges what is held back for a canary's comparison with stable. Returns the evidence that suffices against it.
    fn compare(&mut self, scene: Scene<'_>, version: usize, notes: &mut Notes) -> Option<(Kind, Evidence)> {
        let Scene { deployment, slots, store, .. } = scene;
        let compare = deployment.guard_at(self.stage()).compare.as_ref()?;
        let held = slots.get(version).and_then(|slot| self.versions.get_mut(*slot))?;
        if held.compared.is_quiet() && held.at_zero {
            // Good outcomes do not move a comparison at zero.
            held.compared.clear();
            return None;
        }
        let epoch = held.standing.epoch;
        let merged = update(store, &held.compare_key, &mut |bytes| {
            let mut comparison = match Comparison::decode(bytes) {
                Found::Nothing => Comparison::new(epoch),
                Found::Value(comparison) => comparison,
                Found::Undecodable => return Change::Keep(None),
            };
            if comparison.epoch > epoch {
                return Change::Keep(Some(comparison));
            }
            if comparison.epoch < epoch {
                comparison = Comparison::new(epoch);
            }
            comparison.merge(&held.compared, compare);
            Change::Write(comparison.encode(), Some(comparison))
        });
        match merged {
            Ok(Some(comparison)) => {
                held.compared.clear();
                held.at_zero = comparison.is_at_zero();
                held.compare_percent = comparison.percent(compare);
                comparison.verdict(compare).filter(|_| comparison.epoch == epoch)
            }
            Ok(None) => {
                held.compared.clear();
                held.blind = true;
                self.revision = self.revision.wrapping_add(1);
                notes.drop(Dropped::Undecodable, 1);
                None
            }
            Err(error) => {
                // Held back for the next merge, unless it grows too long: then what is oldest is not worth more.
                if held.compared.is_full() {
                    held.compared.clear();
                }
                self.dirty = true;
                notes.drop(Dropped::of(error), 1);
                None
            }
        }
    }

    /// Judges canaries with something against them although nothing was merged here: their trouble may have left the window,
    /// other workers may have seen more, or the last verdict could not be written.
    fn look_again(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, store, .. } = scene;
        let compare = deployment.guard_at(self.stage()).compare;
        for (version, slot) in slots.iter().enumerate().filter(|(version, _)| *version != deployment.stable) {
            let Some(held) = self.versions.get_mut(*slot) else { continue };
            if let (Some(compare), Ok(Some(found))) = (&compare, store.get(&held.compare_key))
                && let Found::Value(comparison) = Comparison::decode(Some(&found.bytes))
                && comparison.epoch == held.standing.epoch
            {
                held.at_zero = comparison.is_at_zero();
                held.compare_percent = comparison.percent(compare);
            }
            let (percent, phase) = (State::percent(held), &held.standing.phase);
            if held.blind || percent > 0 || matches!(phase, Phase::Holding(_)) {
                self.look_at(scene, version, None, notes);
            }
            self.signal(scene, *slot, Signal::Time(scene.now.mono), None, notes);
        }
    }

    /// Judges a canary by its shared numbers as they are.
    fn look_at(
        &mut self,
        scene: Scene<'_>,
        version: usize,
        blame: Option<(Kind, Evidence)>,
        notes: &mut Notes,
    ) {
        let window = scene.deployment.guard_at(self.stage()).window;
        let Some(held) = scene.slots.get(version).and_then(|slot| self.versions.get_mut(*slot)) else {
            return;
        };
        let found = snapshot_of(scene, held, window, notes);
        self.revision = self.revision.wrapping_add(u64::from(held.blind == found.is_some()));
        held.blind = found.is_none();
        if let Some(snapshot) = found {
            self.judge(scene, version, &snapshot, None, blame, notes);
        }
    }

    fn judge(
        &mut self,
        scene: Scene<'_>,
        version: usize,
        canary: &Snapshot,
        stable: Option<&Snapshot>,
        blame: Option<(Kind, Evidence)>,
        notes: &mut Notes,
    ) {
        let Scene { deployment, slots, now, .. } = scene;
        let guard = deployment.guard_at(self.stage());
        let slot = slots.get(version).copied().unwrap_or(usize::MAX);
        let Some(held) = self.versions.get_mut(slot) else { return };
        held.limits_percent = verdict::evidence(guard, canary);
        let exceeded = verdict::any_exceeded(guard, canary);
        if !exceeded && blame.is_none() {
            let signal = Signal::Pass { now: now.mono, window: guard.window };
            return self.signal(scene, slot, signal, None, notes);
        }
        let mut read;
        let stable = match stable {
            Some(stable) => stable,
            None => {
                let slot = slots.get(deployment.stable).and_then(|slot| self.versions.get(*slot));
                read = slot.and_then(|held| snapshot_of(scene, held, guard.window, notes));
                // Stable's numbers cannot excuse a canary if they cannot be read.
                read.get_or_insert_default()
            }
        };
        let found = if exceeded { verdict::judge(guard, canary, stable) } else { Verdict::Pass };
        let cause = |label: &str, text: String| Cause {
            label: label.to_owned(),
            text,
            since: now.mono,
            wall: now.wall,
        };
        let limit = |limit: Limit| cause(limit.label(), verdict::explain(limit, guard, canary, stable));
        let enforce = guard.mode == GuardMode::Enforce;
        let fail = |cause| if enforce { Signal::Fail(cause) } else { Signal::WouldFail(cause) };
        // A limit is named before the comparison; the comparison blames the canary also in shared trouble.
        let signal = match (found, blame) {
            (Verdict::Fail(broken), _) => fail(limit(broken)),
            (_, Some((kind, evidence))) => fail(cause(kind.label(), compared(kind, &evidence))),
            (Verdict::Shared(broken), None) => Signal::Shared(limit(broken)),
            (Verdict::Pass | Verdict::Inconclusive, None) => return,
        };
        self.signal(scene, slot, signal, Some((canary, stable)), notes);
    }

    /// Gives a signal to a version's standing and, if it changes something, makes the transition in the shared record. It is
    /// reported by the worker whose write made it.
    fn signal(
        &mut self,
        scene: Scene<'_>,
        slot: usize,
        signal: Signal,
        seen: Option<(&Snapshot, &Snapshot)>,
        notes: &mut Notes,
    ) {
        let Some(held) = self.versions.get(slot) else { return };
        let rules = Rules { recovery: scene.deployment.recovery, random: jitter(held, &signal, scene.now) };
        if held.standing.on(&signal, rules).is_none() {
            return;
        }
        let (id, known, total) = (held.id.clone(), held.standing.clone(), held.total);
        let moved = self.transit(scene.store, slot, &signal, rules, total);
        match moved {
            Ok(Moved::Won(standings, before, after)) => {
                self.adopt(&standings);
                let would = matches!(signal, Signal::WouldFail(_));
                if before.phase.name() == after.phase.name() && !would {
                    return;
                }
                let cause = match &signal {
                    Signal::Fail(cause)
                    | Signal::WouldFail(cause)
                    | Signal::Shared(cause)
                    | Signal::Probed(_, Err(cause)) => Some(cause.clone()),
                    _ => None,
                };
                let counts = |snapshot: &Snapshot| (snapshot.tally.judged, snapshot.tally.bad);
                notes.transitions.push(Transition {
                    deployment: self.name.clone(),
                    release: self.release.clone(),
                    version: id,
                    epoch: after.epoch,
                    from: known.phase.name(),
                    to: if would { "rolled_back" } else { after.phase.name() },
                    stage: self.stage(),
                    enforced: !would,
                    cause,
                    canary: seen.map(|(canary, _)| counts(canary)).unwrap_or_default(),
                    stable: seen.map(|(_, stable)| counts(stable)).unwrap_or_default(),
                });
            }
            Ok(Moved::Lost(standings)) => self.adopt(&standings),
            Ok(Moved::Undecodable) => {
                self.unreadable = true;
                self.revision = self.revision.wrapping_add(1);
                notes.drop(Dropped::Undecodable, 1);
            }
            Err(StoreError::Mismatch) => notes.drop(Dropped::VerdictDeferred, 1),
            Err(StoreError::Refused) => notes.drop(Dropped::Refused, 1),
        }
    }

    fn transit(
        &self,
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
                Found::Undecodable => return Change::Keep(Moved::Undecodable),
            };
            // What is known here counts if the record is older or gone.
            let current = match standings.get(&held.id) {
                Some(shared) if shared.epoch >= held.standing.epoch => shared.clone(),
                _ => held.standing.clone(),
            };
            if current.epoch > held.standing.epoch {
                return Change::Keep(Moved::Lost(standings));
            }
            match current.on(signal, rules) {
                Some(next) if standings.put(&held.id, next.clone()) => {
                    if matches!((&current.phase, &next.phase), (Phase::Probing { .. }, Phase::Active)) {
                        standings.ramp = standings.ramp.map(|position| position.restarted(total));
                    }
                    Change::Write(standings.encode(), Moved::Won(standings, current, next))
                }
                _ => Change::Keep(Moved::Lost(standings)),
            }
        })
    }

    /// A place as a probe for a request, if one is free.
    pub(super) fn lend(
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
        let moved = self.transit(store, slot, &signal, rules, 0).ok()?;
        let (standings, won) = match moved {
            Moved::Won(standings, ..) => (standings, true),
            Moved::Lost(standings) => (standings, false),
            Moved::Undecodable => return None,
        };
        self.adopt(&standings);
        won.then_some(lease.id)
    }

    /// A probe is over.
    pub(super) fn probed(
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
    fn look_at_ramp(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, store, now } = scene;
        let Some(ramp) = &deployment.ramp else { return };
        // Under a ramp there is exactly one canary.
        let canary = slots.iter().enumerate().find(|(version, _)| *version != deployment.stable);
        let Some(held) = canary.and_then(|(_, slot)| self.versions.get_mut(*slot)) else { return };
        if let Ok(Some(found)) = store.get(&held.stats_key)
            && let Found::Value(stats) = Stats::decode(Some(&found.bytes))
        {
            held.total = stats.total;
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
                Found::Undecodable => return Change::Keep(None),
            };
            let (position, begun) = match standings.ramp {
                None => (Position::first(ramp, now), false),
                Some(held) if now.mono.since(held.looked_at) < IDLE_AFTER => return Change::Keep(None),
                Some(held) => held.look(ramp, sight),
            };
            standings.ramp = Some(position);
            Change::Write(standings.encode(), Some((standings, begun)))
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
                        from: "active",
                        to: "active",
                        stage: self.stage(),
                        enforced: true,
                        cause: None,
                        canary: (sight.outcomes, 0),
                        stable: (0, 0),
                    });
                }
            }
            Ok(None) => {}
            Err(error) => notes.drop(Dropped::of(error), 1),
        }
    }

    /// Replaces this release's shared values by tombstones. Nothing can be done about a refusal.
    pub(super) fn bury(&self, store: &dyn Store) {
        let of_versions = self.versions.iter().flat_map(|version| [&version.stats_key, &version.compare_key]);
        let keys = of_versions.chain([&self.standings_key]);
        for key in keys {
            if let Ok(Some(found)) = store.get(key)
                && found.bytes != TOMBSTONE
            {
                let _ = store.set(key, TOMBSTONE, Expected::Version(found.token));
            }
        }
    }
}

/// Random enough to spread the probes of many Envoys, and the same for every try of one transition.
fn jitter(held: &VersionState, signal: &Signal, now: Now) -> u64 {
    let lease = if let Signal::Probed(id, _) = signal { *id } else { 0 };
    hash(&[held.id.as_bytes(), &now.mono.0.to_le_bytes(), &now.wall.0.to_le_bytes(), &lease.to_le_bytes()])
}

/// Says why a comparison blames the canary, with the numbers it is based on.
fn compared(kind: Kind, evidence: &Evidence) -> String {
    let (counts, what) = (
        &evidence.counts,
        match kind {
            Kind::Errors => "failed",
            Kind::Slow => "were slower than stable's p95",
        },
    );
    format!(
        "{} of {} {what} while of stable's {} of {} did (score {:.1}, limit {:.1})",
        counts.canary_bad, counts.canary, counts.stable_bad, counts.stable, evidence.score, evidence.limit
    )
}

fn merge(scene: Scene<'_>, held: &VersionState, window: Millis) -> Result<Merged, StoreError> {
    let Scene { store, now, .. } = scene;
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
fn snapshot_of(scene: Scene<'_>, held: &VersionState, window: Millis, notes: &mut Notes) -> Option<Snapshot> {
    let Scene { store, now, .. } = scene;
    let Ok(found) = store.get(&held.stats_key) else {
        notes.drop(Dropped::Refused, 1);
        return None;
    };
    match Stats::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
        Found::Value(stats) if stats.epoch == held.standing.epoch => Some(stats.snapshot(now.mono, window)),
        Found::Value(_) | Found::Nothing => Some(Snapshot::default()),
        Found::Undecodable => {
            notes.drop(Dropped::Undecodable, 1);
            None
        }
    }
}
