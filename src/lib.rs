//! # Bellwether
//!
//! An Envoy filter (proxy-wasm) for gray releases of AI APIs. For each request it picks a version by rule, sticky identity or
//! weight, points the request at that version's cluster, puts in a key, watches what becomes of it, and turns all traffic
//! back to the stable version when a limit is broken.
//!
//! ## Facts in, decision out
//!
//! ```text
//! configure  bytes ── config::compile ──▶ Plan                  all problems at once, or none
//! request    RequestFacts ── engine: Binding::assign ──▶ Assigned { version, epoch, shares, … }
//! attempt    pools: PoolState::pick ──▶ key
//! answer     status, flags ── outcome::classify, flight ──▶ Judgement
//!            ── engine: Binding::record ──▶ worker's Delta ─(batched CAS)─▶ shared Stats, Comparison
//!            ── verdict::judge, Share::verdict ──▶ Signal
//!            ── rollout: Standing::on ─(CAS)─▶ shared Standings ──▶ every worker within 10 ms
//!            ── pools: PoolState::report ─(CAS)─▶ shared Keyring ──▶ likewise
//! ```
//!
//! ## Modules, in reading order
//!
//! * what is configured: [`json`], [`config`], [`plan`], [`problems`], [`units`]
//! * where a request goes: [`hash`], [`plan::split`], [`headers`], [`plan::index`], [`route`]
//! * with which key: [`keys::documents`], [`keys`], [`keys::reset`], [`keys::health`], [`keys::pool`], [`outcome::member`] (of an aggregate cluster)
//! * what became of it: [`outcome`], [`outcome::flight`]
//! * what that says: [`judge::histogram`], [`judge::window`], [`judge::stats`], [`judge::limits`] (limits), [`judge::sketch`], [`judge::cusum`], [`judge::scores`], [`judge::comparison`]
//!   (the comparison)
//! * what follows: [`rollout`] (phases), [`rollout::ramp`], [`rollout::standings`], [`report::events`]
//! * what the workers share: [`shared::codec`], [`shared::store`], [`engine`], [`keys::usage`] (of keys), [`shared::census`] (what each VM
//!   holds)
//! * what people ask and order: [`admin`]
//! * the proxy's side, compiled for wasm only: `host` (every host call; those that the SDK makes too dear are in the crate
//!   `bellwether-abi`, with the only unsafe code), `filter` (contexts of the three roles)
//!
//! ## Invariants, each an absence
//!
//! 1. Only `host` and `filter` name the SDK or the ABI; everything else also runs natively.
//! 2. Nothing below them reads a clock, a random source, the environment or a global: these are arguments.
//! 3. A [`plan::Plan`] is valid by construction; nothing on the request path can report a configuration error.
//! 4. Every loop has a bound, every shared value a schema byte and a total decoder; what cannot be decoded is counted and
//!    leads to stable, never to zero.
//! 5. No secret implements `Debug`, `Display` or `Serialize`.
//! 6. Whatever goes wrong inside, the request is served, and by the stable version.
//! 7. Shares, counts and times are integers. Floats are in the statistics ([`judge::scores`], [`judge::cusum`], the intervals of [`judge::limits`]) and
//!    nowhere else; no weight, point or deadline is one.
//! 8. Nothing panics: no unwrap, no index, no unchecked arithmetic (the lints deny them).
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

pub mod admin;
pub mod config;
pub mod engine;
pub mod hash;
pub mod headers;
pub mod json;
pub mod judge;
pub mod keys;
pub mod outcome;
pub mod plan;
pub mod problems;
pub mod report;
pub mod rollout;
pub mod route;
pub mod shared;
pub mod time;
pub mod units;

#[cfg(target_family = "wasm")]
mod filter;
#[cfg(target_family = "wasm")]
mod host;

#[cfg(test)]
mod testing;
