//! Pools as one worker uses them: a copy of the shared keyring, no older than 10 ms.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::keys::health::{Health, PoolHealth, Status};
use crate::keys::key_set::KeySet;
use crate::keys::usage::{KeyUsage, WorkerUsage};
use crate::outcome::blame::KeyOutcome;
use crate::plan::pool::KeyPool;
use crate::shared::REFRESH_AFTER;
use crate::shared::codec::Found;
use crate::shared::dropped::{Dropped, Drops};
use crate::shared::names;
use crate::shared::store::{Change, Store, StoreError, update};
use crate::time::{Micros, Millis};

/// A key for an attempt, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Index of the key in the pool.
    Key(usize),
    /// None is usable. `returns_in`: when the first one comes back from a rate limit by itself, if one does.
    Exhausted {
        /// Wait.
        returns_in: Option<Millis>,
    },
}

/// What a request brings to the choice of a key.
#[derive(Debug, Clone, Copy)]
pub struct KeyQuery<'a> {
    /// Keys that this request has tried.
    pub tried: &'a [usize],
    /// Hash of its sticky identity.
    pub identity: Option<u64>,
    /// 64 uniform random bits.
    pub random: u64,
    /// Now.
    pub now: Micros,
}

/// What an attempt says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyReport {
    /// Index of the key.
    pub key: usize,
    /// What it says.
    pub outcome: KeyOutcome,
    /// When the attempt began.
    pub began: Micros,
    /// Now.
    pub now: Micros,
}

/// A key's change of status, reported by the worker that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTransition {
    /// Index of the key.
    pub key: usize,
    /// Before.
    pub from: Status,
    /// After.
    pub to: Status,
    /// When a trial is due.
    pub until: Micros,
}

/// The pools of this worker, by name: they outlive reloads.
#[derive(Default)]
pub struct Pools(BTreeMap<String, Rc<RefCell<PoolState>>>);

impl Pools {
    /// The state of a pool, made if it is new; what no plan uses any more is dropped.
    pub fn attach(&mut self, name: &str) -> Rc<RefCell<PoolState>> {
        self.0.retain(|_, state| Rc::strong_count(state) > 1);
        Rc::clone(
            self.0.entry(name.to_owned()).or_insert_with(|| Rc::new(RefCell::new(PoolState::new(name)))),
        )
    }
}

/// What this worker knows of one pool.
pub struct PoolState {
    key: String,
    health: PoolHealth,
    read_at: Option<Micros>,
    /// Fingerprints of the keys that there were when the record was last read.
    had: Vec<u64>,
}

impl PoolState {
    fn new(name: &str) -> PoolState {
        PoolState {
            key: [names::KEYS, name].concat(),
            health: PoolHealth::default(),
            read_at: None,
            had: Vec::new(),
        }
    }

    /// Reads the shared keyring if the copy is too old, and confirms what is of the keys that are here. What cannot be read
    /// changes nothing: keys stay as they were.
    pub fn refresh(&mut self, ring: &KeySet, store: &dyn Store, now: Micros, drops: &mut Drops) {
        if self.read_at.is_some_and(|at| now.since(at) < REFRESH_AFTER) {
            return;
        }
        self.read_at = Some(now);
        match store.get(&self.key).map(|found| PoolHealth::decode(found.as_ref().map(|v| v.bytes.as_slice())))
        {
            Ok(Found::Nothing) => self.health = PoolHealth::default(),
            Ok(Found::Value(ring)) => self.health = ring,
            Ok(Found::Undecodable) => drops.one(Dropped::Undecodable),
            Err(_) => drops.one(Dropped::Refused),
        }
        let has = ring.fingerprints();
        if !self.health.0.is_empty() {
            let had = std::mem::take(&mut self.had);
            let mut confirmed = self.health.clone();
            confirmed.confirm(&had, &has, now);
            if confirmed != self.health {
                self.update_shared(store, drops, &mut |ring| ring.confirm(&had, &has, now));
            }
        }
        self.had = has;
    }

