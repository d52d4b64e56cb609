//! The comparison of a canary with stable: given how the traffic was dealt, does the canary cause more than its share of failures?
//!
//! The filter itself tosses the coin. If the canary is no worse than stable, a failing request was a canary's with exactly the
//! probability with which requests were sent to it, whatever the common error rate is doing. So only bad events move the statistic.
//! No baseline is estimated, no window and no minimum sample is needed, and an outage of both moves nothing.
//!
//! With `c` and `s` the shares of canary and stable when the request was assigned and `r` the tolerated ratio
//! (`worse_than_stable`), a bad event belongs to a canary within tolerance with probability at most `π₀ = r·c / (r·c + s)`,
//! and to one that fails `R` times as often as stable with `π₁ = R·c / (R·c + s)` (Bayes' theorem; the common rate
//! cancels). For each alternative `R` a CUSUM (Page, 1954) adds `ln(π₁/π₀)` when the canary fails and `ln((1−π₁)/(1−π₀))` when
//! stable does, and starts again at zero. Under the null hypothesis each factor has a mean of at most 1, and each CUSUM is at most its
//! Shiryaev–Roberts statistic (S. W. Roberts, Technometrics 8, 1966; M. Pollak, Annals of Statistics 13, 1985), which grows by at
//! most 1 an event on average. So with A alternatives the mean number of failing requests between false alarms is at least `eʰ/A`
//! for a threshold `h`; see [`threshold`].
//!
//! A score over the threshold is evidence of *some* harm. The filter acts on it if the harm is large enough: since the score last left
//! zero, the canary's rate must be above stable's by `min_difference`, and at least `floor`, with [`BAD_MIN`] bad events of its own.
//!
//! Only traffic that the coin decided may be counted here. With sticky identities the coin is tossed once a client, not once a
//! request, and one broken client that sticks to the canary is not a broken canary. So the verdict must stand without the client that
//! contributed most to the score ([`crate::judge::sketch`]). Counting a client's failures only once a minute looks simpler and does
//! not work: at ten requests a second one failure a minute already outweighs those of all other clients, and where clients are few it
//! hides real faults.

use crate::judge::cusum::{Counts, Cusum};
use crate::plan::guard::Compare;
use crate::shared::codec::{Reader, Writer};

/// Ratios that the alternatives assume, as multiples of the tolerated ratio: 2.5, 6, 20 and 100 for the default of 1.5.
/// They reach from slightly worse (slow to prove) to all broken (proved in a few events); between them the loss is below one event.
const ALTERNATIVES: [f64; 4] = [5.0 / 3.0, 4.0, 40.0 / 3.0, 200.0 / 3.0];

/// The number of alternatives for a measure with rare events by definition. At most 5 % of stable's answers are beyond its 95th
/// percentile, so no ratio can exceed 20, and an alternative that cannot be true only adds false alarms.
pub const BOUNDED: usize = 3;

/// The least number of bad events of the canary for a verdict: one or two say nothing about a rate.
pub const BAD_MIN: u64 = 3;

/// The most events that a worker holds back; with so many it merges at once.
pub const PENDING_MAX: usize = 64;

/// Returns the score from which a canary is rolled back: `ln(confidence)`, 16.1 for the default of 10⁷. The proof gives a mean of
/// `confidence / 4` failing requests between false rollbacks (four alternatives). The simulator measures several times `confidence`,
/// because the four scores rise together and the effect must matter too.
pub fn threshold(compare: &Compare) -> f64 {
    compare.confidence.ln()
}

/// The version of a request in a comparison.
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
    /// Returns whether there was anything to decide.
    pub fn is_fair(self) -> bool {
        self.canary > 0 && self.stable > 0
    }
}

/// One bad event, and the good outcomes since the bad event before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bad {
    arm: Arm,
    odds: Odds,
    identity: Option<u64>,
    good_canary: u64,
    good_stable: u64,
}

/// The events that one worker has seen since its last merge, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScoresDelta {
    bad: Vec<Bad>,
    good_canary: u64,
    good_stable: u64,
}

impl ScoresDelta {
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

    /// Adds many good outcomes at once.
    pub fn add_good(&mut self, canary: u64, stable: u64) {
        self.good_canary = self.good_canary.saturating_add(canary);
        self.good_stable = self.good_stable.saturating_add(stable);
    }

    /// Returns whether there is no bad event.
    pub fn is_quiet(&self) -> bool {
        self.bad.is_empty()
    }

