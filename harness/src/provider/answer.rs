//! The answers themselves, in OpenAI's shapes unless the path is another API's.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::anthropic;
use super::behaviour::{Behaviour, Chosen, Fate};
use super::body::{Body, Step, scripted, whole};

/// A request, as far as the answer depends on it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub provider: &'a str,
    pub method: &'a Method,
    pub path: &'a str,
    pub body: &'a Bytes,
}

/// What an answer would be if nothing went wrong.
pub(super) enum Answer {
    Whole(Value),
    Stream(Vec<Bytes>),
}

/// How an answer breaks off.
struct Cut {
    after_chunks: usize,
    end: Step,
}

/// Answers a request as chosen; a reset is asked of the connection by `reset`.
pub(super) async fn answer(asked: &Asked<'_>, chosen: Chosen, reset: Arc<Notify>) -> Response<Body> {
    let behaviour = &*chosen.behaviour;
    let mut headers = behaviour.headers.clone();
    let cut = match chosen.fate {
        Fate::Serve => None,
        Fate::Status { status, headers: more } => {
            headers.extend(more);
            match StatusCode::from_u16(status) {
                Ok(StatusCode::OK) => None,
                // An informational status is not an answer, and hyper panics on some.
                Ok(status) if status.as_u16() >= 200 => {
                    let error = match anthropic::is_messages(asked.path) {
                        true => anthropic::error(status),
                        false => error(status, &[]),
                    };
                    return with(error, &headers);
                }
                _ => return error(StatusCode::INTERNAL_SERVER_ERROR, &[]),
            }
        }
        Fate::Reset => {
            reset.notify_one();
            pending().await
        }
        Fate::Hang => pending().await,
        Fate::ResetAfter(after_chunks) => Some(Cut { after_chunks, end: Step::Reset }),
        Fate::HangAfter(after_chunks) => Some(Cut { after_chunks, end: Step::Hang }),
    };
    let response = match (compose(asked, behaviour), cut) {
        (Answer::Whole(value), None) => json(StatusCode::OK, &value),
        (Answer::Whole(value), Some(cut)) => broken_whole(&value, cut, reset),
        (Answer::Stream(events), cut) => stream(events, behaviour.chunk_delay_ms, cut, reset),
    };
    with(response, &headers)
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(whole(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

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
    with(json(status, &value), &headers)
}

/// Adds headers, of which those that no HTTP message can carry are left out.
fn with(mut response: Response<Body>, headers: &BTreeMap<String, String>) -> Response<Body> {
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Half of an answer (or, after 0 chunks, none of it) under headers that promise all of it.
fn broken_whole(value: &Value, cut: Cut, reset: Arc<Notify>) -> Response<Body> {
    let bytes = Bytes::from(value.to_string());
    let sent = if cut.after_chunks == 0 { 0 } else { bytes.len() / 2 };
    let mut response = Response::new(scripted(vec![Step::Send(bytes.slice(..sent)), cut.end], reset));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Server-sent events, with a delay between them, broken off if so wanted.
fn stream(events: Vec<Bytes>, delay_ms: u64, cut: Option<Cut>, reset: Arc<Notify>) -> Response<Body> {
    let delay = Duration::from_millis(delay_ms);
    let sent = cut.as_ref().map_or(events.len(), |cut| cut.after_chunks);
    let mut steps = Vec::with_capacity(2 * events.len());
    for (index, event) in events.into_iter().take(sent).enumerate() {
        if index > 0 {
            steps.push(Step::Wait(delay));
        }
        steps.push(Step::Send(event));
    }
    if let Some(cut) = cut {
        steps.push(Step::Wait(delay));
        steps.push(cut.end);
    }
    let mut response = Response::new(scripted(steps, reset));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache"));
    response
}

/// The answer to a path.
fn compose(asked: &Asked<'_>, behaviour: &Behaviour) -> Answer {
    let provider = asked.provider;
    if asked.method == Method::POST && asked.path.ends_with("/chat/completions") {
        return completion(provider, behaviour, asked.body);
    }
    if asked.method == Method::POST && anthropic::is_messages(asked.path) {
        return anthropic::message(provider, behaviour, asked.body);
    }
    if asked.method == Method::GET && asked.path.ends_with("/v1/models") {
        let models = ["gpt-4o", "gpt-4o-mini"]
            .map(|id| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": provider}));
        return Answer::Whole(json!({"object": "list", "data": models}));
    }
    Answer::Whole(json!({"provider": provider, "method": asked.method.as_str(), "path": asked.path}))
}

/// A chat completion, whole or streamed as the body asks; a body that is not JSON gets a whole one.
fn completion(provider: &str, behaviour: &Behaviour, body: &Bytes) -> Answer {
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
