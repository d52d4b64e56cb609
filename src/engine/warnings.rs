//! Warnings about a plan in service: parts of it that cannot have the effect that the operator expects.

use crate::plan::guard::Guard;
use crate::plan::pool::Inject;
use crate::plan::{Deployment, Plan};
use crate::rollout::Phase;
use crate::shared::warnings::{Condition, Warning};
use crate::time::{Micros, Span};
use crate::units::Bps;

use super::View;

/// A limit on the error rate below this share (0.1 %) was probably meant as a fraction.
const LOW_RATE: Bps = Bps::of_permille(1);
/// Traffic is watched for so many windows of the guard, and for [`WATCH_MIN`], before a limit is said to be out of reach.
const WATCH_WINDOWS: u64 = 3;
/// Shortest time of watching (30 s).
const WATCH_MIN: Span = Span::from_secs(30);
/// Fewer outcomes of a canary than this say nothing about its traffic.
const WATCH_OUTCOMES: u64 = 5;

/// Returns the warnings that the plan alone gives rise to.
pub fn of_plan(plan: &Plan) -> Vec<Warning> {
    let mut found = Vec::new();
    for (n, deployment) in plan.deployments.iter().enumerate() {
        let ramp = deployment.ramp.iter().flat_map(|ramp| ramp.stages.iter().enumerate());
        let staged = ramp.map(|(stage, s)| (format!("deployments[{n}].ramp.stages[{stage}]"), &s.guard));
        let guards = [(format!("deployments[{n}]"), &deployment.guard)].into_iter().chain(staged);
        let low = |(_, guard): &(String, &Guard)| guard.max_error_rate.is_some_and(|rate| rate < LOW_RATE);
        // One is enough: a stage without a rate of its own has the deployment's.
        let Some((path, guard)) = guards.into_iter().find(low) else { continue };
        let rate = guard.max_error_rate.unwrap_or_default();
        let text = [
            &path,
            ".guard.max_error_rate is ",
            &rate.to_string(),
            ", which one failure among thousands of answers can break: the number is in percent, so 5 means 5 %",
        ]
        .concat();
        found.push(Warning::new(Condition::LowErrorRate, &deployment.name, "", text));
    }
    found
}

/// Returns the warning that a plan lacks a `keys` role, if it needs one.
pub fn keys_role_missing(plan: &Plan) -> Option<Warning> {
    let rotates = plan.pools.iter().find(|pool| {
        let usable = pool.keys.iter().filter(|key| key.weight > 0).count();
        pool.inject == Inject::Attempt && usable > 1
    });
    let fails_over = plan
        .deployments
        .iter()
        .find(|deployment| deployment.failover.is_some() && deployment.versions.len() > 1);
    let lost = match (rotates, fails_over) {
        (None, None) => return None,
        (Some(pool), None) => format!("a retry takes no other key of pool {}", pool.name),
        (None, Some(deployment)) => {
            format!("a failed request of {} does not go on to stable", deployment.name)
        }
        (Some(pool), Some(deployment)) => format!(
            "a retry takes no other key of pool {}, and a failed request of {} does not go on to stable",
            pool.name, deployment.name
        ),
    };
    let text = format!(
        "no keys role in this VM, so {lost}: load it as an upstream HTTP filter with the very same vm_config, or say \
         \"inject\": \"request\" and \"failover\": false"
    );
    Some(Warning::new(Condition::KeysRoleMissing, "", "", text))
}

/// Returns a warning for each deployment of `plan` that another document has as well.
pub fn duplicate_deployments(plan: &Plan, filter: &str, other: &Plan, other_filter: &str) -> Vec<Warning> {
    let held = |name: &str| other.deployments.iter().any(|deployment| deployment.name == name);
    let twice = plan.deployments.iter().filter(|deployment| held(&deployment.name));
    let warning = |deployment: &Deployment| {
        // Both filters find it: both say the same.
        let (first, second) =
            if filter < other_filter { (filter, other_filter) } else { (other_filter, filter) };
        let text = format!(
            "the documents of {first} and {second} both have a deployment {}: the two share one state, and a rollback of one is a \
             rollback of both; give them different names",
            deployment.name
        );
        Warning::new(Condition::DuplicateDeployment, &deployment.name, "", text)
    };
    twice.map(warning).collect()
}

