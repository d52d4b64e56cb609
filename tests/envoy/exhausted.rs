//! Pools with rules of their own and pools that run dry, on a real Envoy with two workers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, Route, sum_metric};
use bellwether_harness::provider::{Behaviour, Fault, Provider};
use bellwether_harness::testing::load::{Load, SOON, eventually};
use serde_json::{Value, json};

use crate::common::pools::{Rig, keys, pooled};

/// A canary that only a header leads to, and that Envoy's retries leave after `after` attempts.
fn forced_canary(after: u32, stable_pool: Option<&str>, canary: Value) -> Value {
    let mut v1 = json!({"id": "v1", "weight": 100, "cluster": "v1"});
    if let Some(pool) = stable_pool {
        v1["key_pool"] = json!(pool);
    }
    json!({
        "deployments": [{"name": "d", "stable": "v1", "guard": {"compare": false}, "failover": {"after": after},
            "rules": [{"headers": [{"name": "x-version", "exact": "v2"}], "version": "v2"}],
            "versions": [v1, {"id": "v2", "weight": 0, "cluster": "v2", "key_pool": "canary"}]}],
        "key_pools": [
            {"name": "stable", "keys": keys(&["sk-stable"])},
            {"name": "canary", "keys": canary}],
    })
}

fn to_canary() -> Request {
    Request::chat(false).header("x-version", "v2").header("authorization", "Bearer the-clients-own")
}

