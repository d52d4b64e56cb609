//! The requests a provider has received.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::http::request::Parts;
use serde_json::{Value, json};

/// Kept requests: minutes of the heaviest load test in a few hundred megabytes. The oldest go first.
const KEPT_MAX: usize = 200_000;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// When its headers were complete, for differences.
    pub at: Instant,
    /// The same in microseconds since 1970, for comparison with other processes.
    pub unix_micros: u64,
    /// The method.
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// All headers in the order of arrival of their names, these in lower case; values need not be UTF-8.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Length of the body in bytes.
    pub body_len: usize,
    /// The body, where the provider keeps bodies; else empty.
    pub body: Bytes,
    /// The key it came with: `authorization` without `Bearer `, else `x-api-key`, else `api-key`.
    pub key: Option<String>,
}

impl Received {
    pub(super) fn new(arrival: Arrival, head: &Parts, body: &Bytes) -> Received {
        let headers: Vec<(String, Vec<u8>)> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        let mut received = Received {
            at: arrival.at,
            unix_micros: arrival.unix_micros,
            method: head.method.as_str().to_owned(),
            path: head.uri.to_string(),
            headers,
            body_len: body.len(),
            body: body.clone(),
            key: None,
        };
        received.key = received
            .header("authorization")
            .map(|value| value.strip_prefix("Bearer ").unwrap_or(value))
            .or_else(|| received.header("x-api-key"))
            .or_else(|| received.header("api-key"))
            .map(str::to_owned);
        received
    }

    /// The first value of a header, if it is there and UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The model of a JSON body, where the provider keeps bodies.
    pub fn model(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        body["model"].as_str().map(str::to_owned)
    }

    /// The request as JSON, with values that are not UTF-8 replaced by something that is.
    pub(super) fn to_json(&self) -> Value {
        let headers: Vec<(&str, String)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        json!({
            "unix_micros": self.unix_micros,
            "method": self.method,
            "path": self.path,
            "headers": headers,
            "body_len": self.body_len,
            "key": self.key,
        })
    }
}

/// When a request arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    at: Instant,
    unix_micros: u64,
}

impl Arrival {
    pub fn now() -> Arrival {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Arrival { at: Instant::now(), unix_micros: u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX) }
    }
}

/// The last requests and how many there were.
#[derive(Debug, Default)]
pub(super) struct Journal {
    received: VecDeque<Received>,
    count: u64,
    count_only: bool,
    keep_bodies: bool,
}

impl Journal {
    pub fn push(&mut self, mut received: Received) {
        if !self.keep_bodies {
            received.body = Bytes::new();
        }
        self.count += 1;
        if self.count_only {
            return;
        }
        if self.received.len() == KEPT_MAX {
            self.received.pop_front();
        }
        self.received.push_back(received);
    }

    pub fn received(&self) -> impl DoubleEndedIterator<Item = &Received> + ExactSizeIterator {
        self.received.iter()
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn count_only(&mut self) {
        self.count_only = true;
        self.received = VecDeque::new();
    }

    pub fn keep_bodies(&mut self) {
        self.keep_bodies = true;
    }

    pub fn clear(&mut self) {
        let Journal { count_only, keep_bodies, .. } = *self;
        *self = Journal { count_only, keep_bodies, ..Journal::default() };
    }
}
