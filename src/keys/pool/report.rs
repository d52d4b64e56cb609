//! The way of an attempt's outcome into the shared record of its pool.

use std::cell::OnceCell;

use crate::keys::health::{Health, Observation, PoolHealth, Status};
use crate::keys::pool::{KeyReport, KeyTransition, Pool, PoolState};
use crate::keys::usage::{KeyUsage, PoolUsage, WorkerUsage};
use crate::outcome::blame::KeyOutcome;
use crate::shared::store::Store;
use crate::shared::turn::Turn;
use crate::time::Micros;

impl PoolState {
    /// Applies the outcome of an attempt to its key, and a rate limit also to the other keys of its quota group. Returns the changes
    /// of status. `usage` is the pool's.
    pub fn report(
        &mut self,
        pool: Pool<'_>,
        report: KeyReport,
        usage: &WorkerUsage,
        turn: &mut Turn<'_>,
    ) -> Vec<KeyTransition> {
        let Some(fingerprint) = pool.keys.fingerprint(report.key) else { return Vec::new() };
        // The worker's own copy is enough here, so that the usual outcome reads and writes nothing.
        if !self.health.get(fingerprint).is_changed_by(report.outcome) {
            return Vec::new();
        }
        let keys = affected_keys(pool, report);
        let (store, now) = (turn.store, turn.now.mono);
        let application = Application { pool, report, now, usage, store, merged: OnceCell::new() };
        let transitions = self.update_shared(turn, &mut |health| {
            keys.iter().filter_map(|key| application.apply(*key, health)).collect()
        });
        transitions.unwrap_or_default()
    }
}

/// Returns the keys that a report concerns: its own, and after a rate limit the other keys of its quota group.
fn affected_keys(pool: Pool<'_>, report: KeyReport) -> Vec<usize> {
    let mut affected = vec![report.key];
    let group_of = |key: usize| pool.config.keys.get(key).and_then(|key| key.quota_group.as_deref());
    if let (KeyOutcome::Limited(_), Some(group)) = (report.outcome, group_of(report.key)) {
        let fingerprint = pool.keys.fingerprint(report.key);
        let in_group = |key: &usize| {
            *key != report.key && pool.keys.fingerprint(*key) != fingerprint && group_of(*key) == Some(group)
        };
        affected.extend((0..pool.config.keys.len()).filter(in_group));
    }
    affected
}

/// A report while it is applied to the shared record. A try that another worker interfered with is repeated.
struct Application<'a> {
    pool: Pool<'a>,
    report: KeyReport,
    now: Micros,
    usage: &'a WorkerUsage,
    store: &'a dyn Store,
    /// Use of the pool's keys on all workers: read only for a streak at its limit, and once for all tries.
    merged: OnceCell<PoolUsage>,
}

impl Application<'_> {
    /// Applies the report to one of the affected keys. Returns the change of status, if there is one.
    fn apply(&self, key: usize, pool: &mut PoolHealth) -> Option<KeyTransition> {
        let fingerprint = self.pool.keys.fingerprint(key)?;
        let before = pool.get(fingerprint);
        let applied = self.applied(fingerprint, before, pool);
        let after = if key == self.report.key {
            applied
        } else if before.status == Status::Disabled {
            // A rate limit of its group does not end a refusal.
            before.out_until_at_least(applied.until)
        } else {
            applied.with_streaks_of(before)
        };
        pool.put(fingerprint, after, self.now);
        let changed = before.status != after.status;
        changed.then_some(KeyTransition { key, from: before.status, to: after.status, until: after.until })
    }

    /// Returns the health of a key after the outcome.
    fn applied(&self, fingerprint: u64, before: Health, pool: &PoolHealth) -> Health {
        let KeyReport { outcome, began, .. } = self.report;
        let streak_since = before.streak_at_limit(outcome, self.now, self.pool.config);
        // The worker that saw a success did not know of the streak yet, and so did not end it.
        let has_ended = streak_since.is_some_and(|since| self.has_worked(fingerprint, since));
        let counted = if has_ended { before.without_streak(outcome) } else { before };
        let others_work =
            !has_ended && streak_since.is_some_and(|since| self.others_work(fingerprint, since, pool));
        let seen = Observation { outcome, began, now: self.now };
        counted.apply(seen, others_work, self.pool.config)
    }

    /// Returns whether another key, itself active, has worked since then. If none has, the provider is at fault, or this key is
    /// the last one: it stays in use. Keys that were rotated away do not count.
    fn others_work(&self, fingerprint: u64, since: Micros, pool: &PoolHealth) -> bool {
        let keys = self.pool.keys;
        keys.candidates()
            .filter_map(|key| keys.fingerprint(key))
            .any(|other| other != fingerprint && self.has_worked(other, since) && pool.get(other).is_active())
    }

    /// Returns whether an attempt with a key that began after `since` succeeded where the reported one failed. Earlier attempts do
    /// not count: when a provider breaks down, one lucky answer already under way would take out all other keys.
    fn has_worked(&self, fingerprint: u64, since: Micros) -> bool {
        let merged = self.merged.get_or_init(|| self.usage.read_or_pending(self.store));
        let KeyUsage { accepted, completed, .. } = merged.get(fingerprint);
        match self.report.outcome {
            KeyOutcome::Broke => completed > since,
            _ => accepted > since,
        }
    }
}
