//! The rate limit that a provider states, in all forms that providers use.
//!
//! | header | forms |
//! |---|---|
//! | `retry-after` | seconds (`2`, `1.5`), HTTP date |
//! | `retry-after-ms`, `x-ms-retry-after-ms` | milliseconds |
//! | `x-ratelimit-reset-*`, `x-ratelimit-*-reset`, `x-ratelimit-reset`, `ratelimit-reset`, `anthropic-ratelimit-*-reset`; also with `rate-limit` | Go-style durations (`6m0s`, `1.2s`, `20ms`), seconds, seconds since 1970, RFC 3339 |
//! | `ratelimit` (draft of the IETF) | `"default";r=0;t=33`, `limit=10, remaining=0, reset=33` |
//!
//! An explicit wait above 0 wins over all others. Without one the dimensions of the limit (requests, tokens) decide. Only an exhausted
//! dimension counts: its `remaining` is 0, or unknown. The longest wait of several counts, because a key that comes back when only one of
//! two is replenished fails again at once. Windows of a plan (`unified-5h`, `unified-7d`) are exhausted only if they say so.
//!
//! Header values are not trusted. Unreadable values are ignored, and the caller clamps the wait.

use crate::time::parse_rfc3339;
use crate::time::{Millis, UnixMillis};

/// Longest wait, in milliseconds: a day. A longer one is no rate limit, and nothing may overflow.
const LONGEST: u64 = 86_400_000;
/// Most dimensions that are read.
const DIMENSIONS: usize = 16;

/// What the headers of a 429 say about the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Nothing.
    Unknown,
    /// Quota is left in every dimension: the request itself is too large, or the provider is at fault.
    QuotaLeft,
    /// The quota is used up. The wait, if they state one.
    Exhausted(Option<Millis>),
}

impl Limit {
    /// Returns the wait that the headers state.
    pub fn wait(self) -> Option<Millis> {
        if let Limit::Exhausted(wait) = self { wait } else { None }
    }
}

/// One dimension of a limit.
#[derive(Default)]
struct Dimension<'a> {
    name: &'a str,
    /// Whether something is left, if that is known.
    left: Option<bool>,
    /// The wait in milliseconds.
    wait: Option<u64>,
}

/// Reads the limit that the response headers of a 429 state. Names are in lower case. `now` serves to read dates.
pub fn limit<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, now: UnixMillis) -> Limit {
    let mut explicit: Option<u64> = None;
    let mut dimensions: Vec<Dimension<'a>> = Vec::new();
    for (name, value) in headers {
        let Some(text) = std::str::from_utf8(value).ok().map(str::trim) else { continue };
        match name {
            "retry-after" => {
                let wait = seconds(text).or_else(|| http_date(text).map(|then| until(then, now)));
                explicit = explicit.max(wait);
            }
            "retry-after-ms" | "x-ms-retry-after-ms" => explicit = explicit.max(decimal(text, 1)),
            _ => read_dimension(name, text, now, &mut dimensions),
        }
    }
    if let Some(wait @ 1..) = explicit {
        return Limit::Exhausted(Some(Millis(wait.min(LONGEST))));
    }
    let exhausted = || dimensions.iter().filter(|dimension| dimension.is_exhausted());
    if exhausted().next().is_some() {
        let longest = exhausted().filter_map(|dimension| dimension.wait).max();
        Limit::Exhausted(longest.map(|wait| Millis(wait.min(LONGEST))))
    } else if dimensions.iter().any(|dimension| dimension.left == Some(true)) {
        Limit::QuotaLeft
    } else {
        Limit::Unknown
    }
}

impl Dimension<'_> {
    fn is_exhausted(&self) -> bool {
        let is_window = self.name.starts_with("unified");
        match self.left {
            Some(left) => !left,
            None => !is_window && self.wait.is_some_and(|wait| wait > 0),
        }
    }
}

/// The part of a dimension that a header states.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Remaining,
    Reset,
    /// `allowed` or `rejected`.
    Status,
    /// Used part of the quota; 1 is all of it.
    Utilization,
}

const PARTS: [(&str, Part); 4] = [
    ("remaining", Part::Remaining),
    ("reset", Part::Reset),
    ("status", Part::Status),
    ("utilization", Part::Utilization),
];

