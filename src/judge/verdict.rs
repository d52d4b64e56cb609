//! The verdict on limits: whether a limit that the canary has broken is the canary's fault.
//!
//! [`judge`] asks [`exceeds`] of the canary for every limit and, where one is broken, looks at stable as well. Trouble that stable
//! has too is not the canary's: it is shared if stable has broken the limit in the same window, unless the canary is certainly
//! worse by more than the tolerated ratio (1.5 unless `compare` says otherwise). All other trouble is the canary's, but in two cases
//! the verdict waits:
//!
//! * An outage of both has just begun. Chance, and the batches in which stable's outcomes are merged, decide which version is first
//!   past a limit. `failing_alike` recognises this.
//! * Stable has too few outcomes to break the limit, and its few outcomes show the same trouble. `excused` recognises this.
//!
//! Both cases are short: a canary outgrows them if it goes on failing while stable recovers, or while nothing is heard of stable.

use crate::judge::limits::{Limit, enough, errors, exceeds, percentile, slower_than};
use crate::judge::proportion::Proportion;
use crate::judge::stats::Snapshot;
use crate::plan::guard::{Guard, SharedOutage};
use crate::time::Millis;

/// The result of judging a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No limit is broken.
    Pass,
    /// The canary has broken a limit, but the fault is still open: stable fails as well and has not broken the limit so far.
    Inconclusive,
    /// The canary has broken this limit by its own fault.
    Fail(Limit),
    /// Stable has the same trouble with this limit.
    Shared(Limit),
}

