//! The surroundings of one step on shared data.

use crate::shared::dropped::Drops;
use crate::shared::store::Store;
use crate::time::Now;

/// Store, time and counts of drops, as one callback of the proxy passes them down.
pub struct Turn<'a> {
    /// Shared data.
    pub store: &'a dyn Store,
    /// Time at which the callback began.
    pub now: Now,
    /// Counts of everything that a bound or a fault has dropped in this turn.
    pub drops: Drops,
}

impl<'a> Turn<'a> {
    /// Begins a turn: nothing has been dropped.
    pub fn new(store: &'a dyn Store, now: Now) -> Turn<'a> {
        Turn { store, now, drops: Drops::default() }
    }
}