    /// Returns whether it should be merged now, lest it grow.
    pub fn is_full(&self) -> bool {
        self.bad.len() >= PENDING_MAX
    }
}

/// The comparison of one canary with stable by one measure: the scores of all alternatives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    cusums: [Cusum; ALTERNATIVES.len()],
}

/// Evidence against the canary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence {
    /// Highest score.
    pub score: f64,
    /// Score that suffices for a rollback.
    pub limit: f64,
    /// Outcomes that the score is based on.
    pub counts: Counts,
}

impl Scores {
    /// Replays the events of a worker against the first so many alternatives.
    pub fn merge(&mut self, delta: &ScoresDelta, compare: &Compare, alternatives: usize) {
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

    /// Returns whether nothing is held against the canary, so that good outcomes need not be merged.
    pub fn is_at_zero(&self) -> bool {
        self.cusums.iter().all(Cusum::is_at_zero)
    }

    /// Returns the strongest evidence, whether or not it suffices.
    pub fn evidence(&self, compare: &Compare) -> Evidence {
        let above_zero = self.cusums.iter().filter(|cusum| !cusum.is_at_zero());
        let believed = above_zero.map(|cusum| (cusum.believed().0, cusum.since()));
        let strongest = believed.max_by(|(a, _), (b, _)| a.total_cmp(b));
        let (score, counts) = strongest.unwrap_or_default();
        Evidence { score: score.max(0.0), limit: threshold(compare), counts }
    }

    /// Returns the evidence that suffices to blame the canary, if there is any.
    pub fn verdict(&self, compare: &Compare) -> Option<Evidence> {
        let limit = threshold(compare);
        // Leaving out a client never raises a score, so most scores need no closer look.
        let reached = self.cusums.iter().filter(|cusum| cusum.score() >= limit);
        let stands = |cusum: &&Cusum| {
            let (score, counts) = cusum.believed();
            score >= limit && matters(&counts, compare)
        };
        let strongest = reached.filter(stands).max_by(|a, b| a.score().total_cmp(&b.score()));
        strongest.map(|cusum| Evidence { score: cusum.score(), limit, counts: cusum.since() })
    }

    /// Appends the scores to a value.
    pub fn encode(&self, w: &mut Writer) {
        self.cusums.iter().for_each(|cusum| cusum.encode(w));
    }

    /// Reads scores from a value; `None` for bytes that [`Scores::encode`] never writes.
    pub fn decode(r: &mut Reader<'_>) -> Option<Scores> {
        let mut scores = Scores::default();
        for cusum in &mut scores.cusums {
            *cusum = Cusum::decode(r)?;
        }
        Some(scores)
    }
}

/// Returns whether a difference is large enough to act on. The rates are integers, in basis points.
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

    /// Counts the clean failures of the canary until a verdict at a share, with a healthy stable.
    fn needed(share: u16) -> u64 {
        let (mut s, compare) = (Scores::default(), compare());
        for n in 1..1000 {
            let mut delta = ScoresDelta::default();
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
        let (mut s, compare) = (Scores::default(), compare());
        // Failures in exact proportion to the shares, the canary's first each time.
        for i in 0..200_000 {
            let mut delta = ScoresDelta::default();
            delta.add(if i % 20 == 0 { Arm::Canary } else { Arm::Stable }, true, odds(500), None);
            s.merge(&delta, &compare, 4);
            assert!(s.verdict(&compare).is_none(), "blamed after {i} failures");
        }
    }

    #[test]
    fn a_difference_too_small_to_matter_is_not_acted_on() {
        let (mut s, compare) = (Scores::default(), compare());
        for _ in 0..200 {
            let mut delta = ScoresDelta::default();
            delta.add(Arm::Canary, true, odds(500), None);
            delta.add_good(100_000, 1_900_000);
            s.merge(&delta, &compare, 4);
        }
        assert!(s.evidence(&compare).score > threshold(&compare), "the harm is certain");
        assert!(s.verdict(&compare).is_none(), "and below a tenth of a percent");
    }

    #[test]
    fn good_outcomes_before_the_trouble_do_not_hide_it() {
        let (mut s, compare) = (Scores::default(), compare());
        let mut calm = ScoresDelta::default();
        calm.add_good(50_000, 950_000);
        s.merge(&calm, &compare, 4);
        for n in 1..=7 {
            let mut delta = ScoresDelta::default();
            delta.add(Arm::Canary, true, odds(500), None);
            s.merge(&delta, &compare, 4);
            assert_eq!(s.verdict(&compare).is_some(), n == 7, "after {n}");
        }
        assert_eq!(s.verdict(&compare).unwrap().counts.canary, 7);
    }

    #[test]
    fn traffic_that_no_coin_decided_is_left_out() {
        let (mut s, compare) = (Scores::default(), compare());
        for odds in [Odds { canary: 10_000, stable: 0 }, Odds { canary: 0, stable: 10_000 }] {
            let mut delta = ScoresDelta::default();
            (0..50).for_each(|_| delta.add(Arm::Canary, true, odds, None));
            s.merge(&delta, &compare, 4);
        }
        assert!(s.is_at_zero());
    }

    #[test]
    fn a_comparison_comes_back_from_its_bytes() {
        let (mut s, compare) = (Scores::default(), compare());
        let mut delta = ScoresDelta::default();
        delta.add_good(3, 9);
        delta.add(Arm::Canary, true, odds(500), None);
        delta.add(Arm::Stable, true, odds(500), None);
        s.merge(&delta, &compare, 4);
        let mut w = Writer::new();
        s.encode(&mut w);
        let bytes = w.finish();
        assert_eq!(Scores::decode(&mut Reader::new(&bytes).unwrap()), Some(s));
    }

    /// Counts the failures until a verdict, each by the client that `of` names, at a share of 5 %; `None` within 3 000.
    fn failures_of(of: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut s, compare) = (Scores::default(), compare());
        (1..=3000).find(|n| {
            let mut delta = ScoresDelta::default();
            delta.add(Arm::Canary, true, odds(500), Some(of(*n)));
            s.merge(&delta, &compare, 4);
            s.verdict(&compare).is_some()
        })
    }