/// Judges a canary against stable. One limit broken by the canary's fault outweighs all shared trouble. Without one, shared trouble
/// outweighs an inconclusive limit.
pub fn judge(guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> Verdict {
    let mut found = Verdict::Pass;
    for limit in Limit::ALL {
        if !exceeds(limit, guard, canary) {
            continue;
        }
        match blame(limit, guard, canary, stable) {
            Verdict::Fail(limit) => return Verdict::Fail(limit),
            Verdict::Shared(limit) if !matches!(found, Verdict::Shared(_)) => found = Verdict::Shared(limit),
            Verdict::Inconclusive if found == Verdict::Pass => found = Verdict::Inconclusive,
            _ => {}
        }
    }
    found
}

fn blame(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> Verdict {
    if guard.shared_outage == SharedOutage::Rollback {
        return Verdict::Fail(limit);
    }
    match limit {
        Limit::ConsecutiveErrors => blame_streak(limit, guard, canary, stable),
        Limit::ErrorRate | Limit::Errors => blame_errors(limit, guard, canary, stable),
        _ if exceeds(limit, guard, stable) => Verdict::Shared(limit),
        _ if may_be_slow(limit, guard, canary, stable) => Verdict::Inconclusive,
        _ => Verdict::Fail(limit),
    }
}

/// Decides the fault for failures in a row. A rate says little about that: failures spread over the window are not in a row.
fn blame_streak(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> Verdict {
    let max = guard.max_consecutive_errors.unwrap_or(u32::MAX);
    // The same outage may be over for stable and not yet for the canary, which gets fewer requests.
    let was = stable.tally.longest_streak >= max && !certainly_worse(guard, canary, stable);
    if stable.failed_in_a_row >= max || was {
        return Verdict::Shared(limit);
    }
    // In an outage of some requests, chance decides which version is first to have so many in a row. A stable that is more than
    // half way there has been in the outage as well. Twice as many in a row are no chance.
    let half = stable.tally.longest_streak.saturating_mul(2) > max;
    if failing_alike(canary, stable) || half && canary.failed_in_a_row < max.saturating_mul(2) {
        Verdict::Inconclusive
    } else {
        Verdict::Fail(limit)
    }
}

/// Decides the fault for a count or a rate of errors.
fn blame_errors(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> Verdict {
    let (c, s) = (errors(canary), errors(stable));
    let stable_exceeds = exceeds(limit, guard, stable);
    if !stable_exceeds && failing_alike(canary, stable) {
        return Verdict::Inconclusive;
    }
    if s.part == 0 || certainly_worse(guard, canary, stable) {
        return Verdict::Fail(limit);
    }
    if stable_exceeds {
        return Verdict::Shared(limit);
    }
    let alike = s.rate() * tolerated(guard) >= c.rate();
    if (alike || near(limit, guard, c, s) && overlap(c, s)) && excused(guard, c.part, s) {
        Verdict::Inconclusive
    } else {
        Verdict::Fail(limit)
    }
}

/// The number of the canary's failures that one failure of stable explains in an outage of both: nine at a share of 90 %, and one
/// for chance.
const FOR_EACH: u64 = 10;

/// The delay after which failures of stable are known as surely as those of the canary. A worker merges the outcomes of stable
/// within 20 ms, or with its next tick, another 20 ms later. The rest is a reserve for a busy worker.
const LAG: Millis = Millis(100);

/// Returns whether both may be in an outage that has just begun. Stable's last known outcome must be a failure: the second or later
/// in a row, or a first one no older than the canary's failures. And the canary's failures in a row must be younger than [`LAG`], or
/// in proportion to stable's. Stable's next outcome decides, or the canary's next failures do.
fn failing_alike(canary: &Snapshot, stable: &Snapshot) -> bool {
    let together = stable.failed_in_a_row == 1 && stable.heard.plus(LAG) >= canary.failing_since;
    let young = canary.failing_since.plus(LAG) > canary.heard;
    let explained = u64::from(stable.failed_in_a_row).saturating_mul(FOR_EACH);
    (together || stable.failed_in_a_row > 1) && (young || u64::from(canary.failed_in_a_row) <= explained)
}

/// Returns whether stable's trouble may explain so many failures of the canary. With fewer than `min_requests` outcomes, stable's
/// rate says little; each failure of stable then explains at most [`FOR_EACH`] of the canary.
fn excused(guard: &Guard, canary: u64, stable: Proportion) -> bool {
    enough(guard, stable.whole) || canary <= stable.part.saturating_mul(FOR_EACH)
}

/// Returns whether the canary certainly fails more often than is tolerated.
fn certainly_worse(guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> bool {
    errors(canary).lower() > tolerated(guard) * errors(stable).upper()
}

/// Returns whether the intervals overlap: the canary's true rate may be as low as stable's may be high.
fn overlap(canary: Proportion, stable: Proportion) -> bool {
    canary.lower() <= stable.upper()
}

/// Returns whether stable may be breaking a latency limit too, with too few responses to be sure.
fn may_be_slow(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> bool {
    let latency = &stable.tally.latency;
    if latency.count() == 0 || enough(guard, latency.count()) {
        return false;
    }
    match percentile(limit, guard) {
        Some((max, share)) => {
            let (c, s) = (slower_than(canary, max), slower_than(stable, max));
            let near = s.part > 0 && s.likely_upper() > f64::from(share) / 10_000.0;
            near && overlap(c, s) && excused(guard, c.part, s)
        }
        None => {
            let all = Proportion { part: latency.count(), whole: latency.count() };
            guard.max_latency.avg.is_some_and(|max| latency.mean() > Some(max.span()))
                && excused(guard, canary.tally.latency.count(), all)
        }
    }
}

/// Returns whether stable is not far from a limit on errors: its true rate may be above the limit, or it has half of the count, or
/// it might have all of the count with as many outcomes as the canary.
fn near(limit: Limit, guard: &Guard, canary: Proportion, stable: Proportion) -> bool {
    let likely = stable.likely_upper();
    match limit {
        Limit::ErrorRate => guard.max_error_rate.is_some_and(|max| likely > f64::from(max.get()) / 10_000.0),
        _ => guard.max_errors.is_some_and(|max| {
            stable.part.saturating_mul(2) >= u64::from(max) || likely * canary.whole as f64 >= f64::from(max)
        }),
    }
}

/// Returns the tolerated ratio of the canary's rate to stable's; the default ratio where the comparison is off.
fn tolerated(guard: &Guard) -> f64 {
    f64::from(guard.compare.map_or(1500, |compare| compare.worse_than_stable_milli)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guard;
    use crate::time::{Micros, Span};
    use crate::units::Bps;

    fn snapshot(judged: u64, bad: u64, streak: u32) -> Snapshot {
        let mut s = Snapshot { failed_in_a_row: streak, ..Snapshot::default() };
        (s.tally.judged, s.tally.bad, s.tally.longest_streak) = (judged, bad, streak);
        s
    }

    fn slow(n: u64, millis: u64) -> Snapshot {
        let mut s = snapshot(n, 0, 0);
        (0..n).for_each(|_| s.tally.latency.record(Span::from_millis(millis)));
        s
    }

    const FINE: fn() -> Snapshot = || snapshot(900, 1, 0);

    #[test]
    fn counts_break_a_limit_when_they_reach_it() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        assert_eq!(judge(&g, &snapshot(9, 4, 4), &FINE()), Verdict::Pass);
        assert_eq!(judge(&g, &snapshot(9, 5, 5), &FINE()), Verdict::Fail(Limit::ConsecutiveErrors));
        let mut g = guard();
        g.max_errors = Some(50);
        assert_eq!(judge(&g, &snapshot(500, 49, 0), &FINE()), Verdict::Pass);
        assert_eq!(judge(&g, &snapshot(500, 50, 0), &FINE()), Verdict::Fail(Limit::Errors));
    }

    #[test]
    fn a_rate_breaks_its_limit_when_it_is_certainly_above_it() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        assert_eq!(judge(&g, &snapshot(19, 19, 0), &FINE()), Verdict::Pass, "too few");
        assert_eq!(judge(&g, &snapshot(20, 4, 0), &FINE()), Verdict::Pass, "20 %, but maybe by chance");
        assert_eq!(judge(&g, &snapshot(20, 5, 0), &FINE()), Verdict::Fail(Limit::ErrorRate));
        assert_eq!(judge(&g, &snapshot(20, 20, 0), &FINE()), Verdict::Fail(Limit::ErrorRate));
        assert_eq!(judge(&g, &snapshot(10_000, 550, 0), &FINE()), Verdict::Pass, "5.5 % is 4.8 % at least");
        assert_eq!(judge(&g, &snapshot(10_000, 575, 0), &FINE()), Verdict::Fail(Limit::ErrorRate));
    }

    #[test]
    fn latencies_break_their_limits_when_they_exceed_them() {
        for (limit, set) in
            [(Limit::LatencyAvg, 0), (Limit::LatencyP50, 1), (Limit::LatencyP95, 2), (Limit::LatencyP99, 3)]
        {
            let mut g = guard();
            let l = &mut g.max_latency;
            *[&mut l.avg, &mut l.p50, &mut l.p95, &mut l.p99][set] = Some(Millis(1000));
            assert_eq!(judge(&g, &slow(20, 900), &slow(900, 100)), Verdict::Pass, "{limit:?}");
            assert_eq!(judge(&g, &slow(19, 2000), &slow(900, 100)), Verdict::Pass, "{limit:?} too few");
            assert_eq!(judge(&g, &slow(20, 2000), &slow(900, 100)), Verdict::Fail(limit));
            assert_eq!(judge(&g, &slow(20, 2000), &slow(900, 2000)), Verdict::Shared(limit));
        }
    }

    #[test]
    fn trouble_that_stable_has_too_is_shared() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        assert_eq!(
            judge(&g, &snapshot(40, 20, 0), &snapshot(900, 450, 0)),
            Verdict::Shared(Limit::ErrorRate)
        );
        g.shared_outage = SharedOutage::Rollback;
        assert_eq!(judge(&g, &snapshot(40, 20, 0), &snapshot(900, 450, 0)), Verdict::Fail(Limit::ErrorRate));
    }

    #[test]
    fn a_canary_much_worse_than_a_troubled_stable_is_still_blamed() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        assert_eq!(judge(&g, &snapshot(40, 40, 0), &snapshot(900, 90, 0)), Verdict::Fail(Limit::ErrorRate));
        let mut g = guard();
        g.max_errors = Some(50);
        // A healthy stable at twenty times the traffic reaches the count as well.
        assert_eq!(judge(&g, &snapshot(100, 50, 0), &snapshot(20_000, 100, 0)), Verdict::Fail(Limit::Errors));
    }

    #[test]
    fn a_streak_of_failures_waits_for_stable_while_stable_fails_too() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        assert_eq!(judge(&g, &snapshot(5, 5, 5), &snapshot(9, 2, 2)), Verdict::Inconclusive);
        assert_eq!(
            judge(&g, &snapshot(5, 5, 5), &snapshot(9, 9, 9)),
            Verdict::Shared(Limit::ConsecutiveErrors)
        );
    }

    #[test]
    fn an_outage_of_both_is_not_blamed_on_the_first_past_the_limit() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        // The first moments of a total outage: the canary's failures are merged at once, stable's in batches.
        for (canary, stable) in [((52, 12), (408, 6)), ((47, 12), (423, 7)), ((227, 30), (239, 4))] {
            let (mut c, mut s) = (snapshot(canary.0, canary.1, 3), snapshot(stable.0, stable.1, 3));
            assert_eq!(judge(&g, &c, &s), Verdict::Inconclusive, "{canary:?} {stable:?}");
            s.failed_in_a_row = 0;
            assert_eq!(judge(&g, &c, &s), Verdict::Fail(Limit::ErrorRate), "stable is well again");
            (c.tally.bad, s.tally.bad) = (c.tally.judged, s.tally.judged);
            s.failed_in_a_row = 3;
            assert_eq!(judge(&g, &c, &s), Verdict::Shared(Limit::ErrorRate), "and later all has failed");
        }
    }

    #[test]
    fn a_streak_that_began_in_an_outage_of_both_is_not_blamed_when_stable_is_first_to_recover() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        let recovered = Snapshot { failed_in_a_row: 0, ..snapshot(95, 90, 90) };
        assert_eq!(judge(&g, &snapshot(10, 10, 10), &recovered), Verdict::Shared(Limit::ConsecutiveErrors));
        assert_eq!(judge(&g, &snapshot(40, 10, 10), &FINE()), Verdict::Fail(Limit::ConsecutiveErrors));
        // A streak that chance brings to a stable with much traffic does not excuse a canary that is dead.
        let noisy = Snapshot { failed_in_a_row: 0, ..snapshot(28_000, 2_800, 5) };
        assert_eq!(judge(&g, &snapshot(10, 10, 10), &noisy), Verdict::Fail(Limit::ConsecutiveErrors));
    }

    #[test]
    fn scattered_failures_of_stable_do_not_excuse_a_streak() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        const MS: u64 = 1000;
        let noisy = |run, heard| {
            let mut s = Snapshot { heard: Micros(heard * MS), ..snapshot(108, 10, run) };
            s.tally.longest_streak = 1;
            s
        };
        // It began to fail at 200 ms, and was last heard of after `lasts`.
        let canary = |run: u32, lasts: u64| {
            let (began, judged) = (200 * MS, 100 + u64::from(run));
            let heard = Micros(began + lasts * MS);
            Snapshot { failing_since: Micros(began), heard, ..snapshot(judged, run.into(), run) }
        };
        let fail = Verdict::Fail(Limit::ConsecutiveErrors);
        assert_eq!(judge(&g, &canary(5, 50), &noisy(0, 200)), fail);
        assert_eq!(judge(&g, &canary(5, 50), &noisy(1, 99)), fail, "its last one failed long before");
        assert_eq!(
            judge(&g, &canary(5, 50), &noisy(1, 200)),
            Verdict::Inconclusive,
            "its next outcome tells"
        );
        assert_eq!(
            judge(&g, &canary(11, 99), &noisy(1, 200)),
            Verdict::Inconclusive,
            "it may not be known yet"
        );
        assert_eq!(judge(&g, &canary(10, 100), &noisy(1, 200)), Verdict::Inconclusive);
        assert_eq!(
            judge(&g, &canary(11, 100), &noisy(1, 200)),
            fail,
            "or ten of the canary's for one of its"
        );
    }

    #[test]
    fn a_stable_that_is_half_way_to_the_same_streak_has_the_canary_judged_at_twice_the_limit() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        let half = |longest_streak| {
            let mut s = snapshot(60, 30, 0);
            s.tally.longest_streak = longest_streak;
            s
        };
        let fail = Verdict::Fail(Limit::ConsecutiveErrors);
        assert_eq!(judge(&g, &snapshot(60, 31, 5), &half(2)), fail);
        assert_eq!(judge(&g, &snapshot(60, 31, 5), &half(3)), Verdict::Inconclusive);
        assert_eq!(judge(&g, &snapshot(60, 31, 10), &half(4)), fail);
        let shared = Verdict::Shared(Limit::ConsecutiveErrors);
        assert_eq!(judge(&g, &snapshot(60, 31, 5), &half(5)), shared);
    }

    #[test]
    fn few_outcomes_of_stable_do_not_make_the_limits_deaf() {
        // How many failures a canary that only fails has until it is blamed.
        let until = |g: &Guard, stable: (u64, u64)| {
            let s = snapshot(stable.1, stable.0, 0);
            (1..200).find(|n| matches!(judge(g, &snapshot(*n, *n, 0), &s), Verdict::Fail(_)))
        };
        let (mut count, mut rate) = (guard(), guard());
        count.max_errors = Some(5);
        rate.max_error_rate = Bps::new(500);
        for (stable, errors, of_rate) in [
            ((0, 10), 5, 20),
            ((1, 10), 5, 20),
            ((1, 20), 5, 20),
            ((2, 30), 5, 20),
            ((1, 2), 5, 20),
            ((2, 3), 21, 21),
        ] {
            assert_eq!(until(&count, stable), Some(errors), "max_errors, stable {stable:?}");
            assert_eq!(until(&rate, stable), Some(of_rate), "max_error_rate, stable {stable:?}");
        }
        let mut g = guard();
        g.max_latency.p95 = Some(Millis(1000));
        let mut s = slow(9, 100);
        s.tally.latency.record(Span::from_secs(2));
        assert_eq!(judge(&g, &slow(20, 2000), &s), Verdict::Fail(Limit::LatencyP95));
    }

    #[test]
    fn a_count_that_stable_is_not_near_is_the_canarys() {
        let mut g = guard();
        g.max_errors = Some(50);
        assert_eq!(judge(&g, &snapshot(500, 50, 0), &snapshot(400, 20, 0)), Verdict::Fail(Limit::Errors));
        assert_eq!(judge(&g, &snapshot(500, 50, 0), &snapshot(400, 30, 0)), Verdict::Inconclusive);
        assert_eq!(judge(&g, &snapshot(500, 50, 0), &snapshot(400, 50, 0)), Verdict::Shared(Limit::Errors));
    }

    #[test]
    fn slowness_that_stable_may_share_waits_for_stable() {
        let mut g = guard();
        g.max_latency.p95 = Some(Millis(1000));
        assert_eq!(judge(&g, &slow(20, 2000), &slow(3, 2000)), Verdict::Inconclusive);
        assert_eq!(judge(&g, &slow(20, 2000), &slow(3, 100)), Verdict::Fail(Limit::LatencyP95));
        assert_eq!(judge(&g, &slow(20, 2000), &slow(0, 0)), Verdict::Fail(Limit::LatencyP95));
    }

    #[test]
    fn the_first_of_several_broken_limits_is_the_reason() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        g.max_error_rate = Bps::new(500);
        g.max_errors = Some(5);
        assert_eq!(judge(&g, &snapshot(30, 30, 30), &FINE()), Verdict::Fail(Limit::ConsecutiveErrors));
    }

    #[test]
    fn a_fault_of_the_canary_outweighs_shared_trouble() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        g.max_latency.avg = Some(Millis(1000));
        let mut canary = slow(100, 2000);
        canary.tally.bad = 20;
        let mut stable = slow(900, 100);
        stable.tally.bad = 180;
        assert_eq!(judge(&g, &canary, &stable), Verdict::Fail(Limit::LatencyAvg));
    }
}
