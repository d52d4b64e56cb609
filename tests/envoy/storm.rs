//! Envoy itself in trouble, under load: its configuration files broken, half-written and swapped faster than anybody reads
//! them, and its process killed.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, sum_metric};
use bellwether_harness::load::Sample;
use bellwether_harness::provider::{Behaviour, Provider};
use bellwether_harness::testing::load::{Lanes, Load, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::common::chaos::{Counts, all_ok, at_rest, burst, config, counts, nothing_in_flight};

const BURST: u64 = 60;

/// The directory that Envoy watches, and the two resources as they were when it started.
struct Files {
    directory: PathBuf,
    router: Value,
    keys: Value,
}

impl Files {
    fn of(envoy: &EnvoyProcess) -> Files {
        let directory = envoy.directory().join("ecds");
        let read = |name: &str| serde_json::from_slice(&fs::read(directory.join(name)).unwrap()).unwrap();
        Files { router: read("router.yaml"), keys: read("keys.yaml"), directory }
    }

    /// A role's resource with this document and version.
    fn resource(&self, role: Role, document: &Value, version: &str) -> String {
        let mut resource = if role == Role::Router { self.router.clone() } else { self.keys.clone() };
        resource["version_info"] = json!(version);
        let text =
            resource.pointer_mut("/resources/0/typed_config/config/configuration/secret/inline_string");
        *text.unwrap() = json!(document.to_string());
        resource.to_string()
    }

    fn path(&self, role: Role) -> PathBuf {
        self.directory.join(if role == Role::Router { "router.yaml" } else { "keys.yaml" })
    }

    /// Renames this text into a role's place.
    fn swap(&self, role: Role, text: &str) {
        let new = self.path(role).with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(role)).unwrap();
    }
}

/// [`config`] with this weight of the canary.
fn weighing(canary: u64) -> Value {
    let mut config = config(Value::Null);
    let versions = &mut config["deployments"][0]["versions"];
    (versions[0]["weight"], versions[1]["weight"]) = (json!(100 - canary), json!(canary));
    config
}

async fn in_force(envoy: &EnvoyProcess, role: Role, version: &str) {
    eventually(format!("{role:?} {version} is in force"), || async {
        (envoy.text_stat(&role.stat("version_text")).await.unwrap()? == version).then_some(())
    })
    .await;
}

