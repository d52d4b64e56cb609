//! Answers that the filter gives itself, and the rate limits in a provider's answer.

use crate::headers::Headers;
use crate::host;
use crate::json::quoted;
use crate::keys::reset::{self, Limit};
use crate::llm::api::Api;
use crate::outcome::blame::KeyAnswer;
use crate::plan::pool::{KeyPool, Refusal};
use crate::time::{Millis, UnixMillis};

/// Longest return of a key for which a client should wait and try again (60 s): the official clients wait no longer.
const WORTH_A_RETRY: Millis = Millis(60_000);

/// Answers a request for which no key is available. `returns_in`: time until a key comes back by itself. The response passes
/// through our own response callback.
pub fn refuse(returns_in: Option<Millis>) {
    let (status, body) = unavailable(returns_in);
    let seconds = returns_in.map(whole_seconds);
    let mut headers = vec![("content-type", "application/json")];
    if let (Some(wait), Some(seconds)) = (returns_in, &seconds) {
        headers.extend([("retry-after", seconds.as_str()), ("x-should-retry", should_retry(wait))]);
    }
    host::respond(status, headers, body.as_bytes());
}

/// A fault of a request that the filter answers itself.
pub enum Invalid {
    /// The body is too large, compressed, no JSON object, or names no model.
    Unreadable,
    /// Two parsers could read the body in different ways.
    Ambiguous,
    /// No deployment takes the model.
    UnknownModel {
        /// The client's model.
        model: String,
        /// Patterns of the models that are taken.
        known: Vec<String>,
    },
}

/// Answers a faulty request, in the words of the API that its path belongs to.
pub fn invalid(headers: &Headers, invalid: &Invalid) {
    let api = headers.get(":path").and_then(|path| Api::of_path(&path));
    let (status, code, message) = match invalid {
        Invalid::Unreadable => (
            400,
            "body_unreadable",
            "the request body must be an uncompressed JSON object with a model, within the size limit"
                .to_owned(),
        ),
        Invalid::Ambiguous => (
            400,
            "body_ambiguous",
            "the names of the members of the request body must be unique and without escapes".to_owned(),
        ),
        Invalid::UnknownModel { model, known } => (
            404,
            "model_not_found",
            format!("the model `{model}` is not served here; known models: {}", known.join(", ")),
        ),
    };
    let body = error_body(api, status, code, &message);
    host::respond(status, vec![("content-type", "application/json")], body.as_bytes());
}

/// Returns an error in the shape of an API; OpenAI's for a path that belongs to none.
fn error_body(api: Option<Api>, status: u32, code: &str, message: &str) -> String {
    let message = quoted(message);
    match api {
        Some(Api::Anthropic) => {
            let kind = if status == 404 { "not_found_error" } else { "invalid_request_error" };
            format!(r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}}}}"#)
        }
        Some(Api::Gemini) => {
            let kind = if status == 404 { "NOT_FOUND" } else { "INVALID_ARGUMENT" };
            format!(r#"{{"error":{{"code":{status},"message":{message},"status":"{kind}"}}}}"#)
        }
        _ => format!(
            r#"{{"error":{{"message":{message},"type":"invalid_request_error","param":null,"code":"{code}"}}}}"#
        ),
    }
}

/// Answers in place of a provider that has refused our key: the client must not take that for a refusal of its own. Only in the
/// response-headers callback. `version`: name and value of the header that names the version.
pub fn hide_refusal(version: Option<(&str, &str)>) {
    let headers = [("content-type", "application/json")].into_iter().chain(version).collect();
    host::respond(503, headers, UNAVAILABLE.as_bytes());
}

/// States in a provider's answer when a key returns. Only in the response-headers callback.
pub fn state_return(returns_in: Millis) {
    host::set_response_header("retry-after", &whole_seconds(returns_in));
    host::set_response_header("x-should-retry", should_retry(returns_in));
    // The official clients read it before `retry-after`.
    host::remove_response_header("retry-after-ms");
}

/// Returns whole seconds, rounded up: a client that comes back too early is refused again.
fn whole_seconds(wait: Millis) -> String {
    wait.0.div_ceil(1000).max(1).to_string()
}

fn should_retry(wait: Millis) -> &'static str {
    if wait <= WORTH_A_RETRY { "true" } else { "false" }
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

/// Returns what a response says about the pool's key that its request carried. Only in the response-headers callback.
pub fn key_answer(pool: Option<&KeyPool>, status: u16, now: UnixMillis) -> KeyAnswer {
    let Some(pool) = pool.filter(|_| (400..500).contains(&status)) else { return KeyAnswer::Silent };
    if status != 429 {
        return pool.refusal(status).map_or(KeyAnswer::Silent, KeyAnswer::Refused);
    }
    let headers = host::response_headers().unwrap_or_default();
    let named = headers.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value));
    match reset::limit(named, now) {
        Limit::Unknown => KeyAnswer::Refused(Refusal::Limited),
        Limit::QuotaLeft => KeyAnswer::QuotaLeft,
        Limit::Exhausted(wait) => KeyAnswer::Limited(wait),
    }
}
