//! Plans, versions and releases that come and go.

use super::*;

#[test]
fn a_new_release_starts_afresh_and_an_old_one_that_returns_does_too() {
    let store = MemoryStore::default();
    let mut a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    a.reload(&store, r#""release": "2", "guard": {"max_consecutive_errors": 3},"#);
    assert_eq!(a.goes_to(&store, 10, TO_CANARY), 1);
    a.reload(&store, CONSECUTIVE);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 1, "release 1 was dropped when it left");
}

#[test]
fn results_of_a_release_that_was_replaced_decide_nothing() {
    let store = MemoryStore::default();
    let mut w = Worker::new(CONSECUTIVE);
    let old = Worker { bindings: std::mem::take(&mut w.bindings), ..Worker::new(CONSECUTIVE) };
    assert!(old.see(&store, 1, (1, 0), BAD).transitions.is_empty());
    w.reload(&store, &format!(r#"{CONSECUTIVE} "release": "2","#));
    for at in 2..9 {
        let results = old.see(&store, at, (1, 0), BAD);
        assert_eq!((results.transitions.len(), results.dropped.0), (0, vec![(Dropped::LateResult, 1)]));
    }
    assert_eq!(old.tick(&store, 2 * IDLE_AFTER.0), Results::default());
    assert_eq!(w.goes_to(&store, 2 * IDLE_AFTER.0, TO_CANARY), 1);
    // While another listener serves it, it is watched again.
    assert_eq!(old.goes_to(&store, 3 * IDLE_AFTER.0, TO_CANARY), 1);
    let seen: Vec<_> =
        (4..7).flat_map(|n| old.see(&store, n * IDLE_AFTER.0, (1, 0), BAD).transitions).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn a_rollback_survives_a_reload_of_the_same_release() {
    let store = MemoryStore::default();
    let mut a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    a.reload(&store, r#""guard": {"max_consecutive_errors": 9}, "rules": [],"#);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 0);
    // Also on a worker that starts with nothing in memory.
    assert_eq!(Worker::new(CONSECUTIVE).goes_to(&store, 21 * MS, TO_CANARY), 0);
}

#[test]
fn a_release_that_is_still_served_somewhere_stays_rolled_back_everywhere_when_it_returns() {
    let store = MemoryStore::default();
    let (mut a, b) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    assert_eq!(b.goes_to(&store, 10 * MS, TO_CANARY), 0);
    a.reload(&store, r#""release": "2","#);
    // b still has streams of release 1 and ticks.
    b.tick(&store, 20 * MS);
    a.reload(&store, CONSECUTIVE);
    assert_eq!(a.goes_to(&store, 30 * MS, TO_CANARY), 0);
}

#[test]
fn the_latest_window_counts_after_a_reload_with_another_window() {
    let store = MemoryStore::default();
    let mut a = Worker::new(r#""guard": {"max_errors": 4, "window": "30s"},"#);
    a.see(&store, 1, (1, 0), BAD);
    a.see(&store, 2, (1, 0), BAD);
    a.reload(&store, r#""guard": {"max_errors": 4, "window": "1s"},"#);
    // Two seconds on, the first two have left the window of one second.
    a.see(&store, 2_000 * MS, (1, 0), BAD);
    assert!(a.see(&store, 2_001 * MS, (1, 0), BAD).transitions.is_empty());
    a.see(&store, 2_002 * MS, (1, 0), BAD);
    assert_eq!(a.see(&store, 2_003 * MS, (1, 0), BAD).transitions.len(), 1);
}

/// Returns an older plan with streams under way, and the newer plan, on one worker.
fn reloaded(old: &str, new: &str) -> (Worker, Worker) {
    let mut newer = Worker::new(old);
    let older = Worker { bindings: std::mem::take(&mut newer.bindings), ..Worker::new(old) };
    newer.plan = deployment_plan(new);
    newer.bindings = newer.engine.attach(&newer.plan);
    (older, newer)
}

#[test]
fn an_older_plan_merges_its_counts_and_only_the_newest_plan_judges_them() {
    let store = MemoryStore::default();
    let (older, newer) = reloaded(
        CONSECUTIVE,
        r#""guard": {"mode": "observe", "max_consecutive_errors": 3, "compare": false},"#,
    );
    for at in 1..=5 {
        assert!(older.see(&store, at, (1, 0), BAD).transitions.is_empty(), "the older plan would enforce");
    }
    assert!(older.tick(&store, 1_000 * MS).transitions.is_empty());
    let told = newer.tick(&store, 1_001 * MS).transitions;
    assert_eq!((told.len(), told[0].change), (1, observed(Active, RolledBack)), "{told:?}");
    // While another listener serves the older plan, that plan judges.
    let (again, _) = reloaded(
        CONSECUTIVE,
        r#""guard": {"mode": "observe", "max_consecutive_errors": 3, "compare": false},"#,
    );
    let other = MemoryStore::default();
    again.assign(&other, 0, TO_CANARY);
    let moved: Vec<Transition> =
        (1..=3).flat_map(|at| again.see(&other, at, (1, 0), BAD).transitions).collect();
    assert_eq!((moved.len(), moved[0].change), (1, change(Active, RolledBack)));
    drop(newer);
    // Without the newer one (its listener was removed) the older decides again.
    assert_eq!(older.see(&store, 1_002 * MS, (1, 0), BAD).transitions.len(), 1);
}

#[test]
fn a_recovery_that_was_changed_while_rolled_back_does_not_swing() {
    let store = MemoryStore::default();
    let (older, newer) = reloaded(PROBING, CONSECUTIVE);
    (1..=3).for_each(|at| drop(newer.see(&store, at, (1, 0), BAD)));
    for second in 1..60 {
        assert!(older.tick(&store, second * SECOND).transitions.is_empty(), "{second} s");
        assert!(newer.tick(&store, second * SECOND + 1).transitions.is_empty(), "{second} s");
    }
}

#[test]
fn versions_that_have_left_make_room_for_new_ones() {
    let store = MemoryStore::default();
    let with = |id: u64| {
        crate::testing::plan(&format!(
            r#"{{"deployments": [{{"name": "d", "stable": "v1", "guard": {{"max_consecutive_errors": 3, "compare": false}}, "versions": [
                {{"id": "v1", "weight": 90, "cluster": "a"}}, {{"id": "c{id}", "weight": 10, "cluster": "b"}}]}}]}}"#
        ))
    };
    let mut a = Worker::on(with(0));
    for id in 0..80 {
        a.plan = with(id);
        a.bindings = a.engine.attach(&a.plan);
        let moved: usize =
            (1..=3).map(|at| a.see(&store, id * SECOND + at, (1, 0), BAD).transitions.len()).sum();
        assert_eq!(moved, 1, "canary {id}");
    }
}

/// Returns a plan of stable alone, or with a canary that three failures roll back.
fn with_canary(there: bool) -> Plan {
    let (weight, canary) =
        if there { (90, r#", {"id": "v2", "weight": 10, "cluster": "b"}"#) } else { (100, "") };
    crate::testing::plan(&format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1", {CONSECUTIVE} "versions": [
            {{"id": "v1", "weight": {weight}, "cluster": "a"}}{canary}]}}]}}"#
    ))
}

