//! The alert rules as documents, and their unit tests by promtool; that they fire on a real Envoy is in `scenario`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use bellwether::shared::dropped::Dropped;
use bellwether_harness::prometheus::prometheus_path;
use serde_json::Value;

use crate::shipped::{
    GUIDE, alerts, assert_known, guide_queries, list, metrics, path, selectors, string, text, yaml,
};

/// Runs promtool; returns its output and whether it succeeded.
fn promtool(directory: &Path, arguments: &[&str]) -> (bool, String) {
    let tool = prometheus_path("promtool").unwrap();
    let output = Command::new(tool).args(arguments).current_dir(directory).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules_pass_their_tests() {
    let here = path("envoy/prometheus");
    for arguments in [&["check", "config", "prometheus.yml"][..], &["test", "rules", "tests.yml"][..]] {
        let (passed, output) = promtool(&here, arguments);
        assert!(passed, "{arguments:?}\n{output}");
    }
}

#[test]
fn an_alert_that_waits_longer_or_never_fires_or_always_fires_fails_its_tests() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("tests.yml", &text("envoy/prometheus/tests.yml"));
    let rules = yaml("envoy/prometheus/rules.yml");
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 3] = [
        ("never", |rule| rule["expr"] = "vector(0) > 1".into()),
        ("always", |rule| rule["expr"] = "vector(1)".into()),
        ("late", |rule| rule["for"] = "12h".into()),
    ];
    for (when, change) in changes {
        let mut changed = rules.clone();
        changed["groups"][0]["rules"].as_array_mut().unwrap().iter_mut().for_each(change);
        // JSON is YAML.
        write("rules.yml", &changed.to_string());
        let (passed, output) = promtool(directory.path(), &["test", "rules", "tests.yml"]);
        assert!(!passed, "{output}");
        for alert in alerts() {
            let name = string(&alert["alert"]);
            let noticed = output.contains(&format!("alertname: {name},"));
            assert!(noticed, "the tests of {name} do not notice that it fires {when}\n{output}");
        }
    }
}

#[test]
fn every_alert_has_a_severity_a_summary_and_a_runbook() {
    let alerts = alerts();
    assert!(alerts.len() >= 8, "{} alerts", alerts.len());
    for alert in &alerts {
        let name = string(&alert["alert"]);
        let severity = string(&alert["labels"]["severity"]);
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: severity {severity}");
        let summary = string(&alert["annotations"]["summary"]);
        assert!(summary.contains("{{ $labels.instance }}"), "{name}: {summary}");
        let runbook = string(&alert["annotations"]["runbook"]);
        assert!(runbook.ends_with('.') && runbook.split(' ').count() >= 12, "{name}: {runbook}");
        for selector in selectors(string(&alert["expr"])) {
            assert_known(&selector, name);
        }
    }
}

#[test]
fn every_alert_is_tested_firing_and_silent() {
    let tests = yaml("envoy/prometheus/tests.yml");
    let mut seen: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for test in list(&tests["tests"]) {
        for case in list(&test["alert_rule_test"]) {
            let firing = !list(&case["exp_alerts"]).is_empty();
            seen.entry(string(&case["alertname"]).to_owned()).or_default()[usize::from(firing)] += 1;
        }
    }
    for alert in alerts() {
        let [silent, firing] = seen.remove(string(&alert["alert"])).unwrap_or_default();
        assert!(silent > 0 && firing > 0, "{}: {silent} silent, {firing} firing", alert["alert"]);
    }
    assert!(seen.is_empty(), "tests of no alert: {seen:?}");
}

#[test]
fn the_guide_names_every_alert() {
    let guide = text(GUIDE);
    for alert in alerts() {
        let (name, severity) = (string(&alert["alert"]), string(&alert["labels"]["severity"]));
        let row = guide.lines().find(|line| line.starts_with(&format!("| `{name}`")));
        assert!(row.is_some_and(|row| row.contains(severity)), "{name}, {severity}: {row:?}");
    }
}

#[test]
fn the_guide_has_a_row_for_every_kind_of_dropped_work() {
    let guide = text(GUIDE);
    for dropped in Dropped::ALL {
        let label = format!("`{}`", dropped.label());
        let row = guide
            .lines()
            .any(|line| line.starts_with("| `") && line.split('|').nth(1).unwrap().contains(&label));
        assert!(row, "no row for {label}");
    }
}

#[test]
fn the_guide_has_a_row_for_every_metric_and_its_queries_ask_for_nothing_else() {
    let guide = text(GUIDE);
    for metric in metrics() {
        let row = guide.lines().find(|line| line.starts_with(&format!("| `{metric}` |")));
        assert!(row.is_some(), "no row for {metric}");
    }
    let queries = guide_queries();
    assert!(queries.len() >= 8, "{queries:#?}");
    for query in queries {
        for selector in selectors(&query) {
            assert_known(&selector, &query);
        }
    }
}
