//! # The simulator
//!
//! Measures what the decision rules promise, on the shipping code: false rollbacks of healthy canaries, shared trouble,
//! how many users a broken canary hits, workers, sticky clients; beside the rules people use today, on the same traffic.
//!
//! * randomness and traffic: [`rng`], [`traffic`], [`clients`]
//! * the shipping code under it: [`bulk`] (the comparison on traffic in bulk, for days), [`fleet`] (whole engines on one
//!   store, request by request, for minutes), [`sticky`] (clients, for hours), [`store`], [`reference`](mod@reference), [`setup`]
//! * the others: [`rules`], and all of them in one [`race`]
//! * what is measured: [`tables`], with [`trials`] and [`report`]; what is written about it: [`document`]
//!
//! Everything is a function of the printed seed, whatever the number of threads.

pub mod bulk;
pub mod clients;
pub mod document;
pub mod fleet;
pub mod race;
pub mod reference;
pub mod report;
pub mod rng;
pub mod rules;
pub mod setup;
pub mod sticky;
pub mod store;
pub mod tables;
pub mod traffic;
pub mod trials;
