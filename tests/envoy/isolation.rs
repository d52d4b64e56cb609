//! One caller never harms another, on a real Envoy with two workers: no refusal that a request provokes costs others a key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bellwether_harness::client::{Answer, Request};
use bellwether_harness::envoy::{Edit, EnvoyOptions, Route};
use bellwether_harness::provider::{Behaviour, Fault};
use bellwether_harness::testing::load::{eventually, without_retries};
use serde_json::{Value, json};

use crate::common::pools::{Rig, keys, pooled};

const KEYS: [&str; 8] = ["sk-a", "sk-b", "sk-c", "sk-d", "sk-e", "sk-f", "sk-g", "sk-h"];

fn flagged() -> Request {
    Request::chat(false).header("x-flagged", "yes")
}

/// A canary that takes all traffic, on a pool of its own.
fn canary(values: &[&str], failover: Value) -> Value {
    json!({
        "deployments": [{"name": "d", "stable": "v1", "failover": failover, "guard": {"compare": false}, "versions": [
            {"id": "v1", "weight": 0, "cluster": "v1", "key_pool": "stable"},
            {"id": "v2", "weight": 100, "cluster": "v2", "key_pool": "pool"}]}],
        "key_pools": [{"name": "stable", "keys": keys(&["sk-stable"])}, {"name": "pool", "keys": keys(values)}],
    })
}

/// The configurations in which one caller must not harm another: the number of keys, with and without failover.
fn rooms() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for count in [1, 2, 8] {
        let values = &KEYS[..count];
        all.push((format!("{count} keys, stable"), pooled(json!({"keys": keys(values)}))));
        all.push((format!("{count} keys, failover"), canary(values, json!({"after": 1}))));
        all.push((format!("{count} keys, no failover"), canary(values, json!(false))));
        let request = json!({"keys": keys(values), "inject": "request"});
        all.push((format!("{count} keys, one a request"), pooled(request)));
    }
    all
}

/// Sends many requests at once, each on a lane of its own. The number says which requests are flagged.
async fn at_once(rig: &Rig, count: u64, is_flagged: impl Fn(u64) -> bool) -> Vec<(bool, Answer)> {
    let asked: Vec<_> = (0..count)
        .map(|n| {
            let (client, flag) = (rig.lanes.client(n).clone(), is_flagged(n));
            let request = if flag { flagged() } else { Request::chat(false) };
            tokio::spawn(async move { (flag, client.send(request).await.unwrap()) })
        })
        .collect();
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.unwrap());
    }
    answers
}

async fn twenty_others_succeed(rig: &Rig, context: &str) {
    for n in 0..20 {
        let answer = rig.lanes.client(n).send(Request::chat(false)).await.unwrap();
        assert_eq!(answer.status, 200, "{context}: request {n} of others: {}", answer.text());
    }
}

async fn no_key_is_out(rig: &Rig, context: &str) {
    for key in KEYS {
        let status = rig.status_of(key.trim_start_matches("sk-")).await;
        assert!([0, 4].contains(&status), "{context}: {key} has status {status}");
    }
}

