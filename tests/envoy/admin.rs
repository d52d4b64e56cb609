//! The admin role on a real Envoy with two workers. Each worker reports the counts of both, each order takes effect on
//! both, and unauthorized requests are refused.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bellwether_harness::client::{Answer, Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, Route, wasm_path};
use bellwether_harness::provider::{Behaviour, Fault, Provider, Received};
use bellwether_harness::testing::load::{
    DEPLOYMENT, Lanes, Load, NUMBER, SOON, chat, deployment, events, eventually, without_retries,
};
use serde_json::{Value, json};

use crate::common::rig::{Rig, ask_all, assert_no_trap, canary_at, rewrite_resource};

/// A worker's copy of the standings is no older than this.
const REFRESH: Duration = Duration::from_millis(10);

/// A client of the admin listener.
struct Admin(Client);

impl Admin {
    fn of(envoy: &EnvoyProcess) -> Admin {
        Admin(Client::new(envoy.admin_role_port()))
    }

    /// One for each worker, with a connection that stays open; for requests one after the other.
    async fn on_both_workers(envoy: &EnvoyProcess) -> [Admin; 2] {
        let mut found = [None, None];
        for _ in 0..100 {
            let before = admin_connections(envoy).await;
            let admin = Admin::of(envoy);
            admin.get("/events").await;
            let after = admin_connections(envoy).await;
            found[usize::from(after[1] > before[1])].get_or_insert(admin);
            if let [Some(_), Some(_)] = &found {
                return found.map(Option::unwrap);
            }
        }
        panic!("a worker gets no connections");
    }

    async fn get(&self, path: &str) -> Answer {
        self.0.get(path, &[]).await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    /// A deployment's part of the status.
    async fn status(&self, name: &str) -> Value {
        let status = self.json("/status").await;
        let deployments = status["deployments"].as_array().unwrap();
        deployments.iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("{name} in {status}")).clone()
    }

    async fn events(&self) -> Vec<Value> {
        self.json("/events").await["events"].as_array().unwrap().clone()
    }

    async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.0.post(path, &[("x-requested-with", "test")], body.into()).await.unwrap()
    }

    /// Gives an order that must be carried out; returns the deployment's status.
    async fn order(&self, name: &str, order: &str, body: &str) -> Value {
        let answer = self.post(&format!("/deployments/{name}/{order}"), body).await;
        assert_eq!(answer.status, 200, "{order} of {name}: {}", answer.text());
        answer.json()
    }
}

async fn admin_connections(envoy: &EnvoyProcess) -> [u64; 2] {
    let stats = envoy.stats().await.unwrap();
    [0, 1].map(|worker| {
        let name = format!("listener.bellwether-admin.worker_{worker}.downstream_cx_total");
        stats[&name].parse().unwrap()
    })
}

/// The version of a deployment's status.
fn version<'a>(status: &'a Value, id: &str) -> &'a Value {
    status["versions"].as_array().unwrap().iter().find(|v| v["id"] == id).unwrap()
}

/// The key of a status.
fn key<'a>(status: &'a Value, id: &str) -> &'a Value {
    let pools = status["key_pools"].as_array().unwrap();
    pools.iter().flat_map(|pool| pool["keys"].as_array().unwrap()).find(|key| key["id"] == id).unwrap()
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn assert_has(value: &Value, fields: &[&str]) {
    let missing: Vec<_> = fields.iter().filter(|field| !names(value).contains(**field)).collect();
    assert!(missing.is_empty(), "{missing:?} not in {value}");
}

// Requests that are allowed and refused

