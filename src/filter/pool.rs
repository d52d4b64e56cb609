//! A key pool in service on one worker: the values of its keys, their states, their use and their metrics.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::metrics::{KeyMetrics, PoolMetrics};
use crate::host;
use crate::keys::key_set::KeySet;
use crate::keys::pool::{KeyQuery, KeyReport, KeyTransition, Pick, Pool, PoolState};
use crate::keys::usage::WorkerUsage;
use crate::plan::pool::{KeyPool, Secret};
use crate::report::build::KeyView;
use crate::shared::cell::SharedCell;
use crate::shared::dropped::Dropped;
use crate::shared::turn::Turn;
use crate::time::{Micros, Millis};

/// The fraction of the golden ratio, in 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// No key of a pool is available.
#[derive(Clone, Copy, Default)]
pub struct Exhausted {
    /// Time until the first key comes back from a rate limit by itself, if one does.
    pub returns_in: Option<Millis>,
}

impl Exhausted {
    /// Joins two exhausted pools: the key that comes back first counts.
    pub fn sooner(self, other: Exhausted) -> Exhausted {
        let returns_in = [self.returns_in, other.returns_in].into_iter().flatten().min();
        Exhausted { returns_in }
    }
}

/// A key pool of a plan in service. The functions are given the pool of the plan. Holds secrets: no `Debug`.
pub struct LivePool {
    /// Metrics of each key of the pool.
    pub metrics: Vec<KeyMetrics>,
    gauge: PoolMetrics,
    /// The keys with their values, resolved again when secrets come or go.
    keys: SharedCell<KeySet>,
    state: Rc<SharedCell<PoolState>>,
    usage: Rc<SharedCell<WorkerUsage>>,
    /// The point at which the last key was drawn.
    drawn: Cell<u64>,
}

impl LivePool {
    /// Resolves a pool of the plan against these secrets.
    pub fn new(
        pool: &KeyPool,
        secrets: &BTreeMap<String, Secret>,
        state: Rc<SharedCell<PoolState>>,
        usage: Rc<SharedCell<WorkerUsage>>,
    ) -> LivePool {
        let keys = SharedCell::new(KeySet::new(pool, secrets));
        LivePool {
            metrics: KeyMetrics::of(pool),
            gauge: PoolMetrics::new(pool),
            keys,
            state,
            usage,
            drawn: Cell::new(host::seed()),
        }
    }

    /// Resolves the pool anew.
    pub fn resolve(&self, pool: &KeyPool, secrets: &BTreeMap<String, Secret>) {
        self.keys.with_mut(|keys| *keys = KeySet::new(pool, secrets));
    }

    /// Chooses a key for an attempt. Returns its index in the pool.
    pub fn pick(&self, pool: &KeyPool, query: KeyQuery<'_>, turn: &mut Turn<'_>) -> Result<usize, Exhausted> {
        // Multiples of the golden ratio spread more evenly than random numbers, so that few requests in a row draw the same key.
        let random = self.drawn.get().wrapping_add(GOLDEN);
        self.drawn.set(random);
        let query = KeyQuery { random, ..query };
        let pick = self
            .keys
            .with(|keys| self.state.with_mut(|state| state.pick(Pool { config: pool, keys }, query, turn)));
        match pick.flatten() {
            Some(Pick::Key(key)) => Ok(key),
            Some(Pick::Exhausted { returns_in }) => Err(Exhausted { returns_in }),
            None => Err(Exhausted::default()),
        }
    }

    /// Checks whether a request could have a key now.
    pub fn availability(&self, now: Micros) -> Result<(), Exhausted> {
        let available = self.keys.with(|keys| {
            self.state.with(|state| {
                if state.has_usable_key(keys, now) {
                    Ok(())
                } else {
                    Err(Exhausted { returns_in: state.returns_in(keys, now) })
                }
            })
        });
        available.flatten().unwrap_or(Err(Exhausted::default()))
    }

    /// Returns whether a request could have a key now that is active, that it has not `tried`, and whose last outcome was no refusal.
    pub fn has_fresh_key(&self, tried: &[usize], now: Micros) -> bool {
        let fresh = self.keys.with(|keys| self.state.with(|state| state.has_fresh_key(keys, tried, now)));
        fresh.flatten() == Some(true)
    }

