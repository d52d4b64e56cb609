//! The status as JSON, written by hand: members in an order that a person can read.

use std::fmt::Display;

use crate::engine::View;
use crate::json::quoted;
use crate::judge::window::Tally;
use crate::keys::health::Health;
use crate::keys::usage::KeyUsage;
use crate::plan::guard::{GuardMode, Recovery};
use crate::plan::pool::KeyPool;
use crate::plan::ramp::Ramp;
use crate::plan::{Deployment, Version};
use crate::rollout::ramp::Position;
use crate::rollout::{Cause, Phase};
use crate::time::{Micros, Now, UnixMillis};
use crate::units::{Bps, Hundredths, WHOLE};

/// JSON under way.
#[derive(Default)]
pub struct Json(String);

impl Json {
    /// The text.
    pub fn finish(self) -> String {
        self.0
    }

    /// Begins a member's value, or an element with an empty name.
    fn name(&mut self, name: &str) {
        if !self.0.is_empty() && !self.0.ends_with(['{', '[', ':']) {
            self.0.push(',');
        }
        if !name.is_empty() {
            self.0.push('"');
            self.0.push_str(name);
            self.0.push_str("\":");
        }
    }

    fn open(&mut self, name: &str, bracket: char) {
        self.name(name);
        self.0.push(bracket);
    }

    fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.0.push_str(&quoted(text));
    }

    fn text_or_null(&mut self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.bare(name, "null"),
        }
    }

    fn time(&mut self, name: &str, at: Option<UnixMillis>) {
        self.text_or_null(name, at.map(|at| at.to_string()).as_deref());
    }

    fn number(&mut self, name: &str, value: u64) {
        self.bare(name, &value.to_string());
    }

    fn number_or_null(&mut self, name: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.bare(name, "null"),
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.bare(name, if value { "true" } else { "false" });
    }

    fn percent(&mut self, name: &str, share: Bps) {
        self.decimal(name, Hundredths(u64::from(share.get())));
    }

    fn decimal(&mut self, name: &str, value: Hundredths) {
        let value: &dyn Display = &value;
        self.bare(name, &value.to_string());
    }

    fn bare(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push_str(value);
    }
}

/// What is shown of a key.
pub struct KeyView {
    /// At most the end of it; `None` while its secret is not there.
    pub mask: Option<String>,
    /// Index of the key of the pool that has the same value: that one is used, and this one is not.
    pub same_as: Option<usize>,
    /// Its state.
    pub memory: Health,
    /// Its use; `None` if it cannot be read.
    pub used: Option<KeyUsage>,
}

/// Begins the document.
pub fn begin(now: Now) -> Json {
    let mut out = Json::default();
    out.open("", '{');
    out.time("now", Some(now.wall));
    out.open("deployments", '[');
    out
}

/// Ends the deployments; the pools follow.
pub fn pools(out: &mut Json) {
    out.close(']');
    out.open("key_pools", '[');
}

/// Ends the document.
pub fn end(out: &mut Json) {
    out.close(']');
    out.close('}');
}

