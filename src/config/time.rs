//! RFC 3339 times: `2026-11-20T10:00:00Z`, `2026-11-20T11:00:00.5+01:00`.

use crate::json::{Cursor, Read};
use crate::units::UnixMillis;

/// A moment from 1970 on.
pub fn time(at: &Cursor<'_>) -> Read<UnixMillis> {
    at.as_str()
        .and_then(parse)
        .ok_or_else(|| at.wrong("must be an RFC 3339 time from 1970 on, such as 2026-11-20T10:00:00Z"))
}

/// `None` for anything that is not an RFC 3339 time with `Z` or an offset, for dates the calendar does not have, for leap
/// seconds (Unix time has none) and for moments before 1970. Fractions below a millisecond are cut off.
pub fn parse(text: &str) -> Option<UnixMillis> {
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

/// Exactly `digits` digits, with a value in `range`.
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

/// Milliseconds of an optional `.` and at least one digit.
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

/// Minutes east of Greenwich.
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

/// Counted out, not computed: at most 8 000 years, once, and nothing to get wrong.
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
            assert_eq!(parse(text), Some(UnixMillis(millis)), "{text}");
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
                        assert_eq!(parse(&text), Some(UnixMillis(expected)), "{text}");
                        expected += 86_400_000;
                    } else {
                        assert_eq!(parse(&text), None, "{text}");
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
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
