use super::*;
use crate::testing::pool;

const SECOND: u64 = 1_000_000;

fn s(seconds: u64) -> Micros {
    Micros(seconds * SECOND)
}

/// After a fault of an attempt that took no time, others doing well.
fn fault(memory: Memory, fault: Fault, at: u64) -> Memory {
    memory.after(fault, s(at), s(at), true, &pool(&[("a", 1)]))
}

#[test]
fn a_limit_without_a_header_doubles_with_every_failed_trial_up_to_its_bound() {
    let (mut m, mut at, mut waits) = (Memory::default(), 100, Vec::new());
    for _ in 0..6 {
        m = fault(m, Fault::Limited(None), at);
        assert_eq!(m.status, Status::RateLimited);
        waits.push(m.until.0 / SECOND - at);
        at = m.until.0 / SECOND;
    }
    assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
    assert_eq!(fault(m, Fault::None, at), Memory::default(), "a success forgets all");
}

#[test]
fn a_header_is_followed_and_clamped() {
    for (asked, waited) in [(2, 2), (0, 1), (5, 5), (86_400, 600)] {
        let m = fault(Memory::default(), Fault::Limited(Some(Millis(asked * 1000))), 100);
        assert_eq!(m.until, s(100 + waited), "asked for {asked} s");
    }
}

#[test]
fn a_burst_of_limits_in_flight_counts_once_and_a_later_deadline_wins() {
    let m = fault(Memory::default(), Fault::Limited(Some(Millis(30_000))), 100);
    let p = pool(&[("a", 1)]);
    let burst = m.after(Fault::Limited(None), s(99), s(101), true, &p);
    assert_eq!((burst.until, burst.since), (s(161), s(100)), "the header-less default is longer");
    let shorter = m.after(Fault::Limited(Some(Millis(2000))), s(99), s(101), true, &p);
    assert_eq!(shorter.until, s(130), "a shorter one does not shorten");
    let later = fault(fault(burst, Fault::Limited(None), 161), Fault::None, 400);
    assert_eq!(later, Memory::default());
}

#[test]
fn a_worker_that_did_not_know_yet_fails_no_trial_and_lifts_nothing() {
    let (m, p) = (fault(Memory::default(), Fault::Limited(None), 100), pool(&[("a", 1)]));
    let (began, now) = (Micros(s(100).0 + 9_000), Micros(s(100).0 + 300_000));
    let burst = (0..20).fold(m, |m, _| m.after(Fault::Limited(None), began, now, true, &p));
    assert_eq!(burst.until, now.plus(Millis(60_000)), "the cooldown is not doubled");
    assert_eq!(m.after(Fault::None, began, now, true, &p), m);
    let trial = fault(burst.tried(burst.until), Fault::Limited(None), 161);
    assert_eq!(trial.until, s(161 + 120), "the first trial that fails doubles it, once");
}

#[test]
fn an_answer_that_was_under_way_when_the_limit_struck_does_not_lift_it() {
    let m = fault(Memory::default(), Fault::Limited(None), 100);
    assert_eq!(m.after(Fault::None, s(99), s(105), true, &pool(&[("a", 1)])), m);
}

#[test]
fn a_refused_key_is_disabled_and_tried_again_later() {
    let m = fault(Memory::default(), Fault::Rejected, 100);
    assert_eq!((m.status, m.until), (Status::Disabled, s(700)));
    assert!(!m.trial_due(s(699)) && m.trial_due(s(700)));
    let trying = m.tried(s(700));
    assert!(!trying.trial_due(s(701)), "one at a time");
    assert!(trying.trial_due(s(760)), "a trial that never reports is given up");
    let again = trying.after(Fault::Rejected, s(700), s(702), true, &pool(&[("a", 1)]));
    assert_eq!((again.status, again.until), (Status::Disabled, s(1302)));
}

