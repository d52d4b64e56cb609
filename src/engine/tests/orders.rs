//! Orders of an operator, and the view.

use super::*;

#[test]
fn an_order_is_in_force_on_every_worker_is_reported_once_and_holds() {
    let store = MemoryStore::default();
    let probing = r#""recovery": {"mode": "probe", "after": "1s"}, "guard": {"compare": false},"#;
    let (a, b) = (Worker::new(probing), Worker::new(probing));
    assert_eq!(b.goes_to(&store, 0, TO_CANARY), 1);
    b.see(&store, 25 * MS, (1, 0), GOOD);
    let (done, results) = order(&a, &store, 30 * MS, Order::Rollback, "wrong tone");
    assert_eq!((done, results.transitions.len()), (Ok(()), 1));
    let t = &results.transitions[0];
    assert_eq!(
        (t.version.as_str(), t.change, t.epoch, t.evidence.canary),
        ("v2", change(Active, RolledBack), 1, Counts { judged: 1, bad: 0 })
    );
    assert_eq!(
        t.cause.as_ref().map(|cause| (cause.label.as_str(), cause.text.as_str())),
        Some(("operator", "wrong tone"))
    );
    assert_eq!(a.goes_to(&store, 30 * MS, TO_CANARY), 0, "at once where it was given");
    assert_eq!(b.goes_to(&store, 40 * MS, TO_CANARY), 0, "within 10 ms elsewhere");
    for worker in [&a, &b] {
        assert_eq!(order(worker, &store, 50 * MS, Order::Rollback, "again"), (Ok(()), Results::default()));
    }
    // It would have been probed after a second.
    assert_eq!(b.tick(&store, 5_000 * MS), Results::default());
    assert_eq!(b.goes_to(&store, 5_000 * MS, TO_CANARY), 0);
    let (done, results) = order(&b, &store, 6_000 * MS, Order::Resume, "");
    assert_eq!((done, results.transitions[0].change.to(), results.transitions[0].epoch), (Ok(()), Active, 2));
    assert_eq!(a.goes_to(&store, 6_010 * MS, TO_CANARY), 1);
    assert_eq!(order(&a, &store, 6_020 * MS, Order::Resume, ""), (Ok(()), Results::default()));
}

#[test]
fn the_failures_before_a_rollback_are_not_held_against_a_resumed_canary() {
    let store = MemoryStore::default();
    let (a, b) =
        (Worker::new(r#""guard": {"max_errors": 10},"#), Worker::new(r#""guard": {"max_errors": 10},"#));
    let transitions: usize = (0..20).map(|at| a.see(&store, at, (1, 0), BAD).transitions.len()).sum();
    assert_eq!(transitions, 1);
    assert_eq!(view(&b, &store, 30).versions[1].evidence, 100);
    assert_eq!(order(&b, &store, 50 * MS, Order::Resume, "").0, Ok(()));
    let seen = view(&a, &store, 60 * MS);
    assert_eq!((seen.versions[1].evidence, seen.versions[1].tally.judged), (0, 0));
    // Results of the epoch before are late.
    assert_eq!(a.see(&store, 61 * MS, (1, 0), BAD).dropped.0, [(Dropped::LateResult, 1)]);
    for at in 0..8 {
        assert_eq!(
            a.see(&store, 70 * MS + at, (1, 2), BAD).transitions,
            [],
            "eight new failures are not enough"
        );
    }
    assert_eq!(view(&b, &store, 90 * MS).versions[1].tally.bad, 8);
}

#[test]
fn an_operator_latches_a_rollback_by_a_guard() {
    let store = MemoryStore::default();
    let rest = r#""recovery": {"mode": "probe", "after": "1s"}, "guard": {"max_consecutive_errors": 3, "compare": false},"#;
    let (a, b) = (Worker::new(rest), Worker::new(rest));
    (1..=3).for_each(|at| drop(a.see(&store, at, (1, 0), BAD)));
    assert_eq!(
        order(&b, &store, 5 * MS, Order::Rollback, "leave it"),
        (Ok(()), Results::default()),
        "no transition"
    );
    assert_eq!(a.tick(&store, 60_000 * MS), Results::default(), "not probed");
    let seen = view(&a, &store, 60_000 * MS);
    let cause = seen.versions[1].standing.phase.cause().unwrap();
    assert!(cause.by_operator() && cause.text.starts_with("leave it; it was out: 3 failed"), "{cause:?}");
}

#[test]
fn all_canaries_go_with_one_write_and_stable_stays() {
    let store = MemoryStore::default();
    let document = r#"{"deployments": [{"name": "d", "stable": "v1", "versions": [
        {"id": "v1", "weight": 50, "cluster": "a"}, {"id": "v2", "weight": 25, "cluster": "b"},
        {"id": "v3", "weight": 25, "cluster": "c"}]}]}"#;
    let (a, b) = (Worker::on(crate::testing::plan(document)), Worker::on(crate::testing::plan(document)));
    let before = store.calls.get();
    let (done, results) = order(&a, &store, MS, Order::Rollback, "");
    assert_eq!((done, results.transitions.len()), (Ok(()), 2));
    assert!(store.calls.get() - before < 12, "{} calls", store.calls.get() - before);
    assert_eq!(view(&b, &store, MS).versions.iter().map(|v| v.share).collect::<Vec<_>>(), [10_000, 0, 0]);
}

#[test]
fn an_order_that_cannot_be_carried_out_returns_the_reason_and_changes_nothing() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    a.goes_to(&store, 0, TO_CANARY);
    store.interference.set(crate::shared::store::TRIES);
    assert_eq!(order(&a, &store, MS, Order::Rollback, ""), (Err(Refused::Contended), Results::default()));
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 1);
    store.force("bellwether/1/standings/d/1", &[9, 9]);
    assert_eq!(order(&a, &store, 30 * MS, Order::Rollback, "").0, Err(Refused::Unreadable));
    assert!(view(&a, &store, 30 * MS).unreadable);
    let alone = Worker::on(crate::testing::plan(
        r#"{"deployments": [{"name": "d", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "a"}]}]}"#,
    ));
    assert_eq!(order(&alone, &MemoryStore::default(), MS, Order::Rollback, "").0, Err(Refused::NoCanary));
    store.broken.set(true);
    assert_eq!(order(&a, &store, 40 * MS, Order::Rollback, "").0, Err(Refused::Unreadable));
}

#[test]
fn a_worker_without_requests_shows_the_numbers_of_the_others() {
    let store = MemoryStore::default();
    let (a, b) =
        (Worker::new(r#""guard": {"max_errors": 50},"#), Worker::new(r#""guard": {"max_errors": 50},"#));
    for at in 0..40 {
        a.see(&store, 100 * MS * at, (0, 0), GOOD);
    }
    (0..20).for_each(|at| drop(a.see(&store, 4_000 * MS + at, (1, 0), BAD)));
    let seen = view(&b, &store, 4_100 * MS);
    assert_eq!(
        (seen.versions[1].tally.judged, seen.versions[1].tally.bad, seen.versions[1].totals),
        (9, 9, Counts { judged: 9, bad: 9 })
    );
    assert_eq!(seen.versions[0].tally.judged, 40);
    assert_eq!(seen.worst(0).map(|n| (n, seen.versions[n].standing.phase.kind())), Some((1, RolledBack)));
}
