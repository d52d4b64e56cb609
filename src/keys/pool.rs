//! Pools as one worker uses them: it chooses a key for an attempt from a copy of the shared record that is at most 10 ms old.

mod refusals;
mod report;

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::keys::health::{Health, PoolHealth, Status};
use crate::keys::key_set::KeySet;
use crate::keys::pool::refusals::Refusals;
use crate::outcome::blame::KeyOutcome;
use crate::plan::pool::KeyPool;
use crate::shared::REFRESH_AFTER;
use crate::shared::cell::SharedCell;
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::names;
use crate::shared::store::{Change, StoreError, update};
use crate::shared::turn::Turn;
use crate::time::{Micros, Millis};

/// A pool of the plan, and its keys with their values.
#[derive(Clone, Copy)]
pub struct Pool<'a> {
    /// Configuration.
    pub config: &'a KeyPool,
    /// Keys.
    pub keys: &'a KeySet,
}

/// A key for an attempt, or the lack of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Index of the key in the pool.
    Key(usize),
    /// No key is usable.
    Exhausted {
        /// Time until the first key returns from a rate limit by itself, if one does.
        returns_in: Option<Millis>,
    },
}

/// A request's part in the choice of a key.
#[derive(Debug, Clone, Copy)]
pub struct KeyQuery<'a> {
    /// Keys that this request has tried.
    pub tried: &'a [usize],
    /// Hash of the request's sticky identity.
    pub identity: Option<u64>,
    /// 64 uniform random bits.
    pub random: u64,
    /// Whether a suspect key will do if no other is left. One that is due for a trial always does.
    pub suspects: bool,
}

/// Outcome of an attempt for its key.
#[derive(Clone, Copy)]
pub struct KeyReport<'a> {
    /// Index of the key in the pool.
    pub key: usize,
    /// Outcome.
    pub outcome: KeyOutcome,
    /// Time at which the attempt began.
    pub began: Micros,
    /// Returns the hash of the client's identity. Called only while a refusal of some key is in question.
    pub client: &'a dyn Fn() -> u64,
}

/// A key's change of status, reported by the worker that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTransition {
    /// Index of the key in the pool.
    pub key: usize,
    /// Status before.
    pub from: Status,
    /// Status after.
    pub to: Status,
    /// Time at which a trial is due.
    pub until: Micros,
}

/// The pools of this worker, by name. They outlive reloads.
#[derive(Default)]
pub struct Pools(BTreeMap<String, Rc<SharedCell<PoolState>>>);

impl Pools {
    /// Returns the state of a pool, a new one if needed, and drops the states of pools that no plan uses any more.
    pub fn attach(&mut self, name: &str) -> Rc<SharedCell<PoolState>> {
        self.0.retain(|_, state| Rc::strong_count(state) > 1);
        Rc::clone(
            self.0.entry(name.to_owned()).or_insert_with(|| Rc::new(SharedCell::new(PoolState::new(name)))),
        )
    }
}

/// One pool on this worker: a copy of the shared record of its health.
pub struct PoolState {
    /// Name of the record in shared data.
    name: String,
    health: PoolHealth,
    /// Time of the last read.
    read_at: Option<Micros>,
    /// Fingerprints of the keys that the pool had at the last read.
    had: Vec<u64>,
    /// The refusals that this worker has seen in the last second.
    refusals: Refusals,
}

impl PoolState {
    fn new(pool: &str) -> PoolState {
        PoolState {
            name: [names::KEYS, pool].concat(),
            health: PoolHealth::default(),
            read_at: None,
            had: Vec::new(),
            refusals: Refusals::default(),
        }
    }

