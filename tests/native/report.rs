//! The status and the events of the admin role, byte for byte: operators' tools and log searches read them.
//!
//! `GOLDEN=write cargo test --test native report::` writes the files anew; every difference is a change for those who read them.

use std::env;
use std::fs;
use std::path::Path;

use bellwether::config::compile;
use bellwether::engine::{Transition, VersionView, View};
use bellwether::judge::window::Tally;
use bellwether::keys::health::{Health, Observation, Status};
use bellwether::keys::pool::KeyTransition;
use bellwether::keys::usage::KeyUsage;
use bellwether::outcome::blame::KeyOutcome;
use bellwether::plan::Plan;
use bellwether::problems::{Problem, Problems};
use bellwether::report::events;
use bellwether::report::status::{self, KeyView};
use bellwether::rollout::ramp::Position;
use bellwether::rollout::{Cause, OPERATOR, Phase, Standing};
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
    VersionView { standing, share, tally: Tally::default(), totals: (0, 0), evidence: 0 }
}

fn view(versions: Vec<VersionView>) -> View {
    View { ramp: None, versions, unreadable: false }
}

/// How each deployment of the plan stands.
fn views() -> Vec<View> {
    let mut stable = version(Phase::Active, 6667);
    (stable.tally.judged, stable.tally.bad, stable.totals) = (3, 1, (70, u64::MAX));
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
    let position = |stage, elapsed| Position { stage, elapsed, outcomes_before: 5, looked_at: NOW.mono };
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
        Observation { outcome: limited, began: NOW.mono, now: NOW.mono },
        true,
        &plan.pools[0],
    );
    let used =
        KeyUsage { requests: 9, errors: 4, last: UnixMillis(1_795_168_799_001), ..KeyUsage::default() };
    let first =
        KeyView { mask: Some("…6789".to_owned()), same_as: None, memory: limited, used: Some(used) };
    let second =
        KeyView { mask: Some("…".to_owned()), same_as: Some(0), memory: Health::default(), used: None };
    let third =
        KeyView { mask: None, same_as: None, memory: Health::WITHOUT_VALUE, used: Some(KeyUsage::default()) };
    vec![vec![first, second, third], Vec::new()]
}

fn status() -> String {
    let plan = plan();
    let mut out = status::begin(NOW);
    for (deployment, view) in plan.deployments.iter().zip(&views()) {
        status::deployment(&mut out, deployment, view, NOW);
    }
    status::pools(&mut out);
    for (pool, keys) in plan.pools.iter().zip(keys(&plan)) {
        status::pool(&mut out, pool, keys.into_iter(), NOW);
    }
    status::end(&mut out);
    out.finish()
}

fn transition() -> Transition {
    Transition {
        deployment: "gpt4-upgrade".to_owned(),
        release: "2026-11-20a".to_owned(),
        version: "v2".to_owned(),
        epoch: 1,
        from: "active",
        to: "rolled_back",
        stage: Some(0),
        enforced: true,
        cause: Some(cause("worse_errors")),
        canary: (9, 7),
        stable: (180, 0),
        score: Some((16.877, 16.12)),
        requests: vec!["a1".to_owned(), AWKWARD.to_owned()],
    }
}

/// An event of each kind, and each sentence.
fn lines() -> Vec<String> {
    let quiet = || Transition { score: None, canary: (0, 0), requests: Vec::new(), ..transition() };
    let by_hand = || Some(cause(OPERATOR));
    let transitions = [
        transition(),
        Transition { enforced: false, ..transition() },
        Transition { to: "holding", enforced: false, stage: None, ..quiet() },
        Transition { to: "holding", ..quiet() },
        Transition { from: "holding", to: "active", cause: None, ..quiet() },
        Transition { from: "rolled_back", to: "probing", cause: None, ..quiet() },
        Transition { from: "probing", to: "active", cause: None, stable: (u64::MAX, 3), ..quiet() },
        Transition { from: "probing", cause: Some(cause("probe")), ..quiet() },
        Transition { to: "active", stage: Some(7), cause: None, ..quiet() },
        Transition { cause: by_hand(), ..quiet() },
        Transition { from: "probing", to: "active", cause: by_hand(), ..quiet() },
        Transition { from: "holding", to: "active", cause: by_hand(), ..quiet() },
    ];
    let mut lines: Vec<String> = transitions.iter().map(|t| events::line(t, NOW.wall)).collect();
    for (from, to, until) in [
        (Status::Active, Status::RateLimited, 160_504_999),
        (Status::Active, Status::Disabled, 700_000_000),
        (Status::RateLimited, Status::Active, 0),
    ] {
        let moved = KeyTransition { key: 0, from, to, until: Micros(until) };
        lines.push(events::key_line("relay", AWKWARD, &moved, NOW));
    }
    lines.push(events::pool_line("relay", NOW));
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
        lines.push(events::rejected_line("bellwether-router", &Problems(problems), NOW.wall));
    }
    lines
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
    assert_golden("status.json", &status());
}

#[test]
fn the_status_of_one_deployment_matches_its_golden_file() {
    let plan = plan();
    let each = plan
        .deployments
        .iter()
        .zip(&views())
        .map(|(plan, view)| status::one(plan, view, NOW))
        .collect::<Vec<_>>();
    assert_golden("deployments.jsonl", &each.join("\n"));
}

#[test]
fn events_match_their_golden_file() {
    assert_golden("events.jsonl", &lines().join("\n"));
}