/// Writes a deployment as it stands.
pub fn deployment(out: &mut Json, plan: &Deployment, view: &View, now: Now) {
    let worst = view.worst(plan.stable).map(|(_, version)| &version.standing.phase);
    let cause = worst.and_then(Phase::cause);
    let stage = view.ramp.and_then(|position| position.stage);
    let evidence = view.versions.iter().map(|version| version.evidence).max().unwrap_or(0);
    let unreadable = "the state in shared data cannot be read: stable serves everything";
    let reason = if view.unreadable { Some(unreadable.to_owned()) } else { cause.map(reason) };
    out.open("", '{');
    out.text("name", &plan.name);
    out.text("release", &plan.release);
    out.text("phase", worst.map_or("active", Phase::name));
    out.number_or_null("stage", stage.map(u64::from));
    out.open("versions", '[');
    for (n, (version, seen)) in plan.versions.iter().zip(&view.versions).enumerate() {
        let is_stable = n == plan.stable;
        out.open("", '{');
        out.text("id", &version.id);
        out.flag("stable", is_stable);
        out.percent("weight", configured(plan, version, is_stable, stage));
        out.percent("effective_weight", Bps::new(seen.share).unwrap_or(Bps::ZERO));
        tally(out, &seen.tally);
        out.text("cluster", &version.cluster);
        out.text_or_null("phase", (!is_stable).then(|| seen.standing.phase.name()));
        out.number("evidence", seen.evidence);
        out.number("epoch", u64::from(seen.standing.epoch));
        out.number("requests_total", seen.totals.0);
        out.number("errors_total", seen.totals.1);
        out.close('}');
    }
    out.close(']');
    out.text_or_null("reason", reason.as_deref());
    out.time("since", cause.map(|cause| cause.wall));
    out.number("evidence", evidence);
    let guard = plan.guard_at(stage);
    out.text("mode", if guard.mode == GuardMode::Enforce { "enforce" } else { "observe" });
    out.text_or_null("recovery", worst.and_then(|phase| recovery(phase, plan.recovery, now)).as_deref());
    out.text("window", &guard.window.to_string());
    match &plan.ramp {
        Some(ramp) => ramp_of(out, ramp, view.ramp, now),
        None => out.bare("ramp", "null"),
    }
    out.close('}');
}

/// One deployment as a document.
pub fn one(plan: &Deployment, view: &View, now: Now) -> String {
    let mut out = Json::default();
    deployment(&mut out, plan, view, now);
    out.finish()
}

/// Share by configuration: under a ramp that of the stage.
fn configured(plan: &Deployment, version: &Version, is_stable: bool, stage: Option<u32>) -> Bps {
    let canary = plan.ramp.as_ref().map(|ramp| ramp.weight(stage));
    let rest = |share: Bps| Bps::new(WHOLE.saturating_sub(share.get())).unwrap_or(Bps::ZERO);
    match canary {
        Some(share) if is_stable => rest(share),
        Some(share) => share,
        None => version.weight.unwrap_or(Bps::ZERO),
    }
}

fn tally(out: &mut Json, tally: &Tally) {
    // A stream that breaks counts when it breaks; its answer may have left the window by then.
    let bad = tally.bad.min(tally.judged);
    let rate = bad.saturating_mul(10_000).checked_div(tally.judged).unwrap_or(0);
    out.number("requests", tally.judged);
    out.number("errors", tally.bad);
    out.decimal("error_rate", Hundredths(rate));
    out.open("latency_ms", '{');
    match tally.latency.mean() {
        Some(mean) => out.decimal("avg", Hundredths(mean.0 / 10)),
        None => out.bare("avg", "null"),
    }
    for (name, bps) in [("p50", 5000), ("p95", 9500), ("p99", 9900)] {
        out.number_or_null(name, tally.latency.percentile_millis(bps));
    }
    out.close('}');
}

fn reason(cause: &Cause) -> String {
    let by = if cause.by_operator() { "by hand: " } else { "" };
    [by, &cause.text].concat()
}

/// How the phase will end, in words; `None` while there is nothing to recover from.
fn recovery(phase: &Phase, recovery: Recovery, now: Now) -> Option<String> {
    let stays = "stays out until somebody resumes it or its release changes";
    Some(match (phase, recovery) {
        (Phase::Active, _) => return None,
        (Phase::Holding(_), _) => {
            "ends after a window without trouble; until then the ramp stands still".to_owned()
        }
        (Phase::RolledBack { cause, .. }, _) if cause.by_operator() => stays.to_owned(),
        (Phase::RolledBack { .. }, Recovery::Hold) => stays.to_owned(),
        (Phase::RolledBack { probe_at, cause, .. }, Recovery::Probe(probe)) => {
            let at = probe_at.unwrap_or_else(|| cause.since.plus(probe.after));
            ["will be probed at ", &wall(now, at).to_string()].concat()
        }
        (Phase::Probing { passed, .. }, Recovery::Probe(probe)) => {
            format!("being probed: {passed} of {} went well", probe.successes)
        }
        (Phase::Probing { .. }, Recovery::Hold) => stays.to_owned(),
    })
}

