//! An Envoy, a canary that gets every request, and a stable version to fall back on: each with its own pool, host, path and
//! headers, so that whatever goes to the wrong provider shows.

use bellwether_harness::client::{Answer, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route};
use bellwether_harness::provider::{Provider, Received};
use serde_json::{Value, json};

/// Keys in each pool: enough for every refusal of a test to cost another one.
pub const KEYS: usize = 8;

/// The headers that a version may set or take its key in.
const TELLING: [&str; 9] = [
    "host",
    "authorization",
    "x-api-key",
    "api-key",
    "x-stable-key",
    "x-canary-key",
    "x-tier",
    "x-only-stable",
    "x-only-canary",
];

pub struct Rig {
    pub envoy: EnvoyProcess,
    /// Stable's provider.
    pub v1: Provider,
    /// The canary's.
    pub v2: Provider,
}

impl Rig {
    pub async fn start(route: Route, config: Value) -> Rig {
        Rig::with(EnvoyOptions { route, ..EnvoyOptions::default() }, config).await
    }

    pub async fn with(options: EnvoyOptions, config: Value) -> Rig {
        let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
        let options = options.cluster("v1", v1.port()).cluster("v2", v2.port()).router_config(config);
        Rig { envoy: EnvoyProcess::start(options).await.unwrap(), v1, v2 }
    }

    /// A request as a client with credentials and headers of its own would send it.
    pub fn request(stream: bool) -> Request {
        let own = [
            ("host", "client.example.com"),
            ("authorization", "Bearer sk-of-the-client"),
            ("api-key", "sk-of-the-client"),
            ("x-stable-key", "sk-of-the-client"),
            ("x-canary-key", "sk-of-the-client"),
            ("x-tier", "mine"),
        ];
        own.into_iter().fold(Request::chat(stream), |request, (name, value)| request.header(name, value))
    }

    pub async fn ask(&self, stream: bool) -> Answer {
        self.envoy.client().send(Rig::request(stream)).await.unwrap()
    }

    /// The tries that either provider has seen since the last time, stable's first.
    pub fn take(&self) -> (Vec<Received>, Vec<Received>) {
        let taken = (self.v1.requests(), self.v2.requests());
        self.v1.clear();
        self.v2.clear();
        taken
    }
}

/// The canary has all the traffic; limits and comparison are off.
pub fn config() -> Value {
    let pool = |name: &str, header: &str| {
        let keys: Vec<Value> = (0..KEYS)
            .map(|n| json!({"id": format!("{name}-{n}"), "value": format!("sk-{name}-{n}")}))
            .collect();
        // All faults here are the provider's; no key may go out of use because of them.
        json!({"name": name, "header": header, "prefix": "Key ", "keys": keys,
               "rejected": {"after": 1000}, "failing": {"after": 1000}})
    };
    json!({
        "deployments": [{"name": "d", "stable": "v1", "guard": {"compare": false}, "versions": [
            {"id": "v1", "weight": 0, "cluster": "v1", "key_pool": "stable", "host": "stable.example.com",
             "rewrite_prefix": {"from": "/v1/", "to": "/stable/"},
             "set_headers": {"x-tier": "stable", "x-only-stable": "1"}},
            {"id": "v2", "weight": 100, "cluster": "v2", "key_pool": "canary", "host": "canary.example.com",
             "rewrite_prefix": {"from": "/v1/", "to": "/canary/"},
             "set_headers": {"x-tier": "canary", "x-only-canary": "1"}}]}],
        "key_pools": [pool("stable", "x-stable-key"), pool("canary", "x-canary-key")],
    })
}

fn telling(received: &Received) -> Vec<(&str, &str)> {
    TELLING.into_iter().filter_map(|name| Some((name, received.header(name)?))).collect()
}

/// Fails unless this request holds all that stable's provider may see, and nothing else. Returns the key.
pub fn assert_stables(received: &Received, context: &str) -> String {
    let key = received.header("x-stable-key").unwrap_or_default();
    assert!(key.starts_with("Key sk-stable-"), "{context}: {received:?}");
    assert_eq!(received.path, "/stable/chat/completions", "{context}");
    let expected = [
        ("host", "stable.example.com"),
        ("x-stable-key", key),
        // The header of another pool keeps the client's value.
        ("x-canary-key", "sk-of-the-client"),
        ("x-tier", "stable"),
        ("x-only-stable", "1"),
    ];
    assert_eq!(telling(received), expected, "{context}");
    assert!(!mentions(received, "canary"), "{context}: {received:?}");
    key.to_owned()
}

/// As [`assert_stables`], of the canary's.
pub fn assert_canarys(received: &Received, context: &str) -> String {
    let key = received.header("x-canary-key").unwrap_or_default();
    assert!(key.starts_with("Key sk-canary-"), "{context}: {received:?}");
    assert_eq!(received.path, "/canary/chat/completions", "{context}");
    let expected = [
        ("host", "canary.example.com"),
        ("x-stable-key", "sk-of-the-client"),
        ("x-canary-key", key),
        ("x-tier", "canary"),
        ("x-only-canary", "1"),
    ];
    assert_eq!(telling(received), expected, "{context}");
    assert!(!mentions(received, "stable"), "{context}: {received:?}");
    key.to_owned()
}

/// Whether a word stands anywhere in a request but in its body.
pub fn mentions(received: &Received, word: &str) -> bool {
    let in_value = |value: &[u8]| value.windows(word.len()).any(|part| part == word.as_bytes());
    let named = |(name, value): &(String, Vec<u8>)| {
        // The header of the other's pool is the client's own.
        (name.contains(word) && value != b"sk-of-the-client") || in_value(value)
    };
    received.path.contains(word) || received.headers.iter().any(named)
}

/// Fails unless the client was served, whole, by this version.
pub fn assert_served(answer: &Answer, version: &str, stream: bool, context: &str) {
    assert_eq!((answer.status, answer.version()), (200, Some(version)), "{context}: {}", answer.text());
    assert_eq!(answer.broken, None, "{context}");
    assert_eq!(answer.text().contains("data: [DONE]"), stream, "{context}: {}", answer.text());
}
