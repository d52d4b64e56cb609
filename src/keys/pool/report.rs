//! The way of an attempt's outcome into the shared record of its pool.

use std::cell::OnceCell;

use crate::keys::health::{Health, Observation, Others, PoolHealth};
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
        report: KeyReport<'_>,
        usage: &WorkerUsage,
        turn: &mut Turn<'_>,
    ) -> Vec<KeyTransition> {
        let Some(fingerprint) = pool.keys.fingerprint(report.key) else { return Vec::new() };
        let serves = report.outcome == KeyOutcome::Accepted;
        if serves {
            self.refusals.note_service(fingerprint);
        }
        // The worker's own copy is enough here, so that the usual outcome reads and writes nothing.
        let helps = serves && self.health.has_room_for_service(fingerprint, report.began);
        let concerns_client = helps || matches!(report.outcome, KeyOutcome::Unproven(_));
        let client = if concerns_client { (report.client)() } else { 0 };
        let helps = helps && self.health.is_changed_by_service(fingerprint, client, report.began);
        if !helps && !self.health.get(fingerprint).is_changed_by(report.outcome) {
            return Vec::new();
        }
        let keys = affected_keys(pool, report);
        let (store, now) = (turn.store, turn.now.mono);
        let application = Application { pool, report, client, now, usage, store, merged: OnceCell::new() };
        let transitions = self.update_shared(turn, &mut |health| {
            let mut moved: Vec<KeyTransition> =
                keys.iter().filter_map(|key| application.apply(*key, health)).collect();
            if helps {
                health.add_service(fingerprint, client, report.began, now);
            }
            moved.extend(application.suspect_all(health));
            moved
        });
        transitions.unwrap_or_default()
    }
}

/// Returns the keys that a report concerns: its own, and after a rate limit the other keys of its quota group.
fn affected_keys(pool: Pool<'_>, report: KeyReport<'_>) -> Vec<usize> {
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
    report: KeyReport<'a>,
    /// Hash of the client's identity, where it matters.
    client: u64,
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
        } else if before.status.is_refused() {
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
        let work = !has_ended && streak_since.is_some_and(|since| self.others_work(fingerprint, since, pool));
        let others = Others {
            active: self.any_other(fingerprint, pool, &Health::is_active),
            trusted: self
                .any_other(fingerprint, pool, &|health| health.is_active() && !health.doubt.is_open()),
            work,
        };
        let seen = Observation { outcome, began, now: self.now, client: self.client };
        counted.apply(seen, others, self.pool.config)
    }

    /// Returns whether there is another key that `holds`.
    fn any_other(&self, fingerprint: u64, pool: &PoolHealth, holds: &dyn Fn(&Health) -> bool) -> bool {
        self.fingerprints().any(|other| other != fingerprint && holds(&pool.get(other)))
    }

    /// Returns the fingerprints of the keys that requests may get.
    fn fingerprints(&self) -> impl Iterator<Item = u64> {
        self.pool.keys.candidates().filter_map(|key| self.pool.keys.fingerprint(key))
    }

    /// Makes all active keys suspect after a refusal that nothing proves, if each of them was refused often enough.
    fn suspect_all(&self, pool: &mut PoolHealth) -> Vec<KeyTransition> {
        let active = || {
            let keys =
                self.pool.keys.candidates().filter_map(|key| Some((key, self.pool.keys.fingerprint(key)?)));
            keys.filter(|(_, fingerprint)| pool.get(*fingerprint).is_active())
        };
        let refused = matches!(self.report.outcome, KeyOutcome::Unproven(_))
            && active().all(|(_, fingerprint)| pool.get(fingerprint).doubt.is_suspicion());
        let keys: Vec<(usize, u64)> = if refused { active().collect() } else { Vec::new() };
        let suspect = |(key, fingerprint): (usize, u64)| {
            let before = pool.get(fingerprint);
            let after = before.suspected(self.now);
            pool.put(fingerprint, after, self.now);
            KeyTransition { key, from: before.status, to: after.status, until: after.until }
        };
        keys.into_iter().map(suspect).collect()
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
