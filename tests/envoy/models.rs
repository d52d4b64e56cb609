//! Models and parameters of versions, on a real Envoy: each attempt has its own version's model, and exactly the bytes that its
//! `content-length` announces.

use std::time::Duration;

use bellwether_harness::client::{Answer, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route};
use bellwether_harness::provider::{Behaviour, Provider, Received};
use bellwether_harness::testing::load::eventually;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Two providers that keep bodies: stable's and the canary's.
struct Rig {
    envoy: EnvoyProcess,
    v1: Provider,
    v2: Provider,
}

impl Rig {
    async fn start(config: Value) -> Rig {
        Rig::with(EnvoyOptions::default(), config).await
    }

    async fn with(options: EnvoyOptions, config: Value) -> Rig {
        let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
        v1.keep_bodies();
        v2.keep_bodies();
        let options = options.cluster("v1", v1.port()).cluster("v2", v2.port()).router_config(config);
        Rig { envoy: EnvoyProcess::start(options).await.unwrap(), v1, v2 }
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        let request = Request::post(path, body.to_owned()).header("content-type", "application/json");
        self.envoy.client().send(request).await.unwrap()
    }

    async fn chat(&self, body: &str) -> Answer {
        self.post("/v1/chat/completions", body).await
    }

    /// The requests that either provider has received since the last time, stable's first. No stray byte has come to either.
    fn take(&self) -> (Vec<Received>, Vec<Received>) {
        let taken = (self.v1.requests(), self.v2.requests());
        self.v1.clear();
        self.v2.clear();
        assert_eq!((self.v1.malformed(), self.v2.malformed()), (0, 0), "stray bytes on a connection");
        taken
    }

    fn take_nothing(&self) -> bool {
        let (at_v1, at_v2) = self.take();
        at_v1.is_empty() && at_v2.is_empty()
    }
}

/// A deployment whose canary has this weight, a model and parameters of its own.
fn config(weight: u32) -> Value {
    let pool = |name: &str| {
        json!({"name": name, "keys": [{"id": name, "value": format!("sk-{name}")}],
                                   "failing": {"after": 1000}})
    };
    json!({
        "deployments": [{
            "name": "d", "stable": "v1", "llm": {}, "guard": {"compare": false},
            "match": {"models": ["gpt-4o", "gpt-4o-*"]},
            "versions": [
                {"id": "v1", "weight": 100 - weight, "cluster": "v1", "key_pool": "stable", "host": "one.example.com",
                 "model": {"gpt-4o": "gpt-4o-2024-11-20"}},
                {"id": "v2", "weight": weight, "cluster": "v2", "key_pool": "canary", "host": "two.example.com",
                 "model": "gpt-5.5",
                 "request": {"set": {"reasoning_effort": "low"}, "drop": ["temperature"],
                             "rename": {"max_tokens": "max_completion_tokens"}}}]}],
        "key_pools": [pool("stable"), pool("canary")],
    })
}

