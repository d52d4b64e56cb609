//! Pools on two workers with one store.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::keys::usage::WorkerUsage;
use crate::outcome::Outcome;
use crate::outcome::blame::{Event, KeyAnswer, Unproven};
use crate::outcome::judgement::{Carried, Judgement};
use crate::plan::pool::Refusal;
use crate::testing::{MemoryStore, pool};
use crate::time::{Now, UnixMillis};

const SECOND: u64 = 1_000_000;

struct Worker {
    state: PoolState,
    config: KeyPool,
    keys: KeySet,
    usage: WorkerUsage,
    /// Client of the next reports.
    client: u64,
}

impl Worker {
    fn new(keys: &[(&str, u32)]) -> Worker {
        Worker::on(pool(keys))
    }

    fn on(config: KeyPool) -> Worker {
        let keys = KeySet::new(&config, &BTreeMap::new());
        Worker { state: PoolState::new("p"), config, keys, usage: WorkerUsage::new("p"), client: 1 }
    }

    fn health(&self, key: usize) -> Health {
        self.state.health(&self.keys, key)
    }

    fn pick(&mut self, store: &MemoryStore, at: u64, random: u64, tried: &[usize]) -> Pick {
        let query = KeyQuery { tried, identity: None, random, suspects: true };
        let pool = Pool { config: &self.config, keys: &self.keys };
        self.state.pick(pool, query, &mut turn(store, at))
    }

    /// Returns the keys that a thousand evenly spread requests would get.
    fn in_use(&mut self, store: &MemoryStore, at: u64) -> Vec<usize> {
        let mut used: Vec<usize> = (0..1000u64)
            .filter_map(|i| match self.pick(store, at, i * (u64::MAX / 1000), &[]) {
                Pick::Key(key) => Some(key),
                Pick::Exhausted { .. } => None,
            })
            .collect();
        used.sort_unstable();
        used.dedup();
        used
    }

    /// Reports an attempt that took no time.
    fn report(
        &mut self,
        store: &MemoryStore,
        at: u64,
        key: usize,
        outcome: KeyOutcome,
    ) -> Vec<KeyTransition> {
        self.report_of(store, (at, at), key, outcome)
    }

    /// Reports an attempt that took some time.
    fn report_of(
        &mut self,
        store: &MemoryStore,
        (began, now): (u64, u64),
        key: usize,
        outcome: KeyOutcome,
    ) -> Vec<KeyTransition> {
        self.count(key, outcome, Micros(began));
        let client = self.client;
        let report = KeyReport { key, outcome, began: Micros(began), client: &|| client };
        let pool = Pool { config: &self.config, keys: &self.keys };
        self.state.report(pool, report, &self.usage, &mut turn(store, now))
    }

    /// Counts an attempt as the filter does.
    fn count(&mut self, key: usize, outcome: KeyOutcome, began: Micros) {
        // A whole answer began well.
        let events = match outcome {
            KeyOutcome::Completed => vec![ANSWERED, Event::Completed],
            KeyOutcome::Accepted => vec![ANSWERED],
            _ => vec![],
        };
        let (carried, on_key) = (Carried::default(), KeyAnswer::Silent);
        let fingerprint = self.keys.fingerprint(key).unwrap();
        for event in events {
            let judgement =
                Judgement { event: Some(event), outcome: None, carried, began, status: None, on_key };
            self.usage.count(fingerprint, &judgement, UnixMillis(0));
        }
    }

    fn merge(&mut self, store: &MemoryStore, at: u64) {
        self.usage.merge(&mut turn(store, at));
    }
}

fn turn(store: &MemoryStore, at: u64) -> Turn<'_> {
    Turn::new(store, Now { mono: Micros(at), wall: UnixMillis(0) })
}

