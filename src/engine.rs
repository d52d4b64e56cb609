//! The engine: one worker's part in the decision, and the only place where the parts meet.
//!
//! Requests and outcomes touch memory of this worker only. What was counted is merged into shared data in batches: at once
//! when a canary fails (somebody is suffering), otherwise when the last merge is older than [`MERGE_AFTER`]. Whoever merges
//! also judges, on what all workers have merged so far; whoever's verdict wins the compare-and-swap on the standings makes
//! the transition and reports it, so that each is reported once. All workers re-read the standings when their copy is older
//! than [`REFRESH_AFTER`]: within that a rollback is in force everywhere.
//!
//! What cannot be read is never taken for "all is well": the deployment then serves stable only, and says so in a count.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::codec::TOMBSTONE;
use crate::plan::{Deployment, GuardMode, Plan};
use crate::rollout::{Cause, Phase, Signal, Standing, Standings};
use crate::route::{self, Choice, RequestFacts};
use crate::stats::{Delta, Event, Found, Snapshot, Stats};
use crate::store::{Change, Expected, Store, StoreError, update};
use crate::units::{Bps, Micros, Now};
use crate::verdict::{self, Limit, Verdict};

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
    /// Binds a plan's deployments to their states, which are made where they do not exist.
    pub fn attach(&mut self, plan: &Plan) -> Vec<Binding> {
        plan.deployments
            .iter()
            .map(|deployment| {
                let key = (deployment.name.clone(), deployment.release.clone());
                let state = self.states.entry(key).or_insert_with(|| Rc::new(RefCell::new(State::new(deployment))));
                let state = Rc::clone(state);
                let slots = match state.try_borrow_mut() {
                    Ok(mut state) => deployment.versions.iter().map(|v| state.slot(deployment, &v.id)).collect(),
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
        let (version, epoch) = assigned;
        let Ok(mut state) = self.state.try_borrow_mut() else { return };
        if state.epoch(self.slot(version)) != epoch {
            notes.drop(Dropped::LateResult, 1);
            return;
        }
        let Some(held) = state.versions.get_mut(self.slot(version)) else { return };
        held.pending.add(event);
        let suffering = version != deployment.stable
            && matches!(
                event,
                Event::Broke | Event::Answered { outcome: crate::outcome::Outcome::Bad, .. }
            );
        state.dirty |= !state.pending_is_empty(self.slot(version));
        if state.dirty && (suffering || now.mono.since(state.merged_at) >= MERGE_AFTER) {
            state.flush(deployment, &self.slots, store, now, notes);
        }
    }

    /// What is due without a request: leftovers to merge, standings to read, held verdicts to lift.
    pub fn tick(&self, deployment: &Deployment, store: &dyn Store, now: Now, notes: &mut Notes) {
        let Ok(mut state) = self.state.try_borrow_mut() else { return };
        if state.dirty && now.mono.since(state.merged_at) >= MERGE_AFTER {
            state.flush(deployment, &self.slots, store, now, notes);
        }
        if state.refresh(store, now.mono, IDLE_AFTER, notes) {
            state.lift(deployment, &self.slots, store, now, notes);
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
        self.slots
            .iter()
            .filter_map(|slot| state.versions.get(*slot))
            .map(|version| version.standing.phase.gauge())
            .max()
            .unwrap_or(0)
    }

    /// How far the worst canary is on its way to a rollback, in percent, as of the last merge on this worker.
    pub fn evidence(&self) -> u64 {
        let Ok(state) = self.state.try_borrow() else { return 0 };
        self.slots
            .iter()
            .filter_map(|slot| state.versions.get(*slot))
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

/// What this worker holds of one release of one deployment.
struct State {
    name: String,
    release: String,
    standings_key: String,
    versions: Vec<VersionState>,
    /// When the standings were last read.
    read_at: Option<Micros>,
    merged_at: Micros,
    /// Something waits to be merged.
    dirty: bool,
    /// The standings could not be read: stable only.
    unreadable: bool,
}

struct VersionState {
    id: String,
    stats_key: String,
    standing: Standing,
    pending: Delta,
    evidence: u64,
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
    fn new(deployment: &Deployment) -> State {
        State {
            name: deployment.name.clone(),
            release: deployment.release.clone(),
            standings_key: ["bellwether/1/standings/", &deployment.name, "/", &deployment.release].concat(),
            versions: Vec::new(),
            read_at: None,
            merged_at: Micros(0),
            dirty: false,
            unreadable: false,
        }
    }

    /// The place of a version, made if it is new.
    fn slot(&mut self, deployment: &Deployment, id: &str) -> usize {
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

    fn available(&self, slot: usize) -> bool {
        let known = |version: &VersionState| !version.blind && version.standing.available();
        !self.unreadable && self.versions.get(slot).is_some_and(known)
    }

    fn epoch(&self, slot: usize) -> u32 {
        self.versions.get(slot).map_or(0, |version| version.standing.epoch)
    }

    fn pending_is_empty(&self, slot: usize) -> bool {
        self.versions.get(slot).is_none_or(|version| version.pending.is_empty())
    }

    /// Reads the standings if the copy is older than `after` microseconds. Returns whether it did.
    fn refresh(&mut self, store: &dyn Store, now: Micros, after: u64, notes: &mut Notes) -> bool {
        if self.read_at.is_some_and(|at| now.since(at) < after) {
            return false;
        }
        self.read_at = Some(now);
        match store.get(&self.standings_key) {
            Ok(found) => match Standings::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
                Found::Nothing => self.unreadable = false,
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
        true
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
    fn flush(
        &mut self,
        deployment: &Deployment,
        slots: &[usize],
        store: &dyn Store,
        now: Now,
        notes: &mut Notes,
    ) {
        self.merged_at = now.mono;
        self.dirty = false;
        let mut merged: Vec<(usize, Snapshot)> = Vec::new();
        for (version, slot) in slots.iter().enumerate() {
            let Some(held) = self.versions.get_mut(*slot).filter(|held| !held.pending.is_empty()) else { continue };
            match merge(store, held, deployment, now.mono) {
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
                self.judge(deployment, slots, *version, snapshot, stable.as_ref(), store, now, notes);
            }
        }
    }

    /// Judges canaries with something against them although nothing was merged here: their trouble may have left the window,
    /// other workers may have seen more, or the last verdict could not be written.
    fn lift(
        &mut self,
        deployment: &Deployment,
        slots: &[usize],
        store: &dyn Store,
        now: Now,
        notes: &mut Notes,
    ) {
        for (version, slot) in slots.iter().enumerate() {
            let Some(held) = self.versions.get_mut(*slot) else { continue };
            if version != deployment.stable
                && (held.blind || held.evidence > 0 || matches!(held.standing.phase, Phase::Holding(_)))
            {
                let found = snapshot_of(store, held, deployment, now.mono, notes);
                held.blind = found.is_none();
                let Some(snapshot) = found else { continue };
                self.judge(deployment, slots, version, &snapshot, None, store, now, notes);
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // The context of one decision; a struct for it would have this one user.
    fn judge(
        &mut self,
        deployment: &Deployment,
        slots: &[usize],
        version: usize,
        canary: &Snapshot,
        stable: Option<&Snapshot>,
        store: &dyn Store,
        now: Now,
        notes: &mut Notes,
    ) {
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
                read = slot.and_then(|held| snapshot_of(store, held, deployment, now.mono, notes));
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
                    Signal::Fail(cause) | Signal::WouldFail(cause) | Signal::Shared(cause) => Some(cause.clone()),
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
    fn bury(&self, store: &dyn Store) {
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

fn merge(
    store: &dyn Store,
    held: &VersionState,
    deployment: &Deployment,
    now: Micros,
) -> Result<Merged, StoreError> {
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
        stats.merge(&held.pending, now);
        let snapshot = stats.snapshot(now, window);
        Change::Write(stats.encode(), Merged::Into(snapshot))
    })
}

/// A version's shared numbers as they are now; `None` if they cannot be read.
fn snapshot_of(
    store: &dyn Store,
    held: &VersionState,
    deployment: &Deployment,
    now: Micros,
    notes: &mut Notes,
) -> Option<Snapshot> {
    let Ok(found) = store.get(&held.stats_key) else {
        notes.drop(Dropped::Refused, 1);
        return None;
    };
    match Stats::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
        Found::Value(stats) if stats.epoch == held.standing.epoch => {
            Some(stats.snapshot(now, deployment.guard.window))
        }
        Found::Value(_) | Found::Nothing => Some(Snapshot::default()),
        Found::Undecodable => {
            notes.drop(Dropped::Undecodable, 1);
            None
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
