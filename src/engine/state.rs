//! One release of one deployment as a worker holds it: its copy of the standings, and what it has counted since it last
//! merged. Merging, judging and moving on happen here, and nowhere else.

use super::{Assigned, Dropped, IDLE_AFTER, MERGE_AFTER, Notes, REFRESH_AFTER, Transition};
use crate::codec::TOMBSTONE;
use crate::compare::{Comparison, Observed, Pending, Signal as Kind, YARDSTICK_MIN};
use crate::outcome::Outcome;
use crate::plan::{Deployment, GuardMode};
use crate::rollout::{Cause, Phase, Signal, Standing, Standings};
use crate::share::{Arm, Evidence, Odds};
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
    /// Moves on with every change that may change the shares in effect.
    pub(super) revision: u64,
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
            revision: 0,
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

    /// How far this canary is on its way to a rollback, in percent: the nearest of its limits, or the comparison.
    pub(super) fn percent(version: &VersionState) -> u64 {
        match version.standing.phase {
            Phase::RolledBack(_) => 100,
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
        if !assigned.choice.forced && deployment.guard.compare.is_some() {
            due |= self.observe(scene, assigned, event);
        }
        if self.dirty && due {
            self.flush(scene, notes);
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
                    version.compared.clear();
                }
                self.revision = self.revision.wrapping_add(u64::from(version.standing != *shared));
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
        let compare = deployment.guard.compare.as_ref()?;
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
        for (version, slot) in slots.iter().enumerate().filter(|(version, _)| *version != deployment.stable) {
            let Some(held) = self.versions.get_mut(*slot) else { continue };
            if let (Some(compare), Ok(Some(found))) =
                (&deployment.guard.compare, store.get(&held.compare_key))
                && let Found::Value(comparison) = Comparison::decode(Some(&found.bytes))
                && comparison.epoch == held.standing.epoch
            {
                held.at_zero = comparison.is_at_zero();
                held.compare_percent = comparison.percent(compare);
            }
            if held.blind || State::percent(held) > 0 || matches!(held.standing.phase, Phase::Holding(_)) {
                self.look_at(scene, version, None, notes);
            }
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
        let Some(held) = scene.slots.get(version).and_then(|slot| self.versions.get_mut(*slot)) else {
            return;
        };
        let found = snapshot_of(scene, held, notes);
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
        let Scene { deployment, slots, store, now } = scene;
        let guard = &deployment.guard;
        let slot = slots.get(version).copied().unwrap_or(usize::MAX);
        let Some(held) = self.versions.get_mut(slot) else { return };
        held.limits_percent = verdict::evidence(guard, canary);
        let exceeded = verdict::any_exceeded(guard, canary);
        if !exceeded && blame.is_none() {
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