const THREE: [(&str, u32); 3] = [("a", 1), ("b", 1), ("c", 1)];
const ANSWERED: Event = Event::Answered { outcome: Outcome::Good, latency: None };
const WAIT: KeyOutcome = KeyOutcome::Limited(Some(Millis(5000)));

#[test]
fn a_limited_key_is_out_on_every_worker_within_ten_milliseconds_and_back_by_one_trial() {
    let store = MemoryStore::default();
    let (mut a, mut b) = (Worker::new(&THREE), Worker::new(&THREE));
    assert_eq!(b.in_use(&store, SECOND), [0, 1, 2]);
    let moved = a.report(&store, SECOND, 1, WAIT);
    assert_eq!((moved[0].key, moved[0].to, moved[0].until), (1, Status::RateLimited, Micros(6 * SECOND)));
    assert_eq!(a.in_use(&store, SECOND), [0, 2]);
    assert_eq!(b.in_use(&store, SECOND + 10_000), [0, 2]);
    // The trial is due: the first request on either worker is the trial, and the only one.
    let at = 6 * SECOND;
    assert_eq!(b.pick(&store, at, 0, &[]), Pick::Key(1));
    assert_eq!(a.in_use(&store, at), [0, 2]);
    assert_eq!(b.in_use(&store, at + SECOND), [0, 2]);
    let moved = b.report(&store, at + SECOND, 1, KeyOutcome::Completed);
    assert_eq!(moved[0].to, Status::Active);
    assert_eq!(a.in_use(&store, at + 2 * SECOND), [0, 1, 2]);
}

#[test]
fn a_trial_that_fails_extends_for_everybody() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&THREE);
    a.report(&store, SECOND, 0, WAIT);
    assert_eq!(a.pick(&store, 6 * SECOND, 0, &[]), Pick::Key(0));
    a.report(&store, 6 * SECOND, 0, WAIT);
    assert_eq!(a.in_use(&store, 10 * SECOND), [1, 2]);
    assert_eq!(a.pick(&store, 11 * SECOND, 0, &[]), Pick::Key(0));
}

#[test]
fn keys_of_a_quota_group_cool_together() {
    let store = MemoryStore::default();
    let mut p = pool(&THREE);
    for key in [0, 2] {
        p.keys[key].quota_group = Some("org".to_owned());
    }
    let mut a = Worker::on(p);
    assert_eq!(a.report(&store, SECOND, 0, WAIT).len(), 2);
    assert_eq!(a.in_use(&store, SECOND), [1]);
    a.report(&store, 2 * SECOND, 1, KeyOutcome::Limited(Some(Millis(100_000))));
    assert_eq!(a.pick(&store, 2 * SECOND, 0, &[]), Pick::Exhausted { returns_in: Some(Millis(4000)) });
}

#[test]
fn a_rate_limit_of_the_group_ends_no_streak_of_another_key() {
    let store = MemoryStore::default();
    let mut p = pool(&[("a", 1), ("b", 1)]);
    p.rejected.failures = 2;
    p.keys.iter_mut().for_each(|key| key.quota_group = Some("org".to_owned()));
    let mut a = Worker::on(p);
    a.report(&store, SECOND, 0, KeyOutcome::Rejected);
    a.report(&store, 2 * SECOND, 1, KeyOutcome::Limited(Some(Millis(100_000))));
    a.report(&store, 3 * SECOND, 0, KeyOutcome::Rejected);
    assert_eq!(a.health(0).status, Status::Disabled, "twice in a row");
}

#[test]
fn a_pool_whose_keys_are_all_limited_is_exhausted() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1)]);
    a.report(&store, SECOND, 0, WAIT);
    assert_eq!(a.pick(&store, 2 * SECOND, 0, &[]), Pick::Exhausted { returns_in: Some(Millis(4000)) });
    assert!(!a.state.has_usable_key(&a.keys, Micros(2 * SECOND)));
    assert!(a.state.has_usable_key(&a.keys, Micros(6 * SECOND)), "one trial");
}

