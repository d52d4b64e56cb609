//! The comparison as one worker would make it that merges every outcome by itself, in the order in which answers come.

use bellwether::engine::Assigned;
use bellwether::judge::comparison::{Comparison, Observed, Pending};
use bellwether::judge::scores::{Arm, Odds};
use bellwether::outcome::blame::Event;
use bellwether::plan::guard::Compare;

/// One worker, no batches; errors only.
pub struct Reference {
    compare: Compare,
    comparison: Comparison,
    pending: Pending,
    decided: bool,
}

impl Reference {
    /// A fresh one.
    pub fn new(compare: Compare) -> Reference {
        Reference { compare, comparison: Comparison::new(0), pending: Pending::default(), decided: false }
    }

    /// Takes an outcome in; true once, when it blames the canary.
    pub fn decides(&mut self, assigned: &Assigned, event: Event) -> bool {
        let (Some(stable), Some(canary)) = (assigned.shares.first(), assigned.shares.get(1)) else {
            return false;
        };
        if self.decided {
            return false;
        }
        let arm = if assigned.choice.version == 0 { Arm::Stable } else { Arm::Canary };
        let odds = Odds { canary: *canary, stable: *stable };
        let identity = assigned.choice.identity;
        self.pending.add(Observed { arm, odds, identity, event, yardstick: None });
        self.comparison.merge(&self.pending, &self.compare);
        self.pending.clear();
        self.decided = self.comparison.verdict(&self.compare).is_some();
        self.decided
    }
}