#[test]
fn a_key_cools_after_a_run_of_failures_only_while_others_work() {
    let p = pool(&[("a", 1), ("b", 1)]);
    let (mut alone, mut outage) = (Memory::default(), Memory::default());
    for n in 1..=7 {
        alone = alone.after(Fault::Failing, s(n), s(n), true, &p);
        outage = outage.after(Fault::Failing, s(n), s(n), false, &p);
        assert_eq!(alone.is_active(), n < 5, "after {n}");
    }
    assert!(outage.is_active(), "when all keys fail it is not the key");
}

#[test]
fn bad_answers_in_a_row_end_with_a_good_one_and_broken_streams_with_a_whole_one() {
    let broken = |m: Memory, at| fault(fault(m, Fault::Accepted, at), Fault::Broke, at);
    let bad = |m: Memory, at| fault(m, Fault::Failing, at);
    let streams = (1..=4).fold(Memory::default(), broken);
    assert!(streams.is_active() && !broken(streams, 5).is_active(), "each has begun well and broken");
    assert_eq!(fault(streams, Fault::None, 5), Memory::default());
    let answers = (1..=4).fold(Memory::default(), bad);
    assert!(answers.is_active() && !bad(answers, 5).is_active());
    assert_eq!(fault(answers, Fault::Accepted, 5), Memory::default(), "its stream may take minutes");
    // Neither ends the other's run.
    assert!(!broken(bad(streams, 5), 6).is_active());
    assert!(streams.is_changed_by(Fault::None) && !streams.is_changed_by(Fault::Accepted));
    assert!(answers.is_changed_by(Fault::Accepted));
    let nothing = [Fault::None, Fault::Accepted, Fault::Nothing];
    assert!(!nothing.iter().any(|fault| Memory::default().is_changed_by(*fault)));
}

#[test]
fn a_trial_brings_the_key_back_as_it_begins_and_takes_it_out_again_if_it_breaks() {
    let p = pool(&[("a", 1)]);
    let out = (1..=5).fold(Memory::default(), |m, at| fault(m, Fault::Broke, at));
    assert_eq!((out.status, out.until), (Status::CoolingDown, s(35)));
    let back = out.tried(s(35)).after(Fault::Accepted, s(35), s(36), true, &p);
    assert!(back.is_active());
    assert_eq!(back.run_over(Fault::Broke, s(40), &p), Some(s(36)), "others must work from then on");
    assert_eq!(back.after(Fault::None, s(35), s(300), true, &p), Memory::default());
    let again = back.after(Fault::Broke, s(35), s(40), true, &p);
    assert_eq!((again.status, again.until), (Status::CoolingDown, s(70)));
    assert!(back.after(Fault::Broke, s(35), s(40), false, &p).is_active(), "unless nobody else works");
    // What began before the key went out belongs to neither.
    for late in [Fault::Broke, Fault::Failing, Fault::None, Fault::Accepted] {
        assert_eq!(back.after(late, s(4), s(40), true, &p), back, "{late:?}");
    }
    let limited = fault(Memory::default(), Fault::Limited(None), 100).tried(s(160));
    assert_eq!(limited.after(Fault::Accepted, s(160), s(161), true, &p), Memory::default());
}

