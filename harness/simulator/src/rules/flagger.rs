//! Flagger's documented example: `interval: 1m`, `threshold: 10`, `request-success-rate` at least 99.

use super::window::Intervals;
use super::{Event, Rule, SECOND};

/// Given up at the tenth failed check in all.
pub struct Flagger {
    intervals: Intervals,
    failed: u32,
}

impl Default for Flagger {
    fn default() -> Flagger {
        Flagger { intervals: Intervals::new(60 * SECOND), failed: 0 }
    }
}

impl Rule for Flagger {
    fn observe(&mut self, event: Event) -> bool {
        let failed = &mut self.failed;
        self.intervals.add(event, |good, bad| *failed += u32::from(bad * 100 > good + bad));
        self.failed >= 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a canary with these outcomes a minute is given up, in minutes.
    fn given_up(minutes: u64, of: impl Fn(u64) -> (u64, u64)) -> Option<u64> {
        let mut rule = Flagger::default();
        (0..minutes).find(|minute| {
            let (good, bad) = of(*minute);
            let begin = minute * 60 * SECOND;
            (0..bad).for_each(|i| {
                rule.observe(Event { at: begin + i + 1, good: 0, bad: true });
            });
            rule.observe(Event { at: begin + 60 * SECOND, good, bad: false })
        })
    }

    #[test]
    fn a_dead_canary_takes_ten_minutes() {
        assert_eq!(given_up(60, |_| (0, 300)), Some(9));
    }

    #[test]
    fn failed_checks_add_up_over_hours() {
        assert_eq!(given_up(600, |minute| (100, if minute % 20 == 0 { 5 } else { 0 })), Some(180));
    }

    #[test]
    fn exactly_ninety_nine_percent_is_enough() {
        assert_eq!(given_up(600, |_| (99, 1)), None);
    }

    #[test]
    fn a_minute_without_requests_is_no_failed_check() {
        assert_eq!(given_up(600, |_| (0, 0)), None);
    }
}
