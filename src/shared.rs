//! What all workers of one Envoy share: the store, its bytes, and a census of the workers.

pub mod census;
pub mod codec;
pub mod dropped;
pub mod store;
