//! Conditions on requests: `match` of a deployment, and conditions on headers.

use crate::config::bounds::{ANY, METHODS, PATHS, SOME};
use crate::config::{model, value};
use crate::json::{Cursor, Read, each};
use crate::plan::matching::{HeaderCondition, HeaderTest, HostPattern, Match};

/// Fields with a test; a condition has exactly one of them.
const TESTS: [&str; 6] = ["exact", "prefix", "suffix", "contains", "one_of", "present"];

/// Reads a deployment's `match`.
pub fn matches(at: &Cursor<'_>) -> Read<Match> {
    let object = at.object(&["hosts", "path_prefix", "headers", "methods", "paths", "models", "body"])?;
    let hosts = object.get("hosts").map_or(Ok(Vec::new()), |at| each(&at.items(&SOME)?, host_pattern));
    let path_prefix = object.get("path_prefix").map(|at| value::path(&at)).transpose();
    let headers = object.get("headers").map_or(Ok(Vec::new()), |at| each(&at.items(&ANY)?, condition));
    let methods = object.get("methods").map_or(Ok(Vec::new()), |at| each(&at.items(&METHODS)?, method));
    let prefix = path_prefix.as_ref().map_or(None, Option::as_deref);
    let paths = object
        .get("paths")
        .map_or(Ok(Vec::new()), |at| each(&at.items(&PATHS)?, |at| exact_path(at, prefix)));
    let models = object.get("models").map_or(Ok(Vec::new()), |at| model::patterns(&at));
    let body = object.get("body").map_or(Ok(Vec::new()), |at| model::conditions(&at));
    Ok(Match {
        hosts: hosts?,
        methods: methods?,
        paths: paths?,
        path_prefix: path_prefix?,
        headers: headers?,
        models: models?,
        body: body?,
    })
}

/// Reads a method. HTTP compares methods with their case, and all that are in use are in capitals.
fn method(at: &Cursor<'_>) -> Read<String> {
    value::text(at, "must be an HTTP method in capitals, such as POST", |text| {
        (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
    })
}

/// Reads a whole path. With a `path_prefix` that it does not have, it would match no request.
fn exact_path(at: &Cursor<'_>, prefix: Option<&str>) -> Read<String> {
    let path = value::path(at)?;
    if path.contains(['?', '#']) {
        return Err(at.wrong("must be a path without a query"));
    }
    match prefix {
        Some(prefix) if !path.starts_with(prefix) => Err(at.wrong("must begin with path_prefix")),
        _ => Ok(path),
    }
}

/// Reads a host or `*.host`.
fn host_pattern(at: &Cursor<'_>) -> Read<HostPattern> {
    let text = value::text(at, "must be a host or *.host, with a port or without", value::is_host_pattern)?;
    let text = text.to_ascii_lowercase();
    Ok(match text.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
        None => HostPattern::Exact(text),
    })
}

/// Reads the `headers` of a rule. There must be at least one condition, because a rule without one would take every request.
pub fn conditions(at: &Cursor<'_>) -> Read<Vec<HeaderCondition>> {
    each(&at.items(&SOME)?, condition)
}

/// Reads one condition on a header.
fn condition(at: &Cursor<'_>) -> Read<HeaderCondition> {
    let NamedTest { name, test, invert } = named_test(at, value::header_asked_for)?;
    Ok(HeaderCondition { name, test, invert })
}

/// A condition on a header, or on a member of the body.
pub struct NamedTest {
    /// Name of the header or member.
    pub name: String,
    /// Test of its value.
    pub test: HeaderTest,
    /// Inverts the condition.
    pub invert: bool,
}

/// Reads a condition: the name of its subject, a test, and whether the test is inverted.
pub fn named_test(at: &Cursor<'_>, subject: fn(&Cursor<'_>) -> Read<String>) -> Read<NamedTest> {
    let object =
        at.object(&["name", "exact", "prefix", "suffix", "contains", "one_of", "present", "invert"])?;
    let name = object.need("name").and_then(|at| subject(&at));
    let invert = object.get("invert").map_or(Ok(false), |at| at.boolean());
    let given: Vec<(&'static str, Cursor<'_>)> =
        TESTS.into_iter().filter_map(|test| Some((test, object.get(test)?))).collect();
    let mut tests = Vec::new();
    for (kind, at) in &given {
        tests.push(test(kind, at));
    }
    let only = match (tests.pop(), tests.is_empty()) {
        (Some(test), true) => test,
        _ => Err(at.refuse(&format!("must have exactly one of {}", TESTS.join(", ")))),
    };
    Ok(NamedTest { name: name?, test: only?, invert: invert? })
}

/// Reads the test in the field `kind`.
fn test(kind: &str, at: &Cursor<'_>) -> Read<HeaderTest> {
    Ok(match kind {
        "exact" => HeaderTest::Exact(value::header_value(at)?),
        "prefix" => HeaderTest::Prefix(part(at)?),
        "suffix" => HeaderTest::Suffix(part(at)?),
        "contains" => HeaderTest::Contains(part(at)?),
        "one_of" => HeaderTest::OneOf(each(&at.items(&SOME)?, part)?),
        _ => HeaderTest::Present(at.boolean()?),
    })
}

/// Reads a part of a header's value. The empty string is refused, because every value contains it; `present` tests for any value.
fn part(at: &Cursor<'_>) -> Read<String> {
    let text = value::header_value(at)?;
    if text.is_empty() { Err(at.refuse("must not be empty")) } else { Ok(text) }
}
