//! # Bellwether
//!
//! An Envoy filter (proxy-wasm) for gray releases of AI APIs. For each request it chooses a version by rule, sticky identity or
//! weight, sends the request to that version's cluster with an API key from a pool, and observes the result. When a version
//! breaks a limit, the filter sends all traffic back to the stable version.
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
//! Each module here is a room: one file, and mostly a directory of the same name. The list below is in reading order, and a room
//! uses only rooms above it; a test checks this. Each room's file begins with the list of its modules.
//!
//! ## Invariants
//!
//! 1. Only `host` and `filter` name the SDK or the ABI; everything else also runs natively.
//! 2. No other room reads a clock, a random source, the environment or a global: these are arguments.
//! 3. A [`plan::Plan`] is valid by construction, so that no request can meet a configuration error.
//! 4. Every loop has a bound. Every shared value has a schema byte and a decoder that accepts any bytes. A value that cannot be
//!    decoded is counted, and its deployment is served by stable; it never counts as zero.
//! 5. No secret implements `Debug`, `Display` or `Serialize`.
//! 6. After any internal fault the request is still served, by the stable version.
//! 7. Shares, counts and times are integers. Only the statistics of [`judge`] use floats.
//! 8. Nothing panics: the lints deny unwrap, indexing and unchecked arithmetic.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

// The ground.
pub mod time; // spans, moments on two clocks, RFC 3339 times, durations such as `30s`
pub mod units; // shares in basis points, points of requests
pub mod hash; // the hash of sticky identities and names
pub mod headers; // headers of a request; names of our own headers
pub mod credentials; // names of client credentials: headers, query parameters, subprotocols (filter/rewrite.rs removes them)
pub mod problems; // the list of a document's errors
pub mod json; // reads a document; its cursor gives each error its path
pub mod shared; // data shared by all workers: the name of every shared key, compare-and-swap, bytes
pub mod llm; // LLM APIs: incremental JSON reader, requests, changes of a body, answers and streams
// The configuration.
pub mod plan; // a checked configuration: matches, versions, the split computed from weights, guards, ramps, key pools, cleaned keys
pub mod config; // compiles a document into a plan, or into all its errors
// A request.
pub mod route; // chooses the version: match, rules, sticky identity, weight; rewrites path and query
pub mod outcome; // classifies an attempt: the fault of the version, the key, the caller or nobody
pub mod keys; // chooses the key; cools a key after a 429, disables it after a 401; reads reset headers
// The verdict.
pub mod judge; // the verdict on a canary: statistics, limits, comparison with stable
pub mod rollout; // phases of a canary: decides rollback, hold, probing and return; stages of a ramp
pub mod engine; // one worker's part: counts outcomes, merges them with other workers', asks judge and rollout
// For people.
pub mod report; // status and events as JSON
pub mod admin; // the admin listener: its requests and its page

// The proxy's side.
#[cfg(target_family = "wasm")]
mod host; // all host calls; only its crate `abi` has unsafe code
#[cfg(target_family = "wasm")]
mod filter; // the contexts of the roles router, keys and admin: read facts, apply decisions; metrics, alerts, our own answers

#[cfg(test)]
mod testing; // a store in memory, and plans for tests