fn arrived(provider: &Provider) -> Vec<String> {
    provider.requests().into_iter().map(|request| request.key.unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_keeps_its_attempts_until_failover_after_unless_it_runs_out_of_keys() {
    if Route::here(&[Route::Matcher]).is_empty() {
        return;
    }
    // Three attempts in all. Each case: the canary's answer, and the number of its attempts before stable serves.
    for (status, after, values, tries) in [
        (503, 2, &["sk-one"][..], 2),
        (503, 1, &["sk-one", "sk-two"], 1),
        (429, 2, &["sk-one"], 1),
        (401, 2, &["sk-one"], 1),
        // A refusal of a key does not count while the pool has another key for the request.
        (429, 1, &["sk-one", "sk-two"], 2),
        (401, 1, &["sk-one", "sk-two"], 2),
        (429, 9, &["sk-one", "sk-two"], 2),
        (401, 9, &["sk-one", "sk-two"], 2),
    ] {
        let context = format!("{status}, after {after}, {values:?}");
        let rig = Rig::start(Route::Matcher, forced_canary(after, Some("stable"), keys(values))).await;
        rig.v2.set(Behaviour::status(status));
        let answer = rig.envoy.client().send(to_canary()).await.unwrap();
        assert_eq!((answer.status, answer.header("x-bellwether-version")), (200, Some("v1")), "{context}");
        let tried = arrived(&rig.v2);
        assert_eq!(tried.len(), tries, "{context}: {tried:?}");
        assert!(tried.iter().all(|key| values.contains(&key.as_str())), "{context}: {tried:?}");
        assert_eq!(arrived(&rig.v1), ["sk-stable"], "{context}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_no_version_has_a_usable_key_retry_after_is_the_time_until_the_first_returns() {
    let rig = Rig::start(Route::default(), forced_canary(5, Some("stable"), keys(&["sk-canary"]))).await;
    rig.v1.set(Behaviour::default().key("sk-stable", 429, &[("retry-after", "40")]));
    rig.v2.set(Behaviour::default().key("sk-canary", 429, &[("retry-after", "90")]));
    let client = rig.envoy.client();
    // Stable's key first, then the canary's; both are out then.
    assert_eq!(client.send(Request::chat(false)).await.unwrap().status, 429);
    eventually("stable's key is out", || async { (rig.status_of("stable").await == 1).then_some(()) }).await;
    assert_eq!(client.send(to_canary()).await.unwrap().status, 429);
    eventually("the canary's too", || async { (rig.status_of("canary").await == 1).then_some(()) }).await;
    let (before_v1, before_v2) = (rig.v1.count(), rig.v2.count());
    for request in [Request::chat(false), to_canary()] {
        let answer = client.send(request).await.unwrap();
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (429, Some("keys_rate_limited"))
        );
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((30..=40).contains(&wait), "stable's key is the first that returns: {wait}");
    }
    assert_eq!((rig.v1.count(), rig.v2.count()), (before_v1, before_v2), "nothing is attempted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_clients_own_key_by_stable_is_the_callers_fault_also_after_a_failover() {
    if Route::here(&[Route::Matcher]).is_empty() {
        return;
    }
    let rig = Rig::start(Route::Matcher, forced_canary(1, None, keys(&["sk-canary"]))).await;
    rig.v1.set(Behaviour::status(401));
    rig.v2.set(Behaviour::status(503));
    let answer = rig.envoy.client().send(to_canary()).await.unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(arrived(&rig.v2), ["sk-canary"]);
    // Envoy retries the configured failures, always with the client's own credentials.
    assert_eq!(BTreeSet::from_iter(arrived(&rig.v1)), BTreeSet::from(["the-clients-own".to_owned()]));
    eventually("the counts", || async {
        let page = rig.envoy.prometheus().await.unwrap();
        let attempts = |version, outcome| {
            sum_metric(&page, "bellwether_attempts_total", &[("version", version), ("outcome", outcome)])
        };
        let all = [attempts("v2", "bad"), attempts("v1", "key_rejected")];
        (attempts("v1", "caller_error") == rig.v1.count() as f64).then(|| assert_eq!(all, [1.0, 0.0]))
    })
    .await;
    assert_eq!(rig.status_of("canary").await, 0, "the canary's key is not charged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_pool_that_was_limited_returns_by_single_trials_within_a_second() {
    let all = ["sk-a", "sk-b", "sk-c"];
    let rig = Rig::start(Route::default(), pooled(json!({"keys": keys(&all)}))).await;
    rig.v1.set(Behaviour::failing(Fault::status(429, &[("retry-after", "3")])));
    let load = Load::start(&rig.lanes, 200.0, |_| Request::chat(false));
    eventually("all keys are out", || async {
        let out = [rig.status_of("a").await, rig.status_of("b").await, rig.status_of("c").await];
        (out == [1, 1, 1]).then_some(())
    })
    .await;
    let limited_at = rig.v1.requests().iter().map(|request| request.at).min().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let spent = rig.v1.count();
    // The provider works again, but so slowly that a burst would be seen.
    let latency = Duration::from_millis(50);
    rig.v1.set(Behaviour::slow(bellwether_harness::provider::Latency::Fixed { ms: 50.0 }));
    rig.v1.clear();
    eventually("traffic again", || async { (rig.v1.count() >= 300).then_some(()) }).await;
    let samples = load.stop().await;
    let received = rig.v1.requests();
    let trial = received.iter().map(|request| request.at).min().unwrap();
    let deadline = limited_at + Duration::from_secs(3);
    assert!(trial >= deadline, "not before the provider's deadline");
    let first_good =
        samples.iter().filter(|sample| sample.ok()).map(|sample| sample.finished_at).min().unwrap();
    for key in all {
        let of_key = || received.iter().filter(|r| r.key.as_deref() == Some(key)).map(|r| r.at);
        let Some(first) = of_key().min() else { continue };
        let before = of_key().filter(|at| *at < first + latency).count();
        assert_eq!(before, 1, "{before} requests with {key} before the provider answered its trial");
    }
    let late =
        samples.iter().find(|sample| sample.sent_at > deadline + Duration::from_secs(1) && !sample.ok());
    assert!(late.is_none(), "a second after the deadline: {late:?}");
    println!("{spent} attempts until all were out; back {:?} after the deadline", first_good - deadline);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_uses_a_limited_key_after_the_state_is_shared() {
    let rig = Rig::start(Route::default(), pooled(json!({"keys": keys(&["sk-a", "sk-b"])}))).await;
    for round in 0..5 {
        // Another key each time, so that each round begins with a pool in which nothing has happened.
        let (bad, good) = (format!("sk-bad-{round}"), format!("sk-good-{round}"));
        let update =
            rig.envoy.write_router_config(&pooled(json!({"keys": keys(&[&bad, &good])}))).await.unwrap();
        rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
        rig.v1.set(Behaviour::default());
        let load = Load::start(&rig.lanes, 300.0, |n| Request::chat(n % 3 == 0));
        let used = |key: &str| Rig::keys(&rig.v1).get(key).copied().unwrap_or(0);
        eventually("both keys in use", || async { (used(&bad) > 5 && used(&good) > 5).then_some(()) }).await;
        rig.v1.set(Behaviour::default().key(&bad, 429, &[("retry-after", "60")]));
        let set_at = Instant::now();
        eventually("the key is limited", || async {
            (rig.status_of(bad.trim_start_matches("sk-")).await == 1).then_some(())
        })
        .await;
        let told_at = Instant::now();
        // Every worker reads the state again within 10 ms, and attempts that were running arrive. A busy machine is
        // slower.
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.v1.clear();
        eventually("more traffic", || async { (used(&good) > 60).then_some(()) }).await;
        let samples = load.stop().await;
        assert_eq!(used(&bad), 0, "round {round}: {:?} after the limit was known", told_at - set_at);
        assert!(samples.iter().all(|sample| sample.ok()), "round {round}: no client has noticed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_quota_group_leave_and_return_together_and_a_key_of_weight_0_is_never_used() {
    let listed = json!([
        {"id": "a1", "value": "sk-a1", "quota_group": "a"}, {"id": "a2", "value": "sk-a2", "quota_group": "a"},
        {"id": "b1", "value": "sk-b1", "quota_group": "b"}, {"id": "none", "value": "sk-none", "weight": 0}]);
    let rig = Rig::start(Route::default(), pooled(json!({"keys": listed}))).await;
    rig.v1.set(Behaviour::default().key("sk-a1", 429, &[("retry-after", "2")]));
    let load = Load::start(&rig.lanes, 200.0, |_| Request::chat(false));
    eventually("the group is out", || async {
        let status = [rig.status_of("a1").await, rig.status_of("a2").await, rig.status_of("b1").await];
        (status == [1, 1, 0]).then_some(())
    })
    .await;
    rig.v1.set(Behaviour::default());
    eventually("the group is back", || async {
        (rig.status_of("a1").await == 0 && rig.status_of("a2").await == 0).then_some(())
    })
    .await;
    let samples = load.stop().await;
    assert!(samples.iter().all(|sample| sample.ok()));
    assert_eq!(rig.status_of("none").await, 0);
    assert_eq!(Rig::keys(&rig.v1).get("sk-none"), None, "a key of weight 0 waits for its weight");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_keeps_its_key_unless_the_key_is_out_of_use() {
    let mut config = pooled(json!({"keys": keys(&["sk-a", "sk-b", "sk-c"]), "sticky": true}));
    config["deployments"][0]["sticky"] = json!({"on": [{"header": "x-user-id"}]});
    let rig = Rig::start(Route::default(), config).await;
    let key_of_each = async || {
        let mut of: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        rig.v1.clear();
        for n in 0..120u64 {
            let user = n % 40;
            let request = Request::chat(false).header("x-user-id", &format!("user-{user}"));
            assert!(rig.lanes.client(n / 3).send(request).await.unwrap().status == 200);
        }
        for request in rig.v1.requests() {
            let user = request.header("x-user-id").unwrap().trim_start_matches("user-").parse().unwrap();
            of.entry(user).or_default().insert(request.key.unwrap_or_default());
        }
        of
    };
    let before = key_of_each().await;
    assert!(before.values().all(|keys| keys.len() == 1), "{before:?}");
    let used: BTreeSet<_> = before.values().flatten().cloned().collect();
    assert_eq!(used.len(), 3, "forty users use all three keys");
    rig.v1.set(Behaviour::default().key("sk-b", 401, &[]));
    eventually("the refusal", || async {
        for user in 0..40 {
            let request = Request::chat(false).header("x-user-id", &format!("user-{user}"));
            rig.lanes.client(user).send(request).await.unwrap();
        }
        (rig.status_of("b").await == 3).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = key_of_each().await;
    for (user, keys) in &before {
        if keys.contains("sk-b") {
            assert!(!after[user].contains("sk-b") && after[user].len() == 1, "{user}: {:?}", after[user]);
        } else {
            assert_eq!(keys, &after[user], "user {user} moved although its key is in use");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_rotate_under_load_without_a_failed_request_and_the_old_one_is_not_used_again() {
    let listed =
        json!([{"id": "one", "value": {"secret": "one"}}, {"id": "two", "value": {"secret": "two"}}]);
    let secrets = |n: u32| json!({"secrets": {"one": format!("sk-one-{n}"), "two": format!("sk-two-{n}")}});
    let options = EnvoyOptions { keys_config: Some(secrets(0)), ..EnvoyOptions::default() };
    let rig = Rig::with(options, pooled(json!({"keys": listed}))).await;
    let load = Load::start(&rig.lanes, 300.0, |n| Request::chat(n % 2 == 0));
    for n in 1..=5u32 {
        let update = rig.envoy.write_keys_config(&secrets(n)).await.unwrap();
        rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
        let current = |request: &bellwether_harness::provider::Received| {
            request.key.as_deref().is_some_and(|key| key.ends_with(&format!("-{n}")))
        };
        // The main thread reports that the update is accepted; each worker follows later.
        eventually("the new keys are in use", || async {
            let recent = rig.v1.requests().into_iter().rev().take(40).collect::<Vec<_>>();
            (recent.len() == 40 && recent.iter().all(current)).then_some(())
        })
        .await;
        rig.v1.clear();
        eventually("more traffic", || async { (rig.v1.count() >= 100).then_some(()) }).await;
        let old = rig.v1.requests().into_iter().find(|request| !current(request));
        assert!(old.is_none(), "an old key after rotation {n}: {:?}", old.map(|request| request.key));
    }
    let samples = load.stop().await;
    let failed: Vec<_> = samples.iter().filter(|sample| !sample.ok()).collect();
    assert!(failed.is_empty(), "of {}: {failed:?}", samples.len());
    assert_eq!((rig.status_of("one").await, rig.status_of("two").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_and_a_refused_connection_take_the_next_key_streaming_or_not() {
    let all = ["sk-a", "sk-b", "sk-c"];
    for stream in [false, true] {
        let rig = Rig::start(Route::default(), pooled(json!({"keys": keys(&all)}))).await;
        rig.v1.set(Behaviour::failing(Fault::Reset));
        let answer = rig.envoy.client().send(Request::chat(stream)).await.unwrap();
        assert_eq!(answer.status, 503, "after as many attempts as the retry policy allows");
        let tried = arrived(&rig.v1);
        assert_eq!((tried.len(), BTreeSet::from_iter(tried).len()), (3, 3), "no key twice");

        // Nothing listens on this port any more, so that only the metrics count the attempts.
        let Rig { envoy, v1, .. } = rig;
        v1.stop().await;
        assert_eq!(envoy.client().send(Request::chat(stream)).await.unwrap().status, 503);
        eventually("each key twice", || async {
            let page = envoy.prometheus().await.unwrap();
            let of =
                |key| sum_metric(&page, "bellwether_key_requests_total", &[("key", key), ("outcome", "bad")]);
            ([of("a"), of("b"), of("c")] == [2.0; 3]).then_some(())
        })
        .await;
    }
}
