use super::*;
use crate::testing::pool;

const SECOND: u64 = 1_000_000;

/// The other keys work.
const WORKING: Others = Others { active: true, trusted: true, work: true };
/// The other keys are active and fail too.
const OUTAGE: Others = Others { active: true, trusted: true, work: false };

fn s(seconds: u64) -> Micros {
    Micros(seconds * SECOND)
}

/// Applies the outcome of an attempt that took no time, while other keys work.
fn apply(health: Health, outcome: KeyOutcome, at: u64) -> Health {
    health.apply(seen(outcome, s(at), s(at)), WORKING, &pool(&[("a", 1)]))
}

fn seen(outcome: KeyOutcome, began: Micros, now: Micros) -> Observation {
    Observation { outcome, began, now, client: 1 }
}

#[test]
fn a_limit_without_a_header_doubles_with_every_failed_trial_up_to_its_bound() {
    let (mut m, mut at, mut waits) = (Health::default(), 100, Vec::new());
    for _ in 0..6 {
        m = apply(m, KeyOutcome::Limited(None), at);
        assert_eq!(m.status, Status::RateLimited);
        waits.push(m.until.0 / SECOND - at);
        at = m.until.0 / SECOND;
    }
    assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
    assert_eq!(apply(m, KeyOutcome::Completed, at), Health::default(), "a success resets everything");
}

#[test]
fn a_header_is_followed_and_clamped() {
    for (asked, waited) in [(2, 2), (0, 1), (5, 5), (86_400, 600)] {
        let m = apply(Health::default(), KeyOutcome::Limited(Some(Millis(asked * 1000))), 100);
        assert_eq!(m.until, s(100 + waited), "asked for {asked} s");
    }
}

#[test]
fn a_burst_of_limits_in_flight_counts_once_and_a_later_deadline_wins() {
    let m = apply(Health::default(), KeyOutcome::Limited(Some(Millis(30_000))), 100);
    let p = pool(&[("a", 1)]);
    let burst = m.apply(seen(KeyOutcome::Limited(None), s(99), s(101)), WORKING, &p);
    assert_eq!((burst.until, burst.since), (s(161), s(100)), "the header-less default is longer");
    let shorter = m.apply(seen(KeyOutcome::Limited(Some(Millis(2000))), s(99), s(101)), WORKING, &p);
    assert_eq!(shorter.until, s(130), "a shorter wait shortens nothing");
    let later = apply(apply(burst, KeyOutcome::Limited(None), 161), KeyOutcome::Completed, 400);
    assert_eq!(later, Health::default());
}

#[test]
fn attempts_with_a_stale_copy_fail_no_trial_and_end_no_limit() {
    let (m, p) = (apply(Health::default(), KeyOutcome::Limited(None), 100), pool(&[("a", 1)]));
    let (began, now) = (Micros(s(100).0 + 9_000), Micros(s(100).0 + 300_000));
    let burst = (0..20).fold(m, |m, _| m.apply(seen(KeyOutcome::Limited(None), began, now), WORKING, &p));
    assert_eq!(burst.until, now.plus(Millis(60_000)), "the cooldown is not doubled");
    assert_eq!(m.apply(seen(KeyOutcome::Completed, began, now), WORKING, &p), m);
    let trial = apply(burst.start_trial(burst.until), KeyOutcome::Limited(None), 161);
    assert_eq!(trial.until, s(161 + 120), "the first trial that fails doubles it, once");
}

#[test]
fn an_answer_that_was_under_way_when_the_limit_struck_does_not_lift_it() {
    let m = apply(Health::default(), KeyOutcome::Limited(None), 100);
    assert_eq!(m.apply(seen(KeyOutcome::Completed, s(99), s(105)), WORKING, &pool(&[("a", 1)])), m);
}

#[test]
fn a_refused_key_is_disabled_and_tried_again_later() {
    let m = apply(Health::default(), KeyOutcome::Rejected, 100);
    assert_eq!((m.status, m.until), (Status::Disabled, s(700)));
    assert!(!m.is_trial_due(s(699)) && m.is_trial_due(s(700)));
    let trying = m.start_trial(s(700));
    assert!(!trying.is_trial_due(s(701)), "one at a time");
    assert!(trying.is_trial_due(s(760)), "a trial that never reports is given up");
    let again = trying.apply(seen(KeyOutcome::Rejected, s(700), s(702)), WORKING, &pool(&[("a", 1)]));
    assert_eq!((again.status, again.until), (Status::Disabled, s(1302)));
}

#[test]
fn a_key_cools_after_a_streak_of_failures_only_while_others_work() {
    let p = pool(&[("a", 1), ("b", 1)]);
    let (mut alone, mut outage) = (Health::default(), Health::default());
    for n in 1..=7 {
        alone = alone.apply(seen(KeyOutcome::Failed, s(n), s(n)), WORKING, &p);
        outage = outage.apply(seen(KeyOutcome::Failed, s(n), s(n)), OUTAGE, &p);
        assert_eq!(alone.is_active(), n < 5, "after {n}");
    }
    assert!(outage.is_active(), "if all keys fail, the provider is at fault");
}