#[test]
fn an_outage_of_the_provider_takes_no_key_out_of_use() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&THREE);
    (0..3).for_each(|key| drop(a.report(&store, SECOND, key, KeyOutcome::Completed)));
    for i in 0..60 {
        a.report(&store, (2 + i) * SECOND, i as usize % 3, KeyOutcome::Failed);
    }
    assert_eq!(a.in_use(&store, 90 * SECOND), [0, 1, 2]);
    // Two keys work again, so the failures of the third are its own fault.
    for i in 0..6 {
        a.report(&store, (100 + i) * SECOND, 0, KeyOutcome::Completed);
        a.report(&store, (100 + i) * SECOND, 1, KeyOutcome::Completed);
        a.report(&store, (100 + i) * SECOND, 2, KeyOutcome::Failed);
    }
    assert_eq!(a.in_use(&store, 106 * SECOND), [0, 1]);
}

#[test]
fn attempts_under_way_when_the_provider_fails_take_no_key_out_of_use() {
    // Both keys have long attempts under way. Some are answered just before the breakdown, the others fail with it.
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    let report = |a: &mut Worker, (began, now): (u64, u64), key, outcome| {
        a.report_of(&store, (began * SECOND, now * SECOND), key, outcome)
    };
    for key in [0, 1] {
        report(&mut a, (3, 10), key, KeyOutcome::Failed);
        report(&mut a, (9, 11), key, KeyOutcome::Completed);
    }
    for _ in 0..20 {
        for key in [0, 1] {
            assert!(report(&mut a, (2, 12), key, KeyOutcome::Failed).is_empty());
        }
    }
    assert_eq!(a.in_use(&store, 12 * SECOND), [0, 1]);
    // A key is at fault if others work in attempts that began later.
    report(&mut a, (13, 14), 1, KeyOutcome::Completed);
    assert_eq!(report(&mut a, (13, 14), 0, KeyOutcome::Failed)[0].to, Status::CoolingDown);
    // The last key stays in use, although the other has worked since: that one cannot take its place.
    report(&mut a, (15, 16), 1, KeyOutcome::Failed);
    report(&mut a, (17, 18), 0, KeyOutcome::Inconclusive);
    a.count(0, KeyOutcome::Completed, Micros(17 * SECOND));
    for _ in 0..20 {
        assert!(report(&mut a, (18, 19), 1, KeyOutcome::Failed).is_empty());
    }
    assert_eq!(a.in_use(&store, 20 * SECOND), [1]);
}

#[test]
fn a_key_whose_streams_all_break_cools_with_any_number_of_them_under_way() {
    // Each second a stream of each key begins and ends ten seconds later. Those of the first key break. Two workers take turns.
    let store = MemoryStore::default();
    let mut workers = [Worker::new(&[("a", 1), ("b", 1)]), Worker::new(&[("a", 1), ("b", 1)])];
    let mut cooled = None;
    for second in 10..50 {
        let worker = &mut workers[second as usize % 2];
        let mut report = |key, outcome, began| {
            let moved = worker.report_of(&store, (began * SECOND, second * SECOND), key, outcome);
            cooled = cooled.or(moved.first().map(|moved| (second, moved.key, moved.to)));
        };
        report(0, KeyOutcome::Accepted, second);
        report(1, KeyOutcome::Accepted, second);
        report(0, KeyOutcome::Broke, second - 10);
        report(1, KeyOutcome::Completed, second - 10);
        worker.merge(&store, second * SECOND);
    }
    // The first break is noticed in second 10. Streams of b that began later end ten seconds after that.
    let (second, key, to) = cooled.unwrap();
    assert_eq!((key, to), (0, Status::CoolingDown));
    assert!((21..=23).contains(&second), "{second}");
}

