//! The comparison of a canary with stable: whose failures are these, given how we dealt the traffic?
//!
//! We are the ones who toss the coin. If the canary is no worse than stable, a failing request was a canary's with exactly
//! the probability with which requests were sent to it, whatever the common error rate is doing. So only bad events move the
//! statistic; no baseline is estimated, no window and no minimum sample is needed, and an outage of both moves nothing.
//!
//! With `c` and `s` the shares of canary and stable when the request was assigned and `r` the tolerated ratio
//! (`worse_than_stable`), a bad event belongs to a canary within tolerance with probability at most `π₀ = r·c / (r·c + s)`,
//! and to one that fails `R` times as often as stable with `π₁ = R·c / (R·c + s)` (Bayes; the common rate cancels). For
//! each alternative `R` a CUSUM (Page, 1954) adds `ln(π₁/π₀)` when the canary fails and `ln((1−π₁)/(1−π₀))` when stable
//! does, and starts again at zero. Each is bounded by its Shiryaev–Roberts statistic, so with A alternatives the mean number
//! of failing requests between false alarms is at least `eʰ/A` for a threshold `h`; see [`threshold`].
//!
//! A score over the threshold is evidence of *some* harm. It is acted on if the harm is worth it: since that score last left
//! zero the canary's rate is above stable's by `min_difference`, at least `floor`, with [`BAD_MIN`] bad events of its own.
//!
//! Only traffic that the coin decided may be counted here. With sticky identities the coin is tossed once a client, not once a
//! request, and one broken client that sticks to the canary is not a broken canary: the verdict must stand without the client
//! that contributed most to that score ([`crate::judge::sketch`]). Counting a client's failures only once a minute, which looks
//! simpler, does not do: at ten requests a second one failure a minute already outweighs everybody else's, and where clients are
//! few it hides real faults.

use crate::judge::cusum::{Counts, Cusum};
use crate::plan::guard::Compare;
use crate::shared::codec::{Reader, Writer};

/// Ratios that the alternatives assume, as multiples of the tolerated ratio: 2.5, 6, 20 and 100 for the default of 1.5.
/// From slightly worse (slow to prove) to all broken (proved in a few events); between them the loss is below one event.
const ALTERNATIVES: [f64; 4] = [5.0 / 3.0, 4.0, 40.0 / 3.0, 200.0 / 3.0];

/// Alternatives of a signal whose events are rare by definition: beyond stable's 95th percentile no ratio can exceed 20, and an
/// alternative that cannot be true only adds false alarms.
pub const BOUNDED: usize = 3;

/// Bad events of the canary without which nothing is blamed on it: one or two say nothing about a rate.
pub const BAD_MIN: u64 = 3;

/// Events a worker holds back at most; with so many it merges at once. A second of failures at a few thousand a second.
pub const PENDING_MAX: usize = 64;

/// The score from which a canary is rolled back: `ln(confidence)`, 16.1 for the default of 10⁷. What is *proved* with it is a
/// mean of `confidence / 4` failing requests between false rollbacks (four alternatives); what is measured is several times
/// `confidence`, because the four scores rise together and the effect must matter too. The simulator checks it.
pub fn threshold(compare: &Compare) -> f64 {
    compare.confidence.ln()
}

/// Which side a request was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// The canary.
    Canary,
    /// Stable.
    Stable,
}

/// Shares in basis points by which the coin decided between the two when a request was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odds {
    /// The canary's share.
    pub canary: u16,
    /// Stable's share.
    pub stable: u16,
}

impl Odds {
    /// Whether there was anything to decide.
    pub fn is_fair(self) -> bool {
        self.canary > 0 && self.stable > 0
    }
}

/// One bad event, and the outcomes that were not bad since the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bad {
    arm: Arm,
    odds: Odds,
    identity: Option<u64>,
    good_canary: u64,
    good_stable: u64,
}

/// What one worker has seen since its last merge, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShareDelta {
    bad: Vec<Bad>,
    good_canary: u64,
    good_stable: u64,
}

impl ShareDelta {
    /// Adds an outcome. `identity`: hash of the sticky identity, if there is one.
    pub fn add(&mut self, arm: Arm, bad: bool, odds: Odds, identity: Option<u64>) {
        match (bad, arm) {
            (true, _) => {
                let (good_canary, good_stable) = (self.good_canary, self.good_stable);
                (self.good_canary, self.good_stable) = (0, 0);
                self.bad.push(Bad { arm, odds, identity, good_canary, good_stable });
            }
            (false, Arm::Canary) => self.good_canary = self.good_canary.saturating_add(1),
            (false, Arm::Stable) => self.good_stable = self.good_stable.saturating_add(1),
        }
    }

