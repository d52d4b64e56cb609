//! The two quantities everything is measured in: time and share. Integers, so that equal means equal on every worker.

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

/// A span of time in milliseconds: the resolution of every duration in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The span in microseconds, saturating after half a million years.
    pub const fn as_micros(self) -> u64 {
        self.0.saturating_mul(1000)
    }
}

impl fmt::Display for Millis {
    /// In the largest unit that is exact: `250ms`, `30s`, `5m`, `1h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A moment on the proxy's monotonic clock, in microseconds: comparable between the workers of one Envoy process, never
/// set back, meaningless outside it. Windows, deadlines and latches use this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// Time since `earlier`; zero if `earlier` is later (clocks of other workers may be ahead by a hair).
    pub const fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment moved by `millis`.
    pub const fn plus(self, millis: Millis) -> Micros {
        Micros(self.0.saturating_add(millis.as_micros()))
    }
}

/// A moment on the wall clock, in milliseconds since 1970: for people, for `ramp.start`, for HTTP dates. It may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct UnixMillis(pub u64);

/// Both clocks, read once at the edge and passed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: decides.
    pub mono: Micros,
    /// Wall: is shown.
    pub wall: UnixMillis,
}

impl fmt::Display for UnixMillis {
    /// RFC 3339 in UTC with milliseconds: `2026-11-20T10:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        // Days since 0000-03-01 (Howard Hinnant, "chrono-compatible low-level date algorithms"): leap days come last.
        let z = days.saturating_add(719_468);
        let (era, doe) = (z / 146_097, z % 146_097);
        let yoe =
            doe.saturating_sub(doe / 1460).saturating_add(doe / 36_524).saturating_sub(doe / 146_096) / 365;
        let before = yoe.saturating_mul(365).saturating_add(yoe / 4).saturating_sub(yoe / 100);
        let doy = doe.saturating_sub(before);
        let mp = doy.saturating_mul(5).saturating_add(2) / 153;
        let day = doy.saturating_sub(mp.saturating_mul(153).saturating_add(2) / 5).saturating_add(1);
        let month = if mp < 10 { mp.saturating_add(3) } else { mp.saturating_sub(9) };
        let year = era.saturating_mul(400).saturating_add(yoe).saturating_add(u64::from(month <= 2));
        let (h, m, s, ms) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_as_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_168_800_123, "2026-11-20T10:00:00.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(UnixMillis(millis).to_string(), text);
        }
    }

    #[test]
    fn quantities_are_shown_as_people_write_them() {
        for (bps, text) in
            [(0, "0 %"), (25, "0.25 %"), (50, "0.5 %"), (500, "5 %"), (10_000, "100 %"), (3333, "33.33 %")]
        {
            assert_eq!(Bps::new(bps).unwrap().to_string(), text);
        }
        for (millis, text) in
            [(0, "0s"), (250, "250ms"), (1500, "1500ms"), (30_000, "30s"), (300_000, "5m"), (3_600_000, "1h")]
        {
            assert_eq!(Millis(millis).to_string(), text);
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