#[test]
fn in_a_row_means_that_nothing_else_came_between() {
    use Fault::{Broke, Failing, Limited, Nothing, Rejected};
    let mut p = pool(&[("a", 1)]);
    (p.rejected.0, p.failing.0) = (2, 3);
    let after = |faults: &[Fault]| {
        let faults = faults.iter().zip(1..);
        faults.fold(Memory::default(), |m, (fault, at)| m.after(*fault, s(at), s(at), true, &p)).status
    };
    assert_eq!(after(&[Rejected, Rejected]), Status::Disabled);
    assert_eq!(after(&[Rejected, Nothing, Rejected]), Status::Disabled, "a bad prompt ends no run");
    assert_eq!(after(&[Failing, Failing, Nothing, Failing]), Status::CoolingDown);
    for between in [Failing, Broke, Fault::Accepted, Fault::None] {
        assert_eq!(after(&[Rejected, between, Rejected]), Status::Active, "{between:?}");
    }
    for run in [Failing, Broke] {
        assert_eq!(after(&[run, run, run]), Status::CoolingDown, "{run:?}");
        assert_eq!(after(&[run, run, Rejected, run]), Status::Active, "{run:?}");
    }
    let limited = [Failing, Failing, Limited(None)].iter().zip(1..);
    let limited = limited.fold(Memory::default(), |m, (f, at)| m.after(*f, s(at), s(at), true, &p));
    assert_eq!((limited.status, limited.failed), (Status::RateLimited, Run::NONE));
}

#[test]
fn while_a_trial_is_under_way_the_wait_is_short() {
    let out = fault(Memory::default(), Fault::Limited(Some(Millis(5_000))), 100);
    assert_eq!(out.returns_at(s(101)), s(105));
    let trying = out.tried(s(105));
    assert_eq!(trying.returns_at(s(105)), s(107), "not a minute");
    assert_eq!(trying.returns_at(s(164)), s(165), "then it is given up");
    assert_eq!(trying.not_before(s(200)).returns_at(s(106)), s(200));
    assert_eq!(fault(trying, Fault::Limited(Some(Millis(9_000))), 106).returns_at(s(106)), s(115));
}

#[test]
fn a_trial_whose_client_leaves_makes_room_for_another() {
    let p = pool(&[("a", 1)]);
    let trying = fault(Memory::default(), Fault::Limited(None), 100).tried(s(160));
    assert!(!trying.trial_due(s(161)));
    assert!(trying.after(Fault::Nothing, s(160), s(161), true, &p).trial_due(s(161)));
}

#[test]
fn keys_that_were_rotated_away_make_room() {
    let mut ring = Keyring::default();
    for n in 0..2000u64 {
        ring.put(n, fault(Memory::default(), Fault::Rejected, 100 + n), s(5));
        assert!(!ring.get(n).is_active(), "key {n}");
    }
    assert!(ring.0.len() <= KEYS);
}

#[test]
fn a_state_lasts_as_long_as_somebody_has_its_key() {
    let out = fault(Memory::default(), Fault::Rejected, 100);
    let mut ring = Keyring::default();
    ring.put(7, out, s(100));
    // Who has the key keeps it, also when everything stood still for a while.
    for at in [101, 102, 200] {
        ring.confirm(&[7, 8], &[7, 8], s(at));
        assert_eq!(ring.get(7), out);
    }
    // Away for a moment: it is not confirmed, and still there when it comes back.
    ring.confirm(&[7, 8], &[8], s(202));
    ring.confirm(&[8], &[7, 8], s(202));
    assert_eq!(ring.get(7), out);
    // Away for good: whoever looks next drops it, also who has the key anew.
    let mut again = ring.clone();
    ring.confirm(&[8], &[8], s(205));
    again.confirm(&[], &[7], s(205));
    assert_eq!((ring.0.len(), again.0.len()), (0, 0));
}

#[test]
fn a_record_comes_back_from_its_bytes_and_forgets_healthy_keys() {
    let mut ring = Keyring::default();
    ring.put(7, fault(Memory::default(), Fault::Limited(None), 5), s(5));
    ring.put(9, fault(Memory::default(), Fault::Rejected, 5).tried(s(700)), s(5));
    ring.put(8, fault(fault(Memory::default(), Fault::Failing, 5), Fault::Broke, 6), s(5));
    assert!(matches!(Keyring::decode(Some(&ring.encode())), Found::Value(back) if back == ring));
    ring.put(7, Memory::default(), s(5));
    assert_eq!(ring.0.len(), 2);
    assert!(matches!(Keyring::decode(Some(&[1, 1])), Found::Undecodable));
}
