//! The statistics of one version: the record in shared data, and the outcomes that this worker has seen since its last merge.
//!
//! A response counts when its headers arrive, not when its body ends. Otherwise a fast failure would be weighed against only those
//! good answers that have already ended, and a healthy canary that streams for a minute would look broken for its first minute. A
//! stream that breaks later adds a bad outcome then. For the same reason there are two streaks of failures: answers in a row that
//! failed (ended by a good answer's headers) and streams in a row that broke (ended by a stream's good end). Either may reach the
//! limit.

use crate::judge::histogram::{CELLS, Histogram};
use crate::judge::window::{BUCKETS, Tally, Window};
use crate::outcome::Outcome;
use crate::outcome::blame::Event;
use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Micros, Millis, Span};

/// Failures in a row, as one worker has seen them: enough to continue another worker's streak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Streak {
    /// Whether a success was seen.
    broken: bool,
    /// Failures before the first success.
    leading: u32,
    /// The most failures in a row.
    longest: u32,
    /// Failures since the last success.
    trailing: u32,
}

impl Streak {
    fn bad(&mut self) {
        self.trailing = self.trailing.saturating_add(1);
        self.longest = self.longest.max(self.trailing);
        if !self.broken {
            self.leading = self.trailing;
        }
    }

    fn good(&mut self) {
        (self.broken, self.trailing) = (true, 0);
    }

    /// Returns the length of a streak that was `length` before.
    fn continues(self, length: u32) -> u32 {
        if self.broken { self.trailing } else { length.saturating_add(self.trailing) }
    }

    /// Returns the longest length that a streak reached, if it was `length` before; 0 if none has grown.
    fn reached(self, length: u32) -> u32 {
        match self.leading {
            0 => self.longest,
            leading => self.longest.max(length.saturating_add(leading)),
        }
    }

    /// Returns whether the current streak has begun here.
    fn begins(self, length: u32) -> bool {
        self.trailing > 0 && (self.broken || length == 0)
    }
}

/// The outcomes of a version that this worker has seen since its last merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    tally: Tally,
    answers: Streak,
    streams: Streak,
}

impl Delta {
    /// Adds an event.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Answered { outcome, latency } => {
                match outcome {
                    Outcome::Good => {
                        self.tally.judged = self.tally.judged.saturating_add(1);
                        self.answers.good();
                    }
                    Outcome::Bad => {
                        self.tally.judged = self.tally.judged.saturating_add(1);
                        self.tally.bad = self.tally.bad.saturating_add(1);
                        self.answers.bad();
                    }
                    _ => {}
                }
                if let Some(latency) = latency {
                    self.tally.latency.record(latency);
                }
            }
            Event::Broke => {
                self.tally.bad = self.tally.bad.saturating_add(1);
                self.streams.bad();
            }
            Event::Completed => self.streams.good(),
        }
    }

    /// Returns whether a merge would change nothing that is worth a write.
    pub fn is_empty(&self) -> bool {
        self.tally.is_empty() && *self == Delta::default()
    }

    /// Returns the number of outcomes, for the count of dropped ones.
    pub fn outcomes(&self) -> u64 {
        self.tally.judged.max(self.tally.bad)
    }
}

/// The shared record of one version of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Epoch of the version's standing; outcomes of another epoch do not mix.
    pub epoch: u32,
    /// Judged outcomes since the release was first seen.
    pub total: u64,
    /// Bad outcomes among them.
    pub total_bad: u64,
    /// Answers that failed in a row.
    pub answers_failed: u32,
    /// Streams that broke in a row.
    pub streams_broken: u32,
    /// Time of the last merge.
    pub last: Micros,
    /// Start of the last streak of failures.
    pub failing_since: Micros,
    /// The sliding window.
    pub window: Window,
}

impl Stats {
    /// Makes an empty record.
    pub fn new(epoch: u32, window: Millis) -> Stats {
        Stats {
            epoch,
            total: 0,
            total_bad: 0,
            answers_failed: 0,
            streams_broken: 0,
            last: Micros(0),
            failing_since: Micros(0),
            window: Window::new(window),
        }
    }

