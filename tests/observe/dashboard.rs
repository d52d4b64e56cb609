//! The dashboard as a document; `scenario` tests the results of its queries.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::shipped::{assert_known, dashboard, list, metrics, panels, queries, selectors, string, yaml};

#[test]
fn panels_have_ids_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "id {} twice", panel["id"]);
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24 && side("w") > 0 && side("h") > 0, "{}", panel["gridPos"]);
        for y in side("y")..side("y") + side("h") {
            for x in side("x")..side("x") + side("w") {
                assert!(taken.insert((x, y)), "{} lies upon another", panel["title"]);
            }
        }
    }
}

#[test]
fn every_panel_has_a_description_and_a_unit() {
    let mut titles = BTreeSet::new();
    for panel in panels() {
        let title = string(&panel["title"]);
        assert!(titles.insert(title.to_owned()), "{title} twice");
        let description = string(&panel["description"]);
        assert!(description.ends_with('.') && description.split(' ').count() >= 5, "{title}: {description}");
        let unit = string(&panel["fieldConfig"]["defaults"]["unit"]);
        const UNITS: [&str; 7] = ["none", "reqps", "percent", "percentunit", "ms", "cps", "bytes"];
        assert!(UNITS.contains(&unit), "{title}: unit {unit}");
        let ids: BTreeSet<&str> = list(&panel["targets"]).iter().map(|t| string(&t["refId"])).collect();
        assert!(!ids.is_empty() && ids.len() == list(&panel["targets"]).len(), "{title}: {ids:?}");
    }
}

/// Every object under a key.
fn under<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match document {
        Value::Object(object) => {
            found.extend(object.get(key));
            object.values().for_each(|value| under(value, key, found));
        }
        Value::Array(all) => all.iter().for_each(|value| under(value, key, found)),
        _ => {}
    }
}

#[test]
fn every_datasource_is_the_one_that_the_reader_chooses() {
    let dashboard = dashboard();
    let mut all = Vec::new();
    under(&dashboard, "datasource", &mut all);
    let chosen = json!({"type": "prometheus", "uid": "${datasource}"});
    let grafana = json!({"type": "grafana", "uid": "-- Grafana --"});
    assert!(all.len() > 20, "{} datasources", all.len());
    for datasource in all {
        assert!(*datasource == chosen || *datasource == grafana, "{datasource}");
    }
    for panel in panels() {
        assert_eq!(panel["datasource"], chosen, "{}", panel["title"]);
        for target in list(&panel["targets"]) {
            assert_eq!(target["datasource"], chosen, "{}", panel["title"]);
        }
    }
    let provisioned = yaml("envoy/grafana/provisioning/datasources/prometheus.yaml");
    assert_eq!(provisioned["datasources"][0]["type"], "prometheus");
    let scraped = yaml("envoy/prometheus/prometheus.yml");
    let interval = &provisioned["datasources"][0]["jsonData"]["timeInterval"];
    assert_eq!(
        *interval, scraped["global"]["scrape_interval"],
        "rates need at least the interval of scrapes"
    );
}

#[test]
fn variables_are_declared_and_used() {
    let dashboard = dashboard();
    let names: Vec<&str> =
        list(&dashboard["templating"]["list"]).iter().map(|variable| string(&variable["name"])).collect();
    assert_eq!(names, ["datasource", "deployment", "pool"]);
    let all: String = queries().into_iter().map(|query| query.expression).collect();
    for name in ["$deployment", "$pool", "$__rate_interval"] {
        assert!(all.contains(name), "no query uses {name}");
    }
    for query in queries() {
        // Fails with an unknown variable.
        query.of("d", "p", "1m");
        for selector in selectors(&query.expression) {
            let asks = |label: &str| selector.matchers.iter().any(|(name, _)| name == label);
            let global = [
                "ALERTS",
                "bellwether_config_updates_total",
                "bellwether_dropped_total",
                "bellwether_in_flight",
                "bellwether_vm_memory_bytes",
                // Some are about no deployment.
                "bellwether_warning",
            ];
            let free = global.contains(&selector.metric.as_str())
                || selector.metric.starts_with("envoy_")
                || query.title.starts_with("variable");
            assert!(
                free || asks("deployment") || asks("pool"),
                "{}: {selector:?} knows no variable",
                query.title
            );
        }
    }
}

#[test]
fn every_metric_of_the_filter_is_on_the_dashboard_and_no_other() {
    let mut shown = BTreeSet::new();
    for query in queries() {
        for selector in selectors(&query.expression) {
            assert_known(&selector, &query.title);
            shown.insert(selector.metric.trim_end_matches("_bucket").to_owned());
        }
    }
    assert_eq!(metrics().len(), 15, "{:?}", metrics());
    let missing: Vec<String> = metrics().difference(&shown).cloned().collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}
