//! The comparison with stable.

use super::*;

#[test]
fn without_any_limit_a_broken_canary_is_found_by_comparison() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    let (transitions, failed) =
        run(&a, &store, 10_000, None, |version, _| if version == 1 { BAD } else { GOOD });
    assert_eq!(failed, 9, "at a share of 10 %");
    let cause = transitions[0].cause.as_ref().unwrap();
    assert_eq!(cause.label, "worse_errors");
    assert_eq!(cause.text, "9 of 9 failed while of stable's 0 of 72 did (score 16.74, limit 16.12)");
    assert_eq!(a.goes_to(&store, 200_000 * MS, TO_CANARY), 0);
}

#[test]
fn an_outage_of_both_is_not_blamed_on_the_canary_by_comparison() {
    let store = MemoryStore::default();
    let (transitions, _) = run(&Worker::new(""), &store, 20_000, None, |_, _| BAD);
    assert!(transitions.is_empty(), "{transitions:?}");
}

#[test]
fn a_slow_canary_is_found_by_comparison() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    let fate = |version: usize, i: u64| {
        let millis = if version == 1 { 900 } else { 100 + i % 100 };
        Event::Answered { outcome: Outcome::Good, latency: Some(Span::from_millis(millis)) }
    };
    let (transitions, _) = run(&a, &store, 10_000, None, fate);
    assert_eq!(transitions[0].cause.as_ref().unwrap().label, "worse_latency");
}

#[test]
fn a_response_below_the_latency_floor_is_never_slow() {
    let fate = |version: usize, i: u64| {
        let millis = if version == 1 { 90 } else { 1 + i % 3 };
        Event::Answered { outcome: Outcome::Good, latency: Some(Span::from_millis(millis)) }
    };
    let (transitions, _) = run(&Worker::new(""), &MemoryStore::default(), 10_000, None, fate);
    assert!(transitions.is_empty(), "90 ms is below the floor: {transitions:?}");
    let strict = Worker::new(r#""guard": {"compare": {"latency_floor": "20ms"}},"#);
    let (transitions, _) = run(&strict, &MemoryStore::default(), 10_000, None, fate);
    assert_eq!(transitions[0].cause.as_ref().unwrap().label, "worse_latency");
}

#[test]
fn one_broken_sticky_client_is_not_a_broken_canary() {
    let store = MemoryStore::default();
    let (transitions, _) =
        run(&Worker::new(""), &store, 6_000, Some(7), |version, _| if version == 1 { BAD } else { GOOD });
    assert!(transitions.is_empty(), "{transitions:?}");
}

#[test]
fn forced_traffic_is_not_compared() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    for i in 0..100 {
        let assigned = Assigned::forced(1);
        assert!(a.result(&store, i * MS, &assigned, BAD).transitions.is_empty());
    }
}

#[test]
fn a_request_that_fails_in_three_attempts_is_compared_as_one_failure() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    let mut failed = 0;
    for i in 0..10_000u64 {
        let assigned = a.assign(&store, i * 10 * MS, (i % 10) * (u64::MAX / 10) + u64::MAX / 20);
        let canary = assigned.choice.version == 1;
        for _ in 0..3 {
            a.result(&store, i * 10 * MS, &assigned, if canary { BAD } else { GOOD });
        }
        failed += u64::from(canary);
        if a.weights()[1] == 0 {
            break;
        }
    }
    assert_eq!(failed, 9, "requests, not attempts");
}

#[test]
fn one_broken_client_on_many_workers_is_not_a_broken_canary() {
    let store = MemoryStore::default();
    let workers: Vec<Worker> = (0..16).map(|_| Worker::new("")).collect();
    let identity = Some(0x1234_5678_9abc_def0);
    for i in 0..5_000u64 {
        let at = i * 10 * MS;
        let worker = &workers[i as usize % 16];
        let random = (i % 10) * (u64::MAX / 10) + u64::MAX / 20;
        let mut assigned = worker.assign(&store, at, random);
        assigned.choice.identity = identity.filter(|_| assigned.choice.version == 1).or(Some(i));
        let event = if assigned.choice.version == 1 { BAD } else { GOOD };
        assert!(worker.result(&store, at, &assigned, event).transitions.is_empty(), "request {i}");
    }
}

/// Sends a hundred requests a second, each tenth to the canary. Every second one of these comes from one client, and all its
/// requests fail. From request `broken` on, all requests of the canary fail. Returns how many failures of other clients it then
/// takes.
fn behind_one_broken_client(broken: u64) -> u64 {
    let workers: Vec<Worker> = (0..8).map(|_| Worker::new("")).collect();
    let (store, mut failed) = (MemoryStore::default(), 0);
    for i in 0..broken + 10_000 {
        let (at, worker) = (i * 10 * MS, &workers[i as usize % workers.len()]);
        let random = (i % 10) * (u64::MAX / 10) + u64::MAX / 20;
        let mut assigned = worker.assign(&store, at, random);
        let canary = assigned.choice.version == 1;
        let one = canary && i / 10 % 2 == 0;
        assigned.choice.identity = Some(if one { 0x1234_5678_9abc_def0 } else { i });
        // In health one answer in a hundred is bad, of either version.
        let bad = one || (canary && i >= broken) || i / 10 % 100 == 1 + i % 10 * 10;
        failed += u64::from(bad && canary && !one && i >= broken);
        let results = worker.result(&store, at, &assigned, if bad { BAD } else { GOOD });
        if !results.transitions.is_empty() {
            assert!(i >= broken, "blamed for one client: {:?}", results.transitions);
            return failed;
        }
    }
    failed
}

#[test]
fn one_long_broken_client_hides_no_canary_that_breaks_for_all() {
    let found: Vec<u64> = (1..=10).map(|seconds| behind_one_broken_client(700 * seconds)).collect();
    assert!(found.iter().all(|failures| (9..=12).contains(failures)), "{found:?}");
}