/// A body of about this many bytes, with the model in front of the prompt or behind it.
fn body(length: usize, model_first: bool) -> String {
    let prompt = "Say \\\"hello\\\" in Ünglish. ".repeat(length / 28 + 1);
    let messages = format!(r#""messages": [{{"role": "user", "content": "{prompt}"}}]"#);
    let model = r#""model": "gpt-4o""#;
    let (a, b) = if model_first { (model, messages.as_str()) } else { (messages.as_str(), model) };
    format!(r#"{{"max_tokens": 100, {a}, "temperature": 0.7, {b}}}"#)
}

fn json_of(received: &Received) -> Value {
    let announced = received.header("content-length").map(|length| length.parse::<usize>().unwrap());
    assert!(
        announced.is_none_or(|length| length == received.body_len),
        "{announced:?} {}",
        received.body_len
    );
    serde_json::from_slice(&received.body).unwrap_or_else(|error| {
        panic!("{error}: {:?}", String::from_utf8_lossy(&received.body[..200.min(received.body_len)]))
    })
}

fn assert_stables(received: &Received, sent: &str, context: &str) {
    assert_eq!(received.key.as_deref(), Some("sk-stable"), "{context}");
    assert_eq!(received.header("host"), Some("one.example.com"), "{context}");
    let mut expected: Value = serde_json::from_str(sent).unwrap();
    expected["model"] = json!("gpt-4o-2024-11-20");
    assert!(json_of(received) == expected, "{context}: stable's body");
}

fn assert_canarys(received: &Received, sent: &str, context: &str) {
    assert_eq!(received.key.as_deref(), Some("sk-canary"), "{context}");
    assert_eq!(received.header("host"), Some("two.example.com"), "{context}");
    let mut expected: Value = serde_json::from_str(sent).unwrap();
    let members = expected.as_object_mut().unwrap();
    members.remove("temperature");
    let most = members.remove("max_tokens").unwrap();
    members.insert("max_completion_tokens".to_owned(), most);
    members.insert("reasoning_effort".to_owned(), json!("low"));
    members.insert("model".to_owned(), json!("gpt-5.5"));
    assert!(json_of(received) == expected, "{context}: the canary's body");
}

const LENGTHS: [usize; 3] = [300, 70_000, 3_000_000];

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_has_the_model_and_the_parameters_of_its_version() {
    for way in Route::here(&Route::WITH_FAILOVER) {
        let rig = Rig::with(EnvoyOptions { route: way, ..EnvoyOptions::default() }, config(100)).await;
        for length in LENGTHS {
            for model_first in [true, false] {
                let context = format!("{way:?}, {length} bytes, model first: {model_first}");
                let sent = body(length, model_first);
                rig.v2.set(Behaviour::default());
                let answer = rig.chat(&sent).await;
                assert_eq!((answer.status, answer.version()), (200, Some("v2")), "{context}");
                let (at_v1, at_v2) = rig.take();
                assert_eq!((at_v1.len(), at_v2.len()), (0, 1), "{context}");
                assert_canarys(&at_v2[0], &sent, &context);

                rig.v2.set(Behaviour::status(503));
                let answer = rig.chat(&sent).await;
                assert_eq!((answer.status, answer.version()), (200, Some("v1")), "{context}");
                let (at_v1, at_v2) = rig.take();
                assert_eq!((at_v1.len(), at_v2.len()), (1, 1), "{context}");
                assert_canarys(&at_v2[0], &sent, &context);
                assert_stables(&at_v1[0], &sent, &context);
            }
        }
    }
}

/// A connection of a client that writes what it likes.
struct Line(TcpStream);

impl Line {
    async fn open(rig: &Rig) -> Line {
        Line(TcpStream::connect(("127.0.0.1", rig.envoy.port())).await.unwrap())
    }

    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until these bytes have come, and returns everything so far.
    async fn read_until(&mut self, end: &str) -> String {
        let mut text = String::new();
        let reading = async {
            let mut buffer = [0; 4096];
            while !text.contains(end) {
                let count = self.0.read(&mut buffer).await.unwrap();
                assert!(count > 0, "closed after {text:?}");
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
        assert!(read.is_ok(), "no {end:?} came");
        text
    }
}

fn head(path: &str, headers: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: client.example.com\r\ncontent-type: application/json\r\n{headers}\r\n"
    )
}

fn chunk(bytes: &str) -> String {
    format!("{:x}\r\n{bytes}\r\n", bytes.len())
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test(flavor = "multi_thread")]
async fn chunks_trailers_and_pieces_of_any_size_are_one_body() {
    let rig = Rig::start(config(100)).await;
    rig.v2.set(Behaviour::status(503));
    for model_first in [true, false] {
        let sent = body(2_000, model_first);
        for (size, trailers) in
            [(1, ""), (7, ""), (4096, ""), (7, "x-checksum: 1\r\n"), (4096, "x-checksum: 1\r\n")]
        {
            let mut text = head(CHAT, "transfer-encoding: chunked\r\n");
            for piece in sent.as_bytes().chunks(size) {
                text.push_str(&format!("{:x}\r\n", piece.len()));
                // Pieces of a character are put together again by the bytes around them.
                text.push_str(&piece.iter().map(|byte| char::from(*byte)).collect::<String>());
                text.push_str("\r\n");
            }
            text.push_str(&format!("0\r\n{trailers}\r\n"));
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            let mut line = Line::open(&rig).await;
            line.write(bytes).await;
            let context = format!("pieces of {size}, {trailers:?}, model first: {model_first}");
            assert!(line.read_until("hello from v1").await.starts_with("HTTP/1.1 200"), "{context}");
            let (at_v1, at_v2) = rig.take();
            assert_eq!((at_v1.len(), at_v2.len()), (1, 1), "{context}");
            assert_canarys(&at_v2[0], &sent, &context);
            assert_stables(&at_v1[0], &sent, &context);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_during_the_upload_is_followed_by_stable_with_all_of_it() {
    let mut config = config(100);
    // Without members that go, the request is decided as soon as the model is known.
    config["deployments"][0]["versions"][1]["request"] = json!({"set": {"max_tokens": 7}});
    let rig = Rig::start(config).await;
    rig.v2.set(Behaviour::failing(bellwether_harness::provider::Fault::Reset));
    let sent = body(200_000, true);
    let (start, rest) = sent.split_at(100_000);
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut line = Line::open(&rig).await;
        line.write(head(CHAT, &format!("content-length: {}\r\n{expect}", sent.len()))).await;
        if !expect.is_empty() {
            line.read_until("100 Continue\r\n\r\n").await;
        }
        line.write(start).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        line.write(rest).await;
        line.read_until("hello from v1").await;
        let (at_v1, _) = rig.take();
        assert_eq!(at_v1.len(), 1);
        assert_stables(&at_v1[0], &sent, expect);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_length_is_exact_whatever_the_members_are() {
    let rig = Rig::start(config(50)).await;
    let mut line = Line::open(&rig).await;
    // One connection: a byte too many or too few would spoil the next request.
    for n in 0..200usize {
        let spaces = " ".repeat(n % 7);
        let model = "gpt-4o";
        let filler = "é".repeat(n * 3 % 400);
        let optional = if n % 3 == 0 { r#""temperature" : 1.5e0 ,"# } else { "" };
        let sent = format!(
            r#"{{{spaces}"user":"{filler}",{optional}{spaces}"max_tokens":{n},{spaces}"model"{spaces}:{spaces}"{model}","messages":[]{spaces}}}"#
        );
        line.write(format!("{}{sent}", head(CHAT, &format!("content-length: {}\r\n", sent.len())))).await;
        line.read_until("hello from v").await;
        let (at_v1, at_v2) = rig.take();
        match (at_v1.as_slice(), at_v2.as_slice()) {
            ([one], []) => assert_stables(one, &sent, &sent),
            ([], [two]) => assert_canarys(two, &sent, &sent),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_keys_role_the_router_changes_the_body() {
    let options = EnvoyOptions { route: Route::ClusterHeader, keys_role: false, ..EnvoyOptions::default() };
    let rig = Rig::with(options, config(100)).await;
    for length in LENGTHS {
        for model_first in [true, false] {
            let sent = body(length, model_first);
            let answer = rig.chat(&sent).await;
            assert_eq!((answer.status, answer.version()), (200, Some("v2")));
            let (_, at_v2) = rig.take();
            assert_canarys(&at_v2[0], &sent, &format!("{length}, {model_first}"));
        }
    }
    let sent = body(500, true);
    let mut line = Line::open(&rig).await;
    let text =
        format!("{}{}0\r\nx-end: 1\r\n\r\n", head(CHAT, "transfer-encoding: chunked\r\n"), chunk(&sent));
    line.write(text).await;
    line.read_until("hello from v2").await;
    let (_, at_v2) = rig.take();
    assert_canarys(&at_v2[0], &sent, "trailers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_changes_sends_the_clients_bytes() {
    let mut config = config(0);
    config["deployments"][0]["versions"][0].as_object_mut().unwrap().remove("model");
    let rig = Rig::start(config).await;
    let sent = r#"{ "model" : "gpt-4o","n":  1e0, "temperature":0.70, "messages": [ ] }"#;
    assert_eq!(rig.chat(sent).await.version(), Some("v1"));
    let (at_v1, _) = rig.take();
    assert_eq!(at_v1[0].body, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_json_body_are_decided_at_once() {
    let mut config = config(100);
    config["deployments"].as_array_mut().unwrap().push(json!({
        "name": "rest", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "v1"}],
    }));
    let rig = Rig::start(config).await;
    let client = rig.envoy.client();
    let post = |kind: &str| Request::post("/v1/files", r#"{"model": "gpt-4o"}"#).header("content-type", kind);
    for request in [
        Request::get("/v1/models"),
        Request::get("/v1/models").header("content-type", "application/json"),
        post("multipart/form-data; boundary=x"),
        post("application/grpc+json"),
        Request::post("/v1/responses/1/cancel", "").header("content-type", "application/json"),
    ] {
        let answer = client.send(request.clone()).await.unwrap();
        assert_eq!((answer.status, answer.version()), (200, Some("v1")), "{request:?}");
    }
    // An upgraded connection sends nothing before it is answered.
    let mut line = Line::open(&rig).await;
    line.write("GET /v1/realtime HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    line.read_until("\r\n\r\n").await;
    let mut line = Line::open(&rig).await;
    line.write(head("/v1/realtime", "connection: upgrade\r\nupgrade: websocket\r\n")).await;
    line.read_until("\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_decided_one_by_one() {
    let rig = Rig::start(config(100)).await;
    let bodies: Vec<String> = (0..5).map(|n| body(100 + n * 3_000, n % 2 == 0)).collect();
    let mut line = Line::open(&rig).await;
    for sent in &bodies {
        line.write(format!("{}{sent}", head(CHAT, &format!("content-length: {}\r\n", sent.len())))).await;
    }
    let mut text = String::new();
    while text.matches("hello from v2").count() < bodies.len() {
        text.push_str(&line.read_until("}").await);
    }
    let (_, at_v2) = rig.take();
    assert_eq!(at_v2.len(), bodies.len());
    at_v2.iter().zip(&bodies).for_each(|(received, sent)| assert_canarys(received, sent, "pipelined"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_read_goes_to_stable_unchanged_or_is_refused() {
    let gzip = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body(300, true).as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let large = body(100_000, false);
    let cases = [
        ("compressed", gzip, Some("gzip")),
        ("no JSON", b"{\"model\": \"gpt-4o\", oops}".to_vec(), None),
        ("no object", b"[1]".to_vec(), None),
        ("without a model", b"{\"messages\": []}".to_vec(), None),
        ("too large", large.into_bytes(), None),
    ];
    for reject in [false, true] {
        let mut config = config(100);
        config["deployments"][0]["llm"] = json!({"body_limit": "64KiB"});
        if reject {
            config["deployments"][0]["llm"]["unreadable"] = json!("reject");
        }
        let rig = Rig::start(config).await;
        for (what, bytes, coding) in &cases {
            let mut request = Request::post(CHAT, bytes.clone()).header("content-type", "application/json");
            if let Some(coding) = coding {
                request = request.header("content-encoding", coding);
            }
            let answer = rig.envoy.client().send(request).await.unwrap();
            let (at_v1, at_v2) = rig.take();
            assert!(at_v2.is_empty(), "{what}");
            if reject {
                assert_eq!(answer.status, 400, "{what}: {}", answer.text());
                assert_eq!(answer.json()["error"]["code"], "body_unreadable", "{what}");
                assert!(at_v1.is_empty(), "{what}");
            } else {
                assert_eq!((answer.status, answer.version()), (200, Some("v1")), "{what}");
                assert_eq!(&at_v1[0].body[..], bytes.as_slice(), "{what}: the bytes are the client's");
                assert_eq!(at_v1[0].key.as_deref(), Some("sk-stable"), "{what}");
            }
        }
        // In chunks no length is announced, and the limit is noticed on the way.
        let mut line = Line::open(&rig).await;
        line.write(head(CHAT, "transfer-encoding: chunked\r\n")).await;
        line.write(chunk(&body(100_000, false))).await;
        line.write("0\r\n\r\n").await;
        let text = line.read_until("\r\n\r\n").await;
        assert!(text.starts_with(if reject { "HTTP/1.1 400" } else { "HTTP/1.1 200" }), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_two_parsers_could_read_differently_is_refused() {
    let rig = Rig::start(config(50)).await;
    for sent in [
        r#"{"model": "gpt-4o", "messages": [], "model": "o1-pro"}"#,
        r#"{"model": "gpt-4o", "Model": "o1-pro"}"#,
        r#"{"mod\u0065l": "o1-pro", "model": "gpt-4o"}"#,
    ] {
        for (path, code) in [(CHAT, "code"), ("/v1/messages", "type")] {
            let answer = rig.post(path, sent).await;
            assert_eq!(answer.status, 400, "{sent}: {}", answer.text());
            assert!(answer.json()["error"][code].is_string(), "{path}: {}", answer.text());
        }
    }
    assert!(rig.take_nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_pass_or_are_refused_in_the_words_of_the_api() {
    let rig = Rig::start(config(50)).await;
    let sent = r#"{"model": "o1-pro", "max_tokens": 5}"#;
    let answer = rig.chat(sent).await;
    assert_eq!((answer.status, answer.version()), (200, None), "it passes as if there were no deployment");
    let (at_v1, _) = rig.take();
    assert_eq!(at_v1[0].body, sent);

    let mut config = config(50);
    config["deployments"][0]["llm"] = json!({"unknown_model": "reject"});
    let rig = Rig::start(config).await;
    let answer = rig.chat(sent).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"]["code"], "model_not_found");
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("`o1-pro`") && message.contains("gpt-4o, gpt-4o-*"), "{message}");
    let answer = rig.post("/v1/messages", sent).await;
    assert_eq!((answer.status, answer.json()["error"]["type"].as_str()), (404, Some("not_found_error")));
    let answer = rig.post("/v1beta/models/gemini-pro:generateContent", "{}").await;
    assert_eq!((answer.status, answer.json()["error"]["status"].as_str()), (404, Some("NOT_FOUND")));
    assert_eq!(rig.envoy.client().get("/v1/models", &[]).await.unwrap().status, 200, "it asks for no model");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_in_a_path_of_googles_api_is_replaced() {
    let mut config = config(100);
    let deployment = &mut config["deployments"][0];
    deployment["match"] = json!({"models": ["gemini-2.5-*"]});
    deployment["versions"][0]["model"] = json!("gemini-2.5-pro");
    deployment["versions"][1]["model"] = json!({"gemini-2.5-flash": "gemini-3-flash"});
    let rig = Rig::start(config).await;
    rig.v2.set(Behaviour::status(503));
    let sent = r#"{"contents": [{"parts": [{"text": "hi"}]}], "max_tokens": 1}"#;
    let answer = rig.post("/v1beta/models/gemini-2.5-flash:generateContent?alt=sse", sent).await;
    assert_eq!((answer.status, answer.version()), (200, Some("v1")));
    let (at_v1, at_v2) = rig.take();
    assert_eq!(at_v2[0].path, "/v1beta/models/gemini-3-flash:generateContent?alt=sse");
    assert_eq!(at_v1[0].path, "/v1beta/models/gemini-2.5-pro:generateContent?alt=sse");
    assert_eq!(json_of(&at_v1[0]), serde_json::from_str::<Value>(sent).unwrap());
    assert_eq!(json_of(&at_v2[0])["reasoning_effort"], "low");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_identities_look_into_the_body() {
    let mut config = config(50);
    let deployment = &mut config["deployments"][0];
    deployment["rules"] = json!([
        {"models": ["gpt-4o-mini"], "version": "v2"},
        {"body": [{"name": "user", "prefix": "test-"}], "version": "v1"},
    ]);
    deployment["sticky"] =
        json!({"on": [{"body": "metadata.user_id"}, {"body": "prompt_cache_key"}, {"conversation": true}]});
    let rig = Rig::start(config).await;
    let version = async |body: Value| rig.chat(&body.to_string()).await.version().map(str::to_owned);
    for n in 0..10 {
        let mini = json!({"model": "gpt-4o-mini", "n": n, "max_tokens": 1});
        assert_eq!(version(mini).await.as_deref(), Some("v2"));
        let tester = json!({"model": "gpt-4o", "user": "test-1", "n": n, "max_tokens": 1});
        assert_eq!(version(tester).await.as_deref(), Some("v1"));
    }
    let message = |n: usize| json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": format!("hi {n}")}]);
    for (what, make) in [
        (
            "metadata",
            &(|n: usize| json!({"model": "gpt-4o", "max_tokens": 1, "metadata": {"user_id": format!("u{n}")}}))
                as &dyn Fn(usize) -> Value,
        ),
        ("cache key", &|n| json!({"model": "gpt-4o", "max_tokens": 1, "prompt_cache_key": format!("k{n}")})),
        ("conversation", &|n| json!({"model": "gpt-4o", "max_tokens": 1, "messages": message(n)})),
    ] {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..20 {
            let first = version(make(n)).await;
            for _ in 0..3 {
                assert_eq!(version(make(n)).await, first, "{what} {n}");
            }
            seen.insert(first);
        }
        assert_eq!(seen.len(), 2, "{what}: some go to each");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_in_the_middle_of_a_body_leave_nothing_behind() {
    let rig = Rig::start(config(50)).await;
    for n in 0..40usize {
        let mut line = Line::open(&rig).await;
        let sent = body(50_000, false);
        line.write(head(CHAT, &format!("content-length: {}\r\n", sent.len()))).await;
        line.write(&sent.as_bytes()[..n * 1_000]).await;
    }
    crate::common::chaos::nothing_in_flight(&rig.envoy, "clients that left").await;
    assert!(rig.take_nothing());
    assert_eq!(rig.chat(&body(300, false)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lite_module_refuses_llm_by_name_and_serves_everything_else() {
    let lite = bellwether_harness::envoy::wasm_path().unwrap().with_file_name("bellwether-lite.wasm");
    let options = || EnvoyOptions { wasm: Some(lite.clone()), ..EnvoyOptions::default() };
    let rig = Rig::with(EnvoyOptions { allow_rejected_config: true, ..options() }, config(50)).await;
    let problem = "deployments[0].llm: needs bellwether.wasm, and this is bellwether-lite.wasm";
    assert!(rig.envoy.logs().contains(problem), "{}", rig.envoy.logs());

    let mut plain = config(100);
    let deployment = plain["deployments"][0].as_object_mut().unwrap();
    deployment.remove("llm");
    deployment.remove("match");
    for version in deployment["versions"].as_array_mut().unwrap() {
        version.as_object_mut().unwrap().retain(|name, _| name != "model" && name != "request");
    }
    let rig = Rig::with(options(), plain).await;
    rig.v2.set(Behaviour::status(503));
    let sent = body(70_000, false);
    assert_eq!(rig.chat(&sent).await.version(), Some("v1"));
    let (at_v1, at_v2) = rig.take();
    assert_eq!((&at_v1[0].body[..], &at_v2[0].body[..]), (sent.as_bytes(), sent.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_no_slow_canary() {
    let mut config = config(100);
    config["deployments"][0]["versions"][1].as_object_mut().unwrap().remove("request");
    let rig = Rig::start(config).await;
    let sent = body(20_000, true);
    let mut line = Line::open(&rig).await;
    line.write(head(CHAT, &format!("content-length: {}\r\n", sent.len()))).await;
    line.write(&sent.as_bytes()[..10_000]).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    line.write(&sent.as_bytes()[10_000..]).await;
    line.read_until("hello from v2").await;
    drop(line);
    // Envoy shows a histogram when it has merged the workers' parts, every five seconds.
    let metric = |name: &'static str| rig.envoy.metric(name, &[("version", "v2")]);
    eventually("the latency is shown", || async {
        (metric("bellwether_latency_ms_count").await.unwrap() == 1.0).then_some(())
    })
    .await;
    let millis = metric("bellwether_latency_ms_sum").await.unwrap();
    assert!(millis < 1_000.0, "{millis} ms");
}
