//! Stages of a ramp.

use super::*;

const STAGES: &str = r#""stages": [{"weight": 10, "for": "5s"}, {"weight": 50, "for": "5s", "min_requests": 3},
    {"weight": 100, "for": "1h"}]"#;

#[test]
fn a_ramp_moves_on_by_itself_and_survives_reloads() {
    let store = MemoryStore::default();
    let (mut a, b) = (Worker::ramp(STAGES), Worker::ramp(STAGES));
    let mut stages = Vec::new();
    for second in 1..=30 {
        for worker in [&a, &b] {
            let moved = worker.tick(&store, second * SECOND).transitions;
            stages.extend(moved.iter().map(|t| (second, t.stage, worker.weights()[1])));
        }
        if second == 8 {
            a.bindings = a.engine.attach(&ramp_plan(STAGES));
        }
        if second == 20 {
            // Time alone is not enough for the second stage.
            (0..3).for_each(|i| drop(a.see(&store, second * SECOND + i, (1, 0), GOOD)));
            a.tick(&store, second * SECOND + 50 * MS);
        }
    }
    assert_eq!(stages.len(), 2, "each once, whichever worker made it: {stages:?}");
    assert_eq!((stages[0].1, stages[0].2, stages[1].1, stages[1].2), (Some(1), 5000, Some(2), 10_000));
    assert!((6..=7).contains(&stages[0].0) && (21..=22).contains(&stages[1].0), "{stages:?}");
}

#[test]
fn a_rollback_fires_in_every_stage_and_while_paused() {
    for (paused, second) in [(true, 1), (false, 1), (false, 9)] {
        let store = MemoryStore::default();
        let plan = format!(r#"{STAGES}, "paused": {paused}"#);
        let a = Worker::ramp(&plan);
        (1..=second).for_each(|s| drop(a.tick(&store, s * SECOND)));
        let (transitions, failed) =
            run(&a, &store, 10_000, None, |version, _| if version == 1 { BAD } else { GOOD });
        assert_eq!(
            transitions.first().map(|t| t.change.to()),
            Some(RolledBack),
            "paused {paused}, {second} s"
        );
        assert!(failed <= 40, "{failed}");
        assert_eq!(a.weights(), [10_000, 0]);
    }
}

#[test]
fn a_ramp_that_was_resumed_begins_its_stage_anew() {
    let store = MemoryStore::default();
    let stages = r#""stages": [{"weight": 5, "for": "5s"}, {"weight": 25, "for": "20s"}, {"weight": 50, "for": "1h"}]"#;
    let (a, b) = (Worker::ramp(stages), Worker::ramp(stages));
    let second = 1000 * MS;
    let run = |from: u64, to: u64| (from..to).for_each(|at| drop(a.tick(&store, at * second)));
    run(0, 20);
    assert_eq!(view(&b, &store, 20 * second).ramp.unwrap().stage, Some(1));
    assert_eq!(order(&b, &store, 20 * second, Order::Rollback, "").0, Ok(()));
    run(20, 40);
    assert_eq!(view(&b, &store, 40 * second).versions[1].share, 0);
    assert_eq!(order(&b, &store, 40 * second, Order::Resume, "").0, Ok(()));
    run(40, 55);
    assert_eq!(
        view(&b, &store, 55 * second).versions[1].share,
        2500,
        "the stage's twenty seconds are not over"
    );
    run(55, 65);
    assert_eq!(view(&b, &store, 65 * second).versions[1].share, 5000);
}

#[test]
fn a_ramp_that_was_removed_has_no_stage_any_more() {
    let store = MemoryStore::default();
    let mut w = Worker::ramp(r#""stages": [{"weight": 5, "for": "1s"}, {"weight": 25, "for": "1h"}]"#);
    (0..4).for_each(|at| drop(w.tick(&store, at * SECOND)));
    assert_eq!(view(&w, &store, 4 * SECOND).ramp.unwrap().stage, Some(1));
    w.reload(&store, CONSECUTIVE);
    assert_eq!(view(&w, &store, 5 * SECOND).ramp, None);
    assert_eq!(w.assign(&store, 5 * SECOND, TO_CANARY).stage, None);
    let by_guard: Vec<Transition> =
        (1..=3).flat_map(|n| w.see(&store, 5 * SECOND + n, (1, 0), BAD).transitions).collect();
    let by_hand = order(&w, &store, 6 * SECOND, Order::Resume, "").1.transitions;
    let stages: Vec<_> = by_guard.iter().chain(&by_hand).map(|t| (t.change.to(), t.stage)).collect();
    assert_eq!(stages, [(RolledBack, None), (Active, None)]);
}
