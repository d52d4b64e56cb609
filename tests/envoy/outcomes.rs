//! Outcomes of requests on a real Envoy with two workers: each way in which a request can end, and the filter's count of
//! it. Each case runs with the `keys` role, which sees every attempt, and with the router alone, which sees only the
//! client's side.
//!
//! Each case has a deployment of its own, so its counts are its own, and mostly a provider that does one thing only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use bellwether_harness::client::{Answer, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route, sum_metric};
use bellwether_harness::provider::{Behaviour, Fault, Latency, Provider};
use bellwether_harness::testing::load::{
    DEPLOYMENT, Lanes, Load, chat, eventually, outcomes, routes, without_retries,
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// With the `keys` role, and the router alone.
const BOTH: [bool; 2] = [true, false];

/// A request header that takes one of the routes that [`with_routes`] adds.
const ROUTE: &str = "x-route";

/// One deployment, its provider's behaviour and the expected count.
struct Case {
    /// Name of the deployment and of its cluster.
    name: &'static str,
    /// The provider's behaviour; without it, the cluster is not one of the harness.
    behaviour: Option<Behaviour>,
    /// The version has a pool, with a key of ours.
    pool: bool,
}

/// A case of a version without a pool.
fn case(name: &'static str, behaviour: Behaviour) -> Case {
    Case { name, behaviour: Some(behaviour), pool: false }
}

/// An Envoy with a deployment for each case.
struct Stage {
    envoy: EnvoyProcess,
    providers: BTreeMap<&'static str, Provider>,
    mode: &'static str,
}

/// One cluster for each version on every Envoy: the limits of an aggregate count on its members.
fn without_failover() -> Route {
    if Route::default() == Route::Matcher { Route::Matcher } else { Route::ClusterHeader }
}

impl Stage {
    async fn start(keys_role: bool, cases: Vec<Case>) -> Stage {
        Stage::start_on(without_failover(), keys_role, cases).await
    }

    async fn start_on(route: Route, keys_role: bool, cases: Vec<Case>) -> Stage {
        let mut options = EnvoyOptions { route, keys_role, ..EnvoyOptions::default() };
        let mut providers = BTreeMap::new();
        let mut deployments = Vec::new();
        for case in cases {
            deployments.push(alone(case.name, case.pool));
            if let Some(behaviour) = case.behaviour {
                let provider = Provider::start(case.name).await.unwrap();
                provider.set(behaviour);
                options = options.cluster(case.name, provider.port());
                providers.insert(case.name, provider);
            }
        }
        options.edit = Some(Box::new(with_routes));
        // A pool for each case: a key that is out for one must not be out for another.
        let pool = |deployment: &Value| {
            let name = deployment["versions"][0]["key_pool"].as_str()?;
            Some(json!({"name": name, "keys": [{"id": "one", "value": format!("sk-of-{name}")}]}))
        };
        let pools: Vec<Value> = deployments.iter().filter_map(pool).collect();
        let options = options.router_config(json!({"deployments": deployments, "key_pools": pools}));
        let envoy = EnvoyProcess::start(options).await.unwrap();
        Stage { envoy, providers, mode: if keys_role { "with the keys role" } else { "router alone" } }
    }

    /// Sends a request of this deployment.
    async fn send(&self, request: Request) -> Answer {
        self.envoy.client().send(request).await.unwrap()
    }

    /// Waits until as many requests of this deployment have been counted as are expected, and compares outcomes.
    async fn expect(&self, deployment: &str, requests: &[(&str, u64)], attempts: &[(&str, u64)]) {
        let wanted = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            pairs.iter().map(|(outcome, count)| (format!("v1 {outcome}"), *count)).collect()
        };
        let total: u64 = requests.iter().map(|(_, count)| count).sum();
        let counted =
            eventually(format!("{total} requests of {deployment} are counted, {}", self.mode), || async {
                let counted = outcomes(&self.envoy, "bellwether_requests_total", deployment).await;
                (counted.values().sum::<u64>() >= total).then_some(counted)
            });
        assert_eq!(counted.await, wanted(requests), "requests of {deployment}, {}", self.mode);
        let counted = outcomes(&self.envoy, "bellwether_attempts_total", deployment).await;
        assert_eq!(counted, wanted(attempts), "attempts of {deployment}, {}", self.mode);
    }

    /// One request, one attempt, one outcome.
    async fn expect_one(&self, deployment: &str, outcome: &str) {
        self.expect(deployment, &[(outcome, 1)], &[(outcome, 1)]).await;
    }
}

