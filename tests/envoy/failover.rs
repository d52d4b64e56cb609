//! From a canary to stable inside one request, on a real Envoy, in both ways that there are: the route that reads the cluster
//! again (Envoy 1.39), and the canary's cluster as an aggregate of its own endpoints and stable's (any Envoy).

use std::collections::{BTreeMap, BTreeSet};

use bellwether_harness::envoy::{EnvoyOptions, Role, Route, sum_metric};
use bellwether_harness::provider::{Behaviour, Fault, Provider};
use bellwether_harness::testing::load::{eventually, outcomes};
use serde_json::{Value, json};

use crate::common::failover::{Rig, assert_canarys, assert_served, assert_stables, config, mentions};
use crate::common::rig::{another_vm, ask_all, rewrite_resource};

/// Waits until these are the counts of the deployment's counter.
async fn expect_outcomes(rig: &Rig, counter: &str, expected: &[(&str, u64)], context: &str) {
    let expected: BTreeMap<String, u64> = expected.iter().map(|(of, n)| ((*of).to_owned(), *n)).collect();
    eventually(format!("{context}: {counter} {expected:?}"), || async {
        (outcomes(&rig.envoy, counter, "d").await == expected).then_some(())
    })
    .await;
}

/// Changes the retry policy of the route that deployments take.
fn with_retries(change: impl FnOnce(&mut Value) + Send + 'static) -> EnvoyOptions {
    let edit = move |bootstrap: &mut Value| {
        let policy = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config\
                      /virtual_hosts/0/routes/0/route/retry_policy";
        change(bootstrap.pointer_mut(policy).unwrap());
    };
    EnvoyOptions { route: Route::Aggregate, edit: Some(Box::new(edit)), ..EnvoyOptions::default() }
}

fn cluster_of<'a>(bootstrap: &'a mut Value, name: &str) -> &'a mut Value {
    let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.iter_mut().find(|cluster| cluster["name"] == json!(name)).unwrap()
}

/// Has Envoy build new VMs for both roles.
async fn replace_vm(rig: &Rig) {
    for role in [Role::Router, Role::Keys] {
        rewrite_resource(&rig.envoy, role, "new-vm", |config| {
            config["vm_config"]["configuration"] = another_vm();
        });
        eventually("the new resource is in force", || async {
            let version = rig.envoy.text_stat(&role.stat("version_text")).await.unwrap()?;
            version.contains("new-vm").then_some(())
        })
        .await;
    }
}