    /// Reads the shared record if the copy is too old, and confirms the entries of the pool's keys. If the record cannot be read,
    /// the copy stays as it is.
    pub fn refresh(&mut self, keys: &KeySet, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if self.read_at.is_some_and(|at| now.since(at) < REFRESH_AFTER) {
            return;
        }
        self.read_at = Some(now);
        self.refusals.expire(now);
        let found = turn.store.get(&self.name);
        match found.map(|found| PoolHealth::decode(found.as_ref().map(|v| v.bytes.as_slice()))) {
            Ok(Found::Nothing) => self.health = PoolHealth::default(),
            Ok(Found::Value(health)) => self.health = health,
            Ok(Found::Undecodable) => turn.drops.one(Dropped::Undecodable),
            Err(_) => turn.drops.one(Dropped::Refused),
        }
        let has = keys.fingerprints();
        if !self.health.0.is_empty() {
            let had = std::mem::take(&mut self.had);
            let mut confirmed = self.health.clone();
            confirmed.confirm(&had, &has, now);
            if confirmed != self.health {
                self.update_shared(turn, &mut |health| health.confirm(&had, &has, now));
            }
        }
        self.had = has;
    }

    /// Returns the health of a key.
    pub fn health(&self, keys: &KeySet, key: usize) -> Health {
        match keys.fingerprint(key) {
            Some(fingerprint) => self.health.get(fingerprint),
            None => Health::WITHOUT_VALUE,
        }
    }

    /// Returns whether an attempt could have a key now.
    pub fn has_usable_key(&self, keys: &KeySet, now: Micros) -> bool {
        keys.candidates().any(|key| {
            let health = self.health(keys, key);
            health.is_in_use() || health.is_trial_due(now)
        })
    }

    /// Returns whether an attempt could have a key now that is active and neither `tried` nor in doubt.
    pub fn has_fresh_key(&self, keys: &KeySet, tried: &[usize], now: Micros) -> bool {
        keys.candidates().any(|key| !tried.contains(&key) && self.is_trusted(keys, key, now))
    }

    /// Returns whether a key is active and its last outcome was no refusal.
    fn is_trusted(&self, keys: &KeySet, key: usize, now: Micros) -> bool {
        let health = self.health(keys, key);
        let doubted = || keys.fingerprint(key).is_some_and(|key| self.refusals.is_doubted(key, now));
        health.is_active() && !health.doubt.is_open() && !doubted()
    }

    /// Notes that an attempt with this key was refused. While its request is not decided, other requests of this worker prefer other
    /// keys.
    pub fn note_refusal(&mut self, keys: &KeySet, key: usize, now: Micros) {
        if let Some(fingerprint) = keys.fingerprint(key) {
            self.refusals.note(fingerprint, now);
        }
    }

    /// Returns whether the good answer of a key proves the refusal of another key on the same request, whose attempt began at `began`.
    /// If the good one was refused at about that time too, the provider has refused all keys, and has just come back.
    pub fn proves(&self, keys: &KeySet, good: usize, began: Micros) -> bool {
        let Some(fingerprint) = keys.fingerprint(good) else { return false };
        let since = refusals::outage_since(began);
        !self.refusals.has_since(fingerprint, since) && !self.health.get(fingerprint).doubt.is_since(since)
    }

    /// Chooses a key. A due trial comes first, then an active key that this request has not tried, then any active key, then a suspect
    /// one. Keys in doubt come after other active keys. Among several the weight decides, or the identity if the pool is sticky.
    pub fn pick(&mut self, pool: Pool<'_>, query: KeyQuery<'_>, turn: &mut Turn<'_>) -> Pick {
        let (keys, now) = (pool.keys, turn.now.mono);
        self.refresh(keys, turn);
        let identity = query.identity.filter(|_| pool.config.sticky);
        // The record of a healthy pool is empty: usually there is nothing to look through.
        if self.health.0.is_empty() && self.refusals.is_empty() {
            if query.tried.is_empty() && identity.is_none() {
                return keys.choose_any(query.random).map_or(Pick::Exhausted { returns_in: None }, Pick::Key);
            }
        } else {
            if let Some(key) = self.pick_trial(keys, query.tried, turn) {
                return Pick::Key(key);
            }
        }
        let untried = |key: usize| !query.tried.contains(&key);
        let active = |key: usize| self.health(keys, key).is_active();
        let trusted = |key: usize| untried(key) && self.is_trusted(keys, key, now);
        let fresh = |key: usize| untried(key) && active(key);
        let suspect = |key: usize| query.suspects && self.health(keys, key).is_suspect();
        let fresh_suspect = |key: usize| untried(key) && suspect(key);
        let preferences: [&dyn Fn(usize) -> bool; 5] = [&trusted, &fresh, &active, &fresh_suspect, &suspect];
        let picked = preferences.into_iter().find_map(|allowed| keys.choose(query.random, identity, allowed));
        // If no key is active, the trial of a key that this request has tried is better than no key.
        match picked.or_else(|| self.pick_trial(keys, &[], turn)) {
            Some(key) => Pick::Key(key),
            None => Pick::Exhausted { returns_in: self.returns_in(keys, turn.now.mono) },
        }
    }