    /// What is remembered of a key; one without a value is disabled for ever.
    pub fn health(&self, ring: &KeySet, key: usize) -> Health {
        match ring.fingerprint(key) {
            Some(fingerprint) => self.health.get(fingerprint),
            None => Health::WITHOUT_VALUE,
        }
    }

    /// Whether an attempt could have a key now.
    pub fn has_usable_key(&self, ring: &KeySet, now: Micros) -> bool {
        ring.candidates().any(|key| {
            let memory = self.health(ring, key);
            memory.is_active() || memory.trial_due(now)
        })
    }

    /// Chooses a key: one whose trial is due first, else by weight (or by identity, where the pool is sticky) among the
    /// active ones that this request has not tried, else among the active ones.
    pub fn pick(
        &mut self,
        pool: &KeyPool,
        ring: &KeySet,
        wish: KeyQuery<'_>,
        store: &dyn Store,
        drops: &mut Drops,
    ) -> Pick {
        self.refresh(ring, store, wish.now, drops);
        let identity = wish.identity.filter(|_| pool.sticky);
        // The record holds only keys with something against them: usually there is nothing to look through.
        if self.health.0.is_empty() {
            if wish.tried.is_empty() && identity.is_none() {
                return ring.choose_any(wish.random).map_or(Pick::Exhausted { returns_in: None }, Pick::Key);
            }
        } else {
            if let Some(key) = self.pick_trial(ring, wish.now, wish.tried, store, drops) {
                return Pick::Key(key);
            }
        }
        let active = |key: usize| self.health(ring, key).is_active();
        let fresh = |key: usize| active(key) && !wish.tried.contains(&key);
        let picked = ring
            .choose(wish.random, identity, &fresh)
            .or_else(|| ring.choose(wish.random, identity, &active));
        // Rather the trial of a key that this request has had before than none.
        match picked.or_else(|| self.pick_trial(ring, wish.now, &[], store, drops)) {
            Some(key) => Pick::Key(key),
            None => Pick::Exhausted { returns_in: self.returns_in(ring, wish.now) },
        }
    }

    /// The first key whose trial is due and can be had, but for those that were `tried`.
    fn pick_trial(
        &mut self,
        ring: &KeySet,
        now: Micros,
        tried: &[usize],
        store: &dyn Store,
        drops: &mut Drops,
    ) -> Option<usize> {
        let due = |key: &usize| self.health(ring, *key).trial_due(now) && !tried.contains(key);
        let due: Vec<usize> = ring.candidates().filter(due).collect();
        due.into_iter().find(|key| self.start_trial(ring, *key, now, store, drops))
    }

    /// When the first key comes back from a rate limit.
    pub fn returns_in(&self, ring: &KeySet, now: Micros) -> Option<Millis> {
        let waits = ring.candidates().filter_map(|key| {
            let memory = self.health(ring, key);
            (memory.status == Status::RateLimited).then(|| memory.returns_at(now).since(now).0.div_ceil(1000))
        });
        waits.min().map(Millis)
    }

    /// Takes the trial of a key, if no other worker has it.
    fn start_trial(
        &mut self,
        ring: &KeySet,
        key: usize,
        now: Micros,
        store: &dyn Store,
        drops: &mut Drops,
    ) -> bool {
        let Some(fingerprint) = ring.fingerprint(key) else { return false };
        let done = self.update_shared(store, drops, &mut |ring| {
            let memory = ring.get(fingerprint);
            let due = memory.trial_due(now);
            if due {
                ring.put(fingerprint, memory.start_trial(now), now);
            }
            due
        });
        done == Some(true)
    }