#[test]
fn healthy_keys_with_long_streams_do_not_cool_after_occasional_failures() {
    // Streams last two minutes, and none is over yet. Every tenth answer of either key is a 500.
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    for n in 0..1000 {
        let outcome = if n % 20 < 2 { KeyOutcome::Failed } else { KeyOutcome::Accepted };
        assert!(a.report(&store, SECOND + n * 100_000, n as usize % 2, outcome).is_empty(), "{n}");
    }
}

#[test]
fn a_failing_key_cools_even_if_the_others_worked_on_another_worker() {
    let two = [("a", 1), ("b", 1)];
    let store = MemoryStore::default();
    let (mut first, mut second) = (Worker::new(&two), Worker::new(&two));
    for n in 0..20 {
        let at = SECOND + n * 100_000;
        let moved = first.report(&store, at, 0, KeyOutcome::Failed);
        second.report(&store, at + 10, 1, KeyOutcome::Completed);
        second.merge(&store, at + 20);
        if let Some(moved) = moved.first() {
            assert_eq!((moved.key, moved.to), (0, Status::CoolingDown));
            assert!((4..=7).contains(&n), "successes are merged four times a second: {n}");
            return;
        }
    }
    panic!("the failing key is still in use");
}

#[test]
fn a_success_on_another_worker_ends_a_streak_that_it_did_not_know_of() {
    let two = [("a", 1), ("b", 1)];
    let store = MemoryStore::default();
    let (mut first, mut second) = (Worker::new(&two), Worker::new(&two));
    // Within ten milliseconds of its last read the second worker knows nothing of the failures.
    second.in_use(&store, SECOND);
    (0..4).for_each(|n| drop(first.report(&store, SECOND + n, 0, KeyOutcome::Failed)));
    for key in [0, 1] {
        second.report(&store, SECOND + 5, key, KeyOutcome::Accepted);
    }
    second.merge(&store, SECOND + 6);
    assert!(first.report(&store, SECOND + 7, 0, KeyOutcome::Failed).is_empty());
    for key in [0, 1] {
        first.report(&store, SECOND + 8, key, KeyOutcome::Completed);
    }
    for n in 1..=5 {
        let moved = first.report(&store, 2 * SECOND + n, 0, KeyOutcome::Failed);
        first.report(&store, 2 * SECOND + n, 1, KeyOutcome::Completed);
        assert_eq!(moved.len(), usize::from(n == 5), "five in a row: {n}");
    }
}

#[test]
fn a_key_that_was_rotated_away_takes_no_other_out() {
    let store = MemoryStore::default();
    let mut before = Worker::new(&[("a", 1), ("b", 1)]);
    before.report(&store, 2 * SECOND, 1, KeyOutcome::Failed);
    before.report(&store, 3 * SECOND, 0, KeyOutcome::Completed);
    before.merge(&store, 4 * SECOND);
    // Without the first key the second is the only one. The same holds if only the second has a weight.
    for keys in [&[("b", 1)][..], &[("a", 0), ("b", 1)]] {
        let mut after = Worker::new(keys);
        let b = keys.len() - 1;
        (0..20).for_each(|n| drop(after.report(&store, (5 + n) * SECOND, b, KeyOutcome::Failed)));
        assert_eq!(after.in_use(&store, 30 * SECOND), [b]);
    }
}

#[test]
fn a_tried_key_is_taken_again_only_when_no_other_is_active() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    for i in 0..50 {
        assert_eq!(a.pick(&store, SECOND, i << 58, &[0]), Pick::Key(1));
    }
    a.report(&store, SECOND, 1, WAIT);
    assert_eq!(a.pick(&store, SECOND, 0, &[0]), Pick::Key(0));
}

#[test]
fn a_healthy_pool_writes_nothing() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&THREE);
    for at in 0..1000 {
        a.pick(&store, SECOND + at, at << 54, &[]);
        a.report(&store, SECOND + at, 0, KeyOutcome::Accepted);
        a.report(&store, SECOND + at, 0, KeyOutcome::Completed);
    }
    assert_eq!(store.calls.get(), 1, "one read in ten milliseconds");
}

