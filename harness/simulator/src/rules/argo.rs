//! Argo Rollouts' documented example: `interval: 5m`, `successCondition: result[0] >= 0.95`, `failureLimit: 3`.

use super::window::Intervals;
use super::{Event, Rule, SECOND};

/// Given up when more measurements have failed than the limit allows.
pub struct Argo {
    intervals: Intervals,
    failed: u32,
}

impl Default for Argo {
    fn default() -> Argo {
        Argo { intervals: Intervals::new(300 * SECOND), failed: 0 }
    }
}

impl Rule for Argo {
    fn observe(&mut self, event: Event) -> bool {
        let failed = &mut self.failed;
        self.intervals.add(event, |good, bad| *failed += u32::from(bad * 20 > good + bad));
        self.failed > 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_up(good: u64, bad: u64) -> Option<u64> {
        let mut rule = Argo::default();
        (0..200).find(|interval| {
            let begin = interval * 300 * SECOND;
            (0..bad).for_each(|i| {
                rule.observe(Event { at: begin + i + 1, good: 0, bad: true });
            });
            rule.observe(Event { at: begin + 300 * SECOND, good, bad: false })
        })
    }

    #[test]
    fn a_dead_canary_takes_twenty_minutes() {
        assert_eq!(given_up(0, 1500), Some(3));
    }

    #[test]
    fn exactly_ninety_five_percent_is_enough() {
        assert_eq!(given_up(95, 5), None);
        assert_eq!(given_up(94, 6), Some(3));
    }
}
