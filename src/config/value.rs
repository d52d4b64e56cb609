//! Single values: names, hosts, header names and values, durations, times, percentages. They are matched by hand, because a
//! regular expression library would be larger than the rest of the filter.

use std::ops::RangeInclusive;

use crate::config::bounds::NAME_BYTES_MAX;
use crate::json::{Cursor, Object, Read};
use crate::time::{self, Millis, UnixMillis, parse_duration};
use crate::units::Bps;

/// Headers that frame the message or belong to the connection. A version that set one would break requests, or let a second
/// request hide in one. The host has a field of its own.
const FRAMING: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// Reads a string that `holds`; any other breaks `rule`.
pub fn text(at: &Cursor<'_>, rule: &str, holds: fn(&str) -> bool) -> Read<String> {
    let text = at.string()?;
    if holds(text) { Ok(text.to_owned()) } else { Err(at.wrong(rule)) }
}

/// Reads a deployment's name.
pub fn deployment_name(at: &Cursor<'_>) -> Read<String> {
    text(at, "must match ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", |text| {
        let ends = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        bytes.len() <= 63
            && ends(bytes.first())
            && ends(bytes.last())
            && bytes.iter().all(|b| *b == b'-' || ends(Some(b)))
    })
}

/// Reads a release.
pub fn release(at: &Cursor<'_>) -> Read<String> {
    text(at, "must match ^[A-Za-z0-9._-]{1,63}$", |text| {
        (1..=63).contains(&text.len()) && text.bytes().all(is_id_byte)
    })
}

/// Reads the name of a version, a pool, a key or a quota group. It may become a metric's label.
pub fn id(at: &Cursor<'_>) -> Read<String> {
    text(at, "must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", is_id)
}

/// Returns whether [`id`] accepts this name.
pub fn is_id(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(is_id_byte)
}

fn is_id_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

/// Reads a string that is not empty.
pub fn not_empty(at: &Cursor<'_>) -> Read<String> {
    text(at, "must not be empty", |text| !text.is_empty())
}

/// Reads the name of an Envoy cluster.
pub fn cluster(at: &Cursor<'_>) -> Read<String> {
    text(at, "must be a cluster name: 1 to 255 bytes without white space", |text| {
        (1..=NAME_BYTES_MAX).contains(&text.len()) && !has_blank(text)
    })
}

/// Reads a path or a path prefix.
pub fn path(at: &Cursor<'_>) -> Read<String> {
    text(at, "must begin with / and have no white space", |text| text.starts_with('/') && !has_blank(text))
}

/// Reads a host in the form of `:authority`.
pub fn host(at: &Cursor<'_>) -> Read<String> {
    text(at, "must be a host, with a port or without", is_host)
}

/// Returns whether this is a host or `*.host`, with a port or without. An internationalized name must have its ASCII form, as on
/// the wire.
pub fn is_host_pattern(text: &str) -> bool {
    is_host(text.strip_prefix("*.").unwrap_or(text))
}