/// Returns the warning that Envoy's circuit breaker refuses requests of a version.
pub fn breaker_open(deployment: &Deployment, version: usize) -> Option<Warning> {
    let version = deployment.versions.get(version)?;
    let text = format!(
        "the circuit breaker of cluster {} refuses requests of {} (flag UO), and clients get 503: raise max_connections, \
         max_pending_requests, max_requests or max_retries of the cluster, or lower the weight",
        version.cluster, version.id
    );
    Some(Warning::new(Condition::BreakerOpen, &deployment.name, &version.id, text))
}

/// The traffic of a deployment as one worker has watched it, to find limits that are out of its reach.
#[derive(Debug, Default)]
pub struct Watch {
    canaries: Vec<Watched>,
}

/// The traffic of one version.
#[derive(Debug, Clone, Copy)]
struct Watched {
    began: Micros,
    stage: Option<u32>,
    /// Outcomes of the canary before.
    canary_before: u64,
    /// Outcomes of stable before.
    stable_before: u64,
    /// Most outcomes in a window.
    most: u64,
}

impl Watch {
    /// Takes note of the traffic now. Returns a warning for each canary with limits out of reach.
    pub fn look(&mut self, deployment: &Deployment, view: &View, now: Micros) -> Vec<Warning> {
        let stage = view.ramp.and_then(|position| position.stage);
        let guard = deployment.guard_at(stage);
        let stable = view.versions.get(deployment.stable).map_or(0, |stable| stable.totals.judged);
        let mut found = Vec::new();
        for (n, seen) in view.versions.iter().enumerate() {
            let canary = seen.totals.judged;
            let fresh = Watched { began: now, stage, canary_before: canary, stable_before: stable, most: 0 };
            if self.canaries.len() <= n {
                self.canaries.push(fresh);
            }
            let (Some(held), Some(version)) = (self.canaries.get_mut(n), deployment.versions.get(n)) else {
                break;
            };
            let counts = n != deployment.stable
                && seen.share > 0
                && matches!(seen.standing.phase, Phase::Active)
                && held.stage == stage
                && held.canary_before <= canary
                && held.stable_before <= stable;
            if !counts {
                *held = fresh;
                continue;
            }
            held.most = held.most.max(seen.tally.judged);
            let whole = Span(guard.window.span().0.saturating_mul(WATCH_WINDOWS)).max(WATCH_MIN);
            let outcomes = canary.saturating_sub(held.canary_before);
            if now.since(held.began) >= whole && outcomes >= WATCH_OUTCOMES {
                let reach = Reach { most: held.most, compared: stable > held.stable_before };
                found.extend(reach.warning(guard, &deployment.name, &version.id));
            }
        }
        found
    }
}

/// The reach of a canary's traffic.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// Most outcomes in a window.
    most: u64,
    /// Whether stable had outcomes to compare with.
    compared: bool,
}