impl Worker {
    /// Reloads. Returns the bindings of the former plan, as a stream under way would keep them.
    fn take(&mut self, plan: Plan) -> Vec<Binding> {
        self.plan = plan;
        std::mem::replace(&mut self.bindings, self.engine.attach(&self.plan))
    }
}

/// Returns workers that all know the rollback of the canary at 0 s.
fn rolled_back<const N: usize>(store: &MemoryStore) -> [Worker; N] {
    let workers = std::array::from_fn(|_| Worker::on(with_canary(true)));
    (1..=3).for_each(|at| drop(workers[0].see(store, at, (1, 0), BAD)));
    workers.iter().for_each(|w| assert_eq!(w.goes_to(store, 10 * MS, TO_CANARY), 0));
    workers
}

#[test]
fn a_version_that_was_away_comes_back_afresh() {
    let store = MemoryStore::default();
    let [mut a, mut b] = rolled_back::<2>(&store);
    for w in [&mut a, &mut b] {
        drop(w.take(with_canary(false)));
        w.tick(&store, 2 * SECOND);
    }
    let left: Vec<_> = store.content().into_iter().filter(|(_, bytes)| bytes != TOMBSTONE).collect();
    assert!(left.iter().all(|(key, _)| !key.ends_with("v2")), "{left:?}");
    for w in [&mut a, &mut b] {
        drop(w.take(with_canary(true)));
        assert_eq!(w.goes_to(&store, 4 * SECOND, TO_CANARY), 1);
        w.tick(&store, 4 * SECOND);
    }
    let seen = view(&a, &store, 5 * SECOND);
    assert_eq!(
        (seen.versions[1].standing.clone(), seen.versions[1].totals),
        (Standing::NEW, Counts::default())
    );
    let again: usize = (1..=3).map(|n| b.see(&store, 5 * SECOND + n, (1, 0), BAD).transitions.len()).sum();
    assert_eq!(again, 1);
    assert_eq!(a.goes_to(&store, 6 * SECOND, TO_CANARY), 0);
}

