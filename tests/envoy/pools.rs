//! Key pools and failover on a real Envoy with two workers: no good key and no request is wasted.

use std::time::{Duration, Instant};

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, Route, sum_metric};
use bellwether_harness::provider::{Behaviour, Fault, Latency};
use bellwether_harness::testing::load::{Load, SOON, eventually, without_retries};
use serde_json::{Value, json};

use crate::common::pools::{Rig, keys, pooled};

#[tokio::test(flavor = "multi_thread")]
async fn two_bad_keys_of_five_fail_no_request_and_are_out_of_use_after_a_few_attempts() {
    let rig = Rig::start(
        Route::default(),
        pooled(json!({"keys": keys(&["sk-a", "sk-b", "sk-c", "sk-d", "sk-e"])})),
    )
    .await;
    rig.v1.set(Behaviour::default().key("sk-a", 401, &[]).key("sk-b", 429, &[("retry-after", "60")]));
    let load = Load::start(&rig.lanes, 400.0, |n| Request::chat(n % 4 == 0));
    eventually("a thousand answers", || async { (rig.v1.count() >= 1000).then_some(()) }).await;
    let samples = load.stop().await;
    let failed: Vec<_> = samples.iter().filter(|sample| !sample.ok()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let counts = Rig::keys(&rig.v1);
    // A refusal travels for a millisecond or two, and another worker may be 10 ms behind.
    for bad in ["sk-a", "sk-b"] {
        assert!((1..=12).contains(&counts[bad]), "{counts:?}");
    }
    let good = ["sk-c", "sk-d", "sk-e"].map(|key| counts[key]);
    let of = good.iter().sum::<usize>();
    // A third each, five standard deviations either way. More than a thousand where the load had to catch up.
    let off = |count: usize| (count as f64 - of as f64 / 3.0).abs() > 5.0 * (of as f64 * 2.0 / 9.0).sqrt();
    assert!(!good.into_iter().any(off), "{counts:?}");
    assert_eq!((rig.status_of("a").await, rig.status_of("b").await, rig.status_of("c").await), (3, 1, 0));
    println!("attempts by key: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_pool_sends_retry_after_and_resumes_with_one_trial() {
    let rig = Rig::start(Route::default(), pooled(json!({"keys": keys(&["sk-a"])}))).await;
    rig.v1.set(Behaviour::default().key("sk-a", 429, &[("retry-after", "2")]));
    let client = rig.envoy.client();
    let began = Instant::now();
    let answer = client.send(Request::chat(false)).await.unwrap();
    assert_eq!(answer.status, 429, "{}", answer.text());
    eventually("the key is out on every worker", || async { (rig.status_of("a").await == 1).then_some(()) })
        .await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.v1.clear();
    let answer = client.send(Request::chat(false)).await.unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("keys_rate_limited")));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(rig.v1.count(), 0, "no request goes to a cooling key");

    // It stays limited for its first trial: then out again, one attempt each time, whatever the load.
    let load = Load::start(&rig.lanes, 200.0, |_| Request::chat(false));
    eventually("the first trial", || async { (rig.v1.count() >= 1).then_some(()) }).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "not before the deadline");
    rig.v1.set(Behaviour::default());
    eventually("traffic again", || async { (rig.v1.count() >= 50).then_some(()) }).await;
    let resumed = began.elapsed();
    let samples = load.stop().await;
    let first_good = samples.iter().filter(|sample| sample.ok()).map(|sample| sample.sent_at).min().unwrap();
    // One trial may have failed before the provider was well again; each costs two seconds.
    assert!(first_good.duration_since(began) < Duration::from_secs(8), "{resumed:?}");
    let before = rig.v1.requests().iter().filter(|request| request.at < first_good).count();
    assert!(before <= 2, "{before} attempts reached the limited key: one a trial");
    assert_eq!(rig.status_of("a").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_during_a_trial_get_a_short_retry_after() {
    let pool = json!({"keys": keys(&["sk-a"])});
    let rig = Rig::start(Route::default(), pooled(pool)).await;
    rig.v1.set(Behaviour::failing(Fault::status(429, &[("retry-after", "1")])));
    rig.lanes.client(0).send(Request::chat(false)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    rig.v1.set(Behaviour::slow(Latency::Fixed { ms: 3000.0 }));
    rig.v1.clear();
    let client = rig.envoy.client();
    let trial = tokio::spawn(async move { client.send(Request::chat(false)).await.unwrap().status });
    eventually("the trial", || async { (rig.v1.count() == 1).then_some(()) }).await;
    for n in 0..rig.lanes.count() {
        let answer = rig.lanes.client(n).send(Request::chat(false)).await.unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("2")));
    }
    let admin = Client::new(rig.envoy.admin_role_port());
    let shown = admin.get("/status", &[]).await.unwrap().json();
    let until = shown["key_pools"][0]["keys"][0]["until"].as_str().unwrap();
    assert!(until < shown["now"].as_str().unwrap(), "its deadline has passed: {shown}");
    assert_eq!(trial.await.unwrap(), 200);
    // Another worker may be 10 ms behind.
    eventually("the key on the other worker", || async {
        (rig.lanes.client(0).send(Request::chat(false)).await.unwrap().status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_prompt_returns_no_refused_key_to_use() {
    let pool = json!({"keys": keys(&["sk-a", "sk-b"]), "rejected": {"disable_for": "1s"}});
    let rig = Rig::start(Route::default(), pooled(pool)).await;
    rig.v1.set(Behaviour::default().key("sk-a", 401, &[]));
    let ask = async |count: u64| {
        for n in 0..count {
            rig.lanes.client(n).send(Request::chat(false)).await.unwrap();
        }
    };
    ask(20).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    rig.v1.set(Behaviour::default().key("sk-a", 400, &[]));
    rig.v1.clear();
    ask(4).await;
    // Another worker may be 10 ms behind.
    assert!(Rig::keys(&rig.v1)["sk-a"] > 1, "each trial was inconclusive");
    assert_eq!(rig.status_of("a").await, 3);
    rig.v1.set(Behaviour::default());
    eventually("the key", || async {
        ask(1).await;
        (rig.status_of("a").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_prompts_and_an_outage_of_the_provider_take_no_key_out() {
    let rig = Rig::start(Route::default(), pooled(json!({"keys": keys(&["sk-a", "sk-b", "sk-c"])}))).await;
    for status in [400, 422, 500, 503] {
        rig.v1.set(Behaviour::status(status));
        let load = Load::start(&rig.lanes, 200.0, |_| Request::chat(false));
        let before = rig.v1.count();
        eventually("some requests", || async { (rig.v1.count() >= before + 60).then_some(()) }).await;
        load.stop().await;
        for key in ["a", "b", "c"] {
            assert_eq!(rig.status_of(key).await, 0, "{key} after {status}");
        }
    }
}

/// A pool of two keys, each for a client of its own, identified by the header `x-user-id`.
struct Sticky {
    rig: Rig,
    /// Clients on worker 0 and on worker 1.
    on: [Client; 2],
    /// The identities that get the key `a`, and those that get `b`.
    users: [String; 2],
}

impl Sticky {
    /// Requests are one attempt each. `pool` besides the keys.
    async fn start(mut pool: Value) -> Sticky {
        pool["keys"] = keys(&["sk-a", "sk-b"]);
        pool["sticky"] = json!(true);
        let mut config = pooled(pool);
        config["deployments"][0]["sticky"] = json!({"on": [{"header": "x-user-id"}]});
        let options = EnvoyOptions { edit: Some(Box::new(without_retries)), ..EnvoyOptions::default() };
        let rig = Rig::with(options, config).await;
        let on = [0, 1].map(|worker| {
            let lane = (0..rig.lanes.count()).find(|n| rig.lanes.worker(*n) == worker).unwrap();
            rig.lanes.client(lane).clone()
        });
        let mut users = [String::new(), String::new()];
        for n in 0..40 {
            rig.v1.clear();
            on[0].send(Request::chat(false).header("x-user-id", &n.to_string())).await.unwrap();
            let key = rig.v1.requests()[0].key.clone().unwrap();
            users[usize::from(key == "sk-b")] = n.to_string();
        }
        rig.v1.clear();
        Sticky { rig, on, users }
    }

    /// A stream with the key `a` (0) or `b` (1), while that is active, on a worker.
    async fn ask(&self, key: usize, worker: usize) -> u16 {
        let request = Request::chat(true).header("x-user-id", &self.users[key]);
        self.on[worker].send(request).await.unwrap().status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_streams_break_cools_while_another_works() {
    let sticky = Sticky::start(json!({"failing": {"after": 3}})).await;
    let rig = &sticky.rig;
    for n in 0..12 {
        rig.v1.set(Behaviour::failing(Fault::ResetAfter { chunks: 2 }));
        assert_eq!(sticky.ask(0, n % 2).await, 200, "each stream begins with status 200");
        rig.v1.set(Behaviour::default());
        sticky.ask(1, n % 2).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!((rig.status_of("a").await, rig.status_of("b").await), (2, 0));
    let counts = Rig::keys(&rig.v1);
    assert!((3..=6).contains(&counts["sk-a"]), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_cools_also_if_all_clients_of_the_other_key_are_on_another_worker() {
    let sticky = Sticky::start(json!({})).await;
    let rig = &sticky.rig;
    rig.v1.set(Behaviour::default().key("sk-a", 500, &[]));
    for _ in 0..20 {
        sticky.ask(0, 0).await;
        sticky.ask(1, 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((rig.status_of("a").await, rig.status_of("b").await), (2, 0));
    // Five, and the attempts of the quarter of a second in which the other worker has not yet merged its counts.
    let counts = Rig::keys(&rig.v1);
    assert!((5..=12).contains(&counts["sk-a"]), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_secrets_with_one_value_are_one_key() {
    let secrets = json!({"secrets": {"n": "sk-same", "m": " sk-same ", "o": "sk-other"}});
    let options = EnvoyOptions { keys_config: Some(secrets), ..EnvoyOptions::default() };
    let named = |id: &str, name: &str| json!({"id": id, "value": {"secret": name}});
    let pool = json!({"keys": [named("a", "n"), named("b", "m"), named("c", "o")]});
    let rig = Rig::with(options, pooled(pool)).await;
    for n in 0..400 {
        rig.lanes.client(n).send(Request::chat(false)).await.unwrap();
    }
    let counts = Rig::keys(&rig.v1);
    assert!((140..=260).contains(&counts["sk-same"]), "half, six standard deviations either way: {counts:?}");
    let admin = Client::new(rig.envoy.admin_role_port());
    eventually("every request counted once", || async {
        let shown = admin.get("/status", &[]).await.unwrap().json();
        let keys = shown["key_pools"][0]["keys"].as_array().unwrap().clone();
        let requests: Vec<_> = keys.iter().map(|key| key["requests"].as_u64().unwrap()).collect();
        let same: Vec<_> = keys.iter().map(|key| key["same_as"].as_str()).collect();
        assert_eq!(same, [None, Some("a"), None]);
        assert_eq!((&keys[1]["has_value"], &keys[1]["weight"]), (&json!(true), &json!(0)));
        // And those with which the lanes were opened.
        (requests[1] == 0 && requests[0] + requests[2] >= 400).then_some(())
    })
    .await;
}

/// A canary with half of the traffic, each version with its own pool, host, path and headers.
fn two_versions() -> Value {
    json!({
        "deployments": [{"name": "d", "stable": "v1", "guard": {"compare": false}, "versions": [
            {"id": "v1", "weight": 50, "cluster": "v1", "key_pool": "stable", "host": "stable.example.com",
             "rewrite_prefix": {"from": "/v1/", "to": "/stable/"}, "set_headers": {"x-tier": "stable"}},
            {"id": "v2", "weight": 50, "cluster": "v2", "key_pool": "canary", "host": "canary.example.com",
             "rewrite_prefix": {"from": "/v1/", "to": "/canary/"}, "set_headers": {"x-tier": "canary", "x-canary": "1"}}]}],
        "key_pools": [
            {"name": "stable", "keys": keys(&["sk-stable"])},
            {"name": "canary", "header": "x-api-key", "prefix": "", "keys": keys(&["sk-canary"]), "failing": {"after": 1000}}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_on_a_canary_is_served_by_stable_and_carries_nothing_of_the_canary() {
    let rig = Rig::start(Route::default(), two_versions()).await;
    // The 429 comes last: it puts the only key of the canary out.
    for fault in [Fault::status(503, &[]), Fault::Reset, Fault::status(429, &[])] {
        rig.v1.clear();
        rig.v2.clear();
        rig.v2.set(Behaviour::failing(fault.clone()));
        let load = Load::start(&rig.lanes, 100.0, |n| Request::chat(n % 2 == 0).header("x-tier", "mine"));
        eventually("failures", || async { (rig.v2.count() >= 1 && rig.v1.count() >= 60).then_some(()) })
            .await;
        let samples = load.stop().await;
        assert!(samples.iter().all(|sample| sample.ok()), "{fault:?}: every client is served");
        assert!(
            samples.iter().all(|sample| sample.version.as_deref() == Some("v1")),
            "{fault:?}: by stable, and told so"
        );
        for request in rig.v1.requests() {
            assert_eq!(request.header("host"), Some("stable.example.com"), "{fault:?}");
            assert_eq!(request.path, "/stable/chat/completions", "{fault:?}");
            assert_eq!(
                (request.header("x-tier"), request.header("x-canary")),
                (Some("stable"), None),
                "{fault:?}"
            );
            assert_eq!(request.header("authorization"), Some("Bearer sk-stable"), "{fault:?}");
            assert_eq!(request.header("x-api-key"), None, "{fault:?}");
        }
        for request in rig.v2.requests() {
            assert_eq!(
                (request.header("x-api-key"), request.header("authorization")),
                (Some("sk-canary"), None),
                "{fault:?}"
            );
            assert_eq!(request.path, "/canary/chat/completions", "{fault:?}");
        }
    }
    // Blame: the 503s and resets are the version's, the 429 was the key's.
    let page = rig.envoy.prometheus().await.unwrap();
    let attempts = |version, outcome| {
        let labels = [("deployment", "d"), ("version", version), ("outcome", outcome)];
        sum_metric(&page, "bellwether_attempts_total", &labels)
    };
    assert!(
        attempts("v2", "bad") > 1.0 && attempts("v2", "rate_limited") >= 1.0 && attempts("v1", "bad") == 0.0
    );
    assert_eq!(
        sum_metric(&page, "bellwether_requests_total", &[("outcome", "bad")]),
        0.0,
        "no client request failed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_cannot_change_cluster_never_carries_stables_key() {
    let rig = Rig::start(Route::ClusterHeader, two_versions()).await;
    rig.v2.set(Behaviour::status(503));
    for client in (0..rig.lanes.count()).map(|n| rig.lanes.client(n)) {
        for _ in 0..4 {
            let answer = client.send(Request::chat(false)).await.unwrap();
            assert!([200, 503].contains(&answer.status));
        }
    }
    let keys = Rig::keys(&rig.v2);
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["sk-canary"], "{keys:?}");
    assert!(rig.v2.requests().iter().all(|request| request.header("host") == Some("canary.example.com")));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_states_survive_a_reload_that_reorders_the_pool_and_end_with_their_key_or_pool() {
    let pool = |values: &[&str]| pooled(json!({"keys": keys(values)}));
    let rig = Rig::start(Route::default(), pool(&["sk-a", "sk-b"])).await;
    rig.v1.set(Behaviour::default().key("sk-a", 401, &[]));
    let client = rig.envoy.client();
    eventually("the refusal", || async {
        client.send(Request::chat(false)).await.unwrap();
        (rig.status_of("a").await == 3).then_some(())
    })
    .await;
    for values in [&["sk-c", "sk-b", "sk-a"][..], &["sk-b", "sk-a"]] {
        let update = rig.envoy.write_router_config(&pool(values)).await.unwrap();
        rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
        rig.v1.clear();
        for n in 0..40 {
            rig.lanes.client(n).send(Request::chat(false)).await.unwrap();
        }
        let counts = Rig::keys(&rig.v1);
        assert_eq!((counts.get("sk-a"), counts.values().sum::<usize>()), (None, 40), "{counts:?}");
    }
    let mut without_pool = pool(&["sk-b"]);
    without_pool["deployments"][0]["versions"][0].as_object_mut().unwrap().remove("key_pool");
    without_pool["key_pools"] = json!([]);
    for away in [pool(&["sk-b"]), without_pool] {
        assert_eq!(rig.status_of("a").await, 3);
        for config in [away, pool(&["sk-a", "sk-b"])] {
            let update = rig.envoy.write_router_config(&config).await.unwrap();
            rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
            // Nobody has had the key for three seconds then.
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        assert_eq!(rig.status_of("a").await, 0, "it is a new key");
        eventually("the next refusal", || async {
            rig.lanes.client(0).send(Request::chat(false)).await.unwrap();
            (rig.status_of("a").await == 3).then_some(())
        })
        .await;
    }
}
