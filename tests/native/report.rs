//! The status and the events of the admin role, byte for byte: operators' tools and log searches read them.
//!
//! `GOLDEN=write cargo test --test native report::` writes the files anew; every difference is a change for those who read them.

use std::env;
use std::fs;
use std::path::Path;

use bellwether::config::compile;
use bellwether::engine::{Change, Counts, Evidence, Score, Transition, VersionView, View};
use bellwether::judge::window::Tally;
use bellwether::keys::health::{self, Health, Observation, Others};
use bellwether::keys::pool::KeyTransition;
use bellwether::keys::usage::KeyUsage;
use bellwether::outcome::blame::KeyOutcome;
use bellwether::plan::Plan;
use bellwether::problems::{Problem, Problems};
use bellwether::report::build::KeyView;
use bellwether::report::event::{Event, Events};
use bellwether::report::json::to_json;
use bellwether::report::status::{DeploymentStatus, KeyPoolStatus, Status, WarningStatus};
use bellwether::rollout::PhaseKind::{Active, Holding, Probing, RolledBack};
use bellwether::rollout::ramp::Position;
use bellwether::rollout::{Cause, OPERATOR, Phase, Standing};
use bellwether::shared::warnings::{Condition, Warning, Warnings};
use bellwether::time::{Micros, Millis, Now, Span, UnixMillis};

const NOW: Now = Now { mono: Micros(100_000_000), wall: UnixMillis(1_795_168_800_000) };

/// A text with characters that JSON escapes, and with others.
const AWKWARD: &str = "7 of 9 \"failed\"\n\t\\ \u{1}\u{7f} <é…\u{1f600}>";

const DOCUMENT: &str = r#"{"deployments": [
    {"name": "at-rest", "stable": "v1", "versions": [
        {"id": "v1", "weight": 66.67, "cluster": "a"}, {"id": "v2", "weight": 33.33, "cluster": "b"}]},
    {"name": "three", "release": "2026-12-01.a_b", "stable": "v2", "guard": {"mode": "observe", "window": "1500ms"},
        "recovery": {"mode": "probe", "after": "30s", "successes": 3}, "versions": [
        {"id": "v1", "weight": 10, "cluster": "a"}, {"id": "v2", "weight": 80, "cluster": "b"},
        {"id": "v3", "weight": 10, "cluster": "c"}]},
    {"name": "ramp", "stable": "v1", "versions": [{"id": "v1", "cluster": "a"}, {"id": "v2", "cluster": "b"}],
        "ramp": {"stages": [{"weight": 5, "for": "10s", "min_requests": 3}, {"weight": 25.5, "for": "1h"}]}},
    {"name": "not-begun", "stable": "v1", "versions": [{"id": "v1", "cluster": "a"}, {"id": "v2", "cluster": "b"}],
        "ramp": {"start": "2026-11-20T11:00:00Z", "paused": true, "stages": [{"weight": 5, "for": "10s"}]}},
    {"name": "unreadable", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "a", "key_pool": "p"}]}],
  "key_pools": [{"name": "p", "keys": [
    {"id": "a", "value": "sk-123456789", "weight": 3}, {"id": "b", "value": "sk-2", "weight": 7},
    {"id": "c", "value": "sk-3"}]}, {"name": "empty", "keys": [{"id": "x", "value": {"secret": "later"}}]}]}"#;

