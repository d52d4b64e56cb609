//! The monitoring files in `envoy/`, and the metrics that their expressions use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use bellwether::outcome::Outcome;
use bellwether::shared::dropped::Dropped;
use bellwether::shared::warnings::Condition;
use bellwether_harness::workspace_root;
use serde_json::Value;

pub fn path(file: &str) -> PathBuf {
    workspace_root().join(file)
}

pub fn text(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

pub fn yaml(file: &str) -> Value {
    serde_norway::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

pub fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}"))
}

pub fn dashboard() -> Value {
    serde_json::from_str(&text("envoy/grafana/bellwether.json")).unwrap()
}

/// The dashboard's panels without the rows' titles.
pub fn panels() -> Vec<Value> {
    let all = dashboard()["panels"].clone();
    list(&all).iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

/// An expression of the dashboard with the title of its panel.
#[derive(Debug, Clone)]
pub struct Query {
    pub title: String,
    pub legend: String,
    pub expression: String,
}

impl Query {
    /// The expression as Grafana sends it, for these deployments and pools and with rates over `range`.
    pub fn of(&self, deployment: &str, pool: &str, range: &str) -> String {
        let expression = self.expression.replace("$__rate_interval", range);
        let expression = expression.replace("$deployment", deployment).replace("$pool", pool);
        assert!(!expression.contains('$'), "{}: an unknown variable in {expression}", self.title);
        expression
    }
}

/// All expressions of the dashboard: of panels, of annotations, and of the variables as the series they list.
pub fn queries() -> Vec<Query> {
    let dashboard = dashboard();
    let mut all = Vec::new();
    for panel in panels() {
        for target in list(&panel["targets"]) {
            all.push(Query {
                title: string(&panel["title"]).to_owned(),
                legend: string(&target["legendFormat"]).to_owned(),
                expression: string(&target["expr"]).to_owned(),
            });
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        if let Some(expression) = annotation["expr"].as_str() {
            let title = format!("annotation {}", string(&annotation["name"]));
            let legend = string(&annotation["titleFormat"]).to_owned();
            all.push(Query { title, legend, expression: expression.to_owned() });
        }
    }
    for variable in list(&dashboard["templating"]["list"]) {
        if variable["type"] == "query" {
            let query = string(&variable["query"]["query"]);
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (series, label) = inner.and_then(|inner| inner.split_once(", ")).expect(query);
            all.push(Query {
                title: format!("variable {}", string(&variable["name"])),
                legend: format!("{{{{{label}}}}}"),
                expression: format!("count by ({label}) ({series})"),
            });
        }
    }
    all
}

/// The alert rules, in their order.
pub fn alerts() -> Vec<Value> {
    let rules = yaml("envoy/prometheus/rules.yml");
    list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"])).cloned().collect()
}

/// The page that explains metrics and alerts.
pub const GUIDE: &str = "docs/guide/monitoring.md";

/// The queries of the guide, each on one line of a `promql` block.
pub fn guide_queries() -> Vec<String> {
    let guide = text(GUIDE);
    let blocks = guide.split("```promql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The metrics that the filter defines, by its source.
pub fn metrics() -> BTreeSet<String> {
    let source = text("src/filter/metrics.rs");
    let quoted = source.split('"').filter(|part| part.starts_with("bellwether_"));
    quoted.map(|name| name.split('.').next().unwrap().to_owned()).collect()
}

/// A metric and the labels and values that an expression asks of it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<(String, String)>,
}

/// The selectors in an expression.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(name) {
        rest = &rest[start..];
        let end = rest.find(|c| !name(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if !["bellwether_", "envoy_"].iter().any(|prefix| word.starts_with(prefix))
            && !["up", "ALERTS"].contains(&word)
        {
            continue;
        }
        let inner = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        if let Some((_, after)) = inner {
            rest = after;
        }
        let matchers = inner.map_or("", |(inner, _)| inner).split(',').filter(|part| !part.is_empty());
        let pair = |matcher: &str| {
            let (label, value) = matcher.split_once('=').expect(expression);
            (label.trim().to_owned(), value.trim_start_matches('~').trim_matches('"').to_owned())
        };
        found.push(Selector { metric: word.to_owned(), matchers: matchers.map(pair).collect() });
    }
    found
}

/// The labels in `by (…)` and `on (…)` of an expression.
pub fn grouped_by(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for keyword in [" by (", " on ("] {
        for part in expression.split(keyword).skip(1) {
            let inner = part.split(')').next().unwrap();
            found.extend(inner.split(',').map(|label| label.trim().to_owned()));
        }
    }
    found
}

/// Fails unless a metric is one of the filter's or of Envoy's, and the values that are asked of its labels exist.
pub fn assert_known(selector: &Selector, of: &str) {
    let name = selector.metric.trim_end_matches("_bucket");
    if name.starts_with("bellwether_") {
        assert!(metrics().contains(name), "{of}: the filter has no metric {name}");
    }
    let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let vocabulary = BTreeMap::from([
        ("outcome", Outcome::ALL.iter().map(|outcome| outcome.label().to_owned()).collect()),
        ("what", {
            let dropped = Dropped::ALL.iter().map(|dropped| dropped.label());
            let conditions = Condition::ALL.iter().map(|condition| condition.label());
            dropped.chain(conditions).map(str::to_owned).collect()
        }),
        ("result", words(&["accepted", "rejected"])),
        ("job", words(&["bellwether"])),
        ("alertstate", words(&["firing"])),
        ("alertname", words(&["Bellwether.+"])),
        ("deployment", words(&["$deployment"])),
        ("pool", words(&["$pool"])),
    ]);
    for (label, values) in &selector.matchers {
        let known = vocabulary.get(label.as_str()).unwrap_or_else(|| panic!("{of}: a label {label}"));
        for value in values.split('|') {
            assert!(known.iter().any(|word| word == value), "{of}: {label}={value}, known are {known:?}");
        }
    }
}

#[test]
fn selectors_are_found_with_their_labels() {
    let all = selectors(r#"sum by (key) (rate(bellwether_a{x="1", y=~"2|3"}[5m])) / up > 0 * backup"#);
    let pair = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    let expected = [
        Selector { metric: "bellwether_a".to_owned(), matchers: vec![pair("x", "1"), pair("y", "2|3")] },
        Selector { metric: "up".to_owned(), matchers: vec![] },
    ];
    assert_eq!(all, expected);
}
