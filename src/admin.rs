//! The admin listener: reads its requests, checks their host and method, reads an operator's reason, and words the refusals.
//!
//! The listener has no authentication. It is bound to loopback, and everybody with access to it may roll back. These checks keep
//! out web pages in a browser on the same machine:
//!
//! - A page of another origin cannot read an answer, because there are no CORS headers. It cannot send a POST with
//!   `x-requested-with` either: that takes a preflight request, which is refused.
//! - A page under a name that points to 127.0.0.1 (DNS rebinding) has the same origin for the browser, but its requests carry
//!   that name. So the `host` must be an IP address, `localhost`, or a name in the role's configuration.

pub mod page; // the live page as one document, and its content security policy

use crate::engine::{Order, Refused};
use crate::headers::Headers;
use crate::json::{self, Cursor, Sink, quoted};
use crate::problems::Problems;
use crate::rollout::{Cause, OPERATOR};
use crate::time::Now;

/// Longest reason that is kept, in bytes.
const REASON_BYTES: usize = 300;
/// Text of an order without a reason.
const NO_REASON: &str = "no reason given";
/// Text of an order with a reason on a listener without the filter that reads bodies. The order is carried out without it.
const UNREAD: &str = "the reason could not be read: the listener has no filter that reads bodies";

/// A request to the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `GET /`
    Page,
    /// `GET /status`
    Status,
    /// `GET /events`
    Events,
    /// `POST /deployments/NAME/rollback`, or `resume`
    Order(String, Order),
}

/// A refused request: the error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u32,
    /// Error in words.
    pub error: String,
    /// Methods of the path, if the request has another one.
    pub allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: u32, error: &str) -> Refusal {
        Refusal { status, error: error.to_owned(), allow: None }
    }

    fn method(allow: &'static str) -> Refusal {
        Refusal { allow: Some(allow), ..Refusal::new(405, "the path does not take this method") }
    }

    /// Returns the refusal of a worker without a plan.
    pub fn no_router() -> Refusal {
        Refusal::new(
            503,
            "no router role in this VM (yet): it must be configured (if its first configuration was rejected, Envoy's log says why), and with the very same vm_config as the admin role",
        )
    }

    /// Returns the refusal of an unknown deployment.
    pub fn unknown(name: &str) -> Refusal {
        let shown: String = name.chars().take(63).collect();
        Refusal::new(404, &["no deployment is named ", &shown].concat())
    }

    /// Returns the refusal if the events cannot be read.
    pub fn events() -> Refusal {
        Refusal::new(503, "the events in shared data cannot be read")
    }

    /// Returns the body of the answer.
    pub fn body(&self) -> String {
        [r#"{"error":"#, &quoted(&self.error), "}"].concat()
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        match refused {
            Refused::Contended => {
                Refusal::new(503, "nothing was changed: other workers wrote at the same time, try again")
            }
            Refused::Unreadable => {
                Refusal::new(503, "nothing was changed: the state in shared data cannot be read or written")
            }
            Refused::NoCanary => Refusal::new(409, "nothing was changed: the deployment has no canary"),
        }
    }
}

/// Reads a request from its headers. `hosts` are the names in the role's configuration, in lower case.
///
/// # Errors
/// The refusal, if the host, the path, the method or a header is wrong.
pub fn request(headers: &Headers, hosts: &[String]) -> Result<Request, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| String::from_utf8(value.into_owned()).ok());
    if !text(":authority").is_some_and(|host| is_allowed_host(&host.to_ascii_lowercase(), hosts)) {
        let rule =
            r#"the host must be an IP address, localhost, or in "hosts" of the admin role's configuration"#;
        return Err(Refusal::new(403, rule));
    }
    let path = text(":path").unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let method = text(":method").unwrap_or_default();
    let request = match path {
        "/" => Request::Page,
        "/status" => Request::Status,
        "/events" => Request::Events,
        _ => order(path).ok_or_else(|| Refusal::new(404, "no such path"))?,
    };
    match (&request, method.as_str()) {
        // Any value will do: only a script of this origin, or a client that is no browser, can set this header.
        (Request::Order(..), "POST") if !headers.has("x-requested-with") => {
            Err(Refusal::new(403, "a POST needs the header x-requested-with, with any value"))
        }
        (Request::Order(..), "POST") => Ok(request),
        (Request::Order(..), _) => Err(Refusal::method("POST")),
        (_, "GET" | "HEAD") => Ok(request),
        _ => Err(Refusal::method("GET, HEAD")),
    }
}

