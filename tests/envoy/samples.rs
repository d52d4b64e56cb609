//! The shipped configuration on a real Envoy: it runs by the commands in its comments and serves its purpose.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route, envoy_path};
use bellwether_harness::load::{Summary, constant_rate, until};
use bellwether_harness::provider::{Behaviour, Latency, Provider};
use bellwether_harness::workspace_root;
use serde_json::{Value, json};

/// On loopback each awaited event takes milliseconds; on a busy machine, seconds.
const LIMIT: Duration = Duration::from_secs(20);

async fn providers() -> (Provider, Provider) {
    (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap())
}

fn options(openai: &Provider, relay: &Provider) -> EnvoyOptions {
    EnvoyOptions::default().cluster("openai", openai.port()).cluster("relay", relay.port())
}

/// One deployment with one version, without a pool.
fn all_to(cluster: &str) -> Value {
    json!({"deployments": [{
        "name": "test", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": cluster}],
    }]})
}

/// As [`all_to`], with a pool of these keys and weights.
fn with_keys(cluster: &str, keys: &[(&str, u32)]) -> Value {
    let mut config = all_to(cluster);
    config["deployments"][0]["versions"][0]["key_pool"] = json!("pool");
    let keys: Vec<Value> =
        keys.iter().map(|(key, weight)| json!({"id": key, "value": key, "weight": weight})).collect();
    config["key_pools"] = json!([{"name": "pool", "keys": keys}]);
    config
}

// As the comments say

/// The command in the comment at the top of a sample: assignments, and arguments after `envoy`.
fn command_in(sample: &str) -> (Vec<(String, String)>, Vec<String>) {
    let text = fs::read_to_string(workspace_root().join(sample)).unwrap();
    let line = text.lines().find(|line| line.starts_with("#   ") && line.contains(" envoy ")).unwrap();
    let words: Vec<&str> = line.trim_start_matches('#').split_whitespace().collect();
    let program = words.iter().position(|word| *word == "envoy").unwrap();
    let assigned = words[..program].iter().map(|word| word.split_once('=').unwrap());
    (
        assigned.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        words[program + 1..].iter().map(|word| (*word).to_owned()).collect(),
    )
}

/// Envoy as an operator starts it; dropping it ends the process.
struct Plain {
    child: Child,
    log: PathBuf,
}

