//! Shared data that is lost, unreadable or contended, and its cost.

use super::*;

#[test]
fn a_value_that_is_lost_does_not_bring_a_canary_back() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    store.force("bellwether/1/standings/d/1", TOMBSTONE);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 0);
}

#[test]
fn unreadable_standings_give_all_traffic_to_stable_and_are_counted() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    store.force("bellwether/1/standings/d/1", b"\x01garbage");
    let mut turn = turn(&store, 0);
    assert_eq!(a.assign_with(&Headers::default(), TO_CANARY, &mut turn).choice.version, 0);
    assert_eq!(turn.drops.0, [(Dropped::Undecodable, 1)]);
    store.force("bellwether/1/standings/d/1", TOMBSTONE);
    assert_eq!(a.goes_to(&store, 10 * MS, TO_CANARY), 1, "readable again");
    store.broken.set(true);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 0, "the host refuses");
}

#[test]
fn undecodable_statistics_give_all_traffic_to_stable_too() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    store.force("bellwether/1/stats/d/1/v2", b"\x01\xff");
    let results = a.see(&store, 1, (1, 0), BAD);
    assert_eq!(results.dropped.0, [(Dropped::Undecodable, 1)]);
    assert_eq!(a.goes_to(&store, 2, TO_CANARY), 0);
    store.force("bellwether/1/stats/d/1/v2", TOMBSTONE);
    a.tick(&store, 1_100 * MS);
    assert_eq!(a.goes_to(&store, 1_101 * MS, TO_CANARY), 1, "readable again");
}

#[test]
fn a_comparison_of_a_module_with_another_layout_is_counted_left_alone_and_served_by_stable() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    // The layout of a module in which each measure had one sketch of clients.
    let older = [&[1, 0][..], &[0; 26], &[0; 26]].concat();
    store.force("bellwether/1/compare/d/1/v2", &older);
    assert_eq!(a.see(&store, 1, (1, 0), BAD).dropped.0, [(Dropped::Undecodable, 1)]);
    assert_eq!(a.goes_to(&store, 2, TO_CANARY), 0);
    assert!(store.content().iter().any(|(_, value)| *value == older));
    // The older module buries its shared values.
    store.force("bellwether/1/compare/d/1/v2", TOMBSTONE);
    a.tick(&store, 1_100 * MS);
    assert_eq!(a.goes_to(&store, 1_101 * MS, TO_CANARY), 1);
    let failures = (1..100).find(|n| !a.see(&store, (1_200 + n) * MS, (1, 0), BAD).transitions.is_empty());
    assert_eq!(failures, Some(9), "it is compared anew");
}

#[test]
fn nothing_is_lost_to_interference() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    store.interference.set(1000);
    for at in 1..=3 {
        let results = a.see(&store, at, (1, 0), BAD);
        assert_eq!(results.dropped.0, [(Dropped::MergeDeferred, 1)]);
    }
    store.interference.set(0);
    let results = a.tick(&store, 100 * MS);
    assert_eq!(results.transitions.len(), 1, "the failures were kept and judged at the next merge");
}

#[test]
fn the_request_path_reads_shared_data_once_in_ten_milliseconds() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 0..100 * MS {
        a.assign(&store, at, TO_STABLE);
    }
    assert_eq!(store.calls.get(), 10);
}

#[test]
fn no_value_of_a_request_becomes_a_key_of_shared_data() {
    let store = MemoryStore::default();
    let w = Worker::new(r#""sticky": {"on": [{"header": "u"}]}, "guard": {"max_errors": 1000000},"#);
    let mut known = Vec::new();
    for n in 0..2000u64 {
        let pairs =
            [("u", format!("user-{n}")), (":path", format!("/{n}")), ("x-request-id", format!("id-{n}"))];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.into_bytes()));
        let headers = Headers::new(pairs.into());
        let at = n * 30_000;
        let assigned = w.assign_with(&headers, n, &mut turn(&store, at));
        w.result(&store, at, &assigned, if n % 50 == 0 { BAD } else { GOOD });
        let keys: Vec<String> = store.content().into_iter().map(|(key, _)| key).collect();
        if n == 100 {
            known = keys;
        } else if n > 100 {
            assert_eq!(keys, known, "after request {n}");
        }
    }
    assert!(!known.is_empty());
}

#[test]
fn good_outcomes_are_merged_in_batches_and_a_canarys_failure_at_once() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 0..20 * MS {
        a.see(&store, at, (0, 0), GOOD);
    }
    assert_eq!(store.calls.get(), 0, "within 20 ms nothing is merged");
    a.see(&store, 20 * MS, (1, 0), BAD);
    assert_eq!(store.calls.get(), 4, "both versions are read and written");
}