    /// Notes that an attempt with a key was refused.
    pub fn note_refusal(&self, key: usize, now: Micros) {
        self.keys.with(|keys| self.state.with_mut(|state| state.note_refusal(keys, key, now)));
    }

    /// Returns whether the good answer of a key proves that another key, refused in an attempt that began at `began`, is at fault.
    pub fn proves(&self, good: usize, began: Micros) -> bool {
        let proves = self.keys.with(|keys| self.state.with(|state| state.proves(keys, good, began)));
        proves.flatten() == Some(true)
    }

    /// Reports the outcome of an attempt to the state of its key. `fingerprint`: that of the value which the attempt carried. If
    /// the secret was rotated meanwhile, the outcome is not the new one's fault. Returns the keys' changes of status.
    pub fn report(
        &self,
        pool: &KeyPool,
        report: KeyReport<'_>,
        fingerprint: Option<u64>,
        turn: &mut Turn<'_>,
    ) -> Vec<KeyTransition> {
        let moved = self.keys.with(|keys| {
            if keys.fingerprint(report.key) != fingerprint {
                return None;
            }
            self.usage.with(|usage| {
                self.state.with_mut(|state| state.report(Pool { config: pool, keys }, report, usage, turn))
            })?
        });
        moved.flatten().unwrap_or_default()
    }

    /// Changes the counts of how much the keys are used.
    pub fn count(&self, count: impl FnOnce(&mut WorkerUsage)) {
        self.usage.with_mut(count);
    }

    /// Merges how much the keys were used, if that is due.
    pub fn merge_usage(&self, turn: &mut Turn<'_>) {
        self.usage.with_mut(|usage| usage.merge(turn));
    }

    /// Puts a key's value into the header of the pool, in place of any value there. Returns the value's fingerprint, if the key
    /// has a value.
    pub fn inject(&self, pool: &KeyPool, key: usize) -> Option<u64> {
        let injected = self.keys.with(|keys| {
            host::set_request_header(&pool.header, keys.header_value(key)?.expose().as_bytes());
            keys.fingerprint(key)
        });
        if let Some(Some(fingerprint)) = injected {
            return Some(fingerprint);
        }
        // The client's own value is not for this upstream.
        host::remove_request_header(&pool.header);
        None
    }

    /// Returns whether this is the header value of a key of the pool.
    pub fn holds(&self, pool: &KeyPool, header_value: &[u8]) -> bool {
        self.keys.with(|keys| keys.holds(pool, header_value)) == Some(true)
    }

    /// Reads the states of the keys, if that is due, and writes their gauges.
    pub fn write_gauges(&self, turn: &mut Turn<'_>) {
        self.keys.with(|keys| {
            self.state.with_mut(|state| {
                state.refresh(keys, turn);
                for (key, metrics) in self.metrics.iter().enumerate() {
                    metrics.status(state.health(keys, key).status.gauge());
                }
                self.gauge.without_keys(!state.has_usable_key(keys, turn.now.mono));
            })
        });
    }

    /// Has all gauges written anew.
    pub fn forget_gauges(&self) {
        self.metrics.iter().for_each(KeyMetrics::forget_gauge);
        self.gauge.forget_gauge();
    }

    /// Returns the keys as the status shows them, in the plan's order.
    pub fn views(&self, pool: &KeyPool, turn: &mut Turn<'_>) -> Vec<KeyView> {
        let views = self.keys.with(|keys| {
            self.state.with_mut(|state| {
                state.refresh(keys, turn);
                let used = self.usage.with(|usage| usage.read(turn.store)).flatten();
                if used.is_none() {
                    turn.drops.one(Dropped::Undecodable);
                }
                let view = |key: usize| KeyView {
                    mask: keys.mask(key, &pool.prefix),
                    same_as: keys.same_as(key),
                    health: state.health(keys, key),
                    usage: used.as_ref().map(|used| {
                        let counted = keys.fingerprint(key).filter(|_| keys.same_as(key).is_none());
                        counted.map(|fingerprint| used.get(fingerprint)).unwrap_or_default()
                    }),
                };
                (0..pool.keys.len()).map(view).collect()
            })
        });
        views.flatten().unwrap_or_default()
    }
}