#[tokio::test]
async fn paths_methods_and_hosts_are_answered_as_documented() {
    let rig = Rig::configured(canary_at(50.0)).await;
    let admin = Admin::of(&rig.envoy);
    let (mine, rollback) = (("x-requested-with", ""), "/deployments/test/rollback");
    let local = ("host", "localhost:9902");
    for (method, path, headers, status, allow) in [
        ("GET", "/", vec![], 200, None),
        ("GET", "/status", vec![local], 200, None),
        ("GET", "/status?x=1", vec![("host", "[::1]:9902")], 200, None),
        ("HEAD", "/status", vec![], 200, None),
        ("GET", "/events", vec![], 200, None),
        ("GET", "/status", vec![("host", "evil.example")], 403, None),
        ("GET", "/", vec![("host", "127.0.0.1.evil.example:9902")], 403, None),
        ("POST", rollback, vec![("host", "evil.example"), mine], 403, None),
        ("POST", rollback, vec![], 403, None),
        ("POST", "/deployments/other/rollback", vec![mine], 404, None),
        ("POST", "/deployments/test/else", vec![mine], 404, None),
        ("GET", "/metrics", vec![], 404, None),
        ("GET", rollback, vec![mine], 405, Some("POST")),
        ("OPTIONS", rollback, vec![("origin", "http://evil.example")], 405, Some("POST")),
        ("POST", "/status", vec![mine], 405, Some("GET, HEAD")),
        ("PUT", "/", vec![mine], 405, Some("GET, HEAD")),
        ("POST", rollback, vec![mine, local], 200, None),
    ] {
        let mut request = Request { method: method.parse().unwrap(), ..Request::get(path) };
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let answer = admin.0.send(request).await.unwrap();
        let context = format!("{method} {path} {headers:?}: {}", answer.text());
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{context}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{context}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{context}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{context}");
        assert!(
            answer.header("content-security-policy").unwrap().starts_with("default-src 'none'; "),
            "{context}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), None, "{context}");
        let kind = answer.header("content-type").unwrap();
        if path == "/" && status == 200 {
            assert_eq!(kind, "text/html; charset=utf-8", "{context}");
        } else {
            assert_eq!(kind, "application/json", "{context}");
            assert!(method == "HEAD" || answer.json().is_object(), "{context}");
            assert_eq!(answer.json()["error"].is_string(), status >= 400, "{context}");
        }
    }
    assert_eq!(admin.events().await.len(), 1, "only the last of these requests changed anything");
    assert_no_trap(&rig.envoy, "requests of all kinds").await;
}

#[tokio::test]
async fn the_page_runs_its_own_script_and_no_other() {
    let rig = Rig::configured(canary_at(50.0)).await;
    let admin = Admin::of(&rig.envoy);
    let (first, second) = (admin.get("/").await, admin.get("/").await);
    let nonce = |answer: &Answer| {
        let policy = answer.header("content-security-policy").unwrap();
        policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned()
    };
    assert_eq!(nonce(&first).len(), 32);
    assert_ne!(nonce(&first), nonce(&second), "the next nonce is another one");
    let page = first.text();
    assert_eq!(page.matches("<script").count(), 1, "{page}");
    assert!(page.contains(&format!("<script nonce=\"{}\"", nonce(&first))), "{page}");
    assert!(!page.contains("/*css*/") && !page.contains("/*js*/"), "{page}");
}

#[tokio::test]
async fn configured_hosts_are_allowed_and_change_without_a_restart() {
    let options =
        EnvoyOptions { admin_config: Some(json!({"hosts": ["ops.example.com"]})), ..EnvoyOptions::default() };
    let rig = Rig::start(options.router_config(canary_at(50.0))).await;
    let status = |host: &'static str| {
        let client = Client::new(rig.envoy.admin_role_port());
        async move { client.get("/status", &[("host", host)]).await.unwrap().status }
    };
    assert_eq!((status("OPS.example.com:443").await, status("ops.example.org").await), (200, 403));
    let update = rig.envoy.write_admin_config(&json!({"hosts": ["ops.example.org"]})).await.unwrap();
    rig.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    eventually("the other host", || async { (status("ops.example.org").await == 200).then_some(()) }).await;
    assert_eq!(status("ops.example.com").await, 403);
    let update = rig.envoy.write_admin_config(&json!({"host": "ops.example.com"})).await.unwrap();
    let log = rig.envoy.wait_rejected(&update, SOON).await.unwrap();
    assert!(log.contains("host: unknown field, expected hosts"), "{log}");
    assert_eq!(status("ops.example.org").await, 200, "the former configuration is kept");
}

#[tokio::test]
async fn without_a_router_in_its_vm_the_error_names_vm_config() {
    // Another VM by its id, and the right one without a configuration that was accepted.
    let rig = Rig::configured(canary_at(50.0)).await;
    let admin = Admin::of(&rig.envoy);
    assert_eq!(admin.get("/status").await.status, 200);
    rewrite_resource(&rig.envoy, Role::Admin, "elsewhere", |config| {
        config["vm_config"]["vm_id"] = json!("elsewhere");
    });
    let refused = eventually("another VM", || async {
        let answer = admin.get("/status").await;
        (answer.status == 503).then_some(answer)
    });
    let error = refused.await.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("vm_config"), "{error}");
    assert_eq!(admin.post("/deployments/test/rollback", "").await.status, 503);

    let bad = EnvoyOptions { allow_rejected_config: true, ..EnvoyOptions::default() };
    let rig = Rig::start(bad.router_config(json!({"deployments": []}))).await;
    let admin = Admin::of(&rig.envoy);
    assert_eq!(admin.get("/status").await.status, 503);
    assert_eq!((admin.get("/").await.status, admin.get("/events").await.status), (200, 200));
}

// Status and events

/// Test keys; no answer may have one of these in it.
const KEYS: [&str; 5] = [
    "sk-test-openai-1111",
    "sk-test-openai-2222",
    "sk-short-33",
    "sk-test-relay-4444",
    "sk-test-refused-5555",
];

fn with_pools() -> Value {
    let inline = |id: &str, value: &str| json!({"id": id, "value": value});
    json!({
        "deployments": [{
            "name": "test", "release": "r-1", "stable": "v1", "failover": false,
            "guard": {"compare": false, "window": "1h"},
            "versions": [
                {"id": "v1", "weight": 50, "cluster": "openai", "key_pool": "openai"},
                {"id": "v2", "weight": 50, "cluster": "relay", "key_pool": "relay"},
            ],
            "rules": [{"headers": [{"name": "x-version", "exact": "v2"}], "version": "v2"}],
        }],
        "key_pools": [
            {"name": "openai", "keys": [inline("one", KEYS[0]), inline("two", KEYS[1]), inline("short", KEYS[2])]},
            {"name": "relay", "keys": [
                inline("four", KEYS[3]), inline("refused", KEYS[4]), {"id": "later", "value": {"secret": "later"}},
            ]},
        ],
    })
}