impl Plain {
    fn start(variables: &[(String, String)], arguments: &[String]) -> Plain {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plain-envoy.log");
        let child = Command::new(envoy_path().unwrap())
            .args(arguments)
            .envs(variables.iter().cloned())
            .current_dir(workspace_root())
            .stdout(File::create(log.with_extension("access")).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Plain { child, log }
    }

    /// The end of the log, without the pages of extension names at its start.
    fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| line.len() < 1000).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    async fn ready(&mut self, admin: &Client) {
        let ready_or_ended = || {
            let (admin, ended) = (admin.clone(), self.child.try_wait().unwrap().is_some());
            async move { ended || admin.get("/ready", &[]).await.is_ok_and(|answer| answer.status == 200) }
        };
        let in_time = until(LIMIT, ready_or_ended).await;
        assert!(in_time && self.child.try_wait().unwrap().is_none(), "Envoy is not ready\n{}", self.log());
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_samples_run_by_the_commands_in_their_comments() {
    for port in [10_000, 9901, 9902, 18_001, 18_002] {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        assert!(bound.is_ok(), "the samples run on fixed ports here, and {port} is in use: {bound:?}");
    }
    let module = workspace_root().join("target/wasm32-wasip1/release/bellwether.wasm");
    assert!(module.is_file(), "{}: run `make build`", module.display());
    let provider = |name, port| Provider::start_on(name, (Ipv4Addr::LOCALHOST, port).into());
    let (v1, v2) = (provider("v1", 18_001).await.unwrap(), provider("v2", 18_002).await.unwrap());

    for route in Route::here(&Route::ALL) {
        let sample = route.sample();
        let sample = sample.as_str();
        let (variables, arguments) = command_in(sample);
        assert_eq!(arguments, ["-c", sample], "{sample} is about itself");
        let mut envoy = Plain::start(&variables, &arguments);
        let (client, admin) = (Client::new(10_000), Client::new(9901));
        envoy.ready(&admin).await;

        // Enough that both versions are drawn but once in 38 000 runs.
        for _ in 0..100 {
            let answer = client.send(Request::chat(true)).await.unwrap();
            assert_eq!(answer.status, 200, "{sample}: {}\n{}", answer.text(), envoy.log());
        }
        for (provider, key) in [(&v1, "sk-one"), (&v2, "sk-two")] {
            let received = provider.requests();
            assert!(!received.is_empty(), "{sample}: {} got nothing", provider.name());
            assert!(received.iter().all(|r| r.key.as_deref() == Some(key)), "{sample}: {received:?}");
            provider.clear();
        }
        let forced = client.send(Request::chat(false).header("x-test-version", "v2")).await.unwrap();
        assert_eq!((forced.status, forced.version()), (200, Some("v2")), "{sample}");
        let page = admin.get("/stats/prometheus", &[]).await.unwrap().text();
        assert!(
            page.contains("bellwether_weight{deployment=\"gpt4-upgrade\",version=\"v2\"} 1000\n"),
            "{page}"
        );
        let log = fs::read_to_string(&envoy.log).unwrap();
        let bad: Vec<&str> =
            log.lines().filter(|line| line.contains("[error]") || line.contains("[critical]")).collect();
        assert!(bad.is_empty(), "{sample}: {bad:#?}");
        v2.clear();
    }
}

// The purpose of each sample

#[tokio::test]
async fn all_samples_serve_both_versions_and_requests_of_no_deployment() {
    for route in Route::here(&Route::ALL) {
        let (openai, relay) = providers().await;
        let mut config = bellwether_harness::envoy::router_config().unwrap();
        config["deployments"][0]["match"] = json!({"path_prefix": "/v1/"});
        let options = EnvoyOptions { route, ..options(&openai, &relay).router_config(config) };
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let forced = Request::chat(false).header("x-test-version", "v2");
        let answer = envoy.client().send(forced).await.unwrap();
        assert_eq!((answer.status, answer.version()), (200, Some("v2")), "{route:?}");
        assert_eq!(relay.requests()[0].key.as_deref(), Some("sk-relay-one"), "{route:?}");

        let answer = envoy.client().get("/other", &[("authorization", "Bearer mine")]).await.unwrap();
        assert_eq!((answer.status, answer.version()), (200, None), "{route:?}");
        assert_eq!(openai.requests()[0].key.as_deref(), Some("mine"), "{route:?}: the default route");
    }
}

#[tokio::test]
async fn a_cluster_that_the_routes_do_not_know_is_answered_by_envoy_and_not_by_another_cluster() {
    for route in Route::here(&Route::ALL) {
        let (openai, relay) = providers().await;
        let options = EnvoyOptions { route, ..options(&openai, &relay).router_config(all_to("elsewhere")) };
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let answer = envoy.client().send(Request::chat(false)).await.unwrap();
        assert_eq!((answer.status, openai.count() + relay.count()), (503, 0), "{route:?}");
    }
}

#[tokio::test]
async fn a_provider_learns_nothing_of_the_client_and_except_with_the_matcher_nothing_of_the_cluster() {
    for route in Route::here(&Route::ALL) {
        let (openai, relay) = providers().await;
        let mut config = all_to("openai");
        // A canary, so that a retry could go elsewhere.
        let versions = config["deployments"][0]["versions"].as_array_mut().unwrap();
        versions[0]["weight"] = json!(0);
        versions.push(json!({"id": "v2", "weight": 100, "cluster": "relay"}));
        let options = EnvoyOptions { route, ..options(&openai, &relay).router_config(config) };
        let envoy = EnvoyProcess::start(options).await.unwrap();
        envoy.client().send(Request::chat(false)).await.unwrap();
        let received = relay.requests().remove(0);
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address"] {
            assert_eq!(received.header(name), None, "{route:?}: {name}");
        }
        // The matcher reads the header again before a retry, so it has to stay there, and says where that would go.
        let cluster = (route == Route::Matcher).then_some("openai");
        assert_eq!(received.header("x-bellwether-cluster"), cluster, "{route:?}");
    }
}

#[tokio::test]
async fn a_body_of_three_megabytes_survives_a_retry() {
    for route in Route::here(&Route::ALL) {
        let (openai, relay) = providers().await;
        let options = EnvoyOptions { route, ..options(&openai, &relay).router_config(all_to("openai")) };
        let envoy = EnvoyProcess::start(options).await.unwrap();
        // Every second attempt fails, the first of the long request among them.
        openai.set(Behaviour::status(503).ratio(0.5));
        let lengths = [10, 3_000_000];
        for length in lengths {
            let request = Request::post("/v1/chat/completions", vec![b' '; length]);
            assert_eq!(envoy.client().send(request).await.unwrap().status, 200, "{route:?}: {length} bytes");
        }
        let received: Vec<usize> = openai.requests().iter().map(|received| received.body_len).collect();
        assert_eq!(received, [10, 3_000_000, 3_000_000], "{route:?}");
    }
}

#[tokio::test]
async fn many_requests_are_retried_at_a_time() {
    let (openai, relay) = providers().await;
    let keys = [("sk-bad", 1), ("sk-good", 1)];
    let options = options(&openai, &relay).router_config(with_keys("openai", &keys));
    let envoy = EnvoyProcess::start(options).await.unwrap();
    // Slow enough for far more than three concurrent retries; three is Envoy's default limit.
    let slow = Behaviour::slow(Latency::Fixed { ms: 200.0 });
    openai.set(slow.key("sk-bad", 503, &[]));
    let samples =
        constant_rate(&envoy.client(), 200.0, Duration::from_secs(1), |_| Request::chat(true)).await;
    assert_eq!(Summary::of(&samples).failed, 0, "{:?}", Summary::of(&samples));
}

#[tokio::test]
async fn the_samples_canary_is_rolled_back_when_it_dies_and_comes_back_when_it_lives() {
    let (openai, relay) = providers().await;
    let mut config = bellwether_harness::envoy::router_config().unwrap();
    let after = &mut config["deployments"][0]["recovery"]["after"];
    assert_eq!(*after, "30s", "shortened here");
    *after = json!("1s");
    let envoy = EnvoyProcess::start(options(&openai, &relay).router_config(config)).await.unwrap();
    let client = envoy.client();
    let phase = async || {
        // Stable serves all along.
        let answer = client.send(Request::chat(false)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        envoy.metric("bellwether_phase", &[]).await.unwrap()
    };
    relay.set(Behaviour::status(500));
    assert!(until(LIMIT, async || phase().await == 3.0).await, "{}", envoy.log_tail());
    relay.set(Behaviour::default());
    assert!(until(LIMIT, async || phase().await == 0.0).await, "{}", envoy.log_tail());
    relay.clear();
    assert!(until(LIMIT, async || phase().await == 0.0 && relay.count() > 0).await, "its share is back");
}

#[tokio::test]
async fn without_the_keys_role_the_router_injects_the_key() {
    let (openai, relay) = providers().await;
    let options = options(&openai, &relay).router_config(with_keys("openai", &[("sk-only", 1)]));
    let envoy = EnvoyProcess::start(EnvoyOptions { keys_role: false, ..options }).await.unwrap();
    envoy.client().send(Request::chat(false)).await.unwrap();
    assert_eq!(openai.requests()[0].key.as_deref(), Some("sk-only"));
    assert!(envoy.write_keys_config(&json!({})).await.is_err(), "there is nothing to configure");
}

#[tokio::test]
async fn metrics_have_labels_and_the_access_log_has_the_version() {
    let (openai, relay) = providers().await;
    // Names that are also names of labels, in every place where there is a name.
    let config = json!({
        "deployments": [{
            "name": "version", "stable": "outcome", "guard": {"max_errors": 1},
            "versions": [
                {"id": "outcome", "weight": 100, "cluster": "openai", "key_pool": "key"},
                {"id": "deployment", "weight": 0, "cluster": "relay", "key_pool": "key"},
            ],
            "rules": [{"headers": [{"name": "x-canary", "present": true}], "version": "deployment"}],
        }],
        "key_pools": [{"name": "key", "keys": [{"id": "pool", "value": "sk-only"}]}],
    });
    let envoy = EnvoyProcess::start(options(&openai, &relay).router_config(config)).await.unwrap();
    envoy.client().get("/v1/models?key=secret", &[]).await.unwrap();
    relay.set(Behaviour::status(500));
    envoy.client().get("/v1/models", &[("x-canary", "1")]).await.unwrap();

    let stable = [("deployment", "version"), ("version", "outcome")];
    let canary = [("deployment", "version"), ("version", "deployment")];
    let wanted: [(&str, Vec<(&str, &str)>); 8] = [
        ("bellwether_requests_total", [&stable[..], &[("outcome", "good")]].concat()),
        ("bellwether_attempts_total", [&canary[..], &[("outcome", "bad")]].concat()),
        ("bellwether_latency_ms_count", stable.to_vec()),
        ("bellwether_weight", stable.to_vec()),
        ("bellwether_phase", vec![("deployment", "version")]),
        ("bellwether_rollbacks_total", [&canary[..], &[("reason", "errors")]].concat()),
        ("bellwether_key_requests_total", vec![("pool", "key"), ("key", "pool"), ("outcome", "good")]),
        ("bellwether_config_updates_total", vec![("result", "accepted")]),
    ];
    for (name, labels) in wanted {
        let there = async || envoy.metric(name, &labels).await.unwrap() > 0.0;
        assert!(until(LIMIT, there).await, "{name} {labels:?} in\n{}", envoy.prometheus().await.unwrap());
    }
    let page = envoy.prometheus().await.unwrap();
    let bucket = "bellwether_latency_ms_bucket{deployment=\"version\",version=\"outcome\",le=\"599999\"}";
    assert!(page.contains(bucket), "{page}");

    assert!(until(LIMIT, async || !envoy.access_log().is_empty()).await);
    let line = envoy.access_log().remove(0);
    assert_eq!(
        (&line["version"], &line["path"], &line["attempts"]),
        (&json!("outcome"), &json!("/v1/models"), &json!(1))
    );
}
