//! Which key a request carries, on a real Envoy with two workers: never none, never the client's, another one at each
//! attempt, and never to be seen anywhere but at the provider.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use bellwether_harness::client::{Answer, Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, Role};
use bellwether_harness::provider::{Behaviour, Received};
use serde_json::{Value, json};

use crate::common::rig::*;

/// A deployment of one version, with these pools.
fn pooled(pool: &str, pools: Value) -> Value {
    json!({
        "deployments": [{"name": "test", "stable": "v1", "failover": false, "versions": [
            {"id": "v1", "weight": 100, "cluster": "openai", "key_pool": pool},
        ]}],
        "key_pools": pools,
    })
}

/// How often each key arrived; requests without one count for the empty name.
fn by_key(received: &[Received]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for received in received {
        *counts.entry(received.key.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn values<'a>(received: &'a Received, name: &str) -> Vec<&'a str> {
    let of = received.headers.iter().filter(|(known, _)| known == name);
    of.map(|(_, value)| std::str::from_utf8(value).unwrap()).collect()
}

/// Waits until the metric of a key shows a status.
async fn wait_status(rig: &Rig, pool: &str, key: &str, status: f64) {
    let deadline = Deadline::soon();
    loop {
        let labels = [("pool", pool), ("key", key)];
        // A series that is not there would read as 0.
        let page = rig.envoy.prometheus().await.unwrap();
        let there = page.lines().any(|line| {
            line.starts_with("bellwether_key_status{") && line.contains(&format!("key=\"{key}\""))
        });
        let shown = rig.envoy.metric("bellwether_key_status", &labels).await.unwrap();
        if there && shown == status {
            return;
        }
        deadline.next(|| format!("{pool}/{key} shows {shown} (there: {there}), not {status}")).await;
    }
}

// Putting them in

#[tokio::test(flavor = "multi_thread")]
async fn every_request_carries_a_key_of_the_pool_from_the_first_one_on_and_by_weight() {
    const REQUESTS: usize = 1000;
    let weights = [("sk-inline-a", 3.0), ("sk-env-b", 3.0), ("sk-inline-c", 2.0), ("sk-env-d", 2.0)];
    let config = |inject: &str| {
        pooled(
            "pool",
            json!([{"name": "pool", "inject": inject, "keys": [
                {"id": "a", "value": "sk-inline-a", "weight": 3},
                {"id": "b", "value": {"env": "KEY_B"}, "weight": 3},
                {"id": "c", "value": "sk-inline-c", "weight": 2},
                {"id": "d", "value": {"env": "KEY_D"}, "weight": 2},
                {"id": "e", "value": "sk-never-e", "weight": 0},
            ]}]),
        )
    };
    let request = |_| Request::chat(false).header("authorization", "Bearer sk-of-the-client");
    for keys_role in [true, false] {
        for (first, second) in [("attempt", "request"), ("request", "attempt")] {
            let context = format!("keys role: {keys_role}, {first}");
            let options = EnvoyOptions { keys_role, ..EnvoyOptions::default() };
            let options = options.env("KEY_B", "sk-env-b").env("KEY_D", "sk-env-d");
            let rig = Rig::start(options.router_config(config(first))).await;
            ask_all(&rig.envoy.client(), REQUESTS, request).await;
            // And while the configurations of both roles are replaced.
            let client = rig.envoy.client();
            let load = tokio::spawn(async move { ask_all(&client, REQUESTS, request).await });
            rig.reconfigure(&config(second)).await;
            if keys_role {
                rig.set_secrets(&json!({"another": "sk-another"})).await;
            }
            let answers = load.await.unwrap();
            assert!(answers.iter().all(|answer| answer.status == 200), "{context}");
            ask_all(&rig.envoy.client(), 100, request).await;

            let received = rig.take_received();
            let counts = by_key(&received);
            assert_eq!(received.len(), 2 * REQUESTS + 100, "{context}");
            assert_eq!(counts.len(), weights.len(), "{context}: no other key, and none without: {counts:?}");
            for (key, weight) in weights {
                let count = counts.get(key).copied().unwrap_or(0);
                assert_share(count, received.len(), weight / 10.0, &format!("{context}: {key}"));
            }
            assert!(received.iter().all(|r| values(r, "authorization").len() == 1), "{context}: exactly one");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_credentials_go_if_and_only_if_the_version_has_a_pool() {
    let config = |inject: &str| {
        let version = |id: &str, pool: Option<&str>| match pool {
            Some(pool) => json!({"id": id, "weight": 0, "cluster": "relay", "key_pool": pool}),
            None => json!({"id": id, "weight": 0, "cluster": "relay"}),
        };
        let rules: Vec<Value> = ["own", "bearer", "plain", "other"]
            .map(|id| json!({"headers": [{"name": "x-version", "exact": id}], "version": id}))
            .to_vec();
        json!({
            "deployments": [{"name": "test", "stable": "v1", "rules": rules, "versions": [
                {"id": "v1", "weight": 100, "cluster": "openai"},
                version("own", None),
                version("bearer", Some("bearer")),
                version("plain", Some("plain")),
                version("other", Some("other")),
            ]}],
            "key_pools": [
                {"name": "bearer", "inject": inject, "keys": [
                    {"id": "env", "value": {"env": "PASTED"}},
                    {"id": "inline", "value": "  bearer  sk-inline\t"},
                    {"id": "bare", "value": "sk-bare"},
                ]},
                {"name": "plain", "header": "x-api-key", "prefix": "", "inject": inject, "keys": [
                    {"id": "one", "value": "sk-plain \n"},
                ]},
                {"name": "other", "header": "X-Goog-Api-Key", "prefix": "Key ", "inject": inject, "keys": [
                    {"id": "one", "value": "sk-other"},
                ]},
            ],
        })
    };
    let mine = [
        ("authorization", "Bearer sk-mine"),
        ("authorization", "Basic bWluZQ=="),
        ("x-api-key", "sk-mine"),
        ("api-key", "sk-mine"),
        ("x-goog-api-key", "sk-mine"),
        ("x-goog-api-key", "sk-mine too"),
    ];
    let ours: [(&str, [&[&str]; 4]); 4] = [
        // Envoy joins the values of headers that are lists, or that it takes for lists.
        (
            "own",
            [&["Bearer sk-mine,Basic bWluZQ=="], &["sk-mine"], &["sk-mine"], &["sk-mine", "sk-mine too"]],
        ),
        ("bearer", [&["Bearer sk-env"], &[], &[], &[]]),
        ("plain", [&[], &["sk-plain"], &[], &[]]),
        ("other", [&[], &[], &[], &["Key sk-other"]]),
    ];
    for keys_role in [true, false] {
        for inject in ["attempt", "request"] {
            let options = EnvoyOptions { keys_role, ..EnvoyOptions::default() };
            let options = options.env("PASTED", " \n Bearer   sk-env \n");
            let rig = Rig::start(options.router_config(config(inject))).await;
            let mut bearers = BTreeSet::new();
            for client in rig.workers().await {
                for (version, expected) in ours {
                    for _ in 0..30 {
                        let mut request = Request::chat(false).header("x-version", version);
                        request.headers.extend(mine.map(|(n, v)| (n.to_owned(), v.to_owned())));
                        client.send(request).await.unwrap();
                        let received = rig.take_received();
                        let received = only(&received);
                        let context = format!("keys role: {keys_role}, {inject}, {version}");
                        let names = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
                        for (name, expected) in names.into_iter().zip(expected) {
                            if version == "bearer" && name == "authorization" {
                                bearers.insert(values(received, name).join(", "));
                            } else {
                                assert_eq!(values(received, name), expected, "{context}: {name}");
                            }
                        }
                    }
                }
            }
            // Pasted with blanks around them and with the prefix in front: as they should be.
            assert_eq!(
                bearers.iter().map(String::as_str).collect::<Vec<_>>(),
                ["Bearer sk-bare", "Bearer sk-env", "Bearer sk-inline"],
                "keys role: {keys_role}, {inject}"
            );
        }
    }
}

// Secrets that are not there

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_its_secret_waits_for_it_and_is_shown_as_disabled() {
    let config = pooled(
        "pool",
        json!([{"name": "pool", "keys": [
            {"id": "here", "value": "sk-here"},
            {"id": "missing", "value": {"secret": "later"}, "weight": 1000},
        ]}]),
    );
    let rig = Rig::configured(config).await;
    let workers = rig.workers().await;
    let used = async |count: usize| {
        rig.take_received();
        for _ in 0..count {
            for client in &workers {
                assert_eq!(client.send(Request::chat(false)).await.unwrap().status, 200);
            }
        }
        by_key(&rig.take_received())
    };
    wait_status(&rig, "pool", "missing", 3.0).await;
    wait_status(&rig, "pool", "here", 0.0).await;
    assert_eq!(used(100).await, BTreeMap::from([("sk-here".to_owned(), 200)]), "the secret is not there");

    let reloads = rig.envoy.stat(&Role::Router.stat("config_reload")).await.unwrap();
    for value in ["sk-later", "sk-rotated"] {
        rig.set_secrets(&json!({"later": value, "unused": "sk-unused"})).await;
        wait_status(&rig, "pool", "missing", 0.0).await;
        for client in &workers {
            // A worker follows an update in its own time.
            let deadline = Deadline::soon();
            rig.take_received();
            while client.send(Request::chat(false)).await.is_ok()
                && !by_key(&rig.take_received()).contains_key(value)
            {
                deadline.next(|| format!("{value} is not used")).await;
            }
        }
        let counts = used(100).await;
        assert!(
            counts.get(value).is_some_and(|count| *count > 150),
            "with a weight of 1000 to 1: {counts:?}"
        );
        assert!(counts.keys().all(|key| key == "sk-here" || key == value), "{counts:?}");
    }
    let unchanged = rig.envoy.stat(&Role::Router.stat("config_reload")).await.unwrap();
    assert_eq!(unchanged, reloads, "the router's configuration was left alone");

    rig.set_secrets(&json!({"unused": "sk-unused"})).await;
    wait_status(&rig, "pool", "missing", 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_key_stable_serves_and_without_any_the_client_gets_503() {
    let mut config = canary_at(100.0);
    config["deployments"][0]["versions"][0]["key_pool"] = json!("stable");
    config["deployments"][0]["versions"][1]["key_pool"] = json!("canary");
    let pool = |name: &str, inject: &str| {
        json!({"name": name, "inject": inject, "keys": [
            {"id": format!("{name}-1"), "value": {"secret": name}},
            {"id": format!("{name}-2"), "value": {"secret": format!("{name}-too")}},
        ]})
    };
    for (keys_role, inject) in [(true, "attempt"), (true, "request"), (false, "attempt")] {
        let context = format!("keys role: {keys_role}, {inject}");
        config["key_pools"] = json!([pool("stable", inject), pool("canary", inject)]);
        let options = EnvoyOptions { keys_role, ..EnvoyOptions::default() };
        let rig = Rig::start(options.router_config(config.clone())).await;
        for client in rig.workers().await {
            for stream in [false, true] {
                let answer = client.send(Request::chat(stream)).await.unwrap();
                assert_eq!(answer.status, 503, "{context}");
                assert_eq!(answer.header("content-type"), Some("application/json"), "{context}");
                let error = &answer.json()["error"];
                assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{context}");
                assert_eq!(
                    (&error["type"], &error["param"], &error["code"]),
                    (&json!("server_error"), &Value::Null, &json!("keys_unavailable")),
                    "{context}: as an OpenAI client reads it"
                );
            }
        }
        assert_eq!(rig.take_received().len(), 0, "{context}: nothing is sent without a key");
        if !keys_role {
            // Nobody to give it a secret.
            continue;
        }

        let serves = async |secrets: Value, version: &str, key: &str| {
            rig.set_secrets(&secrets).await;
            for client in rig.workers().await {
                let deadline = Deadline::soon();
                while client.send(Request::chat(false)).await.unwrap().version() != Some(version) {
                    deadline.next(|| format!("{context}: {version} does not serve")).await;
                }
                rig.take_received();
                for _ in 0..20 {
                    let answer = client.send(Request::chat(false)).await.unwrap();
                    assert_eq!((answer.status, answer.version()), (200, Some(version)), "{context}");
                }
                assert_eq!(by_key(&rig.take_received()), BTreeMap::from([(key.to_owned(), 20)]), "{context}");
            }
        };
        serves(json!({"stable": "sk-stable"}), "v1", "sk-stable").await;
        serves(json!({"stable": "sk-stable", "canary-too": "sk-canary"}), "v2", "sk-canary").await;
        // Stable's is not needed for that.
        serves(json!({"canary": "sk-canary-1"}), "v2", "sk-canary-1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_environment_variable_rejects_the_configuration_and_is_named() {
    let config = |names: [&str; 2]| {
        let keys = names.map(|name| json!({"id": name, "value": {"env": name}}));
        pooled("pool", json!([{"name": "pool", "keys": keys}]))
    };
    let rig = Rig::configured(config(["OPENAI_KEY_1", "RELAY_KEY_1"])).await;
    let log = rig.reconfigure_in_vain(&config(["OPENAI_KEY_1", "NOT_THERE"])).await;
    let named = |line: &str| line.contains("[error]") && line.contains("NOT_THERE");
    assert!(log.lines().any(named), "{log}");
    assert!(log.contains("key_pools[0].keys[1].value"), "with its path: {log}");
    for client in rig.workers().await {
        let answer = client.send(Request::chat(false)).await.unwrap();
        assert_eq!(answer.status, 200, "the last good configuration stays in force");
    }
    let used = by_key(&rig.take_received());
    assert!(used.keys().all(|key| ["sk-openai-one", "sk-relay-one"].contains(&key.as_str())), "{used:?}");

    // As the first configuration there is none to fall back to: nothing is served, least of all without a key.
    let options = EnvoyOptions { allow_rejected_config: true, ..EnvoyOptions::default() };
    let rig = Rig::start(options.router_config(config(["OPENAI_KEY_1", "NOT_THERE"]))).await;
    assert!(rig.envoy.logs().lines().any(named), "{}", rig.envoy.logs());
    let (answer, received) = rig.ask(Request::chat(false)).await;
    assert_eq!((answer.status, received.len()), (500, 0));
}

// Retries

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_of_a_request_carries_another_key() {
    let keys = ["sk-one", "sk-two", "sk-three"];
    let listed: Vec<Value> = keys.map(|key| json!({"id": key, "value": key})).to_vec();
    let config = pooled("pool", json!([{"name": "pool", "keys": listed}]));
    // Each failure that Envoy retries by the sample's configuration, streamed or not.
    for (stream, statuses) in [(false, [429, 401, 403]), (true, [429, 401, 403]), (false, [503, 500, 429])] {
        let context = format!("stream: {stream}, {statuses:?}");
        let rig = Rig::configured(config.clone()).await;
        // The first: every key fails.
        let mut behaviour = Behaviour::default();
        for (key, status) in keys.into_iter().zip(statuses) {
            behaviour = behaviour.key(key, status, &[]);
        }
        rig.openai.set(behaviour.clone());
        let (answer, received) = rig.ask(Request::chat(stream)).await;
        let tried: Vec<&str> = received.iter().filter_map(|r| r.key.as_deref()).collect();
        assert_eq!(tried.len(), 3, "{context}: {tried:?}");
        assert_eq!(
            BTreeSet::from_iter(tried.iter().copied()),
            BTreeSet::from(keys),
            "{context}: no key twice"
        );
        let last = keys.iter().position(|key| *key == tried[2]).unwrap();
        // Except for a refusal of our key, which the client would take for one of its own.
        let shown = if statuses[last] == 401 { 503 } else { statuses[last] };
        assert_eq!(answer.status, shown, "{context}: the client gets the last answer");

        // On an Envoy that knows nothing of that, with a third key that serves: every request finds it.
        behaviour.keys.remove("sk-three");
        let rig = Rig::configured(config.clone()).await;
        rig.openai.set(behaviour);
        let mut retried = 0;
        for client in rig.workers().await {
            for _ in 0..20 {
                rig.take_received();
                let answer = client.send(Request::chat(stream)).await.unwrap();
                let received = rig.take_received();
                let tried: Vec<&str> = received.iter().filter_map(|r| r.key.as_deref()).collect();
                assert_eq!(tried.last(), Some(&"sk-three"), "{context}: {tried:?}");
                let distinct = BTreeSet::from_iter(tried.iter().copied());
                assert_eq!(
                    (distinct.len(), tried.len()),
                    (received.len(), received.len()),
                    "{context}: {tried:?}"
                );
                assert_eq!((answer.status, &answer.broken), (200, &None), "{context}");
                assert!(answer.text().contains("hello from openai"), "{context}: {}", answer.text());
                assert_eq!(answer.text().contains("[DONE]"), stream, "{context}");
                retried += usize::from(tried.len() > 1);
                let bodies = BTreeSet::from_iter(received.iter().map(|r| r.body_len));
                assert_eq!(bodies.len(), 1, "{context}: every attempt has the whole body");
            }
        }
        // Keys that were rate limited or rejected may be spared; of 503 it takes more than one.
        assert!(retried > 0 || statuses[0] != 503, "{context}: nothing was retried");
        assert_no_trap(&rig.envoy, &context).await;
    }
}

// Nowhere to be seen

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_seen_anywhere_but_at_the_provider() {
    // Told from anything else by this, whole or in part.
    const MARK: &str = "LEAKED";
    let config = |pools: Value| {
        let mut config = canary_at(50.0);
        config["deployments"][0]["versions"][0]["key_pool"] = json!("bearer");
        config["deployments"][0]["versions"][1]["key_pool"] = json!("plain");
        config["deployments"][0]["rules"] =
            json!([{"headers": [{"name": "x-version", "exact": "v2"}], "version": "v2"}]);
        config["key_pools"] = pools;
        config
    };
    let good = config(json!([
        {"name": "bearer", "keys": [
            {"id": "inline", "value": format!("sk-inline-{MARK}-0001")},
            {"id": "env", "value": {"env": "KEY_OF_ENV"}},
            {"id": "secret", "value": {"secret": "named"}},
        ]},
        {"name": "plain", "header": "x-api-key", "prefix": "", "inject": "request", "keys": [
            {"id": "only", "value": {"secret": "named"}},
        ]},
    ]));
    let options = EnvoyOptions {
        component_log_level: "wasm:trace".to_owned(),
        keys_config: Some(json!({"secrets": {"named": format!("sk-secret-{MARK}-0002")}})),
        ..EnvoyOptions::default()
    };
    let options = options.env("KEY_OF_ENV", &format!("Bearer sk-env-{MARK}-0003"));
    let rig = Rig::start(options.router_config(good.clone())).await;

    let mut answers: Vec<Answer> = Vec::new();
    let workers = rig.workers().await;
    for behaviour in [
        Behaviour::default(),
        Behaviour::status(401),
        Behaviour::status(429),
        Behaviour::status(503),
        Behaviour::failing(bellwether_harness::provider::Fault::Reset),
    ] {
        rig.openai.set(behaviour.clone());
        rig.relay.set(behaviour);
        for client in &workers {
            for version in ["v1", "v2"] {
                for stream in [false, true] {
                    let request = Request::chat(stream).header("x-version", version);
                    answers.push(client.send(request).await.unwrap());
                }
            }
        }
    }
    rig.openai.set(Behaviour::default());
    let used = by_key(&rig.take_received());
    assert!(used.len() >= 2 && used.keys().all(|key| key.contains(MARK)), "the keys were in use: {used:?}");

    // Mistakes of all kinds, with a key in the middle of each.
    let bad_pool =
        |key: Value| config(json!([{"name": "bearer", "keys": [key]}, {"name": "plain", "keys": []}]));
    let value = format!("sk-bad-{MARK}-0004");
    let bad_routers = [
        bad_pool(json!({"id": "a", "value": [value]})).to_string(),
        bad_pool(json!({"id": "a", "value": {"env": 1, "secret": value}})).to_string(),
        bad_pool(json!({"id": "a", "value": {"evn": value}})).to_string(),
        bad_pool(json!({"id": "a", "vlaue": value})).to_string(),
        bad_pool(json!({"id": "a", "value": format!("{value}\u{7f}\n{value}")})).to_string(),
        format!(r#"{{"key_pools": [{{"name": "p", "keys": [{{"id": "a", "value": "{value}}}"#),
        format!(
            r#"{{"key_pools": [{{"name": "p", "keys": [{{"id": "a", "value": "{value}" "{value}"}}]}}]}}"#
        ),
        value.clone(),
    ];
    let bad_keys = [
        json!({"secrets": {"named": [value]}}).to_string(),
        json!({"secrets": {"named": {value.clone(): 1}}}).to_string(),
        json!({"secrets": value}).to_string(),
        json!({"secrets": {"named": format!("{value}\n{value}")}}).to_string(),
        format!(r#"{{"secrets": {{"named": "{value}"#),
        format!(r#"{{"secrets": {{"named": "{value}", "named": "{value}"}}}}"#),
    ];
    for (role, documents) in [(Role::Router, &bad_routers[..]), (Role::Keys, &bad_keys[..])] {
        for document in documents {
            let update = rig.envoy.write_config(role, document).await.unwrap();
            let log = rig.envoy.wait_rejected(&update, std::time::Duration::from_secs(20)).await.unwrap();
            assert!(log.contains("configuration rejected"), "{log}");
        }
    }
    rig.set_secrets(&json!({})).await;
    let no_keys = config(json!([{"name": "bearer", "keys": [{"id": "a", "value": {"secret": "gone"}}]},
                                {"name": "plain", "keys": [{"id": "a", "value": {"secret": "gone"}}]}]));
    rig.reconfigure(&no_keys).await;
    let deadline = Deadline::soon();
    loop {
        let (answer, _) = rig.ask(Request::chat(false)).await;
        answers.push(answer.clone());
        if answer.status == 503 && answer.text().contains("keys_unavailable") {
            break;
        }
        deadline.next(|| format!("still {}", answer.status)).await;
    }
    rig.reconfigure(&good).await;

    let mut pages = vec![
        ("envoy.log".to_owned(), rig.envoy.logs()),
        ("access.log".to_owned(), fs::read_to_string(rig.envoy.directory().join("access.log")).unwrap()),
    ];
    for path in [
        "/config_dump?include_eds",
        "/stats",
        "/stats/prometheus",
        "/server_info",
        "/clusters",
        "/listeners",
        "/init_dump",
        "/contention",
        "/runtime",
        "/certs",
        "/memory",
    ] {
        pages.push((path.to_owned(), rig.envoy.admin(path).await.unwrap_or_default()));
    }
    for path in ["/status", "/events"] {
        let answer = Client::new(rig.envoy.admin_role_port()).get(path, &[]).await.unwrap();
        pages.push((path.to_owned(), answer.text().to_owned()));
    }
    assert!(pages[pages.len() - 1].1.contains("configuration_rejected"), "the rejection is logged");
    for answer in answers {
        pages.push(("an answer".to_owned(), format!("{:?} {}", answer.headers, answer.text())));
    }
    assert!(pages[0].1.contains("[trace][wasm]"), "the log is at trace level");
    assert!(pages[2].1.contains("OPENAI_KEY_1"), "the dump has the plugins");
    for (name, page) in pages {
        let seen = page.lines().find(|line| line.contains(MARK));
        assert_eq!(seen.map(|line| line.chars().take(2_000).collect::<String>()), None, "{name}");
    }
    assert_no_trap(&rig.envoy, "all of this").await;
}
