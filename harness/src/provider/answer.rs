//! The answers themselves, in OpenAI's shapes unless the path is another API's.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json as value_of};
use tokio::sync::Notify;

use super::behaviour::{Behaviour, Chosen, Fate};
use super::body::{Body, Step, scripted};
use super::reply::{Answer, json, with};
use super::{anthropic, openai};

/// A request, as far as the answer depends on it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub provider: &'a str,
    pub method: &'a Method,
    pub path: &'a str,
    pub body: &'a Bytes,
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
                        false => openai::error(status, &[]),
                    };
                    return with(error, &headers);
                }
                _ => return openai::error(StatusCode::INTERNAL_SERVER_ERROR, &[]),
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
        return openai::completion(provider, behaviour, asked.body);
    }
    if asked.method == Method::POST && anthropic::is_messages(asked.path) {
        return anthropic::message(provider, behaviour, asked.body);
    }
    if asked.method == Method::GET && asked.path.ends_with("/v1/models") {
        let models = ["gpt-4o", "gpt-4o-mini"].map(
            |id| value_of!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": provider}),
        );
        return Answer::Whole(value_of!({"object": "list", "data": models}));
    }
    Answer::Whole(value_of!({"provider": provider, "method": asked.method.as_str(), "path": asked.path}))
}
