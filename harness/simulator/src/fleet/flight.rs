//! Requests in flight, in the order in which their answers come.

use std::cmp::Ordering;

use bellwether::engine::Assigned;
use bellwether::outcome::blame::Event;

/// A request that has been assigned and not yet answered.
pub(super) struct Flight {
    /// When its answer comes.
    pub(super) ends: u64,
    /// For ties.
    pub(super) number: u64,
    /// Who serves it.
    pub(super) worker: usize,
    /// Which of the worker's lives: after a restart nobody waits for the answer.
    pub(super) life: u32,
    /// The engine's decision.
    pub(super) assigned: Assigned,
    /// What will have happened.
    pub(super) event: Event,
    /// Above stable's true 95th percentile.
    pub(super) slow: bool,
}

impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> Ordering {
        // The heap gives out the greatest: that which ends first.
        (other.ends, other.number).cmp(&(self.ends, self.number))
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Flight {}
