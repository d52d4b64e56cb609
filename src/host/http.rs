//! Calls to other services, and answers in place of an upstream.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

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

/// Answers the request in place of an upstream. The response passes through our own response callback.
pub fn respond(status: u32, headers: Vec<(&str, &str)>, body: &[u8]) {
    let _ = hostcalls::send_http_response(status, headers, Some(body));
}
