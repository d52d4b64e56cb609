//! Events: each is one line of JSON, for the log, for alerts and for the admin role. Members are written in the order of the
//! fields here.

use serde::{Deserialize, Serialize};

use crate::engine::{Change, Counts, Transition};
use crate::judge::proportion::interval;
use crate::keys::health;
use crate::keys::pool::KeyTransition;
use crate::problems::{Problem, Problems};
use crate::report::json::to_json;
use crate::report::log::LINE_BYTES;
use crate::rollout::{Cause, PhaseKind};
use crate::shared::warnings::{Condition, Warning};
use crate::time::{Now, UnixMillis};
use crate::units::Hundredths;

/// An event. The member `bellwether` names its kind, for filters on the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "bellwether", rename_all = "snake_case")]
pub enum Event {
    /// A canary went from one phase to another.
    Transition(TransitionEvent),
    /// A stage of the ramp began.
    Stage(TransitionEvent),
    /// In observe mode: a canary would have been held.
    WouldHold(TransitionEvent),
    /// In observe mode: a canary would have been rolled back.
    WouldRollBack(TransitionEvent),
    /// A key changed its status.
    Key(KeyEvent),
    /// A pool has no usable key left.
    PoolExhausted(PoolEvent),
    /// The provider refuses the last keys of a pool, which stay in use.
    KeySuspect(PoolEvent),
    /// The provider has refused a key, and the client got 503 in its place.
    KeyRefused(PoolEvent),
    /// A configuration was rejected.
    ConfigurationRejected(RejectedEvent),
    /// A warning began to stand.
    Warning(WarningEvent),
}

/// The document of `GET /events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The last events, newest first.
    pub events: Vec<Event>,
}

/// An event about a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionEvent {
    /// Time of the change.
    pub time: UnixMillis,
    /// Name of the deployment.
    pub deployment: String,
    /// Its release.
    pub release: String,
    /// Id of the canary.
    pub version: String,
    /// Phase before.
    pub from: PhaseKind,
    /// Phase after; in observe mode the phase that it would have gone to.
    pub to: PhaseKind,
    /// Stage of the ramp after the change.
    pub stage: Option<u32>,
    /// Label of the reason.
    pub reason: Option<String>,
    /// The reason in words, with its numbers.
    pub why: Option<String>,
    /// The numbers that the change is based on.
    pub evidence: EvidenceEvent,
    /// Ids of a few requests that went badly.
    pub requests: Vec<String>,
    /// Epoch of the canary after the change.
    pub epoch: u32,
    /// The operator, where the change was ordered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// The event in one sentence.
    pub text: String,
    /// Identity of this transition of this Envoy. A receiver that gets it twice may drop one.
    pub id: String,
}

/// The author of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// An operator.
    Operator,
}

/// The numbers that a change is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceEvent {
    /// Outcomes of the canary.
    pub canary: OutcomesEvent,
    /// Outcomes of stable.
    pub stable: OutcomesEvent,
    /// Score of the comparison, if it decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Hundredths>,
    /// The score from which on the canary is blamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Hundredths>,
}

/// Outcomes of a version in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomesEvent {
    /// Judged outcomes.
    pub requests: u64,
    /// Bad outcomes.
    pub errors: u64,
    /// Bad outcomes in percent.
    pub rate: Hundredths,
    /// Interval of the true rate, in percent.
    pub rate_between: [Hundredths; 2],
}

/// An event about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEvent {
    /// Time of the change.
    pub time: UnixMillis,
    /// Name of the pool.
    pub pool: String,
    /// Id of the key.
    pub key: String,
    /// Status before.
    pub from: health::Status,
    /// Status after.
    pub to: health::Status,
    /// Time until its next trial, in seconds.
    pub for_seconds: Hundredths,
}

/// An event about a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolEvent {
    /// Time of the event.
    pub time: UnixMillis,
    /// Name of the pool.
    pub pool: String,
    /// The event in one sentence.
    pub text: String,
}

/// An event about a rejected configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedEvent {
    /// Time of the rejection.
    pub time: UnixMillis,
    /// Name of the filter that the configuration was for.
    pub filter: String,
    /// The first problems; the log has all of them.
    pub problems: Vec<String>,
    /// The event in one sentence.
    pub text: String,
}

