//! One version of a release: its standing as this worker knows it, its outcomes that are not merged yet, and its shared values.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::judge::comparison::{Comparison, Pending};
use crate::judge::stats::{Delta, Snapshot, Stats};
use crate::plan::Deployment;
use crate::rollout::standings::Standings;
use crate::rollout::{Phase, Standing};
use crate::shared::codec::{Found, TOMBSTONE};
use crate::shared::dropped::Dropped;
use crate::shared::names::{COMPARE, STATS};
use crate::shared::store::{Change, Expected, Store, StoreError, update};
use crate::shared::turn::Turn;
use crate::time::Millis;

/// Ids of bad requests that are kept, enough to find them in an access log.
const BAD_REQUESTS: usize = 5;

/// One version of a release on this worker.
pub(super) struct VersionState {
    pub(super) id: String,
    /// Shared key of its statistics, which begins with [`STATS`]. It is the only key that is kept: there may be thousands of
    /// versions.
    stats_key: String,
    pub(super) standing: Standing,
    pub(super) pending: Delta,
    /// Outcomes for the comparison with stable; unused in stable itself.
    pub(super) compared: Pending,
    /// Set if nothing was held against this canary when the comparison was last read.
    pub(super) at_zero: bool,
    /// Evidence by the nearest limit, in percent of a rollback.
    pub(super) limits_percent: u64,
    /// Evidence by the comparison, in percent of a rollback.
    pub(super) compare_percent: u64,
    /// Judged outcomes since the release was first seen, when the statistics were last read.
    pub(super) total: u64,
    /// Ids of the last bad requests on this worker, newest first.
    pub(super) bad_requests: VecDeque<Rc<str>>,
    /// Set if its statistics could not be read. It gets no traffic, because its failures would not be noticed.
    pub(super) blind: bool,
    /// Held by every plan on this worker that has this version, also while the plan only has streams left.
    pub(super) claim: Rc<()>,
    /// Set when its shared values were dropped.
    pub(super) dropped: bool,
}

/// The result of a merge.
pub(super) enum Merged {
    Into(Snapshot),
    /// The statistics are of a later epoch.
    Late,
    Undecodable,
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

    /// Returns whether a plan on this worker has this version.
    pub(super) fn is_claimed(&self) -> bool {
        Rc::strong_count(&self.claim) > 1
    }

    /// Returns whether this worker knows a later epoch than the shared standings. It knows nothing of a version that has left
    /// its plans.
    pub(super) fn is_ahead_of(&self, standings: &Standings) -> bool {
        let shared = standings.get(&self.id).map_or(0, |shared| shared.epoch);
        self.is_claimed() && self.standing.epoch > shared
    }

    /// Returns the later of both standings, the shared one and the one that is known here: the shared one may be gone.
    pub(super) fn latest(&self, standings: &Standings) -> Standing {
        match standings.get(&self.id) {
            Some(shared) if shared.epoch >= self.standing.epoch => shared.clone(),
            _ => self.standing.clone(),
        }
    }

    /// Takes over the shared standing unless it is older. Returns whether anything has changed.
    pub(super) fn adopt(&mut self, shared: &Standing) -> bool {
        if shared.epoch < self.standing.epoch {
            return false;
        }
        if shared.epoch > self.standing.epoch {
            self.pending = Delta::default();
            self.compared.clear();
            self.bad_requests.clear();
            self.limits_percent = 0;
            self.compare_percent = 0;
        }
        let changed = self.standing != *shared;
        self.standing = shared.clone();
        changed
    }

    /// Returns how far this canary is on its way to a rollback, in percent: by the nearest of its limits or by the comparison.
    pub(super) fn evidence(&self) -> u64 {
        match self.standing.phase {
            Phase::RolledBack { .. } => 100,
            _ => self.limits_percent.max(self.compare_percent),
        }
    }

    /// Keeps the id of a bad request. Each request is kept once, however often Envoy retries it.
    pub(super) fn keep_bad_request(&mut self, id: &Rc<str>) {
        if self.bad_requests.front() != Some(id) {
            self.bad_requests.truncate(BAD_REQUESTS.saturating_sub(1));
            self.bad_requests.push_front(Rc::clone(id));
        }
    }

    /// Returns the shared key of its comparison with stable.
    pub(super) fn compare_key(&self) -> String {
        [COMPARE, self.stats_key.strip_prefix(STATS).unwrap_or_default()].concat()
    }

    /// Merges the pending counts into the shared statistics.
    pub(super) fn merge(&self, window: Millis, turn: &Turn<'_>) -> Result<Merged, StoreError> {
        let (epoch, now) = (self.standing.epoch, turn.now.mono);
        update(turn.store, &self.stats_key, &mut |bytes| {
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
            stats.merge(&self.pending, now);
            let snapshot = stats.snapshot(now, window);
            Change::Write(stats.encode(), Merged::Into(snapshot))
        })
    }

    /// Returns the shared numbers of the present epoch; `None` if they cannot be read.
    pub(super) fn snapshot(&self, window: Millis, turn: &mut Turn<'_>) -> Option<Snapshot> {
        let Ok(found) = turn.store.get(&self.stats_key) else {
            turn.drops.one(Dropped::Refused);
            return None;
        };
        match Stats::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
            Found::Value(stats) if stats.epoch == self.standing.epoch => {
                Some(stats.snapshot(turn.now.mono, window))
            }
            Found::Value(_) | Found::Nothing => Some(Snapshot::default()),
            Found::Undecodable => {
                turn.drops.one(Dropped::Undecodable);
                None
            }
        }
    }

    /// Returns the shared statistics, whatever their epoch; `None` if there are none that can be read.
    pub(super) fn shared_stats(&self, store: &dyn Store) -> Option<Stats> {
        let found = store.get(&self.stats_key).ok().flatten()?;
        match Stats::decode(Some(&found.bytes)) {
            Found::Value(stats) => Some(stats),
            Found::Nothing | Found::Undecodable => None,
        }
    }

    /// Returns the shared comparison of the present epoch; `None` if there is none that can be read.
    pub(super) fn shared_comparison(&self, store: &dyn Store) -> Option<Comparison> {
        let found = store.get(&self.compare_key()).ok().flatten()?;
        match Comparison::decode(Some(&found.bytes)) {
            Found::Value(comparison) if comparison.epoch == self.standing.epoch => Some(comparison),
            _ => None,
        }
    }

    /// Replaces its shared values by tombstones.
    pub(super) fn bury(&self, store: &dyn Store) {
        bury(store, &self.stats_key);
        bury(store, &self.compare_key());
    }
}

/// Replaces a shared value by a tombstone. A refusal leaves it as it is.
pub(super) fn bury(store: &dyn Store, key: &str) {
    if let Ok(Some(found)) = store.get(key)
        && found.bytes != TOMBSTONE
    {
        let _ = store.set(key, TOMBSTONE, Expected::Version(found.token));
    }
}
