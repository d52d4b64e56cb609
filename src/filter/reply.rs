//! Answers that the filter gives itself, and the rate limits in a provider's answer.

use crate::host;
use crate::keys::reset;
use crate::time::{Millis, UnixMillis};

/// Answers a request for which no key is available. `returns_in`: time until a key comes back by itself. The response passes
/// through our own response callback.
pub fn refuse(returns_in: Option<Millis>) {
    let (status, body) = unavailable(returns_in);
    // Whole seconds, rounded up: a client that comes back too early is refused again.
    let seconds = returns_in.map(|wait| wait.0.div_ceil(1000).max(1).to_string());
    let mut headers = vec![("content-type", "application/json")];
    if let Some(seconds) = &seconds {
        headers.push(("retry-after", seconds));
    }
    host::respond(status, headers, body.as_bytes());
}

/// Answers a request of the admin listener.
pub fn answer(status: u32, kind: &str, policy: &str, allow: Option<&str>, body: &str) {
    let mut headers = vec![
        ("content-type", kind),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", policy),
    ];
    headers.extend(allow.map(|allow| ("allow", allow)));
    host::respond(status, headers, body.as_bytes());
}

/// Returns status and body of the answer when no key is available, as an OpenAI client understands it.
fn unavailable(returns_in: Option<Millis>) -> (u32, &'static str) {
    match returns_in {
        Some(_) => (429, RATE_LIMITED),
        None => (503, UNAVAILABLE),
    }
}

const RATE_LIMITED: &str = r#"{"error":{"message":"every API key for this request is rate limited","type":"rate_limit_error","param":null,"code":"keys_rate_limited"}}"#;

const UNAVAILABLE: &str = r#"{"error":{"message":"no API key is available for this request","type":"server_error","param":null,"code":"keys_unavailable"}}"#;

/// Returns the time that a response with status 429 states until the next request. Only in the response-headers callback.
pub fn rate_limit_wait(status: u16, now: UnixMillis) -> Option<Millis> {
    if status != 429 {
        return None;
    }
    let headers = host::response_headers()?;
    let named = headers.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value));
    reset::requested_wait(named, now)
}
