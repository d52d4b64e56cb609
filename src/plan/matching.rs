//! Conditions on a request (hosts, path prefix, headers, model, body), and their evaluation.

use crate::headers::Headers;
use crate::llm::request::{Seen, Value};

/// Conditions that must all hold. An absent part holds for every request.
#[derive(Debug, Default)]
pub struct Match {
    /// Hosts, of which one must match; empty holds for all.
    pub hosts: Vec<HostPattern>,
    /// Methods, of which one must be the request's; empty holds for all but CORS preflights.
    pub methods: Vec<String>,
    /// Paths, of which one must be the request's without its query; empty holds for all.
    pub paths: Vec<String>,
    /// Prefix of the path, query included.
    pub path_prefix: Option<String>,
    /// Conditions on headers, which must all hold.
    pub headers: Vec<HeaderCondition>,
    /// Patterns for the model, of which one must match; empty holds for all.
    pub models: Vec<ModelPattern>,
    /// Conditions on the body, which must all hold.
    pub body: Vec<BodyCondition>,
}

impl Match {
    /// Returns whether the body decides, too.
    pub fn asks_body(&self) -> bool {
        !self.models.is_empty() || !self.body.is_empty()
    }

    /// Returns whether the conditions on the body hold.
    pub(crate) fn holds_for(&self, asked: Asked<'_>) -> bool {
        asked.matches_models(&self.models) && asked.meets(&self.body)
    }
}

/// A pattern for a host, in lower case. The request's port counts only if the pattern has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `api.example.com`
    Exact(String),
    /// `*.example.com`, held as `.example.com`: any host with this suffix and at least one more label.
    Suffix(String),
}

/// A condition on one request header. Several headers of one name are joined by `,` as in HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Name, in lower case.
    pub name: String,
    /// Test of the value.
    pub test: HeaderTest,
    /// Inverts the condition: it holds if the test fails.
    pub invert: bool,
}

/// A test of a header's value. An absent header fails every test but `Present(false)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    /// Equal, byte by byte.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Contains.
    Contains(String),
    /// Equal to one of these; never empty.
    OneOf(Vec<String>),
    /// Present (true) or absent (false), with any value.
    Present(bool),
}

/// A pattern for the model that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPattern {
    /// `gpt-4o`
    Exact(String),
    /// `gpt-4o-*`, held as `gpt-4o-`.
    Prefix(String),
}

impl ModelPattern {
    /// Returns whether a model's name matches.
    pub fn matches(&self, model: &str) -> bool {
        match self {
            ModelPattern::Exact(name) => model == name,
            ModelPattern::Prefix(prefix) => model.starts_with(prefix.as_str()),
        }
    }

    /// Returns the pattern as it is written.
    pub fn shown(&self) -> String {
        match self {
            ModelPattern::Exact(name) => name.clone(),
            ModelPattern::Prefix(prefix) => [prefix, "*"].concat(),
        }
    }
}

/// A condition on a top-level member of the request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyCondition {
    /// Name of the member.
    pub name: String,
    /// Test of its text. A member that is no text has no value, but is present.
    pub test: HeaderTest,
    /// Inverts the condition: it holds if the test fails.
    pub invert: bool,
}

/// The part of a request that only its body tells (or, with Google's API, its path).
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// Model that the client asks for.
    pub model: Option<&'a str>,
    /// Body, as far as it was read; `None` for a request without a JSON body.
    pub body: Option<&'a Seen>,
}

impl Asked<'_> {
    /// Returns whether the model matches one of these patterns. No pattern at all holds for every request.
    pub(crate) fn matches_models(&self, patterns: &[ModelPattern]) -> bool {
        let asked = |model: &str| patterns.iter().any(|pattern| pattern.matches(model));
        patterns.is_empty() || self.model.is_some_and(asked)
    }

    /// Returns whether all conditions hold.
    pub(crate) fn meets(&self, conditions: &[BodyCondition]) -> bool {
        conditions.iter().all(|condition| {
            let member = self.body.and_then(|body| body.get(&condition.name));
            let passed = match (&condition.test, member.map(|member| &member.value)) {
                (HeaderTest::Present(wanted), found) => found.is_some() == *wanted,
                (test, Some(Value::Text(Some(text)))) => passes(test, Some(text.as_bytes())),
                _ => false,
            };
            passed != condition.invert
        })
    }
}

/// Returns whether every condition on host, path and headers holds.
pub(crate) fn matches(conditions: &Match, headers: &Headers) -> bool {
    if !conditions.hosts.is_empty() {
        let Some(authority) = headers.get(":authority") else { return false };
        if !conditions.hosts.iter().any(|pattern| host_matches(pattern, &authority)) {
            return false;
        }
    }
    if !method_matches(&conditions.methods, headers) || !path_matches(&conditions.paths, headers) {
        return false;
    }
    if let Some(prefix) = &conditions.path_prefix
        && !headers.get(":path").is_some_and(|path| path.starts_with(prefix.as_bytes()))
    {
        return false;
    }
    all_hold(&conditions.headers, headers)
}

