//! One release of one deployment as a worker holds it: its copy of the standings, and what it has counted since it last
//! merged. Merging, judging and moving on happen here, and nowhere else.

use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::{Assigned, IDLE_AFTER, MERGE_AFTER, Notes};
use crate::judge::comparison::{Observed, Pending};
use crate::judge::scores::{Arm, Odds};
use crate::judge::stats::Delta;
use crate::outcome::Outcome;
use crate::outcome::blame::Event;
use crate::plan::Deployment;
use crate::rollout::ramp::Position;
use crate::rollout::standings::Standings;
use crate::rollout::{Phase, Standing};
use crate::route::Access;
use crate::shared::REFRESH_AFTER;
use crate::shared::codec::{Found, TOMBSTONE};
use crate::shared::dropped::Dropped;
use crate::shared::names::{COMPARE, STANDINGS, STATS};
use crate::shared::store::{Change, Expected, Store, update};
use crate::time::{Micros, Now, Span};

/// Ids of requests kept as evidence: enough to find them in an access log.
const BAD_REQUESTS: usize = 5;

/// Where and when something is decided: the plan's deployment with its versions' places in the state, the store, the time.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) slots: &'a [usize],
    pub(super) generation: &'a Rc<()>,
    pub(super) store: &'a dyn Store,
    pub(super) now: Now,
}

/// What this worker holds of one release of one deployment.
pub(super) struct State {
    pub(super) name: String,
    pub(super) release: String,
    pub(super) standings_key: String,
    pub(super) versions: Vec<VersionState>,
    /// When the standings were last read.
    pub(super) read_at: Option<Micros>,
    pub(super) merged_at: Micros,
    /// When verdicts were last looked at without a request.
    pub(super) looked_at: Option<Micros>,
    /// Something waits to be merged.
    pub(super) dirty: bool,
    /// The standings could not be read: stable only.
    pub(super) unreadable: bool,
    /// Another release has taken this one's place, and no request was assigned under this one since: late results decide
    /// nothing.
    pub(super) superseded: bool,
    /// Of the plans bound to this state the one last bound, or last used for a new request. While it lives, only it judges and
    /// moves the ramp: one that only a stream still under way keeps has another idea of limits, recovery and stages.
    pub(super) newest: Weak<()>,
    /// Moves on with every change that may change the shares in effect.
    pub(super) revision: u64,
    /// Stable's last outcome on this worker was a failure.
    pub(super) stable_failing: bool,
    /// Where the ramp is.
    pub(super) position: Option<Position>,
    /// Above this a response is slow: the upper border of stable's 95th percentile.
    pub(super) yardstick: Option<Span>,
}

pub(super) struct VersionState {
    pub(super) id: String,
    /// Begins with [`STATS`]. There may be thousands of versions, so it is the only key that is held.
    pub(super) stats_key: String,
    pub(super) standing: Standing,
    pub(super) pending: Delta,
    /// For the comparison with stable; unused in stable's own place.
    pub(super) compared: Pending,
    /// Nothing was held against this canary when the comparison was last read.
    pub(super) at_zero: bool,
    /// How far the limits are, and how far the comparison is, in percent.
    pub(super) limits_percent: u64,
    pub(super) compare_percent: u64,
    /// Judged outcomes since the release was first seen, when the record was last looked at.
    pub(super) total: u64,
    /// Ids of the last requests that went badly on this worker.
    pub(super) bad_requests: VecDeque<Rc<str>>,
    /// Its numbers could not be read: whether it fails cannot be known, so it gets nothing.
    pub(super) blind: bool,
    /// Held by every plan on this worker that has this version, streams still under way included.
    pub(super) claim: Rc<()>,
    /// What was shared of it is dropped.
    pub(super) dropped: bool,
}