/// With the aggregate way and a change to the endpoint that a cluster has.
fn with_endpoint(cluster: &'static str, change: impl FnOnce(&mut Value) + Send + 'static) -> EnvoyOptions {
    let edit = move |bootstrap: &mut Value| {
        change(&mut cluster_of(bootstrap, cluster)["load_assignment"]["endpoints"]);
    };
    EnvoyOptions { route: Route::Aggregate, edit: Some(Box::new(edit)), ..EnvoyOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn stable_serves_each_failure_of_a_canary_with_its_own_key_and_the_canary_is_blamed() {
    const EACH: u64 = 6;
    for way in Route::here(&Route::WITH_FAILOVER) {
        let rig = Rig::start(way, config()).await;
        // A refusal or a limit of a key goes on to another key first, as tests of `exhausted` show.
        let faults = [Fault::status(503, &[]), Fault::status(500, &[]), Fault::Reset];
        for fault in faults {
            rig.v2.set(Behaviour::failing(fault.clone()));
            for n in 0..EACH {
                let (stream, context) = (n % 2 == 0, format!("{way:?}, {fault:?}"));
                assert_served(&rig.ask(stream).await, "v1", stream, &context);
                let (at_v1, at_v2) = rig.take();
                assert_eq!((at_v1.len(), at_v2.len()), (1, 1), "{context}: one try each");
                assert_stables(&at_v1[0], &context);
                assert_canarys(&at_v2[0], &context);
            }
        }
        let context = format!("{way:?}");
        let Rig { envoy, v1, v2 } = rig;
        // Nobody listens there any more.
        drop(v2);
        for n in 0..EACH {
            let stream = n % 2 == 0;
            let answer = envoy.client().send(Rig::request(stream)).await.unwrap();
            assert_served(&answer, "v1", stream, &context);
        }
        v1.requests().iter().for_each(|received| {
            assert_stables(received, &context);
        });
        assert_eq!(v1.count(), EACH, "{context}");

        let rig = Rig { envoy, v1, v2: Provider::start("v2").await.unwrap() };
        let attempts = [("v1 good", 4 * EACH), ("v2 bad", 4 * EACH)];
        expect_outcomes(&rig, "bellwether_attempts_total", &attempts, &context).await;
        expect_outcomes(&rig, "bellwether_requests_total", &[("v1 good", 4 * EACH)], &context).await;
        let page = rig.envoy.prometheus().await.unwrap();
        let by_key = |pool: &str, outcome: &str| {
            sum_metric(&page, "bellwether_key_requests_total", &[("pool", pool), ("outcome", outcome)]) as u64
        };
        assert_eq!(by_key("stable", "good"), 4 * EACH, "{context}");
        let of_canary = ["good", "bad"].map(|of| by_key("canary", of));
        assert_eq!(of_canary, [0, 4 * EACH], "{context}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_serves_keeps_its_requests() {
    for way in Route::here(&Route::WITH_FAILOVER) {
        let (rig, context) = (Rig::start(way, config()).await, format!("{way:?}"));
        for n in 0..20 {
            assert_served(&rig.ask(n % 2 == 0).await, "v2", n % 2 == 0, &context);
        }
        let (at_v1, at_v2) = rig.take();
        assert_eq!((at_v1.len(), at_v2.len()), (0, 20), "{context}");
        at_v2.iter().for_each(|received| {
            assert_canarys(received, &context);
        });
        // A caller's mistake is no reason to try elsewhere.
        rig.v2.set(Behaviour::status(400));
        let answer = rig.ask(false).await;
        assert_eq!((answer.status, answer.version()), (400, Some("v2")), "{context}");
        assert_eq!(rig.take().0.len(), 0, "{context}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_on_the_canary_carries_another_key_of_the_canary() {
    let mut config = config();
    for inject in ["attempt", "request"] {
        for pool in config["key_pools"].as_array_mut().unwrap() {
            pool["inject"] = json!(inject);
        }
        let rig = Rig::start(Route::Aggregate, config.clone()).await;
        for provider in [&rig.v1, &rig.v2] {
            provider.set(Behaviour::status(503));
        }
        for n in 0..4 {
            // Two retries: to stable, and behind the last member comes the first.
            let answer = rig.ask(n % 2 == 0).await;
            assert_eq!((answer.status, answer.version()), (503, Some("v2")), "{inject}");
            let (at_v1, at_v2) = rig.take();
            assert_eq!((at_v1.len(), at_v2.len()), (1, 2), "{inject}");
            assert_stables(&at_v1[0], inject);
            let keys: BTreeSet<String> =
                at_v2.iter().map(|received| assert_canarys(received, inject)).collect();
            assert_eq!(keys.len(), 2, "{inject}: {keys:?}");
        }
        expect_outcomes(&rig, "bellwether_attempts_total", &[("v1 bad", 4), ("v2 bad", 8)], inject).await;
        expect_outcomes(&rig, "bellwether_requests_total", &[("v2 bad", 4)], inject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_choice_of_the_member_decides_and_not_the_failover_setting() {
    for failover in [json!(false), json!({"after": 1}), json!({"after": 2}), json!({"after": 5})] {
        let mut config = config();
        config["deployments"][0]["failover"] = failover.clone();
        // Two tries on each member before the next.
        for frequency in [1, 2] {
            let context = format!("failover {failover}, update_frequency {frequency}");
            let options = with_retries(move |policy| {
                policy["retry_priority"]["typed_config"]["update_frequency"] = json!(frequency);
            });
            let rig = Rig::with(options, config.clone()).await;
            rig.v2.set(Behaviour::status(503));
            for n in 0..4 {
                assert_served(&rig.ask(n % 2 == 0).await, "v1", n % 2 == 0, &context);
                let (at_v1, at_v2) = rig.take();
                assert_eq!((at_v1.len(), at_v2.len()), (1, frequency), "{context}");
                assert_stables(&at_v1[0], &context);
                let keys: BTreeSet<String> =
                    at_v2.iter().map(|received| assert_canarys(received, &context)).collect();
                assert_eq!(keys.len(), frequency, "{context}: a key for each try: {keys:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_without_endpoints_is_passed_over_and_blamed() {
    let options = with_endpoint("v2-only", |endpoints| *endpoints = json!([]));
    let rig = Rig::with(options, config()).await;
    for n in 0..6 {
        assert_served(&rig.ask(n % 2 == 0).await, "v1", n % 2 == 0, "no endpoints");
    }
    let (at_v1, at_v2) = rig.take();
    assert_eq!((at_v1.len(), at_v2.len()), (6, 0));
    at_v1.iter().for_each(|received| {
        assert_stables(received, "no endpoints");
    });
    let context = "no endpoints";
    expect_outcomes(&rig, "bellwether_attempts_total", &[("v1 good", 6), ("v2 bad", 6)], context).await;
    expect_outcomes(&rig, "bellwether_requests_total", &[("v1 good", 6)], context).await;
    let page = rig.envoy.prometheus().await.unwrap();
    assert_eq!(sum_metric(&page, "bellwether_key_requests_total", &[("pool", "canary")]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_an_unknown_cluster_receives_nothing() {
    let unlabelled = |endpoints: &mut Value| {
        endpoints[0]["lb_endpoints"][0].as_object_mut().unwrap().remove("metadata");
    };
    let foreign = |endpoints: &mut Value| {
        endpoints[0]["lb_endpoints"][0]["metadata"]["filter_metadata"]["bellwether"]["cluster"] = json!("v3");
    };
    for (context, options) in
        [("no label", with_endpoint("v1", unlabelled)), ("another's", with_endpoint("v1", foreign))]
    {
        let rig = Rig::with(options, config()).await;
        rig.v2.set(Behaviour::status(503));
        for n in 0..4 {
            let answer = rig.ask(n % 2 == 0).await;
            assert_eq!(answer.status, 503, "{context}");
            assert_eq!(answer.json()["error"]["code"], json!("keys_unavailable"), "{context}");
            let (at_v1, at_v2) = rig.take();
            assert_eq!((at_v1.len(), at_v2.len()), (0, 1), "{context}: the canary's key stays at home");
        }
        let refused = async || {
            rig.envoy.metric("bellwether_dropped_total", &[("what", "attempt")]).await.unwrap() == 4.0
        };
        eventually(format!("{context}: four refusals are counted"), || async {
            refused().await.then_some(())
        })
        .await;
        // The canary itself works.
        rig.v2.set(Behaviour::default());
        assert_served(&rig.ask(false).await, "v2", false, context);
        assert_canarys(&rig.take().1[0], context);
    }

    // Metadata of another kind is no label.
    let others = |endpoints: &mut Value| {
        let metadata = json!({"filter_metadata": {"envoy.lb": {"canary": true}, "bellwether": {}}});
        endpoints[0]["lb_endpoints"][0]["metadata"] = metadata;
    };
    let rig = Rig::with(with_endpoint("v2-only", others), config()).await;
    assert_served(&rig.ask(false).await, "v2", false, "other metadata");
    rig.v2.set(Behaviour::status(503));
    assert_served(&rig.ask(false).await, "v1", false, "other metadata");
    assert_stables(&rig.take().0[0], "other metadata");

    // To tell the two apart, stable's label is enough.
    let rig = Rig::with(with_endpoint("v2-only", unlabelled), config()).await;
    rig.v2.set(Behaviour::status(503));
    assert_served(&rig.ask(false).await, "v1", false, "only stable's label");
    let (at_v1, at_v2) = rig.take();
    assert_stables(&at_v1[0], "only stable's label");
    assert_canarys(&at_v2[0], "only stable's label");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_meets_another_vm_takes_no_key_to_another_provider() {
    for way in Route::here(&Route::WITH_FAILOVER) {
        let rig = Rig::start(way, config()).await;
        rig.v2.set(Behaviour::failing(Fault::Hang));
        let client = rig.envoy.client();
        let asked = tokio::spawn(async move { client.send(Rig::request(false)).await.unwrap() });
        eventually("the first try", || async { (rig.v2.count() == 1).then_some(()) }).await;
        rig.v2.set(Behaviour::default());
        replace_vm(&rig).await;
        // Connections of their own, on both workers: these have taken the update by then.
        for _ in 0..16 {
            assert_served(&rig.ask(false).await, "v2", false, "a new request in the new VM");
        }
        let Rig { envoy, v1, v2 } = rig;
        assert_eq!((v1.count(), v2.count()), (0, 17), "{way:?}");
        // Its connections are reset: Envoy tries again, and the new VM knows nothing of the first try.
        drop(v2);
        let answer = asked.await.unwrap();
        let at_v1 = v1.requests();
        assert!(!at_v1.iter().any(|received| mentions(received, "canary")), "{way:?}: {at_v1:?}");
        assert_eq!((answer.status, at_v1.len()), (503, 0), "{way:?}: {}", answer.text());
        let refused = envoy.metric("bellwether_dropped_total", &[("what", "attempt")]).await.unwrap();
        assert_eq!(refused, 1.0, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_returns_in_another_vm_takes_no_key_of_stable_to_the_canary() {
    let rig = Rig::start(Route::Aggregate, config()).await;
    rig.v2.set(Behaviour::status(503));
    rig.v1.set(Behaviour::failing(Fault::Hang));
    let client = rig.envoy.client();
    let asked = tokio::spawn(async move { client.send(Rig::request(false)).await.unwrap() });
    eventually("the second try", || async { (rig.v1.count() == 1).then_some(()) }).await;
    rig.v2.set(Behaviour::default());
    replace_vm(&rig).await;
    for _ in 0..16 {
        assert_served(&rig.ask(false).await, "v2", false, "a new request in the new VM");
    }
    let Rig { envoy, v1, v2 } = rig;
    assert_stables(&v1.requests()[0], "in the old VM");
    drop(v1);
    let answer = asked.await.unwrap();
    v2.requests().iter().for_each(|received| {
        assert_canarys(received, "in either VM");
    });
    assert_eq!((answer.status, v2.count()), (503, 17), "{}", answer.text());
    let refused = envoy.metric("bellwether_dropped_total", &[("what", "attempt")]).await.unwrap();
    assert_eq!(refused, 1.0);
}

/// An attempt begins, most often, in the very callback in which the router has seen its request; a filter between the two that
/// waits for something has other requests come in between, and attempts of those.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_find_their_requests_among_interleaved_others() {
    const REQUESTS: usize = 400;
    let held_up = |bootstrap: &mut Value| {
        let manager = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
        let filters = manager["typed_config"]["http_filters"].as_array_mut().unwrap();
        let last = filters.len() - 1;
        filters.insert(
            last,
            json!({"name": "envoy.filters.http.fault", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "delay": {"header_delay": {}, "percentage": {"numerator": 100}},
            }}),
        );
    };
    let mut config = config();
    for version in config["deployments"][0]["versions"].as_array_mut().unwrap() {
        version["weight"] = json!(50);
    }
    let options = EnvoyOptions {
        route: Route::Aggregate,
        concurrency: 1,
        edit: Some(Box::new(held_up)),
        ..EnvoyOptions::default()
    };
    let rig = Rig::with(options, config).await;
    rig.v2.set(Behaviour { fault: Some(Fault::status(503, &[])), ..Behaviour::default() });
    let request = |n: usize| {
        let request = Rig::request(n.is_multiple_of(5));
        // Every third one is not held up, the others for so long that their order is another one.
        match n % 3 {
            0 => request,
            _ => request.header("x-envoy-fault-delay-request", &(1 + n * 7 % 40).to_string()),
        }
    };
    let answers = ask_all(&rig.envoy.client(), REQUESTS, request).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_served(answer, "v1", n.is_multiple_of(5), &n.to_string());
    }
    let (stables, canarys) = rig.take();
    stables.iter().for_each(|received| drop(assert_stables(received, "stable's provider")));
    canarys.iter().for_each(|received| drop(assert_canarys(received, "the canary's")));
    assert_eq!(stables.len(), REQUESTS);
    assert!((100..300).contains(&canarys.len()), "{} attempts of the canary", canarys.len());
    let (good, bad) = (REQUESTS as u64, canarys.len() as u64);
    expect_outcomes(&rig, "bellwether_attempts_total", &[("v1 good", good), ("v2 bad", bad)], "each once")
        .await;
    let dropped = rig.envoy.metric("bellwether_dropped_total", &[]).await.unwrap();
    assert_eq!(dropped, 0.0);
}
