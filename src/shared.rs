//! Data that all workers of one Envoy share: the store, its bytes and names, and a census of the VMs.

pub mod cell; // a cell that the contexts of one worker share
pub mod census; // requests in flight and memory of all VMs
pub mod codec; // a schema byte, then varints; decoding of any bytes
pub mod dropped; // counts of events that a bound or a fault has dropped
pub mod names; // the names of all keys in shared data, and the schema bytes of their values
pub mod store; // compare-and-swap on shared data, with a bound
pub mod turn; // store, time and drops of one step
pub mod warnings; // conditions that reject nothing and lose something in silence

use crate::time::Span;

/// A copy of the standings that is older than this is read again before it decides. A read costs about 0.7 µs, so at 10 ms all
/// reads take less than a ten-thousandth of a worker.
pub const REFRESH_AFTER: Span = Span::from_millis(10);