impl Reach {
    fn warning(self, guard: &Guard, deployment: &str, version: &str) -> Option<Warning> {
        let latency = &guard.max_latency;
        let latencies = [latency.avg, latency.p50, latency.p95, latency.p99];
        let wants_many = guard.max_error_rate.is_some() || latencies.iter().any(Option::is_some);
        let too_few = self.most < u64::from(guard.min_requests);
        let errors_in_reach = guard.max_errors.is_some_and(|max| self.most >= u64::from(max));
        let other = guard.max_consecutive_errors.is_some()
            || errors_in_reach
            || (guard.compare.is_some() && self.compared)
            || (wants_many && !too_few);
        let has_any = wants_many
            || guard.max_errors.is_some()
            || guard.max_consecutive_errors.is_some()
            || guard.compare.is_some();
        let needs = if wants_many && too_few {
            format!("its limits need {} (min_requests)", guard.min_requests)
        } else if let Some(max) = guard.max_errors.filter(|_| !errors_in_reach) {
            format!("max_errors is {max}")
        } else if !other && has_any {
            "stable had none to compare with".to_owned()
        } else {
            return None;
        };
        let (condition, rest) = if other {
            (Condition::LimitsCannotFire, "only the rest of the guard decides")
        } else {
            (Condition::GuardCannotFire, "nothing would roll it back")
        };
        let text = format!(
            "{version} has had at most {} outcomes in {}, and {needs}: {rest}; take a longer window, a smaller min_requests, \
             max_consecutive_errors, or the comparison with stable",
            self.most, guard.window
        );
        Some(Warning::new(condition, deployment, version, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::compile;
    use crate::engine::{Counts, VersionView};
    use crate::judge::window::Tally;
    use crate::rollout::Standing;

    fn plan(deployments: &str, pools: &str) -> Plan {
        let document = format!(r#"{{"deployments": [{deployments}], "key_pools": [{pools}]}}"#);
        compile(document.as_bytes(), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn deployment(name: &str, rest: &str) -> String {
        format!(
            r#"{{"name": "{name}", "stable": "v1", {rest} "versions": [
                {{"id": "v1", "weight": 90, "cluster": "a"}}, {{"id": "v2", "weight": 10, "cluster": "b"}}]}}"#
        )
    }

    #[test]
    fn a_rate_that_looks_like_a_fraction_is_named_with_its_path() {
        for (rate, low) in [("0.05", true), ("0.09", true), ("0.1", false), ("5", false)] {
            let guard = deployment("d", &format!(r#""guard": {{"max_error_rate": {rate}}},"#));
            let found = of_plan(&plan(&[deployment("first", ""), guard].join(","), ""));
            assert_eq!(found.len(), usize::from(low), "{rate}: {found:?}");
            for warning in found {
                assert_eq!((warning.condition, warning.deployment.as_str()), (Condition::LowErrorRate, "d"));
                let begin = format!("deployments[1].guard.max_error_rate is {rate} %");
                assert!(warning.text.starts_with(&begin), "{}", warning.text);
            }
        }
        let ramp = r#"{"name": "d", "stable": "v1", "versions": [{"id": "v1", "cluster": "a"}, {"id": "v2", "cluster": "b"}],
            "ramp": {"stages": [{"weight": 5, "for": "1h"}, {"weight": 9, "for": "1h", "guard": {"max_error_rate": 0.05}}]}}"#;
        let found = of_plan(&plan(ramp, ""));
        assert!(found[0].text.starts_with("deployments[0].ramp.stages[1].guard.max_error_rate"), "{found:?}");
    }

    #[test]
    fn a_keys_role_is_missed_where_keys_rotate_or_requests_fail_over() {
        let pool =
            |keys: &str, inject: &str| format!(r#"{{"name": "p", "inject": "{inject}", "keys": [{keys}]}}"#);
        let (one, two) =
            (r#"{"id": "a", "value": "1"}"#, r#"{"id": "a", "value": "1"}, {"id": "b", "value": "2"}"#);
        let spare = r#"{"id": "a", "value": "1"}, {"id": "b", "value": "2", "weight": 0}"#;
        let stays = deployment("d", r#""failover": false,"#);
        let alone =
            r#"{"name": "d", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "a"}]}"#;
        for (deployment, pool, said) in [
            (
                deployment("d", ""),
                pool(one, "request"),
                Some("so a failed request of d does not go on to stable:"),
            ),
            (stays.clone(), pool(two, "attempt"), Some("so a retry takes no other key of pool p:")),
            (
                deployment("d", ""),
                pool(two, "attempt"),
                Some("key of pool p, and a failed request of d does"),
            ),
            (stays.clone(), pool(two, "request"), None),
            (stays.clone(), pool(one, "attempt"), None),
            (stays, pool(spare, "attempt"), None),
            (alone.to_owned(), pool(one, "attempt"), None),
        ] {
            let plan = plan(&deployment, &pool);
            let found = keys_role_missing(&plan).map(|warning| warning.text);
            assert_eq!(found.is_some(), said.is_some(), "{deployment} {pool}: {found:?}");
            assert!(said.is_none_or(|said| found.as_ref().unwrap().contains(said)), "{found:?}");
        }
    }

    #[test]
    fn a_deployment_of_two_documents_is_named_alike_by_both() {
        let ours = plan(&[deployment("a", ""), deployment("b", "")].join(","), "");
        let theirs = plan(&[deployment("b", ""), deployment("c", "")].join(","), "");
        let found = duplicate_deployments(&ours, "one", &theirs, "other");
        assert_eq!(found, duplicate_deployments(&theirs, "other", &ours, "one"));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].text.starts_with("the documents of one and other both have a deployment b:"),
            "{found:?}"
        );
    }

    /// Outcomes of stable and of the canary so far, and of the canary in the window.
    fn view(stable: u64, canary: u64, in_window: u64) -> View {
        let version = |judged, tally| VersionView {
            standing: Standing::NEW,
            share: 5000,
            tally: Tally { judged: tally, ..Tally::default() },
            totals: Counts { judged, bad: 0 },
            evidence: 0,
        };
        View { ramp: None, versions: vec![version(stable, 0), version(canary, in_window)], unreadable: false }
    }

    fn watched(guard: &str, seconds: u64, at_end: &View) -> Option<(Condition, String)> {
        let plan = plan(&deployment("d", &format!(r#""guard": {{{guard}}},"#)), "");
        let (mut watch, at) = (Watch::default(), |seconds: u64| Micros(seconds * 1_000_000));
        assert_eq!(watch.look(&plan.deployments[0], &view(100, 50, 0), at(1000)), []);
        let found = watch.look(&plan.deployments[0], at_end, at(1000 + seconds));
        assert!(found.len() < 2, "{found:?}");
        found.into_iter().next().map(|warning| (warning.condition, warning.text))
    }

    #[test]
    fn a_guard_that_no_traffic_seen_can_break_is_named_after_three_windows() {
        let rate = r#""compare": false, "max_error_rate": 5, "window": "20s""#;
        let few = || view(200, 60, 19);
        let (condition, text) = watched(rate, 60, &few()).unwrap();
        assert_eq!(condition, Condition::GuardCannotFire);
        let begin = "v2 has had at most 19 outcomes in 20s, and its limits need 20 (min_requests): nothing would roll it back";
        assert!(text.starts_with(begin), "{text}");
        assert_eq!(watched(rate, 59, &few()), None, "not long enough");
        assert_eq!(watched(rate, 60, &view(200, 54, 4)), None, "no traffic to speak of");
        assert_eq!(watched(rate, 60, &view(200, 90, 20)), None, "enough");
        assert_eq!(
            watched(r#""compare": false"#, 60, &few()),
            None,
            "without a guard there is nothing to break"
        );
        assert_eq!(watched(r#""compare": false, "max_consecutive_errors": 5"#, 60, &few()), None);
        for (guard, canary, expected) in [
            (r#""compare": false, "max_latency": {"p99": "1s"}"#, 60, Some(Condition::GuardCannotFire)),
            (r#""compare": false, "max_errors": 20"#, 60, Some(Condition::GuardCannotFire)),
            (r#""compare": false, "max_errors": 19"#, 60, None),
            (r#""max_error_rate": 5"#, 60, Some(Condition::LimitsCannotFire)),
            ("", 60, None),
        ] {
            let window = if guard.is_empty() { r#""window": "20s""# } else { r#", "window": "20s""# };
            let found = watched(&[guard, window].concat(), 60, &view(200, canary, 19));
            assert_eq!(found.map(|(condition, _)| condition), expected, "{guard}");
        }
        // At a share of 100 % there is nothing to compare with.
        let (condition, text) = watched(r#""window": "20s""#, 60, &view(100, 90, 40)).unwrap();
        assert_eq!(condition, Condition::GuardCannotFire);
        assert!(text.contains("stable had none to compare with"), "{text}");
    }

    #[test]
    fn what_was_seen_in_another_phase_or_stage_does_not_count() {
        let plan = plan(
            &deployment("d", r#""guard": {"compare": false, "max_error_rate": 5, "window": "20s"},"#),
            "",
        );
        let at = |seconds: u64| Micros(seconds * 1_000_000);
        let mut watch = Watch::default();
        watch.look(&plan.deployments[0], &view(100, 50, 0), at(1000));
        let mut without = view(200, 60, 9);
        without.versions[1].share = 0;
        assert_eq!(watch.look(&plan.deployments[0], &without, at(1050)), []);
        assert_eq!(watch.look(&plan.deployments[0], &view(300, 70, 9), at(1100)), [], "begun anew");
        assert_eq!(watch.look(&plan.deployments[0], &view(300, 70, 9), at(1110)).len(), 1);
        // Once enough, always enough: nights are quiet.
        watch.look(&plan.deployments[0], &view(400, 90, 20), at(1111));
        assert_eq!(watch.look(&plan.deployments[0], &view(500, 99, 3), at(2000)), []);
    }
}