impl State {
    pub(super) fn new(deployment: &Deployment) -> State {
        State {
            name: deployment.name.clone(),
            release: deployment.release.clone(),
            standings_key: [STANDINGS, &deployment.name, "/", &deployment.release].concat(),
            versions: Vec::with_capacity(deployment.versions.len()),
            read_at: None,
            merged_at: Micros(0),
            looked_at: None,
            dirty: false,
            unreadable: false,
            superseded: false,
            newest: Weak::new(),
            revision: 0,
            position: None,
            stable_failing: false,
            yardstick: None,
        }
    }

    /// The place of a version, made if it is new, and the claim to it.
    pub(super) fn slot(&mut self, deployment: &Deployment, id: &str) -> (usize, Rc<()>) {
        let held = self.versions.iter().position(|version| version.id == id);
        let slot = held.unwrap_or(self.versions.len());
        if let Some(version) = self.versions.get(slot).filter(|version| version.is_claimed()) {
            return (slot, Rc::clone(&version.claim));
        }
        // It is new, or was away: the record knows, and what is known here is out of date.
        let version = VersionState::new(deployment, id);
        let claim = Rc::clone(&version.claim);
        match self.versions.get_mut(slot) {
            Some(held) => *held = version,
            None => self.versions.push(version),
        }
        self.read_at = None;
        (slot, claim)
    }

    /// A plan is bound: the newest from now on.
    pub(super) fn newest(&mut self) -> Rc<()> {
        let generation = Rc::new(());
        self.newest = Rc::downgrade(&generation);
        generation
    }

    /// A request was assigned under this plan: it is in service, and decides. Plans that only have streams left assign none.
    pub(super) fn in_use(&mut self, generation: &Rc<()>) {
        if !std::ptr::eq(self.newest.as_ptr(), Rc::as_ptr(generation)) {
            self.newest = Rc::downgrade(generation);
        }
    }

    /// Whether this plan decides. When the newest is gone (a listener was removed), the next to ask takes its place.
    pub(super) fn decides(&mut self, generation: &Rc<()>) -> bool {
        match self.newest.upgrade() {
            Some(newest) => Rc::ptr_eq(&newest, generation),
            None => {
                self.newest = Rc::downgrade(generation);
                true
            }
        }
    }

