//! Shares of the traffic in basis points, and points of requests. All are integers, so that every worker computes the same.

use std::fmt;

/// The whole traffic, in basis points.
pub const WHOLE: u16 = 10_000;

/// A share in basis points (hundredths of a percent), `0..=10_000`. Weights and limits on rates have this resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Bps(u16);

impl Bps {
    /// 0 %.
    pub const ZERO: Bps = Bps(0);
    /// 100 %.
    pub const ALL: Bps = Bps(WHOLE);

    /// Returns a share of `bps` basis points; `None` above 10 000.
    pub const fn new(bps: u16) -> Option<Bps> {
        if bps <= WHOLE { Some(Bps(bps)) } else { None }
    }

    /// Returns a share of `permille` tenths of a percent, at most the whole.
    pub const fn of_permille(permille: u16) -> Bps {
        let bps = permille.saturating_mul(10);
        if bps <= WHOLE { Bps(bps) } else { Bps::ALL }
    }

    /// Returns the share in basis points, `0..=10_000`.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns whether `part` of `whole` is more than this share; false when `whole` is zero. The comparison is exact: it
    /// multiplies crosswise in 128 bits.
    pub fn exceeded_by(self, part: u64, whole: u64) -> bool {
        u128::from(part).saturating_mul(u128::from(WHOLE))
            > u128::from(whole).saturating_mul(u128::from(self.0))
            && whole > 0
    }
}

impl fmt::Display for Bps {
    /// Writes the share in percent, with no more decimals than needed: `5 %`, `0.25 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole} %"),
            r if r % 10 == 0 => write!(f, "{whole}.{} %", r / 10),
            r => write!(f, "{whole}.{r:02} %"),
        }
    }
}

/// A number in hundredths, written with two decimals. The standard library's code for writing floats would add 15 kB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hundredths(pub u64);

impl Hundredths {
    /// Rounds a number that is not negative.
    pub fn of(value: f64) -> Hundredths {
        // The cast saturates, and turns NaN into 0.
        Hundredths((value * 100.0 + 0.5) as u64)
    }
}

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// The point of a request, `0..10_000`: drawn at random, or hashed from a sticky identity. A [`crate::plan::split::Split`] maps
/// points to versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(u16);

impl Point {
    /// Maps a uniform 64-bit number to a point. Keeps the order; the bias is below 2⁻⁵⁰.
    pub fn from_random(bits: u64) -> Point {
        let scaled = u128::from(bits).saturating_mul(u128::from(WHOLE)) >> 64;
        // The product of a 64-bit number and 10 000, shifted by 64, is below 10 000.
        Point(u16::try_from(scaled).unwrap_or(0))
    }

    /// Returns the point of this number; `None` from 10 000 on.
    pub const fn new(point: u16) -> Option<Point> {
        if point < WHOLE { Some(Point(point)) } else { None }
    }

    /// Returns the point as a number, `0..10_000`.
    pub const fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_in_percent_without_needless_decimals() {
        for (bps, text) in
            [(0, "0 %"), (25, "0.25 %"), (50, "0.5 %"), (500, "5 %"), (10_000, "100 %"), (3333, "33.33 %")]
        {
            assert_eq!(Bps::new(bps).unwrap().to_string(), text);
        }
    }

    #[test]
    fn points_keep_order_and_stay_in_range() {
        assert_eq!(Point::from_random(0).get(), 0);
        assert_eq!(Point::from_random(u64::MAX).get(), 9999);
        assert_eq!(Point::from_random(u64::MAX / 2).get(), 4999);
    }

    #[test]
    fn exceeded_by_is_exact_at_the_border() {
        let five = Bps::new(500).unwrap();
        assert!(!five.exceeded_by(5, 100));
        assert!(five.exceeded_by(6, 100));
        assert!(!five.exceeded_by(1, 0));
        assert!(five.exceeded_by(u64::MAX, u64::MAX));
    }
}
