//! Answers in the shapes of Anthropic's messages API.

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::body::Body;
use super::reply::{Answer, json as whole};

/// Whether a path is of this API.
pub(super) fn is_messages(path: &str) -> bool {
    path.ends_with("/messages")
}

/// An error.
pub(super) fn error(status: StatusCode) -> Response<Body> {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    let message = format!("mock provider answers {status}");
    whole(status, &json!({"type": "error", "error": {"type": kind, "message": message}}))
}

/// A message, whole or streamed as the body asks; a body that is not JSON gets a whole one.
pub(super) fn message(provider: &str, behaviour: &Behaviour, body: &Bytes) -> Answer {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = behaviour.words(provider);
    let message = |content: Value, stop: Value, written: usize| {
        json!({
            "id": format!("msg_{provider}"), "type": "message", "role": "assistant",
            "model": request["model"].as_str().unwrap_or("claude-mock"), "content": content,
            "stop_reason": stop, "stop_sequence": null,
            "usage": {"input_tokens": 9, "output_tokens": written},
        })
    };
    if request["stream"] != json!(true) {
        let content = json!([{"type": "text", "text": words.concat()}]);
        return Answer::Whole(message(content, json!("end_turn"), words.len()));
    }
    let mut events = vec![
        event("message_start", json!({"message": message(json!([]), Value::Null, 0)})),
        event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
    ];
    events.extend(words.iter().map(|word| {
        event("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": word}}))
    }));
    events.push(event("content_block_stop", json!({"index": 0})));
    let end = json!({"stop_reason": "end_turn", "stop_sequence": null});
    events.push(event("message_delta", json!({"delta": end, "usage": {"output_tokens": words.len()}})));
    events.push(event("message_stop", json!({})));
    Answer::Stream(events)
}

fn event(kind: &str, mut data: Value) -> Bytes {
    data["type"] = json!(kind);
    Bytes::from(format!("event: {kind}\ndata: {data}\n\n"))
}
