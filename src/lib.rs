//! # Bellwether
//!
//! An Envoy filter (proxy-wasm) for gray releases of AI APIs. For each request it picks a version by rule, sticky identity or
//! weight, points the request at that version's cluster, puts in a key, observes the result, and turns all traffic back to the
//! stable version when a limit is broken.
//!
//! ## Facts in, decision out
//!
//! ```text
//! configure  bytes ── config::compile ──▶ Plan                  all problems at once, or none
//! request    RequestFacts ── engine: Binding::assign ──▶ Assigned { version, epoch, shares, … }
//! attempt    keys: PoolState::pick ──▶ key
//! answer     status, flags ── outcome: classify, Attempts ──▶ Judgement
//!            ── engine: Binding::record ──▶ worker's Delta ─(batched CAS)─▶ shared Stats, Comparison
//!            ── judge: limits, comparison ──▶ verdict
//!            ── rollout: Standing::on ─(CAS)─▶ shared Standings ──▶ every worker within 10 ms
//!            ── keys: PoolState::report ─(CAS)─▶ shared health of the keys ──▶ likewise
//! ```
//!
//! ## Rooms
//!
//! The list of modules below is in reading order. A room uses only rooms above it; a test holds this.
//!
//! ## Invariants, each an absence
//!
//! 1. Only `host` and `filter` name the SDK or the ABI; everything else also runs natively.
//! 2. Nothing below them reads a clock, a random source, the environment or a global: these are arguments.
//! 3. A [`plan::Plan`] is valid by construction; nothing on the request path can report a configuration error.
//! 4. Every loop has a bound, every shared value a schema byte and a total decoder. A value that cannot be decoded is counted and
//!    leads to stable, never to zero.
//! 5. No secret implements `Debug`, `Display` or `Serialize`.
//! 6. Whatever goes wrong inside, the request is served, and by the stable version.
//! 7. Shares, counts and times are integers. Floats are in the statistics of [`judge`] and nowhere else; no weight, point or
//!    deadline is one.
//! 8. Nothing panics: no unwrap, no index, no unchecked arithmetic (the lints deny them).
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

// The ground.
pub mod time; // spans, moments on two clocks, RFC 3339
pub mod units; // shares, and the point of a request in them
pub mod hash; // the one hash function
pub mod headers; // request headers as the proxy hands them over; the names that are ours; a client's credentials
pub mod problems; // problems of a document, each with its place, the rule and the value
pub mod json; // the reader of configurations, which loses nothing
pub mod shared; // shared data of all workers: compare-and-swap, bytes, names
// The configuration.
pub mod plan; // a checked configuration: deployments, matches, splits, guards, ramps, key pools
pub mod config; // from bytes to a plan, or to all problems at once
// A request.
pub mod route; // which version: rules, sticky identity, weight
pub mod outcome; // how an attempt went, and whose fault it was
pub mod keys; // which key; what takes a key out of use and brings it back
// The verdict.
pub mod judge; // what the numbers say: limits of one version, comparison of two
pub mod rollout; // phases of a canary, position of a ramp
pub mod engine; // one worker's part: counts, merges, judges, moves phases
// For people.
pub mod report; // status and events
pub mod admin; // the admin listener: its requests and its page

// The proxy's side.
#[cfg(target_family = "wasm")]
mod host; // every host call; unsafe code is in its crate `abi` only
#[cfg(target_family = "wasm")]
mod filter; // the contexts of the three roles: router, keys, admin

#[cfg(test)]
mod testing; // a store in memory, and plans for tests
