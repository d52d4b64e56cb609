//! Time: spans, moments of two clocks, RFC 3339 times, and durations such as `30s`. All are integers, so that every worker
//! computes the same.

use std::fmt;

/// A span of time in milliseconds: the resolution of every duration in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// Returns the same time as a [`Span`]; saturates after half a million years.
    pub const fn span(self) -> Span {
        Span::from_millis(self.0)
    }
}

/// A span of time in microseconds: the difference of two [`Micros`], so also a latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Span(pub u64);

impl Span {
    /// No time.
    pub const ZERO: Span = Span(0);

    /// Returns a span of so many milliseconds; saturates.
    pub const fn from_millis(millis: u64) -> Span {
        Span(millis.saturating_mul(1000))
    }

    /// Returns a span of so many seconds; saturates.
    pub const fn from_secs(seconds: u64) -> Span {
        Span::from_millis(seconds.saturating_mul(1000))
    }

    /// Returns the span in whole milliseconds, rounded down.
    pub const fn whole_millis(self) -> u64 {
        self.0 / 1000
    }

    /// Returns the sum of both spans; saturates.
    pub const fn saturating_add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }

    /// Returns this span without `other`; zero if `other` is longer.
    pub const fn saturating_sub(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }
}

impl From<Millis> for Span {
    fn from(millis: Millis) -> Span {
        millis.span()
    }
}

impl fmt::Display for Millis {
    /// Writes the largest unit that is exact: `250ms`, `30s`, `5m`, `1h`.
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

/// A moment on the proxy's monotonic clock, in microseconds. All workers of one Envoy process share this clock, and it is never
/// set back. Outside the process it means nothing. Windows and deadlines use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// Returns the time since `earlier`. Zero if `earlier` is later: another worker's reading may be slightly ahead.
    pub const fn since(self, earlier: Micros) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// Returns the moment `span` later; saturates.
    pub fn plus(self, span: impl Into<Span>) -> Micros {
        Micros(self.0.saturating_add(span.into().0))
    }
}

/// A moment on the wall clock, in milliseconds since 1970: for people, for `ramp.start`, for HTTP dates. Somebody may set this
/// clock at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct UnixMillis(pub u64);

/// A reading of both clocks, made once by the adapter and passed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock: decisions use it.
    pub mono: Micros,
    /// Wall clock: people see it.
    pub wall: UnixMillis,
}

impl fmt::Display for UnixMillis {
    /// Writes RFC 3339 in UTC with milliseconds: `2026-11-20T10:00:00.000Z`.
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

/// Parses one number and one unit: `250ms`, `1.5s`, `5m`, `1h`. `None` for anything else, for a fraction of a millisecond, and
/// for more than 64 bits can hold.
pub fn parse_duration(text: &str) -> Option<Millis> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| c.is_ascii_alphabetic())?)?;
    let unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let (whole, fraction) = match number.split_once('.') {
        None => (number, ""),
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
    };
    if whole.is_empty() || ![whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    // An hour is 2⁷ · 3² · 5⁵ milliseconds, so that more than seven decimals never give a whole number. Nine decimals cannot
    // overflow.
    let fraction = fraction.trim_end_matches('0');
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let (numerator, denominator) = (fraction.parse::<u64>().unwrap_or(0), 10u64.checked_pow(digits)?);
    let scaled = numerator.checked_mul(unit)?;
    let exact = scaled.checked_rem(denominator) == Some(0);
    exact.then_some(Millis(whole.checked_add(scaled.checked_div(denominator)?)?))
}

/// Parses an RFC 3339 time with `Z` or an offset. `None` for anything else, for dates that the calendar does not have, for leap
/// seconds (Unix time has none) and for moments before 1970. Fractions below a millisecond are cut off.
pub fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    let mut rest = text.as_bytes();
    let year = number(&mut rest, 4, 1970..=9999)?;
    one_of(&mut rest, b"-")?;
    let month = number(&mut rest, 2, 1..=12)?;
    one_of(&mut rest, b"-")?;
    let day = number(&mut rest, 2, 1..=days_in(year, month))?;
    one_of(&mut rest, b"Tt")?;
    let hour = number(&mut rest, 2, 0..=23)?;
    one_of(&mut rest, b":")?;
    let minute = number(&mut rest, 2, 0..=59)?;
    one_of(&mut rest, b":")?;
    let second = number(&mut rest, 2, 0..=59)?;
    let millis = fraction(&mut rest)?;
    let offset = offset(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    let minutes =
        days_since_1970(year, month, day).checked_mul(24 * 60)?.checked_add(hour.checked_mul(60)?)?;
    let minutes = minutes.checked_add(minute)?.checked_sub(offset)?;
    let seconds = minutes.checked_mul(60)?.checked_add(second)?;
    let millis = seconds.checked_mul(1000)?.checked_add(millis)?;
    u64::try_from(millis).ok().map(UnixMillis)
}

