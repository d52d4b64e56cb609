//! The status, built from the plan, its view and its keys.

use crate::engine::View;
use crate::judge::window::Tally;
use crate::keys::health::Health;
use crate::keys::usage::KeyUsage;
use crate::plan::guard::Recovery;
use crate::plan::pool::{Key, KeyPool};
use crate::plan::ramp::{Ramp, Stage};
use crate::plan::{Deployment, Version};
use crate::report::event::named;
use crate::report::status::{
    DeploymentStatus, KeyPoolStatus, KeyStatus, LatencyStatus, RampStatus, StageStatus, VersionStatus,
    WarningStatus,
};
use crate::rollout::ramp::Position;
use crate::rollout::{Cause, Phase, PhaseKind};
use crate::shared::warnings::Held;
use crate::time::{Micros, Now, UnixMillis};
use crate::units::{Bps, Hundredths, WHOLE};

/// The facts about a key that its status shows.
pub struct KeyView {
    /// At most the end of its value; `None` without a value.
    pub mask: Option<String>,
    /// Index of the key of the pool that has the same value and is used in its place.
    pub same_as: Option<usize>,
    /// Its state.
    pub health: Health,
    /// Its use; `None` if it cannot be read.
    pub usage: Option<KeyUsage>,
}

impl DeploymentStatus {
    /// Builds the status of a deployment from its plan and its present view.
    pub fn new(plan: &Deployment, view: &View, now: Now) -> DeploymentStatus {
        let worst =
            view.worst(plan.stable).and_then(|n| view.versions.get(n)).map(|version| &version.standing.phase);
        let cause = worst.and_then(Phase::cause);
        let stage = view.ramp.and_then(|position| position.stage);
        let guard = plan.guard_at(stage);
        let unreadable = "the state in shared data cannot be read: stable serves everything";
        let versions = plan.versions.iter().zip(&view.versions).enumerate().map(|(n, (version, seen))| {
            let is_stable = n == plan.stable;
            let tally = &seen.tally;
            VersionStatus {
                id: version.id.clone(),
                stable: is_stable,
                weight: percent(configured(plan, version, is_stable, stage)),
                effective_weight: percent(Bps::new(seen.share).unwrap_or(Bps::ZERO)),
                requests: tally.judged,
                errors: tally.bad,
                error_rate: error_rate(tally),
                latency_ms: LatencyStatus::new(tally),
                cluster: version.cluster.clone(),
                phase: (!is_stable).then(|| seen.standing.phase.kind()),
                evidence: seen.evidence,
                epoch: seen.standing.epoch,
                requests_total: seen.totals.judged,
                errors_total: seen.totals.bad,
            }
        });
        DeploymentStatus {
            name: plan.name.clone(),
            release: plan.release.clone(),
            phase: worst.map_or(PhaseKind::Active, Phase::kind),
            stage,
            versions: versions.collect(),
            reason: if view.unreadable { Some(unreadable.to_owned()) } else { cause.map(reason) },
            since: cause.map(|cause| cause.wall),
            evidence: view.versions.iter().map(|version| version.evidence).max().unwrap_or(0),
            mode: guard.mode,
            recovery: worst.and_then(|phase| recovery(phase, plan.recovery, now)),
            window: guard.window,
            ramp: plan.ramp.as_ref().map(|ramp| RampStatus::new(ramp, view.ramp, now)),
        }
    }
}

/// Returns the configured share, under a ramp that of the stage.
fn configured(plan: &Deployment, version: &Version, is_stable: bool, stage: Option<u32>) -> Bps {
    let canary = plan.ramp.as_ref().map(|ramp| ramp.weight(stage));
    let rest = |share: Bps| Bps::new(WHOLE.saturating_sub(share.get())).unwrap_or(Bps::ZERO);
    match canary {
        Some(share) if is_stable => rest(share),
        Some(share) => share,
        None => version.weight.unwrap_or(Bps::ZERO),
    }
}

fn percent(share: Bps) -> Hundredths {
    Hundredths(u64::from(share.get()))
}

fn error_rate(tally: &Tally) -> Hundredths {
    // A broken stream counts when it breaks. Its answer may have left the window by then.
    let bad = tally.bad.min(tally.judged);
    Hundredths(bad.saturating_mul(10_000).checked_div(tally.judged).unwrap_or(0))
}

impl LatencyStatus {
    fn new(tally: &Tally) -> LatencyStatus {
        let percentile = |bps| tally.latency.percentile_millis(bps);
        LatencyStatus {
            avg: tally.latency.mean().map(|mean| Hundredths(mean.0 / 10)),
            p50: percentile(5000),
            p95: percentile(9500),
            p99: percentile(9900),
        }
    }
}

fn reason(cause: &Cause) -> String {
    let by = if cause.by_operator() { "by hand: " } else { "" };
    [by, &cause.text].concat()
}

/// Says how the phase will end; `None` while there is nothing to recover from.
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

impl RampStatus {
    fn new(ramp: &Ramp, position: Option<Position>, now: Now) -> RampStatus {
        let next_stage_at = match position {
            Some(Position { stage: None, .. }) => ramp.start,
            Some(position) => {
                let left = position.time_left(ramp, now.mono);
                left.map(|left| wall(now, now.mono.plus(left)))
            }
            None => None,
        };
        let stage = |stage: &Stage| StageStatus {
            weight: percent(stage.weight),
            duration: stage.duration,
            min_requests: stage.min_requests,
        };
        RampStatus { paused: ramp.paused, next_stage_at, stages: ramp.stages.iter().map(stage).collect() }
    }
}