fn ramp_of(out: &mut Json, ramp: &Ramp, position: Option<Position>, now: Now) {
    out.open("ramp", '{');
    out.flag("paused", ramp.paused);
    let next = match position {
        Some(Position { stage: None, .. }) => ramp.start,
        Some(position) => {
            let left = position.left(ramp, now.mono);
            left.map(|left| wall(now, now.mono.plus(left)))
        }
        None => None,
    };
    out.time("next_stage_at", next);
    out.open("stages", '[');
    for stage in &ramp.stages {
        out.open("", '{');
        out.percent("weight", stage.weight);
        out.text("for", &stage.duration.to_string());
        out.number("min_requests", u64::from(stage.min_requests));
        out.close('}');
    }
    out.close(']');
    out.close('}');
}

/// Writes a pool; `keys` in the plan's order.
pub fn pool(out: &mut Json, plan: &KeyPool, keys: impl Iterator<Item = KeyView>, now: Now) {
    out.open("", '{');
    out.text("name", &plan.name);
    out.open("keys", '[');
    for (key, seen) in plan.keys.iter().zip(keys) {
        let there = seen.mask.is_some();
        out.open("", '{');
        out.text("id", &key.id);
        out.text("mask", seen.mask.as_deref().unwrap_or(""));
        out.text("status", seen.memory.status.name());
        out.number("weight", if seen.same_as.is_some() { 0 } else { u64::from(key.weight) });
        out.number_or_null("errors", seen.used.map(|used| used.errors));
        out.number_or_null("requests", seen.used.map(|used| used.requests));
        out.time("last_used", seen.used.map(|used| used.last).filter(|last| last.0 > 0));
        // In the past while a trial is under way or nobody has asked: nobody knows when that one ends.
        let until = Some(seen.memory.until).filter(|_| there && !seen.memory.is_active());
        out.time("until", until.map(|until| wall(now, until)));
        out.flag("has_value", there);
        let same_as = seen.same_as.and_then(|n| plan.keys.get(n)).map(|key| key.id.as_str());
        out.text_or_null("same_as", same_as);
        out.close('}');
    }
    out.close(']');
    out.close('}');
}