#[test]
fn an_entry_goes_with_its_key_and_outlives_its_workers() {
    let store = MemoryStore::default();
    let two = [("a", 1), ("b", 1)];
    let mut first = Worker::new(&two);
    first.in_use(&store, SECOND);
    first.report(&store, SECOND, 0, KeyOutcome::Rejected);
    // While any worker has the key, workers without it drop nothing.
    let mut without = Worker::new(&[("b", 1)]);
    for n in 0..100 {
        first.in_use(&store, 2 * SECOND + n * 100_000);
        without.in_use(&store, 2 * SECOND + n * 100_000 + 50_000);
    }
    // With a new module the next VM starts before the last one ends.
    let mut next = Worker::new(&two);
    assert_eq!(next.in_use(&store, 13 * SECOND), [1]);
    drop(first);
    assert_eq!(next.in_use(&store, 20 * SECOND), [1], "after any time without a read");
    drop(next);
    (210..240).for_each(|tenth| drop(without.in_use(&store, tenth * SECOND / 10)));
    assert_eq!(Worker::new(&two).in_use(&store, 24 * SECOND), [0, 1], "three seconds without the key");
}

#[test]
fn a_pool_that_comes_back_starts_healthy() {
    let (store, mut pools) = (MemoryStore::default(), Pools::default());
    let Worker { config, keys, usage, .. } = Worker::new(&[("a", 1)]);
    let first = pools.attach("p");
    first.with_mut(|state| state.refresh(&keys, &mut turn(&store, SECOND))).unwrap();
    let outcome = KeyOutcome::Limited(None);
    let report = KeyReport { key: 0, outcome, began: Micros(SECOND), client: &|| 1 };
    let pool = Pool { config: &config, keys: &keys };
    first.with_mut(|state| state.report(pool, report, &usage, &mut turn(&store, SECOND))).unwrap();
    drop(first);
    let again = pools.attach("p");
    again.with_mut(|state| state.refresh(&keys, &mut turn(&store, 60 * SECOND))).unwrap();
    assert!(again.with(|state| state.health(&keys, 0).is_active()).unwrap());
}

#[test]
fn a_reordered_pool_keeps_its_states() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&THREE);
    a.report(&store, SECOND, 1, WAIT);
    let mut reordered = Worker::new(&[("b", 1), ("c", 1), ("a", 1)]);
    assert_eq!(reordered.in_use(&store, SECOND), [1, 2]);
}

proptest! {
    #[test]
    fn a_pool_with_a_healthy_key_is_never_exhausted(
        steps in vec((0usize..2, 0usize..3, 0u8..7, proptest::option::of(0u64..700_000), 0u64..60, any::<u64>()), 1..80),
        healthy in 0usize..3,
    ) {
        let store = MemoryStore::default();
        let mut workers = [Worker::new(&THREE), Worker::new(&THREE)];
        let mut now = SECOND;
        for (worker, key, outcome, wait, seconds, random) in steps {
            now += seconds * SECOND + 20_000;
            let outcome = match outcome {
                0 => KeyOutcome::Completed,
                1 => KeyOutcome::Limited(wait.map(Millis)),
                2 => KeyOutcome::Rejected,
                3 => KeyOutcome::Inconclusive,
                4 => KeyOutcome::Accepted,
                5 => KeyOutcome::Broke,
                _ => KeyOutcome::Failed,
            };
            // One key always works.
            let outcome = if key == healthy { KeyOutcome::Completed } else { outcome };
            workers[worker].report(&store, now, key, outcome);
            for worker in &mut workers {
                let tried: Vec<usize> = (0..3).filter(|n| random >> n & 1 == 1).collect();
                let picked = worker.pick(&store, now + 10_000, random, &tried);
                prop_assert!(matches!(picked, Pick::Key(_)), "{picked:?}");
                let untried = worker.pick(&store, now + 10_000, random, &[]);
                prop_assert!(matches!(untried, Pick::Key(_)), "{untried:?}");
            }
        }
        prop_assert!(workers[0].health(healthy).is_active());
    }
}

