//! The verdict: do these numbers make a canary fail, and is it the canary's fault?
//!
//! Two questions, kept apart. [`exceeds`] compares one version with one limit. [`judge`] asks it of the canary for every
//! limit and, where one is broken, of stable too: trouble that stable has as well is not the canary's (a shared outage).
//! Counts break a limit when they *reach* it, rates and latencies when they *exceed* it. Rates and latencies are judged
//! only with `min_requests` outcomes in the window.

use std::fmt::Write;

use crate::plan::{Guard, SharedOutage};
use crate::stats::Snapshot;
use crate::units::Millis;

/// The limits of a guard, in the order in which they are asked: of several broken at once the first is named as the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `max_consecutive_errors`
    ConsecutiveErrors,
    /// `max_error_rate`
    ErrorRate,
    /// `max_errors`
    Errors,
    /// `max_latency.avg`
    LatencyAvg,
    /// `max_latency.p50`
    LatencyP50,
    /// `max_latency.p95`
    LatencyP95,
    /// `max_latency.p99`
    LatencyP99,
}

impl Limit {
    /// All, in order of precedence.
    pub const ALL: [Limit; 7] = [
        Limit::ConsecutiveErrors,
        Limit::ErrorRate,
        Limit::Errors,
        Limit::LatencyAvg,
        Limit::LatencyP50,
        Limit::LatencyP95,
        Limit::LatencyP99,
    ];

    /// Metric label and first word of a reason: a closed vocabulary.
    pub const fn label(self) -> &'static str {
        match self {
            Limit::ConsecutiveErrors => "consecutive_errors",
            Limit::ErrorRate => "error_rate",
            Limit::Errors => "errors",
            Limit::LatencyAvg => "latency_avg",
            Limit::LatencyP50 => "latency_p50",
            Limit::LatencyP95 => "latency_p95",
            Limit::LatencyP99 => "latency_p99",
        }
    }

    /// The limit with this label.
    pub fn from_label(label: &str) -> Option<Limit> {
        Limit::ALL.into_iter().find(|limit| limit.label() == label)
    }

    fn is_about_errors(self) -> bool {
        matches!(self, Limit::ConsecutiveErrors | Limit::ErrorRate | Limit::Errors)
    }
}

/// What the numbers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No limit is broken.
    Pass,
    /// A limit is broken, but whose fault it is cannot be said yet: stable's last outcome was a failure too.
    Inconclusive,
    /// The canary's fault.
    Fail(Limit),
    /// Stable has the same trouble.
    Shared(Limit),
}

/// Judges a canary against stable. A single canary's fault outweighs any shared trouble; with none, shared trouble
/// outweighs what is inconclusive.
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

/// Whether any limit is broken: the cheap question, which needs no look at stable.
pub fn any_exceeded(guard: &Guard, version: &Snapshot) -> bool {
    Limit::ALL.into_iter().any(|limit| exceeds(limit, guard, version))
}

