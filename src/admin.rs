//! The admin role's requests and answers: what is asked for, by whom it may be, and in which words it is answered.
//!
//! The listener has no authentication: it is bound to loopback, and whoever reaches it may roll back. What has to be kept out
//! is a web page in a browser on the same machine. A page of another origin cannot read an answer (there are no CORS
//! headers) nor send a POST with `x-requested-with` (that takes a preflight, which is refused). A page whose name has been
//! pointed at 127.0.0.1 (DNS rebinding) is of the same origin to the browser, but its requests carry its name: so a `host`
//! that is neither an IP address nor `localhost` must be one that the role's configuration names.

pub mod page;

use crate::engine::{Order, Refused};
use crate::headers::Headers;
use crate::json::{self, Cursor, Sink, quoted};
use crate::problems::Problems;
use crate::rollout::{Cause, OPERATOR};
use crate::time::Now;

/// Longest reason kept, in bytes.
const REASON_BYTES: usize = 300;
/// When an operator gives none.
const NO_REASON: &str = "no reason given";
/// When one is given on a listener without the filter that reads bodies. The order matters more than its reason.
const UNREAD: &str = "the reason could not be read: the listener has no filter that reads bodies";

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `GET /`
    Page,
    /// `GET /status`
    Status,
    /// `GET /events`
    Events,
    /// `POST /deployments/NAME/rollback`, or `resume`
    Order(String, Order),
}

/// Why there is nothing but an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u32,
    /// In words.
    pub error: String,
    /// Methods that the path takes, where another was used.
    pub allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: u32, error: &str) -> Refusal {
        Refusal { status, error: error.to_owned(), allow: None }
    }

    fn method(allow: &'static str) -> Refusal {
        Refusal { allow: Some(allow), ..Refusal::new(405, "the path does not take this method") }
    }

    /// No plan on this worker.
    pub fn no_router() -> Refusal {
        Refusal::new(
            503,
            "no router role in this VM (yet): it must be configured (if its first configuration was rejected, Envoy's log says why), and with the very same vm_config as the admin role",
        )
    }

    /// The plan has no such deployment.
    pub fn unknown(name: &str) -> Refusal {
        let shown: String = name.chars().take(63).collect();
        Refusal::new(404, &["no deployment is named ", &shown].concat())
    }

    /// The events cannot be read.
    pub fn events() -> Refusal {
        Refusal::new(503, "the events in shared data cannot be read")
    }

    /// The answer's body.
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

/// Reads a request. `hosts` are those that the configuration names, in lower case.
///
/// # Errors
/// The answer, if it is not to be followed.
pub fn ask(headers: &Headers, hosts: &[String]) -> Result<Ask, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| String::from_utf8(value.into_owned()).ok());
    if !text(":authority").is_some_and(|host| may_be_asked(&host.to_ascii_lowercase(), hosts)) {
        let rule =
            r#"the host must be an IP address, localhost, or in "hosts" of the admin role's configuration"#;
        return Err(Refusal::new(403, rule));
    }
    let path = text(":path").unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let method = text(":method").unwrap_or_default();
    let ask = match path {
        "/" => Ask::Page,
        "/status" => Ask::Status,
        "/events" => Ask::Events,
        _ => order(path).ok_or_else(|| Refusal::new(404, "no such path"))?,
    };
    match (&ask, method.as_str()) {
        // Whatever its value: that there is one at all takes a script of this origin, or no browser.
        (Ask::Order(..), "POST") if !headers.has("x-requested-with") => {
            Err(Refusal::new(403, "a POST needs the header x-requested-with, with any value"))
        }
        (Ask::Order(..), "POST") => Ok(ask),
        (Ask::Order(..), _) => Err(Refusal::method("POST")),
        (_, "GET" | "HEAD") => Ok(ask),
        _ => Err(Refusal::method("GET, HEAD")),
    }
}

fn order(path: &str) -> Option<Ask> {
    let (name, order) = path.strip_prefix("/deployments/")?.split_once('/')?;
    let order = match order {
        "rollback" => Order::Rollback,
        "resume" => Order::Resume,
        _ => return None,
    };
    Some(Ask::Order(name.to_owned(), order))
}

fn may_be_asked(host: &str, hosts: &[String]) -> bool {
    if host.starts_with('[') {
        return true;
    }
    let name = host.split(':').next().unwrap_or_default();
    // A name whose last label is a number is an address to every browser, or nothing.
    let is_address = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_address || name == "localhost" || hosts.iter().any(|known| known == host || known == name)
}

/// The body of a POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// As it was sent; empty if there is none.
    Read(Vec<u8>),
    /// There is one, and it cannot be had.
    Unread,
}

/// Reads the body of a POST: nothing, or `{"reason": "…"}`.
///
/// # Errors
/// The answer, if it is something else.
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

/// One line that does what it looks like: no control characters, none that turn the direction of what follows in a terminal.
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

    fn asked(
        method: &str,
        host: &str,
        path: &str,
        more: &[(&str, &str)],
    ) -> Result<Ask, (u32, Option<&'static str>)> {
        let pairs = [(":method", method), (":authority", host), (":path", path)];
        let pairs = pairs.iter().chain(more).map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()));
        let hosts = ["ops.example.com".to_owned(), "with-port.example:8080".to_owned()];
        ask(&Headers::new(pairs.collect()), &hosts).map_err(|refusal| (refusal.status, refusal.allow))
    }

    const MINE: &[(&str, &str)] = &[("x-requested-with", "")];

    #[test]
    fn paths_and_methods() {
        let order = |order| Ok(Ask::Order("d-1".to_owned(), order));
        let get = Some("GET, HEAD");
        for (method, path, more, expected) in [
            ("GET", "/", MINE, Ok(Ask::Page)),
            ("HEAD", "/", &[], Ok(Ask::Page)),
            ("GET", "/?x=/status", &[], Ok(Ask::Page)),
            ("GET", "/status", &[], Ok(Ask::Status)),
            ("GET", "/status?pretty", &[], Ok(Ask::Status)),
            ("GET", "/events", &[], Ok(Ask::Events)),
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
            ("POST", "/deployments//rollback", MINE, Ok(Ask::Order(String::new(), Order::Rollback))),
        ] {
            assert_eq!(asked(method, "127.0.0.1:9902", path, more), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_host_that_somebody_may_have_pointed_here_is_refused() {
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
            assert_eq!(asked("GET", host, "/status", &[]), Ok(Ask::Status), "{host}");
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
            assert_eq!(asked("GET", host, "/status", &[]), Err((403, None)), "{host}");
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
    fn reasons_are_one_clean_line() {
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
    fn another_body_is_refused_with_a_place() {
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
    fn an_error_is_json_whatever_is_in_it() {
        let body = Refusal::unknown(&["\"<\u{0}", &"x".repeat(500)].concat()).body();
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(value["error"].as_str().unwrap().ends_with("x") && body.len() < 200, "{body}");
    }
}