    /// Starts the first trial that is due and that no other worker takes first; not of the keys that were `tried`. A key in doubt
    /// whose refusals no other key has proven also has trials while there is a trusted one: single requests clear the doubt.
    fn pick_trial(&mut self, keys: &KeySet, tried: &[usize], turn: &mut Turn<'_>) -> Option<usize> {
        let now = turn.now.mono;
        let has_trusted = keys.candidates().any(|key| self.is_trusted(keys, key, now));
        let due = |key: &usize| {
            let health = self.health(keys, *key);
            let is_due = health.is_trial_due(now) || (has_trusted && health.is_doubt_trial_due(now));
            is_due && !tried.contains(key)
        };
        let due: Vec<usize> = keys.candidates().filter(due).collect();
        due.into_iter().find(|key| self.start_trial(keys, *key, turn))
    }

    /// Starts the trial of a key, unless another worker has started it.
    fn start_trial(&mut self, keys: &KeySet, key: usize, turn: &mut Turn<'_>) -> bool {
        let Some(fingerprint) = keys.fingerprint(key) else { return false };
        let now = turn.now.mono;
        let started = self.update_shared(turn, &mut |pool| {
            let health = pool.get(fingerprint);
            let due = health.is_trial_due(now) || health.is_doubt_trial_due(now);
            if due {
                pool.put(fingerprint, health.start_trial(now), now);
            }
            due
        });
        started == Some(true)
    }

    /// Returns the time until the first key returns from a rate limit, if one does.
    pub fn returns_in(&self, keys: &KeySet, now: Micros) -> Option<Millis> {
        let waits = keys.candidates().filter_map(|key| {
            let health = self.health(keys, key);
            (health.status == Status::RateLimited).then(|| health.returns_at(now).since(now).0.div_ceil(1000))
        });
        waits.min().map(Millis)
    }

    /// Changes the shared record, and takes over the new one. Returns `None` if the record could not be changed.
    fn update_shared<T>(
        &mut self,
        turn: &mut Turn<'_>,
        change: &mut dyn FnMut(&mut PoolHealth) -> T,
    ) -> Option<T> {
        let changed = update(turn.store, &self.name, &mut |bytes| {
            let mut health = match PoolHealth::decode(bytes) {
                Found::Nothing => PoolHealth::default(),
                Found::Value(health) => health,
                Found::Undecodable => return Change::Keep(None),
            };
            let before = health.clone();
            let result = change(&mut health);
            if health == before {
                return Change::Keep(Some((health, result)));
            }
            Change::Write(health.encode(), Some((health, result)))
        });
        let dropped = match changed {
            Ok(Some((health, result))) => {
                self.health = health;
                return Some(result);
            }
            Ok(None) => Dropped::Undecodable,
            Err(StoreError::Mismatch) => Dropped::KeyReport,
            Err(StoreError::Refused) => Dropped::Refused,
        };
        turn.drops.one(dropped);
        None
    }
}

#[cfg(test)]
mod tests;
