//! `/_mock/`: the provider's behaviour and journal over HTTP.

use bytes::Bytes;
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Chooser};
use super::body::Body;
use super::reply::json as answer_json;
use super::{Shared, lock};

/// Requests shown at once: enough to read, and not a hundred megabytes after a load test.
const SHOWN_MAX: usize = 1_000;

/// Answers `/_mock/<what>`.
pub(super) fn answer(shared: &Shared, method: &Method, what: &str, body: &Bytes) -> Response<Body> {
    match (method, what) {
        (&Method::GET, "behaviour") => {
            answer_json(StatusCode::OK, &json!(lock(&shared.chooser).behaviour().clone()))
        }
        (&Method::PUT, "behaviour") => match serde_json::from_slice::<Behaviour>(body) {
            Ok(behaviour) => {
                let answer = answer_json(StatusCode::OK, &json!(behaviour));
                *lock(&shared.chooser) = Chooser::new(behaviour);
                answer
            }
            Err(error) => answer_json(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
        },
        (&Method::GET, "requests") => {
            let journal = lock(&shared.journal);
            let hidden = journal.received().len().saturating_sub(SHOWN_MAX);
            let shown: Vec<Value> =
                journal.received().skip(hidden).map(|received| received.to_json()).collect();
            answer_json(
                StatusCode::OK,
                &json!({"provider": shared.name, "count": journal.count(), "requests": shown}),
            )
        }
        (&Method::DELETE, "requests") => {
            lock(&shared.journal).clear();
            answer_json(StatusCode::OK, &json!({"provider": shared.name, "count": 0, "requests": []}))
        }
        (_, "behaviour" | "requests") => {
            answer_json(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "method not allowed"}))
        }
        _ => answer_json(
            StatusCode::NOT_FOUND,
            &json!({"error": "unknown, expected /_mock/behaviour or /_mock/requests"}),
        ),
    }
}
