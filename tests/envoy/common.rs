//! Helpers that several modules share.

pub mod chaos;
pub mod failover;
pub mod pools;
pub mod rig;
pub mod trapping;