/// Returns whether the method is one of these. Without any, every method is, but a CORS preflight is not: a browser sends it
/// without credentials, and its answer says nothing of a version or a key.
fn method_matches(methods: &[String], headers: &Headers) -> bool {
    let is = |method: &str| headers.get(":method").is_some_and(|given| *given == *method.as_bytes());
    if methods.is_empty() {
        return !(headers.has("access-control-request-method") && is("OPTIONS"));
    }
    methods.iter().any(|method| is(method))
}

/// Returns whether the path without its query is one of these; every path is if there are none.
fn path_matches(paths: &[String], headers: &Headers) -> bool {
    if paths.is_empty() {
        return true;
    }
    let Some(path) = headers.get(":path") else { return false };
    let bare = path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    paths.iter().any(|wanted| bare == wanted.as_bytes())
}

fn host_matches(pattern: &HostPattern, authority: &[u8]) -> bool {
    let bare = without_port(authority);
    match pattern {
        HostPattern::Exact(host) => {
            bare.eq_ignore_ascii_case(host.as_bytes()) || authority.eq_ignore_ascii_case(host.as_bytes())
        }
        HostPattern::Suffix(suffix) => ends_with(bare, suffix) || ends_with(authority, suffix),
    }
}

/// Returns whether a host has this suffix, in any case, and at least one more byte.
fn ends_with(host: &[u8], suffix: &str) -> bool {
    let begin = host.len().checked_sub(suffix.len()).filter(|begin| *begin > 0);
    begin.and_then(|begin| host.get(begin..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes()))
}

/// Removes the port: `host:port` → `host`, `[::1]:port` → `[::1]`. Anything else stays.
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) => {
            let (host, port) = authority.split_at_checked(colon).unwrap_or((authority, b""));
            let is_port = port.len() > 1 && port.iter().skip(1).all(u8::is_ascii_digit);
            // In an IPv6 address without brackets the last colon begins no port.
            if is_port && (!host.contains(&b':') || host.ends_with(b"]")) { host } else { authority }
        }
        None => authority,
    }
}

/// Returns whether all conditions hold.
pub(crate) fn all_hold(conditions: &[HeaderCondition], headers: &Headers) -> bool {
    conditions.iter().all(|condition| holds(condition, headers))
}

fn holds(condition: &HeaderCondition, headers: &Headers) -> bool {
    passes(&condition.test, headers.get(&condition.name).as_deref()) != condition.invert
}

/// Returns whether a value passes a test.
pub(crate) fn passes(test: &HeaderTest, value: Option<&[u8]>) -> bool {
    match (test, value) {
        (HeaderTest::Present(wanted), value) => value.is_some() == *wanted,
        (_, None) => false,
        (HeaderTest::Exact(exact), Some(value)) => value == exact.as_bytes(),
        (HeaderTest::Prefix(prefix), Some(value)) => value.starts_with(prefix.as_bytes()),
        (HeaderTest::Suffix(suffix), Some(value)) => value.ends_with(suffix.as_bytes()),
        (HeaderTest::Contains(part), Some(value)) => contains(value, part.as_bytes()),
        (HeaderTest::OneOf(list), Some(value)) => list.iter().any(|one| value == one.as_bytes()),
    }
}

fn contains(value: &[u8], part: &[u8]) -> bool {
    part.is_empty() || value.windows(part.len()).any(|window| window == part)
}