    /// Many outcomes that were not bad, at once.
    pub fn add_good(&mut self, canary: u64, stable: u64) {
        self.good_canary = self.good_canary.saturating_add(canary);
        self.good_stable = self.good_stable.saturating_add(stable);
    }

    /// No bad event.
    pub fn is_quiet(&self) -> bool {
        self.bad.is_empty()
    }

    /// It should be merged now, lest it grow.
    pub fn is_full(&self) -> bool {
        self.bad.len() >= PENDING_MAX
    }
}

/// The comparison of one canary with stable on one signal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Share {
    cusums: [Cusum; ALTERNATIVES.len()],
}

/// Evidence against the canary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence {
    /// The highest score.
    pub score: f64,
    /// The score that it takes.
    pub limit: f64,
    /// What it is based on.
    pub counts: Counts,
}

impl Share {
    /// Replays what a worker has seen, against the first so many alternatives.
    pub fn merge(&mut self, delta: &ShareDelta, compare: &Compare, alternatives: usize) {
        let tolerated = f64::from(compare.worse_than_stable_milli) / 1000.0;
        for bad in &delta.bad {
            self.good(bad.good_canary, bad.good_stable);
            self.bad(bad, tolerated, alternatives);
        }
        self.good(delta.good_canary, delta.good_stable);
    }

    fn good(&mut self, canary: u64, stable: u64) {
        self.cusums.iter_mut().for_each(|cusum| cusum.good(canary, stable));
    }

    fn bad(&mut self, bad: &Bad, tolerated: f64, alternatives: usize) {
        let Bad { arm, odds, identity, .. } = *bad;
        if !odds.is_fair() {
            return;
        }
        let (c, s) = (f64::from(odds.canary), f64::from(odds.stable));
        for (cusum, multiple) in self.cusums.iter_mut().zip(ALTERNATIVES).take(alternatives) {
            let worse = tolerated * multiple;
            // π₁/π₀ and (1−π₁)/(1−π₀), with the common factors cancelled.
            let ratio = (tolerated * c + s) / (worse * c + s);
            match arm {
                Arm::Canary => cusum.canary_failed((multiple * ratio).ln(), identity),
                Arm::Stable => cusum.stable_failed(ratio.ln()),
            }
        }
    }

    /// Nothing is held against the canary: outcomes that are not bad need not be merged.
    pub fn is_at_zero(&self) -> bool {
        self.cusums.iter().all(Cusum::is_at_zero)
    }

    /// The strongest evidence, whether or not it suffices.
    pub fn evidence(&self, compare: &Compare) -> Evidence {
        let above_zero = self.cusums.iter().filter(|cusum| !cusum.is_at_zero());
        let believed = above_zero.map(|cusum| (cusum.believed().0, cusum.since()));
        let strongest = believed.max_by(|(a, _), (b, _)| a.total_cmp(b));
        let (score, counts) = strongest.unwrap_or_default();
        Evidence { score: score.max(0.0), limit: threshold(compare), counts }
    }

    /// The evidence that suffices to blame the canary, if any does.
    pub fn verdict(&self, compare: &Compare) -> Option<Evidence> {
        let limit = threshold(compare);
        // Whoever is left out, a score does not rise: most need no closer look.
        let reached = self.cusums.iter().filter(|cusum| cusum.score() >= limit);
        let stands = |cusum: &&Cusum| {
            let (score, counts) = cusum.believed();
            score >= limit && matters(&counts, compare)
        };
        let strongest = reached.filter(stands).max_by(|a, b| a.score().total_cmp(&b.score()));
        strongest.map(|cusum| Evidence { score: cusum.score(), limit, counts: cusum.since() })
    }

    /// Appends it to a value.
    pub fn encode(&self, w: &mut Writer) {
        self.cusums.iter().for_each(|cusum| cusum.encode(w));
    }

    /// Reads it from a value; `None` unless it could have been written.
    pub fn decode(r: &mut Reader<'_>) -> Option<Share> {
        let mut share = Share::default();
        for cusum in &mut share.cusums {
            *cusum = Cusum::decode(r)?;
        }
        Some(share)
    }
}

