//! The settings of Envoy in the samples, on a real Envoy: each does what the comment beside it says.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bellwether_harness::client::{Answer, Request, raw};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route};
use bellwether_harness::provider::{Behaviour, Fault, Provider};
use bellwether_harness::testing::load::eventually;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::common::failover::{Rig, assert_served, assert_stables, config};

/// On loopback each awaited event takes milliseconds; on a busy machine, seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The connection manager of the listener that serves requests.
fn manager(bootstrap: &mut Value) -> &mut Value {
    bootstrap
        .pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config")
        .expect("the connection manager")
}

/// The route that deployments take.
fn route(bootstrap: &mut Value) -> &mut Value {
    manager(bootstrap).pointer_mut("/route_config/virtual_hosts/0/routes/0/route").expect("the route")
}

/// A sample with one of its values changed, which must be there.
fn with(sample: Route, pointer: &'static str, was: Value, is: Value) -> EnvoyOptions {
    let edit = move |bootstrap: &mut Value| {
        let value = manager(bootstrap).pointer_mut(pointer);
        let value = value.unwrap_or_else(|| panic!("the sample has no {pointer}"));
        assert_eq!(*value, was, "{pointer}");
        *value = is;
    };
    EnvoyOptions { route: sample, edit: Some(Box::new(edit)), ..EnvoyOptions::default() }
}

/// One deployment whose only version is served by this cluster, with a key.
fn all_to(cluster: &str) -> Value {
    json!({
        "deployments": [{"name": "test", "stable": "v1", "versions": [
            {"id": "v1", "weight": 100, "cluster": cluster, "key_pool": "pool"},
        ]}],
        "key_pools": [{"name": "pool", "keys": [{"id": "only", "value": "sk-only"}]}],
    })
}

