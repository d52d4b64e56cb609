//! A proportion, and the interval in which its true value lies.

/// `part` of `whole`, with Wilson's interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proportion {
    pub(super) part: u64,
    pub(super) whole: u64,
}

impl Proportion {
    /// Width of the 99.9 % two-sided interval, in standard deviations. Each end is wrong once in 2 000 independent looks. A window
    /// is judged with every failure, so a 99 % interval (z = 2.58, wrong once in 200) would be wrong several times an hour where
    /// the true rate is just below the limit.
    const Z: f64 = 3.29;

    /// Returns the observed rate; 0 without outcomes.
    pub(super) fn rate(self) -> f64 {
        if self.whole == 0 { 0.0 } else { self.part as f64 / self.whole as f64 }
    }

    /// Returns the lower end; 0 without outcomes.
    pub(super) fn lower(self) -> f64 {
        let (centre, half) = self.interval(Proportion::Z);
        (centre - half).max(0.0)
    }

    /// Returns the upper end; 1 without outcomes.
    pub(super) fn upper(self) -> f64 {
        let (centre, half) = self.interval(Proportion::Z);
        (centre + half).min(1.0)
    }

    /// Returns the upper end of the 90 % interval. The true rate may be above it, but seldom is.
    pub(super) fn likely_upper(self) -> f64 {
        let (centre, half) = self.interval(1.64);
        (centre + half).min(1.0)
    }

    /// Returns centre and half width of Wilson's score interval, `(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)` (E. B. Wilson,
    /// "Probable inference, the law of succession, and statistical inference", JASA 22, 1927).
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

/// Returns Wilson's 99.9 % interval of a proportion, within `0.0..=1.0`; all of that range without outcomes.
pub fn interval(part: u64, whole: u64) -> (f64, f64) {
    let proportion = Proportion { part: part.min(whole), whole };
    (proportion.lower(), proportion.upper())
}