/// Whether a difference is worth acting on. Integers: rates in basis points, cross-multiplied.
fn matters(since: &Counts, compare: &Compare) -> bool {
    let rate = |bad: u64, all: u64| match all {
        0 => 0,
        all => bad.saturating_mul(10_000).checked_div(all).unwrap_or(0),
    };
    let canary = rate(since.canary_bad, since.canary);
    let stable = rate(since.stable_bad, since.stable);
    since.canary_bad >= BAD_MIN
        && canary >= stable.saturating_add(u64::from(compare.min_difference.get()))
        && canary >= u64::from(compare.floor.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guard;

    fn compare() -> Compare {
        guard().compare.unwrap()
    }

    fn odds(canary: u16) -> Odds {
        Odds { canary, stable: 10_000 - canary }
    }

    /// Clean failures of the canary that it takes at a share, with a healthy stable.
    fn needed(share: u16) -> u64 {
        let (mut s, compare) = (Share::default(), compare());
        for n in 1..1000 {
            let mut delta = ShareDelta::default();
            delta.add(Arm::Canary, true, odds(share), None);
            s.merge(&delta, &compare, 4);
            if s.verdict(&compare).is_some() {
                return n;
            }
        }
        0
    }

    #[test]
    fn a_small_share_needs_few_failures_and_a_large_one_more() {
        assert_eq!([100, 500, 1000, 2500, 5000].map(needed), [5, 7, 9, 16, 33]);
    }

    #[test]
    fn an_outage_of_both_moves_nothing_for_long() {
        let (mut s, compare) = (Share::default(), compare());
        // Failures in exact proportion to the shares, the canary's first each time.
        for i in 0..200_000 {
            let mut delta = ShareDelta::default();
            delta.add(if i % 20 == 0 { Arm::Canary } else { Arm::Stable }, true, odds(500), None);
            s.merge(&delta, &compare, 4);
            assert!(s.verdict(&compare).is_none(), "blamed after {i} failures");
        }
    }

    #[test]
    fn a_difference_too_small_to_matter_is_not_acted_on() {
        let (mut s, compare) = (Share::default(), compare());
        for _ in 0..200 {
            let mut delta = ShareDelta::default();
            delta.add(Arm::Canary, true, odds(500), None);
            delta.add_good(100_000, 1_900_000);
            s.merge(&delta, &compare, 4);
        }
        assert!(s.evidence(&compare).score > threshold(&compare), "the harm is certain");
        assert!(s.verdict(&compare).is_none(), "and below a tenth of a percent");
    }

    #[test]
    fn what_went_well_before_the_trouble_does_not_hide_it() {
        let (mut s, compare) = (Share::default(), compare());
        let mut calm = ShareDelta::default();
        calm.add_good(50_000, 950_000);
        s.merge(&calm, &compare, 4);
        for n in 1..=7 {
            let mut delta = ShareDelta::default();
            delta.add(Arm::Canary, true, odds(500), None);
            s.merge(&delta, &compare, 4);
            assert_eq!(s.verdict(&compare).is_some(), n == 7, "after {n}");
        }
        assert_eq!(s.verdict(&compare).unwrap().counts.canary, 7);
    }

    #[test]
    fn traffic_that_no_coin_decided_is_left_out() {
        let (mut s, compare) = (Share::default(), compare());
        for odds in [Odds { canary: 10_000, stable: 0 }, Odds { canary: 0, stable: 10_000 }] {
            let mut delta = ShareDelta::default();
            (0..50).for_each(|_| delta.add(Arm::Canary, true, odds, None));
            s.merge(&delta, &compare, 4);
        }
        assert!(s.is_at_zero());
    }

    #[test]
    fn a_comparison_comes_back_from_its_bytes() {
        let (mut s, compare) = (Share::default(), compare());
        let mut delta = ShareDelta::default();
        delta.add_good(3, 9);
        delta.add(Arm::Canary, true, odds(500), None);
        delta.add(Arm::Stable, true, odds(500), None);
        s.merge(&delta, &compare, 4);
        let mut w = Writer::new();
        s.encode(&mut w);
        let bytes = w.finish();
        assert_eq!(Share::decode(&mut Reader::new(&bytes).unwrap()), Some(s));
    }

    /// Failures until a verdict, each of the client that `of` names, at a share of 5 %; `None` within 3 000.
    fn failures_of(of: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut s, compare) = (Share::default(), compare());
        (1..=3000).find(|n| {
            let mut delta = ShareDelta::default();
            delta.add(Arm::Canary, true, odds(500), Some(of(*n)));
            s.merge(&delta, &compare, 4);
            s.verdict(&compare).is_some()
        })
    }

    #[test]
    fn one_broken_client_is_not_a_broken_canary() {
        assert_eq!(failures_of(|_| 7), None);
        let (mut s, compare) = (Share::default(), compare());
        let mut delta = ShareDelta::default();
        (0..50).for_each(|_| delta.add(Arm::Canary, true, odds(500), Some(7)));
        s.merge(&delta, &compare, 4);
        assert!(s.evidence(&compare).score < threshold(&compare) / 2.0, "nor does it hold up a ramp");
        assert_eq!(failures_of(|n| n), Some(7), "different clients each count");
        assert!(failures_of(|n| n % 20).is_some_and(|n| n <= 12), "twenty clients that all fail");
    }

    /// A client of the canary.
    const BROKEN: u64 = 7;

    fn one(arm: Arm, identity: u64) -> ShareDelta {
        let mut delta = ShareDelta::default();
        delta.add_good(10, 190);
        delta.add(arm, true, odds(500), Some(identity));
        delta
    }

    /// One client of a healthy canary is broken; two others have failed too, each once, and stable now and then.
    fn with_one_broken_client() -> Share {
        let (mut s, compare) = (Share::default(), compare());
        (100..102).for_each(|n| s.merge(&one(Arm::Canary, n), &compare, 4));
        (0..30).for_each(|_| s.merge(&one(Arm::Canary, BROKEN), &compare, 4));
        (0..13).for_each(|n| s.merge(&one(Arm::Stable, 1000 + n), &compare, 4));
        assert!(s.verdict(&compare).is_none() && !s.is_at_zero());
        s
    }

    #[test]
    fn a_client_that_has_been_broken_for_long_hides_no_canary_that_breaks_for_all() {
        let (mut s, compare) = (with_one_broken_client(), compare());
        // From here on whatever the canary answers fails, and every second request is the broken client's.
        let failures = (1..100).find(|n| {
            s.merge(&one(Arm::Canary, BROKEN), &compare, 4);
            s.merge(&one(Arm::Canary, 200 + n), &compare, 4);
            s.verdict(&compare).is_some()
        });
        assert_eq!(failures, Some(7), "of other clients, as many as without the broken one");
    }

    #[test]
    fn a_client_that_has_been_broken_for_long_gives_the_others_no_head_start() {
        let (mut s, compare) = (with_one_broken_client(), compare());
        (0..60).for_each(|n| s.merge(&one(Arm::Stable, 1000 + n), &compare, 4));
        assert!(s.is_at_zero());
        s.merge(&one(Arm::Canary, BROKEN), &compare, 4);
        assert!(s.is_at_zero(), "it does not even begin");
        for n in 1..=7 {
            s.merge(&one(Arm::Canary, 200 + n), &compare, 4);
            if n == 3 {
                s.merge(&one(Arm::Canary, BROKEN), &compare, 4);
            }
            assert_eq!(s.verdict(&compare).is_some(), n == 7, "after {n} others");
        }
    }

    #[test]
    fn a_client_that_failed_while_the_share_was_small_is_left_out_for_what_it_added_then() {
        let (mut s, compare) = (Share::default(), compare());
        let mut fails = |arm, share, identity| {
            let mut delta = ShareDelta::default();
            delta.add_good(5, 10);
            delta.add(arm, true, odds(share), Some(identity));
            s.merge(&delta, &compare, 4);
            s.verdict(&compare).is_some()
        };
        fails(Arm::Canary, 100, 100);
        fails(Arm::Canary, 100, 101);
        (0..1000).for_each(|_| assert!(!fails(Arm::Canary, 100, BROKEN)));
        // At half of the traffic a failure of the canary is much less of a proof. Both fail alike.
        for n in 0..1000 {
            assert!(!fails(Arm::Canary, 5_000, 200 + n % 40), "after {n} of each");
            assert!(!fails(Arm::Stable, 5_000, 1000 + n), "after {n} of each");
        }
    }

    #[test]
    fn whatever_happens_a_comparison_comes_back_from_its_bytes_and_they_are_few() {
        let (mut s, compare) = (with_one_broken_client(), compare());
        let mut longest = 0;
        for n in 0..2000u64 {
            let arm = if n % 7 < 4 { Arm::Canary } else { Arm::Stable };
            s.merge(&one(arm, (n * n % 23).wrapping_mul(0x9e37_79b9_7f4a_7c15)), &compare, 4);
            let mut w = Writer::new();
            s.encode(&mut w);
            let bytes = w.finish();
            let mut r = Reader::new(&bytes).unwrap();
            assert_eq!(Share::decode(&mut r).as_ref(), Some(&s));
            assert!(r.end().is_some());
            longest = longest.max(bytes.len());
        }
        assert!((250..=350).contains(&longest), "{longest} bytes");
    }
}