/// Requests that the provider refuses for themselves: the answer that it gives to each of them.
const REFUSALS: [(u16, &[(&str, &str)]); 4] = [
    (403, &[]),
    (401, &[]),
    (429, &[]),
    (
        429,
        &[
            ("retry-after", "0"),
            ("x-ratelimit-remaining-requests", "499"),
            ("x-ratelimit-remaining-tokens", "29000"),
            ("x-ratelimit-reset-tokens", "17ms"),
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_provider_refuses_harms_nobody_else() {
    for (room, config) in rooms() {
        let rig = Rig::start(Route::default(), config).await;
        for (status, headers) in REFUSALS {
            let context = format!("{room}, {status} {headers:?}");
            let refusing = Behaviour::default().flagged(status, headers);
            rig.v1.set(refusing.clone());
            rig.v2.set(refusing);
            // Our key was refused, as far as we can know: the client must not take that for its own.
            let shown = if status == 401 { 503 } else { status };
            let answer = rig.lanes.client(0).send(flagged()).await.unwrap();
            assert_eq!(answer.status, shown, "{context}");
            assert_eq!(
                answer.text().contains("keys_unavailable"),
                status == 401,
                "{context}: {}",
                answer.text()
            );
            twenty_others_succeed(&rig, &context).await;

            let answers = at_once(&rig, 36, |n| n % 3 == 0).await;
            let seen = |flag: bool| answers.iter().filter(move |(flagged, _)| *flagged == flag);
            assert!(seen(true).all(|(_, answer)| answer.status == shown), "{context}");
            assert!(seen(false).all(|(_, answer)| answer.status == 200), "{context}");
            twenty_others_succeed(&rig, &context).await;

            at_once(&rig, 8, |_| true).await;
            twenty_others_succeed(&rig, &context).await;
            no_key_is_out(&rig, &context).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_in_which_every_key_is_refused_burns_no_key() {
    for (room, config) in rooms() {
        let rig = Rig::start(Route::default(), config).await;
        for status in [401, 403] {
            let context = format!("{room}, {status}");
            rig.v1.set(Behaviour::status(status));
            rig.v2.set(Behaviour::status(status));
            let began = Instant::now();
            let mut n = 0;
            while began.elapsed() < Duration::from_millis(1500) {
                at_once(&rig, 6, |_| false).await;
                n += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            rig.v1.set(Behaviour::default());
            rig.v2.set(Behaviour::default());
            let ended = Instant::now();
            let mut last_failed = ended;
            while ended.elapsed() < Duration::from_millis(2500) {
                let answers = at_once(&rig, 6, |_| false).await;
                if answers.iter().any(|(_, answer)| answer.status != 200) {
                    last_failed = Instant::now();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(last_failed - ended < Duration::from_secs(2), "{context}: {:?}", last_failed - ended);
            no_key_is_out(&rig, &context).await;
            println!("{context}: {n} rounds, served {:?} after the end", last_failed - ended);
        }
    }
}

/// Sends 200 requests at ten at a time. Returns how often each key arrived, and the requests that failed.
async fn two_hundred(rig: &Rig) -> (BTreeMap<String, usize>, usize) {
    let next = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let sent: Vec<_> = (0..10)
        .map(|n| {
            let (client, next) = (rig.lanes.client(n).clone(), next.clone());
            tokio::spawn(async move {
                let mut failed = 0;
                while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 200 {
                    let status = client.send(Request::chat(false)).await.unwrap().status;
                    failed += usize::from(status != 200);
                }
                failed
            })
        })
        .collect();
    let mut failed = 0;
    for sent in sent {
        failed += sent.await.unwrap();
    }
    (Rig::keys(&rig.v1), failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_gets_a_few_attempts_only() {
    for count in [2, 8] {
        for after in [1, 2] {
            for inject in ["attempt", "request"] {
                let mut most = 0;
                let mut all = Vec::new();
                for _ in 0..3 {
                    let pool =
                        json!({"keys": keys(&KEYS[..count]), "rejected": {"after": after}, "inject": inject});
                    // With `inject: request` a retry carries the same key: the requests are counted.
                    let edit: Edit = Box::new(if inject == "request" { without_retries } else { |_| () });
                    let options = EnvoyOptions { edit: Some(edit), ..EnvoyOptions::default() };
                    let rig = Rig::with(options, pooled(pool)).await;
                    rig.v1.set(Behaviour::default().key("sk-a", 401, &[]));
                    let (counts, failed) = two_hundred(&rig).await;
                    let revoked = counts.get("sk-a").copied().unwrap_or(0);
                    all.push(revoked);
                    most = most.max(revoked);
                    let limit = if inject == "request" { 10 } else { 0 };
                    assert!(failed <= limit, "{count} keys, after {after}, {inject}: {failed} failed");
                }
                println!("{count} keys, after {after}, {inject}: {all:?}");
                // Ten requests set out before anything is known: about half of them with the revoked one of two keys.
                let limit = match (inject, count) {
                    ("request", _) => 10,
                    (_, 2) => 8,
                    _ => 5,
                };
                assert!(most <= limit, "{count} keys, after {after}, {inject}: {all:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_retries_goes_out_after_five_refusals_while_another_serves() {
    let options = EnvoyOptions { edit: Some(Box::new(without_retries)), ..EnvoyOptions::default() };
    let rig = Rig::with(options, pooled(json!({"keys": keys(&["sk-a", "sk-b"])}))).await;
    rig.v1.set(Behaviour::default().key("sk-a", 403, &[]));
    let mut refused = 0;
    for n in 0..60 {
        let status = rig.lanes.client(n).send(Request::chat(false)).await.unwrap().status;
        refused += usize::from(status != 200);
        assert!([200, 403].contains(&status), "{status}");
    }
    assert_eq!((rig.status_of("a").await, rig.status_of("b").await), (3, 0));
    assert!((5..=8).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_key_stays_in_use_as_suspect_and_a_canary_with_such_keys_is_served_by_stable() {
    let rig = Rig::start(Route::default(), canary(&["sk-a", "sk-b"], json!({"after": 1}))).await;
    rig.v2.set(Behaviour::status(401));
    for n in 0..40 {
        let answer = rig.lanes.client(n).send(Request::chat(false)).await.unwrap();
        assert!([200, 503].contains(&answer.status), "{}", answer.status);
    }
    assert_eq!((rig.status_of("a").await, rig.status_of("b").await), (4, 4));
    let suspect = |line: &&str| line.contains("\"key_suspect\"");
    eventually("one event for each key", || async {
        (rig.envoy.logs().lines().filter(suspect).count() == 2).then_some(())
    })
    .await;
    rig.v2.clear();
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(2) {
        let answer = rig.lanes.client(asked).send(Request::chat(false)).await.unwrap();
        assert_eq!((answer.status, answer.header("x-bellwether-version")), (200, Some("v1")));
        asked += 1;
    }
    let trials = rig.v2.count();
    assert!((1..=12).contains(&trials), "a trial of each key a second: {trials} of {asked}");
    rig.v2.set(Behaviour::default());
    eventually("the canary serves", || async {
        let answer = rig.lanes.client(0).send(Request::chat(false)).await.unwrap();
        assert_eq!(answer.status, 200);
        (answer.header("x-bellwether-version") == Some("v2")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_money_is_out_for_an_hour_and_its_clients_are_served_by_another() {
    let rig = Rig::start(Route::default(), pooled(json!({"keys": keys(&["sk-a", "sk-b"])}))).await;
    rig.v1.set(Behaviour::default().key("sk-a", 402, &[]));
    for n in 0..40 {
        assert_eq!(rig.lanes.client(n).send(Request::chat(false)).await.unwrap().status, 200);
    }
    assert_eq!((rig.status_of("a").await, rig.status_of("b").await), (5, 0));
    assert!(Rig::keys(&rig.v1)["sk-a"] <= 5);
    rig.v1.set(Behaviour::status(402));
    let answer = rig.lanes.client(0).send(Request::chat(false)).await.unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("keys_unavailable")));
    assert_eq!(answer.header("x-bellwether-version"), Some("v1"));
    eventually("the provider's status in the log", || async {
        let named = |line: &str| line.contains("\"key_refused\"") && line.contains("with 402");
        rig.envoy.logs().lines().any(named).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_429_of_the_last_key_says_when_a_key_returns() {
    let rig = Rig::start(Route::default(), pooled(json!({"keys": keys(&["sk-a", "sk-b", "sk-c"])}))).await;
    let limited = |wait: &str| Behaviour::failing(Fault::status(429, &[("retry-after", wait)]));
    rig.v1.set(limited("90").key("sk-a", 429, &[("retry-after", "20")]));
    let answer = rig.lanes.client(0).send(Request::chat(false)).await.unwrap();
    let headers = [answer.header("retry-after"), answer.header("x-should-retry")];
    assert_eq!((answer.status, headers), (429, [Some("20"), Some("true")]), "the provider's own answer");
    assert!(!answer.text().contains("keys_rate_limited"));
    let answer = rig.lanes.client(0).send(Request::chat(false)).await.unwrap();
    assert!(answer.text().contains("keys_rate_limited"));
    assert_eq!(answer.header("x-should-retry"), Some("true"));
}