#[tokio::test]
async fn the_status_has_every_field_and_its_numbers_are_those_of_the_providers() {
    let options = EnvoyOptions { edit: Some(Box::new(without_retries)), ..EnvoyOptions::default() };
    let rig = Rig::start(options.router_config(with_pools())).await;
    rig.openai.set(Behaviour::status(500).ratio(0.25));
    rig.relay.set(Behaviour::default().key(KEYS[4], 401, &[]));
    ask_all(&rig.envoy.client(), 200, |_| Request::chat(false)).await;
    let received = |provider: &Provider, wanted: &dyn Fn(&Received) -> bool| {
        provider.requests().iter().filter(|r| wanted(r)).count() as u64
    };
    let all = |_: &Received| true;
    let (openai, relay) = (received(&rig.openai, &all), received(&rig.relay, &all));
    let refused = received(&rig.relay, &|r| r.key.as_deref() == Some(KEYS[4]));
    assert!(openai > 50 && relay > 50 && refused > 0, "{openai}, {relay}, {refused}");

    let admins = Admin::on_both_workers(&rig.envoy).await;
    for (worker, admin) in admins.iter().enumerate() {
        let counted = eventually(format!("worker {worker} reports all counts"), || async {
            let status = admin.json("/status").await;
            let seen = &status["deployments"][0];
            let keys = KEYS.len() as u64;
            let of_keys: u64 = ["one", "two", "short", "four", "refused"]
                .iter()
                .map(|id| key(&status, id)["requests"].as_u64().unwrap())
                .sum();
            // A refused key judges no version.
            let judged =
                version(seen, "v1")["requests"].as_u64()? + version(seen, "v2")["requests"].as_u64()?;
            (keys == 5 && of_keys == openai + relay && judged == openai + relay - refused).then_some(status)
        });
        let status = counted.await;
        let seen = &status["deployments"][0];
        assert_has(&status, &["now", "deployments", "key_pools"]);
        assert_has(
            seen,
            &[
                "name", "release", "phase", "stage", "versions", "reason", "since", "evidence", "mode",
                "recovery",
            ],
        );
        assert_eq!(
            (&seen["name"], &seen["release"], &seen["phase"]),
            (&json!("test"), &json!("r-1"), &json!("active"))
        );
        assert_eq!(
            (&seen["stage"], &seen["reason"], &seen["since"]),
            (&json!(null), &json!(null), &json!(null))
        );
        assert_eq!((&seen["mode"], &seen["recovery"]), (&json!("enforce"), &json!(null)));
        for (id, stable) in [("v1", true), ("v2", false)] {
            let of = version(seen, id);
            assert_has(
                of,
                &[
                    "id",
                    "stable",
                    "weight",
                    "effective_weight",
                    "requests",
                    "errors",
                    "error_rate",
                    "latency_ms",
                ],
            );
            assert_eq!(
                (&of["stable"], &of["weight"], &of["effective_weight"]),
                (&json!(stable), &json!(50.0), &json!(50.0))
            );
            assert_eq!(names(&of["latency_ms"]), ["avg", "p50", "p95", "p99"].into());
            for (_, millis) in of["latency_ms"].as_object().unwrap() {
                assert!(millis.as_f64().unwrap() < 20_000.0, "{of}");
            }
            assert_eq!(
                (&of["requests_total"], &of["errors_total"]),
                (&of["requests"], &of["errors"]),
                "an hour's window"
            );
        }
        // Every fourth request failed; the providers count from one.
        let v1 = version(seen, "v1");
        assert_eq!(v1["requests"], openai);
        assert_eq!(v1["errors"], openai / 4);
        let rate = (openai / 4) as f64 * 100.0 / openai as f64;
        assert!((v1["error_rate"].as_f64().unwrap() - rate).abs() < 0.011, "{v1}: {rate}");
        assert_eq!(version(seen, "v2")["errors"], 0);

        for (id, value, mask) in [
            ("one", KEYS[0], "…1111"),
            ("two", KEYS[1], "…2222"),
            ("short", KEYS[2], "…"),
            ("four", KEYS[3], "…4444"),
            ("refused", KEYS[4], "…5555"),
        ] {
            let of = key(&status, id);
            assert_has(of, &["id", "mask", "status", "weight", "errors", "requests", "last_used", "until"]);
            let provider = if ["four", "refused"].contains(&id) { &rig.relay } else { &rig.openai };
            let used = received(provider, &|r| r.key.as_deref() == Some(value));
            assert_eq!(
                (&of["mask"], &of["requests"], &of["weight"]),
                (&json!(mask), &json!(used), &json!(1)),
                "{of}"
            );
            assert_eq!(of["last_used"].is_string(), used > 0, "{of}");
            let out = id == "refused";
            assert_eq!(of["status"], if out { "disabled" } else { "active" }, "{of}");
            assert_eq!(of["until"].is_string(), out, "{of}");
            if out {
                assert_eq!(of["errors"], refused, "{of}");
                let (now, until) = (status["now"].as_str().unwrap(), of["until"].as_str().unwrap());
                assert!(until > now && until.len() == now.len(), "{until} after {now}");
            }
        }
        let later = key(&status, "later");
        assert_eq!(
            (&later["status"], &later["mask"], &later["has_value"]),
            (&json!("disabled"), &json!(""), &json!(false))
        );
        assert_eq!((&later["until"], &later["last_used"]), (&json!(null), &json!(null)));
    }

    // Texts that the answers must contain and texts that they must never contain.
    admins[0].order("test", "rollback", r#"{"reason": "looks wrong"}"#).await;
    for path in ["/status", "/events", "/", "/deployments/test/resume", "/nowhere"] {
        for answer in [admins[0].get(path).await, admins[1].post(path, "{").await] {
            for value in KEYS {
                assert!(!answer.text().contains(value), "{path} has {value}");
                assert!(!format!("{:?}", answer.headers).contains(value), "{path} has {value}");
            }
            for part in ["sk-test", "sk-short"] {
                assert!(!answer.text().contains(part), "{path} has {part}");
            }
        }
    }
    assert_no_trap(&rig.envoy, "all of this").await;
}

#[tokio::test]
async fn a_worker_without_traffic_reports_the_counts_of_the_other() {
    let mut config = with_pools();
    // The requests that find the workers are of no deployment.
    config["deployments"][0]["match"] = json!({"path_prefix": "/v1/"});
    let rig = Rig::configured(config).await;
    let [ingress, _] = rig.workers().await;
    for _ in 0..40 {
        assert_eq!(ingress.send(Request::chat(false)).await.unwrap().status, 200);
    }
    for (worker, admin) in Admin::on_both_workers(&rig.envoy).await.iter().enumerate() {
        eventually(format!("worker {worker} reports forty requests"), || async {
            let status = admin.json("/status").await;
            let versions =
                ["v1", "v2"].map(|id| version(&status["deployments"][0], id)["requests"].as_u64().unwrap());
            let used: u64 = ["one", "two", "short", "four", "refused"]
                .map(|id| key(&status, id)["requests"].as_u64().unwrap())
                .iter()
                .sum();
            (versions.iter().sum::<u64>() == 40 && used == 40).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn events_come_newest_first_with_their_evidence_and_a_sentence() {
    let options = EnvoyOptions { edit: Some(Box::new(without_retries)), ..EnvoyOptions::default() };
    let mut config = canary_at(50.0);
    config["deployments"][0]["guard"] = json!({"max_consecutive_errors": 5, "compare": false});
    config["deployments"][0]["failover"] = json!(false);
    let rig = Rig::start(options.router_config(config)).await;
    let admin = Admin::of(&rig.envoy);
    assert_eq!(admin.json("/events").await, json!({"events": []}));
    rig.relay.set(Behaviour::status(500));
    ask_all(&rig.envoy.client(), 60, |_| Request::chat(false)).await;
    let rolled_back = eventually("a rollback", || async { admin.events().await.pop() }).await;
    let text = rolled_back["text"].as_str().unwrap();
    assert!(text.starts_with("rolled back v2: ") && text.contains("failed in a row"), "{rolled_back}");
    assert!(rolled_back["evidence"]["canary"]["errors"].as_u64().unwrap() >= 5, "{rolled_back}");
    assert!(rolled_back.get("by").is_none(), "{rolled_back}");
    let status = admin.status("test").await;
    assert_eq!(status["phase"], "rolled_back");
    // The verdict comes a moment before it is told.
    let (since, context) = (status["since"].as_str().unwrap(), rolled_back["time"].as_str().unwrap());
    assert!(since <= context && since.len() == context.len(), "{since}, told {context}");
    assert_eq!((&status["reason"], &status["evidence"]), (&rolled_back["why"], &json!(100)));
    assert!(version(&status, "v2")["errors"].as_u64().unwrap() >= 5, "the evidence is still shown: {status}");
    assert_eq!(version(&status, "v2")["effective_weight"], 0.0);

    for n in 0..40 {
        admin.order("test", "resume", &json!({"reason": format!("again {n}")}).to_string()).await;
        admin.order("test", "rollback", &json!({"reason": format!("no {n}")}).to_string()).await;
    }
    let all = admin.events().await;
    assert_eq!(all.len(), 64, "the last are kept");
    for (n, pair) in all.chunks(2).enumerate() {
        assert_eq!(pair[0]["text"], format!("rolled back v2 by hand: no {}", 39 - n));
        assert_eq!(pair[1]["text"], format!("resumed v2 by hand: again {}", 39 - n));
        assert_eq!((&pair[0]["from"], &pair[0]["to"]), (&json!("active"), &json!("rolled_back")));
        assert_eq!((&pair[1]["from"], &pair[1]["to"]), (&json!("rolled_back"), &json!("active")));
        for event in pair {
            assert_eq!((&event["by"], &event["reason"]), (&json!("operator"), &json!("operator")), "{event}");
            assert!(event["evidence"]["canary"]["requests"].is_u64(), "{event}");
        }
    }
    assert_eq!(events(&rig.envoy, "test").len(), 81, "each is logged once");
    let by_hand = [("deployment", "test"), ("version", "v2"), ("reason", "operator")];
    assert_eq!(rig.envoy.metric("bellwether_rollbacks_total", &by_hand).await.unwrap(), 40.0);
}

#[tokio::test]
async fn a_pool_that_loses_its_last_key_is_among_the_events() {
    let mut config = with_pools();
    config["key_pools"][1]["keys"].as_array_mut().unwrap().truncate(1);
    config["deployments"][0]["failover"] = json!({"after": 1});
    let rig = Rig::configured(config).await;
    rig.relay.set(Behaviour::failing(Fault::status(429, &[("retry-after", "300")])));
    let admin = Admin::of(&rig.envoy);
    admin.order("test", "resume", "").await;
    // Stable serves: nobody is harmed.
    assert_eq!(
        rig.envoy.client().send(Request::chat(false).header("x-version", "v2")).await.unwrap().status,
        200
    );
    let event = eventually("an event", || async { admin.events().await.pop() }).await;
    assert_eq!((&event["bellwether"], &event["pool"]), (&json!("pool_exhausted"), &json!("relay")));
    assert_eq!(event["text"], "pool relay has no usable key left");
    assert_eq!(key(&admin.json("/status").await, "four")["status"], "rate_limited");
}

#[tokio::test]
async fn an_event_with_long_request_ids_is_kept() {
    let edit = |bootstrap: &mut Value| {
        without_retries(bootstrap);
        let listener = &mut bootstrap["static_resources"]["listeners"][0];
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager["preserve_external_request_id"] = json!(true);
    };
    let options = EnvoyOptions { edit: Some(Box::new(edit)), ..EnvoyOptions::default() };
    let mut config = canary_at(50.0);
    config["deployments"][0]["guard"] = json!({"max_consecutive_errors": 5, "compare": false});
    config["deployments"][0]["failover"] = json!(false);
    let rig = Rig::start(options.router_config(config)).await;
    rig.relay.set(Behaviour::status(500));
    let id = |n| format!("{n}-{}", "x".repeat(4500));
    ask_all(&rig.envoy.client(), 60, move |n| Request::chat(false).header("x-request-id", &id(n))).await;
    let admin = Admin::of(&rig.envoy);
    let event = eventually("a rollback", || async { admin.events().await.pop() }).await;
    let ids: Vec<&str> = event["requests"].as_array().unwrap().iter().filter_map(|id| id.as_str()).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| id.len() == 128 && id.contains("-xxx")), "{ids:?}");
}

#[tokio::test]
async fn a_rejected_configuration_is_among_the_events() {
    let rig = Rig::configured(canary_at(50.0)).await;
    let admin = Admin::of(&rig.envoy);
    let mut bad = canary_at(50.0);
    bad["deployments"][0]["name"] = json!(7);
    bad["deployments"][0]["stable"] = json!("v9");
    rig.reconfigure_in_vain(&bad).await;
    let events = admin.events().await;
    assert_eq!(events.len(), 1, "once, not once a worker: {events:?}");
    assert_eq!(events[0]["bellwether"], "configuration_rejected");
    assert_eq!(events[0]["filter"], "bellwether-router");
    let problems = events[0]["problems"].as_array().unwrap();
    assert_eq!(problems[0], "deployments[0].name: must be a string, got 7", "{problems:?}");
    let context = format!(
        "configuration rejected, nothing was changed: {}; and one more",
        problems[0].as_str().unwrap()
    );
    assert_eq!((problems.len(), &events[0]["text"]), (2, &json!(context)));
    let now = &admin.json("/status").await["now"];
    assert!(events[0]["time"].as_str().unwrap() <= now.as_str().unwrap(), "{}, now {now}", events[0]["time"]);
}

#[tokio::test]
async fn two_listeners_with_plans_of_their_own_are_shown_together() {
    let module = wasm_path().unwrap().canonicalize().unwrap();
    let mut other = canary_at(30.0);
    other["deployments"][0]["name"] = json!("other");
    let vm = json!({
        "vm_id": "bellwether", "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}},
        "environment_variables": {"host_env_keys": ["OPENAI_KEY_1", "RELAY_KEY_1"]},
    });
    let second = move |bootstrap: &mut Value| {
        let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
        let mut listener = listeners[0].clone();
        listener["name"] = json!("second");
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager["http_filters"][0] = json!({"name": "second", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "second", "root_id": "router", "failure_policy": "FAIL_RELOAD", "vm_config": vm,
                "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": other.to_string()},
            },
        }});
        listeners.push(listener);
    };
    let options = EnvoyOptions { edit: Some(Box::new(second)), ..EnvoyOptions::default() };
    let rig = Rig::start(options.router_config(canary_at(50.0))).await;
    let through_second = Client::new(rig.envoy.listener_port("second").unwrap());
    for admin in Admin::on_both_workers(&rig.envoy).await {
        let status = admin.json("/status").await;
        let mut shown: Vec<_> =
            status["deployments"].as_array().unwrap().iter().map(|d| &d["name"]).collect();
        shown.sort_by_key(|name| name.to_string());
        assert_eq!(shown, ["other", "test"]);
        admin.order("other", "rollback", "").await;
        assert_eq!(admin.status("test").await["phase"], "active");
        tokio::time::sleep(REFRESH).await;
        let answers = ask_all(&through_second, 40, |_| Request::chat(false)).await;
        assert!(
            answers.iter().all(|answer| answer.version() == Some("v1")),
            "the order holds on the other listener too"
        );
        admin.order("other", "resume", "").await;
    }
    // A reload replaces the plan of its own listener only.
    rig.reconfigure(&json!({"deployments": [{
        "name": "third", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "openai"}],
    }]}))
    .await;
    for admin in Admin::on_both_workers(&rig.envoy).await {
        eventually("the new plan in place of the old", || async {
            let status = admin.json("/status").await;
            let mut shown: Vec<_> =
                status["deployments"].as_array().unwrap().iter().filter_map(|d| d["name"].as_str()).collect();
            shown.sort_unstable();
            (shown == ["other", "third"]).then_some(())
        })
        .await;
    }
}