/// A deployment with one version, which is on the cluster of the same name.
fn alone(name: &str, pool: bool) -> Value {
    let mut version = json!({"id": "v1", "weight": 100, "cluster": name});
    if pool {
        version["key_pool"] = json!(format!("the-pool-of-{name}"));
    }
    json!({
        "name": name, "match": {"headers": [{"name": DEPLOYMENT, "exact": name}]}, "stable": "v1",
        "versions": [version], "failover": false,
    })
}

/// Gives a bootstrap, in place of its retries, routes by the header [`ROUTE`]: `timeout`, `per-try-timeout`, `retry` (as
/// the sample retries), `direct` (Envoy answers by itself). Behind the filter there is one that refuses requests with the
/// header `x-refused`.
fn with_routes(bootstrap: &mut Value) {
    let sample = routes(bootstrap)[0].clone();
    let mut variants = Vec::new();
    for (name, key, value) in [
        ("timeout", "timeout", json!("0.3s")),
        (
            "per-try-timeout",
            "retry_policy",
            json!({"retry_on": "reset", "num_retries": 0, "per_try_timeout": "0.3s"}),
        ),
        ("retry", "retry_policy", sample["route"]["retry_policy"].clone()),
        ("direct", "", Value::Null),
    ] {
        let mut route = sample.clone();
        route["name"] = json!(name);
        let header = json!({"name": ROUTE, "string_match": {"exact": name}});
        route["match"]["headers"].as_array_mut().unwrap().push(header);
        let fields = route.as_object_mut().unwrap();
        if key.is_empty() {
            fields.remove("route");
            fields.insert("direct_response".to_owned(), json!({"status": 503}));
        } else {
            let action = fields["route"].as_object_mut().unwrap();
            action.remove("retry_policy");
            action.insert(key.to_owned(), value);
        }
        variants.push(route);
    }
    without_retries(bootstrap);
    routes(bootstrap).splice(0..0, variants);

    // Nothing may wait for a connection to this one, and there never is one.
    for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
        if cluster["name"] == "overflow" {
            cluster["circuit_breakers"] = json!({"thresholds": [{"max_pending_requests": 0}]});
        }
    }
    let manager = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    let filters = manager["typed_config"]["http_filters"].as_array_mut().unwrap();
    let refuse = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "DENY", "policies": {"refused": {
                "permissions": [{"header": {"name": "x-refused", "present_match": true}}],
                "principals": [{"any": true}],
            }}},
        },
    });
    let last = filters.len() - 1;
    filters.insert(last, refuse);
    // Histograms would else be merged every five seconds only.
    bootstrap["stats_flush_on_admin"] = json!(true);
}