/// Reads a header that states a part of a dimension.
fn read_dimension<'a>(name: &'a str, text: &str, now: UnixMillis, all: &mut Vec<Dimension<'a>>) {
    let name = name.strip_prefix("x-").or_else(|| name.strip_prefix("anthropic-")).unwrap_or(name);
    let Some(rest) = name.strip_prefix("ratelimit").or_else(|| name.strip_prefix("rate-limit")) else {
        return;
    };
    if rest.is_empty() {
        return read_structured(text, all);
    }
    let Some(rest) = rest.strip_prefix('-') else { return };
    let Some((part, dimension)) = split_part(rest) else { return };
    let Some(dimension) = dimension_of(dimension, all) else { return };
    match part {
        Part::Remaining => dimension.left = decimal(text, 1).map(|left| left > 0).or(dimension.left),
        Part::Reset => dimension.wait = wait(text, now).or(dimension.wait),
        Part::Status if text.starts_with("allowed") => dimension.left = Some(true),
        Part::Status if text == "rejected" => dimension.left = Some(false),
        Part::Status => {}
        Part::Utilization => {
            let left = decimal(text, 1000).map(|thousandths| thousandths < 1000);
            dimension.left = dimension.left.or(left);
        }
    }
}

/// Splits `reset-requests`, `requests-reset` or `reset` into the part and the name of the dimension, which may be empty.
fn split_part(rest: &str) -> Option<(Part, &str)> {
    PARTS.into_iter().find_map(|(word, part)| {
        if rest == word {
            return Some((part, ""));
        }
        let before = rest.strip_prefix(word).and_then(|rest| rest.strip_prefix('-'));
        let after = || rest.strip_suffix(word).and_then(|rest| rest.strip_suffix('-'));
        before.or_else(after).map(|dimension| (part, dimension))
    })
}

/// Returns the dimension of this name, a new one if needed; `None` if there are too many.
fn dimension_of<'a, 'd>(name: &'a str, all: &'d mut Vec<Dimension<'a>>) -> Option<&'d mut Dimension<'a>> {
    if let Some(at) = all.iter().position(|dimension| dimension.name == name) {
        return all.get_mut(at);
    }
    if all.len() >= DIMENSIONS {
        return None;
    }
    all.push(Dimension { name, ..Dimension::default() });
    all.last_mut()
}

/// Reads the header `ratelimit`: the drafts' `"default";r=0;t=33` and `limit=10, remaining=0, reset=33`. Several policies are
/// one dimension each.
fn read_structured(text: &str, all: &mut Vec<Dimension<'_>>) {
    // The older form has its members in a list, the newer one has a list of policies.
    let is_old = !text.contains(';');
    for policy in text.split(if is_old { ';' } else { ',' }) {
        let mut dimension = Dimension { name: "policy", ..Dimension::default() };
        for member in policy.split(if is_old { ',' } else { ';' }) {
            let Some((name, value)) = member.trim().split_once('=') else { continue };
            match name {
                "r" | "remaining" => dimension.left = decimal(value, 1).map(|left| left > 0),
                "t" | "reset" => dimension.wait = seconds(value),
                _ => {}
            }
        }
        if all.len() < DIMENSIONS && (dimension.left.is_some() || dimension.wait.is_some()) {
            all.push(dimension);
        }
    }
}

