//! Status and events: types that the filter writes as JSON and that tools read from it.

pub mod build;
pub mod event;
pub mod json;
pub mod log;
pub mod status;
pub mod wire;
