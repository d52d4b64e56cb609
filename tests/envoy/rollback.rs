//! Rollbacks on a real Envoy with two workers: a canary in trouble loses its traffic everywhere and at once, no other
//! version does, and events and metrics report it.
//!
//! All but one run without retries, so that requests are attempts. Moments are compared only where their order is
//! certain: a request that was sent 10 ms after the test has read of a rollback cannot have been assigned before it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{ConfigUpdate, Edit, EnvoyOptions, EnvoyProcess, sum_metric};
use bellwether_harness::load::Sample;
use bellwether_harness::provider::{Behaviour, Fault, Latency, Provider};
use bellwether_harness::testing::load::{
    DEPLOYMENT, Lanes, Load, NUMBER, SOON, chat, deployment, events, eventually, outcomes, routes, sample,
    without_retries,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// With the `keys` role, and the router alone.
const BOTH: [bool; 2] = [true, false];

/// Workers of the Envoys here.
const WORKERS: u64 = 2;

/// A worker's copy of the standings is no older than this.
const REFRESH: Duration = Duration::from_millis(10);

/// Requests a second, of which a canary at half of the weight gets a hundred.
const RATE: f64 = 200.0;

/// An Envoy with three providers, each on a cluster of its name.
struct Rig {
    envoy: EnvoyProcess,
    lanes: Lanes,
    v1: Provider,
    v2: Provider,
    v3: Provider,
    mode: &'static str,
}

impl Rig {
    async fn start(keys_role: bool, deployments: &[Value]) -> Rig {
        Rig::edited(keys_role, deployments, Box::new(without_retries)).await
    }

    async fn edited(keys_role: bool, deployments: &[Value], edit: Edit) -> Rig {
        let mut providers = Vec::new();
        let mut options = EnvoyOptions { keys_role, edit: Some(edit), ..EnvoyOptions::default() };
        for name in ["v1", "v2", "v3"] {
            let provider = Provider::start(name).await.unwrap();
            options = options.cluster(name, provider.port());
            providers.push(provider);
        }
        let [v1, v2, v3]: [Provider; 3] = providers.try_into().unwrap();
        let options = options.router_config(json!({"deployments": deployments}));
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let lanes = Lanes::open(&envoy).await;
        for provider in [&v1, &v2, &v3] {
            provider.clear();
        }
        Rig { envoy, lanes, v1, v2, v3, mode: if keys_role { "with the keys role" } else { "router alone" } }
    }

    /// Starts a load of a deployment's requests.
    fn load(&self, name: &'static str, stream: bool) -> Load {
        Load::start(&self.lanes, RATE, move |_| chat(name, stream))
    }

    /// Sends one request on every lane.
    async fn ask_all(&self, request: impl Fn() -> Request) -> Vec<Sample> {
        let mut running = JoinSet::new();
        for lane in 0..self.lanes.count() {
            let (client, request) = (self.lanes.client(lane).clone(), request());
            running.spawn(async move { sample(&client, lane, request).await });
        }
        running.join_all().await
    }

    /// Waits for the first event of a deployment; returns it and a moment at which it had been logged.
    async fn first_event(&self, name: &str) -> (Value, Instant) {
        let event = eventually(format!("an event of {name}, {}", self.mode), || async {
            events(&self.envoy, name).into_iter().next()
        });
        (event.await, Instant::now())
    }

    /// The numbers of a deployment's requests that this provider has seen.
    fn seen_by(provider: &Provider, name: &str) -> BTreeSet<u64> {
        let requests = provider.requests();
        let of_it = requests.iter().filter(|request| request.header(DEPLOYMENT) == Some(name));
        of_it.filter_map(|request| request.header(NUMBER)?.parse().ok()).collect()
    }

    async fn gauge(&self, gauge: &str, labels: &[(&str, &str)]) -> u64 {
        self.envoy.metric(gauge, labels).await.unwrap() as u64
    }

    /// The phase, the evidence, and the weights of the versions.
    async fn gauges(&self, name: &str) -> (u64, u64, Vec<u64>) {
        let page = self.envoy.prometheus().await.unwrap();
        let of = |gauge: &str| sum_metric(&page, gauge, &[("deployment", name)]) as u64;
        let weight = |version: &str| {
            sum_metric(&page, "bellwether_weight", &[("deployment", name), ("version", version)]) as u64
        };
        (of("bellwether_phase"), of("bellwether_evidence"), ["v1", "v2", "v3"].map(weight).into())
    }

    async fn expect_gauges(&self, name: &str, wanted: (u64, u64, [u64; 3])) {
        let wanted = (wanted.0, wanted.1, wanted.2.to_vec());
        eventually(format!("gauges of {name} are {wanted:?}, {}", self.mode), || async {
            (self.gauges(name).await == wanted).then_some(())
        })
        .await;
    }

    /// How often a deployment has been rolled back, for whatever reason.
    async fn rollbacks(&self, name: &str) -> u64 {
        self.gauge("bellwether_rollbacks_total", &[("deployment", name)]).await
    }

    async fn write(&self, deployments: &[Value]) -> ConfigUpdate {
        let update = self.envoy.write_router_config(&json!({"deployments": deployments})).await.unwrap();
        self.envoy.wait_config_accepted(&update, SOON).await.unwrap();
        update
    }

    /// Runs a load until a deployment is rolled back and for a while more, checks the properties of every rollback of
    /// `v2`, and returns the samples, the event and the requests that the canary got.
    async fn roll_back(
        &self,
        name: &'static str,
        reason: &str,
        stream: bool,
    ) -> (Vec<Sample>, Value, BTreeSet<u64>) {
        let load = self.load(name, stream);
        let (event, seen_at) = self.first_event(name).await;
        let before = Rig::seen_by(&self.v1, name).len();
        eventually("60 more requests are answered", || async {
            (Rig::seen_by(&self.v1, name).len() >= before + 60).then_some(())
        })
        .await;
        let samples = load.stop().await;
        let mode = self.mode;

        let canary = Rig::seen_by(&self.v2, name);
        let late: Vec<&Sample> = samples
            .iter()
            .filter(|sample| sample.sent_at > seen_at + REFRESH && canary.contains(&sample.number))
            .collect();
        assert!(
            late.is_empty(),
            "{name}, {mode}: sent {REFRESH:?} after the rollback, served by the canary: {late:?}"
        );
        let after = samples.iter().filter(|sample| sample.sent_at > seen_at + REFRESH).count();
        assert!(after >= 40, "{name}, {mode}: only {after} requests afterwards");

        let text = |field: &str| event[field].as_str().unwrap_or("none").to_owned();
        assert_eq!(text("bellwether"), "transition", "{name}, {mode}: {event}");
        assert_eq!((text("from"), text("to")), ("active".into(), "rolled_back".into()), "{name}, {mode}");
        assert_eq!((text("version"), text("release")), ("v2".into(), "1".into()), "{name}, {mode}");
        assert_eq!(text("reason"), reason, "{name}, {mode}: {event}");
        assert!(text("time").starts_with("20") && text("time").ends_with('Z'), "{name}, {mode}: {event}");
        assert!(text("why").contains("limit"), "{name}, {mode}: {event}");

        self.expect_gauges(name, (3, 100, [10_000, 0, 0])).await;
        assert_eq!(self.rollbacks(name).await, 1, "{name}, {mode}");
        let labels = [("deployment", name), ("version", "v2"), ("reason", reason)];
        assert_eq!(self.gauge("bellwether_rollbacks_total", &labels).await, 1, "{name}, {mode}");
        assert_eq!(events(&self.envoy, name).len(), 1, "{name}, {mode}: one worker reports");
        println!("{name}, {mode}: {} requests reached the canary; {}", canary.len(), text("why"));
        (samples, event, canary)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_loses_all_traffic_at_its_limit() {
    for keys_role in BOTH {
        let deployments = [
            deployment("consecutive", json!({"max_consecutive_errors": 5})),
            deployment("rate", json!({"max_error_rate": 5, "min_requests": 40})),
            deployment("count", json!({"max_errors": 12})),
        ];
        let rig = Rig::start(keys_role, &deployments).await;
        rig.v2.set(Behaviour::status(500));
        for (name, reason, limit) in
            [("consecutive", "consecutive_errors", 5), ("rate", "error_rate", 40), ("count", "errors", 12)]
        {
            let (samples, event, canary) = rig.roll_back(name, reason, false).await;
            // Each failure is merged at once, and the worker that merges it judges. So every other worker can have merged
            // one more failure when the verdict falls at the limit.
            let errors = event["evidence"]["canary"]["errors"].as_u64().unwrap();
            assert!((limit..limit + WORKERS).contains(&errors), "{name}, {}: {event}", rig.mode);
            assert_eq!(event["evidence"]["canary"]["requests"], errors, "{name}, {}: all failed", rig.mode);
            assert_eq!(event["evidence"]["stable"]["errors"], 0, "{name}, {}", rig.mode);
            // Nobody suffers but those the canary got, and all of them are counted.
            let failed: BTreeSet<u64> =
                samples.iter().filter(|sample| !sample.ok()).map(|sample| sample.number).collect();
            assert_eq!(failed, canary, "{name}, {}", rig.mode);
            // Forty failures are seen by one worker alone in no run that anybody will live to see.
            let workers: BTreeSet<usize> = canary.iter().map(|number| rig.lanes.worker(*number)).collect();
            assert!(limit < 40 || workers.len() == 2, "{name}, {}: only {workers:?} saw failures", rig.mode);
            for counter in ["bellwether_requests_total", "bellwether_attempts_total"] {
                let counts = outcomes(&rig.envoy, counter, name).await;
                assert_eq!(
                    counts.get("v2 bad"),
                    Some(&(canary.len() as u64)),
                    "{counter} of {name}, {}",
                    rig.mode
                );
                assert_eq!(
                    counts.values().sum::<u64>(),
                    samples.len() as u64,
                    "{counter} of {name}, {}",
                    rig.mode
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_slow_or_breaks_streams_is_rolled_back() {
    for keys_role in BOTH {
        // Far from stable's latency on a busy machine, and from the canary's.
        let deployments = [
            deployment("avg", json!({"max_latency": {"avg": "300ms"}, "min_requests": 20})),
            deployment("p95", json!({"max_latency": {"p95": "300ms"}, "min_requests": 20})),
            deployment("breaking", json!({"max_consecutive_errors": 5})),
        ];
        let rig = Rig::start(keys_role, &deployments).await;
        rig.v2.set(Behaviour::slow(Latency::Fixed { ms: 700.0 }));
        rig.roll_back("avg", "latency_avg", false).await;
        // A tenth of the requests is slow: no mean tells, a percentile does.
        let slow = Fault::Slow { latency: Latency::Fixed { ms: 700.0 } };
        rig.v2.set(Behaviour::failing(slow).ratio(0.1));
        rig.roll_back("p95", "latency_p95", false).await;
        rig.v2.set(Behaviour::failing(Fault::ResetAfter { chunks: 2 }));
        let (_, event, canary) = rig.roll_back("breaking", "consecutive_errors", true).await;
        assert!(
            (5..5 + WORKERS).contains(&event["evidence"]["canary"]["errors"].as_u64().unwrap()),
            "{event}"
        );
        let counts = outcomes(&rig.envoy, "bellwether_requests_total", "breaking").await;
        assert_eq!(counts.get("v2 bad"), Some(&(canary.len() as u64)), "{}: {counts:?}", rig.mode);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_observe_mode_a_failing_canary_is_reported_once_and_keeps_its_traffic() {
    let rig =
        Rig::start(true, &[deployment("observed", json!({"mode": "observe", "max_consecutive_errors": 5}))])
            .await;
    rig.v2.set(Behaviour::status(500));
    let load = rig.load("observed", false);
    let (event, seen_at) = rig.first_event("observed").await;
    let before = Rig::seen_by(&rig.v2, "observed").len();
    eventually("40 more requests reach the canary", || async {
        (Rig::seen_by(&rig.v2, "observed").len() >= before + 40).then_some(())
    })
    .await;
    let samples = load.stop().await;
    assert!(samples.iter().any(|sample| sample.sent_at > seen_at + REFRESH && !sample.ok()));
    assert_eq!(event["bellwether"], "would_roll_back", "{event}");
    assert_eq!(
        (&event["to"], &event["reason"]),
        (&json!("rolled_back"), &json!("consecutive_errors")),
        "{event}"
    );
    assert_eq!(events(&rig.envoy, "observed").len(), 1, "reported once");
    rig.expect_gauges("observed", (0, 100, [5_000, 5_000, 0])).await;
    assert_eq!(rig.rollbacks("observed").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_observe_mode_trouble_of_both_versions_is_reported_once_and_holds_nothing() {
    let rig =
        Rig::start(true, &[deployment("observed", json!({"mode": "observe", "max_consecutive_errors": 5}))])
            .await;
    rig.v1.set(Behaviour::status(500));
    let load = rig.load("observed", false);
    eventually("stable is in trouble", || async {
        (Rig::seen_by(&rig.v1, "observed").len() >= 20).then_some(())
    })
    .await;
    rig.v2.set(Behaviour::status(500));
    let (event, _) = rig.first_event("observed").await;
    assert_eq!((&event["bellwether"], &event["to"]), (&json!("would_hold"), &json!("holding")), "{event}");
    assert!(event["text"].as_str().unwrap().starts_with("would have held v2: "), "{event}");
    let before = Rig::seen_by(&rig.v2, "observed").len();
    eventually("40 more requests reach the canary", || async {
        (Rig::seen_by(&rig.v2, "observed").len() >= before + 40).then_some(())
    })
    .await;
    load.stop().await;
    rig.expect_gauges("observed", (0, 100, [5_000, 5_000, 0])).await;
    assert_eq!(events(&rig.envoy, "observed").len(), 1, "reported once");
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_errors_refused_keys_and_cancelled_requests_judge_no_version() {
    for keys_role in BOTH {
        let guard =
            json!({"max_consecutive_errors": 1, "max_errors": 1, "max_error_rate": 1, "min_requests": 1});
        let mut all = deployment("judged", guard);
        (all["versions"][0]["weight"], all["versions"][1]["weight"]) = (json!(0), json!(100));
        let rig = Rig::start(keys_role, &[all]).await;
        for status in [400, 401, 403, 404, 422, 429] {
            rig.v2.set(Behaviour::status(status));
            let answers = rig.ask_all(|| chat("judged", false)).await;
            assert!(answers.iter().all(|sample| sample.result == Ok(status)), "{}: {answers:?}", rig.mode);
        }
        rig.v2.set(Behaviour::failing(Fault::HangAfter { chunks: 1 }));
        for lane in 0..rig.lanes.count() {
            let mut opened = rig.lanes.client(lane).open(chat("judged", true)).await.unwrap();
            assert!(opened.chunk().await.unwrap().is_some());
        }
        let lanes = rig.lanes.count();
        let expected = [("v2 caller_error", 5 * lanes), ("v2 cancelled", lanes), ("v2 rate_limited", lanes)];
        let expected = expected.map(|(outcome, count)| (outcome.to_owned(), count)).into();
        eventually(format!("all are counted, {}", rig.mode), || async {
            (outcomes(&rig.envoy, "bellwether_requests_total", "judged").await == expected).then_some(())
        })
        .await;
        rig.expect_gauges("judged", (0, 0, [0, 10_000, 0])).await;
        assert_eq!(events(&rig.envoy, "judged"), Vec::<Value>::new(), "{}", rig.mode);
        // The limits were in force all the time.
        rig.v2.set(Behaviour::status(500));
        rig.lanes.client(0).send(chat("judged", false)).await.unwrap();
        let (event, _) = rig.first_event("judged").await;
        assert_eq!(event["to"], "rolled_back", "{}: {event}", rig.mode);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_retries_hide_from_clients_count_against_the_canary() {
    let hidden = deployment("hidden", json!({"max_error_rate": 5, "min_requests": 20}));
    // The sample's retries, and so many that no request has bad luck with all of its attempts.
    let retries = |bootstrap: &mut Value| {
        routes(bootstrap)[0]["route"]["retry_policy"]["num_retries"] = json!(12);
    };
    let rig = Rig::edited(true, &[hidden], Box::new(retries)).await;
    rig.v2.set(Behaviour::status(503).ratio(0.2));
    let load = rig.load("hidden", false);
    let (event, _) = rig.first_event("hidden").await;
    let samples = load.stop().await;
    assert_eq!(event["reason"], "error_rate", "{event}");
    assert!(samples.iter().all(Sample::ok), "every failed attempt was retried");
    rig.expect_gauges("hidden", (3, 100, [10_000, 0, 0])).await;
    let requests = outcomes(&rig.envoy, "bellwether_requests_total", "hidden").await;
    assert_eq!((requests.get("v1 bad"), requests.get("v2 bad")), (None, None), "{requests:?}");
    let attempts = outcomes(&rig.envoy, "bellwether_attempts_total", "hidden").await;
    assert!(attempts["v2 bad"] >= 2 && !attempts.contains_key("v1 bad"), "{attempts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_held_while_stable_is_in_trouble_too() {
    let guard = |shared_outage: &str| {
        json!({
            "window": "1s", "max_consecutive_errors": 5, "max_error_rate": 5, "min_requests": 10,
            "shared_outage": shared_outage,
        })
    };
    let rig =
        Rig::start(true, &[deployment("held", guard("hold")), deployment("blamed", guard("rollback"))]).await;
    let names = ["held", "blamed"];
    let load = Load::start(&rig.lanes, 2.0 * RATE, move |n| chat(names[n as usize % 2], false));
    let bad_of_stable = || async {
        let counts = outcomes(&rig.envoy, "bellwether_requests_total", "held").await;
        counts.get("v1 bad").copied().unwrap_or(0)
    };
    // Stable fails first and recovers last, so that the canary alone is never in trouble.
    rig.v1.set(Behaviour::status(500));
    eventually("stable is in trouble", || async { (bad_of_stable().await >= 20).then_some(()) }).await;
    rig.v2.set(Behaviour::status(500));

    let (held, seen_at) = rig.first_event("held").await;
    assert_eq!((&held["from"], &held["to"]), (&json!("active"), &json!("holding")), "{held}");
    assert!(held["evidence"]["stable"]["errors"].as_u64() >= Some(5), "{held}");
    let (blamed, _) = rig.first_event("blamed").await;
    assert_eq!((&blamed["from"], &blamed["to"]), (&json!("active"), &json!("rolled_back")), "{blamed}");
    eventually("phase 1", || async {
        (rig.gauge("bellwether_phase", &[("deployment", "held")]).await == 1).then_some(())
    })
    .await;
    let before = Rig::seen_by(&rig.v2, "held").len();
    eventually("the held canary keeps its traffic", || async {
        (Rig::seen_by(&rig.v2, "held").len() >= before + 20).then_some(())
    })
    .await;
    assert_eq!(rig.gauges("held").await.2, [5_000, 5_000, 0], "weights are unchanged");
    rig.expect_gauges("blamed", (3, 100, [10_000, 0, 0])).await;

    rig.v2.set(Behaviour::default());
    let good_canary = rig.v2.count();
    eventually("the canary works again", || async { (rig.v2.count() >= good_canary + 60).then_some(()) })
        .await;
    rig.v1.set(Behaviour::default());
    rig.expect_gauges("held", (0, 0, [5_000, 5_000, 0])).await;
    let all = events(&rig.envoy, "held");
    let phases: Vec<&Value> = all.iter().map(|event| &event["to"]).collect();
    assert_eq!(phases, ["holding", "active"], "each once: {all:?}");
    assert!(seen_at.elapsed() >= Duration::from_millis(900), "held for a window at least");
    assert_eq!(rig.rollbacks("held").await, 0);
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_three_versions_only_the_bad_one_is_rolled_back() {
    let mut three = deployment("three", json!({"max_consecutive_errors": 5}));
    three["versions"] = json!([
        {"id": "v1", "weight": 40, "cluster": "v1"},
        {"id": "v2", "weight": 30, "cluster": "v2"},
        {"id": "v3", "weight": 30, "cluster": "v3"},
    ]);
    let rig = Rig::start(true, &[three]).await;
    rig.v2.set(Behaviour::status(500));
    let load = rig.load("three", false);
    let (event, seen_at) = rig.first_event("three").await;
    let before = (rig.v1.count(), rig.v3.count());
    eventually("the others get 40 more requests each", || async {
        (rig.v1.count() >= before.0 + 40 && rig.v3.count() >= before.1 + 40).then_some(())
    })
    .await;
    let samples = load.stop().await;
    assert_eq!((&event["version"], &event["to"]), (&json!("v2"), &json!("rolled_back")), "{event}");
    assert_eq!(events(&rig.envoy, "three").len(), 1);
    let bad = Rig::seen_by(&rig.v2, "three");
    assert!(samples.iter().all(|s| s.sent_at <= seen_at + REFRESH || !bad.contains(&s.number)));
    rig.expect_gauges("three", (3, 100, [7_000, 0, 3_000])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_release_stays_rolled_back_until_it_changes() {
    // Which configuration serves is seen by the provider of stable.
    let config = |release: &str, canary: u64, number: &str| {
        let mut held = deployment("held", json!({"max_consecutive_errors": 5}));
        held["release"] = json!(release);
        (held["versions"][0]["weight"], held["versions"][1]["weight"]) = (json!(100 - canary), json!(canary));
        held["versions"][0]["set_headers"] = json!({"x-configuration": number});
        held["rules"] = json!([
            {"headers": [{"name": "x-test", "exact": "kept"}], "version": "v2", "after_rollback": "keep"},
            {"headers": [{"name": "x-test", "exact": "not-kept"}], "version": "v2"},
        ]);
        [held]
    };
    for keys_role in BOTH {
        let rig = Rig::start(keys_role, &config("1", 50, "one")).await;
        let versions = async |test: &str| -> BTreeSet<Option<String>> {
            let answers = rig.ask_all(|| chat("held", false).header("x-test", test)).await;
            answers.into_iter().map(|sample| sample.version).collect()
        };
        let only = |version: &str| BTreeSet::from([Some(version.to_owned())]);
        assert_eq!(versions("not-kept").await, only("v2"), "the rule holds before the rollback");
        rig.v2.set(Behaviour::status(500));
        rig.roll_back("held", "consecutive_errors", false).await;

        // The canary is well again, and nobody asks.
        rig.v2.set(Behaviour::default());
        for number in ["one", "two"] {
            if number == "two" {
                rig.write(&config("1", 90, number)).await;
                eventually("the second configuration serves everywhere", || async {
                    rig.v1.clear();
                    rig.ask_all(|| chat("held", false)).await;
                    let all = rig.v1.requests();
                    all.iter().all(|request| request.header("x-configuration") == Some(number)).then_some(())
                })
                .await;
            }
            for _ in 0..10 {
                assert_eq!(versions("none").await, only("v1"), "configuration {number}, {}", rig.mode);
            }
            assert_eq!(versions("kept").await, only("v2"), "configuration {number}, {}", rig.mode);
            assert_eq!(versions("not-kept").await, only("v1"), "configuration {number}, {}", rig.mode);
            rig.expect_gauges("held", (3, 100, [10_000, 0, 0])).await;
        }

        rig.write(&config("2", 90, "three")).await;
        eventually("a new release has its share", || async {
            let answers = rig.ask_all(|| chat("held", false)).await;
            (answers.iter().filter(|sample| sample.version.as_deref() == Some("v2")).count() >= 4)
                .then_some(())
        })
        .await;
        assert_eq!(versions("not-kept").await, only("v2"), "{}", rig.mode);
        rig.expect_gauges("held", (0, 0, [1_000, 9_000, 0])).await;
        assert_eq!(events(&rig.envoy, "held").len(), 1, "{}", rig.mode);
        assert_eq!(rig.rollbacks("held").await, 1, "{}", rig.mode);
        // And it is guarded like the first.
        rig.v2.set(Behaviour::status(500));
        let load = rig.load("held", false);
        eventually("the second release is rolled back", || async {
            let all = events(&rig.envoy, "held");
            (all.len() == 2 && all[1]["release"] == "2" && all[1]["to"] == "rolled_back").then_some(())
        })
        .await;
        load.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_removed_returns_without_its_past() {
    let with = |canary: bool| {
        let mut d = deployment("away", json!({"max_consecutive_errors": 3}));
        if !canary {
            d["versions"] = json!([{"id": "v1", "weight": 100, "cluster": "v1"}]);
        }
        d
    };
    let rig = Rig::start(true, &[with(true)]).await;
    rig.v2.set(Behaviour::status(500));
    let load = rig.load("away", false);
    rig.first_event("away").await;
    rig.v2.set(Behaviour::default());
    // Another change of the same release keeps it out.
    let mut changed = with(true);
    changed["guard"]["max_errors"] = json!(1000);
    rig.write(&[changed]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    rig.expect_gauges("away", (3, 100, [10_000, 0, 0])).await;
    let before = rig.v2.count();
    rig.write(&[with(false)]).await;
    // All workers have looked at it without the canary: each does once a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(rig.v2.count(), before);
    rig.write(&[with(true)]).await;
    eventually("the canary has traffic again", || async { (rig.v2.count() >= before + 20).then_some(()) })
        .await;
    rig.expect_gauges("away", (0, 0, [5_000, 5_000, 0])).await;
    // It stays so: no worker restores its former copy.
    tokio::time::sleep(Duration::from_secs(2)).await;
    rig.expect_gauges("away", (0, 0, [5_000, 5_000, 0])).await;
    load.stop().await;
    assert_eq!(events(&rig.envoy, "away").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_results_of_an_older_release_decide_nothing() {
    let config = |release: &str| {
        let mut late = deployment("late", json!({"max_consecutive_errors": 2, "max_errors": 2}));
        late["release"] = json!(release);
        late["rules"] = json!([{"headers": [{"name": "x-test", "exact": "v2"}], "version": "v2"}]);
        [late]
    };
    for keys_role in BOTH {
        let rig = Rig::start(keys_role, &config("1")).await;
        // Long enough for a reload.
        rig.v2.set(Behaviour { latency: Latency::Fixed { ms: 2_000.0 }, ..Behaviour::status(500) });
        let (lanes, clients) = (rig.lanes.count(), rig.lanes.clone());
        let slow = tokio::spawn(async move {
            let mut running = JoinSet::new();
            for lane in 0..lanes {
                let client = clients.client(lane).clone();
                let request = chat("late", false).header("x-test", "v2");
                running.spawn(async move { sample(&client, lane, request).await });
            }
            running.join_all().await
        });
        eventually("the slow requests are on their way", || async {
            (rig.v2.count() == lanes).then_some(())
        })
        .await;
        rig.write(&config("2")).await;
        rig.v2.set(Behaviour::default());
        eventually("the new release has its share", || async {
            let answers = rig.ask_all(|| chat("late", false)).await;
            (answers.iter().filter(|sample| sample.version.as_deref() == Some("v2")).count() >= 2)
                .then_some(())
        })
        .await;
        assert!(!slow.is_finished(), "the reload took longer than the slow requests");
        let answers = slow.await.unwrap();
        assert!(answers.iter().all(|sample| sample.result == Ok(500)), "{}: {answers:?}", rig.mode);
        eventually(format!("late results are counted, {}", rig.mode), || async {
            let counts = outcomes(&rig.envoy, "bellwether_requests_total", "late").await;
            (counts.get("v2 bad") == Some(&lanes)).then_some(())
        })
        .await;
        // Let every worker tick and serve again before looking.
        for _ in 0..10 {
            rig.ask_all(|| chat("late", false)).await;
        }
        assert_eq!(events(&rig.envoy, "late"), Vec::<Value>::new(), "{}", rig.mode);
        rig.expect_gauges("late", (0, 0, [5_000, 5_000, 0])).await;
        assert_eq!(rig.rollbacks("late").await, 0, "{}", rig.mode);
        let answers = rig.ask_all(|| chat("late", false).header("x-test", "v2")).await;
        assert!(answers.iter().all(|s| s.version.as_deref() == Some("v2")), "{}: {answers:?}", rig.mode);
    }
}