fn plan() -> Plan {
    compile(DOCUMENT.as_bytes(), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn cause(label: &str) -> Cause {
    Cause {
        label: label.to_owned(),
        text: AWKWARD.to_owned(),
        since: Micros(90_000_000),
        wall: UnixMillis(1_795_168_790_123),
    }
}

fn version(phase: Phase, share: u16) -> VersionView {
    let standing = Standing { epoch: 3, phase, ..Standing::NEW };
    VersionView { standing, share, tally: Tally::default(), totals: Counts::default(), evidence: 0 }
}

fn view(versions: Vec<VersionView>) -> View {
    View { ramp: None, versions, unreadable: false }
}

/// How each deployment of the plan stands.
fn views() -> Vec<View> {
    let mut stable = version(Phase::Active, 6667);
    (stable.tally.judged, stable.tally.bad) = (3, 1);
    stable.totals = Counts { judged: 70, bad: u64::MAX };
    (1..=3).for_each(|n| stable.tally.latency.record(Span(n * 1_503)));
    let mut canary = version(Phase::Active, 3333);
    (canary.tally.judged, canary.tally.bad, canary.evidence) = (2, 5, 47);
    let at_rest = view(vec![stable, canary]);
    let out = Phase::RolledBack {
        cause: cause("max_errors"),
        failed_rounds: 0,
        probe_at: Some(Micros(105_000_000)),
    };
    let probing = Phase::Probing { cause: cause(OPERATOR), failed_rounds: 1, passed: 2, leases: Vec::new() };
    let three = view(vec![version(probing, 1000), version(Phase::Active, 9000), version(out, 0)]);
    let position = |stage, elapsed| Position { stage, elapsed, outcomes_before: 5, updated_at: NOW.mono };
    let holding =
        || vec![version(Phase::Active, 9500), version(Phase::Holding(cause("max_error_rate")), 500)];
    let ramp = View { ramp: Some(position(Some(0), Span::from_secs(4))), ..view(holding()) };
    let not_begun = View { ramp: Some(position(None, Span::ZERO)), ..view(holding()) };
    let unreadable = View { unreadable: true, ..view(vec![version(Phase::Active, 10_000)]) };
    vec![at_rest, three, ramp, not_begun, unreadable]
}

fn keys(plan: &Plan) -> Vec<Vec<KeyView>> {
    let limited = KeyOutcome::Limited(Some(Millis(60_500)));
    let limited = Health::default().apply(
        Observation { outcome: limited, began: NOW.mono, now: NOW.mono, client: 1 },
        Others { active: true, trusted: true, work: true },
        &plan.pools[0],
    );
    let used =
        KeyUsage { requests: 9, errors: 4, last: UnixMillis(1_795_168_799_001), ..KeyUsage::default() };
    let first =
        KeyView { mask: Some("…6789".to_owned()), same_as: None, health: limited, usage: Some(used) };
    let second =
        KeyView { mask: Some("…".to_owned()), same_as: Some(0), health: Health::default(), usage: None };
    let third = KeyView {
        mask: None,
        same_as: None,
        health: Health::WITHOUT_VALUE,
        usage: Some(KeyUsage::default()),
    };
    vec![vec![first, second, third], Vec::new()]
}

fn deployments(plan: &Plan) -> Vec<DeploymentStatus> {
    plan.deployments.iter().zip(&views()).map(|(plan, view)| DeploymentStatus::new(plan, view, NOW)).collect()
}

fn status() -> Status {
    let plan = plan();
    let pools = plan.pools.iter().zip(keys(&plan));
    let key_pools = pools.map(|(pool, keys)| KeyPoolStatus::new(pool, keys, NOW)).collect();
    let mut list = Warnings::default();
    for warning in warnings() {
        list.hold(&warning, NOW);
    }
    let warnings = list.all().iter().map(WarningStatus::new).collect();
    Status { now: NOW.wall, deployments: deployments(&plan), key_pools, warnings }
}

/// A warning about each condition.
fn warnings() -> Vec<Warning> {
    let names = [("", ""), ("d", ""), ("d", "v2")];
    let warning = |(condition, (deployment, version))| {
        Warning::new(condition, deployment, version, format!("{AWKWARD} of {deployment}"))
    };
    Condition::ALL.into_iter().zip(names.into_iter().cycle()).map(warning).collect()
}

fn transition() -> Transition {
    Transition {
        deployment: "gpt4-upgrade".to_owned(),
        release: "2026-11-20a".to_owned(),
        version: "v2".to_owned(),
        epoch: 1,
        stage: Some(0),
        change: Change::Moved { from: Active, to: RolledBack },
        cause: Some(cause("worse_errors")),
        evidence: Evidence {
            canary: Counts { judged: 9, bad: 7 },
            stable: Counts { judged: 180, bad: 0 },
            score: Some(Score { value: 16.877, limit: 16.12 }),
            requests: vec!["a1".to_owned(), AWKWARD.to_owned()],
        },
    }
}

/// An event of each kind, and each sentence.
fn events() -> Vec<Event> {
    let moved = |from, to| Change::Moved { from, to };
    let observed = |to| Change::Observed { from: Active, to };
    let quiet = |stable| {
        let evidence = Evidence { stable, ..Evidence::default() };
        Transition { evidence, ..transition() }
    };
    let usual = || quiet(transition().evidence.stable);
    let by_hand = || Some(cause(OPERATOR));
    let transitions = [
        transition(),
        Transition { change: observed(RolledBack), ..transition() },
        Transition { change: observed(Holding), stage: None, ..usual() },
        Transition { change: moved(Active, Holding), ..usual() },
        Transition { change: moved(Holding, Active), cause: None, ..usual() },
        Transition { change: moved(RolledBack, Probing), cause: None, ..usual() },
        Transition {
            change: moved(Probing, Active),
            cause: None,
            ..quiet(Counts { judged: u64::MAX, bad: 3 })
        },
        Transition { change: moved(Probing, RolledBack), cause: Some(cause("probe")), ..usual() },
        Transition { change: Change::StageBegun, stage: Some(7), cause: None, ..usual() },
        Transition { cause: by_hand(), ..usual() },
        Transition { change: moved(Probing, Active), cause: by_hand(), ..usual() },
        Transition { change: moved(Holding, Active), cause: by_hand(), ..usual() },
    ];
    let mut events: Vec<Event> = transitions.iter().map(|t| Event::transition(t, NOW.wall)).collect();
    for (from, to, until) in [
        (health::Status::Active, health::Status::RateLimited, 160_504_999),
        (health::Status::Active, health::Status::Disabled, 700_000_000),
        (health::Status::RateLimited, health::Status::Active, 0),
    ] {
        let moved = KeyTransition { key: 0, from, to, until: Micros(until) };
        events.push(Event::key("relay", AWKWARD, &moved, NOW));
    }
    events.push(Event::pool_exhausted("relay", NOW.wall));
    let problem = |path: &str, got: Option<&str>| Problem {
        path: path.to_owned(),
        rule: "must be a string".to_owned(),
        got: got.map(str::to_owned),
    };
    for problems in [
        vec![problem("deployments[0].name", Some("7"))],
        vec![problem("a", None), problem("b", Some(AWKWARD))],
        (0..500).map(|_| problem(&"\u{1}".repeat(100), None)).collect(),
        Vec::new(),
    ] {
        events.push(Event::rejected("bellwether-router", &Problems(problems), NOW.wall));
    }
    events.extend(warnings().iter().map(|warning| Event::warning(warning, NOW.wall)));
    events
}

#[track_caller]
fn assert_golden(name: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/golden").join(name);
    if env::var_os("GOLDEN").is_some() {
        fs::write(&path, content).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    let difference = content.bytes().zip(golden.bytes()).position(|(is, was)| is != was);
    let around = |text: &str| {
        let at = difference.unwrap_or(text.len().min(golden.len()));
        String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(80)..text.len().min(at + 80)]).into_owned()
    };
    assert!(content == golden, "{name} differs:\nis  {}\nwas {}", around(content), around(&golden));
}

#[test]
fn the_status_matches_its_golden_file() {
    assert_golden("status.json", &to_json(&status()));
}

#[test]
fn the_status_of_one_deployment_matches_its_golden_file() {
    let each: Vec<String> = deployments(&plan()).iter().map(to_json).collect();
    assert_golden("deployments.jsonl", &each.join("\n"));
}

#[test]
fn events_match_their_golden_file() {
    let lines: Vec<String> = events().iter().map(Event::line).collect();
    assert_golden("events.jsonl", &lines.join("\n"));
}

#[test]
fn a_tool_reads_the_very_values_that_the_filter_has_written() {
    let status = status();
    assert_eq!(serde_json::from_str::<Status>(&to_json(&status)).unwrap(), status);
    let events = Events { events: events() };
    let lines: Vec<String> = events.events.iter().map(Event::line).collect();
    let document = format!(r#"{{"events":[{}]}}"#, lines.join(","));
    assert_eq!(to_json(&events), document);
    assert_eq!(serde_json::from_str::<Events>(&document).unwrap(), events);
}
