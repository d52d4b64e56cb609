//! resilience4j's `CircuitBreaker` by default: a window of the last 100 calls, open at 50 % failures.

use super::{Event, Rule};

const CALLS: u64 = 100;

/// The last hundred calls, as the numbers of those that failed.
#[derive(Default)]
pub struct Resilience4j {
    calls: u64,
    failures: std::collections::VecDeque<u64>,
}

impl Rule for Resilience4j {
    fn observe(&mut self, event: Event) -> bool {
        self.calls += event.good + u64::from(event.bad);
        if event.bad {
            self.failures.push_back(self.calls);
        }
        while self.failures.front().is_some_and(|call| call + CALLS <= self.calls) {
            self.failures.pop_front();
        }
        self.calls >= CALLS && self.failures.len() as u64 * 2 >= CALLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_at_half_of_the_last_hundred_and_not_before_a_hundred() {
        let bad = Event { at: 0, good: 0, bad: true };
        let mut rule = Resilience4j::default();
        assert!((0..99).all(|_| !rule.observe(bad)));
        assert!(rule.observe(bad));
        let mut rule = Resilience4j::default();
        rule.observe(Event { at: 0, good: 1000, bad: false });
        assert_eq!((1..=60).find(|_| rule.observe(bad)), Some(50));
    }

    #[test]
    fn what_is_older_than_a_hundred_calls_is_forgotten() {
        let mut rule = Resilience4j::default();
        for _ in 0..1000 {
            assert!(!rule.observe(Event { at: 0, good: 2, bad: true }));
        }
    }
}
