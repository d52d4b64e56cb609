//! The relabelling rules for Istio's gateways: their metrics have the labels in their names, and Prometheus restores
//! them.

use std::collections::BTreeSet;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, router_config};
use bellwether_harness::prometheus::Prometheus;
use bellwether_harness::provider::{Behaviour, Provider};
use bellwether_harness::testing::load::eventually;
use serde_json::json;

use crate::shipped::{GUIDE, text, yaml};

/// Requests that go to the canary, each tried there once.
const FORCED: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn labels_in_the_names_of_metrics_become_labels_again() {
    let (openai, relay) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
    relay.set(Behaviour::status(500));
    // A dozen failures roll back, for as long as this test lasts.
    let mut config = router_config().unwrap();
    config["deployments"][0]["guard"]["max_consecutive_errors"] = json!(5);
    config["deployments"][0]["recovery"] = json!({"mode": "hold"});
    let mut options = EnvoyOptions::default().cluster("openai", openai.port()).cluster("relay", relay.port());
    options.router_config = Some(config);
    options.edit = Some(Box::new(|bootstrap| {
        bootstrap["stats_config"].as_object_mut().expect("the sample has it").remove("stats_tags");
    }));
    let envoy = EnvoyProcess::start(options).await.unwrap();
    for _ in 0..FORCED {
        envoy.client().send(Request::chat(false).header("x-test-version", "v2")).await.unwrap();
    }
    let page = envoy.prometheus().await.unwrap();
    assert!(page.contains("bellwether_weight_deployment_gpt4_upgrade_version_v2{} "), "{page}");

    let relabel = yaml("envoy/kubernetes/istio-relabel.yaml");
    let job = json!({
        "job_name": "istio", "metrics_path": "/stats/prometheus", "scrape_interval": "1s",
        "static_configs": [{"targets": [format!("127.0.0.1:{}", envoy.admin_port())]}],
        "metric_relabel_configs": relabel["metric_relabel_configs"],
    });
    let prometheus = Prometheus::start(&json!({"scrape_configs": [job]}), &[]).await.unwrap();
    let value = async |expression: &str| {
        let found = prometheus.query(expression).await.ok()?;
        (found.len() == 1).then(|| found[0].value)
    };
    let canary = r#"deployment="gpt4_upgrade",version="v2""#;
    for (expression, wanted) in [
        (r#"bellwether_phase{deployment="gpt4_upgrade"}"#.to_owned(), 3.0),
        (format!(r#"bellwether_attempts_total{{{canary},outcome="bad"}}"#), FORCED as f64),
        (format!("sum(bellwether_rollbacks_total{{{canary}}}) by (deployment)"), 1.0),
        (r#"bellwether_weight{deployment="gpt4_upgrade",version="v1"}"#.to_owned(), 10_000.0),
        (r#"bellwether_key_status{pool="openai",key="openai_1"}"#.to_owned(), 0.0),
        (
            r#"sum(bellwether_key_requests_total{pool="relay",key="relay_1",outcome="bad"})"#.to_owned(),
            FORCED as f64,
        ),
        (r#"bellwether_config_updates_total{result="accepted"}"#.to_owned(), 1.0),
        (
            r#"bellwether_latency_ms_bucket{deployment="gpt4_upgrade",version="v1",le="+Inf"}"#.to_owned(),
            FORCED as f64,
        ),
        (r#"bellwether_latency_ms_count{deployment="gpt4_upgrade",version="v1"}"#.to_owned(), FORCED as f64),
    ] {
        eventually(format!("{expression} is {wanted}\n{page}"), || async {
            (value(&expression).await == Some(wanted)).then_some(())
        })
        .await;
    }
    let names: BTreeSet<String> = prometheus
        .query(r#"count by (__name__) ({__name__=~"bellwether_.+"})"#)
        .await
        .unwrap()
        .iter()
        .map(|series| series.label("__name__").to_owned())
        .collect();
    let guide = text(GUIDE);
    for name in names {
        let base = ["_bucket", "_sum", "_count"].iter().fold(name.as_str(), |n, s| n.trim_end_matches(s));
        assert!(guide.contains(&format!("`{base}`")), "{name} is no metric of ours: a label is left in it");
    }
    assert_eq!(prometheus.query(r#"{__tmp_kind!=""}"#).await.unwrap(), Vec::new());
}