/// Waits until the canary's provider gets everything, or nothing.
async fn all_to(which: &Provider, other: &Provider, lanes: &Lanes) {
    eventually(format!("everything goes to {}", which.name()), || async {
        let before = other.count();
        let samples = burst(lanes, 16, |_| Request::chat(false)).await;
        all_ok(&samples, "a change of weights");
        (other.count() == before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_files_broken_and_swapped_in_a_storm_lose_no_request_and_the_last_valid_one_serves() {
    let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
    let options = EnvoyOptions::default().cluster("v1", v1.port()).cluster("v2", v2.port());
    let envoy = EnvoyProcess::start(options.router_config(weighing(0))).await.unwrap();
    let lanes = Lanes::open(&envoy).await;
    let files = Files::of(&envoy);
    let first = Counts::since(&Counts::default(), &envoy, lanes.count()).await;
    let load = Load::start(&lanes, 200.0, |n| Request::chat(n % 4 == 0));
    let mut sent = 0;

    // A file written in place, a piece at a time: Envoy does not read it. Half of a file renamed into place: Envoy reads
    // it and keeps its former configuration. The whole file: Envoy takes it.
    let whole = files.resource(Role::Router, &weighing(100), "whole");
    for part in 1..10 {
        fs::write(files.path(Role::Router), &whole[..whole.len() * part / 10]).unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    all_to(&v1, &v2, &lanes).await;
    let failures = envoy.stat(&Role::Router.stat("update_failure")).await.unwrap().unwrap_or(0);
    files.swap(Role::Router, &whole[..whole.len() / 2]);
    eventually("Envoy reads half of a file", || async {
        let now = envoy.stat(&Role::Router.stat("update_failure")).await.unwrap().unwrap_or(0);
        (now > failures).then_some(())
    })
    .await;
    all_to(&v1, &v2, &lanes).await;
    files.swap(Role::Router, &whole);
    in_force(&envoy, Role::Router, "whole").await;
    all_to(&v2, &v1, &lanes).await;

    // Two hundred renames of both roles in about two seconds, among them documents that are wrong, cut off, empty, and of the
    // wrong role. Wrong ones differ: Envoy does not look twice at the same.
    let began = Instant::now();
    for n in 0..200u64 {
        let version = format!("storm-{n}");
        let role = if n % 5 == 4 { Role::Keys } else { Role::Router };
        let valid =
            if role == Role::Router { weighing(n % 21 * 5) } else { json!({"secrets": {"n": version}}) };
        let text = match n % 7 {
            0 => files.resource(role, &json!({"no": {"such": {"field": n}}}), &version),
            2 => files.resource(role, &valid, &version)[..100 + n as usize].to_owned(),
            4 => String::new(),
            6 => json!({"version_info": version, "resources": []}).to_string(),
            _ => files.resource(role, &valid, &version),
        };
        files.swap(role, &text);
        sleep(Duration::from_millis(10)).await;
    }
    println!("200 renames in {:?}", began.elapsed());
    files.swap(Role::Router, &files.resource(Role::Router, &weighing(0), "last-valid"));
    files.swap(Role::Keys, &files.resource(Role::Keys, &json!({}), "last-valid"));
    in_force(&envoy, Role::Router, "last-valid").await;
    in_force(&envoy, Role::Keys, "last-valid").await;
    let rejected = |role: Role| {
        let envoy = &envoy;
        async move {
            let stat = async |name| envoy.stat(&role.stat(name)).await.unwrap().unwrap_or(0);
            stat("update_rejected").await + stat("update_failure").await
        }
    };
    for n in 0..10 {
        for role in [Role::Router, Role::Keys] {
            let before = rejected(role).await;
            // A document of no role, or of the other role.
            let document = match role {
                _ if n % 2 == 0 => json!({"wrong": n}),
                Role::Router => json!({"secrets": {"n": n.to_string()}}),
                Role::Keys | Role::Admin => weighing(n),
            };
            files.swap(role, &files.resource(role, &document, "wrong"));
            eventually("it is rejected", || async { (rejected(role).await > before).then_some(()) }).await;
        }
    }
    all_to(&v1, &v2, &lanes).await;
    let samples = load.stop().await;
    all_ok(&samples, "a storm");
    sent += samples.len() as u64;

    // The roles still know each other: a canary that fails costs nobody anything.
    files.swap(Role::Router, &files.resource(Role::Router, &weighing(100), "after"));
    in_force(&envoy, Role::Router, "after").await;
    all_to(&v2, &v1, &lanes).await;
    v2.set(Behaviour::status(500));
    all_ok(&burst(&lanes, BURST, |_| Request::chat(false)).await, "failover after a storm");
    sent += BURST;
    let counted = Counts::since(&first, &envoy, sent).await;
    // Besides the load there were the looks at where everything goes.
    let all: u64 = counted.requests.values().sum();
    assert_eq!(all, counted.requests["v1 good"] + counted.requests["v2 good"], "{counted:?}");
    assert_eq!((all - sent) % 16, 0, "{all} requests are counted, {sent} and some bursts of 16 were sent");
    assert_eq!(counted.attempts["v1 good"] + lanes.count(), v1.count(), "{counted:?}");
    assert_eq!(counted.attempts["v2 good"] + counted.attempts["v2 bad"], v2.count(), "{counted:?}");
    at_rest(&envoy, 0, "a storm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_envoy_restarts_with_its_files_and_decides_anew() {
    let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
    v2.set(Behaviour::status(500));
    let guard = json!({"max_consecutive_errors": 5, "compare": false});
    let options = EnvoyOptions::default().cluster("v1", v1.port()).cluster("v2", v2.port());
    let mut envoy = EnvoyProcess::start(options.router_config(config(guard.clone()))).await.unwrap();
    let lanes = Lanes::open(&envoy).await;
    let load = Load::start(&lanes, 200.0, |n| Request::chat(n % 4 == 0));
    let mut down: Vec<(Instant, Instant)> = Vec::new();
    for life in 0..2 {
        eventually(format!("a rollback in life {life}"), || async {
            let page = envoy.prometheus().await.ok()?;
            let phase = sum_metric(&page, "bellwether_phase", &[("deployment", "d")]);
            let rollbacks = sum_metric(&page, "bellwether_rollbacks_total", &[("deployment", "d")]);
            (phase == 3.0 && rollbacks == 1.0).then_some(())
        })
        .await;
        let before = Instant::now();
        let kept = envoy.crash().unwrap();
        // The operator does not wait for it.
        let files = Files::of(&envoy);
        let mut renamed = config(guard.clone());
        renamed["deployments"][0]["versions"][0]["set_headers"] = json!({"x-life": life.to_string()});
        files.swap(Role::Router, &files.resource(Role::Router, &renamed, &format!("life-{life}")));
        envoy.restart(kept).await.unwrap();
        down.push((before, Instant::now()));
        in_force(&envoy, Role::Router, &format!("life-{life}")).await;
        let wanted = life.to_string();
        eventually("the new configuration serves", || async {
            (v1.requests().last()?.header("x-life")? == wanted).then_some(())
        })
        .await;
    }
    // In its last life: as if nothing had been.
    eventually("a rollback in the last life", || async {
        let page = envoy.prometheus().await.ok()?;
        (sum_metric(&page, "bellwether_phase", &[("deployment", "d")]) == 3.0).then_some(())
    })
    .await;
    let samples = load.stop().await;
    let lost: Vec<&Sample> = samples.iter().filter(|sample| !sample.ok()).collect();
    let in_vain = |sample: &&&Sample| {
        down.iter().any(|(from, to)| sample.finished_at >= *from && sample.sent_at <= *to)
    };
    let unexplained: Vec<_> = lost.iter().filter(|sample| !in_vain(sample)).collect();
    assert!(unexplained.is_empty(), "lost while Envoy was up: {unexplained:#?}");
    assert!(lost.iter().all(|sample| sample.result.is_err()), "each of these got no answer: {lost:#?}");
    println!("{} requests, {} lost in two crashes", samples.len(), lost.len());

    nothing_in_flight(&envoy, "two crashes").await;
    let before = Counts::of(&envoy).await;
    let (received, canarys) = (v1.count(), v2.count());
    all_ok(&burst(&lanes, BURST, |_| Request::chat(false)).await, "two crashes");
    let counted = Counts::since(&before, &envoy, BURST).await;
    let expected = counts(&[("v1 good", BURST)]);
    assert_eq!(counted, Counts { requests: expected.clone(), attempts: expected });
    assert_eq!((v1.count() - received, v2.count() - canarys), (BURST, 0));
    at_rest(&envoy, 3, "two crashes").await;
}
