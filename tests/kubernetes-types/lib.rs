//! Nothing but a test: see `tests/samples.rs`.