/// Reads an order from its path.
fn order(path: &str) -> Option<Request> {
    let (name, order) = path.strip_prefix("/deployments/")?.split_once('/')?;
    let order = match order {
        "rollback" => Order::Rollback,
        "resume" => Order::Resume,
        _ => return None,
    };
    Some(Request::Order(name.to_owned(), order))
}

/// Returns whether a request may name this host, given in lower case.
fn is_allowed_host(host: &str, hosts: &[String]) -> bool {
    if host.starts_with('[') {
        return true;
    }
    let name = host.split(':').next().unwrap_or_default();
    // Digits and dots only: browsers take a name with a numeric last label for an address, or refuse it.
    let is_address = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_address || name == "localhost" || hosts.iter().any(|known| known == host || known == name)
}

/// The body of a POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The bytes that were sent; empty if there is no body.
    Read(Vec<u8>),
    /// A body that cannot be read.
    Unread,
}

/// Reads the body of a POST, nothing or `{"reason": "…"}`, as the cause of an operator's order.
///
/// # Errors
/// The refusal, if the body is something else.
pub fn cause(body: &Body, now: Now) -> Result<Cause, Refusal> {
    let reason = match body {
        Body::Unread => Some(UNREAD.to_owned()),
        Body::Read(body) if body.is_empty() => None,
        Body::Read(body) => reason(body).map_err(|problems| {
            let problem = problems.0.first();
            let path = problem.map_or("", |problem| problem.path.as_str());
            let rule = problem.map_or("", |problem| problem.rule.as_str());
            let at = if path.is_empty() { "body" } else { path };
            Refusal::new(400, &[at, ": ", rule].concat())
        })?,
    };
    let text = reason.unwrap_or_else(|| NO_REASON.to_owned());
    Ok(Cause { label: OPERATOR.to_owned(), text, since: now.mono, wall: now.wall })
}

fn reason(body: &[u8]) -> Result<Option<String>, Problems> {
    let root = json::parse(body)?;
    let sink = Sink::default();
    let read = Cursor::root(&root, &sink).object(&["reason"]).and_then(|object| match object.get("reason") {
        Some(at) => at.string().map(printable),
        None => Ok(String::new()),
    });
    let text = sink.finish(read)?;
    Ok((!text.is_empty()).then_some(text))
}

