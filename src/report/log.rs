//! The last events of the process, kept in shared data for the admin role.

use crate::shared::codec::{Found, Reader, Writer};
use crate::time::UnixMillis;

/// Most events that are kept.
pub const KEPT: usize = 64;
/// Longest event that is kept, in bytes; the log of Envoy has longer ones too.
pub const LINE_BYTES: usize = 4096;

/// The last events of the process, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    /// Number of events so far, with those that were not kept.
    pub count: u64,
    /// The last events, at most [`KEPT`].
    pub lines: Vec<String>,
}

impl EventLog {
    /// Adds an event; the oldest makes room. Returns whether it is kept: an event that is too long is only counted.
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

    /// Returns whether the log has the same event of this time or later.
    pub fn has_since(&self, line: &str, since: UnixMillis) -> bool {
        let since = since.to_string();
        let without_time = |line: &str| line.replacen(time_of(line), "", 1);
        let wanted = without_time(line);
        self.lines.iter().any(|held| time_of(held) >= since.as_str() && without_time(held) == wanted)
    }

    /// Encodes the log.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(self.count);
        w.number(u64::try_from(self.lines.len()).unwrap_or(0));
        self.lines.iter().for_each(|line| w.text(line));
        w.finish()
    }

    /// Decodes a log; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<EventLog> {
        Found::read(bytes, read)
    }
}

/// Returns the events of several logs, newest first. Times sort as their texts do.
pub fn newest_first(logs: Vec<EventLog>) -> Vec<String> {
    let mut lines: Vec<String> = logs.into_iter().flat_map(|log| log.lines.into_iter().rev()).collect();
    // The sort is stable: events of one log within the same millisecond keep their order.
    lines.sort_by(|a, b| time_of(b).cmp(time_of(a)));
    lines
}

/// Returns the time of an event, as text.
fn time_of(line: &str) -> &str {
    let begins = line.find(TIME).map(|at| at.saturating_add(TIME.len()));
    begins.and_then(|at| line.get(at..)?.split('"').next()).unwrap_or_default()
}

/// The text before the time of an event.
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
    use crate::report::event::Event;

    fn exhausted(pool: &str, millis: u64) -> String {
        Event::pool_exhausted(pool, UnixMillis(millis)).line()
    }

    #[test]
    fn the_events_of_two_logs_come_newest_first() {
        let (mut one, mut other) = (EventLog::default(), EventLog::default());
        for (n, pool) in ["first", "second", "third"].iter().enumerate() {
            one.push(&exhausted(pool, 1_795_168_800_000 + 1000 * (n as u64 / 2)));
        }
        other.push(&exhausted("between", 1_795_168_800_500));
        let lines = newest_first(vec![one, other]);
        let names = ["\"third\"", "\"between\"", "\"second\"", "\"first\""];
        assert!(lines.iter().zip(names).all(|(line, name)| line.contains(name)), "{lines:#?}");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn an_event_that_another_worker_has_just_added_is_found() {
        let at = |millis| exhausted("relay", millis);
        let mut log = EventLog::default();
        log.push(&at(10_000));
        for (line, since, found) in [
            (at(10_007), 9_000, true),
            (at(10_007), 10_000, true),
            (at(16_000), 11_000, false),
            (exhausted("openai", 10_007), 9_000, false),
        ] {
            assert_eq!(log.has_since(&line, UnixMillis(since)), found, "{line} since {since}");
        }
    }

    #[test]
    fn the_last_64_events_are_kept() {
        let mut log = EventLog::default();
        assert!((0..100).all(|n| log.push(&format!("event {n}"))));
        assert!(!log.push(&"x".repeat(5000)), "it is too long");
        assert_eq!((log.count, log.lines.len()), (101, 64));
        assert_eq!((log.lines[0].as_str(), log.lines[63].as_str()), ("event 36", "event 99"));
        assert!(matches!(EventLog::decode(Some(&log.encode())), Found::Value(back) if back == log));
        assert!(matches!(EventLog::decode(Some(&log.encode()[..20])), Found::Undecodable));
    }
}
