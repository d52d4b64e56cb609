//! The verdict on limits: do these numbers break one, and is it the canary's fault?
//!
//! Two questions, kept apart. [`exceeds`] compares one version with one limit. [`judge`] asks it of the canary for every
//! limit and, where one is broken, looks at stable too: trouble that stable has as well is not the canary's.
//!
//! | limit | breaks when |
//! |---|---|
//! | `max_consecutive_errors` | so many answers (or streams) in a row have failed: *reached* |
//! | `max_errors` | so many outcomes in the window were bad: *reached* |
//! | `max_error_rate` | the rate is above the limit *for certain*: the lower end of its 99.9 % interval is |
//! | `max_latency.p50`, `p95`, `p99` | more than 50 %, 5 %, 1 % of the responses are slower than the limit, likewise for certain |
//! | `max_latency.avg` | the mean is above the limit |
//!
//! Rates and latencies are judged only with `min_requests` outcomes in the window. "For certain": a bare ratio of few
//! requests breaks a limit by chance. 2 of 20 failing is 10 %, but at a true rate of 4 % it happens every fifth time; asked of
//! every window of a day, it happens for sure. The interval is Wilson's (1927) with z = 3.29: for 2 of 20 it begins at 1.4 %, so
//! a limit of 5 % holds; 5 of 20 (25 %, from 6.7 %) break it, and so do 20 of 20 (from 65 %), as soon as there are 20.
//!
//! Whose fault: shared is what stable has broken, too, in the same window, unless the canary is certainly worse by more than the
//! tolerated ratio (1.5 unless `compare` says otherwise). The rest is the canary's, but for two cases in which the verdict waits:
//!
//! * An outage of both has just begun. Chance, and the batches in which stable is merged, decide who is first past a limit.
//!   `failing_alike` tells.
//! * Stable has too few outcomes to break the limit, and what it has is the same trouble. `excused` tells.
//!
//! Both are short: a canary that goes on failing while stable does not fail as well, or is not heard of, outgrows them.

use std::fmt::Write;

use crate::judge::stats::Snapshot;
use crate::plan::guard::{Guard, SharedOutage};
use crate::time::Millis;
use crate::units::Bps;

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
}

/// What the numbers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No limit is broken.
    Pass,
    /// A limit is broken, but whose fault it is cannot be said yet: stable fails as well, but has not broken it so far.
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
    match limit {
        Limit::ConsecutiveErrors => of_a_run(limit, guard, canary, stable),
        Limit::ErrorRate | Limit::Errors => of_errors(limit, guard, canary, stable),
        _ if exceeds(limit, guard, stable) => Verdict::Shared(limit),
        _ if may_be_slow(limit, guard, canary, stable) => Verdict::Inconclusive,
        _ => Verdict::Fail(limit),
    }
}