    /// Takes in what an attempt says about its key. `usage` is the pool's.
    pub fn report(
        &mut self,
        pool: &KeyPool,
        ring: &KeySet,
        report: KeyReport,
        usage: &WorkerUsage,
        store: &dyn Store,
        drops: &mut Drops,
    ) -> Vec<KeyTransition> {
        let KeyReport { key, outcome, began, now } = report;
        let Some(fingerprint) = ring.fingerprint(key) else { return Vec::new() };
        // As far as is known here: the usual case asks and writes nothing.
        if !self.health.get(fingerprint).is_changed_by(outcome) {
            return Vec::new();
        }
        let group = pool.keys.get(key).and_then(|key| key.quota_group.clone());
        let in_group = |n: &usize| {
            *n != key
                && group.is_some()
                && ring.fingerprint(*n) != Some(fingerprint)
                && pool.keys.get(*n).is_some_and(|other| other.quota_group == group)
        };
        let mut affected = vec![key];
        if matches!(outcome, KeyOutcome::Limited(_)) {
            affected.extend((0..pool.keys.len()).filter(in_group));
        }
        // Read only for a key that would go out if others work, and once however often the change is tried.
        let used = OnceCell::new();
        let moved = self.update_shared(store, drops, &mut |held| {
            let mut moved = Vec::new();
            for n in &affected {
                let Some(fingerprint) = ring.fingerprint(*n) else { continue };
                let before = held.get(fingerprint);
                // An attempt that was under way when the provider failed and was lucky shows nothing, or a breakdown of the
                // provider would take out every key at once. And the last key stays, whatever it does. Keys that were rotated
                // away work no more, whenever they did.
                let works = |used: KeyUsage, since| match outcome {
                    KeyOutcome::Broke => used.completed > since,
                    _ => used.accepted > since,
                };
                let has_worked =
                    |key, since| works(used.get_or_init(|| usage.read_or_pending(store)).get(key), since);
                let over = before.streak_at_limit(outcome, now, pool);
                // Whoever saw a success did not yet know of the run that it would have ended.
                let in_a_row = over.is_none_or(|since| !has_worked(fingerprint, since));
                let counted = if in_a_row { before } else { before.without_streak(outcome) };
                let others_work = over.filter(|_| in_a_row).is_some_and(|since| {
                    ring.candidates().filter_map(|other| ring.fingerprint(other)).any(|other| {
                        other != fingerprint && has_worked(other, since) && held.get(other).is_active()
                    })
                });
                let after = match counted.apply(outcome, began, now, others_work, pool) {
                    // That another key of its group is limited makes a refused one no better.
                    after if *n != key && before.status == Status::Disabled => {
                        before.out_until_at_least(after.until)
                    }
                    after if *n != key => after.with_streaks_of(before),
                    after => after,
                };
                held.put(fingerprint, after, now);
                if before.status != after.status {
                    moved.push(KeyTransition {
                        key: *n,
                        from: before.status,
                        to: after.status,
                        until: after.until,
                    });
                }
            }
            moved
        });
        moved.unwrap_or_default()
    }

    /// Changes the shared keyring, and takes over what it has become. `None` if it could not be changed.
    fn update_shared<T>(
        &mut self,
        store: &dyn Store,
        drops: &mut Drops,
        how: &mut dyn FnMut(&mut PoolHealth) -> T,
    ) -> Option<T> {
        let changed = update(store, &self.key, &mut |bytes| {
            let mut ring = match PoolHealth::decode(bytes) {
                Found::Nothing => PoolHealth::default(),
                Found::Value(ring) => ring,
                Found::Undecodable => return Change::Keep(None),
            };
            let before = ring.clone();
            let result = how(&mut ring);
            if ring == before {
                return Change::Keep(Some((ring, result)));
            }
            Change::Write(ring.encode(), Some((ring, result)))
        });
        match changed {
            Ok(Some((ring, result))) => {
                self.health = ring;
                Some(result)
            }
            Ok(None) => {
                drops.one(Dropped::Undecodable);
                None
            }
            Err(StoreError::Mismatch) => {
                drops.one(Dropped::KeyReport);
                None
            }
            Err(StoreError::Refused) => {
                drops.one(Dropped::Refused);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