/// A moment of the monotonic clock for people.
fn wall(now: Now, at: Micros) -> UnixMillis {
    let (ahead, ago) = (at.since(now.mono).whole_millis(), now.mono.since(at).whole_millis());
    UnixMillis(now.wall.0.saturating_add(ahead).saturating_sub(ago))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::VersionView;
    use crate::keys::health::Observation;
    use crate::outcome::blame::KeyOutcome;
    use crate::plan::Plan;
    use crate::plan::guard::Probe;
    use crate::rollout::{OPERATOR, Standing};
    use crate::testing;
    use crate::time::{Millis, Span};
    use serde_json::{Value, json};

    const NOW: Now = Now { mono: Micros(100_000_000), wall: UnixMillis(1_795_168_800_000) };

    fn seen(phase: Phase, share: u16) -> VersionView {
        let standing = Standing { phase, ..Standing::NEW };
        VersionView { standing, share, tally: Tally::default(), totals: (0, 0), evidence: 0 }
    }

    fn cause(label: &str, text: &str) -> Cause {
        Cause {
            label: label.to_owned(),
            text: text.to_owned(),
            since: Micros(0),
            wall: UnixMillis(1_795_168_790_000),
        }
    }

    fn shown(plan: &Plan, view: &View) -> Value {
        serde_json::from_str(&one(&plan.deployments[0], view, NOW)).unwrap()
    }

    #[test]
    fn a_deployment_at_rest() {
        let mut stable = seen(Phase::Active, 9000);
        (stable.tally.judged, stable.tally.bad) = (3, 1);
        (1..=3).for_each(|n| stable.tally.latency.record(Span(n * 1_500)));
        stable.totals = (70, 2);
        let view = View { ramp: None, versions: vec![stable, seen(Phase::Active, 1000)], unreadable: false };
        let value = shown(&testing::deployment_plan(""), &view);
        assert_eq!(
            value,
            json!({
                "name": "d", "release": "1", "phase": "active", "stage": null,
                "versions": [
                    {"id": "v1", "stable": true, "weight": 90.0, "effective_weight": 90.0, "requests": 3, "errors": 1,
                     "error_rate": 33.33, "latency_ms": {"avg": 3.0, "p50": 3, "p95": 4, "p99": 4}, "cluster": "a",
                     "phase": null, "evidence": 0, "epoch": 0, "requests_total": 70, "errors_total": 2},
                    {"id": "v2", "stable": false, "weight": 10.0, "effective_weight": 10.0, "requests": 0, "errors": 0,
                     "error_rate": 0.0, "latency_ms": {"avg": null, "p50": null, "p95": null, "p99": null}, "cluster": "b",
                     "phase": "active", "evidence": 0, "epoch": 0, "requests_total": 0, "errors_total": 0},
                ],
                "reason": null, "since": null, "evidence": 0, "mode": "enforce", "recovery": null, "window": "30s",
                "ramp": null,
            })
        );
    }

    #[test]
    fn a_phase_says_why_since_when_and_how_it_ends() {
        let probe =
            Recovery::Probe(Probe { after: Millis(1), max_after: Millis(1), max_in_flight: 1, successes: 3 });
        let out = |label: &str, probe_at: Option<u64>| Phase::RolledBack {
            cause: cause(label, "7 of 9 \"failed\""),
            failed_rounds: 0,
            probe_at: probe_at.map(Micros),
        };
        let probing =
            Phase::Probing { cause: cause("errors", "bad"), failed_rounds: 0, passed: 2, leases: Vec::new() };
        let stays = "stays out until somebody resumes it or its release changes";
        let at = "will be probed at 2026-11-20T10:00:05.000Z";
        for (phase, recovery, name, reason, ends) in [
            (out("errors", None), Recovery::Hold, "rolled_back", "7 of 9 \"failed\"", stays),
            (out("errors", Some(105_000_000)), probe, "rolled_back", "7 of 9 \"failed\"", at),
            (out(OPERATOR, None), probe, "rolled_back", "by hand: 7 of 9 \"failed\"", stays),
            (probing, probe, "probing", "bad", "being probed: 2 of 3 went well"),
            (
                Phase::Holding(cause("errors", "both")),
                probe,
                "holding",
                "both",
                "ends after a window without trouble; until then the ramp stands still",
            ),
        ] {
            let mut plan = testing::deployment_plan("");
            plan.deployments[0].recovery = recovery;
            let versions = vec![seen(Phase::Active, 10_000), seen(phase, 0)];
            let value = shown(&plan, &View { ramp: None, versions, unreadable: false });
            assert_eq!(
                (&value["phase"], &value["reason"], &value["recovery"], &value["since"]),
                (&json!(name), &json!(reason), &json!(ends), &json!("2026-11-20T09:59:50.000Z"))
            );
        }
    }

    #[test]
    fn of_several_canaries_the_worst_gives_the_phase() {
        let plan = testing::plan(
            r#"{"deployments": [{"name": "d", "stable": "v2", "versions": [
            {"id": "v1", "weight": 10, "cluster": "a"}, {"id": "v2", "weight": 80, "cluster": "b"},
            {"id": "v3", "weight": 10, "cluster": "c"}]}]}"#,
        );
        let out = Phase::RolledBack { cause: cause("errors", "v3's"), failed_rounds: 0, probe_at: None };
        let versions = vec![
            seen(Phase::Holding(cause("errors", "v1's")), 1000),
            seen(Phase::Active, 9000),
            seen(out, 0),
        ];
        let value = shown(&plan, &View { ramp: None, versions, unreadable: false });
        assert_eq!((&value["phase"], &value["reason"]), (&json!("rolled_back"), &json!("v3's")));
        assert_eq!(value["versions"][0]["phase"], "holding");
    }

    #[test]
    fn a_state_that_cannot_be_read_is_not_shown_as_health() {
        let versions = vec![seen(Phase::Active, 10_000), seen(Phase::Active, 0)];
        let value = shown(&testing::deployment_plan(""), &View { ramp: None, versions, unreadable: true });
        assert!(value["reason"].as_str().unwrap().contains("cannot be read"), "{value}");
    }

    #[test]
    fn a_ramp_shows_its_stages_and_when_the_next_begins() {
        let stages =
            r#""stages": [{"weight": 5, "for": "10s", "min_requests": 3}, {"weight": 25, "for": "1h"}]"#;
        let plan = |more: &str| testing::ramp_plan(&[stages, more].concat());
        let position = |stage, seconds| Position {
            stage,
            elapsed: Span::from_secs(seconds),
            outcomes_before: 0,
            looked_at: NOW.mono,
        };
        let start = r#", "start": "2026-11-20T11:00:00Z""#;
        for (more, position, weight, next) in [
            ("", position(Some(0), 4), 5.0, json!("2026-11-20T10:00:06.000Z")),
            ("", position(Some(0), 99), 5.0, json!("2026-11-20T10:00:00.000Z")),
            (r#", "paused": true"#, position(Some(0), 4), 5.0, json!(null)),
            ("", position(Some(1), 4), 25.0, json!(null)),
            (start, position(None, 0), 0.0, json!("2026-11-20T11:00:00.000Z")),
        ] {
            let plan = plan(more);
            let versions = vec![seen(Phase::Active, 9500), seen(Phase::Active, 500)];
            let value = shown(&plan, &View { ramp: Some(position), versions, unreadable: false });
            assert_eq!(value["stage"], json!(position.stage));
            assert_eq!(
                (&value["versions"][0]["weight"], &value["versions"][1]["weight"]),
                (&json!(100.0 - weight), &json!(weight))
            );
            assert_eq!(value["ramp"]["next_stage_at"], next, "{more} {position:?}");
            assert_eq!(value["ramp"]["stages"][0], json!({"weight": 5.0, "for": "10s", "min_requests": 3}));
        }
    }

    #[test]
    fn a_pool_shows_no_more_of_a_key_than_its_mask() {
        let plan = testing::pool(&[("a", 3), ("b", 0)]);
        let limited = Health::default().apply(
            Observation {
                outcome: KeyOutcome::Limited(Some(Millis(60_000))),
                began: NOW.mono,
                now: NOW.mono,
            },
            true,
            &plan,
        );
        let used =
            KeyUsage { requests: 9, errors: 4, last: UnixMillis(1_795_168_799_000), ..KeyUsage::default() };
        let keys = [
            KeyView { mask: Some("…6789".to_owned()), same_as: None, memory: limited, used: Some(used) },
            KeyView {
                mask: None,
                same_as: Some(0),
                memory: Health::WITHOUT_VALUE,
                used: Some(KeyUsage::default()),
            },
        ];
        let mut out = begin(NOW);
        pools(&mut out);
        pool(&mut out, &plan, keys.into_iter(), NOW);
        end(&mut out);
        let value: Value = serde_json::from_str(&out.finish()).unwrap();
        assert_eq!(
            value,
            json!({"now": "2026-11-20T10:00:00.000Z", "deployments": [], "key_pools": [{"name": "p", "keys": [
                {"id": "a", "mask": "…6789", "status": "rate_limited", "weight": 3, "errors": 4, "requests": 9,
                 "last_used": "2026-11-20T09:59:59.000Z", "until": "2026-11-20T10:01:00.000Z", "has_value": true,
                 "same_as": null},
                {"id": "b", "mask": "", "status": "disabled", "weight": 0, "errors": 0, "requests": 0,
                 "last_used": null, "until": null, "has_value": false, "same_as": "a"},
            ]}]})
        );
    }
}