/// An event about a condition that rejects nothing and loses something in silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningEvent {
    /// Time at which the warning began to stand.
    pub time: UnixMillis,
    /// The condition.
    pub what: Condition,
    /// Name of the deployment, if the warning is about one.
    pub deployment: Option<String>,
    /// Id of the version, if the warning is about one.
    pub version: Option<String>,
    /// The condition, its consequence and its cure in one sentence.
    pub text: String,
}

/// Problems that the event of a rejected configuration lists.
const PROBLEMS: usize = 8;
/// Longest of them there, in bytes.
const PROBLEM_BYTES: usize = 300;

impl Event {
    /// Reports a transition.
    pub fn transition(transition: &Transition, now: UnixMillis) -> Event {
        let event = TransitionEvent::new(transition, now);
        match transition.change {
            Change::Moved { .. } => Event::Transition(event),
            Change::StageBegun => Event::Stage(event),
            Change::Observed { to: PhaseKind::Holding, .. } => Event::WouldHold(event),
            Change::Observed { .. } => Event::WouldRollBack(event),
        }
    }

    /// Reports a key's change of status.
    pub fn key(pool: &str, key: &str, moved: &KeyTransition, now: Now) -> Event {
        Event::Key(KeyEvent {
            time: now.wall,
            pool: pool.to_owned(),
            key: key.to_owned(),
            from: moved.from,
            to: moved.to,
            for_seconds: Hundredths(moved.until.since(now.mono).0 / 10_000),
        })
    }

    /// Reports that a pool has no usable key left.
    pub fn pool_exhausted(pool: &str, now: UnixMillis) -> Event {
        let text = ["pool ", pool, " has no usable key left"].concat();
        Event::PoolExhausted(PoolEvent { time: now, pool: pool.to_owned(), text })
    }

    /// Reports that a key is suspect: the provider refuses it, and no other key of its pool is active.
    pub fn key_suspect(pool: &str, key: &str, now: UnixMillis) -> Event {
        let text = ["key ", key, " of pool ", pool, " is refused, and stays in use: no other key is active"];
        Event::KeySuspect(PoolEvent { time: now, pool: pool.to_owned(), text: text.concat() })
    }

    /// Reports that the provider has refused a key of a pool with this status, and that the client got 503 instead.
    pub fn key_refused(pool: &str, status: u16, now: UnixMillis) -> Event {
        let status = status.to_string();
        let text = ["the provider refused a key of pool ", pool, " with ", &status, "; the client got 503"];
        Event::KeyRefused(PoolEvent { time: now, pool: pool.to_owned(), text: text.concat() })
    }

    /// Reports that a configuration for the filter of this name was rejected.
    pub fn rejected(filter: &str, problems: &Problems, now: UnixMillis) -> Event {
        let shown = |problem: &Problem| {
            let whole = problem.to_string();
            whole.get(..whole.floor_char_boundary(PROBLEM_BYTES)).unwrap_or_default().to_owned()
        };
        let mut shown: Vec<String> = problems.0.iter().take(PROBLEMS).map(shown).collect();
        let more = match problems.0.len().saturating_sub(1) {
            0 => String::new(),
            1 => "; and one more".to_owned(),
            more => format!("; and {more} more"),
        };
        let first = shown.first().map_or("", String::as_str);
        let text = ["configuration rejected, nothing was changed: ", first, &more].concat();
        let event = |problems: &[String]| {
            Event::ConfigurationRejected(RejectedEvent {
                time: now,
                filter: filter.to_owned(),
                problems: problems.to_vec(),
                text: text.clone(),
            })
        };
        // A control character takes six bytes. An event that would be too long to be kept lists fewer problems.
        while !shown.is_empty() && event(&shown).line().len() > LINE_BYTES {
            shown.pop();
        }
        event(&shown)
    }

    /// Reports that a warning began to stand.
    pub fn warning(warning: &Warning, now: UnixMillis) -> Event {
        Event::Warning(WarningEvent {
            time: now,
            what: warning.condition,
            deployment: named(&warning.deployment),
            version: named(&warning.version),
            text: warning.text.clone(),
        })
    }

    /// Writes the event as one line of JSON.
    pub fn line(&self) -> String {
        to_json(self)
    }
}