impl WarningStatus {
    /// Builds the status of a warning.
    pub fn new(held: &Held) -> WarningStatus {
        let Held { warning, since, .. } = held;
        WarningStatus {
            what: warning.condition,
            deployment: named(&warning.deployment),
            version: named(&warning.version),
            since: *since,
            text: warning.text.clone(),
        }
    }
}

impl KeyPoolStatus {
    /// Builds the status of a pool; `keys` in the plan's order.
    pub fn new(plan: &KeyPool, keys: Vec<KeyView>, now: Now) -> KeyPoolStatus {
        let keys = plan.keys.iter().zip(keys).map(|(key, seen)| {
            let same_as = seen.same_as.and_then(|n| plan.keys.get(n));
            KeyStatus::new(key, seen, same_as, now)
        });
        KeyPoolStatus { name: plan.name.clone(), keys: keys.collect() }
    }
}

impl KeyStatus {
    fn new(key: &Key, seen: KeyView, same_as: Option<&Key>, now: Now) -> KeyStatus {
        let has_value = seen.mask.is_some();
        // In the past while a trial is running or until a request asks for one: its end is not known.
        let until = Some(seen.health.until).filter(|_| has_value && !seen.health.is_active());
        KeyStatus {
            id: key.id.clone(),
            mask: seen.mask.unwrap_or_default(),
            status: seen.health.status,
            weight: if seen.same_as.is_some() { 0 } else { key.weight },
            errors: seen.usage.map(|used| used.errors),
            requests: seen.usage.map(|used| used.requests),
            last_used: seen.usage.map(|used| used.last).filter(|last| last.0 > 0),
            until: until.map(|until| wall(now, until)),
            has_value,
            same_as: same_as.map(|key| key.id.clone()),
        }
    }
}

/// Converts a moment of the monotonic clock to the wall clock.
fn wall(now: Now, at: Micros) -> UnixMillis {
    let (ahead, ago) = (at.since(now.mono).whole_millis(), now.mono.since(at).whole_millis());
    UnixMillis(now.wall.0.saturating_add(ahead).saturating_sub(ago))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Counts, VersionView};
    use crate::keys::health::{Observation, Others};
    use crate::outcome::blame::KeyOutcome;
    use crate::plan::Plan;
    use crate::plan::guard::Probe;
    use crate::report::json::to_json;
    use crate::report::status::Status;
    use crate::rollout::{OPERATOR, Standing};
    use crate::testing;
    use crate::time::{Millis, Span};
    use serde_json::{Value, json};

    const NOW: Now = Now { mono: Micros(100_000_000), wall: UnixMillis(1_795_168_800_000) };

    fn seen(phase: Phase, share: u16) -> VersionView {
        let standing = Standing { phase, ..Standing::NEW };
        VersionView { standing, share, tally: Tally::default(), totals: Counts::default(), evidence: 0 }
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
        serde_json::from_str(&to_json(&DeploymentStatus::new(&plan.deployments[0], view, NOW))).unwrap()
    }

    #[test]
    fn a_deployment_at_rest() {
        let mut stable = seen(Phase::Active, 9000);
        (stable.tally.judged, stable.tally.bad) = (3, 1);
        (1..=3).for_each(|n| stable.tally.latency.record(Span(n * 1_500)));
        stable.totals = Counts { judged: 70, bad: 2 };
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
    fn the_worst_canary_gives_the_phase() {
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
            updated_at: NOW.mono,
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
                client: 1,
            },
            Others { active: true, trusted: true, work: true },
            &plan,
        );
        let used =
            KeyUsage { requests: 9, errors: 4, last: UnixMillis(1_795_168_799_000), ..KeyUsage::default() };
        let keys = [
            KeyView { mask: Some("…6789".to_owned()), same_as: None, health: limited, usage: Some(used) },
            KeyView {
                mask: None,
                same_as: Some(0),
                health: Health::WITHOUT_VALUE,
                usage: Some(KeyUsage::default()),
            },
        ];
        let key_pools = vec![KeyPoolStatus::new(&plan, keys.into(), NOW)];
        let status = Status { now: NOW.wall, deployments: Vec::new(), key_pools, warnings: Vec::new() };
        let value: Value = serde_json::from_str(&to_json(&status)).unwrap();
        assert_eq!(
            value,
            json!({"now": "2026-11-20T10:00:00.000Z", "deployments": [], "warnings": [], "key_pools": [{"name": "p", "keys": [
                {"id": "a", "mask": "…6789", "status": "rate_limited", "weight": 3, "errors": 4, "requests": 9,
                 "last_used": "2026-11-20T09:59:59.000Z", "until": "2026-11-20T10:01:00.000Z", "has_value": true,
                 "same_as": null},
                {"id": "b", "mask": "", "status": "disabled", "weight": 0, "errors": 0, "requests": 0,
                 "last_used": null, "until": null, "has_value": false, "same_as": "a"},
            ]}]})
        );
    }
}
