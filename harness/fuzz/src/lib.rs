//! What each fuzz target does with its bytes. A target says nothing if all is well and panics if not.
//!
//! | target | bytes are | what must hold |
//! |---|---|---|
//! | [`config`] | a configuration, in each wrapping that Envoy knows | a plan or problems, the same in every wrapping; a plan routes any request |
//! | [`documents`] | pokes into a valid document | as above, and no problem shows a key |
//! | [`envelope`] | a protobuf message | what is understood is understood as a real protobuf library does |
//! | [`secrets`] | the `keys` role's document | values are clean or refused, and never shown |
//! | [`headers`] | a request's or a response's headers | a version that exists and may serve; a wait of a day at most |
//! | [`shared`] | a value in shared data | decoded, worked with and encoded it can be decoded again |
//! | [`engine`] | what two workers see, and what somebody else writes under their keys | every request gets a version; what the engine writes it can read |
//!
//! This file is a library for libFuzzer (`make fuzz`) and a module of `tests/native/corpus.rs`, which needs no libFuzzer.
#![allow(missing_docs)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod config;
pub mod documents;
pub mod engine;
pub mod envelope;
pub mod exercise;
pub mod headers;
pub mod samples;
pub mod secrets;
pub mod shared;
pub mod store;
pub mod wire;

/// A target's body.
pub type Run = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Run); 7] = [
    ("config", config::run),
    ("documents", documents::run),
    ("envelope", envelope::run),
    ("secrets", secrets::run),
    ("headers", headers::run),
    ("shared", shared::run),
    ("engine", engine::run),
];