// Retries

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_another_envoy_has_marked_goes_on_to_stable() {
    let marked = || Behaviour::failing(Fault::status(429, &[("x-envoy-ratelimited", "true")]));
    for way in Route::here(&Route::WITH_FAILOVER) {
        // With another key of the canary the request would try that first.
        let mut one_key = config();
        one_key["key_pools"][1]["keys"] = json!([{"id": "only", "value": "sk-canary-0"}]);
        let rig = Rig::start(way, one_key).await;
        for behaviour in [marked(), Behaviour::status(429)] {
            rig.v2.set(behaviour);
            assert_served(&rig.ask(false).await, "v1", false, &format!("{way:?}"));
            assert_stables(&rig.take().0[0], &format!("{way:?}"));
        }
        // Without the word that the sample has for it the client gets the 429.
        let edit = |bootstrap: &mut Value| {
            let words = &mut route(bootstrap)["retry_policy"]["retry_on"];
            *words = json!(words.as_str().unwrap().replace(",envoy-ratelimited", ""));
        };
        let options = EnvoyOptions { route: way, edit: Some(Box::new(edit)), ..EnvoyOptions::default() };
        let rig = Rig::with(options, config()).await;
        rig.v2.set(marked());
        assert_eq!(rig.ask(false).await.status, 429, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_cluster_of_the_sample_may_be_stables_when_a_canarys_last_key_goes_out() {
    for (stable, canary) in [("openai", "relay"), ("relay", "openai")] {
        let mut config = config();
        let deployment = &mut config["deployments"][0];
        deployment["failover"] = json!({"after": 2});
        deployment["versions"][0]["cluster"] = json!(stable);
        deployment["versions"][1]["cluster"] = json!(canary);
        config["key_pools"][1]["keys"] = json!([{"id": "last", "value": "sk-canary-0"}]);
        for way in Route::here(&[Route::Matcher]) {
            let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
            let options = EnvoyOptions { route: way, ..EnvoyOptions::default() };
            let options = options.cluster(stable, v1.port()).cluster(canary, v2.port());
            let envoy = EnvoyProcess::start(options.router_config(config.clone())).await.unwrap();
            v2.set(Behaviour::failing(Fault::status(429, &[("retry-after", "60")])));
            let answer = envoy.client().send(Rig::request(false)).await.unwrap();
            assert_served(&answer, "v1", false, stable);
            assert_stables(&v1.requests()[0], stable);
        }
    }
}

// The client's side of a connection

/// The time from the last byte of a stream that its provider cuts to the end of the connection.
async fn end_of_a_cut_stream(port: u16) -> Duration {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let body = r#"{"model":"m","stream":true,"messages":[]}"#;
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all([head, body.to_owned()].concat().as_bytes()).await.unwrap();
    let (mut received, mut last) = (Vec::new(), Instant::now());
    while let Ok(1..) = timeout(LIMIT, stream.read_buf(&mut received)).await.expect("an end") {
        last = Instant::now();
    }
    let text = String::from_utf8_lossy(&received);
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains("[DONE]"), "{text}");
    last.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_notices_a_cut_stream_within_half_a_second() {
    for sample in Route::here(&Route::ALL) {
        let provider = Provider::start("v1").await.unwrap();
        provider.set(Behaviour::failing(Fault::ResetAfter { chunks: 2 }));
        let options = EnvoyOptions { route: sample, ..EnvoyOptions::default() };
        let options = options.cluster("openai", provider.port()).router_config(all_to("openai"));
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let mut shortest = Duration::MAX;
        // A busy machine may be late once, and Envoy's own default of a second is never early.
        for _ in 0..10 {
            shortest = shortest.min(end_of_a_cut_stream(envoy.port()).await);
        }
        assert!(shortest < Duration::from_millis(500), "{sample:?}: {shortest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_never_ends_is_answered_in_time_and_a_websocket_goes_on() {
    for sample in Route::here(&Route::ALL) {
        let (provider, sockets) = (Provider::start("v1").await.unwrap(), Sockets::start().await);
        let mut document = all_to("openai");
        let mut realtime = all_to("relay")["deployments"][0].clone();
        realtime["name"] = json!("realtime");
        realtime["match"] = json!({"path_prefix": "/v1/realtime"});
        document["deployments"].as_array_mut().unwrap().insert(0, realtime);
        let options = with(sample, "/request_timeout", json!("300s"), json!("1s"));
        let options = options.cluster("openai", provider.port()).cluster("relay", sockets.port);
        let envoy = EnvoyProcess::start(options.router_config(document)).await.unwrap();

        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, envoy.port())).await.unwrap();
        let hello =
            "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        socket.write_all(hello.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !received.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = timeout(LIMIT, socket.read_buf(&mut received)).await.unwrap().unwrap();
            assert!(read > 0, "{sample:?}: {}", String::from_utf8_lossy(&received));
        }
        let text = String::from_utf8_lossy(&received);
        assert!(text.starts_with("HTTP/1.1 101"), "{sample:?}: {text}");
        assert!(text.contains("x-bellwether-version: v1"), "{sample:?}: {text}");

        let began = Instant::now();
        let half = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf";
        let answer = raw(envoy.port(), half).await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 408"), "{sample:?}: {text}");
        let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["error"]["type"], json!("invalid_request_error"), "{sample:?}: {body}");
        assert_eq!(body["error"]["code"], json!("request_overall_timeout"), "{sample:?}: {body}");

        // A WebSocket is older than the time-out by now.
        assert!(began.elapsed() >= Duration::from_millis(900), "{sample:?}");
        socket.write_all(b"still there?").await.unwrap();
        let mut echo = [0; 12];
        timeout(LIMIT, socket.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(&echo, b"still there?", "{sample:?}");
        let head = sockets.heads.lock().unwrap().remove(0);
        assert!(head.contains("authorization: bearer sk-only"), "{sample:?}: {head}");
    }
}

/// A server that accepts every upgrade and sends back whatever comes.
struct Sockets {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Sockets {
    async fn start() -> Sockets {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&heads);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Sockets::serve(stream, Arc::clone(&shared)));
            }
        });
        Sockets { port, heads, server }
    }

    async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
                return;
            }
        }
        heads.lock().unwrap().push(String::from_utf8_lossy(&request).to_lowercase());
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let _ = stream.write_all(answer).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_the_request_and_keeps_the_providers_own_name_for_it() {
    for sample in Route::here(&Route::ALL) {
        let provider = Provider::start("v1").await.unwrap();
        provider.set(Behaviour {
            headers: [("x-request-id".to_owned(), "req_of_the_provider".to_owned())].into(),
            ..Behaviour::default()
        });
        let options = EnvoyOptions { route: sample, ..EnvoyOptions::default() };
        let options = options.cluster("openai", provider.port()).router_config(all_to("openai"));
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let answer = envoy.client().send(Request::chat(false)).await.unwrap();
        let line = eventually("a line of the access log", || async { envoy.access_log().pop() }).await;
        let id = answer.header("x-request-id").unwrap_or_default();
        assert_eq!(line["request_id"], json!(id), "{sample:?}: {line}");
        assert_eq!(provider.requests()[0].header("x-request-id"), Some(id), "{sample:?}");
        assert_eq!(answer.header("x-provider-request-id"), Some("req_of_the_provider"), "{sample:?}");
        assert_eq!(line["provider_request_id"], json!("req_of_the_provider"), "{sample:?}: {line}");
        provider.set(Behaviour::default());
        let answer = envoy.client().send(Request::chat(false)).await.unwrap();
        assert_eq!(answer.header("x-provider-request-id"), None, "{sample:?}");
    }
}

