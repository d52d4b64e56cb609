//! All host calls: clocks, shared data, headers, properties, metrics, the log, random numbers. Those that cost too much through
//! the SDK go through the crate `abi`.
//!
//! Nothing here panics on anything that a client or an upstream may send. The SDK's `String` getters and its trait conveniences do
//! (they unwrap every status), so they are used nowhere, and header *values* are always bytes.
#![allow(clippy::disallowed_methods)]

mod clock;
mod data;
mod request_link;
mod headers;
mod metric;
mod properties;

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType};

pub use self::clock::Clock;
pub use self::data::SharedData;
pub use self::headers::{
    has_request_header, remove_request_header, request_headers, response_headers, response_status,
    set_request_header, set_response_header,
};
pub use self::metric::Metric;
pub use self::properties::{
    UpstreamOk, attempt_cluster, attempt_label, buffered_body, filter_name, property, response_flags,
    source_address, via_upstream,
};
pub use self::request_link::{is_request, mark_request, request_link, set_next_cluster, set_request_link};

/// Reads the plugin's configuration.
pub fn plugin_configuration() -> Vec<u8> {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// Reads a variable of the VM's environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Posts a JSON body from a root context. Returns the call's number; `None` if Envoy refuses (no such cluster).
pub fn post(cluster: &str, host: &str, path: &str, body: &str, timeout: Duration) -> Option<u32> {
    let headers = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", host),
        (":path", path),
        ("content-type", "application/json"),
        ("user-agent", "bellwether"),
    ];
    hostcalls::dispatch_http_call(cluster, headers, Some(body.as_bytes()), vec![], timeout).ok()
}

/// Reads the status of the answer to a call. Only in the callback of the call.
pub fn call_status() -> Option<u16> {
    let bytes = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok()??;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

/// Sets the period of the root context's tick; 0 stops it. Otherwise it goes on after the context's end.
pub fn set_tick(period: Duration) {
    let _ = hostcalls::set_tick_period(period);
}

/// Returns the bytes of this VM's linear memory.
pub fn memory() -> u64 {
    const PAGE: u64 = 65_536;
    u64::try_from(core::arch::wasm32::memory_size::<0>()).unwrap_or(0).saturating_mul(PAGE)
}

/// Returns a seed from the host's entropy.
pub fn seed() -> u64 {
    getrandom::u64().unwrap_or(0)
}

/// Writes a line to Envoy's log.
pub fn warn(line: &str) {
    let _ = hostcalls::log(LogLevel::Warn, line);
}

/// Writes a line to Envoy's log.
pub fn info(line: &str) {
    let _ = hostcalls::log(LogLevel::Info, line);
}

/// Writes a line to Envoy's log.
pub fn error(line: &str) {
    let _ = hostcalls::log(LogLevel::Error, line);
}

/// Answers the request in place of an upstream. The response passes through our own response callback.
pub fn respond(status: u32, headers: Vec<(&str, &str)>, body: &[u8]) {
    let _ = hostcalls::send_http_response(status, headers, Some(body));
}
