//! The simulator's randomness: a small generator of its own, so that a printed seed means the same numbers for ever.
//!
//! xoshiro256++ (Blackman and Vigna, public domain), seeded by splitmix64 from the run's seed, the cell's name and the
//! trial's number. So a trial does not depend on which thread runs it, nor on which other trials or tables are run.

/// A generator for one trial.
#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of a trial of a cell.
    pub fn of(seed: u64, cell: &str, trial: u64) -> Rng {
        let mut state = seed;
        for part in [bellwether::hash::hash(&[cell.as_bytes()]), trial] {
            state = mix(&mut state) ^ part;
        }
        Rng([mix(&mut state), mix(&mut state), mix(&mut state), mix(&mut state)])
    }

    /// 64 uniform bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Uniform in (0, 1].
    #[inline]
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 1.0) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// True with this probability.
    #[inline]
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() <= probability
    }

    /// Uniform in `0..n`.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Time until the next of events that come at `rate`.
    #[inline]
    pub fn exponential(&mut self, rate: f64) -> f64 {
        -self.unit().ln() / rate
    }

    /// Standard normal (Box and Muller; the second value is thrown away, so that one call is one step).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
        radius * angle.cos()
    }

    /// Lognormal with this median and shape.
    pub fn lognormal(&mut self, median: f64, shape: f64) -> f64 {
        median * (shape * self.normal()).exp()
    }

    /// Poisson with this mean: by inversion, in parts of at most 24 (sums of Poisson counts are Poisson).
    #[inline]
    pub fn poisson(&mut self, mean: f64) -> u64 {
        const PART: f64 = 24.0;
        let (mut left, mut sum) = (mean, 0);
        while left > PART {
            sum += self.poisson_part(PART, 3.775_134_544_279_098e-11);
            left -= PART;
        }
        if left > 0.0 { sum + self.poisson_part(left, (-left).exp()) } else { sum }
    }

    #[inline]
    fn poisson_part(&mut self, mean: f64, none: f64) -> u64 {
        let (mut left, mut probability, mut count) = (self.unit(), none, 0u64);
        // Beyond 200 of a mean of 24 the probability is below the resolution of a double.
        while left > probability && count < 200 {
            left -= probability;
            count += 1;
            probability *= mean / count as f64;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rng() -> Rng {
        Rng::of(1, "test", 0)
    }

    #[test]
    fn a_trial_is_the_same_each_time_and_no_two_are() {
        let first = |seed, cell, trial| Rng::of(seed, cell, trial).bits();
        assert_eq!(first(1, "a", 0), first(1, "a", 0));
        let all = [first(1, "a", 0), first(2, "a", 0), first(1, "b", 0), first(1, "a", 1)];
        for (i, x) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|y| x != y));
        }
    }

    #[test]
    fn poisson_counts_have_the_mean_and_variance_of_their_law() {
        let mut rng = rng();
        for mean in [0.05, 0.9, 17.0, 95.0] {
            let n = 40_000;
            let counts: Vec<f64> = (0..n).map(|_| rng.poisson(mean) as f64).collect();
            let m = counts.iter().sum::<f64>() / f64::from(n);
            let v = counts.iter().map(|c| (c - m).powi(2)).sum::<f64>() / f64::from(n);
            let error = (mean / f64::from(n)).sqrt();
            assert!((m - mean).abs() < 4.0 * error, "{mean}: mean {m}");
            assert!((v / mean - 1.0).abs() < 0.06 + 0.1 / (mean * 100.0), "{mean}: variance {v}");
        }
    }

    #[test]
    fn normal_and_exponential_have_their_moments() {
        let mut rng = rng();
        let n = 100_000;
        let (mut sum, mut square, mut wait) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = rng.normal();
            sum += x;
            square += x * x;
            wait += rng.exponential(4.0);
        }
        let n = f64::from(n);
        assert!(
            (sum / n).abs() < 0.015 && (square / n - 1.0).abs() < 0.02 && (wait / n - 0.25).abs() < 0.004
        );
    }

    #[test]
    fn below_reaches_every_number_evenly() {
        let (mut rng, mut counts) = (rng(), [0u32; 8]);
        (0..80_000).for_each(|_| counts[rng.below(8)] += 1);
        assert!(counts.iter().all(|c| (9_600..10_400).contains(c)), "{counts:?}");
    }
}
