//! Tests without Envoy: the configuration's contract, properties, fuzzing corpora, samples, and checks of the repository.

#![allow(clippy::arithmetic_side_effects, clippy::disallowed_methods, clippy::expect_used)]
#![allow(clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

mod config;
mod corpus;
mod house;
mod kubernetes;
mod models;
mod pages;
mod properties;
mod report;
mod samples;
mod security;
mod supply_chain;