/// Returns one line that is safe to print: without control characters, and without characters that change the direction of
/// writing in a terminal. Cuts it to [`REASON_BYTES`].
fn printable(text: &str) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let clean: String = text.chars().map(|c| if odd(c) { ' ' } else { c }).collect();
    let clean = clean.trim();
    clean.get(..clean.floor_char_boundary(REASON_BYTES)).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Micros, UnixMillis};

    fn parsed(
        method: &str,
        host: &str,
        path: &str,
        more: &[(&str, &str)],
    ) -> Result<Request, (u32, Option<&'static str>)> {
        let pairs = [(":method", method), (":authority", host), (":path", path)];
        let pairs = pairs.iter().chain(more).map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()));
        let hosts = ["ops.example.com".to_owned(), "with-port.example:8080".to_owned()];
        request(&Headers::new(pairs.collect()), &hosts).map_err(|refusal| (refusal.status, refusal.allow))
    }

    const MINE: &[(&str, &str)] = &[("x-requested-with", "")];

    #[test]
    fn every_path_has_its_methods() {
        let order = |order| Ok(Request::Order("d-1".to_owned(), order));
        let get = Some("GET, HEAD");
        for (method, path, more, expected) in [
            ("GET", "/", MINE, Ok(Request::Page)),
            ("HEAD", "/", &[], Ok(Request::Page)),
            ("GET", "/?x=/status", &[], Ok(Request::Page)),
            ("GET", "/status", &[], Ok(Request::Status)),
            ("GET", "/status?pretty", &[], Ok(Request::Status)),
            ("GET", "/events", &[], Ok(Request::Events)),
            ("POST", "/deployments/d-1/rollback", MINE, order(Order::Rollback)),
            ("POST", "/deployments/d-1/resume?", MINE, order(Order::Resume)),
            ("POST", "/deployments/d-1/rollback", &[], Err((403, None))),
            ("GET", "/deployments/d-1/rollback", MINE, Err((405, Some("POST")))),
            ("OPTIONS", "/deployments/d-1/rollback", &[], Err((405, Some("POST")))),
            ("POST", "/status", MINE, Err((405, get))),
            ("DELETE", "/", &[], Err((405, get))),
            ("", "/events", &[], Err((405, get))),
            ("GET", "/status/", &[], Err((404, None))),
            ("GET", "", &[], Err((404, None))),
            ("POST", "/deployments/d-1/rollback/x", MINE, Err((404, None))),
            ("POST", "/deployments/rollback", MINE, Err((404, None))),
            ("POST", "/deployments//rollback", MINE, Ok(Request::Order(String::new(), Order::Rollback))),
        ] {
            assert_eq!(parsed(method, "127.0.0.1:9902", path, more), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_host_that_may_be_rebound_by_dns_is_refused() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9902",
            "10.0.0.1:1",
            "[::1]",
            "[::1]:9902",
            "localhost",
            "LocalHost:9902",
            "ops.example.com",
            "OPS.example.com:9902",
            "with-port.example:8080",
        ] {
            assert_eq!(parsed("GET", host, "/status", &[]), Ok(Request::Status), "{host}");
        }
        for host in [
            "",
            ":9902",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x.ops.example.com",
            "with-port.example",
            "with-port.example:1",
            "a1.2",
        ] {
            assert_eq!(parsed("GET", host, "/status", &[]), Err((403, None)), "{host}");
        }
    }

    fn text(body: &[u8]) -> Result<String, String> {
        let now = Now { mono: Micros(7), wall: UnixMillis(8) };
        cause(&Body::Read(body.to_vec()), now).map(|cause| cause.text).map_err(|refusal| {
            assert_eq!(refusal.status, 400);
            refusal.error
        })
    }

    #[test]
    fn a_reason_becomes_one_printable_line() {
        for (body, expected) in [
            ("", NO_REASON),
            ("{}", NO_REASON),
            (r#"{"reason": " \u0000 "}"#, NO_REASON),
            (r#"{"reason": "bad \"tone\"\n{\u001b[31m"}"#, "bad \"tone\" { [31m"),
            ("{\"reason\": \"\u{202e}evil\u{2066}\"}", "evil"),
            (r#"{"reason": "ä 🐑"}"#, "ä 🐑"),
        ] {
            assert_eq!(text(body.as_bytes()).as_deref(), Ok(expected), "{body}");
        }
        let long = text(["{\"reason\":\"", &"ä".repeat(3000), "\"}"].concat().as_bytes()).unwrap();
        assert_eq!(long, "ä".repeat(150));
    }

    #[test]
    fn another_body_is_refused_with_its_path() {
        for (body, expected) in [
            (&b"{"[..], "body: JSON syntax error: EOF while parsing an object at line 1 column 1"),
            (b"[]", "body: must be an object"),
            (b"{\"reason\": 1}", "reason: must be a string"),
            (b"{\"reason\": null}", "reason: must be a string"),
            (b"{\"why\": \"x\"}", "why: unknown field, expected reason"),
            (b"{\"reason\": \"a\", \"reason\": \"b\"}", "reason: duplicate field"),
        ] {
            assert_eq!(text(body), Err(expected.to_owned()));
        }
        assert!(
            text(b"{\"reason\": \"\xff\"}")
                .unwrap_err()
                .starts_with("body: JSON syntax error: invalid unicode")
        );
    }

    #[test]
    fn an_error_with_any_text_is_valid_json() {
        let body = Refusal::unknown(&["\"<\u{0}", &"x".repeat(500)].concat()).body();
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(value["error"].as_str().unwrap().ends_with("x") && body.len() < 200, "{body}");
    }
}
