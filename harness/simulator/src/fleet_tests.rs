use super::*;

pub(crate) fn scenario() -> Scenario {
    Scenario {
        rps: 100.0,
        share: 500,
        stable: Curve::Flat(0.005),
        canary: Curve::Step { base: 0.005, level: 0.3, from: 5, until: u64::MAX },
        latency: Latency { median: 300.0, shape: 0.8, canary: 1.0 },
        rest: String::new(),
        workers: 8,
        disturbance: Disturbance::default(),
        clients: None,
        from: 5,
        seconds: 120,
    }
}

#[test]
fn a_broken_canary_is_rolled_back_once_and_gets_nothing_afterwards() {
    let ended = run(&scenario(), &mut Rng::of(1, "fleet", 0));
    assert_eq!(ended.label.as_deref(), Some("worse_errors"));
    assert_eq!(ended.rollbacks, 1);
    assert!((5..=20).contains(&ended.errors), "{ended:?}");
    assert!(ended.at > 5 * SECOND && ended.at < 30 * SECOND, "{ended:?}");
}

#[test]
fn a_scenario_is_a_function_of_its_seed() {
    let of = |trial| run(&scenario(), &mut Rng::of(1, "fleet", trial));
    assert_eq!(of(3), of(3));
    assert_ne!(of(3), of(4));
}

#[test]
fn a_slow_canary_is_rolled_back_for_that() {
    let slow = Scenario {
        canary: Curve::Flat(0.005),
        latency: Latency { canary: 3.0, ..scenario().latency },
        ..scenario()
    };
    assert_eq!(run(&slow, &mut Rng::of(1, "fleet", 0)).label.as_deref(), Some("worse_latency"));
}

#[test]
fn every_disturbance_disturbs_and_none_stops_the_rollback() {
    let disturbance = Disturbance {
        interference: 0.3,
        restart_every: 2,
        old_plans: (4, 2000),
        skew: 5_000,
        wall_steps: true,
    };
    let ended = run(&Scenario { disturbance, ..scenario() }, &mut Rng::of(1, "fleet", 0));
    assert!(ended.label.is_some() && ended.mismatches > 10, "{ended:?}");
}
