//! Fixed intervals: what controllers with a metrics store look at.

use super::Event;

/// Counts by intervals that follow each other from the beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intervals {
    length: u64,
    ends: u64,
    good: u64,
    bad: u64,
}

impl Intervals {
    pub(super) fn new(length: u64) -> Intervals {
        Intervals { length, ends: length, good: 0, bad: 0 }
    }

    /// Adds an event. At the end of an interval, calls `check` with its good and bad outcomes. Good outcomes came before
    /// this moment, a failure comes after the end of the interval that ends now.
    pub(super) fn add(&mut self, event: Event, mut check: impl FnMut(u64, u64)) {
        self.good += event.good;
        while event.at >= self.ends {
            check(self.good, self.bad);
            (self.good, self.bad) = (0, 0);
            self.ends += self.length;
        }
        self.bad += u64::from(event.bad);
    }
}