    #[test]
    fn one_broken_client_is_not_a_broken_canary() {
        assert_eq!(failures_of(|_| 7), None);
        let (mut s, compare) = (Scores::default(), compare());
        let mut delta = ScoresDelta::default();
        (0..50).for_each(|_| delta.add(Arm::Canary, true, odds(500), Some(7)));
        s.merge(&delta, &compare, 4);
        assert!(s.evidence(&compare).score < threshold(&compare) / 2.0, "nor does it hold up a ramp");
        assert_eq!(failures_of(|n| n), Some(7), "different clients each count");
        assert!(failures_of(|n| n % 20).is_some_and(|n| n <= 12), "twenty clients that all fail");
    }

    /// A client of the canary.
    const BROKEN: u64 = 7;

    fn one(arm: Arm, identity: u64) -> ScoresDelta {
        let mut delta = ScoresDelta::default();
        delta.add_good(10, 190);
        delta.add(arm, true, odds(500), Some(identity));
        delta
    }

    /// One client of a healthy canary is broken; two others have failed too, each once, and stable now and then.
    fn with_one_broken_client() -> Scores {
        let (mut s, compare) = (Scores::default(), compare());
        (100..102).for_each(|n| s.merge(&one(Arm::Canary, n), &compare, 4));
        (0..30).for_each(|_| s.merge(&one(Arm::Canary, BROKEN), &compare, 4));
        (0..13).for_each(|n| s.merge(&one(Arm::Stable, 1000 + n), &compare, 4));
        assert!(s.verdict(&compare).is_none() && !s.is_at_zero());
        s
    }

    #[test]
    fn a_client_that_has_been_broken_for_long_hides_no_canary_that_breaks_for_all() {
        let (mut s, compare) = (with_one_broken_client(), compare());
        // From here on everything the canary answers fails, and every second request is the broken client's.
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
        let (mut s, compare) = (Scores::default(), compare());
        let mut fails = |arm, share, identity| {
            let mut delta = ScoresDelta::default();
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
    fn any_scores_come_back_from_their_bytes_and_these_are_few() {
        let (mut s, compare) = (with_one_broken_client(), compare());
        let mut longest = 0;
        for n in 0..2000u64 {
            let arm = if n % 7 < 4 { Arm::Canary } else { Arm::Stable };
            s.merge(&one(arm, (n * n % 23).wrapping_mul(0x9e37_79b9_7f4a_7c15)), &compare, 4);
            let mut w = Writer::new();
            s.encode(&mut w);
            let bytes = w.finish();
            let mut r = Reader::new(&bytes).unwrap();
            assert_eq!(Scores::decode(&mut r).as_ref(), Some(&s));
            assert!(r.end().is_some());
            longest = longest.max(bytes.len());
        }
        assert!((250..=350).contains(&longest), "{longest} bytes");
    }
}