    /// The version in a place.
    pub(super) fn version(&self, slot: usize) -> Option<&VersionState> {
        self.versions.get(slot)
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

    /// Stage of the plan's ramp; `None` without one, also where the record still knows a ramp that was removed.
    pub(super) fn stage(&self, deployment: &Deployment) -> Option<u32> {
        self.position(deployment).and_then(|position| position.stage)
    }

    /// Where the plan's ramp is.
    pub(super) fn position(&self, deployment: &Deployment) -> Option<Position> {
        deployment.ramp.as_ref().and(self.position)
    }

    pub(super) fn epoch(&self, slot: usize) -> u32 {
        self.versions.get(slot).map_or(0, |version| version.standing.epoch)
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
        if self.superseded || held.standing.epoch != assigned.epoch {
            notes.dropped.many(Dropped::LateResult, 1);
            return;
        }
        held.pending.add(event);
        self.dirty |= !held.pending.is_empty();
        let mut due = now.mono.since(self.merged_at) >= MERGE_AFTER;
        let failed = matches!(event, Event::Broke | Event::Answered { outcome: Outcome::Bad, .. });
        // A canary's failure is merged at once, and so is stable's first in a row: whether trouble is shared must be known when
        // the canary is judged.
        let answered = matches!(event, Event::Answered { outcome: Outcome::Good | Outcome::Bad, .. });
        due |= failed && (version != deployment.stable || !self.stable_failing);
        if version == deployment.stable && (answered || failed) {
            self.stable_failing = failed;
        }
        if let (true, Some(id)) = (failed, &assigned.request_id)
            && held.bad_requests.front() != Some(id)
        {
            held.bad_requests.truncate(BAD_REQUESTS.saturating_sub(1));
            held.bad_requests.push_front(Rc::clone(id));
        }
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
    pub(super) fn observe(&mut self, scene: Scene<'_>, assigned: &Assigned, event: Event) -> bool {
        let Scene { deployment, slots, .. } = scene;
        let share = |version: usize| assigned.shares.get(version).copied().unwrap_or(0);
        let (yardstick, identity) = (self.yardstick, assigned.choice.identity);
        let Some(compared) = fresh(assigned, event, yardstick.is_some()) else { return false };
        let mut full = false;
        for (canary, slot) in slots.iter().enumerate() {
            let arm = match assigned.choice.version {
                version if version == canary => Arm::Canary,
                version if version == deployment.stable => Arm::Stable,
                _ => continue,
            };
            if let (true, Some(held)) = (canary != deployment.stable, self.versions.get_mut(*slot)) {
                let odds = Odds { canary: share(canary), stable: share(deployment.stable) };
                held.compared.add(Observed { arm, odds, identity, event: compared, yardstick });
                full |= held.compared.is_full();
            }
        }
        full
    }

    /// What is due without a request: leftovers to merge, standings to read, verdicts to look at again.
    pub(super) fn tick(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { store, now, .. } = scene;
        if self.superseded || !self.decides(scene.generation) {
            return;
        }
        if self.dirty && now.mono.since(self.merged_at) >= MERGE_AFTER {
            self.flush(scene, notes);
        }
        if self.looked_at.is_none_or(|at| now.mono.since(at) >= IDLE_AFTER) {
            self.looked_at = Some(now.mono);
            self.refresh(store, now.mono, REFRESH_AFTER, notes);
            self.drop_unclaimed(store);
            self.look_again(scene, notes);
            self.look_at_ramp(scene, notes);
        }
    }

    /// Reads the standings if the copy is older than `after`.
    pub(super) fn refresh(&mut self, store: &dyn Store, now: Micros, after: Span, notes: &mut Notes) {
        if self.read_at.is_some_and(|at| now.since(at) < after) {
            return;
        }
        self.read_at = Some(now);
        let was_unreadable = self.unreadable;
        match store.get(&self.standings_key) {
            Ok(found) => match Standings::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
                Found::Nothing => {
                    self.unreadable = false;
                    let nothing = Standings::default();
                    if self.position.is_some() || self.versions.iter().any(|v| is_ahead(v, &nothing)) {
                        self.republish(store);
                    }
                }
                Found::Value(standings) => {
                    self.unreadable = false;
                    if self.versions.iter().any(|version| is_ahead(version, &standings)) {
                        self.republish(store);
                    }
                    self.adopt(&standings);
                }
                Found::Undecodable => {
                    self.unreadable = true;
                    notes.dropped.many(Dropped::Undecodable, 1);
                }
            },
            Err(_) => {
                self.unreadable = true;
                notes.dropped.many(Dropped::Refused, 1);
            }
        }
        self.revision = self.revision.wrapping_add(u64::from(was_unreadable != self.unreadable));
    }

    /// The record is gone, or lacks what is known here (a worker that had dropped this release buried it while this one still
    /// serves it): that goes back, so that all workers agree, and on the safe side. Interference means that somebody else did
    /// it.
    pub(super) fn republish(&self, store: &dyn Store) {
        let _ = update(store, &self.standings_key, &mut |bytes| {
            let mut standings = match Standings::decode(bytes) {
                Found::Nothing => Standings { ramp: self.position, ..Standings::default() },
                Found::Value(standings) => standings,
                Found::Undecodable => return Change::Keep(()),
            };
            let before = standings.clone();
            for version in self.versions.iter().filter(|version| is_ahead(version, &before)) {
                standings.put(&version.id, version.standing.clone());
            }
            if standings == before { Change::Keep(()) } else { Change::Write(standings.encode(), ()) }
        });
    }

    /// Takes over what the record says, unless it is older than what is known here: a value that was lost or dropped must
    /// not bring a canary back.
    pub(super) fn adopt(&mut self, standings: &Standings) {
        let mut changed = false;
        for version in self.versions.iter_mut().filter(|version| version.is_claimed()) {
            if let Some(shared) = standings.get(&version.id)
                && shared.epoch >= version.standing.epoch
            {
                if shared.epoch > version.standing.epoch {
                    version.pending = Delta::default();
                    version.compared.clear();
                    version.bad_requests.clear();
                    version.limits_percent = 0;
                    version.compare_percent = 0;
                }
                changed |= version.standing != *shared;
                version.standing = shared.clone();
            }
        }
        if let Some(position) = standings.ramp {
            changed |= self.position.and_then(|held| held.stage) != position.stage;
            self.position = Some(position);
        }
        self.revision = self.revision.wrapping_add(u64::from(changed));
    }

    /// Drops what is shared of versions that no plan on this worker has any more, so that one that comes back starts afresh.
    /// Called with the tick, which the throw-away VM that checks a configuration never sees. A worker that still has a plan
    /// with the version puts back what it knows: it is gone with the last one.
    pub(super) fn drop_unclaimed(&mut self, store: &dyn Store) {
        for held in self.versions.iter_mut().filter(|held| !held.dropped && !held.is_claimed()) {
            let dropped = update(store, &self.standings_key, &mut |bytes| {
                let Found::Value(mut standings) = Standings::decode(bytes) else { return Change::Keep(()) };
                if !standings.remove(&held.id) {
                    return Change::Keep(());
                }
                Change::Write(standings.encode(), ())
            });
            if dropped.is_ok() {
                held.bury(store);
                held.dropped = true;
            }
        }
    }

    /// Replaces this release's shared values by tombstones.
    pub(super) fn bury(&self, store: &dyn Store) {
        self.versions.iter().for_each(|version| version.bury(store));
        bury(store, &self.standings_key);
    }
}

/// Replaces a shared value by a tombstone. Nothing can be done about a refusal.
fn bury(store: &dyn Store, key: &str) {
    if let Ok(Some(found)) = store.get(key)
        && found.bytes != TOMBSTONE
    {
        let _ = store.set(key, TOMBSTONE, Expected::Version(found.token));
    }
}

impl VersionState {
    pub(super) fn new(deployment: &Deployment, id: &str) -> VersionState {
        VersionState {
            id: id.to_owned(),
            stats_key: [STATS, &deployment.name, "/", &deployment.release, "/", id].concat(),
            standing: Standing::NEW,
            pending: Delta::default(),
            compared: Pending::default(),
            at_zero: true,
            limits_percent: 0,
            compare_percent: 0,
            total: 0,
            bad_requests: VecDeque::new(),
            blind: false,
            claim: Rc::default(),
            dropped: false,
        }
    }

