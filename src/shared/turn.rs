//! The surroundings of one step on shared data.

use crate::shared::dropped::Drops;
use crate::shared::store::Store;
use crate::time::Micros;

/// Store, time and counts of drops, as one callback of the proxy passes them down.
pub struct Turn<'a> {
    /// Shared data.
    pub store: &'a dyn Store,
    /// Time at which the callback began.
    pub now: Micros,
    /// Counts of everything that a bound or a fault has dropped.
    pub drops: &'a mut Drops,
}
