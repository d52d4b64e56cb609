//! Shares of the traffic, and points of requests. Integers, so that equal means equal on every worker.

use std::fmt;

/// All of the traffic, in basis points.
pub const WHOLE: u16 = 10_000;

/// A share in basis points (hundredths of a percent), `0..=10_000`: the resolution of a weight and of a limit on rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Bps(u16);

impl Bps {
    /// No share at all.
    pub const ZERO: Bps = Bps(0);
    /// Everything.
    pub const ALL: Bps = Bps(WHOLE);

    /// A share of `bps` basis points; `None` above 10 000.
    pub const fn new(bps: u16) -> Option<Bps> {
        if bps <= WHOLE { Some(Bps(bps)) } else { None }
    }

    /// The share in basis points, `0..=10_000`.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether `part` of `whole` is more than this share; false when `whole` is zero. Exact: cross-multiplied in 128 bits.
    pub fn exceeded_by(self, part: u64, whole: u64) -> bool {
        u128::from(part).saturating_mul(u128::from(WHOLE))
            > u128::from(whole).saturating_mul(u128::from(self.0))
            && whole > 0
    }
}

impl fmt::Display for Bps {
    /// As percent with no more decimals than needed: `5 %`, `0.25 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole} %"),
            r if r % 10 == 0 => write!(f, "{whole}.{} %", r / 10),
            r => write!(f, "{whole}.{r:02} %"),
        }
    }
}

/// A number in hundredths, shown with two decimals: what a float would show, without the 15 kB of code that shows floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hundredths(pub u64);

impl Hundredths {
    /// Of a number that is not negative, rounded.
    pub fn of(value: f64) -> Hundredths {
        // The cast saturates, and makes 0 of what is not a number.
        Hundredths((value * 100.0 + 0.5) as u64)
    }
}

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A point of a request, `0..10_000`: drawn, or hashed from a sticky identity. Which version it means is the split's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(u16);

impl Point {
    /// Maps a uniform 64-bit number onto the points without bias worth naming (2⁻⁵⁰), preserving order.
    pub fn from_random(bits: u64) -> Point {
        let scaled = u128::from(bits).saturating_mul(u128::from(WHOLE)) >> 64;
        // The product of a 64-bit number and 10 000, shifted by 64, is below 10 000.
        Point(u16::try_from(scaled).unwrap_or(0))
    }

    /// The point itself; `None` from 10 000.
    pub const fn new(point: u16) -> Option<Point> {
        if point < WHOLE { Some(Point(point)) } else { None }
    }

    /// The point, `0..10_000`.
    pub const fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_shown_as_people_write_them() {
        for (bps, text) in
            [(0, "0 %"), (25, "0.25 %"), (50, "0.5 %"), (500, "5 %"), (10_000, "100 %"), (3333, "33.33 %")]
        {
            assert_eq!(Bps::new(bps).unwrap().to_string(), text);
        }
    }

    #[test]
    fn points_keep_order_and_never_leave_their_range() {
        assert_eq!(Point::from_random(0).get(), 0);
        assert_eq!(Point::from_random(u64::MAX).get(), 9999);
        assert_eq!(Point::from_random(u64::MAX / 2).get(), 4999);
    }

    #[test]
    fn a_share_is_exceeded_exactly() {
        let five = Bps::new(500).unwrap();
        assert!(!five.exceeded_by(5, 100));
        assert!(five.exceeded_by(6, 100));
        assert!(!five.exceeded_by(1, 0));
        assert!(five.exceeded_by(u64::MAX, u64::MAX));
    }
}
