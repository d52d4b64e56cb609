//! Everything that can be watched happens to a real Envoy, and a real Prometheus with the shipped rules sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess};
use bellwether_harness::load::Sample as Sent;
use bellwether_harness::prometheus::{Prometheus, Sample};
use bellwether_harness::provider::{Behaviour, Latency, Provider};
use bellwether_harness::testing::load::{DEPLOYMENT, Lanes, Load, chat, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::shipped::{alerts, grouped_by, guide_queries, queries, selectors, string, yaml};

/// Nothing listens there.
const NOBODY: &str = "127.0.0.1:1";

/// The cluster that refuses every request.
const NARROW: &str = "narrow";

/// Longer than the scenario: rates over it see all that was scraped.
const RANGE: &str = "5m";

/// Requests a second, and for how long: the tail of the healthy versions takes a few thousand.
const RATE: f64 = 150.0;
const TIME: Duration = Duration::from_secs(24);

/// The canary of `healthy`: its share of the traffic in percent, and of its attempts that fail.
const SHARE: u32 = 20;
const FAILING: f64 = 0.1;

/// A deployment of a stable version on one cluster and a canary on another.
fn deployment(name: &str, clusters: [&str; 2], share: u32, guard: Value) -> Value {
    json!({
        "name": name,
        "match": {"headers": [{"name": DEPLOYMENT, "exact": name}]},
        "stable": "v1",
        "versions": [
            {"id": "v1", "weight": 100 - share, "cluster": clusters[0]},
            {"id": "v2", "weight": share, "cluster": clusters[1]},
        ],
        "guard": guard,
    })
}

/// Each deployment is in another state; `healthy` must raise no alert.
fn config() -> Value {
    let mut healthy =
        deployment("healthy", ["h1", "h2"], SHARE, json!({"compare": false, "max_error_rate": 50}));
    healthy["failover"] = json!(false);
    for version in [0, 1] {
        healthy["versions"][version]["key_pool"] = json!("main");
    }
    let broken = json!({"compare": false, "max_consecutive_errors": 5});
    // A rate that looks like a fraction is a warning.
    let watched =
        json!({"mode": "observe", "compare": false, "max_errors": 3, "max_error_rate": 0.05, "window": "1h"});
    let outage = json!({"compare": false, "window": "5m", "min_requests": 10, "max_error_rate": 5});
    let mut outage = deployment("outage", ["bad", "bad"], 50, outage);
    outage["failover"] = json!(false);
    let mut starved = deployment("starved", ["good", "good"], 50, json!({"compare": false}));
    starved["versions"][1]["key_pool"] = json!("spent");
    // The circuit breaker of its canary's cluster is always open. All requests go there by a rule, so nobody expects attempts of
    // its versions.
    let mut narrow = deployment("narrow", ["good", NARROW], 0, json!({"compare": false}));
    let to_canary = json!({"name": DEPLOYMENT, "exact": "narrow"});
    narrow["rules"] = json!([{"headers": [to_canary], "version": "v2"}]);
    json!({
        "deployments": [
            healthy,
            deployment("broken", ["good", "bad"], 50, broken),
            deployment("watched", ["good", "bad"], 50, watched),
            outage,
            starved,
            narrow,
        ],
        "key_pools": [
            {"name": "main", "keys": [
                {"id": "works", "value": "sk-works"},
                {"id": "limited", "value": "sk-limited"},
                {"id": "refused", "value": "sk-refused"},
            ]},
            {"name": "spent", "keys": [{"id": "only", "value": "sk-spent"}]},
        ],
        // A cluster of the sample that has no provider here.
        "alerts": {"cluster": "relay", "host": "nobody", "path": "/"},
    })
}

/// Envoy, its providers and Prometheus.
struct Watched {
    envoy: EnvoyProcess,
    /// An Envoy with a rejected first configuration.
    unconfigured: EnvoyProcess,
    prometheus: Prometheus,
    lanes: Lanes,
    _providers: Vec<Provider>,
}

impl Watched {
    async fn start() -> Watched {
        let limited = [("retry-after", "600")];
        let healthy = |median_ms, sigma| {
            Behaviour::slow(Latency::Lognormal { median_ms, sigma }).key("sk-limited", 429, &limited).key(
                "sk-refused",
                401,
                &[],
            )
        };
        let failing = Behaviour { fault: Behaviour::status(503).fault, ..healthy(250.0, 0.3) };
        let slow_and_bad = Behaviour { latency: Latency::Fixed { ms: 500.0 }, ..Behaviour::status(503) };
        let behaviours = [
            ("good", Behaviour::default().key("sk-spent", 429, &limited)),
            ("bad", slow_and_bad),
            ("h1", healthy(120.0, 0.4)),
            ("h2", failing.ratio(FAILING)),
            (NARROW, Behaviour::default()),
        ];
        let mut options = EnvoyOptions::default().router_config(config());
        let mut providers = Vec::new();
        for (name, behaviour) in behaviours {
            let provider = Provider::start(name).await.unwrap();
            provider.set(behaviour);
            options = options.cluster(name, provider.port());
            providers.push(provider);
        }
        options.edit = Some(Box::new(|bootstrap| {
            let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
            let narrow = clusters.iter_mut().find(|cluster| cluster["name"] == NARROW).unwrap();
            narrow["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
        }));
        let rejected = EnvoyOptions { allow_rejected_config: true, ..EnvoyOptions::default() };
        let rejected = rejected.router_config(json!({"deployments": []}));
        let (envoy, unconfigured) = tokio::join!(EnvoyProcess::start(options), EnvoyProcess::start(rejected));
        let (envoy, unconfigured) = (envoy.unwrap(), unconfigured.unwrap());
        let lanes = Lanes::open(&envoy).await;

        // Before Prometheus starts, so that each counter appears with its present value: a rollback as 1.
        first_requests(&envoy).await;
        let (config, rules) = shipped_for([&envoy, &unconfigured]);
        let prometheus = Prometheus::start(&config, &[("rules.yml", rules)]).await.unwrap();
        Watched { envoy, unconfigured, prometheus, lanes, _providers: providers }
    }

    /// The values of an expression by the values of a label.
    async fn by(&self, label: &str, expression: &str) -> BTreeMap<String, f64> {
        let all = self.ask(expression).await;
        all.iter().map(|sample| (sample.label(label).to_owned(), sample.value)).collect()
    }

    async fn ask(&self, expression: &str) -> Vec<Sample> {
        self.prometheus.query(expression).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The values of a panel for one deployment, by version.
    async fn panel(&self, title: &str, deployment: &str) -> BTreeMap<String, f64> {
        let all = queries();
        let query =
            all.iter().rfind(|query| query.title == title).unwrap_or_else(|| panic!("no panel {title}"));
        self.by("version", &query.of(deployment, ".*", RANGE)).await
    }

    fn name(envoy: &EnvoyProcess) -> String {
        format!("127.0.0.1:{}", envoy.admin_port())
    }
}

/// The shipped configuration with the ports and times of a test, and the shipped rules without their patience.
fn shipped_for(envoys: [&EnvoyProcess; 2]) -> (Value, String) {
    let mut config = yaml("envoy/prometheus/prometheus.yml");
    config["global"] = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
    let mut targets: Vec<String> = envoys.into_iter().map(Watched::name).collect();
    targets.push(NOBODY.to_owned());
    config["scrape_configs"][0]["static_configs"] = json!([{"targets": targets}]);
    let mut rules = yaml("envoy/prometheus/rules.yml");
    for rule in rules["groups"][0]["rules"].as_array_mut().unwrap() {
        rule.as_object_mut().unwrap().remove("for");
    }
    (config, rules.to_string())
}

/// Some requests of every deployment, until each of its versions has answered and `broken` is rolled back.
async fn first_requests(envoy: &EnvoyProcess) {
    let client = envoy.client();
    // One after the other: the second request of the canary finds the key limited.
    for _ in 0..20 {
        client.send(chat("starved", false)).await.unwrap();
    }
    let mut running = JoinSet::new();
    for (name, count) in [("healthy", 80), ("broken", 40), ("watched", 40), ("outage", 40), ("narrow", 20)] {
        for _ in 0..count {
            let client = client.clone();
            running.spawn(async move { client.send(chat(name, false)).await.unwrap() });
        }
    }
    running.join_all().await;
    eventually("a rollback", || async {
        (envoy.metric("bellwether_phase", &[("deployment", "broken")]).await.unwrap() == 3.0).then_some(())
    })
    .await;
}

/// The deployment of the n-th request: every second one is of `healthy`.
fn deployment_of(number: u64) -> &'static str {
    const OTHERS: [&str; 5] = ["broken", "watched", "outage", "starved", "narrow"];
    if number.is_multiple_of(2) { "healthy" } else { OTHERS[number as usize / 2 % 5] }
}

/// Times that Envoy's access log has of requests that a cluster answered, in milliseconds.
fn times(envoy: &EnvoyProcess, cluster: &str) -> Vec<f64> {
    let log = envoy.access_log();
    let of_it = log.iter().filter(|line| line["cluster"] == cluster);
    of_it.map(|line| line["duration_ms"].as_f64().unwrap()).collect()
}

/// The value that a part of the values do not exceed.
fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((q * values.len() as f64).ceil() as usize).saturating_sub(1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_every_alert_is_correct_for_a_real_envoy() {
    let watched = Watched::start().await;
    let prometheus = &watched.prometheus;
    // Envoy shows histograms every five seconds; values before their first scrape are in no rate.
    eventually("the first histograms are scraped", || async {
        let count = r#"count(bellwether_latency_ms_count{deployment="healthy"})"#;
        let count = prometheus.query(count).await.unwrap();
        (count.first().is_some_and(|sample| sample.value == 2.0)).then_some(())
    })
    .await;
    let before: Vec<usize> =
        ["h1", "h2"].iter().map(|cluster| times(&watched.envoy, cluster).len()).collect();

    let load = Load::start(&watched.lanes, RATE, |n| chat(deployment_of(n), false));
    let mut changed = config();
    changed["deployments"][1]["guard"]["max_errors"] = json!(1000);
    let update = watched.envoy.write_router_config(&changed).await.unwrap();
    watched.envoy.wait_config_accepted(&update, Duration::from_secs(20)).await.unwrap();
    changed["deployments"][1]["stable"] = json!("v7");
    let update = watched.envoy.write_router_config(&changed).await.unwrap();
    watched.envoy.wait_rejected(&update, Duration::from_secs(20)).await.unwrap();
    sleep(TIME).await;
    let sent = load.stop().await;
    eventually("all is scraped", || async {
        let counted = watched.envoy.metric("bellwether_requests_total", &[]).await.unwrap();
        let requests = prometheus.query("sum(bellwether_requests_total)").await.unwrap()[0].value;
        let answered = watched.envoy.metric("bellwether_latency_ms_count", &[]).await.unwrap();
        let shown = prometheus.query("sum(bellwether_latency_ms_count)").await.unwrap()[0].value;
        // A circuit breaker's refusal is no answer.
        let narrow = async |name| watched.envoy.metric(name, &[("deployment", "narrow")]).await.unwrap();
        let refused = narrow("bellwether_requests_total").await - narrow("bellwether_latency_ms_count").await;
        (requests == counted && answered == counted - refused && shown == answered).then_some(())
    })
    .await;

    everything_has_data(&watched).await;
    the_dashboard_is_right(&watched, &sent, &before).await;
    the_right_alerts_fire(&watched).await;
}

/// Every query of the dashboard has values, with every label that its legend shows, and so has every query of the guide.
async fn everything_has_data(watched: &Watched) {
    for query in guide_queries() {
        let all = watched.ask(&query).await;
        assert!(!all.is_empty(), "no data for {query}");
        assert!(all.iter().all(|sample| sample.value.is_finite()), "{query}: {all:?}");
    }
    for (deployment, pool) in [(".*", ".*"), ("broken", "spent")] {
        for query in queries() {
            let expression = query.of(deployment, pool, RANGE);
            let all = watched.ask(&expression).await;
            assert!(!all.is_empty(), "{}: no data for {expression}", query.title);
            for sample in &all {
                assert!(sample.value.is_finite() && sample.value >= 0.0, "{}: {sample:?}", query.title);
                for label in query.legend.split("{{").skip(1).map(|part| part.split("}}").next().unwrap()) {
                    assert!(!sample.label(label).is_empty(), "{}: no {label} in {sample:?}", query.title);
                }
            }
            if deployment == ".*" {
                println!("{}: {} series", query.title, all.len());
            }
        }
    }
    // A deployment of which no attempt is judged or all are: no division by zero, and none by nothing.
    for name in ["outage", "starved"] {
        let rates = watched.panel("Error rate", name).await;
        assert!(rates.values().all(|rate| (0.0..=1.0).contains(rate)), "{name}: {rates:?}");
    }
    for alert in alerts() {
        let (name, expression) = (string(&alert["alert"]), string(&alert["expr"]));
        watched.ask(expression).await;
        let metrics = selectors(expression);
        assert!(!metrics.is_empty(), "{name}");
        for selector in &metrics {
            let mut labels: BTreeSet<String> =
                selector.matchers.iter().map(|(label, _)| label.clone()).collect();
            // A sum over one metric may be joined to another that has less.
            labels.extend(grouped_by(expression).into_iter().filter(|_| metrics.len() == 1));
            for label in labels.iter().map(String::as_str).chain(["instance", "job"]) {
                let exists = format!(r#"count({}{{{label}!=""}})"#, selector.metric);
                assert!(!watched.ask(&exists).await.is_empty(), "{name}: nothing for {exists}");
            }
        }
    }
}

/// The panels show the real events.
async fn the_dashboard_is_right(watched: &Watched, sent: &[Sent], before: &[usize]) {
    let healthy: Vec<&Sent> = sent.iter().filter(|sent| deployment_of(sent.number) == "healthy").collect();
    let of_canary = healthy.iter().filter(|sent| sent.version.as_deref() == Some("v2")).count();
    let (count, share) = (healthy.len() as f64, f64::from(SHARE) / 100.0);
    let split = watched.panel("Split: in effect and actual", "healthy").await;
    let sent_share = of_canary as f64 / count;
    // Prometheus extrapolates each series to the borders of the range, by up to a scrape of these thirty.
    let sampling = 5.0 * (share * (1.0 - share) / count).sqrt();
    println!("split: shown {:.4}, sent {sent_share:.4}, configured {share}, {count} requests", split["v2"]);
    assert!((split["v2"] - sent_share).abs() < 0.015, "{split:?}, sent {sent_share}");
    assert!((split["v2"] - share).abs() < sampling + 0.015, "{split:?}, configured {share} ± {sampling}");
    let in_effect = |name: &str| {
        let expression =
            format!(r#"avg by (deployment, version) (bellwether_weight{{deployment="{name}"}}) / 10000"#);
        async move { watched.by("version", &expression).await }
    };
    assert_eq!(in_effect("healthy").await["v2"], share);
    assert_eq!(in_effect("broken").await, BTreeMap::from([("v1".to_owned(), 1.0), ("v2".to_owned(), 0.0)]));

    let rates = watched.panel("Error rate", "healthy").await;
    assert!((rates["v2"] - FAILING).abs() < 0.02 && rates["v1"] == 0.0, "{rates:?}");
    let attempts = watched.by("deployment", &expression("Attempts per request")).await;
    assert!((0.95..1.15).contains(&attempts["healthy"]) && attempts["outage"] > 2.5, "{attempts:?}");

    // The rarest values are a few in one bucket, between bounds that differ by a third.
    for (title, q, most) in
        [("Latency P50", 0.5, 0.15), ("Latency P95", 0.95, 0.15), ("Latency P99", 0.99, 0.34)]
    {
        let shown = watched.panel(title, "healthy").await;
        for (version, cluster, before) in [("v1", "h1", before[0]), ("v2", "h2", before[1])] {
            let all = times(&watched.envoy, cluster).split_off(before);
            let (n, truth, shown) = (all.len(), quantile(all, q), shown[version]);
            println!("{title} of {version}: shown {shown:.1} ms, in the access log {truth} ms, {n} requests");
            assert!((shown / truth - 1.0).abs() < most, "{title} of {version}: {shown}, truth {truth}");
        }
    }

    let phases = watched.by("deployment", &expression("Phase over time")).await;
    let expected = [
        ("broken", 3.0),
        ("healthy", 0.0),
        ("narrow", 0.0),
        ("outage", 1.0),
        ("starved", 0.0),
        ("watched", 0.0),
    ];
    assert_eq!(phases, expected.map(|(name, phase)| (name.to_owned(), phase)).into());
    let evidence = watched.by("deployment", &expression("Evidence")).await;
    assert!(evidence["watched"] == 100.0 && evidence["healthy"] < 50.0, "{evidence:?}");
    let rollbacks = watched.by("reason", &expression("Rollbacks")).await;
    assert_eq!(rollbacks, BTreeMap::from([("consecutive_errors".to_owned(), 1.0)]));
    let keys = watched.by("key", &expression("Key status")).await;
    let expected = [("works", 0.0), ("limited", 1.0), ("refused", 3.0), ("only", 1.0)];
    assert_eq!(keys, expected.map(|(key, status)| (key.to_owned(), status)).into());
    assert_eq!(watched.ask(&expression("Keys out of use")).await[0].value, 3.0);
    let updates = watched.by("result", &expression("Configuration updates")).await;
    // An increase is extrapolated to the whole range.
    assert!(updates["accepted"] > 0.5 && updates["rejected"] > 0.5, "{updates:?}");
    let dropped = watched.by("what", &expression("Dropped")).await;
    assert!(dropped.contains_key("late_result") && dropped.contains_key("alert"), "{dropped:?}");
    let memory = watched.ask(&expression("Memory of the filter")).await;
    // Each of at least two VMs has a megabyte or so.
    assert!(memory.iter().any(|of| (2e6..2e8).contains(&of.value)), "{memory:?}");
    let in_flight = watched.ask(&expression("Requests in flight")).await;
    assert!(!in_flight.is_empty() && in_flight.iter().all(|of| of.value < 1000.0), "{in_flight:?}");
}

/// A panel's last expression, for everything.
fn expression(title: &str) -> String {
    let all = queries();
    all.iter()
        .rfind(|query| query.title == title)
        .unwrap_or_else(|| panic!("no panel {title}"))
        .of(".*", ".*", RANGE)
}

/// Those that should fire do, and no other, each with the labels that say where.
async fn the_right_alerts_fire(watched: &Watched) {
    let [envoy, unconfigured] = [&watched.envoy, &watched.unconfigured].map(Watched::name);
    let expected: BTreeSet<String> = [
        format!("BellwetherRolledBack {envoy} broken"),
        format!("BellwetherSharedTrouble {envoy} outage"),
        format!("BellwetherEvidenceHigh {envoy} watched"),
        format!("BellwetherVersionWithoutTraffic {envoy} starved v2"),
        format!("BellwetherBreakerOpen {envoy} narrow v2 breaker_open"),
        format!("BellwetherWarning {envoy} watched low_error_rate"),
        format!("BellwetherPoolWithoutKeys {envoy} spent"),
        format!("BellwetherKeyDisabled {envoy} main refused"),
        format!("BellwetherConfigurationRejected {envoy} rejected"),
        format!("BellwetherConfigurationRejected {unconfigured} rejected"),
        format!("BellwetherEventsLost {envoy} alert"),
        format!("BellwetherNotConfigured {unconfigured}"),
        format!("BellwetherUnreachable {NOBODY}"),
    ]
    .into();
    let firing = || async {
        let all = watched.ask(r#"ALERTS{alertstate="firing"}"#).await;
        let describe = |sample: &Sample| {
            let where_it_is = ["instance", "deployment", "version", "pool", "key", "result", "what"];
            let labels =
                where_it_is.map(|label| sample.label(label)).into_iter().filter(|value| !value.is_empty());
            [sample.label("alertname")].into_iter().chain(labels).collect::<Vec<&str>>().join(" ")
        };
        all.iter().map(describe).collect::<BTreeSet<String>>()
    };
    let mut last = BTreeSet::new();
    // Alerts are posted four times before they count as lost.
    for _ in 0..40 {
        last = firing().await;
        if last == expected {
            println!("firing: {last:#?}");
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
    panic!(
        "missing: {:#?}\nnot expected: {:#?}",
        expected.difference(&last).collect::<Vec<_>>(),
        last.difference(&expected).collect::<Vec<_>>()
    );
}