    /// Merges the outcomes that a worker has seen.
    pub fn merge(&mut self, delta: &Delta, now: Micros) {
        self.total = self.total.saturating_add(delta.tally.judged);
        self.total_bad = self.total_bad.saturating_add(delta.tally.bad);
        let (answers, streams) = (delta.answers, delta.streams);
        if answers.begins(self.answers_failed) || streams.begins(self.streams_broken) {
            self.failing_since = now;
        }
        let longest_streak = answers.reached(self.answers_failed).max(streams.reached(self.streams_broken));
        self.answers_failed = answers.continues(self.answers_failed);
        self.streams_broken = streams.continues(self.streams_broken);
        self.last = self.last.max(now);
        self.window.add(now, &Tally { longest_streak, ..delta.tally.clone() });
    }

    /// Begins a new epoch. Counts of the old epoch no longer judge; the totals go on.
    pub fn restart(&mut self, epoch: u32, window: Millis) {
        *self = Stats { total: self.total, total_bad: self.total_bad, ..Stats::new(epoch, window) };
    }

    /// Returns the numbers that a verdict needs, at `now`.
    pub fn snapshot(&self, now: Micros, span: Millis) -> Snapshot {
        // A streak to which nothing was added for a whole window says nothing about now.
        let recent = now.since(self.last) <= span.span();
        let failed_in_a_row = if recent { self.answers_failed.max(self.streams_broken) } else { 0 };
        let (failing_since, heard) = (self.failing_since, self.last);
        Snapshot { tally: self.window.sum(now), failed_in_a_row, failing_since, heard }
    }

    /// Encodes the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::from(self.epoch));
        w.number(self.total);
        w.number(self.total_bad);
        w.number(u64::from(self.answers_failed));
        w.number(u64::from(self.streams_broken));
        w.number(self.last.0);
        w.number(self.window.width().0);
        let buckets = self.window.buckets();
        w.number(u64::try_from(buckets.len()).unwrap_or(0));
        for (slot, tally) in buckets {
            w.number(*slot);
            w.number(tally.judged);
            w.number(tally.bad);
            w.number(tally.latency.sum().0);
            let cells = tally.latency.cells();
            w.number(u64::try_from(cells.len()).unwrap_or(0));
            for (cell, count) in cells {
                w.number(u64::from(*cell));
                w.number(*count);
            }
        }
        w.number(self.failing_since.0);
        buckets.iter().for_each(|(_, tally)| w.number(u64::from(tally.longest_streak)));
        w.finish()
    }

    /// Decodes a record; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Stats> {
        Found::read(bytes, read_stats)
    }
}

fn read_stats(bytes: &[u8]) -> Option<Stats> {
    let mut r = Reader::new(bytes)?;
    let epoch = r.small()?;
    let total = r.number()?;
    let total_bad = r.number()?;
    let answers_failed = r.small()?;
    let streams_broken = r.small()?;
    let last = Micros(r.number()?);
    let width = r.number()?;
    let count = r.count(usize::try_from(BUCKETS).ok()?)?;
    let mut buckets = Vec::with_capacity(count);
    for _ in 0..count {
        let slot = r.number()?;
        let (judged, bad, sum) = (r.number()?, r.number()?, r.number()?);
        let occupied = r.count(usize::from(CELLS))?;
        let mut cells = Vec::with_capacity(occupied);
        for _ in 0..occupied {
            cells.push((r.small()?, r.number()?));
        }
        let latency = Histogram::from_parts(cells, Span(sum))?;
        buckets.push((slot, Tally { judged, bad, latency, longest_streak: 0 }));
    }
    let mut failing_since = Micros(0);
    // The record of a build without streaks in the window ends here.
    if !r.is_empty() {
        failing_since = Micros(r.number()?);
        for (_, tally) in &mut buckets {
            tally.longest_streak = r.small()?;
        }
    }
    r.end()?;
    let window = Window::from_parts(Span(width), buckets)?;
    Some(Stats { epoch, total, total_bad, answers_failed, streams_broken, last, failing_since, window })
}

