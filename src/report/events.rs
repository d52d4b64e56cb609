//! Events: every transition as one line of JSON, for the log, for alerts, and kept for whoever asks later.
//!
//! Written by hand, not by a derive: the order of the members is part of what makes a line readable at three in the morning.

use std::fmt::Write as _;

use crate::engine::Transition;
use crate::json::quoted;
use crate::judge::proportion::interval;
use crate::keys::pool::KeyTransition;
use crate::problems::{Problem, Problems};
use crate::rollout::Cause;
use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Now, UnixMillis};
use crate::units::Hundredths;

/// Events kept.
pub const KEPT: usize = 64;
/// Longest event, in bytes; a longer one is not kept (it is logged all the same).
const LINE_BYTES: usize = 4096;

/// What happened, in one word, for filters on the log.
pub fn kind(transition: &Transition) -> &'static str {
    match (transition.enforced, transition.from == transition.to) {
        (false, _) if transition.to == "holding" => "would_hold",
        (false, _) => "would_roll_back",
        (true, true) => "stage",
        (true, false) => "transition",
    }
}

/// A transition as one line of JSON. `id` names this transition of this Envoy: a receiver that gets it twice may drop one.
pub fn line(transition: &Transition, now: UnixMillis) -> String {
    let t = transition;
    let mut out = String::with_capacity(512);
    let stage = t.stage.map_or_else(|| "null".to_owned(), |stage| stage.to_string());
    let id = format!("{}/{}/{}/{}/{}/{}/{}", t.deployment, t.release, t.version, t.epoch, t.to, stage, now.0);
    let (reason, why) = match &t.cause {
        Some(cause) => (quoted(&cause.label), quoted(&cause.text)),
        None => ("null".to_owned(), "null".to_owned()),
    };
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        r#"{{"bellwether":"{}","time":"{now}","deployment":{},"release":{},"version":{},"from":"{}","to":"{}","stage":{stage},"reason":{reason},"why":{why},"evidence":{{"#,
        kind(t),
        quoted(&t.deployment),
        quoted(&t.release),
        quoted(&t.version),
        t.from,
        t.to,
    );
    side(&mut out, "canary", t.canary);
    out.push(',');
    side(&mut out, "stable", t.stable);
    if let Some((score, limit)) = t.score {
        let (score, limit) = (Hundredths::of(score), Hundredths::of(limit));
        let _ = write!(out, r#","score":{score},"limit":{limit}"#);
    }
    out.push_str(r#"},"requests":["#);
    for (n, request) in t.requests.iter().enumerate() {
        let comma = if n > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{}", quoted(request));
    }
    let by = if by_operator(t) { r#","by":"operator""# } else { "" };
    let text = quoted(&sentence(t));
    let _ = write!(out, r#"],"epoch":{}{by},"text":{text},"id":{}}}"#, t.epoch, quoted(&id));
    out
}

fn by_operator(t: &Transition) -> bool {
    t.cause.as_ref().is_some_and(Cause::by_operator)
}

/// What happened, for somebody who reads nothing else.
fn sentence(t: &Transition) -> String {
    let by = if by_operator(t) { " by hand" } else { "" };
    let stage = t.stage.unwrap_or(0).saturating_add(1).to_string();
    let (before, after) = match (t.to, t.from) {
        ("holding", _) if !t.enforced => ("would have held ", ""),
        _ if !t.enforced => ("would have rolled back ", ""),
        (to, from) if to == from => ("the ramp goes on with ", ", stage "),
        ("rolled_back", _) => ("rolled back ", by),
        ("holding", _) => ("holding ", ""),
        ("probing", _) => ("probing ", " with single requests"),
        _ if !by.is_empty() => ("resumed ", by),
        (_, "holding") => ("no longer holding ", ": a window without trouble"),
        _ => ("back to normal with ", ": its probes went well"),
    };
    let (colon, why) = match &t.cause {
        _ if after == ", stage " => ("", stage.as_str()),
        Some(cause) => (": ", cause.text.as_str()),
        None => ("", ""),
    };
    [before, &t.version, after, colon, why].concat()
}

/// A key's change of status as one line of JSON.
pub fn key_line(pool: &str, key: &str, moved: &KeyTransition, now: Now) -> String {
    let (from, to) = (moved.from.name(), moved.to.name());
    let seconds = Hundredths(moved.until.since(now.mono).0 / 10_000);
    let (time, pool, key) = (now.wall, quoted(pool), quoted(key));
    format!(
        r#"{{"bellwether":"key","time":"{time}","pool":{pool},"key":{key},"from":"{from}","to":"{to}","for_seconds":{seconds}}}"#
    )
}

/// That a pool has no usable key left, as one line of JSON.
pub fn pool_line(pool: &str, now: Now) -> String {
    let text = quoted(&["pool ", pool, " has no usable key left"].concat());
    format!(
        r#"{{"bellwether":"pool_exhausted","time":"{}","pool":{},"text":{text}}}"#,
        now.wall,
        quoted(pool)
    )
}

/// Problems that the event of a rejected configuration lists; the log has all of them.
const PROBLEMS: usize = 8;
/// Longest of them there, in bytes.
const PROBLEM_BYTES: usize = 300;

/// That a configuration was rejected, as one line of JSON. `filter`: the name of the filter that it was for.
pub fn rejected_line(filter: &str, problems: &Problems, now: UnixMillis) -> String {
    let shown = |problem: &Problem| {
        let whole = problem.to_string();
        whole.get(..whole.floor_char_boundary(PROBLEM_BYTES)).unwrap_or_default().to_owned()
    };
    let shown: Vec<String> = problems.0.iter().take(PROBLEMS).map(shown).collect();
    let more = match problems.0.len().saturating_sub(1) {
        0 => String::new(),
        1 => "; and one more".to_owned(),
        more => format!("; and {more} more"),
    };
    let first = shown.first().map_or("", String::as_str);
    let text = quoted(&["configuration rejected, nothing was changed: ", first, &more].concat());
    let filter = quoted(filter);
    let with = |count| {
        let listed = shown.iter().take(count).map(|problem| quoted(problem)).collect::<Vec<_>>().join(",");
        format!(
            r#"{{"bellwether":"configuration_rejected","time":"{now}","filter":{filter},"problems":[{listed}],"text":{text}}}"#
        )
    };
    // Control characters take six bytes each: fewer problems then, lest the event be too long to be kept.
    (1..=PROBLEMS).rev().map(with).find(|line| line.len() <= LINE_BYTES).unwrap_or_else(|| with(0))
}

/// Counts, the rate in percent, and the interval in which the true rate lies.
fn side(out: &mut String, name: &str, (judged, bad): (u64, u64)) {
    let (low, high) = interval(bad, judged);
    let percent = |share: f64| Hundredths::of(share * 100.0);
    let rate = percent(if judged == 0 { 0.0 } else { bad as f64 / judged as f64 });
    let (low, high) = (percent(low), percent(high));
    let _ = write!(
        out,
        r#""{name}":{{"requests":{judged},"errors":{bad},"rate":{rate},"rate_between":[{low},{high}]}}"#
    );
}

/// The last events of the process, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    /// Events so far, dropped ones included.
    pub count: u64,
    /// At most [`KEPT`].
    pub lines: Vec<String>,
}

impl EventLog {
    /// Adds an event; the oldest makes room. Whether it is kept: one that is too long is only counted.
    pub fn push(&mut self, line: &str) -> bool {
        self.count = self.count.saturating_add(1);
        let kept = line.len() <= LINE_BYTES;
        if kept {
            self.lines.push(line.to_owned());
        }
        let over = self.lines.len().saturating_sub(KEPT);
        self.lines.drain(..over);
        kept
    }

    /// Whether the same has been said at this time or later.
    pub fn has_said(&self, line: &str, since: UnixMillis) -> bool {
        let since = since.to_string();
        let without_time = |line: &str| line.replacen(time_of(line), "", 1);
        let said = without_time(line);
        self.lines.iter().any(|held| time_of(held) >= since.as_str() && without_time(held) == said)
    }

    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(self.count);
        w.number(u64::try_from(self.lines.len()).unwrap_or(0));
        self.lines.iter().for_each(|line| w.text(line));
        w.finish()
    }

    /// From bytes; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<EventLog> {
        Found::read(bytes, read)
    }
}