    /// Whether a plan on this worker has it.
    pub(super) fn is_claimed(&self) -> bool {
        Rc::strong_count(&self.claim) > 1
    }

    pub(super) fn bury(&self, store: &dyn Store) {
        bury(store, &self.stats_key);
        bury(store, &self.compare_key());
    }

    /// Shared key of its comparison with stable.
    pub(super) fn compare_key(&self) -> String {
        [COMPARE, self.stats_key.strip_prefix(STATS).unwrap_or_default()].concat()
    }
}

/// Whether a worker knows of a version what the record does not; of one that has left its plans it knows nothing.
fn is_ahead(version: &VersionState, standings: &Standings) -> bool {
    let shared = standings.get(&version.id).map_or(0, |shared| shared.epoch);
    version.is_claimed() && version.standing.epoch > shared
}

/// What of an event the comparison has not had from this request; `None` if nothing. Notes it.
fn fresh(assigned: &Assigned, event: Event, yardstick: bool) -> Option<Event> {
    let mut compared = assigned.compared.get();
    let event = match event {
        Event::Answered { outcome, latency } => {
            let outcome = if compared.failed { Outcome::Local } else { outcome };
            let latency = latency.filter(|_| !compared.timed);
            compared.failed |= outcome == Outcome::Bad;
            compared.timed |= latency.is_some() && yardstick;
            Event::Answered { outcome, latency }
        }
        Event::Broke if !compared.failed => {
            compared.failed = true;
            Event::Broke
        }
        Event::Broke | Event::Completed => return None,
    };
    assigned.compared.set(compared);
    Some(event)
}
