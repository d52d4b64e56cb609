//! Use of the keys of a pool on all workers: counted on each worker, merged into shared data a few times a second.
//!
//! Metrics count the same, but a metric has to be defined before it can be read, and would then be shown for keys that were never
//! used; and no counter holds the time of a key's last use. A worker also needs the counts of the others: all clients of another
//! key may be on other workers, so its own counts do not show whether that key works.

use crate::outcome::Outcome;
use crate::outcome::blame::Event;
use crate::outcome::judgement::Judgement;
use crate::shared::codec::{Found, Reader, Writer};
use crate::shared::dropped::Dropped;
use crate::shared::names;
use crate::shared::store::{Change, Store, update};
use crate::shared::turn::Turn;
use crate::time::{Micros, Span, UnixMillis};

/// Age of the last merge after which counts are merged again (250 ms): nobody looks more often.
const MERGE_AFTER: Span = Span::from_millis(250);
/// Most keys in a record: those of a pool, and as many that were rotated away.
const MAX_KEYS: usize = 512;

/// Use of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyUsage {
    /// Attempts that carried the key and are over.
    pub requests: u64,
    /// Attempts among them that failed, were limited or were refused.
    pub errors: u64,
    /// End of the last attempt.
    pub last: UnixMillis,
    /// Beginning of the latest attempt with good headers.
    pub accepted: Micros,
    /// Beginning of the latest attempt with a whole answer.
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
    /// Returns the use of a key; zero for a key that was never used.
    pub fn get(&self, fingerprint: u64) -> KeyUsage {
        self.0.iter().find(|(held, _)| *held == fingerprint).map(|(_, used)| *used).unwrap_or_default()
    }

    fn add(&mut self, fingerprint: u64, used: KeyUsage) {
        if let Some((_, held)) = self.0.iter_mut().find(|(held, _)| *held == fingerprint) {
            return held.add(used);
        }
        if self.0.len() >= MAX_KEYS {
            // The key that was not used for longest was rotated away.
            let oldest = self.0.iter().enumerate().min_by_key(|(_, (_, used))| used.last).map(|(at, _)| at);
            oldest.map(|at| self.0.swap_remove(at));
        }
        self.0.push((fingerprint, used));
    }

    fn add_all(&mut self, other: &PoolUsage) {
        other.0.iter().for_each(|(fingerprint, used)| self.add(*fingerprint, *used));
    }

    /// Writes the record as bytes.
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

    /// Reads a record from bytes; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<PoolUsage> {
        Found::read(bytes, |bytes| {
            let mut r = Reader::new(bytes)?;
            let mut record = PoolUsage::default();
            for _ in 0..r.count(MAX_KEYS)? {
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

/// The counts of one worker for one pool since its last merge.
pub struct WorkerUsage {
    /// Name of the record in shared data.
    name: String,
    pending: PoolUsage,
    merged_at: Micros,
}

impl WorkerUsage {
    /// Returns empty counts for a pool.
    pub fn new(pool: &str) -> WorkerUsage {
        let name = [names::USAGE, pool].concat();
        WorkerUsage { name, pending: PoolUsage::default(), merged_at: Micros(0) }
    }

    /// Counts a judgement for the key of its attempt. An attempt counts when it is over.
    pub fn count(&mut self, fingerprint: u64, judgement: &Judgement, now: UnixMillis) {
        let mut used = KeyUsage::default();
        if let Some(outcome) = judgement.outcome {
            let failed = matches!(
                outcome,
                Outcome::Bad | Outcome::RateLimited | Outcome::Exhausted | Outcome::KeyRejected
            );
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

    /// Merges the counts into the shared record, if that is due. If other workers interfere, the counts stay for the next time.
    pub fn merge(&mut self, turn: &mut Turn<'_>) {
        if self.pending.0.is_empty() || turn.now.mono.since(self.merged_at) < MERGE_AFTER {
            return;
        }
        self.merged_at = turn.now.mono;
        let merged = update(turn.store, &self.name, &mut |bytes| {
            let mut record = match PoolUsage::decode(bytes) {
                Found::Nothing => PoolUsage::default(),
                Found::Value(record) => record,
                Found::Undecodable => return Change::Keep(false),
            };
            record.add_all(&self.pending);
            Change::Write(record.encode(), true)
        });
        match merged {
            Ok(true) => self.pending.0.clear(),
            Ok(false) => {
                self.pending.0.clear();
                turn.drops.one(Dropped::Undecodable);
            }
            Err(error) => turn.drops.one(Dropped::of(error)),
        }
    }

    /// Returns the counts of all workers, with the pending ones of this worker. `None` if the record cannot be read.
    pub fn read(&self, store: &dyn Store) -> Option<PoolUsage> {
        let found = store.get(&self.name).ok()?;
        let mut record = match PoolUsage::decode(found.as_ref().map(|found| found.bytes.as_slice())) {
            Found::Nothing => PoolUsage::default(),
            Found::Value(record) => record,
            Found::Undecodable => return None,
        };
        record.add_all(&self.pending);
        Some(record)
    }

    /// Returns the counts of all workers or, if the record cannot be read, the pending ones of this worker.
    pub fn read_or_pending(&self, store: &dyn Store) -> PoolUsage {
        self.read(store).unwrap_or_else(|| self.pending.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::blame::KeyAnswer;
    use crate::outcome::judgement::Carried;
    use crate::shared::dropped::Drops;
    use crate::testing::MemoryStore;
    use crate::time::Now;

    /// Returns the judgement of an attempt that is over.
    fn over(outcome: Outcome) -> Judgement {
        let carried = Carried::default();
        Judgement {
            event: None,
            outcome: Some(outcome),
            carried,
            began: Micros(0),
            status: None,
            on_key: KeyAnswer::Silent,
        }
    }

    fn turn(store: &MemoryStore, millis: u64) -> Turn<'_> {
        Turn::new(store, Now { mono: Micros(millis * 1000), wall: UnixMillis(millis) })
    }

    /// Merges, and returns the drops.
    fn merge(usage: &mut WorkerUsage, store: &MemoryStore, millis: u64) -> Drops {
        let mut turn = turn(store, millis);
        usage.merge(&mut turn);
        turn.drops
    }

    #[test]
    fn two_workers_count_together_and_write_rarely() {
        let store = MemoryStore::default();
        let (mut a, mut b) = (WorkerUsage::new("p"), WorkerUsage::new("p"));
        for n in 0..100 {
            a.count(1, &over(Outcome::Good), UnixMillis(n));
            b.count(1, &over(Outcome::RateLimited), UnixMillis(1000 + n));
            b.count(2, &over(Outcome::CallerError), UnixMillis(7));
            for worker in [&mut a, &mut b] {
                assert_eq!(merge(worker, &store, 1000 + n), Drops::default());
            }
        }
        assert_eq!(store.calls.get(), 4, "one read and one write each in a tenth of a second");
        for worker in [&mut a, &mut b] {
            assert_eq!(merge(worker, &store, 2000), Drops::default());
        }
        let calls = store.calls.get();
        (0..9).for_each(|n| assert_eq!(merge(&mut a, &store, 3000 + 300 * n), Drops::default()));
        assert_eq!(store.calls.get(), calls, "without new counts nothing is written");
        let record = WorkerUsage::new("p").read(&store).unwrap();
        assert_eq!(
            record.get(1),
            KeyUsage { requests: 200, errors: 100, last: UnixMillis(1099), ..KeyUsage::default() }
        );
        assert_eq!(record.get(2), KeyUsage { requests: 100, last: UnixMillis(7), ..KeyUsage::default() });
        assert_eq!(record.get(3), KeyUsage::default());
    }

    #[test]
    fn counts_that_cannot_be_merged_are_kept_and_shown() {
        let store = MemoryStore::default();
        let mut usage = WorkerUsage::new("p");
        usage.count(1, &over(Outcome::Bad), UnixMillis(5));
        store.interference.set(16);
        assert_eq!(merge(&mut usage, &store, 1000).0, [(Dropped::MergeDeferred, 1)]);
        assert_eq!(usage.read(&store).unwrap().get(1).errors, 1);
        merge(&mut usage, &store, 2000);
        assert_eq!(WorkerUsage::new("p").read(&store).unwrap().get(1).errors, 1);
    }

    #[test]
    fn a_record_of_another_build_is_left_alone_and_not_read_as_empty() {
        let store = MemoryStore::default();
        store.force("bellwether/2/usage/p", &[9, 9]);
        let mut usage = WorkerUsage::new("p");
        usage.count(1, &over(Outcome::Good), UnixMillis(5));
        assert_eq!(merge(&mut usage, &store, 1000).0, [(Dropped::Undecodable, 1)]);
        assert_eq!(usage.read(&store), None);
    }

    #[test]
    fn keys_that_were_rotated_away_make_room() {
        let mut record = PoolUsage::default();
        for n in 0..2000u64 {
            record.add(n, KeyUsage { requests: 1, last: UnixMillis(n), ..KeyUsage::default() });
        }
        assert_eq!((record.0.len(), record.get(1999).requests, record.get(0).requests), (MAX_KEYS, 1, 0));
        assert!(matches!(PoolUsage::decode(Some(&record.encode())), Found::Value(back) if back == record));
    }
}