/// Removes the port and the brackets from a socket address as the proxy writes it (`10.0.0.1:4711`, `[::1]:4711`).
pub fn address_without_port(address: &[u8]) -> &[u8] {
    let bare = without_port(address);
    bare.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")).unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::request::{Body, Wanted};

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers::new(pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect())
    }

    fn condition(test: HeaderTest, invert: bool) -> HeaderCondition {
        HeaderCondition { name: "x-a".to_owned(), test, invert }
    }

    #[test]
    fn hosts_match_without_case_or_port() {
        let exact = HostPattern::Exact("api.example.com".to_owned());
        for authority in ["api.example.com", "API.example.COM", "api.example.com:8443"] {
            assert!(host_matches(&exact, authority.as_bytes()), "{authority}");
        }
        assert!(!host_matches(&exact, b"xapi.example.com"));
        assert!(!host_matches(&exact, b""));
        let with_port = HostPattern::Exact("api.example.com:8443".to_owned());
        assert!(host_matches(&with_port, b"api.example.com:8443"));
        assert!(!host_matches(&with_port, b"api.example.com:9443"));
    }

    #[test]
    fn a_wildcard_needs_one_more_label() {
        let suffix = HostPattern::Suffix(".example.com".to_owned());
        assert!(host_matches(&suffix, b"a.example.com:80"));
        assert!(host_matches(&suffix, b"a.b.Example.com"));
        assert!(!host_matches(&suffix, b"example.com"));
        assert!(!host_matches(&suffix, b".example.com"));
        assert!(!host_matches(&suffix, b"badexample.com"));
        let with_port = HostPattern::Suffix(".example.com:8443".to_owned());
        assert!(host_matches(&with_port, b"a.example.com:8443"));
        assert!(!host_matches(&with_port, b"a.example.com"));
    }

    #[test]
    fn addresses_lose_their_port_and_brackets() {
        assert_eq!(address_without_port(b"10.0.0.1:4711"), b"10.0.0.1");
        assert_eq!(address_without_port(b"[::1]:4711"), b"::1");
        assert_eq!(address_without_port(b"::1"), b"::1");
        assert_eq!(address_without_port(b""), b"");
    }

    #[test]
    fn every_header_test_and_its_inverse() {
        let h = headers(&[("x-a", "gold-user")]);
        for (test, expected) in [
            (HeaderTest::Exact("gold-user".to_owned()), true),
            (HeaderTest::Exact("gold".to_owned()), false),
            (HeaderTest::Prefix("gold".to_owned()), true),
            (HeaderTest::Suffix("user".to_owned()), true),
            (HeaderTest::Contains("-".to_owned()), true),
            (HeaderTest::Contains("silver".to_owned()), false),
            (HeaderTest::OneOf(vec!["x".to_owned(), "gold-user".to_owned()]), true),
            (HeaderTest::OneOf(vec!["x".to_owned()]), false),
            (HeaderTest::Present(true), true),
            (HeaderTest::Present(false), false),
        ] {
            assert_eq!(holds(&condition(test.clone(), false), &h), expected, "{test:?}");
            assert_eq!(holds(&condition(test.clone(), true), &h), !expected, "inverted {test:?}");
        }
    }

    #[test]
    fn an_absent_header_fails_every_test_but_absence() {
        let none = headers(&[]);
        assert!(!holds(&condition(HeaderTest::Prefix(String::new()), false), &none));
        assert!(holds(&condition(HeaderTest::Present(false), false), &none));
        assert!(holds(&condition(HeaderTest::Exact("a".to_owned()), true), &none));
    }

    #[test]
    fn headers_of_one_name_are_joined() {
        let h = headers(&[("x-a", "1"), ("x-b", "-"), ("x-a", "2")]);
        assert_eq!(h.get("x-a").as_deref(), Some(b"1,2".as_slice()));
    }

    #[test]
    fn patterns_are_exact_or_a_beginning() {
        let prefix = ModelPattern::Prefix("gpt-4o-".to_owned());
        assert!(prefix.matches("gpt-4o-mini") && prefix.matches("gpt-4o-") && !prefix.matches("gpt-4o"));
        let exact = ModelPattern::Exact("gpt-4o".to_owned());
        assert!(exact.matches("gpt-4o") && !exact.matches("gpt-4o-mini") && !exact.matches("GPT-4o"));
        let asked = Asked { model: Some("gpt-4o"), body: None };
        assert!(asked.matches_models(&[]) && asked.matches_models(&[prefix.clone(), exact]));
        assert!(!asked.matches_models(std::slice::from_ref(&prefix)));
        assert!(!Asked::default().matches_models(&[prefix]) && Asked::default().matches_models(&[]));
    }

    #[test]
    fn conditions_look_at_texts_and_at_presence() {
        let mut body = Body::new(Wanted::default());
        body.feed(br#"{"model": "m", "user": "ann", "n": 2}"#);
        let asked = Asked { model: Some("m"), body: Some(body.seen()) };
        let condition = |name: &str, test, invert| BodyCondition { name: name.to_owned(), test, invert };
        let exact = |text: &str| HeaderTest::Exact(text.to_owned());
        for (name, test, held) in [
            ("user", exact("ann"), true),
            ("user", exact("bob"), false),
            ("user", HeaderTest::Prefix("a".to_owned()), true),
            ("n", exact("2"), false),
            ("n", HeaderTest::Present(true), true),
            ("absent", HeaderTest::Present(false), true),
            ("absent", exact(""), false),
        ] {
            assert_eq!(asked.meets(&[condition(name, test.clone(), false)]), held, "{name} {test:?}");
            assert_eq!(asked.meets(&[condition(name, test.clone(), true)]), !held, "not {name} {test:?}");
        }
        assert!(!Asked::default().meets(&[condition("user", exact("ann"), false)]));
    }
}
