//! The sliding window: the recent outcomes, in ten buckets.
//!
//! The counts are exact over a fixed span. A moving average, which decays, would let a short burst of failures fade before it is
//! judged. The window is cut into [`BUCKETS`] slots of absolute time (slot = time / width), so that every worker
//! puts the same moment into the same bucket and merging is addition. The sum covers between nine tenths and the whole of
//! the configured span. Time never runs backwards here (the monotonic clock), but a worker may be a little behind another:
//! its outcomes go into the newest slot.

use crate::judge::histogram::Histogram;
use crate::time::{Micros, Millis, Span};

/// Buckets of a window. Twice as many would make the window's edge half as coarse and shared values twice as long.
pub const BUCKETS: u64 = 10;

/// Outcomes of one version over some span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Good and bad outcomes, which judge a version (a stream counts when its headers arrive).
    pub judged: u64,
    /// Bad outcomes among them (a stream that breaks later counts when it breaks).
    pub bad: u64,
    /// Latencies, request seen → response headers, of good outcomes and of time-outs.
    pub latency: Histogram,
    /// Longest streak of failures that grew within the span, with its length from before the span.
    pub longest_streak: u32,
}

impl Tally {
    /// Adds another tally.
    pub fn merge(&mut self, other: &Tally) {
        self.judged = self.judged.saturating_add(other.judged);
        self.bad = self.bad.saturating_add(other.bad);
        self.latency.merge(&other.latency);
        self.longest_streak = self.longest_streak.max(other.longest_streak);
    }

    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.judged == 0 && self.bad == 0 && self.latency.cells().is_empty()
    }
}

/// The last [`BUCKETS`] slots that saw anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    width: Span,
    /// Ascending by slot, at most [`BUCKETS`].
    buckets: Vec<(u64, Tally)>,
}

impl Window {
    /// Makes an empty window over `span`.
    pub fn new(span: Millis) -> Window {
        Window { width: width_of(span), buckets: Vec::new() }
    }

    /// Rebuilds a window from its parts; `None` unless slots ascend, fit and the width is above 0.
    pub fn from_parts(width: Span, buckets: Vec<(u64, Tally)>) -> Option<Window> {
        let ascending = buckets.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b));
        let fits = u64::try_from(buckets.len()).is_ok_and(|n| n <= BUCKETS);
        (ascending && fits && width > Span::ZERO).then_some(Window { width, buckets })
    }

    /// Returns the width of a slot.
    pub fn width(&self) -> Span {
        self.width
    }

    /// Returns the buckets, oldest first, with their slot numbers.
    pub fn buckets(&self) -> &[(u64, Tally)] {
        &self.buckets
    }

    /// Changes the span of the window. Counts keep their time as well as the wider slots allow.
    pub fn resize(&mut self, span: Millis) {
        let width = width_of(span);
        if width == self.width {
            return;
        }
        let old = std::mem::replace(self, Window::new(span));
        for (slot, tally) in old.buckets {
            let began = slot.saturating_mul(old.width.0);
            self.add(Micros(began), &tally);
        }
    }

    /// Adds a tally at `now`, and forgets buckets that have left the window.
    pub fn add(&mut self, now: Micros, tally: &Tally) {
        let slot = self.slot(now);
        match self.buckets.last_mut() {
            Some((newest, held)) if *newest >= slot => held.merge(tally),
            _ => self.buckets.push((slot, tally.clone())),
        }
        let newest = self.buckets.last().map_or(slot, |(newest, _)| *newest);
        self.buckets.retain(|(held, _)| held.saturating_add(BUCKETS) > newest);
    }

    /// Returns the sum over the window that ends at `now`.
    pub fn sum(&self, now: Micros) -> Tally {
        let slot = self.slot(now);
        let mut sum = Tally::default();
        for (held, tally) in &self.buckets {
            if held.saturating_add(BUCKETS) > slot {
                sum.merge(tally);
            }
        }
        sum
    }

    fn slot(&self, now: Micros) -> u64 {
        now.0.checked_div(self.width.0).unwrap_or(0)
    }
}

fn width_of(span: Millis) -> Span {
    Span(span.span().0.checked_div(BUCKETS).unwrap_or(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(judged: u64, bad: u64) -> Tally {
        Tally { judged, bad, ..Tally::default() }
    }

    const SECOND: u64 = 1_000_000;

    #[test]
    fn outcomes_older_than_the_window_are_forgotten() {
        let mut w = Window::new(Millis(10_000));
        w.add(Micros(0), &tally(7, 7));
        w.add(Micros(5 * SECOND), &tally(1, 0));
        assert_eq!(w.sum(Micros(9 * SECOND)).judged, 8, "within ten seconds");
        assert_eq!(w.sum(Micros(10 * SECOND)).judged, 1, "the first slot has left");
        assert_eq!(w.sum(Micros(15 * SECOND)).judged, 0, "all have left");
    }

    #[test]
    fn a_worker_that_is_behind_adds_to_the_newest_slot() {
        let mut w = Window::new(Millis(10_000));
        w.add(Micros(50 * SECOND), &tally(1, 0));
        w.add(Micros(49 * SECOND), &tally(1, 1));
        assert_eq!(w.sum(Micros(50 * SECOND)), tally(2, 1));
    }

    #[test]
    fn a_window_never_holds_more_than_its_buckets() {
        let mut w = Window::new(Millis(1000));
        for i in 0..1000u64 {
            w.add(Micros(i * 30_000), &tally(1, 0));
        }
        assert!(w.buckets().len() <= 10);
    }

    #[test]
    fn the_longest_streak_in_the_window_counts() {
        let streak = |longest_streak| Tally { longest_streak, ..Tally::default() };
        let mut w = Window::new(Millis(10_000));
        w.add(Micros(0), &streak(7));
        w.add(Micros(SECOND), &streak(3));
        w.add(Micros(SECOND), &streak(2));
        assert_eq!(w.sum(Micros(9 * SECOND)).longest_streak, 7);
        assert_eq!(w.sum(Micros(10 * SECOND)).longest_streak, 3, "the seven have left");
    }

    #[test]
    fn resizing_keeps_outcomes_that_are_still_inside() {
        let mut w = Window::new(Millis(10_000));
        for i in 0..10u64 {
            w.add(Micros(i * SECOND), &tally(1, 0));
        }
        w.resize(Millis(5000));
        assert_eq!(w.sum(Micros(9 * SECOND)).judged, 5);
        w.resize(Millis(60_000));
        assert_eq!(w.sum(Micros(9 * SECOND)).judged, 5);
    }
}