#[test]
fn shared_data_holds_a_key_as_a_fingerprint_only() {
    let (store, mut w) = (MemoryStore::default(), Worker::new(&THREE));
    for (n, outcome) in
        (0..).zip([WAIT, KeyOutcome::Rejected, KeyOutcome::Failed, KeyOutcome::Failed, KeyOutcome::Completed])
    {
        w.report(&store, SECOND, n % 3, outcome);
    }
    let held = store.content();
    assert!(held.iter().any(|(_, value)| !value.is_empty()), "the record has entries");
    for (key, value) in held {
        let shown = [key.as_bytes(), &value].concat();
        for secret in ["sk-a", "sk-b", "sk-c", "sk-"] {
            assert!(!shown.windows(secret.len()).any(|part| part == secret.as_bytes()), "{key}");
        }
    }
}

#[test]
fn a_refused_key_stays_disabled_when_its_group_is_limited() {
    let store = MemoryStore::default();
    let mut pool = pool(&THREE);
    pool.keys[0].quota_group = Some("g".to_owned());
    pool.keys[1].quota_group = Some("g".to_owned());
    let mut a = Worker::on(pool);
    a.report(&store, SECOND, 0, KeyOutcome::Rejected);
    a.report(&store, 5 * SECOND, 1, WAIT);
    assert_eq!((a.health(0).status, a.health(0).until), (Status::Disabled, Micros(601 * SECOND)));
    assert_eq!(a.health(1).status, Status::RateLimited);
}

#[test]
fn only_a_rate_limit_gives_a_time_to_retry() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&THREE);
    for n in 0..6 {
        a.report(&store, SECOND + n * 1000, 0, KeyOutcome::Failed);
        a.report(&store, SECOND + n * 1000 + 500, 1, KeyOutcome::Completed);
    }
    a.report(&store, 2 * SECOND, 1, KeyOutcome::Rejected);
    a.report(&store, 2 * SECOND, 2, KeyOutcome::Limited(Some(Millis(100_000))));
    let statuses = [0, 1, 2].map(|key| a.health(key).status);
    assert_eq!(statuses, [Status::CoolingDown, Status::Disabled, Status::RateLimited]);
    assert_eq!(a.pick(&store, 3 * SECOND, 0, &[]), Pick::Exhausted { returns_in: Some(Millis(99_000)) });
}

/// A refusal of a request that tried one key only.
const ALONE: KeyOutcome = KeyOutcome::Unproven(Unproven { refusal: Refusal::Rejected, alone: true });
/// A refusal of a request that was refused with every key that it tried.
const BY_ALL: KeyOutcome = KeyOutcome::Unproven(Unproven { refusal: Refusal::Rejected, alone: false });

/// Reports an outcome of an attempt of this client that began a millisecond before.
fn of_client(
    worker: &mut Worker,
    store: &MemoryStore,
    at: u64,
    (key, client): (usize, u64),
    outcome: KeyOutcome,
) -> Vec<KeyTransition> {
    worker.client = client;
    worker.report_of(store, (at - 1000, at), key, outcome)
}

#[test]
fn five_refusals_of_three_clients_take_a_key_out_while_another_serves() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    for n in 0..5 {
        let at = SECOND + n * 10_000;
        let moved = of_client(&mut a, &store, at, (0, n % 3 + 1), ALONE);
        assert_eq!(moved.first().map(|moved| moved.to), (n == 4).then_some(Status::Disabled), "{n}");
        of_client(&mut a, &store, at + 5000, (1, n % 3 + 1), KeyOutcome::Accepted);
    }
    assert_eq!(a.in_use(&store, 2 * SECOND), [1]);
}

