//! Claims of SECURITY.md that nothing else shows, on a real Envoy with two workers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_forwarded_address_is_no_identity() {
    let mut config = canary_at(50.0);
    config["deployments"][0]["sticky"] = json!({"on": [{"client_address": true}]});
    let rig = Rig::configured(config).await;
    let mut versions = BTreeSet::new();
    for n in 1..=12 {
        let address = Ipv4Addr::new(127, 9, 0, n);
        let mut of_address = BTreeSet::new();
        for forged in ["", "10.0.0.1", "10.0.0.2", "192.0.2.7, 10.0.0.3", "::1", "unknown"] {
            let line =
                if forged.is_empty() { String::new() } else { format!("x-forwarded-for: {forged}\r\n") };
            let request = format!("GET /v1/x HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{line}\r\n");
            let answer = raw_from(address, rig.envoy.port(), request.as_bytes()).await;
            let answer = String::from_utf8(answer).unwrap();
            let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
            let (_, version) = lines.find(|(name, _)| *name == "x-bellwether-version").unwrap();
            of_address.insert(version.to_owned());
        }
        assert_eq!(of_address.len(), 1, "{address} chose its version");
        versions.extend(of_address);
    }
    assert_eq!(versions.len(), 2, "addresses are split");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_content_of_a_request_becomes_a_metric() {
    let mut config = canary_at(50.0);
    config["deployments"][0]["sticky"] = json!({"on": [{"header": "x-user-id"}]});
    config["deployments"][0]["versions"][0]["key_pool"] = json!("pool");
    config["key_pools"] = json!([{"name": "pool", "keys": [{"id": "one", "value": "sk-one"}]}]);
    let rig = Rig::configured(config).await;
    let series = async || -> BTreeSet<String> {
        let stats = rig.envoy.stats().await.unwrap();
        stats.into_keys().filter(|name| name.contains("bellwether_")).collect()
    };
    // A series is made when it is first used: both versions on both workers, until nothing new comes.
    let mut known = series().await;
    let deadline = Deadline::soon();
    loop {
        ask_all(&rig.envoy.client(), 100, |_| Request::chat(false)).await;
        let now = series().await;
        if !now.is_empty() && now == known && rig.openai.count() > 0 && rig.relay.count() > 0 {
            break;
        }
        known = now;
        deadline.next(|| format!("{} series", known.len())).await;
    }
    let answers = ask_all(&rig.envoy.client(), 300, |n| {
        Request::get(&format!("/v1/{n}?{n}"))
            .header("host", &format!("host-{n}.example"))
            .header("x-user-id", &format!("user-{n}"))
            .header("x-request-id", &format!("id-{n}"))
            .header("authorization", &format!("Bearer sk-{n}"))
            .header("x-bellwether-version", &format!("v{n}"))
            .header(&format!("x-name-{n}"), "1")
    })
    .await;
    assert!(answers.iter().all(|answer| answer.version().is_some()), "the filter saw them");
    assert_eq!(series().await, known);
}

/// Answers each request with its own body.
async fn echo(mut stream: TcpStream) {
    let mut received = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut received).await {
        while let Some(end) = received.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4) {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if received.len() < end + length {
                break;
            }
            let rest = received.split_off(end + length);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let answer = [head.as_bytes(), &received[end..]].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
            received = rest;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_bytes_pass_both_ways_and_count_against_no_version() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let config = json!({"deployments": [{
        "name": "test", "stable": "v1",
        "versions": [{"id": "v1", "weight": 0, "cluster": "echo"}, {"id": "v2", "weight": 100, "cluster": "echo"}],
        "guard": {"max_errors": 1},
    }]});
    let options = EnvoyOptions::default().cluster("echo", port).router_config(config);
    let envoy = EnvoyProcess::start(options).await.unwrap();
    let any: Vec<u8> = (0..300_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let bodies = [
        b"\0".to_vec(),
        (0..=255).collect(),
        b"\xff\xfe\xed\xa0\x80".repeat(100),
        br#"{"error": {"type": "rate_limit_error", "code": 429, "message": "sk-none"}}"#.to_vec(),
        b"data: {\"error\": {\"code\": 500}}\n\ndata: [DONE]\n\n".to_vec(),
        b"HTTP/1.1 500 No\r\nretry-after: 99\r\n\r\n".to_vec(),
        "[".repeat(100_000).into_bytes(),
        any,
    ];
    let client = envoy.client();
    for body in &bodies {
        let answer = client.send(Request::post("/v1/x", body.clone())).await.unwrap();
        assert_eq!((answer.status, answer.version()), (200, Some("v2")));
        assert!(answer.body == body, "{} bytes came back changed", body.len());
    }
    let of = |outcome| [("deployment", "test"), ("version", "v2"), ("outcome", outcome)];
    let deadline = Deadline::soon();
    loop {
        let good = envoy.metric("bellwether_requests_total", &of("good")).await.unwrap();
        if good == bodies.len() as f64 {
            break;
        }
        deadline.next(|| format!("{good} good")).await;
    }
    assert_eq!(envoy.metric("bellwether_phase", &[("deployment", "test")]).await.unwrap(), 0.0);
    assert_no_trap(&envoy, "any bytes").await;
    server.abort();
}
