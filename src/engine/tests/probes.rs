//! Recovery by probes.

use super::*;

/// Returns a worker with a canary that was rolled back at 0 s, and the time at which it began probing.
fn probing(store: &MemoryStore) -> (Worker, u64) {
    let a = Worker::new(PROBING);
    for _ in 0..3 {
        a.see(store, 1, (1, 0), BAD);
    }
    for second in 1..20 {
        let moved = a.tick(store, second * SECOND).transitions;
        if let Some(t) = moved.first() {
            assert_eq!(t.change, change(RolledBack, Probing));
            assert!((8..=10).contains(&second), "after {second} s");
            return (a, second * SECOND);
        }
    }
    panic!("never probing");
}

/// Assigns a request that the split gives to the canary.
fn probe(worker: &Worker, store: &MemoryStore, at: u64) -> Assigned {
    worker.assign(store, at, TO_CANARY + 7 * at)
}

fn finish(
    worker: &Worker,
    store: &MemoryStore,
    at: u64,
    probe: &Assigned,
    passed: Option<bool>,
) -> Vec<Transition> {
    let transition =
        worker.bindings[0].finish(&worker.plan.deployments[0], probe, passed, &mut turn(store, at));
    transition.into_iter().collect()
}

#[test]
fn a_canary_recovers_by_probes_that_no_worker_has_too_many_of() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    let b = Worker::new(PROBING);
    assert_eq!(a.weights(), [10_000, 0], "a probe is no share");
    let first = probe(&a, &store, at + MS);
    assert_eq!((first.choice.version, first.choice.probe), (1, true));
    assert_eq!(probe(&a, &store, at + 2 * MS).choice.version, 0, "one in flight");
    assert_eq!(probe(&b, &store, at + 20 * MS).choice.version, 0, "also for other workers");
    assert!(finish(&a, &store, at + 30 * MS, &first, Some(true)).is_empty());
    let second = probe(&b, &store, at + 50 * MS);
    assert_eq!(second.choice.version, 1);
    let t = finish(&b, &store, at + 60 * MS, &second, Some(true));
    assert_eq!(t[0].change, change(Probing, Active));
    assert_eq!(probe(&a, &store, at + 80 * MS).choice.version, 1);
    assert_eq!(b.weights(), [9000, 1000]);
}

#[test]
fn a_probe_that_fails_rolls_back_for_twice_as_long() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    let first = probe(&a, &store, at + MS);
    let t = a.result(&store, at + 2 * MS, &first, BAD).transitions;
    assert_eq!(t[0].change, change(Probing, RolledBack));
    assert!(
        finish(&a, &store, at + 3 * MS, &first, Some(true)).is_empty(),
        "a retry that went well changes nothing"
    );
    let again = (1..40).find(|s| !a.tick(&store, at + s * SECOND).transitions.is_empty()).unwrap();
    assert!((16..=20).contains(&again), "after {again} s");
}

#[test]
fn a_cancelled_probe_gives_its_place_back_and_decides_nothing() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    for i in 0..5 {
        let p = probe(&a, &store, at + i * 20 * MS + MS);
        assert_eq!(p.choice.version, 1, "round {i}");
        assert!(finish(&a, &store, at + i * 20 * MS + 2 * MS, &p, None).is_empty());
    }
}

#[test]
fn calls_that_began_before_a_rollback_do_not_fail_the_probing_after_it() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    let results = a.see(&store, at + MS, (1, 0), BAD);
    assert_eq!(results.dropped.0, [(Dropped::LateResult, 1)]);
    assert_eq!(probe(&a, &store, at + 20 * MS).choice.version, 1, "still probing");
}

#[test]
fn a_canary_that_only_rules_reach_recovers_too() {
    let store = MemoryStore::default();
    let rest = r#""guard": {"max_consecutive_errors": 1}, "recovery": {"mode": "probe", "after": "1s", "successes": 1},
        "rules": [{"headers": [{"name": "x-a", "exact": "1"}], "version": "v2"}],"#;
    let a = Worker::new(rest);
    a.see(&store, 1, (1, 0), BAD);
    (1..4).for_each(|second| drop(a.tick(&store, second * SECOND)));
    let headers = Headers::new(vec![("x-a".to_owned(), "1".into())]);
    let probe = a.assign_with(&headers, TO_STABLE, &mut turn(&store, 4 * SECOND));
    assert_eq!((probe.choice.version, probe.lease.is_some()), (1, true));
    assert_eq!(finish(&a, &store, 5 * SECOND, &probe, Some(true))[0].change.to(), Active);
}