#[test]
fn one_client_takes_no_key_out_while_others_are_about() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    for n in 0..50 {
        let at = SECOND + n * 10_000;
        assert!(of_client(&mut a, &store, at, (0, 9), ALONE).is_empty(), "{n}");
        of_client(&mut a, &store, at + 5000, (1, n % 2), KeyOutcome::Accepted);
    }
    // One that the key serves in between ends the row.
    of_client(&mut a, &store, 2 * SECOND, (0, 1), KeyOutcome::Accepted);
    for client in [1, 2, 3, 4] {
        assert!(of_client(&mut a, &store, 3 * SECOND, (0, client), ALONE).is_empty());
        of_client(&mut a, &store, 3 * SECOND + 5000, (1, client), KeyOutcome::Accepted);
    }
    // If nobody else is about, the only client is enough.
    let mut alone = Worker::on(pool(&[("c", 1), ("d", 1)]));
    let moved: Vec<KeyTransition> = (0..5u64)
        .flat_map(|n| {
            let moved = of_client(&mut alone, &store, (4 + n) * SECOND, (0, 9), ALONE);
            of_client(&mut alone, &store, (4 + n) * SECOND + 5000, (1, 9), KeyOutcome::Accepted);
            moved
        })
        .collect();
    assert_eq!(moved.iter().map(|moved| (moved.key, moved.to)).collect::<Vec<_>>(), [(0, Status::Disabled)]);
}

#[test]
fn a_pool_that_is_refused_as_a_whole_keeps_its_keys_and_comes_back_at_once() {
    for keys in [&[("a", 1)][..], &[("a", 1), ("b", 1)], &THREE] {
        let store = MemoryStore::default();
        let mut a = Worker::new(keys);
        let mut suspect = Vec::new();
        for n in 0..40 {
            let key = n as usize % keys.len();
            let outcome = if keys.len() == 1 { ALONE } else { BY_ALL };
            suspect.extend(of_client(&mut a, &store, SECOND + n * 10_000, (key, n % 4), outcome));
        }
        assert!(suspect.iter().all(|moved| moved.to == Status::Suspect), "{suspect:?}");
        assert_eq!(suspect.len(), keys.len(), "each key once");
        let all: Vec<usize> = (0..keys.len()).collect();
        assert_eq!(a.in_use(&store, SECOND + 500_000), all, "still in use");
        // A version that stable can stand in for gets one request a second.
        let query = KeyQuery { tried: &[], identity: None, random: 0, suspects: false };
        let due = |a: &mut Worker, at: u64| {
            let pool = Pool { config: &a.config, keys: &a.keys };
            a.state.pick(pool, query, &mut turn(&store, at))
        };
        let at = 3 * SECOND;
        for _ in 0..keys.len() {
            assert!(matches!(due(&mut a, at), Pick::Key(_)));
        }
        assert_eq!(due(&mut a, at), Pick::Exhausted { returns_in: None });
        let moved = of_client(&mut a, &store, at + 5000, (0, 1), KeyOutcome::Accepted);
        assert_eq!((moved[0].from, moved[0].to), (Status::Suspect, Status::Active));
        assert_eq!(due(&mut a, at + 20_000), Pick::Key(0), "active again");
    }
}

#[test]
fn the_last_active_key_is_never_put_out_by_refusals() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    assert_eq!(a.report(&store, SECOND, 0, KeyOutcome::Rejected)[0].to, Status::Disabled);
    assert_eq!(a.report(&store, 2 * SECOND, 1, KeyOutcome::Rejected)[0].to, Status::Suspect);
    assert_eq!(a.in_use(&store, 3 * SECOND), [1]);
    // A limit with evidence always counts.
    assert_eq!(a.report(&store, 4 * SECOND, 1, WAIT)[0].to, Status::RateLimited);
    let mut b = Worker::new(&[("c", 1), ("d", 1)]);
    assert_eq!(b.report(&store, SECOND, 0, KeyOutcome::Exhausted)[0].until, Micros(3601 * SECOND));
    assert_eq!(b.report(&store, SECOND, 1, KeyOutcome::Exhausted)[0].to, Status::Suspect);
}