fn blame(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> Verdict {
    if guard.shared_outage == SharedOutage::Rollback {
        return Verdict::Fail(limit);
    }
    let stable_exceeds = exceeds(limit, guard, stable);
    match limit {
        Limit::ConsecutiveErrors if stable_exceeds => Verdict::Shared(limit),
        _ if stable_exceeds && !(limit.is_about_errors() && much_worse(guard, canary, stable)) => {
            Verdict::Shared(limit)
        }
        // In an outage of both, chance and the batches in which stable is merged decide who is first past a limit: stable
        // may be one outcome away from it. It decides with its next outcome.
        _ if limit.is_about_errors() && stable.failing_now => Verdict::Inconclusive,
        _ => Verdict::Fail(limit),
    }
}

/// Whether the canary's error rate is above stable's by more than the tolerated ratio. Stable sees more traffic, so it may
/// reach a limit on counts in health; and in an outage of both the canary may still be much worse.
fn much_worse(guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> bool {
    // The contract's default ratio, for when the comparison itself is switched off.
    let milli = guard.compare.map_or(1500, |compare| compare.worse_than_stable_milli);
    let (c, s) = (&canary.tally, &stable.tally);
    let left = u128::from(c.bad).saturating_mul(u128::from(s.judged)).saturating_mul(1000);
    let right = u128::from(s.bad).saturating_mul(u128::from(c.judged)).saturating_mul(u128::from(milli));
    left > right
}

/// Whether a version breaks a limit.
pub fn exceeds(limit: Limit, guard: &Guard, version: &Snapshot) -> bool {
    let tally = &version.tally;
    let judged = tally.judged.max(tally.bad);
    let enough = judged >= u64::from(guard.min_requests);
    let slow = |limit: Option<Millis>, micros: Option<u64>| {
        let enough = tally.latency.count() >= u64::from(guard.min_requests);
        enough && matches!((limit, micros), (Some(limit), Some(micros)) if micros > limit.as_micros())
    };
    let percentile = |bps| tally.latency.percentile_millis(bps).map(|millis| millis.saturating_mul(1000));
    match limit {
        Limit::ConsecutiveErrors => {
            guard.max_consecutive_errors.is_some_and(|max| version.failed_in_a_row >= max)
        }
        Limit::ErrorRate => {
            guard.max_error_rate.is_some_and(|max| enough && max.exceeded_by(tally.bad, judged))
        }
        Limit::Errors => guard.max_errors.is_some_and(|max| tally.bad >= u64::from(max)),
        Limit::LatencyAvg => slow(guard.max_latency.avg, tally.latency.mean_micros()),
        Limit::LatencyP50 => guard.max_latency.p50.is_some() && slow(guard.max_latency.p50, percentile(5000)),
        Limit::LatencyP95 => guard.max_latency.p95.is_some() && slow(guard.max_latency.p95, percentile(9500)),
        Limit::LatencyP99 => guard.max_latency.p99.is_some() && slow(guard.max_latency.p99, percentile(9900)),
    }
}

/// How far a version is on the way to a rollback, in percent, `0..=100`: the nearest of its limits. A rate counts in
/// proportion to the outcomes that are there of those it needs.
pub fn evidence(guard: &Guard, version: &Snapshot) -> u64 {
    let tally = &version.tally;
    let part = |have: u64, limit: u64| match limit {
        0 if have > 0 => 100,
        _ => have.saturating_mul(100).checked_div(limit).unwrap_or(0).min(100),
    };
    let sampled = part(tally.judged, u64::from(guard.min_requests));
    let timed = part(tally.latency.count(), u64::from(guard.min_requests));
    let scaled = |percent: u64, by: u64| percent.saturating_mul(by).checked_div(100).unwrap_or(0);
    let rate = tally.bad.saturating_mul(10_000).checked_div(tally.judged.max(tally.bad)).unwrap_or(0);
    let latency = |limit: Option<Millis>, millis: Option<u64>| match (limit, millis) {
        (Some(limit), Some(millis)) => scaled(part(millis, limit.0), timed),
        _ => 0,
    };
    let limits = &guard.max_latency;
    [
        guard
            .max_consecutive_errors
            .map_or(0, |max| part(u64::from(version.failed_in_a_row), u64::from(max))),
        guard.max_error_rate.map_or(0, |max| scaled(part(rate, u64::from(max.get())), sampled)),
        guard.max_errors.map_or(0, |max| part(tally.bad, u64::from(max))),
        latency(limits.avg, tally.latency.mean_micros().map(|micros| micros.checked_div(1000).unwrap_or(0))),
        latency(limits.p50, tally.latency.percentile_millis(5000)),
        latency(limits.p95, tally.latency.percentile_millis(9500)),
        latency(limits.p99, tally.latency.percentile_millis(9900)),
    ]
    .into_iter()
    .max()
    .unwrap_or(0)
}

/// Says why, with the numbers that were compared: what somebody reads at three in the morning.
pub fn explain(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> String {
    let (c, s) = (&canary.tally, &stable.tally);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match limit {
        Limit::ConsecutiveErrors => write!(
            text,
            "{} failed in a row (limit {})",
            canary.failed_in_a_row,
            guard.max_consecutive_errors.unwrap_or(0)
        ),
        Limit::ErrorRate => write!(
            text,
            "{} of {} failed in {} (limit {})",
            c.bad,
            c.judged.max(c.bad),
            guard.window,
            guard.max_error_rate.unwrap_or_default()
        ),
        Limit::Errors => {
            write!(text, "{} failed in {} (limit {})", c.bad, guard.window, guard.max_errors.unwrap_or(0))
        }
        Limit::LatencyAvg => {
            latency_text(&mut text, "mean", guard.max_latency.avg, mean(canary), mean(stable))
        }
        Limit::LatencyP50 => {
            latency_text(&mut text, "p50", guard.max_latency.p50, pct(canary, 5000), pct(stable, 5000))
        }
        Limit::LatencyP95 => {
            latency_text(&mut text, "p95", guard.max_latency.p95, pct(canary, 9500), pct(stable, 9500))
        }
        Limit::LatencyP99 => {
            latency_text(&mut text, "p99", guard.max_latency.p99, pct(canary, 9900), pct(stable, 9900))
        }
    };
    let _ = write!(text, "; stable: {} of {} failed", s.bad, s.judged.max(s.bad));
    text
}

fn mean(version: &Snapshot) -> u64 {
    version.tally.latency.mean_micros().and_then(|micros| micros.checked_div(1000)).unwrap_or(0)
}

fn pct(version: &Snapshot, bps: u16) -> u64 {
    version.tally.latency.percentile_millis(bps).unwrap_or(0)
}

fn latency_text(
    text: &mut String,
    what: &str,
    limit: Option<Millis>,
    canary: u64,
    stable: u64,
) -> std::fmt::Result {
    write!(text, "{what} latency {canary}ms (limit {}); stable's {stable}ms", limit.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guard;
    use crate::units::{Bps, Micros};

    fn snapshot(judged: u64, bad: u64, run: u32) -> Snapshot {
        let mut s = Snapshot { failed_in_a_row: run, failing_now: run > 0, ..Snapshot::default() };
        (s.tally.judged, s.tally.bad) = (judged, bad);
        s
    }

    fn slow(n: u64, millis: u64) -> Snapshot {
        let mut s = snapshot(n, 0, 0);
        (0..n).for_each(|_| s.tally.latency.record(Micros(millis * 1000)));
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
    fn a_rate_breaks_its_limit_when_it_exceeds_it_with_enough_outcomes() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        assert_eq!(judge(&g, &snapshot(19, 19, 0), &FINE()), Verdict::Pass, "too few");
        assert_eq!(judge(&g, &snapshot(20, 1, 0), &FINE()), Verdict::Pass, "exactly 5 %");
        assert_eq!(judge(&g, &snapshot(20, 2, 0), &FINE()), Verdict::Fail(Limit::ErrorRate));
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
    fn a_run_of_failures_waits_for_stable_while_stable_fails_too() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        assert_eq!(judge(&g, &snapshot(5, 5, 5), &snapshot(9, 2, 2)), Verdict::Inconclusive);
        assert_eq!(
            judge(&g, &snapshot(5, 5, 5), &snapshot(9, 9, 9)),
            Verdict::Shared(Limit::ConsecutiveErrors)
        );
    }

    #[test]
    fn an_outage_of_both_is_not_blamed_on_whoever_is_first_past_the_limit() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        // From a real Envoy: both had failed altogether for some 50 ms.
        for (canary, stable) in [((52, 3), (408, 6)), ((47, 3), (423, 17)), ((227, 12), (239, 4))] {
            let (mut c, mut s) = (snapshot(canary.0, canary.1, 3), snapshot(stable.0, stable.1, 3));
            assert_eq!(judge(&g, &c, &s), Verdict::Inconclusive, "{canary:?} {stable:?}");
            (s.failed_in_a_row, s.failing_now) = (0, false);
            assert_eq!(judge(&g, &c, &s), Verdict::Fail(Limit::ErrorRate), "stable is well again");
            (c.tally.bad, s.tally.bad) = (c.tally.judged, s.tally.judged);
            s.failing_now = true;
            assert_eq!(judge(&g, &c, &s), Verdict::Shared(Limit::ErrorRate), "and later all has failed");
        }
    }

    #[test]
    fn of_several_broken_limits_the_first_is_the_reason() {
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

    #[test]
    fn evidence_is_the_nearest_limit_and_never_above_100() {
        let mut g = guard();
        g.max_consecutive_errors = Some(10);
        assert_eq!(evidence(&g, &snapshot(9, 4, 4)), 40);
        assert_eq!(evidence(&g, &snapshot(99, 40, 40)), 100);
        g.max_error_rate = Bps::new(1000);
        // 5 % of a limit of 10 %, with half of the outcomes it needs.
        assert_eq!(evidence(&g, &snapshot(10, 1, 0)), 50);
        assert_eq!(evidence(&g, &Snapshot::default()), 0);
    }

    #[test]
    fn an_explanation_carries_the_comparison() {
        let mut g = guard();
        g.max_error_rate = Bps::new(500);
        assert_eq!(
            explain(Limit::ErrorRate, &g, &snapshot(41, 10, 0), &snapshot(780, 4, 0)),
            "10 of 41 failed in 30s (limit 5 %); stable: 4 of 780 failed"
        );
        g.max_latency.p95 = Some(Millis(1200));
        assert_eq!(
            explain(Limit::LatencyP95, &g, &slow(20, 4), &slow(20, 2)),
            "p95 latency 4ms (limit 1200ms); stable's 2ms; stable: 0 of 20 failed"
        );
    }
}
