//! The filter on a real Envoy with two workers: one module a subject.
//!
//! Each test starts an Envoy of its own. The Makefile limits the number of tests that run at the same time.

#![allow(clippy::arithmetic_side_effects, clippy::disallowed_methods, clippy::expect_used)]
#![allow(clippy::indexing_slicing, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod admin;
mod chaos;
#[cfg(target_os = "linux")]
mod clock;
mod common;
mod credentials;
mod exhausted;
mod failover;
mod guide;
mod harness;
mod hostile;
mod isolation;
mod keys;
mod kubernetes;
mod matches;
mod models;
mod outcomes;
mod pools;
mod reload;
mod returns;
mod rollback;
mod routing;
mod samples;
mod secrets;
mod security;
mod settings;
mod storm;
mod tls;
mod trap;
mod upgrade;
mod verdict;
mod warnings;