#[test]
fn a_key_that_was_refused_a_moment_ago_proves_nothing() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    a.in_use(&store, SECOND);
    assert!(a.state.proves(&a.keys, 1, Micros(SECOND)));
    a.state.note_refusal(&a.keys, 1, Micros(SECOND));
    a.report(&store, SECOND + 1000, 1, KeyOutcome::Accepted);
    assert!(!a.state.proves(&a.keys, 1, Micros(SECOND + 500)), "the provider has just come back");
    assert!(a.state.proves(&a.keys, 1, Micros(2 * SECOND + 1)), "long ago");
    // A refusal that another worker has reported counts too.
    let mut b = Worker::new(&[("a", 1), ("b", 1)]);
    of_client(&mut b, &store, 5 * SECOND, (1, 1), BY_ALL);
    a.in_use(&store, 6 * SECOND);
    assert!(!a.state.proves(&a.keys, 1, Micros(5 * SECOND + 1)));
}

#[test]
fn while_a_refusal_is_undecided_other_keys_are_preferred() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    a.in_use(&store, SECOND);
    a.state.note_refusal(&a.keys, 0, Micros(SECOND));
    assert_eq!(a.in_use(&store, SECOND + 1000), [1]);
    assert!(!a.state.has_fresh_key(&a.keys, &[1], Micros(SECOND + 1000)));
    assert_eq!(a.pick(&store, SECOND + 1000, 0, &[1]), Pick::Key(0), "better than a key that was tried");
    a.state.note_refusal(&a.keys, 1, Micros(SECOND + 2000));
    assert_eq!(a.in_use(&store, SECOND + 3000), [0, 1], "if no other is left");
    a.report(&store, SECOND + 4000, 0, KeyOutcome::Accepted);
    assert_eq!(a.in_use(&store, SECOND + 5000), [0]);
    assert_eq!(a.in_use(&store, 2 * SECOND), [0, 1], "and not for long");
}

#[test]
fn a_doubted_key_is_tried_by_one_request_at_a_time() {
    let store = MemoryStore::default();
    let (mut a, mut b) = (Worker::new(&THREE), Worker::new(&THREE));
    of_client(&mut a, &store, SECOND, (0, 1), ALONE);
    assert_eq!(a.in_use(&store, SECOND), [1, 2], "not before another key has served");
    of_client(&mut a, &store, SECOND + 5000, (1, 1), KeyOutcome::Accepted);
    assert_eq!(a.pick(&store, SECOND + 5000, u64::MAX, &[]), Pick::Key(0));
    assert_eq!(a.in_use(&store, SECOND + 5000), [1, 2]);
    assert_eq!(b.in_use(&store, SECOND + 10_000), [1, 2]);
    of_client(&mut a, &store, SECOND + 20_000, (0, 1), KeyOutcome::Accepted);
    assert_eq!(b.in_use(&store, SECOND + 30_000), [0, 1, 2]);
}

#[test]
fn a_trial_that_is_refused_without_a_proof_is_repeated_soon_and_then_later() {
    let store = MemoryStore::default();
    let mut a = Worker::new(&[("a", 1), ("b", 1)]);
    a.in_use(&store, SECOND);
    a.report(&store, SECOND, 0, KeyOutcome::Rejected);
    let mut at = 601 * SECOND;
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert_eq!(a.pick(&store, at, u64::MAX, &[]), Pick::Key(0), "the trial");
        a.report(&store, at, 0, ALONE);
        let until = a.health(0).until.0;
        waits.push((until - at) / SECOND);
        at = until;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    assert_eq!(a.health(0).status, Status::Disabled);
}