/// Sends the head of a request on a connection of its own, waits until the provider has it, and hangs up.
async fn send_and_leave(stage: &Stage, deployment: &'static str) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, stage.envoy.port())).await.unwrap();
    let head = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{DEPLOYMENT}: {deployment}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let provider = &stage.providers[deployment];
    eventually("the provider has the request", || async { (provider.count() == 1).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_counts_against_its_cause() {
    const STATUSES: [(&str, u16, bool, &str); 16] = [
        ("s200", 200, false, "good"),
        ("s302", 302, false, "good"),
        ("s400", 400, false, "caller_error"),
        ("s404", 404, true, "caller_error"),
        ("s401-pool", 401, true, "key_rejected"),
        ("s403-pool", 403, true, "key_rejected"),
        ("s402-pool", 402, true, "exhausted"),
        ("s402-own", 402, false, "caller_error"),
        ("s401-own", 401, false, "caller_error"),
        ("s403-own", 403, false, "caller_error"),
        ("s429-pool", 429, true, "rate_limited"),
        ("s429-own", 429, false, "rate_limited"),
        ("s500", 500, false, "bad"),
        ("s503", 503, false, "bad"),
        ("s529", 529, true, "bad"),
        ("s200-pool", 200, true, "good"),
    ];
    for keys_role in BOTH {
        let cases =
            STATUSES.map(|(name, status, pool, _)| Case { pool, ..case(name, Behaviour::status(status)) });
        let stage = Stage::start(keys_role, cases.into()).await;
        for (name, status, pool, _) in STATUSES {
            let answer =
                stage.send(chat(name, false).header("authorization", "Bearer sk-of-the-client")).await;
            // The client would take a refusal of our key for one of its own.
            let shown = if pool && matches!(status, 401 | 402) { 503 } else { status };
            assert_eq!(answer.status, shown, "{name}, {}", stage.mode);
            let received = stage.providers[name].requests();
            let key = if pool { format!("sk-of-the-pool-of-{name}") } else { "sk-of-the-client".to_owned() };
            assert_eq!(received[0].key, Some(key), "{name}, {}", stage.mode);
        }
        for (name, _, _, outcome) in STATUSES {
            stage.expect_one(name, outcome).await;
        }
        // No request is counted twice or for anybody else.
        let page = stage.envoy.prometheus().await.unwrap();
        assert_eq!(sum_metric(&page, "bellwether_requests_total", &[]), 16.0, "{}", stage.mode);
        assert_eq!(sum_metric(&page, "bellwether_attempts_total", &[]), 16.0, "{}", stage.mode);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_or_stalls_is_bad_before_and_after_its_headers() {
    for keys_role in BOTH {
        let stage = Stage::start(
            keys_role,
            vec![
                case("reset", Behaviour::failing(Fault::Reset)),
                case("reset-mid-body", Behaviour::failing(Fault::ResetAfter { chunks: 1 })),
                case("reset-mid-stream", Behaviour::failing(Fault::ResetAfter { chunks: 2 })),
                case("hang", Behaviour::failing(Fault::Hang)),
                case("hang-in-try", Behaviour::failing(Fault::Hang)),
                case("hang-mid-stream", Behaviour::failing(Fault::HangAfter { chunks: 2 })),
            ],
        )
        .await;
        let mode = stage.mode;
        assert_eq!(stage.send(chat("reset", false)).await.status, 503, "{mode}");
        for (name, stream) in [("reset-mid-body", false), ("reset-mid-stream", true)] {
            let answer = stage.send(chat(name, stream)).await;
            assert_eq!((answer.status, answer.broken.is_some()), (200, true), "{name}, {mode}");
        }
        for (name, route) in [("hang", "timeout"), ("hang-in-try", "per-try-timeout")] {
            let answer = stage.send(chat(name, false).header(ROUTE, route)).await;
            assert_eq!(answer.status, 504, "{name}, {mode}");
        }
        let answer = stage.send(chat("hang-mid-stream", true).header(ROUTE, "timeout")).await;
        assert_eq!((answer.status, answer.broken.is_some()), (200, true), "{mode}");
        for name in ["reset", "reset-mid-body", "reset-mid-stream", "hang", "hang-in-try", "hang-mid-stream"]
        {
            stage.expect_one(name, "bad").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_be_reached_is_bad() {
    for route in Route::here(&[Route::Matcher, Route::ClusterHeader]) {
        for keys_role in BOTH {
            let mut options = EnvoyOptions { route, keys_role, ..EnvoyOptions::default() }
                .cluster("refused", 1)
                .cluster("empty", 1)
                .router_config(json!({"deployments": [
                    alone("refused", false), alone("empty", false), alone("unknown", false),
                ]}));
            options.edit = Some(Box::new(|bootstrap| {
                with_routes(bootstrap);
                let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
                let empty = clusters.iter_mut().find(|cluster| cluster["name"] == "empty").unwrap();
                empty["load_assignment"]["endpoints"] = json!([]);
            }));
            let envoy = EnvoyProcess::start(options).await.unwrap();
            let mode = if keys_role { "with the keys role" } else { "router alone" };
            let stage = Stage { envoy, providers: BTreeMap::new(), mode };
            for name in ["refused", "empty", "unknown"] {
                assert_eq!(stage.send(chat(name, false)).await.status, 503, "{name}, {route:?}, {mode}");
            }
            for name in ["refused", "empty", "unknown"] {
                stage.expect_one(name, "bad").await;
            }
            let flags: Vec<Value> = eventually("three lines of the access log", || async {
                let log = stage.envoy.access_log();
                (log.len() == 3).then(|| log.iter().map(|line| line["flags"].clone()).collect())
            })
            .await;
            assert_eq!(flags, ["UF", "UH", "NC"], "{route:?}, {mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_cancelled_and_judges_no_version() {
    for keys_role in BOTH {
        let stage = Stage::start(
            keys_role,
            vec![
                case("before-headers", Behaviour::failing(Fault::Hang)),
                case("mid-stream", Behaviour::failing(Fault::HangAfter { chunks: 2 })),
            ],
        )
        .await;
        send_and_leave(&stage, "before-headers").await;
        let mut opened = stage.envoy.client().open(chat("mid-stream", true)).await.unwrap();
        assert!(opened.chunk().await.unwrap().is_some(), "the stream has begun, {}", stage.mode);
        drop(opened);
        stage.expect_one("before-headers", "cancelled").await;
        stage.expect_one("mid-stream", "cancelled").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_envoy_itself_is_local() {
    for keys_role in BOTH {
        let cases = ["direct", "refused", "overflow"].map(|name| case(name, Behaviour::default()));
        let stage = Stage::start(keys_role, cases.into()).await;
        assert_eq!(stage.send(chat("direct", false).header(ROUTE, "direct")).await.status, 503);
        assert_eq!(stage.send(chat("refused", false).header("x-refused", "yes")).await.status, 403);
        assert_eq!(stage.send(chat("overflow", false)).await.status, 503);
        for name in ["direct", "refused", "overflow"] {
            stage.expect(name, &[("local", 1)], &[]).await;
            assert_eq!(stage.providers[name].count(), 0, "no attempt was made, {}", stage.mode);
        }
    }
}

/// Envoy answers a gRPC request with 200 whatever has gone wrong, and a client is free to call its request one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_envoy_itself_is_no_success_because_the_client_speaks_grpc() {
    for keys_role in BOTH {
        let cases = vec![
            case("refused", Behaviour::default()),
            case("overflow", Behaviour::default()),
            case("broken", Behaviour::failing(Fault::Reset)),
        ];
        let stage = Stage::start(keys_role, cases).await;
        let grpc = |name| {
            let mut request = chat(name, false);
            request.headers.retain(|(name, _)| name != "content-type");
            request.header("content-type", "application/grpc")
        };
        for request in [grpc("refused").header("x-refused", "yes"), grpc("overflow"), grpc("broken")] {
            assert_eq!(stage.send(request).await.status, 200, "{}", stage.mode);
        }
        for name in ["refused", "overflow"] {
            stage.expect(name, &[("local", 1)], &[]).await;
            assert_eq!(stage.providers[name].count(), 0, "no attempt was made, {}", stage.mode);
        }
        stage.expect("broken", &[("bad", 1)], &[("bad", 1)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_that_was_retried_is_bad_and_its_request_good() {
    for keys_role in BOTH {
        let stage = Stage::start(keys_role, vec![case("flaky", Behaviour::status(503).ratio(0.5))]).await;
        for _ in 0..4 {
            let answer = stage.send(chat("flaky", false).header(ROUTE, "retry")).await;
            assert_eq!(answer.status, 200, "{}", stage.mode);
        }
        assert_eq!(stage.providers["flaky"].count(), 7, "every second attempt failed, {}", stage.mode);
        // The router alone sees one answer a request, that of the last attempt.
        let attempts: &[(&str, u64)] = if keys_role { &[("good", 4), ("bad", 3)] } else { &[("good", 4)] };
        stage.expect("flaky", &[("good", 4)], attempts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_is_the_time_to_the_headers_of_each_answered_request() {
    const CHUNKS: usize = 30;
    const BOUNDS: [u128; 16] = [29, 39, 59, 79, 99, 119, 149, 199, 249, 299, 399, 499, 599, 799, 999, 1199];
    for keys_role in BOTH {
        let mut stream = Behaviour::slow(Latency::Fixed { ms: 30.0 });
        (stream.chunks, stream.chunk_delay_ms) = (CHUNKS, 50);
        let cases = vec![
            case("stream", stream),
            case("whole", Behaviour::default()),
            case("failing", Behaviour::status(500)),
            case("broken", Behaviour::failing(Fault::Reset)),
        ];
        let stage = Stage::start(keys_role, cases).await;
        let mode = stage.mode;
        let answer = stage.send(chat("stream", true)).await;
        assert_eq!(answer.text().matches("data: ").count(), CHUNKS + 3, "the stream is whole, {mode}");
        stage.expect_one("stream", "good").await;
        for name in ["whole", "failing", "broken"] {
            for _ in 0..3 {
                stage.send(chat(name, false)).await;
            }
        }
        stage.expect("whole", &[("good", 3)], &[("good", 3)]).await;
        stage.expect("failing", &[("bad", 3)], &[("bad", 3)]).await;
        stage.expect("broken", &[("bad", 3)], &[("bad", 3)]).await;

        let page = stage.envoy.prometheus().await.unwrap();
        for (name, answered) in [("stream", 1.0), ("whole", 3.0), ("failing", 3.0), ("broken", 0.0)] {
            let labels = [("deployment", name), ("version", "v1")];
            let count = sum_metric(&page, "bellwether_latency_ms_count", &labels);
            assert_eq!(count, answered, "answered requests of {name}, {mode}");
        }
        // The filter's latency lies within the client's: above the provider's 30 ms, and in no bucket above the client's
        // time to the headers.
        let bound = BOUNDS.into_iter().find(|bound| *bound > answer.first_byte.as_millis()).unwrap();
        assert!(answer.latency > Duration::from_millis(bound as u64), "the stream lasted longer than that");
        for (le, expected) in [("29".to_owned(), 0.0), (bound.to_string(), 1.0)] {
            let labels = [("deployment", "stream"), ("version", "v1"), ("le", le.as_str())];
            let within = sum_metric(&page, "bellwether_latency_ms_bucket", &labels);
            assert_eq!(
                within, expected,
                "within {le} ms, {mode}; the client saw headers after {:?}",
                answer.first_byte
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_matched_request_is_counted_once_and_no_other() {
    const EACH: u64 = 60;
    for keys_role in BOTH {
        let stage = Stage::start(
            keys_role,
            vec![
                case("mixed", Behaviour::status(500).ratio(0.3)),
                case("busy", Behaviour::status(429).ratio(0.5)),
                case("breaking", Behaviour::failing(Fault::ResetAfter { chunks: 2 }).ratio(0.4)),
            ],
        )
        .await;
        let lanes = Lanes::open(&stage.envoy).await;
        let names = ["mixed", "busy", "breaking", "of-no-deployment"];
        let load = Load::start(&lanes, 400.0, move |n| chat(names[n as usize % 4], n % 8 < 4));
        let enough = || async { (stage.providers["breaking"].count() >= EACH).then_some(()) };
        eventually("the load has run", enough).await;
        let sent = load.stop().await;
        for (n, name) in names.iter().enumerate() {
            let of_it = sent.iter().filter(|sample| sample.number % 4 == n as u64).count() as u64;
            let wanted = if *name == "of-no-deployment" { 0 } else { of_it };
            for counter in ["bellwether_requests_total", "bellwether_attempts_total"] {
                let counted = || async {
                    let counts = outcomes(&stage.envoy, counter, name).await;
                    (counts.values().sum::<u64>() >= wanted).then_some(counts)
                };
                let counts = eventually(format!("{wanted} of {name} in {counter}"), counted).await;
                assert_eq!(
                    counts.values().sum::<u64>(),
                    wanted,
                    "{counter} of {name}, {}: {counts:?}",
                    stage.mode
                );
            }
        }
        let good = sent.iter().filter(|sample| sample.ok() && sample.version.is_some()).count();
        let page = stage.envoy.prometheus().await.unwrap();
        let counted = sum_metric(&page, "bellwether_requests_total", &[("outcome", "good")]);
        assert_eq!(
            counted, good as f64,
            "the filter and the client count the same good answers, {}",
            stage.mode
        );
    }
}