/// Returns a name, unless it is empty.
pub(super) fn named(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

impl TransitionEvent {
    fn new(t: &Transition, now: UnixMillis) -> TransitionEvent {
        let stage = t.stage.map_or_else(|| "null".to_owned(), |stage| stage.to_string());
        let (from, to) = (t.change.from(), t.change.to());
        TransitionEvent {
            time: now,
            deployment: t.deployment.clone(),
            release: t.release.clone(),
            version: t.version.clone(),
            from,
            to,
            stage: t.stage,
            reason: t.cause.as_ref().map(|cause| cause.label.clone()),
            why: t.cause.as_ref().map(|cause| cause.text.clone()),
            evidence: EvidenceEvent {
                canary: OutcomesEvent::new(t.evidence.canary),
                stable: OutcomesEvent::new(t.evidence.stable),
                score: t.evidence.score.map(|score| Hundredths::of(score.value)),
                limit: t.evidence.score.map(|score| Hundredths::of(score.limit)),
            },
            requests: t.evidence.requests.clone(),
            epoch: t.epoch,
            by: by_operator(t).then_some(By::Operator),
            text: sentence(t),
            id: format!(
                "{}/{}/{}/{}/{}/{stage}/{}",
                t.deployment,
                t.release,
                t.version,
                t.epoch,
                to.name(),
                now.0
            ),
        }
    }
}

impl OutcomesEvent {
    fn new(counts: Counts) -> OutcomesEvent {
        let Counts { judged, bad } = counts;
        let (low, high) = interval(bad, judged);
        let percent = |share: f64| Hundredths::of(share * 100.0);
        OutcomesEvent {
            requests: judged,
            errors: bad,
            rate: percent(if judged == 0 { 0.0 } else { bad as f64 / judged as f64 }),
            rate_between: [percent(low), percent(high)],
        }
    }
}

fn by_operator(t: &Transition) -> bool {
    t.cause.as_ref().is_some_and(Cause::by_operator)
}

/// Describes a transition in one sentence, for readers of nothing else.
fn sentence(t: &Transition) -> String {
    let by_operator = by_operator(t);
    let by_hand = if by_operator { " by hand" } else { "" };
    let (before, after) = match t.change {
        Change::StageBegun => {
            let stage = t.stage.unwrap_or(0).saturating_add(1).to_string();
            return ["the ramp goes on with ", &t.version, ", stage ", &stage].concat();
        }
        Change::Observed { to: PhaseKind::Holding, .. } => ("would have held ", ""),
        Change::Observed { .. } => ("would have rolled back ", ""),
        Change::Moved { from, to } => match to {
            PhaseKind::RolledBack => ("rolled back ", by_hand),
            PhaseKind::Holding => ("holding ", ""),
            PhaseKind::Probing => ("probing ", " with single requests"),
            PhaseKind::Active if by_operator => ("resumed ", by_hand),
            PhaseKind::Active if from == PhaseKind::Holding => {
                ("no longer holding ", ": a window without trouble")
            }
            PhaseKind::Active => ("back to normal with ", ": its probes went well"),
        },
    };
    let why = t.cause.as_ref().map_or(["", ""], |cause| [": ", &cause.text]);
    [before, &t.version, after, &why.concat()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Evidence, Score};
    use crate::rollout::OPERATOR;
    use crate::rollout::PhaseKind::{Active, Holding, Probing, RolledBack};
    use crate::time::Micros;

    fn cause() -> Cause {
        Cause {
            label: "worse_errors".to_owned(),
            text: "7 of 9 failed \"hard\"".to_owned(),
            since: Micros(0),
            wall: UnixMillis(0),
        }
    }

    fn transition() -> Transition {
        Transition {
            deployment: "gpt4-upgrade".to_owned(),
            release: "2026-11-20a".to_owned(),
            version: "v2".to_owned(),
            epoch: 1,
            stage: Some(0),
            change: Change::Moved { from: Active, to: RolledBack },
            cause: Some(cause()),
            evidence: Evidence {
                canary: Counts { judged: 9, bad: 7 },
                stable: Counts { judged: 180, bad: 0 },
                score: Some(Score { value: 16.88, limit: 16.12 }),
                requests: vec!["a1".to_owned(), "b\n2".to_owned()],
            },
        }
    }

    #[test]
    fn an_event_is_one_line_of_json_with_its_evidence() {
        let text = Event::transition(&transition(), UnixMillis(1_795_168_800_123)).line();
        assert_eq!(
            text,
            concat!(
                r#"{"bellwether":"transition","time":"2026-11-20T10:00:00.123Z","deployment":"gpt4-upgrade","#,
                r#""release":"2026-11-20a","version":"v2","from":"active","to":"rolled_back","stage":0,"#,
                r#""reason":"worse_errors","why":"7 of 9 failed \"hard\"","evidence":{"#,
                r#""canary":{"requests":9,"errors":7,"rate":77.78,"rate_between":[28.35,96.87]},"#,
                r#""stable":{"requests":180,"errors":0,"rate":0.00,"rate_between":[0.00,5.67]},"#,
                r#""score":16.88,"limit":16.12},"requests":["a1","b\n2"],"epoch":1,"#,
                r#""text":"rolled back v2: 7 of 9 failed \"hard\"","#,
                r#""id":"gpt4-upgrade/2026-11-20a/v2/1/rolled_back/0/1795168800123"}"#
            )
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert!(!text.contains('\n'));
    }

    #[test]
    fn every_event_has_a_sentence() {
        let by_hand = Cause { label: OPERATOR.to_owned(), text: "wrong tone".to_owned(), ..cause() };
        let is = |change, cause: Option<Cause>, text: &str| {
            let event = Event::transition(&Transition { change, cause, ..transition() }, UnixMillis(0));
            let line: serde_json::Value = serde_json::from_str(&event.line()).unwrap();
            assert_eq!(line["text"], text);
            assert_eq!(line.get("by").is_some(), text.contains("by hand"), "{line}");
        };
        let moved = |from, to| Change::Moved { from, to };
        let observed = |to| Change::Observed { from: Active, to };
        let failed = || Some(cause());
        is(moved(Active, RolledBack), failed(), "rolled back v2: 7 of 9 failed \"hard\"");
        is(observed(RolledBack), failed(), "would have rolled back v2: 7 of 9 failed \"hard\"");
        is(observed(Holding), failed(), "would have held v2: 7 of 9 failed \"hard\"");
        is(moved(Active, Holding), failed(), "holding v2: 7 of 9 failed \"hard\"");
        is(moved(Holding, Active), None, "no longer holding v2: a window without trouble");
        is(moved(RolledBack, Probing), None, "probing v2 with single requests");
        is(moved(Probing, Active), None, "back to normal with v2: its probes went well");
        is(Change::StageBegun, None, "the ramp goes on with v2, stage 1");
        is(moved(Active, RolledBack), Some(by_hand.clone()), "rolled back v2 by hand: wrong tone");
        is(moved(RolledBack, Active), Some(by_hand), "resumed v2 by hand: wrong tone");
    }

    #[test]
    fn a_rejected_configuration_is_an_event_that_is_short_enough_to_be_kept() {
        let problem = |path: &str, got: &str| Problem {
            path: path.to_owned(),
            rule: "must be a string".to_owned(),
            got: Some(got.to_owned()),
        };
        let parsed = |problems: Vec<Problem>| {
            let line = Event::rejected("bellwether-router", &Problems(problems), UnixMillis(0)).line();
            assert!(line.len() <= LINE_BYTES && !line.contains('\n'), "{} bytes", line.len());
            serde_json::from_str::<serde_json::Value>(&line).unwrap()
        };
        let event = parsed(vec![problem("deployments[0].name", "7")]);
        assert_eq!(event["bellwether"], "configuration_rejected");
        assert_eq!(event["filter"], "bellwether-router");
        assert_eq!(event["problems"], serde_json::json!(["deployments[0].name: must be a string, got 7"]));
        let text =
            "configuration rejected, nothing was changed: deployments[0].name: must be a string, got 7";
        assert_eq!(event["text"], text);
        let event = parsed((0..3).map(|_| problem("a", "7")).collect());
        assert_eq!(event["text"].as_str().unwrap().rsplit_once("; ").unwrap().1, "and 2 more");
        let event = parsed((0..500).map(|_| problem(&"ä".repeat(400), "7")).collect());
        assert_eq!(event["problems"].as_array().unwrap().len(), 8);
        let event = parsed((0..500).map(|_| problem(&"\u{1}".repeat(400), "7")).collect());
        assert_eq!(event["problems"].as_array().unwrap().len(), 1);
    }
}
