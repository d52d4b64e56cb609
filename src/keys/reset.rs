//! The wait that a provider asks for, in all forms that providers use.
//!
//! | header | forms |
//! |---|---|
//! | `retry-after` | seconds (`2`, `1.5`), HTTP date |
//! | `retry-after-ms` | milliseconds |
//! | `x-ratelimit-reset-*`, `x-ratelimit-reset`, `ratelimit-reset`, `anthropic-ratelimit-*-reset` | Go-style durations (`6m0s`, `1.2s`, `20ms`), seconds, seconds since 1970, RFC 3339 |
//!
//! A limit has several dimensions (requests, tokens). Only an exhausted dimension counts: its `remaining` is 0, or unknown. The
//! longest wait of several counts, because a key that comes back when only one of two is replenished fails again at once.
//!
//! Header values are not trusted. Unreadable values are ignored, and the caller clamps the wait.

use crate::time::parse_rfc3339;
use crate::time::{Millis, UnixMillis};

/// Longest wait, in milliseconds: a day. A longer one is no rate limit, and nothing may overflow.
const LONGEST: u64 = 86_400_000;

/// Returns the wait that the response headers ask for, if they do. Names are in lower case. `now` serves to read dates.
pub fn requested_wait<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    now: UnixMillis,
) -> Option<Millis> {
    let mut longest: Option<u64> = None;
    let mut take = |millis: Option<u64>| {
        if let Some(millis) = millis {
            longest = Some(longest.unwrap_or(0).max(millis.min(LONGEST)));
        }
    };
    for (name, value) in headers.clone() {
        let Some(text) = std::str::from_utf8(value).ok().map(str::trim) else { continue };
        match name {
            "retry-after" => take(seconds(text).or_else(|| http_date(text).map(|then| until(then, now)))),
            "retry-after-ms" => take(decimal(text, 1)),
            _ => {
                let Some(dimension) = dimension_of(name) else { continue };
                if !exhausted(headers.clone(), dimension) {
                    continue;
                }
                take(
                    go_duration(text)
                        .or_else(|| epoch_or_seconds(text, now))
                        .or_else(|| parse_rfc3339(text).map(|then| until(then, now))),
                );
            }
        }
    }
    longest.map(Millis)
}

/// Returns the dimension that a header resets: `requests` for `x-ratelimit-reset-requests`, empty if the header names none.
fn dimension_of(name: &str) -> Option<&str> {
    if let Some(rest) = name.strip_prefix("anthropic-ratelimit-") {
        return rest.strip_suffix("-reset");
    }
    let rest = name.strip_prefix("x-").unwrap_or(name).strip_prefix("ratelimit-reset")?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('-') }
}

/// Returns whether nothing is left in a dimension. Without a `remaining` header it counts as exhausted.
fn exhausted<'a>(mut headers: impl Iterator<Item = (&'a str, &'a [u8])>, dimension: &str) -> bool {
    let remaining = headers.find(|(name, _)| {
        let name = name.strip_prefix("x-").unwrap_or(name);
        match name.strip_prefix("anthropic-ratelimit-") {
            Some(rest) => rest.strip_suffix("-remaining") == Some(dimension),
            None => name.strip_prefix("ratelimit-remaining").is_some_and(|rest| match dimension {
                "" => rest.is_empty(),
                dimension => rest.strip_prefix('-') == Some(dimension),
            }),
        }
    });
    match remaining.and_then(|(_, value)| std::str::from_utf8(value).ok()) {
        Some(text) => decimal(text.trim(), 1).is_none_or(|left| left == 0),
        None => true,
    }
}

fn seconds(text: &str) -> Option<u64> {
    decimal(text, 1000)
}

/// Reads a number without a unit: seconds from now, or since 1970 if it is large enough. Some providers send milliseconds.
fn epoch_or_seconds(text: &str, now: UnixMillis) -> Option<u64> {
    // As a time, 2001-09-09; as a wait, 30 years. The same holds for the bound in milliseconds.
    const EPOCH: u64 = 1_000_000_000;
    match decimal(text, 1)? {
        millis @ 1_000_000_000_000.. => Some(millis.saturating_sub(now.0)),
        EPOCH.. => Some(seconds(text)?.saturating_sub(now.0)),
        _ => seconds(text),
    }
}

fn until(then: UnixMillis, now: UnixMillis) -> u64 {
    then.0.saturating_sub(now.0)
}

