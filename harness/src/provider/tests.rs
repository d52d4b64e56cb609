//! Each fault as a client meets it.
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;

use super::*;
use crate::client::{Client, Request, raw};

async fn provider(behaviour: Behaviour) -> (Provider, Client) {
    let provider = Provider::start("v2").await.unwrap();
    provider.set(behaviour);
    let client = Client::new(provider.port());
    (provider, client)
}

fn events(text: &str) -> Vec<serde_json::Value> {
    text.split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}

#[tokio::test]
async fn a_completion_names_its_provider() {
    let (_provider, client) = provider(Behaviour::default()).await;
    for path in ["/v1/chat/completions", "/compat/v1/chat/completions?x=1"] {
        let answer = client.send(Request { path: path.to_owned(), ..Request::chat(false) }).await.unwrap();
        assert_eq!(answer.status, 200);
        let content = answer.json()["choices"][0]["message"]["content"].clone();
        assert!(content.as_str().unwrap().starts_with("hello from v2"), "{path}: {content}");
        assert_eq!(answer.json()["usage"]["total_tokens"], 12);
    }
}

#[tokio::test]
async fn a_stream_has_role_content_finish_and_done() {
    let (_provider, client) = provider(Behaviour { chunks: 5, ..Behaviour::default() }).await;
    let answer = client.send(Request::chat(true)).await.unwrap();
    assert!(answer.header("content-type").unwrap().starts_with("text/event-stream"));
    let text = answer.text();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let events = events(&text);
    assert_eq!(events.len(), 7, "role, five chunks, finish: {text}");
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[1]["choices"][0]["delta"]["content"], "hello from v2");
    assert_eq!(events[6]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn chunks_arrive_one_by_one() {
    let (_provider, client) = provider(Behaviour { chunk_delay_ms: 50, ..Behaviour::default() }).await;
    let started = Instant::now();
    let mut opened = client.open(Request::chat(true)).await.unwrap();
    let first = opened.chunk().await.unwrap().unwrap();
    assert_eq!(events(&String::from_utf8_lossy(&first)).len(), 1, "only the role chunk is here");
    while opened.chunk().await.unwrap().is_some() {}
    assert!(started.elapsed() >= Duration::from_millis(250), "six events, five delays");
}

#[tokio::test]
async fn a_status_comes_with_headers_and_an_error_in_openais_shape() {
    let (_provider, client) = provider(Behaviour::failing(Fault::status(429, &[("retry-after", "7")]))).await;
    let answer = client.send(Request::chat(true)).await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
}

#[tokio::test]
async fn a_key_gets_its_own_answer() {
    let behaviour = Behaviour::default().key("sk-bad", 401, &[]).key("sk-busy", 429, &[("retry-after", "1")]);
    let (provider, client) = provider(behaviour).await;
    for (name, value, status) in [
        ("authorization", "Bearer sk-bad", 401),
        ("x-api-key", "sk-busy", 429),
        ("authorization", "Bearer sk-good", 200),
    ] {
        let answer = client.send(Request::chat(false).header(name, value)).await.unwrap();
        assert_eq!(answer.status, status, "{name}: {value}");
    }
    let keys: Vec<_> = provider.requests().into_iter().map(|received| received.key.unwrap()).collect();
    assert_eq!(keys, ["sk-bad", "sk-busy", "sk-good"]);
}

#[tokio::test]
async fn a_reset_is_a_reset_and_not_a_close() {
    let (provider, client) = provider(Behaviour::failing(Fault::Reset)).await;
    let error = format!("{:#}", client.send(Request::chat(false)).await.unwrap_err());
    assert!(error.contains("Connection reset by peer"), "{error}");
    assert_eq!(provider.count(), 1, "the request itself was received");
}

#[tokio::test]
async fn a_reset_in_mid_stream_lets_the_chunks_before_it_through() {
    let (_provider, client) = provider(Behaviour::failing(Fault::ResetAfter { chunks: 2 })).await;
    for _ in 0..50 {
        let answer = client.send(Request::chat(true)).await.unwrap();
        assert_eq!((answer.status, events(&answer.text()).len()), (200, 2), "{}", answer.text());
        assert!(answer.broken.is_some(), "the body breaks off");
    }
}

#[tokio::test]
async fn a_reset_in_mid_answer_leaves_half_of_it() {
    for (chunks, some) in [(0, false), (1, true)] {
        let (_provider, client) = provider(Behaviour::failing(Fault::ResetAfter { chunks })).await;
        let answer = client.send(Request::chat(false)).await.unwrap();
        assert_eq!((answer.status, !answer.body.is_empty()), (200, some));
        assert!(answer.broken.is_some(), "the body breaks off");
    }
}

#[tokio::test]
async fn a_hang_hangs() {
    let (provider, client) = provider(Behaviour::failing(Fault::Hang)).await;
    let impatient = client.patience(Duration::from_millis(100));
    assert!(impatient.send(Request::chat(false)).await.is_err());
    assert_eq!(provider.count(), 1);

    provider.set(Behaviour::failing(Fault::HangAfter { chunks: 1 }));
    let mut opened = impatient.open(Request::chat(true)).await.unwrap();
    assert!(opened.chunk().await.unwrap().is_some(), "the role chunk comes");
    let next = tokio::time::timeout(Duration::from_millis(100), opened.chunk()).await;
    assert!(next.is_err(), "nothing more comes");
}

#[tokio::test]
async fn every_second_request_can_be_slow() {
    let slow = Fault::Slow { latency: Latency::Fixed { ms: 60.0 } };
    let (_provider, client) = provider(Behaviour::failing(slow).ratio(0.5)).await;
    for round in 0..2 {
        let fast = client.send(Request::chat(false)).await.unwrap().latency;
        let slow = client.send(Request::chat(false)).await.unwrap().latency;
        assert!(slow >= Duration::from_millis(60) && fast < slow, "round {round}: {fast:?}, then {slow:?}");
    }
}

#[tokio::test]
async fn behaviour_and_journal_are_there_over_http() {
    let (provider, client) = provider(Behaviour::default()).await;
    let put = |body: serde_json::Value| Request {
        method: Method::PUT,
        ..Request::post("/_mock/behaviour", body.to_string())
    };
    let fault = json!({"fault": {"kind": "status", "status": 503}, "fault_ratio": 0.5});
    assert_eq!(client.send(put(fault)).await.unwrap().status, 200);
    let statuses =
        [client.get("/x", &[]).await.unwrap().status, client.get("/y?q=1", &[]).await.unwrap().status];
    assert_eq!(statuses, [200, 503]);
    assert_eq!(client.send(put(json!({"fault": 5}))).await.unwrap().status, 400, "nonsense is refused");

    let journal = client.get("/_mock/requests", &[]).await.unwrap().json();
    assert_eq!(journal["count"], 2, "the control requests are not among them");
    assert_eq!(journal["requests"][1]["path"], "/y?q=1");
    let clear = Request { method: Method::DELETE, ..Request::get("/_mock/requests") };
    assert_eq!(client.send(clear).await.unwrap().status, 200);
    assert_eq!(provider.count(), 0);
}

#[tokio::test]
async fn header_bytes_that_are_not_utf8_are_recorded_as_they_are() {
    let (provider, _client) = provider(Behaviour::default()).await;
    let answer =
        raw(provider.port(), b"GET /x HTTP/1.1\r\nhost: a\r\nx-odd: \xff\xfe\r\nconnection: close\r\n\r\n");
    assert!(answer.await.unwrap().starts_with(b"HTTP/1.1 200"));
    let received = provider.requests().remove(0);
    assert!(received.headers.contains(&("x-odd".to_owned(), vec![0xff, 0xfe])), "{received:?}");
}

#[tokio::test]
async fn a_stopped_provider_refuses_connections_and_its_port_is_free_again() {
    let (provider, client) = provider(Behaviour::default()).await;
    let port = provider.port();
    client.get("/x", &[]).await.unwrap();
    provider.stop().await;
    assert!(client.get("/x", &[]).await.is_err());
    let again = Provider::start_on("v3", (Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
    assert_eq!(client.get("/x", &[]).await.unwrap().json()["provider"], again.name());
}
