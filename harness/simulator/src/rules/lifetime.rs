//! A ratio of errors to requests since the beginning: counters without a window.

use super::{Event, Rule};

/// All outcomes.
#[derive(Default)]
pub struct Lifetime {
    good: u64,
    bad: u64,
}

impl Rule for Lifetime {
    fn observe(&mut self, event: Event) -> bool {
        self.good += event.good;
        self.bad += u64::from(event.bad);
        let all = self.good + self.bad;
        all >= 20 && self.bad * 20 > all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_day_hides_a_bad_hour() {
        let mut rule = Lifetime::default();
        rule.observe(Event { at: 0, good: 9_500, bad: false });
        let bad = Event { at: 0, good: 0, bad: true };
        assert_eq!((1..10_000).find(|_| rule.observe(bad)), Some(501));
    }
}