/// Reads the time until a dimension is replenished, in milliseconds.
fn wait(text: &str, now: UnixMillis) -> Option<u64> {
    go_duration(text)
        .or_else(|| epoch_or_seconds(text, now))
        .or_else(|| parse_rfc3339(text).map(|then| until(then, now)))
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

    fn read(headers: &[(&str, &str)]) -> Limit {
        limit(headers.iter().map(|(n, v)| (*n, v.as_bytes())), NOW)
    }

    fn of(headers: &[(&str, &str)]) -> Option<u64> {
        read(headers).wait().map(|wait| wait.0)
    }

    #[test]
    fn every_form_of_every_header() {
        for (name, value, millis) in [
            ("retry-after", "2", Some(2000)),
            ("retry-after", " 1.5 ", Some(1500)),
            ("retry-after", "0", None),
            ("retry-after", "Fri, 20 Nov 2026 10:01:00 GMT", Some(60_000)),
            ("retry-after", "Fri, 20 Nov 2026 09:00:00 GMT", None),
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
            ("x-ms-retry-after-ms", "250", Some(250)),
            ("x-rate-limit-reset-tokens", "46", Some(46_000)),
            ("x-ratelimit-requests-reset", "30", Some(30_000)),
            ("ratelimit", "\"default\";r=0;t=33", Some(33_000)),
            ("ratelimit", "limit=10, remaining=0, reset=33", Some(33_000)),
            ("ratelimit", "\"minute\";r=0;t=33, \"day\";r=0;t=44", Some(44_000)),
            ("ratelimit", "\"minute\";r=3;t=33", None),
            ("ratelimit", "nonsense", None),
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
        assert_eq!(limit([("retry-after", &b"\xff\xfe"[..])].into_iter(), NOW), Limit::Unknown);
        let many: Vec<(String, String)> =
            (0..100).map(|n| (format!("x-ratelimit-reset-{n}"), format!("{}", n + 1))).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(of(&many), Some(16_000), "no more than sixteen dimensions are read");
    }

    #[test]
    fn an_explicit_wait_wins_over_all_resets() {
        let resets = [("x-ratelimit-reset-tokens", "6m0s"), ("x-ratelimit-remaining-tokens", "0")];
        for explicit in [("retry-after", "1"), ("retry-after-ms", "1000")] {
            assert_eq!(of(&[&resets[..], &[explicit]].concat()), Some(1000), "{explicit:?}");
        }
        assert_eq!(of(&[&resets[..], &[("retry-after", "0")]].concat()), Some(360_000), "0 is no wait");
    }

    #[test]
    fn a_429_whose_headers_say_that_quota_is_left_limits_nothing() {
        let left = [
            ("x-ratelimit-remaining-requests", "499"),
            ("x-ratelimit-reset-requests", "120ms"),
            ("x-ratelimit-remaining-tokens", "29000"),
            ("x-ratelimit-reset-tokens", "17ms"),
        ];
        assert_eq!(read(&left), Limit::QuotaLeft);
        assert_eq!(read(&[&left[..], &[("retry-after", "0")]].concat()), Limit::QuotaLeft);
        assert_eq!(read(&[("ratelimit", "\"default\";r=7;t=33")]), Limit::QuotaLeft);
        assert_eq!(
            read(&[&left[..], &[("x-ratelimit-remaining-day", "0")]].concat()),
            Limit::Exhausted(None)
        );
        assert_eq!(read(&[("content-type", "application/json"), ("retry-after", "0")]), Limit::Unknown);
        // Azure sends both where it counts nothing.
        assert_eq!(
            read(&[("x-ratelimit-remaining-requests", "-1"), ("x-ratelimit-reset-requests", "0")]),
            Limit::Unknown
        );
    }

    #[test]
    fn a_window_of_a_plan_counts_only_if_it_is_the_exhausted_one() {
        const HOURS: (&str, &str) = ("anthropic-ratelimit-unified-5h-reset", "1795169100");
        const WEEK: (&str, &str) = ("anthropic-ratelimit-unified-7d-reset", "1795600000");
        let (week, all) = ("anthropic-ratelimit-unified-7d-status", "anthropic-ratelimit-unified-5h-status");
        assert_eq!(of(&[HOURS, WEEK, (all, "rejected"), (week, "allowed")]), Some(300_000));
        assert_eq!(of(&[HOURS, WEEK, (all, "allowed_warning"), (week, "rejected")]), Some(LONGEST));
        let used = ("anthropic-ratelimit-unified-5h-utilization", "1.0");
        assert_eq!(of(&[HOURS, WEEK, used]), Some(300_000));
        assert_eq!(read(&[HOURS, WEEK]), Limit::Unknown, "both windows always have a reset");
        let requests = ("anthropic-ratelimit-requests-remaining", "0");
        let reset = ("anthropic-ratelimit-requests-reset", "2026-11-20T10:00:45Z");
        assert_eq!(of(&[HOURS, WEEK, requests, reset]), Some(45_000));
    }
}
