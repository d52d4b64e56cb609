//! The quick run as a test: fewer trials, the same bounds.

use super::*;

fn holds(name: &str) {
    // Without optimization a trial takes ten times as long; the bounds are the same.
    let trials = if cfg!(debug_assertions) { 12 } else { Effort::QUICK.trials };
    let effort = Effort { trials, ..Effort::QUICK };
    let entry = ALL.iter().find(|entry| entry.name == name).expect("a table");
    let findings = (entry.measure)(&effort);
    let broken: Vec<_> = findings.bounds.iter().filter(|bound| !bound.holds).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(findings.tables.iter().all(|t| t.rows.iter().all(|row| row.len() == t.header.len())));
}

#[test]
fn healthy_canaries_stay() {
    holds("nulls");
}

#[test]
fn shared_trouble_is_not_blamed_on_the_canary() {
    holds("shared");
}

#[test]
fn broken_canaries_go_before_many_suffer() {
    holds("regressions");
}

#[test]
fn workers_lose_little_by_merging_in_batches() {
    holds("workers");
}

#[test]
fn disturbed_workers_decide_the_same() {
    holds("robust");
}

#[test]
fn one_broken_sticky_client_is_not_a_broken_canary() {
    holds("sticky");
}

#[test]
fn confidence_means_what_it_says() {
    holds("confidence");
}

#[test]
fn limits_are_measured() {
    holds("limits");
}

#[test]
fn the_fast_way_agrees_with_the_slow_one() {
    holds("validate");
}
