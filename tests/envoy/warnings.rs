//! Silent losses are loud, on a real Envoy with two workers: in the log, in the events, in the status and in the metrics. And
//! gauges end with what they are about.

use std::time::{Duration, Instant};

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, Route, wasm_path};
use bellwether_harness::provider::Behaviour;
use bellwether_harness::testing::load::{eventually, without_retries};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::common::rig::{Rig, another_vm, ask_all, canary_at, rewrite_resource};

/// A warning that nobody holds any more has ended after this, and a little.
const ENDED: Duration = Duration::from_millis(6500);

async fn document(envoy: &EnvoyProcess, path: &str) -> Value {
    // A worker that was configured a moment ago may not have its router yet.
    eventually(format!("GET {path}"), || async {
        let answer = Client::new(envoy.admin_role_port()).get(path, &[]).await.unwrap();
        (answer.status == 200).then(|| answer.json())
    })
    .await
}

/// The warnings of the status about this condition.
async fn standing(envoy: &EnvoyProcess, what: &str) -> Vec<Value> {
    let status = document(envoy, "/status").await;
    let all = status["warnings"].as_array().unwrap_or_else(|| panic!("no warnings in {status}"));
    all.iter().filter(|warning| warning["what"] == what).cloned().collect()
}

/// Waits until one warning about this condition stands everywhere. Returns it.
async fn warned(envoy: &EnvoyProcess, what: &str) -> Value {
    let warning = eventually(format!("a warning {what}\n{}", envoy.log_tail()), || async {
        standing(envoy, what).await.pop()
    })
    .await;
    eventually(format!("the gauge of {what}"), || async {
        (envoy.metric("bellwether_warning", &[("what", what)]).await.unwrap() == 1.0).then_some(())
    })
    .await;
    let said = |line: &&str| line.contains(r#"{"bellwether":"warning""#) && line.contains(what);
    let logs = envoy.logs();
    let lines: Vec<&str> = logs.lines().filter(said).collect();
    assert_eq!(lines.len(), 1, "once, by all workers together: {lines:#?}");
    let events = document(envoy, "/events").await;
    let kept: Vec<&Value> =
        events["events"].as_array().unwrap().iter().filter(|event| event["what"] == what).collect();
    let [event] = kept[..] else { panic!("{what}: {events}") };
    for member in ["deployment", "version", "text"] {
        assert_eq!(event[member], warning[member], "{what}");
    }
    warning
}

/// Waits until no warning about this condition stands any more.
async fn ended(envoy: &EnvoyProcess, what: &str) {
    eventually(format!("the end of {what}"), || async {
        let shown = envoy.metric("bellwether_warning", &[("what", what)]).await.unwrap();
        (shown == 0.0 && standing(envoy, what).await.is_empty()).then_some(())
    })
    .await;
}

/// `canary_at`, with two keys for the canary.
fn with_two_keys() -> Value {
    let mut config = canary_at(50.0);
    config["deployments"][0]["versions"][1]["key_pool"] = json!("pool");
    config["key_pools"] =
        json!([{"name": "pool", "keys": [{"id": "a", "value": "sk-a"}, {"id": "b", "value": "sk-b"}]}]);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_keys_role_is_told_where_the_configuration_needs_one() {
    // There is none; or there is one, and its vm_config differs by a name.
    for absent in [true, false] {
        let options = EnvoyOptions { keys_role: !absent, ..EnvoyOptions::default() };
        let rig = Rig::start(options.router_config(with_two_keys())).await;
        if !absent {
            rewrite_resource(&rig.envoy, Role::Keys, "astray", |config| {
                config["vm_config"]["configuration"] = another_vm();
            });
        }
        let warning = warned(&rig.envoy, "keys_role_missing").await;
        assert_eq!(warning["deployment"], Value::Null, "{warning}");
        let text = warning["text"].as_str().unwrap();
        assert!(text.contains("a retry takes no other key of pool pool"), "{text}");
        assert!(text.contains("a failed request of test does not go on to stable"), "{text}");
        // Nothing is missed where nothing needs it.
        let mut content = with_two_keys();
        content["deployments"][0]["failover"] = json!(false);
        content["key_pools"][0]["inject"] = json!("request");
        rig.reconfigure(&content).await;
        ended(&rig.envoy, "keys_role_missing").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_role_in_its_place_is_not_missed() {
    let rig = Rig::configured(with_two_keys()).await;
    sleep(Duration::from_secs(13)).await;
    let all = document(&rig.envoy, "/status").await["warnings"].clone();
    assert_eq!(all, json!([]));
    assert_eq!(rig.envoy.metric("bellwether_warning", &[]).await.unwrap(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deployment_in_two_documents_is_told() {
    let module = wasm_path().unwrap().canonicalize().unwrap();
    let document = canary_at(30.0);
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
                "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": document.to_string()},
            },
        }});
        listeners.push(listener);
    };
    let options = EnvoyOptions { edit: Some(Box::new(second)), ..EnvoyOptions::default() };
    let rig = Rig::start(options.router_config(canary_at(50.0))).await;
    let warning = warned(&rig.envoy, "duplicate_deployment").await;
    assert_eq!(warning["deployment"], "test");
    let text = warning["text"].as_str().unwrap();
    assert!(text.contains("bellwether-router") && text.contains("second"), "{text}");
    let mut renamed = canary_at(50.0);
    renamed["deployments"][0]["name"] = json!("another");
    rig.reconfigure(&renamed).await;
    ended(&rig.envoy, "duplicate_deployment").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_looks_like_a_fraction_is_taken_and_told() {
    let mut config = canary_at(50.0);
    config["deployments"][0]["guard"] = json!({"max_error_rate": 0.05});
    let rig = Rig::configured(config.clone()).await;
    let warning = warned(&rig.envoy, "low_error_rate").await;
    assert_eq!((&warning["deployment"], &warning["version"]), (&json!("test"), &Value::Null));
    // A reload that changes nothing about it says nothing again.
    config["deployments"][0]["guard"]["window"] = json!("10s");
    rig.reconfigure(&config).await;
    sleep(ENDED).await;
    warned(&rig.envoy, "low_error_rate").await;
    config["deployments"][0]["guard"] = json!({"max_error_rate": 5});
    rig.reconfigure(&config).await;
    ended(&rig.envoy, "low_error_rate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_cannot_fire_at_the_traffic_seen_is_told() {
    let mut config = canary_at(50.0);
    config["deployments"][0]["guard"] =
        json!({"compare": false, "max_error_rate": 5, "window": "2s", "min_requests": 1000});
    let rig = Rig::configured(config).await;
    let client = rig.envoy.client();
    let traffic = tokio::spawn(async move {
        loop {
            client.send(Request::chat(false)).await.unwrap();
            sleep(Duration::from_millis(50)).await;
        }
    });
    // Traffic is watched for half a minute first.
    sleep(Duration::from_secs(28)).await;
    let warning = warned(&rig.envoy, "guard_cannot_fire").await;
    traffic.abort();
    assert_eq!((&warning["deployment"], &warning["version"]), (&json!("test"), &json!("v2")));
    let text = warning["text"].as_str().unwrap();
    assert!(text.contains("in 2s") && text.contains("1000 (min_requests)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_breaker_of_a_canary_is_told() {
    let edit = |bootstrap: &mut Value| {
        without_retries(bootstrap);
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
        let relay = clusters.iter_mut().find(|cluster| cluster["name"] == "relay").unwrap();
        relay["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    };
    let options =
        EnvoyOptions { route: Route::ClusterHeader, edit: Some(Box::new(edit)), ..EnvoyOptions::default() };
    let mut config = canary_at(50.0);
    config["deployments"][0]["failover"] = json!(false);
    let rig = Rig::start(options.router_config(config)).await;
    let answers = ask_all(&rig.envoy.client(), 60, |_| Request::chat(false)).await;
    let refused = answers.iter().filter(|answer| answer.status == 503).count();
    assert!((10..50).contains(&refused), "{refused} of 60");
    let warning = warned(&rig.envoy, "breaker_open").await;
    assert_eq!((&warning["deployment"], &warning["version"]), (&json!("test"), &json!("v2")));
    assert!(warning["text"].as_str().unwrap().contains("cluster relay"), "{warning}");
    let labels = [("what", "breaker_open"), ("deployment", "test"), ("version", "v2")];
    assert_eq!(rig.envoy.metric("bellwether_warning", &labels).await.unwrap(), 1.0);
    // The version is gone, and with it its warning.
    rig.reconfigure(&json!({"deployments": [{
        "name": "test", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "openai"}],
    }]}))
    .await;
    ended(&rig.envoy, "breaker_open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_a_canarys_circuit_breaker_would_refuse_go_to_stable() {
    let edit = |bootstrap: &mut Value| {
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
        let relay = clusters.iter_mut().find(|cluster| cluster["name"] == "relay").unwrap();
        relay["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    };
    let mut config = canary_at(50.0);
    config["deployments"][0]["rules"] =
        json!([{"headers": [{"name": "x-test", "present": true}], "version": "v2"}]);
    let options =
        EnvoyOptions { route: Route::ClusterHeader, edit: Some(Box::new(edit)), ..EnvoyOptions::default() };
    let rig = Rig::start(options.router_config(config)).await;
    let client = rig.envoy.client();
    let began = Instant::now();
    let mut refused = 0;
    for _ in 0..100 {
        let answer = client.send(Request::chat(false)).await.unwrap();
        match answer.status {
            503 => refused += 1,
            status => assert_eq!((status, answer.version()), (200, Some("v1"))),
        }
        sleep(Duration::from_millis(20)).await;
    }
    // Each worker finds out once a second.
    let most = 2 * (began.elapsed().as_secs() + 1);
    assert!((1..=most).contains(&refused), "{refused} of 100, at most {most}");
    // Who asks for the canary gets its answer.
    let forced = client.send(Request::chat(false).header("x-test", "1")).await.unwrap();
    assert_eq!(forced.status, 503);
    warned(&rig.envoy, "breaker_open").await;
}

/// The gauges of the filter that are not 0, without those of the process.
async fn gauges(envoy: &EnvoyProcess) -> Vec<String> {
    let page = envoy.prometheus().await.unwrap();
    let ours = ["phase", "evidence", "weight", "key_status", "pool_without_keys"];
    let of_us = |line: &&str| ours.iter().any(|name| line.starts_with(&format!("bellwether_{name}{{")));
    let mut lines: Vec<String> =
        page.lines().filter(of_us).filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// A deployment that is rolled back and has a pool without keys, beside one that stays.
fn in_trouble() -> Value {
    let mut config = canary_at(40.0);
    let mut stays = config["deployments"][0].clone();
    stays["name"] = json!("stays");
    stays["match"] = json!({"path_prefix": "/stays/"});
    stays["versions"] = json!([
        {"id": "v1", "weight": 70, "cluster": "openai"},
        {"id": "gpt-4.1", "weight": 20, "cluster": "openai"},
        {"id": "v3", "weight": 10, "cluster": "openai"},
    ]);
    config["deployments"].as_array_mut().unwrap().insert(0, stays);
    let goes = &mut config["deployments"][1];
    goes["guard"] = json!({"compare": false, "max_consecutive_errors": 3});
    goes["failover"] = json!(false);
    goes["versions"][0]["key_pool"] = json!("spent");
    let key = |id: &str| json!({"id": id, "value": format!("sk-{id}")});
    config["key_pools"] = json!([
        {"name": "spent", "keys": [key("only")], "rejected": {"after": 1, "disable_for": "1h"}},
    ]);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_end_with_the_deployment_version_pool_and_key_that_they_are_about() {
    // By a reload; and together with a new module, whose VMs know nothing of the old ones'.
    for new_vm in [false, true] {
        let rig = Rig::start(
            EnvoyOptions { edit: Some(Box::new(without_retries)), ..EnvoyOptions::default() }
                .router_config(in_trouble()),
        )
        .await;
        rig.relay.set(Behaviour::status(500));
        rig.openai.set(Behaviour::default().key("sk-only", 429, &[("retry-after", "300")]));
        ask_all(&rig.envoy.client(), 40, |_| Request::chat(false)).await;
        let trouble = [
            "bellwether_evidence{deployment=\"test\"} 100",
            "bellwether_key_status{pool=\"spent\",key=\"only\"} 1",
            "bellwether_phase{deployment=\"test\"} 3",
            "bellwether_pool_without_keys{pool=\"spent\"} 1",
            "bellwether_weight{deployment=\"stays\",version=\"gpt-4_1\"} 2000",
            "bellwether_weight{deployment=\"stays\",version=\"v1\"} 7000",
            "bellwether_weight{deployment=\"stays\",version=\"v3\"} 1000",
            "bellwether_weight{deployment=\"test\",version=\"v1\"} 10000",
        ];
        eventually("a rollback and a spent pool", || async {
            (gauges(&rig.envoy).await == trouble).then_some(())
        })
        .await;

        // A deployment, its pool, and a version that has weight are gone.
        let mut after = in_trouble();
        after["deployments"].as_array_mut().unwrap().truncate(1);
        after["key_pools"] = json!([]);
        after["deployments"][0]["versions"].as_array_mut().unwrap().pop();
        after["deployments"][0]["versions"][0]["weight"] = json!(80);
        if new_vm {
            rig.envoy.write_router_config(&after).await.unwrap();
            rewrite_resource(&rig.envoy, Role::Router, "new", |config| {
                config["vm_config"]["configuration"] = another_vm();
            });
        } else {
            rig.reconfigure(&after).await;
        }
        let left = [
            "bellwether_weight{deployment=\"stays\",version=\"gpt-4_1\"} 2000",
            "bellwether_weight{deployment=\"stays\",version=\"v1\"} 8000",
        ];
        eventually(format!("only the gauges of what is left, new VM: {new_vm}"), || async {
            let shown = gauges(&rig.envoy).await;
            (shown == left).then_some(())
        })
        .await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(gauges(&rig.envoy).await, left, "no worker writes them again");

        // The former document comes back, and with it the gauges, whatever has become of the rollback meanwhile.
        if !new_vm {
            rig.reconfigure(&in_trouble()).await;
            eventually("the gauges are back", || async {
                let shown = gauges(&rig.envoy).await;
                let weight =
                    |version: &str| format!("bellwether_weight{{deployment=\"{version}\",version=\"v");
                ["test", "stays"]
                    .iter()
                    .all(|name| shown.iter().any(|line| line.starts_with(&weight(name))))
                    .then_some(())
            })
            .await;
        }
    }
}