/// The numbers of one version that a verdict is based on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Outcomes in the window.
    pub tally: Tally,
    /// The longer of the two streaks of failures; 0 unless the version's last outcome, within the window, was a failure.
    pub failed_in_a_row: u32,
    /// Start of that streak, or of the last one before it.
    pub failing_since: Micros,
    /// Time of the version's last outcome.
    pub heard: Micros,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::codec::TOMBSTONE;

    const WINDOW: Millis = Millis(30_000);
    const GOOD: Event = Event::Answered { outcome: Outcome::Good, latency: Some(Span(9_000)) };
    const BAD: Event = Event::Answered { outcome: Outcome::Bad, latency: None };

    fn merged(events: &[&[Event]]) -> Stats {
        let mut stats = Stats::new(0, WINDOW);
        for batch in events {
            let mut delta = Delta::default();
            batch.iter().for_each(|event| delta.add(*event));
            stats.merge(&delta, Micros(5));
        }
        stats
    }

    #[test]
    fn a_streak_goes_on_across_merges_and_a_success_ends_it() {
        assert_eq!(merged(&[&[BAD, BAD], &[BAD]]).answers_failed, 3);
        assert_eq!(merged(&[&[BAD, BAD], &[GOOD, BAD]]).answers_failed, 1);
        assert_eq!(merged(&[&[BAD, BAD], &[BAD, GOOD]]).answers_failed, 0);
    }

    #[test]
    fn broken_streams_in_a_row_are_not_hidden_by_the_headers_of_the_next() {
        let stats = merged(&[&[GOOD, Event::Broke, GOOD, Event::Broke], &[GOOD, Event::Broke]]);
        assert_eq!((stats.answers_failed, stats.streams_broken), (0, 3));
        let stats = merged(&[&[GOOD, Event::Broke, GOOD, Event::Completed]]);
        assert_eq!(stats.streams_broken, 0);
    }

    #[test]
    fn the_window_knows_its_longest_streak_across_and_within_merges() {
        let longest = |events: &[&[Event]]| merged(events).snapshot(Micros(5), WINDOW).tally.longest_streak;
        assert_eq!(longest(&[&[BAD, BAD], &[BAD, GOOD, BAD]]), 3, "across merges");
        assert_eq!(longest(&[&[GOOD, BAD, BAD, GOOD, BAD]]), 2, "within one");
        assert_eq!(longest(&[&[GOOD, Event::Broke, GOOD, Event::Broke]]), 2, "of streams");
        let mut stats = merged(&[&[BAD, BAD, BAD]]);
        let mut delta = Delta::default();
        [GOOD, BAD].iter().for_each(|event| delta.add(*event));
        stats.merge(&delta, Micros(35_000_000));
        let seen = stats.snapshot(Micros(35_000_000), WINDOW);
        assert_eq!(seen.tally.longest_streak, 1, "the three have left with their bucket");
        assert_eq!((seen.failed_in_a_row, seen.failing_since, seen.heard.0), (1, seen.heard, 35_000_000));
    }

    #[test]
    fn the_record_of_a_build_without_streaks_in_the_window_can_be_read() {
        let stats = merged(&[&[GOOD], &[GOOD]]);
        let bytes = stats.encode();
        let Found::Value(back) = Stats::decode(Some(&bytes[..bytes.len() - 2])) else {
            panic!("undecodable")
        };
        assert_eq!(back, stats);
    }

    #[test]
    fn outcomes_that_judge_no_version_leave_no_trace() {
        for outcome in [
            Outcome::RateLimited,
            Outcome::Exhausted,
            Outcome::KeyRejected,
            Outcome::CallerError,
            Outcome::Cancelled,
            Outcome::Local,
        ] {
            let mut delta = Delta::default();
            delta.add(Event::Answered { outcome, latency: None });
            assert!(delta.is_empty(), "{outcome:?}");
        }
    }

    #[test]
    fn a_record_comes_back_from_its_bytes() {
        let stats = merged(&[&[GOOD, BAD, Event::Broke], &[GOOD]]);
        assert!(matches!(Stats::decode(Some(&stats.encode())), Found::Value(back) if back == stats));
        assert!(matches!(Stats::decode(None), Found::Nothing));
        assert!(matches!(Stats::decode(Some(TOMBSTONE)), Found::Nothing));
        assert!(matches!(Stats::decode(Some(&stats.encode()[..9])), Found::Undecodable));
    }

    #[test]
    fn a_new_epoch_forgets_the_window_but_not_the_totals() {
        let mut stats = merged(&[&[BAD, BAD, GOOD, BAD]]);
        stats.restart(1, WINDOW);
        assert_eq!((stats.total, stats.total_bad, stats.epoch), (4, 3, 1));
        assert_eq!(stats.snapshot(Micros(5), WINDOW), Snapshot::default());
    }
}