// Envoy's own answers

/// Fails unless an answer is an error as OpenAI's clients read it. Returns its type, code and message.
fn error_of(answer: &Answer, context: &str) -> [String; 3] {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{context}: {}", answer.text());
    let body = answer.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{context}: {}", answer.text()));
    let members: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(members, ["code", "message", "param", "type"], "{context}: {}", answer.text());
    ["type", "code", "message"].map(|name| error[name].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_envoy_have_the_shape_of_openais() {
    for sample in Route::here(&Route::ALL) {
        let provider = Provider::start("v1").await.unwrap();
        let mut document = all_to("openai");
        let deployment = document["deployments"][0].clone();
        // With aggregates a cluster of this name would end at stable's endpoints.
        let own = |cluster: &str| {
            if sample == Route::Aggregate { format!("{cluster}-only") } else { cluster.to_owned() }
        };
        let cases =
            [("relay", own("relay")), ("elsewhere", "elsewhere".to_owned()), ("overfull", own("overfull"))];
        for (n, (name, cluster)) in cases.iter().enumerate() {
            let mut case = deployment.clone();
            case["name"] = json!(name);
            case["match"] = json!({"path_prefix": format!("/{name}/")});
            case["versions"][0]["cluster"] = json!(cluster);
            document["deployments"].as_array_mut().unwrap().insert(n, case);
        }
        let mut options = EnvoyOptions { route: sample, ..EnvoyOptions::default() };
        options.edit = Some(Box::new(|bootstrap| {
            route(bootstrap)["retry_policy"]["per_try_idle_timeout"] = json!("0.3s");
            let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
            let full = |cluster: &&mut Value| cluster["name"].as_str().unwrap().starts_with("overfull");
            for cluster in clusters.iter_mut().filter(full) {
                cluster["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
            }
        }));
        let options = options.cluster("openai", provider.port()).cluster("overfull", provider.port());
        let envoy = EnvoyProcess::start(options.router_config(document)).await.unwrap();
        let client = envoy.client();
        let ask = async |path: &str| client.send(Request::post(path, "{}")).await.unwrap();

        for (path, flags, expected) in [
            ("/relay/x", "UF", "provider_unavailable"),
            ("/elsewhere/x", "NC", "provider_unavailable"),
            ("/overfull/x", "UO", "provider_overloaded"),
        ] {
            let answer = ask(path).await;
            assert_eq!(answer.status, 503, "{sample:?} {path}: {}", answer.text());
            let [kind, code, message] = error_of(&answer, path);
            assert_eq!((kind.as_str(), code.as_str()), ("server_error", expected), "{path}");
            assert!(message.contains(flags), "{sample:?} {path}: {message}");
            assert!(!answer.text().contains("refused"), "{sample:?}: details are not for outsiders");
        }
        provider.set(Behaviour::failing(Fault::Hang));
        let answer = ask("/v1/x").await;
        let [kind, _, message] = error_of(&answer, "a silent provider");
        assert_eq!((answer.status, kind.as_str()), (504, "server_error"), "{sample:?}: {message}");
        assert!(message.contains("UT"), "{sample:?}: {message}");

        // Answers of a provider and of the filter stay as they are.
        provider.set(Behaviour::status(503));
        let answer = ask("/v1/x").await;
        assert_eq!(answer.status, 503, "{sample:?}");
        assert!(answer.text().contains("mock"), "{sample:?}: {}", answer.text());
        provider.set(Behaviour::status(401));
        ask("/v1/x").await;
        let answer = ask("/v1/x").await;
        let [_, code, _] = error_of(&answer, "no key");
        assert_eq!((answer.status, code.as_str()), (503, "keys_unavailable"), "{sample:?}");
    }
}
