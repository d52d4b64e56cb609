//! Limits: whether one version's numbers break a limit, and how near they are to it.
//!
//! | limit | breaks when |
//! |---|---|
//! | `max_consecutive_errors` | so many answers (or streams) in a row have failed: *reached* |
//! | `max_errors` | so many outcomes in the window were bad: *reached* |
//! | `max_error_rate` | the rate is above the limit *for certain*: the lower end of its 99.9 % interval is |
//! | `max_latency.p50`, `p95`, `p99` | more than 50 %, 5 %, 1 % of the responses are slower than the limit, likewise for certain |
//! | `max_latency.avg` | the mean is above the limit |
//!
//! Rates and latencies are judged only with `min_requests` outcomes in the window. "For certain" is needed because a bare ratio of
//! few requests breaks a limit by chance. 2 of 20 failing is 10 %, but at a true rate of 4 % it happens in every fifth window; over
//! a day, it happens for sure. The interval is Wilson's with z = 3.29 (see [`crate::judge::proportion`]). For 2 of 20 it begins at
//! 1.4 %, so a limit of 5 % holds. 5 of 20 (25 %, from 6.7 %) break it, and so do 20 of 20 (from 65 %), as soon as there are 20.
//!
//! [`crate::judge::verdict`] decides whether a broken limit is the canary's fault.

use std::fmt::Write;

use crate::judge::proportion::Proportion;
use crate::judge::stats::Snapshot;
use crate::plan::guard::Guard;
use crate::time::Millis;
use crate::units::Bps;

/// The limits of a guard, in the order in which they are judged. If several are broken at once, the first is the reason.
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
}

/// Returns whether any limit is broken. This is the cheap question: it needs no look at stable.
pub fn any_exceeded(guard: &Guard, version: &Snapshot) -> bool {
    Limit::ALL.into_iter().any(|limit| exceeds(limit, guard, version))
}

/// Returns whether a version breaks a limit.
pub fn exceeds(limit: Limit, guard: &Guard, version: &Snapshot) -> bool {
    let tally = &version.tally;
    match limit {
        Limit::ConsecutiveErrors => {
            guard.max_consecutive_errors.is_some_and(|max| version.failed_in_a_row >= max)
        }
        Limit::ErrorRate => guard.max_error_rate.is_some_and(|max| {
            let errors = errors(version);
            enough(guard, errors.whole) && errors.lower() > f64::from(max.get()) / 10_000.0
        }),
        Limit::Errors => guard.max_errors.is_some_and(|max| tally.bad >= u64::from(max)),
        Limit::LatencyAvg => guard.max_latency.avg.is_some_and(|max| {
            let mean = tally.latency.mean();
            enough(guard, tally.latency.count()) && mean.is_some_and(|mean| mean > max.span())
        }),
        Limit::LatencyP50 | Limit::LatencyP95 | Limit::LatencyP99 => {
            percentile(limit, guard).is_some_and(|(max, share)| {
                let slower = slower_than(version, max);
                enough(guard, slower.whole) && slower.lower() > f64::from(share) / 10_000.0
            })
        }
    }
}

pub(super) fn enough(guard: &Guard, outcomes: u64) -> bool {
    outcomes >= u64::from(guard.min_requests)
}

pub(super) fn errors(version: &Snapshot) -> Proportion {
    // A stream that breaks counts when it breaks, maybe in a later window than its headers.
    Proportion { part: version.tally.bad, whole: version.tally.judged.max(version.tally.bad) }
}

pub(super) fn slower_than(version: &Snapshot, limit: Millis) -> Proportion {
    Proportion { part: version.tally.latency.count_above(limit), whole: version.tally.latency.count() }
}

/// Returns a percentile limit with the share of responses, in basis points, that may be slower.
pub(super) fn percentile(limit: Limit, guard: &Guard) -> Option<(Millis, u16)> {
    let limits = &guard.max_latency;
    match limit {
        Limit::LatencyP50 => Some((limits.p50?, 5000)),
        Limit::LatencyP95 => Some((limits.p95?, 500)),
        Limit::LatencyP99 => Some((limits.p99?, 100)),
        _ => None,
    }
}

/// Returns how far a version is on the way to a rollback by its nearest limit, in percent, `0..=100`. For rates the lower end of
/// the interval counts, as in the verdict.
pub fn evidence(guard: &Guard, version: &Snapshot) -> u64 {
    let tally = &version.tally;
    let part = |have: u64, limit: u64| match limit {
        0 if have > 0 => 100,
        _ => have.saturating_mul(100).checked_div(limit).unwrap_or(0).min(100),
    };
    // Both are basis points: the casts of a proportion to them cannot go wrong.
    let bps = |proportion: Proportion| match proportion.whole {
        0 => 0,
        _ => (proportion.lower() * 10_000.0) as u64,
    };
    let percentiles =
        [Limit::LatencyP50, Limit::LatencyP95, Limit::LatencyP99].into_iter().filter_map(|limit| {
            let (max, share) = percentile(limit, guard)?;
            Some(part(bps(slower_than(version, max)), u64::from(share)))
        });
    let mean = tally.latency.mean().filter(|_| enough(guard, tally.latency.count()));
    [
        guard
            .max_consecutive_errors
            .map_or(0, |max| part(u64::from(version.failed_in_a_row), u64::from(max))),
        guard.max_error_rate.map_or(0, |max| part(bps(errors(version)), u64::from(max.get()))),
        guard.max_errors.map_or(0, |max| part(tally.bad, u64::from(max))),
        guard.max_latency.avg.map_or(0, |max| part(mean.unwrap_or_default().0, max.span().0)),
    ]
    .into_iter()
    .chain(percentiles)
    .max()
    .unwrap_or(0)
}

/// Writes the reason of a rollback, with the numbers that were compared, for a reader at three in the morning.
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
        Limit::LatencyP50 | Limit::LatencyP95 | Limit::LatencyP99 => {
            let (max, share) = percentile(limit, guard).unwrap_or_default();
            let (c, s) = (slower_than(canary, max), slower_than(stable, max));
            write!(
                text,
                "{} of {} slower than {max} (limit {}); of stable's {} of {}",
                c.part,
                c.whole,
                Bps::new(share).unwrap_or_default(),
                s.part,
                s.whole
            )
        }
    };
    let _ = write!(text, "; stable: {} of {} failed", s.bad, s.judged.max(s.bad));
    text
}

fn mean(version: &Snapshot) -> u64 {
    version.tally.latency.mean().unwrap_or_default().whole_millis()
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
    use crate::time::Span;
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

    #[test]
    fn evidence_is_the_nearest_limit_and_never_above_100() {
        let mut g = guard();
        g.max_consecutive_errors = Some(10);
        assert_eq!(evidence(&g, &snapshot(9, 4, 4)), 40);
        assert_eq!(evidence(&g, &snapshot(99, 40, 40)), 100);
        g.max_error_rate = Bps::new(1000);
        // One of ten is at least 0.79 %: a thirteenth of the way to 10 %.
        assert_eq!(evidence(&g, &snapshot(10, 1, 0)), 7);
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
            "0 of 20 slower than 1200ms (limit 5 %); of stable's 0 of 20; stable: 0 of 20 failed"
        );
    }
}