// Orders

/// An Envoy with a deployment of half canary, and load on both of its workers.
struct Busy {
    envoy: EnvoyProcess,
    lanes: Lanes,
    v2: Provider,
    _v1: Provider,
    admin: Admin,
}

impl Busy {
    async fn start(deployments: &[Value]) -> Busy {
        let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
        let options = EnvoyOptions { edit: Some(Box::new(without_retries)), ..EnvoyOptions::default() };
        let options = options.cluster("v1", v1.port()).cluster("v2", v2.port());
        let envoy =
            EnvoyProcess::start(options.router_config(json!({"deployments": deployments}))).await.unwrap();
        let lanes = Lanes::open(&envoy).await;
        let admin = Admin::of(&envoy);
        Busy { envoy, lanes, v2, _v1: v1, admin }
    }

    fn to_canary(&self, name: &str) -> Vec<Received> {
        let mut requests = self.v2.requests();
        requests.retain(|request| request.header(DEPLOYMENT) == Some(name));
        requests
    }

    async fn canary_gets_more(&self, name: &str, count: usize) {
        let before = self.to_canary(name).len();
        eventually(format!("{count} more requests reach the canary of {name}"), || async {
            (self.to_canary(name).len() >= before + count).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_by_hand_is_in_force_on_every_worker_at_once_and_a_resume_too() {
    const TRIES: usize = 15;
    let busy = Busy::start(&[deployment("busy", json!({}))]).await;
    let load = Load::start(&busy.lanes, 400.0, |_| chat("busy", false));
    let mut orders = Vec::new();
    for n in 0..TRIES {
        busy.canary_gets_more("busy", 20).await;
        let asked = Instant::now();
        let status =
            busy.admin.order("busy", "rollback", &json!({"reason": format!("try {n}")}).to_string()).await;
        let answered = Instant::now();
        assert_eq!(
            (&status["phase"], &status["reason"]),
            (&json!("rolled_back"), &json!(format!("by hand: try {n}")))
        );
        assert_eq!(version(&status, "v2")["effective_weight"], 0.0);
        // Long enough for thirty requests that a worker which has not heard would send to the canary.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let resumed = Instant::now();
        assert_eq!(busy.admin.order("busy", "resume", "").await["phase"], "active");
        orders.push((asked, answered, resumed));
    }
    busy.canary_gets_more("busy", 20).await;
    let samples = load.stop().await;
    assert!(samples.iter().all(|sample| sample.ok()), "nobody notices");
    let to_canary = busy.to_canary("busy");
    let numbers: BTreeSet<u64> =
        to_canary.iter().map(|r| r.header(NUMBER).unwrap().parse().unwrap()).collect();
    let mut lags = Vec::new();
    let mut took = Vec::new();
    for (asked, answered, resumed) in &orders {
        // A request sent 10 ms after the answer cannot have been assigned before it: none of these may reach the canary.
        let out = samples.iter().filter(|s| s.sent_at > *answered + REFRESH && s.finished_at < *resumed);
        let (late, all): (Vec<_>, usize) = out.fold((Vec::new(), 0), |(mut late, all), sample| {
            if numbers.contains(&sample.number) {
                late.push(sample);
            }
            (late, all + 1)
        });
        assert!(late.is_empty(), "of {all} requests sent after the answer, at the canary: {late:?}");
        let last = to_canary.iter().map(|r| r.at).filter(|at| at < resumed).max().unwrap();
        lags.push(last.saturating_duration_since(*answered));
        took.push(*answered - *asked);
    }
    lags.sort();
    took.sort();
    println!("POST answered in {took:?}; the last request at the canary after the answer: {lags:?}");
    // Requests that arrive later were sent before the rollback. On a busy machine they may take a while.
    assert!(lags[TRIES / 2] < Duration::from_millis(100), "{lags:?}");
    assert_eq!(busy.admin.events().await.len(), 2 * TRIES);
    assert_no_trap(&busy.envoy, "orders under load").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_rollback_is_not_probed_and_survives_reloads_until_the_release_changes() {
    let mut latched = deployment("latched", json!({"max_consecutive_errors": 3}));
    latched["recovery"] = json!({"mode": "probe", "after": "1s", "max_after": "1s", "successes": 1});
    let mut probed = latched.clone();
    probed["name"] = json!("probed");
    probed["match"]["headers"][0]["exact"] = json!("probed");
    let busy = Busy::start(&[latched.clone(), probed.clone()]).await;
    // Both fail; the operator latches one.
    busy.v2.set(Behaviour::status(500));
    let load =
        Load::start(&busy.lanes, 100.0, |n| chat(if n % 2 == 0 { "latched" } else { "probed" }, false));
    for name in ["latched", "probed"] {
        eventually(format!("{name} is rolled back"), || async {
            (busy.admin.status(name).await["phase"] != "active").then_some(())
        })
        .await;
    }
    let before = busy
        .admin
        .events()
        .await
        .iter()
        .filter(|e| e["deployment"] == "latched" && e["by"] == "operator")
        .count();
    let status = busy.admin.order("latched", "rollback", r#"{"reason": "leave it out"}"#).await;
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.starts_with("by hand: leave it out"), "{status}");
    assert_eq!(before, 0);
    busy.v2.set(Behaviour::default());
    eventually("the other one is probed and comes back", || async {
        (busy.admin.status("probed").await["phase"] == "active").then_some(())
    })
    .await;
    // As long again as that took the other: three times the wait before a probe.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(busy.admin.status("latched").await["phase"], "rolled_back");

    let reload = async |change: &dyn Fn(&mut Value)| {
        let mut latched = latched.clone();
        change(&mut latched);
        let config = json!({"deployments": [latched, probed]});
        let update = busy.envoy.write_router_config(&config).await.unwrap();
        busy.envoy.wait_config_accepted(&update, SOON).await.unwrap();
    };
    reload(&|d| {
        d["versions"] = json!([
            {"id": "v1", "weight": 20, "cluster": "v1"}, {"id": "v2", "weight": 80, "cluster": "v2"},
        ])
    })
    .await;
    let status = eventually("the new weights", || async {
        let status = busy.admin.status("latched").await;
        (version(&status, "v2")["weight"] == 80.0).then_some(status)
    });
    assert_eq!(status.await["phase"], "rolled_back", "the same release");
    reload(&|d| d["release"] = json!("2")).await;
    eventually("another release", || async {
        let status = busy.admin.status("latched").await;
        (status["phase"] == "active" && status["release"] == "2").then_some(())
    })
    .await;
    busy.canary_gets_more("latched", 5).await;
    load.stop().await;
}

#[tokio::test]
async fn an_order_outlives_the_vm_it_was_given_in() {
    let rig = Rig::configured(with_pools()).await;
    let admin = Admin::of(&rig.envoy);
    let before = admin.order("test", "rollback", r#"{"reason": "before the upgrade"}"#).await;
    for role in [Role::Router, Role::Keys, Role::Admin] {
        rewrite_resource(&rig.envoy, role, "upgrade", |config| {
            config["vm_config"]["environment_variables"]["host_env_keys"] = json!(["ANOTHER_NAME"]);
        });
        eventually(format!("the new {role:?}"), || async {
            let version = rig.envoy.text_stat(&role.stat("version_text")).await.unwrap()?;
            (version == "upgrade").then_some(())
        })
        .await;
    }
    let after = eventually("the admin role in the new VM", || async {
        let answer = admin.get("/status").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(after["deployments"][0]["reason"], before["reason"], "{after}");
    assert_eq!(admin.events().await.len(), 1);
    let answers = ask_all(&rig.envoy.client(), 40, |_| Request::chat(false)).await;
    assert!(answers.iter().all(|answer| answer.version() == Some("v1")));
    assert_eq!(admin.order("test", "resume", "").await["phase"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_canary_is_judged_only_by_its_later_requests() {
    let busy = Busy::start(&[deployment("judged", json!({"max_errors": 10, "window": "1h"}))]).await;
    busy.v2.set(Behaviour::status(500));
    let load = Load::start(&busy.lanes, 100.0, |_| chat("judged", false));
    let rolled_back = async |count: usize| {
        eventually(format!("rollback {count}"), || async {
            let events = busy.admin.events().await;
            (events.iter().filter(|event| event["to"] == "rolled_back").count() >= count)
                .then(|| events[0].clone())
        })
        .await
    };
    assert_eq!(rolled_back(1).await["by"], json!(null));
    // Still failing: ten new failures it takes, not one.
    let status = busy.admin.order("judged", "resume", r#"{"reason": "fixed, they say"}"#).await;
    assert_eq!((&status["phase"], &status["evidence"]), (&json!("active"), &json!(0)));
    let again = rolled_back(2).await;
    assert!((10..20).contains(&again["evidence"]["canary"]["errors"].as_u64().unwrap()), "{again}");
    // Mended: it stays.
    busy.v2.set(Behaviour::default());
    busy.admin.order("judged", "resume", "").await;
    busy.canary_gets_more("judged", 50).await;
    load.stop().await;
    let status = busy.admin.status("judged").await;
    assert_eq!(
        (&status["phase"], &version(&status, "v2")["errors"]),
        (&json!("active"), &json!(0)),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_already_carried_out_changes_nothing_and_logs_nothing() {
    let mut config = canary_at(20.0);
    config["deployments"][0]["versions"] = json!([
        {"id": "v1", "weight": 80, "cluster": "openai"}, {"id": "v2", "weight": 10, "cluster": "relay"},
        {"id": "v3", "weight": 10, "cluster": "relay"},
    ]);
    config["deployments"].as_array_mut().unwrap().push(json!({
        "name": "alone", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "openai"}],
    }));
    config["alerts"] = json!({"cluster": "openai", "host": "hooks.local", "path": "/hook"});
    let rig = Rig::configured(config).await;
    let admins = Admin::on_both_workers(&rig.envoy).await;
    assert_eq!(admins[0].order("test", "resume", "").await["phase"], "active", "nothing to resume");
    assert_eq!(admins[0].events().await, Vec::<Value>::new());
    let first = admins[0].order("test", "rollback", r#"{"reason": "first"}"#).await;
    for admin in &admins {
        assert_eq!(
            admin.order("test", "rollback", r#"{"reason": "second"}"#).await,
            first,
            "on either worker"
        );
    }
    for id in ["v2", "v3"] {
        let of = version(&first, id);
        assert_eq!(
            (&of["effective_weight"], &of["phase"]),
            (&json!(0.0), &json!("rolled_back")),
            "all canaries are rolled back"
        );
    }
    assert_eq!(version(&first, "v1")["effective_weight"], 100.0);
    // Many at once from both workers: one transition for each canary.
    let both = |order: &'static str| {
        let port = rig.envoy.admin_role_port();
        async move {
            let all = (0..20).map(|_| {
                let path = format!("/deployments/test/{order}");
                tokio::spawn(async move { Admin(Client::new(port)).post(&path, "").await.status })
            });
            for one in all.collect::<Vec<_>>() {
                assert_eq!(one.await.unwrap(), 200);
            }
        }
    };
    both("resume").await;
    both("rollback").await;
    let context = admins[1].events().await;
    assert_eq!(context.len(), 6, "{context:#?}");
    eventually("each event is posted once", || async {
        let hooks = rig.openai.requests().iter().filter(|r| r.path == "/hook").count();
        assert!(hooks <= 6, "{hooks}");
        (hooks == 6).then_some(())
    })
    .await;
    let alone = admins[0].post("/deployments/alone/rollback", "").await;
    assert_eq!(alone.status, 409, "{}: there is nothing to roll back", alone.text());
}

#[tokio::test]
async fn hostile_names_bodies_and_reasons_do_no_harm() {
    for route in [Route::default(), Route::ClusterHeader] {
        let options = EnvoyOptions { route, ..EnvoyOptions::default() };
        let rig = Rig::start(options.router_config(canary_at(50.0))).await;
        let admin = Admin::of(&rig.envoy);
        for name in ["TEST", "test%2f", "..", "%00", "test%20", "%3Cimg%20onerror%3D1%3E", &"x".repeat(5000)]
        {
            let answer = admin.post(&format!("/deployments/{name}/rollback"), "").await;
            assert_eq!(answer.status, 404, "{name}: {}", answer.text());
            assert!(answer.json()["error"].is_string(), "{name}");
        }
        let path = "/deployments/test/rollback";
        for (body, status) in [
            (&b"{"[..], 400),
            (b"[]", 400),
            (b"null", 400),
            (b"\"reason\"", 400),
            (b"{\"reason\": 1}", 400),
            (b"{\"reason\": \"\xff\xfe\"}", 400),
            (b"{\"reason\": \"a\0b\"}", 400),
            (b"{\"reasons\": \"x\"}", 400),
            (b"{\"reason\": \"a\", \"reason\": \"b\"}", 400),
            (&[b'['; 10_000][..], 400),
            (&[b' '; 1_000_000][..], 413),
        ] {
            let answer = admin.post(path, body).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        }
        assert_eq!(admin.events().await, Vec::<Value>::new(), "none of these requests changed anything");
        for (reason, why) in [
            ("\"; DROP\\ <script>alert(1)</script> ${x}", "\"; DROP\\ <script>alert(1)</script> ${x}"),
            ("two\nlines\u{1b}[31m\u{202e}gnorw", "two lines [31m gnorw"),
            ("ünïcödé 🐑", "ünïcödé 🐑"),
            ("", "no reason given"),
        ] {
            admin.order("test", "rollback", &json!({"reason": reason}).to_string()).await;
            let event = admin.events().await.remove(0);
            assert_eq!(event["why"], why);
            assert_eq!(admin.status("test").await["reason"], format!("by hand: {why}"));
            admin.order("test", "resume", "").await;
        }
        let long = json!({"reason": "ä".repeat(5000)}).to_string();
        admin.order("test", "rollback", &long).await;
        assert_eq!(admin.events().await[0]["why"], "ä".repeat(150));
        let logged = rig.envoy.logs();
        assert!(
            !logged.contains('\u{1b}') && !logged.contains('\u{202e}'),
            "no control character reaches a terminal"
        );
        // A body that comes byte by byte, and in a chunk of nothing.
        for body in ["{\"reason\":\"slow\"}", ""] {
            let chunks: String = body.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
            let raw = format!(
                "POST /deployments/test/resume HTTP/1.1\r\nhost: localhost\r\nx-requested-with: x\r\nconnection: close\r\n\
                 transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
            );
            let answer =
                bellwether_harness::client::raw(rig.envoy.admin_role_port(), raw.as_bytes()).await.unwrap();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert_eq!(admin.events().await[0]["why"], "slow");
        assert_no_trap(&rig.envoy, "all of this").await;
    }
}

#[tokio::test]
async fn a_listener_that_cannot_read_bodies_still_rolls_back() {
    let without_lua = |bootstrap: &mut Value| {
        for listener in bootstrap["static_resources"]["listeners"].as_array_mut().unwrap() {
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            let filters = manager["http_filters"].as_array_mut().unwrap();
            filters.retain(|filter| filter["name"] != "envoy.filters.http.lua");
        }
    };
    let options = EnvoyOptions { edit: Some(Box::new(without_lua)), ..EnvoyOptions::default() };
    let rig = Rig::start(options.router_config(canary_at(50.0))).await;
    let status = Admin::of(&rig.envoy).order("test", "rollback", r#"{"reason": "unheard"}"#).await;
    assert_eq!(status["phase"], "rolled_back");
    assert!(status["reason"].as_str().unwrap().contains("could not be read"), "{status}");
}
