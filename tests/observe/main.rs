//! The operator's view: the dashboard, the alerts and the percentiles, on a real Prometheus that scrapes a real Envoy.
#![allow(clippy::arithmetic_side_effects, clippy::disallowed_methods, clippy::expect_used)]
#![allow(clippy::indexing_slicing, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod buckets;
mod dashboard;
mod relabel;
mod rules;
mod scenario;
mod shipped;
