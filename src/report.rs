//! What people read: events and status.

pub mod events;
pub mod status;
