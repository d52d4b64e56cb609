//! How much each key is used, over all workers: counted on the worker, merged into shared data a few times a second.
//!
//! Metrics count the same, but a series that is read has to be defined first, and would then be shown for keys that were never
//! used; and no counter can say when a key was last used. Nor can a worker know by itself whether the other keys of a pool
//! work: whose clients they serve may all be on another worker.

use crate::outcome::Outcome;
use crate::outcome::attempts::Judgement;
use crate::outcome::blame::Event;
use crate::shared::codec::{Found, Reader, Writer};
use crate::shared::dropped::{Dropped, Drops};
use crate::shared::names;

use crate::shared::store::{Change, Store, update};
use crate::time::{Micros, Span, UnixMillis};

/// What was counted is merged when the last merge is older than this (250 ms, in microseconds): nobody looks more often.
const MERGE_AFTER: Span = Span::from_millis(250);
/// Most keys that a record may hold: those of a pool, and as many that were rotated away.
const KEYS: usize = 512;

/// Use of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyUsage {
    /// Attempts that carried it.
    pub requests: u64,
    /// Those of them that failed, were limited or were refused.
    pub errors: u64,
    /// When the last of them ended.
    pub last: UnixMillis,
    /// When the latest of those began that was answered well.
    pub accepted: Micros,
    /// The same, of those whose answer has come whole.
    pub completed: Micros,
}

impl KeyUsage {
    fn add(&mut self, other: KeyUsage) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.last = self.last.max(other.last);
        self.accepted = self.accepted.max(other.accepted);
        self.completed = self.completed.max(other.completed);
    }
}

/// Use of the keys of a pool, by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolUsage(Vec<(u64, KeyUsage)>);

impl PoolUsage {
    /// Of a key; one that was never used has a use of nothing.
    pub fn get(&self, fingerprint: u64) -> KeyUsage {
        self.0.iter().find(|(held, _)| *held == fingerprint).map(|(_, used)| *used).unwrap_or_default()
    }

    fn add(&mut self, fingerprint: u64, used: KeyUsage) {
        if let Some((_, held)) = self.0.iter_mut().find(|(held, _)| *held == fingerprint) {
            return held.add(used);
        }
        if self.0.len() >= KEYS {
            // The one that has not been used for longest was rotated away.
            let oldest = self.0.iter().enumerate().min_by_key(|(_, (_, used))| used.last).map(|(at, _)| at);
            oldest.map(|at| self.0.swap_remove(at));
        }
        self.0.push((fingerprint, used));
    }

    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::try_from(self.0.len()).unwrap_or(0));
        for (fingerprint, used) in &self.0 {
            let times = [used.last.0, used.accepted.0, used.completed.0];
            for number in [*fingerprint, used.requests, used.errors].into_iter().chain(times) {
                w.number(number);
            }
        }
        w.finish()
    }

    /// From bytes; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<PoolUsage> {
        Found::read(bytes, |bytes| {
            let mut r = Reader::new(bytes)?;
            let mut record = PoolUsage::default();
            for _ in 0..r.count(KEYS)? {
                let fingerprint = r.number()?;
                let (requests, errors) = (r.number()?, r.number()?);
                let (last, accepted) = (UnixMillis(r.number()?), Micros(r.number()?));
                let completed = Micros(r.number()?);
                record.0.push((fingerprint, KeyUsage { requests, errors, last, accepted, completed }));
            }
            r.end()?;
            Some(record)
        })
    }
}

/// What one worker has counted of a pool since it last merged.
pub struct WorkerUsage {
    key: String,
    pending: PoolUsage,
    merged_at: Micros,
}

impl WorkerUsage {
    /// Of this pool.
    pub fn new(pool: &str) -> WorkerUsage {
        let key = [names::USAGE, pool].concat();
        WorkerUsage { key, pending: PoolUsage::default(), merged_at: Micros(0) }
    }

    /// Takes in what became of an attempt with this key: an attempt counts when it is over.
    pub fn count(&mut self, fingerprint: u64, judgement: &Judgement, now: UnixMillis) {
        let mut used = KeyUsage::default();
        if let Some(outcome) = judgement.outcome {
            let failed = matches!(outcome, Outcome::Bad | Outcome::RateLimited | Outcome::KeyRejected);
            used = KeyUsage { requests: 1, errors: u64::from(failed), last: now, ..used };
        }
        match judgement.event {
            Some(Event::Answered { outcome: Outcome::Good, .. }) => used.accepted = judgement.began,
            Some(Event::Completed) => used.completed = judgement.began,
            _ => {}
        }
        if used != KeyUsage::default() {
            self.pending.add(fingerprint, used);
        }
    }