/// The events of several logs, newest first: each has its time, whose text sorts as it does.
pub fn newest_first(logs: Vec<EventLog>) -> Vec<String> {
    let mut lines: Vec<String> = logs.into_iter().flat_map(|log| log.lines.into_iter().rev()).collect();
    // Stable: what one log has of the same millisecond stays in its order.
    lines.sort_by(|a, b| time_of(b).cmp(time_of(a)));
    lines
}

/// When an event was, as text.
fn time_of(line: &str) -> &str {
    let begins = line.find(TIME).map(|at| at.saturating_add(TIME.len()));
    begins.and_then(|at| line.get(at..)?.split('"').next()).unwrap_or_default()
}

/// Before the time of an event.
const TIME: &str = "\"time\":\"";

fn read(bytes: &[u8]) -> Option<EventLog> {
    let mut r = Reader::new(bytes)?;
    let (events, kept) = (r.number()?, r.count(KEPT)?);
    let mut lines = Vec::with_capacity(kept);
    for _ in 0..kept {
        lines.push(r.text(LINE_BYTES)?);
    }
    r.end()?;
    Some(EventLog { count: events, lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::OPERATOR;
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
            from: "active",
            to: "rolled_back",
            stage: Some(0),
            enforced: true,
            cause: Some(cause()),
            canary: (9, 7),
            stable: (180, 0),
            score: Some((16.88, 16.12)),
            requests: vec!["a1".to_owned(), "b\n2".to_owned()],
        }
    }

    #[test]
    fn an_event_is_one_line_of_json_with_its_evidence() {
        let text = line(&transition(), UnixMillis(1_795_168_800_123));
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
        let is = |from, to, enforced, cause: Option<Cause>, text: &str| {
            let t = Transition { from, to, enforced, cause, ..transition() };
            let line: serde_json::Value = serde_json::from_str(&line(&t, UnixMillis(0))).unwrap();
            assert_eq!(line["text"], text);
            assert_eq!(line.get("by").is_some(), text.contains("by hand"), "{line}");
        };
        let failed = || Some(cause());
        is("active", "rolled_back", true, failed(), "rolled back v2: 7 of 9 failed \"hard\"");
        is("active", "rolled_back", false, failed(), "would have rolled back v2: 7 of 9 failed \"hard\"");
        is("active", "holding", false, failed(), "would have held v2: 7 of 9 failed \"hard\"");
        is("active", "holding", true, failed(), "holding v2: 7 of 9 failed \"hard\"");
        is("holding", "active", true, None, "no longer holding v2: a window without trouble");
        is("rolled_back", "probing", true, None, "probing v2 with single requests");
        is("probing", "active", true, None, "back to normal with v2: its probes went well");
        is("active", "active", true, None, "the ramp goes on with v2, stage 1");
        is("active", "rolled_back", true, Some(by_hand.clone()), "rolled back v2 by hand: wrong tone");
        is("rolled_back", "active", true, Some(by_hand), "resumed v2 by hand: wrong tone");
    }

    #[test]
    fn a_rejected_configuration_is_an_event_that_is_short_enough_to_be_kept() {
        let problem = |path: &str, got: &str| Problem {
            path: path.to_owned(),
            rule: "must be a string".to_owned(),
            got: Some(got.to_owned()),
        };
        let parsed = |problems: Vec<Problem>| {
            let line = rejected_line("bellwether-router", &Problems(problems), UnixMillis(0));
            assert!(line.len() <= LINE_BYTES && !line.contains('\n'), "{} bytes", line.len());
            serde_json::from_str::<serde_json::Value>(&line).unwrap()
        };
        let event = parsed(vec![problem("deployments[0].name", "7")]);
        assert_eq!(event["bellwether"], "configuration_rejected");
        assert_eq!(event["filter"], "bellwether-router");
        assert_eq!(event["problems"], serde_json::json!(["deployments[0].name: must be a string, got 7"]));
        let told =
            "configuration rejected, nothing was changed: deployments[0].name: must be a string, got 7";
        assert_eq!(event["text"], told);
        let event = parsed((0..3).map(|_| problem("a", "7")).collect());
        assert_eq!(event["text"].as_str().unwrap().rsplit_once("; ").unwrap().1, "and 2 more");
        let event = parsed((0..500).map(|_| problem(&"ä".repeat(400), "7")).collect());
        assert_eq!(event["problems"].as_array().unwrap().len(), 8);
        let event = parsed((0..500).map(|_| problem(&"\u{1}".repeat(400), "7")).collect());
        assert_eq!(event["problems"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_events_of_two_logs_come_newest_first() {
        let (mut one, mut other) = (EventLog::default(), EventLog::default());
        let at = |millis| Now { mono: Micros(0), wall: UnixMillis(millis) };
        for (n, version) in ["first", "second", "third"].iter().enumerate() {
            let t = Transition { version: (*version).to_owned(), ..transition() };
            one.push(&line(&t, UnixMillis(1_795_168_800_000 + 1000 * (n as u64 / 2))));
        }
        other.push(&pool_line("between", at(1_795_168_800_500)));
        let lines = newest_first(vec![one, other]);
        let names = ["\"third\"", "\"between\"", "\"second\"", "\"first\""];
        assert!(lines.iter().zip(names).all(|(line, name)| line.contains(name)), "{lines:#?}");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn what_another_worker_has_just_said_is_known() {
        let at = |millis| pool_line("relay", Now { mono: Micros(0), wall: UnixMillis(millis) });
        let mut log = EventLog::default();
        log.push(&at(10_000));
        for (line, since, said) in [
            (at(10_007), 9_000, true),
            (at(10_007), 10_000, true),
            (at(16_000), 11_000, false),
            (pool_line("openai", Now { mono: Micros(0), wall: UnixMillis(10_007) }), 9_000, false),
        ] {
            assert_eq!(log.has_said(&line, UnixMillis(since)), said, "{line} since {since}");
        }
    }

    #[test]
    fn the_last_64_events_are_kept() {
        let mut log = EventLog::default();
        assert!((0..100).all(|n| log.push(&format!("event {n}"))));
        assert!(!log.push(&"x".repeat(5000)), "too long, and that is said");
        assert_eq!((log.count, log.lines.len()), (101, 64));
        assert_eq!((log.lines[0].as_str(), log.lines[63].as_str()), ("event 36", "event 99"));
        assert!(matches!(EventLog::decode(Some(&log.encode())), Found::Value(back) if back == log));
        assert!(matches!(EventLog::decode(Some(&log.encode()[..20])), Found::Undecodable));
    }
}
