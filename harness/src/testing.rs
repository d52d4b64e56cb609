//! Helpers that more than one test binary uses. They panic where a test is to fail.

pub mod load;
pub mod manifests;
