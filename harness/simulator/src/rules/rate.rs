//! "More than 5 % of at least 20 requests in a minute": the limit most people write first.

use std::collections::VecDeque;

use super::{Event, Rule, SECOND};

const WINDOW: u64 = 60 * SECOND;

/// A sliding window, exact for failures and to the second for good outcomes.
#[derive(Default)]
pub struct Rate {
    held: VecDeque<Event>,
    good: u64,
    bad: u64,
}

impl Rule for Rate {
    fn observe(&mut self, event: Event) -> bool {
        self.good += event.good;
        self.bad += u64::from(event.bad);
        self.held.push_back(event);
        while let Some(old) = self.held.front().filter(|old| old.at + WINDOW <= event.at) {
            self.good -= old.good;
            self.bad -= u64::from(old.bad);
            self.held.pop_front();
        }
        let all = self.good + self.bad;
        all >= 20 && self.bad * 20 > all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_is_allowed_and_more_is_not() {
        let mut rule = Rate::default();
        assert!(!rule.observe(Event { at: 1, good: 38, bad: true }));
        assert!(!rule.observe(Event { at: 2, good: 0, bad: true }), "exactly 2 of 40");
        assert!(rule.observe(Event { at: 3, good: 0, bad: true }));
    }

    #[test]
    fn too_few_say_nothing_and_what_is_a_minute_old_is_forgotten() {
        let mut rule = Rate::default();
        for i in 0..100 {
            assert!(!rule.observe(Event { at: i * 4 * SECOND, good: 0, bad: true }), "15 in the window");
        }
    }
}