/// Whose fault a run of failures is. A rate says little of that: failures spread over the window are no run.
fn of_a_run(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> Verdict {
    let max = guard.max_consecutive_errors.unwrap_or(u32::MAX);
    // It may be over for stable already, and not for the canary, which is asked less often.
    let was = stable.tally.longest_run >= max && !certainly_worse(guard, canary, stable);
    if stable.failed_in_a_row >= max || was {
        return Verdict::Shared(limit);
    }
    // In an outage of some requests it is chance who is first to have so many in a row. Who is more than half way there has been
    // in it as well; twice as many are no chance.
    let half = stable.tally.longest_run.saturating_mul(2) > max;
    if failing_alike(canary, stable) || half && canary.failed_in_a_row < max.saturating_mul(2) {
        Verdict::Inconclusive
    } else {
        Verdict::Fail(limit)
    }
}

/// Whose fault a count or a rate of errors is.
fn of_errors(limit: Limit, guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> Verdict {
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

/// Failures of the canary that one of stable's explains in an outage of both: nine times as many at a share of 90 %, and one for
/// chance.
const FOR_EACH: u64 = 10;

/// So much later than a canary's failures some of stable's are known: workers merge what they have seen of it within 20 ms, or
/// with their next tick, another 20 ms later. The rest is for a worker that is busy.
const LAG: Millis = Millis(100);

/// Whether both may be in an outage that has just begun: the last that was heard of stable was a failure as well, not the first
/// in a row or at the time of the canary's run, and the canary's run is no older than what stable's is known by, or not out of
/// proportion to it. Stable's next outcome tells, or the canary's next failures do.
fn failing_alike(canary: &Snapshot, stable: &Snapshot) -> bool {
    let together = stable.failed_in_a_row == 1 && stable.heard.plus(LAG) >= canary.failing_since;
    let young = canary.failing_since.plus(LAG) > canary.heard;
    let explained = u64::from(stable.failed_in_a_row).saturating_mul(FOR_EACH);
    (together || stable.failed_in_a_row > 1) && (young || u64::from(canary.failed_in_a_row) <= explained)
}

/// Whether so much trouble of the canary may be what stable has, too. Of less than `min_requests` outcomes stable's share of
/// troubled ones says little: then for each of these it takes [`FOR_EACH`] of the canary's to say that it is not.
fn excused(guard: &Guard, canary: u64, stable: Proportion) -> bool {
    enough(guard, stable.whole) || canary <= stable.part.saturating_mul(FOR_EACH)
}

/// Whether the canary fails more often than is tolerated for certain.
fn certainly_worse(guard: &Guard, canary: &Snapshot, stable: &Snapshot) -> bool {
    errors(canary).lower() > tolerated(guard) * errors(stable).upper()
}

/// Whether the canary's true rate may be as low as stable's may be high.
fn overlap(canary: Proportion, stable: Proportion) -> bool {
    canary.lower() <= stable.upper()
}

/// Whether stable may be breaking a latency limit, too, with too few responses to say.
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

/// Whether stable is not far from a limit on errors: its true rate may be above, as far as its few outcomes can tell, or half of
/// the count is there, or all of it might be, had stable as many outcomes as the canary.
fn near(limit: Limit, guard: &Guard, canary: Proportion, stable: Proportion) -> bool {
    let likely = stable.likely_upper();
    match limit {
        Limit::ErrorRate => guard.max_error_rate.is_some_and(|max| likely > f64::from(max.get()) / 10_000.0),
        _ => guard.max_errors.is_some_and(|max| {
            stable.part.saturating_mul(2) >= u64::from(max) || likely * canary.whole as f64 >= f64::from(max)
        }),
    }
}

/// The ratio of the canary's rate to stable's that is tolerated; the contract's default where the comparison is off.
fn tolerated(guard: &Guard) -> f64 {
    f64::from(guard.compare.map_or(1500, |compare| compare.worse_than_stable_milli)) / 1000.0
}

fn enough(guard: &Guard, outcomes: u64) -> bool {
    outcomes >= u64::from(guard.min_requests)
}

/// `part` of `whole`, with Wilson's interval.
#[derive(Debug, Clone, Copy)]
struct Proportion {
    part: u64,
    whole: u64,
}

impl Proportion {
    /// 99.9 % two-sided: each end is wrong once in 2 000 independent looks. A window is looked at with every failure, so once in
    /// 200 (z = 2.58) would be several times an hour where the true rate is just below the limit.
    const Z: f64 = 3.29;

    fn rate(self) -> f64 {
        if self.whole == 0 { 0.0 } else { self.part as f64 / self.whole as f64 }
    }

    /// Lower end; 0 without outcomes.
    fn lower(self) -> f64 {
        let (centre, half) = self.interval(Proportion::Z);
        (centre - half).max(0.0)
    }

    /// Upper end; 1 without outcomes.
    fn upper(self) -> f64 {
        let (centre, half) = self.interval(Proportion::Z);
        (centre + half).min(1.0)
    }

    /// Upper end of the 90 % interval: above it it may be, but hardly is.
    fn likely_upper(self) -> f64 {
        let (centre, half) = self.interval(1.64);
        (centre + half).min(1.0)
    }

    /// `(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)` (Wilson, 1927).
    fn interval(self, z: f64) -> (f64, f64) {
        if self.whole == 0 {
            return (0.5, 0.5);
        }
        let (p, n) = (self.rate(), self.whole as f64);
        let scale = 1.0 + z * z / n;
        let centre = (p + z * z / (2.0 * n)) / scale;
        let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).max(0.0).sqrt() / scale;
        (centre, half)
    }
}

/// Wilson's 99.9 % interval of a proportion, `0.0..=1.0`; all of it without outcomes.
pub fn interval(part: u64, whole: u64) -> (f64, f64) {
    let proportion = Proportion { part: part.min(whole), whole };
    (proportion.lower(), proportion.upper())
}

fn errors(version: &Snapshot) -> Proportion {
    // Streams that break count when they break, maybe in a later window than their headers.
    Proportion { part: version.tally.bad, whole: version.tally.judged.max(version.tally.bad) }
}

fn slower_than(version: &Snapshot, limit: Millis) -> Proportion {
    Proportion { part: version.tally.latency.count_above(limit), whole: version.tally.latency.count() }
}

/// Percentile limits with the share of responses, in basis points, that may be slower.
fn percentile(limit: Limit, guard: &Guard) -> Option<(Millis, u16)> {
    let limits = &guard.max_latency;
    match limit {
        Limit::LatencyP50 => Some((limits.p50?, 5000)),
        Limit::LatencyP95 => Some((limits.p95?, 500)),
        Limit::LatencyP99 => Some((limits.p99?, 100)),
        _ => None,
    }
}

/// Whether a version breaks a limit.
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

/// How far a version is on the way to a rollback, in percent, `0..=100`: the nearest of its limits. For rates it is the
/// lower end of the interval that counts, as in the verdict.
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
    use crate::time::{Micros, Span};
    use crate::units::Bps;

    fn snapshot(judged: u64, bad: u64, run: u32) -> Snapshot {
        let mut s = Snapshot { failed_in_a_row: run, ..Snapshot::default() };
        (s.tally.judged, s.tally.bad, s.tally.longest_run) = (judged, bad, run);
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
    fn a_run_that_began_in_an_outage_of_both_is_not_blamed_when_stable_is_first_to_recover() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        let recovered = Snapshot { failed_in_a_row: 0, ..snapshot(95, 90, 90) };
        assert_eq!(judge(&g, &snapshot(10, 10, 10), &recovered), Verdict::Shared(Limit::ConsecutiveErrors));
        assert_eq!(judge(&g, &snapshot(40, 10, 10), &FINE()), Verdict::Fail(Limit::ConsecutiveErrors));
        // A run that chance brings to a stable with much traffic does not excuse a canary that is dead.
        let noisy = Snapshot { failed_in_a_row: 0, ..snapshot(28_000, 2_800, 5) };
        assert_eq!(judge(&g, &snapshot(10, 10, 10), &noisy), Verdict::Fail(Limit::ConsecutiveErrors));
    }

    #[test]
    fn failures_of_stable_that_are_no_run_do_not_excuse_a_run() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        const MS: u64 = 1000;
        let noisy = |run, heard| {
            let mut s = Snapshot { heard: Micros(heard * MS), ..snapshot(108, 10, run) };
            s.tally.longest_run = 1;
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
    fn a_stable_that_is_half_way_to_the_same_run_has_the_canary_judged_at_twice_the_limit() {
        let mut g = guard();
        g.max_consecutive_errors = Some(5);
        let half = |longest_run| {
            let mut s = snapshot(60, 30, 0);
            s.tally.longest_run = longest_run;
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
