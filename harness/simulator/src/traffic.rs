//! Traffic in bulk: only failures and slow answers are drawn one by one, good answers as counts between them.
//!
//! Requests arrive as a Poisson process, each goes to the canary with the share's probability and then fails or is slow with
//! the probabilities of its second. Thinning makes the four kinds of bad events and the good answers of either side
//! independent Poisson processes, so this is exact: nothing is approximated by drawing the good ones as counts, except
//! that rules which look at time see them up to a second late.

use bellwether::judge::scores::Arm;

use crate::rng::Rng;

/// A probability over time, constant within a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Curve {
    /// Always the same.
    Flat(f64),
    /// `level` in seconds `from..until`, `base` otherwise.
    Step {
        /// Before and after.
        base: f64,
        /// In between.
        level: f64,
        /// First second of the trouble.
        from: u64,
        /// First second after it.
        until: u64,
    },
    /// Up and down as a sine.
    Swing {
        /// Lowest.
        low: f64,
        /// Highest.
        high: f64,
        /// Seconds from one crest to the next.
        period: u64,
    },
}

impl Curve {
    /// The probability in a second.
    pub fn at(self, second: u64) -> f64 {
        match self {
            Curve::Flat(level) => level,
            Curve::Step { level, from, until, .. } if (from..until).contains(&second) => level,
            Curve::Step { base, .. } => base,
            Curve::Swing { low, high, period } => {
                let phase = (second % period) as f64 / period as f64 * std::f64::consts::TAU;
                low + (high - low) * (1.0 - phase.cos()) / 2.0
            }
        }
    }
}

/// What comes in, and how either side fares.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Requests a second, both sides together.
    pub rps: f64,
    /// The canary's share in basis points.
    pub share: u16,
    /// Probability that a request of stable fails.
    pub stable: Curve,
    /// Probability that a request of the canary fails.
    pub canary: Curve,
    /// Probability that a good answer of stable is slow.
    pub slow_stable: f64,
    /// Probability that a good answer of the canary is slow.
    pub slow_canary: Curve,
}

impl Traffic {
    /// Both alike: a healthy canary, with one answer in twenty above stable's 95th percentile on either side.
    pub fn alike(rps: f64, share: u16, errors: Curve) -> Traffic {
        Traffic {
            rps,
            share,
            stable: errors,
            canary: errors,
            slow_stable: 0.05,
            slow_canary: Curve::Flat(0.05),
        }
    }

    /// The canary's share as a probability.
    pub fn canary_share(&self) -> f64 {
        f64::from(self.share) / 10_000.0
    }
}

/// Why an answer is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It failed.
    Failed,
    /// It was good, but slower than the yardstick.
    Slow,
}

/// A moment of the traffic.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// Microseconds since the beginning.
    pub at: u64,
    /// Good and fast answers of canary and stable since the item before.
    pub calm: [u64; 2],
    /// What happened now; `None` at the end of a second.
    pub event: Option<(Arm, Kind)>,
}

/// Generates `seconds` of traffic, or until the sink has had enough (returns false).
pub fn generate(traffic: &Traffic, seconds: u64, rng: &mut Rng, sink: &mut impl FnMut(&Item) -> bool) {
    let (c, s) = (traffic.rps * traffic.canary_share(), traffic.rps * (1.0 - traffic.canary_share()));
    for second in 0..seconds {
        let (bad_c, bad_s) = (traffic.canary.at(second), traffic.stable.at(second));
        let (slow_c, slow_s) = (traffic.slow_canary.at(second), traffic.slow_stable);
        let (good_c, good_s) = (c * (1.0 - bad_c), s * (1.0 - bad_s));
        let rates = [s * bad_s, good_s * slow_s, c * bad_c, good_c * slow_c];
        let calm = [good_c * (1.0 - slow_c), good_s * (1.0 - slow_s)];
        let all: f64 = rates.iter().sum();
        let mut left = 1.0;
        loop {
            let wait = if all > 0.0 { rng.exponential(all) } else { f64::INFINITY };
            let passed = wait.min(left);
            left -= wait;
            let calm = [rng.poisson(calm[0] * passed), rng.poisson(calm[1] * passed)];
            if left <= 0.0 {
                if !sink(&Item { at: (second + 1) * 1_000_000, calm, event: None }) {
                    return;
                }
                break;
            }
            let at = second * 1_000_000 + ((1.0 - left) * 1e6) as u64;
            if !sink(&Item { at, calm, event: Some(kind(rng.unit() * all, rates)) }) {
                return;
            }
        }
    }
}

/// Which of the four processes the point `x` of their summed rates belongs to.
#[inline]
fn kind(x: f64, rates: [f64; 4]) -> (Arm, Kind) {
    let (one, two, three) = (rates[0], rates[0] + rates[1], rates[0] + rates[1] + rates[2]);
    match x {
        x if x <= one => (Arm::Stable, Kind::Failed),
        x if x <= two => (Arm::Stable, Kind::Slow),
        x if x <= three => (Arm::Canary, Kind::Failed),
        _ => (Arm::Canary, Kind::Slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_have_the_levels_they_were_given() {
        let step = Curve::Step { base: 0.01, level: 0.5, from: 10, until: 70 };
        assert_eq!([9, 10, 69, 70].map(|s| step.at(s)), [0.01, 0.5, 0.5, 0.01]);
        let swing = Curve::Swing { low: 0.001, high: 0.2, period: 600 };
        assert!((swing.at(0) - 0.001).abs() < 1e-12 && (swing.at(300) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn every_kind_comes_as_often_as_it_should() {
        let traffic = Traffic {
            canary: Curve::Flat(0.3),
            slow_canary: Curve::Flat(0.5),
            ..Traffic::alike(100.0, 1000, Curve::Flat(0.1))
        };
        let mut counts = [0u64; 6];
        generate(&traffic, 2_000, &mut Rng::of(3, "traffic", 0), &mut |item| {
            counts[0] += item.calm[0];
            counts[1] += item.calm[1];
            match item.event {
                Some((Arm::Canary, Kind::Failed)) => counts[2] += 1,
                Some((Arm::Stable, Kind::Failed)) => counts[3] += 1,
                Some((Arm::Canary, Kind::Slow)) => counts[4] += 1,
                Some((Arm::Stable, Kind::Slow)) => counts[5] += 1,
                None => {}
            }
            true
        });
        // 20 000 requests of the canary, 180 000 of stable.
        let expected = [7_000.0, 153_900.0, 6_000.0, 18_000.0, 7_000.0, 8_100.0];
        for (count, expected) in counts.iter().zip(expected) {
            let off = (*count as f64 - expected).abs() / f64::sqrt(expected);
            assert!(off < 4.0, "{counts:?}");
        }
    }

    #[test]
    fn time_never_runs_backwards_and_every_second_ends() {
        let traffic = Traffic::alike(50.0, 500, Curve::Flat(0.2));
        let (mut last, mut ends) = (0, 0);
        generate(&traffic, 30, &mut Rng::of(4, "traffic", 0), &mut |item| {
            assert!(item.at >= last);
            last = item.at;
            ends += u64::from(item.event.is_none());
            true
        });
        assert_eq!((last, ends), (30_000_000, 30));
    }
}