fn is_host(text: &str) -> bool {
    if text.len() > NAME_BYTES_MAX {
        return false;
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else { return false };
        let is_address = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
        return (2..=45).contains(&address.len())
            && address.bytes().all(is_address)
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn has_blank(text: &str) -> bool {
    text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Reads a header's name, in lower case. Pseudo headers are refused: a name has no `:`.
pub fn header_name(at: &Cursor<'_>) -> Read<String> {
    text(at, "must be an HTTP header name", is_token).map(|name| name.to_ascii_lowercase())
}

/// Reads the name of a header that requests are searched for. `host` becomes `:authority`, because Envoy has it there.
pub fn header_asked_for(at: &Cursor<'_>) -> Read<String> {
    header_name(at).map(|name| if name == "host" { ":authority".to_owned() } else { name })
}

/// Returns whether this is the name of a header that belongs to the connection; lower case.
pub fn is_framing(name: &str) -> bool {
    FRAMING.contains(&name)
}

/// Reads the name of a cookie; case-sensitive.
pub fn cookie_name(at: &Cursor<'_>) -> Read<String> {
    text(at, "must be a cookie name", is_token)
}

/// Returns whether this is a token of RFC 9110, of at most 255 bytes.
pub fn is_token(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reads a header's value; it may be empty.
pub fn header_value(at: &Cursor<'_>) -> Read<String> {
    let value = at.string()?;
    // The value is not shown, because it may be a credential.
    if is_header_value(value) { Ok(value.to_owned()) } else { Err(at.refuse("must not have CR, LF or NUL")) }
}

fn is_header_value(text: &str) -> bool {
    !text.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0))
}

/// Reads a duration in `range`.
pub fn duration(at: &Cursor<'_>, range: &RangeInclusive<Millis>) -> Read<Millis> {
    let Some(millis) = at.as_str().and_then(parse_duration) else {
        return Err(at.wrong("must be a duration such as 250ms, 30s, 5m or 1h"));
    };
    if range.contains(&millis) {
        Ok(millis)
    } else {
        Err(at.wrong(&format!("must be in {}..={}", range.start(), range.end())))
    }
}

/// Reads the duration in the field `name`; `default` where it is absent.
pub fn duration_or(
    object: &Object<'_>,
    name: &'static str,
    range: &RangeInclusive<Millis>,
    default: Millis,
) -> Read<Millis> {
    object.get(name).map_or(Ok(default), |at| duration(&at, range))
}

/// Checks that the duration `max` is not below `min`, defaults included. The problem is reported at `max` if the document has
/// it, else at `min`, which then is above the default of `max`.
pub fn at_least(
    object: &Object<'_>,
    max_name: &'static str,
    max: Read<Millis>,
    min_name: &'static str,
    min: Read<Millis>,
) -> Read<Millis> {
    let (Ok(upper), Ok(lower)) = (max, min) else { return max };
    if upper >= lower {
        return max;
    }
    match object.get(max_name) {
        Some(at) => Err(at.wrong(&format!("must not be below {min_name} ({lower})"))),
        None => Err(object.need(min_name)?.wrong(&format!("must not be above {max_name} (default {upper})"))),
    }
}

/// Reads an RFC 3339 time from 1970 on.
pub fn time(at: &Cursor<'_>) -> Read<UnixMillis> {
    at.as_str()
        .and_then(time::parse_rfc3339)
        .ok_or_else(|| at.wrong("must be an RFC 3339 time from 1970 on, such as 2026-11-20T10:00:00Z"))
}

/// Reads a share in percent, 0…100 with at most two decimals.
pub fn percent(at: &Cursor<'_>) -> Read<Bps> {
    as_percent(at).ok_or_else(|| at.wrong("must be a number in 0..=100 with at most two decimals"))
}

/// Returns the share in percent here, if it is one. Reports nothing.
pub fn as_percent(at: &Cursor<'_>) -> Option<Bps> {
    scaled(at.as_number()?, 100.0, &(0..=10_000)).and_then(|bps| Bps::new(u16::try_from(bps).ok()?))
}

/// Returns `number * scale`, if that is an integer in `range`. The tolerance is for the rounding of doubles: 0.29 * 100 is
/// 28.999999999999996. A number with one decimal too many is at least 0.1 away from an integer.
pub fn scaled(number: f64, scale: f64, range: &RangeInclusive<u32>) -> Option<u32> {
    let product = number * scale;
    let rounded = product.round();
    if (product - rounded).abs() > 1e-6 || !(0.0..=f64::from(u32::MAX)).contains(&rounded) {
        return None;
    }
    let integer = rounded as u32;
    range.contains(&integer).then_some(integer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_at_most_two_decimals() {
        let bps = |percent| scaled(percent, 100.0, &(0..=10_000));
        for n in 0..=10_000u32 {
            let text = format!("{}.{:02}", n / 100, n % 100);
            assert_eq!(bps(text.parse().unwrap()), Some(n), "{text}");
        }
        for wrong in [-0.01, 100.01, 0.001, 12.345, 99.999, 1e300, -1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(bps(wrong), None, "{wrong}");
        }
        assert_eq!(bps(-0.0), Some(0));
    }

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for host in [
            "a",
            "api.example.com",
            "API.example.com:8443",
            "my_service.ns",
            "10.0.0.1:80",
            "[::1]",
            "[::1]:80",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a/b",
            "https://a",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:80:90",
            "::1",
            "[::1",
            "[::1]80",
            "[x]",
            "*",
            "a.*.b",
            "ä.example",
            "user@host",
        ] {
            assert!(!is_host(host), "{host}");
        }
        for pattern in ["*.example.com", "*.example.com:443", "example.com"] {
            assert!(is_host_pattern(pattern), "{pattern}");
        }
        for pattern in ["*", "*.", "*.*.com", "*example.com", "api.*", "a*.com"] {
            assert!(!is_host_pattern(pattern), "{pattern}");
        }
    }
}
