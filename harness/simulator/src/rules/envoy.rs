//! Envoy's outlier detection by default, on a canary of four hosts: five server errors of one host in a row eject it.

use super::{Event, Rule};

const HOSTS: usize = 4;

/// Runs of failures by host; requests go to the hosts in turn.
#[derive(Default)]
pub struct Envoy {
    next: usize,
    runs: [u32; HOSTS],
}

impl Rule for Envoy {
    fn observe(&mut self, event: Event) -> bool {
        if event.good >= HOSTS as u64 {
            self.runs = [0; HOSTS];
        } else {
            for i in 0..event.good as usize {
                self.runs[(self.next + i) % HOSTS] = 0;
            }
        }
        self.next = (self.next + (event.good % HOSTS as u64) as usize) % HOSTS;
        if event.bad {
            self.runs[self.next] += 1;
            self.next = (self.next + 1) % HOSTS;
        }
        self.runs.iter().any(|run| *run >= 5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_canary_loses_its_first_host_at_the_seventeenth_failure() {
        let mut rule = Envoy::default();
        assert_eq!((1..100).find(|_| rule.observe(Event { at: 0, good: 0, bad: true })), Some(17));
    }

    #[test]
    fn one_dead_host_of_four_is_ejected_though_most_answers_are_good() {
        let mut rule = Envoy::default();
        assert_eq!((1..100).find(|_| rule.observe(Event { at: 0, good: 3, bad: true })), Some(5));
        let mut rule = Envoy::default();
        assert_eq!((1..100).find(|_| rule.observe(Event { at: 0, good: 4, bad: true })), None, "in turn");
    }
}