/// Reads a decimal number without a sign, times `scale` (1 or 1000), cut to an integer; saturates. At most 20 digits on each side of
/// the point.
fn decimal(text: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| (1..=20).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(scale);
    let mut thousandths = 0u64;
    for place in 0..3 {
        let digit = fraction.as_bytes().get(place).map_or(0, |byte| u64::from(byte.saturating_sub(b'0')));
        thousandths = thousandths.saturating_mul(10).saturating_add(digit);
    }
    Some(whole.saturating_add(thousandths.saturating_mul(scale) / 1000))
}

/// Reads a duration as Go writes it (`6m0s`, `1h2m3.5s`, `20ms`): each unit at most once, the largest first.
fn go_duration(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 6] =
        [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1), ("µs", 0), ("us", 0)];
    let (mut rest, mut total, mut last) = (text, 0u64, u64::MAX);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, after) = rest.split_at_checked(number)?;
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit)?;
        let (_, millis) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        if millis >= last {
            return None;
        }
        (last, rest) = (millis, after);
        // In thousandths first, so that 1.5m is 90 s.
        let part = decimal(value, 1000)?.saturating_mul(millis) / 1000;
        total = total.saturating_add(part);
    }
    Some(total)
}

/// Reads a date in the form that HTTP asks servers to send: `Fri, 20 Nov 2026 18:08:41 GMT`.
fn http_date(text: &str) -> Option<UnixMillis> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = text.split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut parts = rest.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)?.checked_add(1)?;
    parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_168_800_000); // 2026-11-20T10:00:00Z

    fn of(headers: &[(&str, &str)]) -> Option<u64> {
        requested_wait(headers.iter().map(|(n, v)| (*n, v.as_bytes())), NOW).map(|millis| millis.0)
    }

    #[test]
    fn every_form_of_every_header() {
        for (name, value, millis) in [
            ("retry-after", "2", Some(2000)),
            ("retry-after", " 1.5 ", Some(1500)),
            ("retry-after", "0", Some(0)),
            ("retry-after", "Fri, 20 Nov 2026 10:01:00 GMT", Some(60_000)),
            ("retry-after", "Fri, 20 Nov 2026 09:00:00 GMT", Some(0)),
            ("retry-after", "soon", None),
            ("retry-after", "-5", None),
            ("retry-after", "1e3", None),
            ("retry-after-ms", "250", Some(250)),
            ("x-ratelimit-reset-requests", "6m0s", Some(360_000)),
            ("x-ratelimit-reset-requests", "1h2m3.5s", Some(3_723_500)),
            ("x-ratelimit-reset-tokens", "20ms", Some(20)),
            ("x-ratelimit-reset-tokens", "1.5m", Some(90_000)),
            ("x-ratelimit-reset", "30", Some(30_000)),
            ("x-ratelimit-reset", "1795168830", Some(30_000)),
            ("x-ratelimit-reset", "1795168830000", Some(30_000)),
            ("ratelimit-reset", "30", Some(30_000)),
            ("anthropic-ratelimit-requests-reset", "2026-11-20T10:00:45Z", Some(45_000)),
            ("x-ratelimit-reset-requests", "6m6m", None),
            ("x-ratelimit-reset-requests", "1s2h", None),
            ("x-ratelimit-reset-requests", "", None),
            ("x-ratelimit-resets", "5", None),
            ("x-other", "5", None),
        ] {
            assert_eq!(of(&[(name, value)]), millis, "{name}: {value}");
        }
    }

    #[test]
    fn the_longest_of_the_exhausted_dimensions_counts() {
        let both = [("x-ratelimit-reset-requests", "1s"), ("x-ratelimit-reset-tokens", "6m0s")];
        assert_eq!(of(&both), Some(360_000));
        let left = [&both[..], &[("x-ratelimit-remaining-tokens", "1200")]].concat();
        assert_eq!(of(&left), Some(1000), "tokens are left");
        let none = [&both[..], &[("x-ratelimit-remaining-tokens", "0")]].concat();
        assert_eq!(of(&none), Some(360_000));
        let with_retry = [&left[..], &[("retry-after", "5")]].concat();
        assert_eq!(of(&with_retry), Some(5000));
    }

    #[test]
    fn hostile_values_neither_overflow_nor_cool_for_ever() {
        for value in
            ["99999999999999999999", "18446744073709551615h", "999999999h999999999m", "9".repeat(40).as_str()]
        {
            assert!(of(&[("retry-after", value)]).unwrap_or(0) <= LONGEST, "{value}");
            assert!(of(&[("x-ratelimit-reset-requests", value)]).unwrap_or(0) <= LONGEST, "{value}");
        }
        assert_eq!(requested_wait([("retry-after", &b"\xff\xfe"[..])].into_iter(), NOW), None);
    }
}
