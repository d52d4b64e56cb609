//! Limits, holds and rollbacks.

use super::*;

#[test]
fn a_rollback_is_made_once_and_seen_by_every_worker_within_ten_milliseconds() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    assert_eq!(b.goes_to(&store, 0, TO_CANARY), 1);
    let mut transitions = Vec::new();
    for (worker, at) in [(&a, 1), (&b, 2), (&a, 3)] {
        transitions.extend(worker.see(&store, at, (1, 0), BAD).transitions);
    }
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    let t = &transitions[0];
    assert_eq!((t.version.as_str(), t.change, t.epoch), ("v2", change(Active, RolledBack), 1));
    assert_eq!(t.cause.as_ref().unwrap().text, "3 failed in a row (limit 3); stable: 0 of 0 failed");
    assert_eq!(t.evidence.canary, Counts { judged: 3, bad: 3 });
    assert_eq!(a.goes_to(&store, 4, TO_CANARY), 0, "at once where it was made");
    assert_eq!(b.goes_to(&store, 9 * MS, TO_CANARY), 1, "the copy of b is not 10 ms old");
    assert_eq!(b.goes_to(&store, 10 * MS, TO_CANARY), 0, "the copy is 10 ms old");
    assert_eq!((a.weights(), b.weights()), (vec![10_000, 0], vec![10_000, 0]));
    assert_eq!(
        (a.bindings[0].phase_gauge(&a.plan.deployments[0]), b.bindings[0].evidence(&b.plan.deployments[0])),
        (3, 100)
    );
}

#[test]
fn late_results_decide_nothing_and_are_counted() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    let results = a.see(&store, 9, (1, 0), BAD);
    assert_eq!(results, Results { transitions: vec![], dropped: Drops(vec![(Dropped::LateResult, 1)]) });
}

#[test]
fn late_results_of_a_worker_with_an_old_copy_are_dropped_at_its_merge() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    b.assign(&store, 0, TO_CANARY);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    // A forced request is recorded under the new epoch first, so the statistics have that epoch.
    a.see(&store, 4, (1, 1), BAD);
    let results = b.see(&store, 5, (1, 0), BAD);
    assert_eq!(results.dropped.0, [(Dropped::LateResult, 1)]);
    assert_eq!(b.goes_to(&store, 6, TO_CANARY), 0, "its copy is new now");
}

#[test]
fn an_outage_of_both_is_held_and_not_blamed_on_the_canary() {
    let store = MemoryStore::default();
    let rest = r#""guard": {"max_error_rate": 5, "window": "1s", "compare": false},"#;
    let a = Worker::new(rest);
    let mut transitions = Vec::new();
    for i in 0..100u64 {
        let of = (usize::from(i % 2 == 0), 0);
        transitions.extend(a.see(&store, i * MS, of, if i % 4 < 2 { BAD } else { GOOD }).transitions);
    }
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    assert_eq!(transitions[0].change, change(Active, Holding));
    assert_eq!(a.goes_to(&store, 200 * MS, TO_CANARY), 1, "traffic goes on");
    // The trouble leaves the window; nobody needs to send a request for the hold to end.
    let ended: Vec<Transition> = (1..5).flat_map(|s| a.tick(&store, s * 1_100 * MS).transitions).collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].change, change(Holding, Active));
}

/// Lets a canary fail until it is rolled back. Before that, every tenth request of stable has failed; then stable gets none.
/// Returns each phase of the canary with the number of its failure.
fn fail_beside(store: &MemoryStore, worker: &Worker, stable: u64, good: u64) -> Vec<(u64, PhaseKind)> {
    for n in 0..stable {
        worker.see(store, n * MS, (0, 0), if n % 10 == 5 { BAD } else { GOOD });
    }
    (0..good).for_each(|n| drop(worker.see(store, (stable + n) * MS, (1, 0), GOOD)));
    worker.tick(store, (stable + good) * MS);
    let begin = (stable + good + 100) * MS;
    (1..=200)
        .flat_map(|n| {
            let moved = worker.see(store, begin + n * 10 * MS, (1, 0), BAD).transitions;
            moved.into_iter().map(move |t| (n, t.change.to()))
        })
        .collect()
}