/// Reads exactly `digits` digits, with a value in `range`.
fn number(rest: &mut &[u8], digits: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(digits)?;
    *rest = tail;
    let mut value: i64 = 0;
    for b in head {
        let digit = b.is_ascii_digit().then(|| i64::from(b.saturating_sub(b'0')))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    range.contains(&value).then_some(value)
}

fn one_of(rest: &mut &[u8], wanted: &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    wanted.contains(first).then_some(*first)
}

/// Reads an optional fraction of a second, a `.` and at least one digit, as milliseconds.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    if rest.first() != Some(&b'.') {
        return Some(0);
    }
    one_of(rest, b".")?;
    let (mut millis, mut place) = (0i64, 100i64);
    let mut any = false;
    while let Some(digit) = rest.first().filter(|b| b.is_ascii_digit()) {
        millis = millis.checked_add(place.checked_mul(i64::from(digit.saturating_sub(b'0')))?)?;
        place /= 10;
        any = true;
        one_of(rest, b"0123456789")?;
    }
    any.then_some(millis)
}

/// Reads `Z` or an offset, as minutes east of Greenwich.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    let sign = match one_of(rest, b"Zz+-")? {
        b'+' => 1i64,
        b'-' => -1,
        _ => return Some(0),
    };
    let hours = number(rest, 2, 0..=23)?;
    one_of(rest, b":")?;
    let minutes = number(rest, 2, 0..=59)?;
    hours.checked_mul(60)?.checked_add(minutes)?.checked_mul(sign)
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts the days year by year: at most 8 000 steps, once a document, and simpler than the formula.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let mut days = day.saturating_sub(1);
    for earlier in 1970..year {
        days = days.saturating_add(if is_leap(earlier) { 366 } else { 365 });
    }
    for earlier in 1..month {
        days = days.saturating_add(days_in(year, earlier));
    }
    days
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
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
    fn durations_are_written_in_the_largest_exact_unit() {
        for (millis, text) in
            [(0, "0s"), (250, "250ms"), (1500, "1500ms"), (30_000, "30s"), (300_000, "5m"), (3_600_000, "1h")]
        {
            assert_eq!(Millis(millis).to_string(), text);
        }
    }

    #[test]
    fn durations_are_one_number_and_one_unit() {
        for (text, millis) in [
            ("0ms", 0),
            ("250ms", 250),
            ("007s", 7_000),
            ("1.2s", 1_200),
            ("1.500s", 1_500),
            ("1.0ms", 1),
            ("0.25m", 15_000),
            ("0.0000025h", 9),
            ("0.00000250000000000000000000h", 9),
            ("1h", 3_600_000),
            ("18446744073709551615ms", u64::MAX),
        ] {
            assert_eq!(parse_duration(text), Some(Millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "5",
            "5 s",
            " 5s",
            "5s ",
            "5S",
            "5sec",
            "5d",
            "-5s",
            "+5s",
            "1h30m",
            "1e3s",
            "1.s",
            ".5s",
            "1..5s",
            "1.5.5s",
            "0.5ms",
            "0.0001s",
            "1.0000000001h",
            "٥s",
            "18446744073709551616ms",
            "18446744073709552s",
            "5124095576030432h",
            "99999999999999999999999999h",
            "1.5µs",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_read_to_the_millisecond() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-01T00:00:00-00:01", 60_000),
            ("2000-02-29T12:00:00Z", 951_825_600_000),
            ("2026-11-20T10:00:00Z", 1_795_168_800_000),
            ("2026-11-20t11:00:00.123999+01:00", 1_795_168_800_123),
            ("2026-11-20T10:00:00.5z", 1_795_168_800_500),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
            ("2400-02-29T00:00:00Z", 13_574_563_200_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse_rfc3339(text), Some(UnixMillis(millis)), "{text}");
        }
    }

    #[test]
    fn every_day_of_the_calendar_follows_the_one_before() {
        let mut expected = 0;
        for year in 1970..=2104 {
            for month in 1..=12 {
                for day in 1..=31 {
                    let text = format!("{year:04}-{month:02}-{day:02}T00:00:00Z");
                    if day <= days_in(year, month) {
                        assert_eq!(parse_rfc3339(&text), Some(UnixMillis(expected)), "{text}");
                        expected += 86_400_000;
                    } else {
                        assert_eq!(parse_rfc3339(&text), None, "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_times_are_refused() {
        for text in [
            "",
            "2026-11-20",
            "2026-11-20T10:00:00",
            "2026-11-20 10:00:00Z",
            "2026-11-20T10:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T23:60:00Z",
            "2026-12-31T23:59:60Z",
            "2026-11-20T10:00:00.Z",
            "2026-11-20T10:00:00+0100",
            "2026-11-20T10:00:00+24:00",
            "2026-11-20T10:00:00Zx",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "20٢6-11-20T10:00:00Z",
            "+026-11-20T10:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
