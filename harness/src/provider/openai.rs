//! Replies in the shapes of OpenAI's API.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::body::Body;
use super::reply::{Answer, json as whole, with};

/// An error in OpenAI's shape.
pub(super) fn error(status: StatusCode, headers: &[(&str, &str)]) -> Response<Body> {
    let (kind, code) = match status.as_u16() {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        403 => ("permission_error", Some("permission_denied")),
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        400..=499 => ("invalid_request_error", None),
        _ => ("server_error", None),
    };
    let message = format!("mock provider answers {status}");
    let value = json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    with(whole(status, &value), &headers)
}

/// A chat completion, whole or streamed as the body asks; a body that is not JSON gets a whole one.
pub(super) fn completion(provider: &str, behaviour: &Behaviour, body: &Bytes) -> Answer {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let model = request["model"].as_str().unwrap_or("gpt-4o-mini");
    let id = format!("chatcmpl-{provider}");
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let words = behaviour.words(provider);
    let usage = json!({
        "prompt_tokens": 9,
        "completion_tokens": words.len(),
        "total_tokens": 9 + words.len(),
    });
    if request["stream"] != json!(true) {
        return Answer::Whole(json!({
            "id": id, "object": "chat.completion", "created": created, "model": model,
            "system_fingerprint": format!("fp_{provider}"),
            "choices": [{
                "index": 0, "finish_reason": "stop", "logprobs": null,
                "message": {"role": "assistant", "content": words.concat(), "refusal": null},
            }],
            "usage": usage,
        }));
    }
    let event = |choices: Value, usage: Value| {
        let value = json!({
            "id": id, "object": "chat.completion.chunk", "created": created, "model": model,
            "system_fingerprint": format!("fp_{provider}"), "choices": choices, "usage": usage,
        });
        Bytes::from(format!("data: {value}\n\n"))
    };
    let choice = |delta: Value, finish: Value| {
        event(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let mut events = vec![choice(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(words.iter().map(|word| choice(json!({"content": word}), Value::Null)));
    events.push(choice(json!({}), json!("stop")));
    if request["stream_options"]["include_usage"] == json!(true) {
        events.push(event(json!([]), usage));
    }
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Answer::Stream(events)
}
