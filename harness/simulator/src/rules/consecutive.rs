//! Five failures in a row.

use super::{Event, Rule};

/// The run of failures.
#[derive(Default)]
pub struct Consecutive {
    run: u32,
}

impl Rule for Consecutive {
    fn observe(&mut self, event: Event) -> bool {
        if event.good > 0 {
            self.run = 0;
        }
        self.run += u32::from(event.bad);
        self.run >= 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_outcome_breaks_the_run() {
        let mut rule = Consecutive::default();
        let bad = |good| Event { at: 0, good, bad: true };
        assert!([0, 0, 0, 0, 1, 0, 0, 0].into_iter().all(|good| !rule.observe(bad(good))));
        assert!(rule.observe(bad(0)));
    }
}