    /// Merges what was counted, if that is due. What cannot be merged now stays for the next time.
    pub fn merge(&mut self, store: &dyn Store, now: Micros, drops: &mut Drops) {
        if self.pending.0.is_empty() || now.since(self.merged_at) < MERGE_AFTER {
            return;
        }
        self.merged_at = now;
        let merged = update(store, &self.key, &mut |bytes| {
            let mut record = match PoolUsage::decode(bytes) {
                Found::Nothing => PoolUsage::default(),
                Found::Value(record) => record,
                Found::Undecodable => return Change::Keep(false),
            };
            self.pending.0.iter().for_each(|(fingerprint, used)| record.add(*fingerprint, *used));
            Change::Write(record.encode(), true)
        });
        match merged {
            Ok(true) => self.pending.0.clear(),
            Ok(false) => {
                self.pending.0.clear();
                drops.one(Dropped::Undecodable);
            }
            Err(error) => drops.one(Dropped::of(error)),
        }
    }

    /// What all workers have merged, with what this one has not merged yet. `None` if it cannot be read.
    pub fn read(&self, store: &dyn Store) -> Option<PoolUsage> {
        let found = store.get(&self.key).ok()?;
        let mut record = match PoolUsage::decode(found.as_ref().map(|found| found.bytes.as_slice())) {
            Found::Nothing => PoolUsage::default(),
            Found::Value(record) => record,
            Found::Undecodable => return None,
        };
        self.pending.0.iter().for_each(|(fingerprint, used)| record.add(*fingerprint, *used));
        Some(record)
    }

    /// The same, for whoever cannot wait: if nothing can be read, at least what this worker knows.
    pub fn read_or_pending(&self, store: &dyn Store) -> PoolUsage {
        self.read(store).unwrap_or_else(|| self.pending.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::attempts::Carried;
    use crate::testing::MemoryStore;

    /// Of an attempt that is over.
    fn over(outcome: Outcome) -> Judgement {
        let carried = Carried::default();
        Judgement { event: None, outcome: Some(outcome), carried, began: Micros(0), status: None }
    }

    fn at(millis: u64) -> Micros {
        Micros(millis * 1000)
    }

    #[test]
    fn two_workers_count_together_and_write_rarely() {
        let (store, mut drops) = (MemoryStore::default(), Drops::default());
        let (mut a, mut b) = (WorkerUsage::new("p"), WorkerUsage::new("p"));
        for n in 0..100 {
            a.count(1, &over(Outcome::Good), UnixMillis(n));
            b.count(1, &over(Outcome::RateLimited), UnixMillis(1000 + n));
            b.count(2, &over(Outcome::CallerError), UnixMillis(7));
            a.merge(&store, at(1000 + n), &mut drops);
            b.merge(&store, at(1000 + n), &mut drops);
        }
        assert_eq!(store.calls.get(), 4, "one read and one write each in a tenth of a second");
        a.merge(&store, at(2000), &mut drops);
        b.merge(&store, at(2000), &mut drops);
        let calls = store.calls.get();
        (0..9).for_each(|n| a.merge(&store, at(3000 + 300 * n), &mut drops));
        assert_eq!(store.calls.get(), calls, "nothing new is not written");
        let record = WorkerUsage::new("p").read(&store).unwrap();
        assert_eq!(
            record.get(1),
            KeyUsage { requests: 200, errors: 100, last: UnixMillis(1099), ..KeyUsage::default() }
        );
        assert_eq!(record.get(2), KeyUsage { requests: 100, last: UnixMillis(7), ..KeyUsage::default() });
        assert_eq!((record.get(3), drops), (KeyUsage::default(), Drops::default()));
    }

    #[test]
    fn what_cannot_be_merged_is_kept_and_shown() {
        let (store, mut drops) = (MemoryStore::default(), Drops::default());
        let mut usage = WorkerUsage::new("p");
        usage.count(1, &over(Outcome::Bad), UnixMillis(5));
        store.interference.set(16);
        usage.merge(&store, at(1000), &mut drops);
        assert_eq!(drops.0, [(Dropped::MergeDeferred, 1)]);
        assert_eq!(usage.read(&store).unwrap().get(1).errors, 1);
        usage.merge(&store, at(2000), &mut drops);
        assert_eq!(WorkerUsage::new("p").read(&store).unwrap().get(1).errors, 1);
    }

    #[test]
    fn a_record_of_another_build_is_left_alone_and_not_taken_for_nothing() {
        let (store, mut drops) = (MemoryStore::default(), Drops::default());
        store.force("bellwether/2/usage/p", &[9, 9]);
        let mut usage = WorkerUsage::new("p");
        usage.count(1, &over(Outcome::Good), UnixMillis(5));
        usage.merge(&store, at(1000), &mut drops);
        assert_eq!(drops.0, [(Dropped::Undecodable, 1)]);
        assert_eq!(usage.read(&store), None);
    }

    #[test]
    fn keys_that_were_rotated_away_make_room() {
        let mut record = PoolUsage::default();
        for n in 0..2000u64 {
            record.add(n, KeyUsage { requests: 1, last: UnixMillis(n), ..KeyUsage::default() });
        }
        assert_eq!((record.0.len(), record.get(1999).requests, record.get(0).requests), (KEYS, 1, 0));
        assert!(matches!(PoolUsage::decode(Some(&record.encode())), Found::Value(back) if back == record));
    }
}