#[test]
fn a_good_answer_ends_a_streak_of_bad_ones_and_a_whole_stream_one_of_broken_ones() {
    let broken = |m: Health, at| apply(apply(m, KeyOutcome::Accepted, at), KeyOutcome::Broke, at);
    let bad = |m: Health, at| apply(m, KeyOutcome::Failed, at);
    let streams = (1..=4).fold(Health::default(), broken);
    assert!(streams.is_active() && !broken(streams, 5).is_active(), "each began well and broke");
    assert_eq!(apply(streams, KeyOutcome::Completed, 5), Health::default());
    let answers = (1..=4).fold(Health::default(), bad);
    assert!(answers.is_active() && !bad(answers, 5).is_active());
    assert_eq!(apply(answers, KeyOutcome::Accepted, 5), Health::default(), "its stream may take minutes");
    // Neither ends the other's streak.
    assert!(!broken(bad(streams, 5), 6).is_active());
    assert!(streams.is_changed_by(KeyOutcome::Completed) && !streams.is_changed_by(KeyOutcome::Accepted));
    assert!(answers.is_changed_by(KeyOutcome::Accepted));
    let nothing = [KeyOutcome::Completed, KeyOutcome::Accepted, KeyOutcome::Inconclusive];
    assert!(!nothing.iter().any(|outcome| Health::default().is_changed_by(*outcome)));
}

#[test]
fn a_trial_brings_the_key_back_with_its_headers_and_takes_it_out_again_if_it_breaks() {
    let p = pool(&[("a", 1)]);
    let out = (1..=5).fold(Health::default(), |m, at| apply(m, KeyOutcome::Broke, at));
    assert_eq!((out.status, out.until), (Status::CoolingDown, s(35)));
    let back = out.start_trial(s(35)).apply(seen(KeyOutcome::Accepted, s(35), s(36)), WORKING, &p);
    assert!(back.is_active());
    assert_eq!(
        back.streak_at_limit(KeyOutcome::Broke, s(40), &p),
        Some(s(36)),
        "others must work from then on"
    );
    assert_eq!(back.apply(seen(KeyOutcome::Completed, s(35), s(300)), WORKING, &p), Health::default());
    let again = back.apply(seen(KeyOutcome::Broke, s(35), s(40)), WORKING, &p);
    assert_eq!((again.status, again.until), (Status::CoolingDown, s(70)));
    assert!(
        back.apply(seen(KeyOutcome::Broke, s(35), s(40)), OUTAGE, &p).is_active(),
        "unless no other key works"
    );
    // An attempt that began before the key went out of use changes nothing.
    for late in [KeyOutcome::Broke, KeyOutcome::Failed, KeyOutcome::Completed, KeyOutcome::Accepted] {
        assert_eq!(back.apply(seen(late, s(4), s(40)), WORKING, &p), back, "{late:?}");
    }
    let limited = apply(Health::default(), KeyOutcome::Limited(None), 100).start_trial(s(160));
    assert_eq!(limited.apply(seen(KeyOutcome::Accepted, s(160), s(161)), WORKING, &p), Health::default());
}

#[test]
fn another_outcome_ends_a_streak_and_a_caller_error_does_not() {
    use KeyOutcome::{Broke, Failed, Inconclusive, Limited, Rejected};
    let mut p = pool(&[("a", 1)]);
    (p.rejected.failures, p.failing.failures) = (2, 3);
    let after = |faults: &[KeyOutcome]| {
        let faults = faults.iter().zip(1..);
        faults
            .fold(Health::default(), |m, (outcome, at)| m.apply(seen(*outcome, s(at), s(at)), WORKING, &p))
            .status
    };
    assert_eq!(after(&[Rejected, Rejected]), Status::Disabled);
    assert_eq!(after(&[Rejected, Inconclusive, Rejected]), Status::Disabled, "a bad prompt ends no streak");
    assert_eq!(after(&[Failed, Failed, Inconclusive, Failed]), Status::CoolingDown);
    for between in [Failed, Broke, KeyOutcome::Accepted, KeyOutcome::Completed] {
        assert_eq!(after(&[Rejected, between, Rejected]), Status::Active, "{between:?}");
    }
    for run in [Failed, Broke] {
        assert_eq!(after(&[run, run, run]), Status::CoolingDown, "{run:?}");
        assert_eq!(after(&[run, run, Rejected, run]), Status::Active, "{run:?}");
    }
    let limited = [Failed, Failed, Limited(None)].iter().zip(1..);
    let limited = limited.fold(Health::default(), |m, (f, at)| m.apply(seen(*f, s(at), s(at)), WORKING, &p));
    assert_eq!((limited.status, limited.failed), (Status::RateLimited, Streak::NONE));
}

#[test]
fn while_a_trial_is_under_way_the_wait_is_short() {
    let out = apply(Health::default(), KeyOutcome::Limited(Some(Millis(5_000))), 100);
    assert_eq!(out.returns_at(s(101)), s(105));
    let trying = out.start_trial(s(105));
    assert_eq!(trying.returns_at(s(105)), s(107), "not a minute");
    assert_eq!(trying.returns_at(s(164)), s(165), "then it is given up");
    assert_eq!(trying.out_until_at_least(s(200)).returns_at(s(106)), s(200));
    assert_eq!(apply(trying, KeyOutcome::Limited(Some(Millis(9_000))), 106).returns_at(s(106)), s(115));
}

#[test]
fn a_trial_whose_client_leaves_makes_room_for_another() {
    let p = pool(&[("a", 1)]);
    let trying = apply(Health::default(), KeyOutcome::Limited(None), 100).start_trial(s(160));
    assert!(!trying.is_trial_due(s(161)));
    assert!(trying.apply(seen(KeyOutcome::Inconclusive, s(160), s(161)), WORKING, &p).is_trial_due(s(161)));
}
