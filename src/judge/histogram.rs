//! A mergeable latency histogram: log-linear cells, integers only.
//!
//! Eight linear cells an octave, the layout of HdrHistogram (G. Tene, hdrhistogram.org) with three significant bits: no logarithm, no
//! float, merged by addition on any worker. A percentile is reported as the harmonic mean of its cell's borders, which bounds the
//! relative error by 1/17, 5.9 %. Twice the cells would halve the error and double the bytes in shared data. Below 8 ms cells are
//! exact. Only occupied cells are held: an API's latencies spread over a few dozen of them.

use crate::time::{Millis, Span};

/// Cells: 8 exact ones, 8 for each octave from 8 ms to 2²⁰ ms (17 min), and one for everything above.
pub const CELLS: u8 = 8 + 17 * 8 + 1;

/// Counts of latencies; the sum is kept exactly for the mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Ascending by cell; counts above 0.
    cells: Vec<(u8, u64)>,
    sum: Span,
}

impl Histogram {
    /// Rebuilds a histogram from its parts; `None` unless the cells ascend, exist and hold something.
    pub fn from_parts(cells: Vec<(u8, u64)>, sum: Span) -> Option<Histogram> {
        let ascending = cells.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b));
        let sound = cells.iter().all(|(cell, count)| *cell < CELLS && *count > 0);
        (ascending && sound).then_some(Histogram { cells, sum })
    }

    /// Returns the occupied cells with their counts, ascending.
    pub fn cells(&self) -> &[(u8, u64)] {
        &self.cells
    }

    /// Returns the sum of all latencies.
    pub fn sum(&self) -> Span {
        self.sum
    }

    /// Records one latency.
    pub fn record(&mut self, latency: Span) {
        self.add(cell_of(latency.whole_millis()), 1);
        self.sum = self.sum.saturating_add(latency);
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        for (cell, count) in &other.cells {
            self.add(*cell, *count);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    fn add(&mut self, cell: u8, count: u64) {
        match self.cells.binary_search_by_key(&cell, |(c, _)| *c) {
            Ok(at) => {
                if let Some((_, held)) = self.cells.get_mut(at) {
                    *held = held.saturating_add(count);
                }
            }
            Err(at) => self.cells.insert(at, (cell, count)),
        }
    }

    /// Returns the number of recorded latencies.
    pub fn count(&self) -> u64 {
        self.cells.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    /// Returns the arithmetic mean; `None` when empty.
    pub fn mean(&self) -> Option<Span> {
        self.sum.0.checked_div(self.count()).map(Span)
    }

    /// Returns the latency in milliseconds that `bps` basis points of all recorded latencies do not exceed (nearest rank), within
    /// 5.9 %; `None` when empty. `bps` in `1..=10_000`.
    pub fn percentile_millis(&self, bps: u16) -> Option<u64> {
        self.percentile_cell(bps).map(representative)
    }

    /// Returns the upper border of that latency's cell: any latency above it is certainly above the percentile.
    pub fn percentile_ceiling(&self, bps: u16) -> Option<Span> {
        self.percentile_cell(bps).map(|cell| Span::from_millis(upper(cell)))
    }

    /// Counts the latencies that are certainly above `limit`: those in cells that begin above it.
    pub fn count_above(&self, limit: Millis) -> u64 {
        let border = cell_of(limit.0);
        let above = self.cells.iter().filter(|(cell, _)| *cell > border);
        above.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    fn percentile_cell(&self, bps: u16) -> Option<u8> {
        let wanted = u128::from(self.count()).saturating_mul(u128::from(bps)).div_ceil(10_000);
        let mut seen = 0u128;
        for (cell, count) in &self.cells {
            seen = seen.saturating_add(u128::from(*count));
            if seen >= wanted {
                return Some(*cell);
            }
        }
        None
    }
}

/// Returns the cell of a latency in milliseconds.
fn cell_of(millis: u64) -> u8 {
    if millis < 8 {
        return u8::try_from(millis).unwrap_or(0);
    }
    // 3..=63, so that the shift below is at least 0.
    let octave = 63u32.saturating_sub(millis.leading_zeros());
    let within = (millis >> octave.saturating_sub(3)) & 7;
    let cell = u64::from(octave.saturating_sub(3)).saturating_mul(8).saturating_add(within).saturating_add(8);
    u8::try_from(cell).unwrap_or(u8::MAX).min(CELLS.saturating_sub(1))
}

/// Returns the start of the next cell, in milliseconds.
fn upper(cell: u8) -> u64 {
    match cell.checked_sub(8) {
        None => u64::from(cell).saturating_add(1),
        Some(above) => u64::from(above & 7).saturating_add(9) << (above >> 3),
    }
}

/// Returns the latency that a cell stands for, in milliseconds: the harmonic mean of its borders `a` and `b`, `2ab/(a+b)`.
fn representative(cell: u8) -> u64 {
    let Some(above) = cell.checked_sub(8) else { return u64::from(cell) };
    let (octave, within) = (u32::from(above >> 3), u64::from(above & 7));
    let low = within.saturating_add(8) << octave;
    let high = within.saturating_add(9) << octave;
    let mean = 2u64.saturating_mul(low).saturating_mul(high).checked_div(low.saturating_add(high));
    mean.unwrap_or(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_up_to_17_minutes_is_represented_within_six_percent() {
        for millis in 0..1_048_576u64 {
            let shown = representative(cell_of(millis));
            let error = shown.abs_diff(millis) * 1000 / millis.max(1);
            assert!(error <= 60, "{millis} ms is shown as {shown} ms");
        }
    }

    #[test]
    fn cells_are_monotone_and_the_last_one_takes_the_rest() {
        let mut last = 0;
        for millis in 0..2_000_000u64 {
            let cell = cell_of(millis);
            assert!(cell >= last && cell < CELLS, "{millis}");
            last = cell;
        }
        assert_eq!(cell_of(u64::MAX), CELLS - 1);
        assert_eq!(cell_of(1 << 20), CELLS - 1);
        assert_eq!(cell_of((1 << 20) - 1), CELLS - 2);
    }

    #[test]
    fn a_cell_ends_where_the_next_begins() {
        for millis in 0..300_000u64 {
            let cell = cell_of(millis);
            assert!(millis < upper(cell), "{millis}");
            assert_eq!(cell_of(upper(cell)), cell + 1, "{millis}");
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut h = Histogram::default();
        for ms in 1..=7 {
            h.record(Span::from_millis(ms));
        }
        assert_eq!(h.percentile_millis(5000), Some(4));
        assert_eq!(h.percentile_millis(10_000), Some(7));
        assert_eq!(h.percentile_millis(1), Some(1));
        assert_eq!(h.mean(), Some(Span(4000)));
        assert_eq!(Histogram::default().percentile_millis(9900), None);
        assert_eq!(Histogram::default().mean(), None);
    }

    #[test]
    fn merging_equals_recording_together() {
        let (mut a, mut b, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for i in 0..1000u64 {
            let latency = Span(i * i * 37);
            if i % 3 == 0 {
                a.record(latency)
            } else {
                b.record(latency)
            }
            both.record(latency);
        }
        a.merge(&b);
        assert_eq!(a, both);
    }

    #[test]
    fn unsound_parts_are_refused() {
        assert!(Histogram::from_parts(vec![(1, 1), (1, 1)], Span::ZERO).is_none());
        assert!(Histogram::from_parts(vec![(2, 1), (1, 1)], Span::ZERO).is_none());
        assert!(Histogram::from_parts(vec![(CELLS, 1)], Span::ZERO).is_none());
        assert!(Histogram::from_parts(vec![(1, 0)], Span::ZERO).is_none());
        assert!(Histogram::from_parts(vec![(1, 1), (7, 2)], Span(9)).is_some());
    }
}