#[test]
fn a_stable_that_fails_now_and_then_keeps_no_limit_from_its_canary() {
    for (limit, stable, good, at) in [
        ("\"max_consecutive_errors\": 5", 108, 100, 5),
        ("\"max_errors\": 5", 10, 0, 5),
        ("\"max_error_rate\": 5", 10, 0, 20),
    ] {
        let w = Worker::new(&format!(r#""guard": {{{limit}, "compare": false}},"#));
        let phases = fail_beside(&MemoryStore::default(), &w, stable, good);
        assert_eq!(phases, [(at, RolledBack)], "{limit}");
    }
}

#[test]
fn a_total_outage_in_which_the_canary_is_first_past_a_limit_is_shared() {
    for limit in ["\"max_consecutive_errors\": 5", "\"max_errors\": 5", "\"max_error_rate\": 5"] {
        let store = MemoryStore::default();
        let rest = format!(r#""guard": {{{limit}, "compare": false}},"#);
        let workers = [Worker::new(&rest), Worker::new(&rest)];
        (0..400).for_each(|n| drop(workers[n % 2].see(&store, n as u64 * MS, (n / 2 % 2, 0), GOOD)));
        let mut moved = Vec::new();
        // Five of the canary's requests for two of stable's, which other workers get.
        for n in 0..140u64 {
            let (worker, version) = if matches!(n % 7, 1 | 4) { (1, 0) } else { (0, 1) };
            moved.extend(workers[worker].see(&store, (400 + n) * MS, (version, 0), BAD).transitions);
            moved.extend(workers[1].tick(&store, (400 + n) * MS).transitions);
        }
        assert_eq!(moved.iter().map(|t| t.change.to()).collect::<Vec<_>>(), [Holding], "{limit}: {moved:?}");
    }
}

#[test]
fn in_observe_mode_a_rollback_is_reported_once_and_not_made() {
    let store = MemoryStore::default();
    let rest = r#""guard": {"mode": "observe", "max_consecutive_errors": 3},"#;
    let (a, b) = (Worker::new(rest), Worker::new(rest));
    let mut transitions = Vec::new();
    for at in 1..=9 {
        transitions.extend(a.see(&store, at, (1, 0), BAD).transitions);
        transitions.extend(b.see(&store, at, (1, 0), BAD).transitions);
    }
    assert_eq!(transitions.len(), 1);
    assert_eq!(transitions[0].change, observed(Active, RolledBack));
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 1);
}

#[test]
fn in_observe_mode_trouble_that_stable_has_too_is_reported_once_and_holds_nothing() {
    let store = MemoryStore::default();
    let stages = r#""stages": [{"weight": 50, "for": "2s", "guard": {"mode": "observe", "max_error_rate": 5, "window": "1s",
        "compare": false}}, {"weight": 60, "for": "1h"}]"#;
    let w = Worker::ramp(stages);
    let (mut told, mut begun) = (Vec::new(), None);
    for at in 0..400u64 {
        let event = if at < 150 && at % 4 < 2 { BAD } else { GOOD };
        told.extend(w.see(&store, at * 10 * MS, (usize::from(at % 2 == 0), 0), event).transitions);
        for t in w.tick(&store, at * 10 * MS).transitions {
            if t.change.from() == t.change.to() { begun = Some(at * 10) } else { told.push(t) }
        }
        assert_eq!(view(&w, &store, at * 10 * MS).versions[1].standing.phase.kind(), Active);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].change, observed(Active, Holding));
    assert!(told[0].cause.is_some());
    assert!(begun.is_some_and(|at| at < 3_200), "its clock went on in the trouble: {begun:?}");
}

#[test]
fn rules_with_keep_outlive_a_rollback_and_others_do_not() {
    let rest = r#""guard": {"max_consecutive_errors": 1}, "rules": [
        {"headers": [{"name": "x-a", "exact": "1"}], "version": "v2", "after_rollback": "keep"},
        {"headers": [{"name": "x-a", "exact": "2"}], "version": "v2"}],"#;
    let store = MemoryStore::default();
    let a = Worker::new(rest);
    a.see(&store, 1, (1, 0), BAD);
    for (value, version) in [("1", 1), ("2", 0)] {
        let headers = Headers::new(vec![("x-a".to_owned(), value.into())]);
        let assigned = a.assign_with(&headers, TO_STABLE, &mut turn(&store, 2));
        assert_eq!((assigned.choice.version, assigned.choice.forced), (version, true), "x-a: {value}");
    }
}

#[test]
fn a_hold_ends_also_while_only_stable_has_traffic() {
    let store = MemoryStore::default();
    let a = Worker::new(r#""guard": {"max_error_rate": 5, "window": "1s", "min_requests": 1},"#);
    a.see(&store, 1, (0, 0), BAD);
    assert_eq!(a.see(&store, 2, (1, 0), BAD).transitions.len(), 1);
    let mut transitions = Vec::new();
    for at in (0..5_000 * MS).step_by(5_000) {
        a.assign(&store, at, TO_STABLE);
        transitions.extend(a.tick(&store, at).transitions);
    }
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    assert_eq!(transitions[0].change.to(), Active);
}

#[test]
fn a_second_rollback_names_none_of_the_requests_of_the_first() {
    let store = MemoryStore::default();
    let w = Worker::new(CONSECUTIVE);
    let mut named = Vec::new();
    for round in 0..2u32 {
        for n in 0..3u32 {
            let at = u64::from(round * 100 + n + 1) * MS;
            let epoch = round * 2;
            let choice = Choice { version: 1, forced: false, probe: false, identity: None };
            let shares = Assigned {
                choice,
                epoch,
                shares: Rc::new([5_000, 5_000]),
                stage: None,
                lease: None,
                request_id: Some(format!("round {round}, {n}").into()),
                compared: Cell::default(),
            };
            let results = w.result(&store, at, &shares, BAD);
            named.extend(results.transitions.into_iter().map(|t| t.evidence.requests));
        }
        let _ = order(&w, &store, u64::from(round * 100 + 50) * MS, Order::Resume, "again");
    }
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named[0].len() == 3 && named[0].iter().all(|id| id.starts_with("round 0")), "{named:?}");
    assert!(named[1].len() == 3 && named[1].iter().all(|id| id.starts_with("round 1")), "{named:?}");
}