#[test]
fn a_version_is_kept_while_any_plan_of_any_worker_has_it() {
    let store = MemoryStore::default();
    let [mut a, mut b] = rolled_back::<2>(&store);
    drop(a.take(with_canary(false)));
    // The other worker is behind, then it has a stream of the former plan left.
    a.tick(&store, 2 * SECOND);
    b.tick(&store, 3 * SECOND);
    let stream = b.take(with_canary(false));
    a.tick(&store, 4 * SECOND);
    b.tick(&store, 5 * SECOND);
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, 6 * SECOND, TO_CANARY), 0);
    drop(stream);
    // A worker without it does not put it back.
    [7, 8].into_iter().for_each(|at| [&a, &b].into_iter().for_each(|w| drop(w.tick(&store, at * SECOND))));
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, 9 * SECOND, TO_CANARY), 1);
}

#[test]
fn a_plan_without_a_version_drops_nothing_of_another_listeners() {
    let store = MemoryStore::default();
    let [mut a] = rolled_back::<1>(&store);
    let other_listener = a.take(with_canary(false));
    (2..5).for_each(|at| drop(a.tick(&store, at * SECOND)));
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, 5 * SECOND, TO_CANARY), 0);
    drop(other_listener);
}

#[test]
fn a_vm_that_never_ticks_neither_drops_a_version_nor_brings_an_old_rollback_back() {
    let store = MemoryStore::default();
    let [mut served, mut checking] = rolled_back::<2>(&store);
    // As the VM that checks a configuration, and that of the main thread.
    drop(checking.take(with_canary(false)));
    checking.bindings[0].prime(&mut turn(&store, SECOND));
    checking.engine.sweep(&store, false);
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, SECOND, TO_CANARY), 0, "dropped nothing");
    drop(served.take(with_canary(false)));
    served.tick(&store, 2 * SECOND);
    drop(checking.take(with_canary(true)));
    checking.bindings[0].prime(&mut turn(&store, 3 * SECOND));
    drop(served.take(with_canary(true)));
    assert_eq!(served.goes_to(&store, 4 * SECOND, TO_CANARY), 1, "put nothing back");
}

#[test]
fn a_rollback_survives_a_new_module_whose_old_vms_bury_their_states() {
    let store = MemoryStore::default();
    let (mut old, old_too) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    (1..=3).for_each(|at| drop(old.see(&store, at, (1, 0), BAD)));
    // Another module is another VM, with a memory of its own; the old one has nothing left to serve.
    let new = Worker::new(CONSECUTIVE);
    new.bindings[0].prime(&mut turn(&store, 10 * MS));
    old.bindings.clear();
    old.engine.sweep(&store, true);
    drop(old_too);
    assert_eq!(new.goes_to(&store, 20 * MS, TO_CANARY), 0);
    assert_eq!(
        Worker::new(CONSECUTIVE).goes_to(&store, 30 * MS, TO_CANARY),
        0,
        "and was put back for the others"
    );
}
