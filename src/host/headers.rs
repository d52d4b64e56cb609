//! Headers of requests and responses.

use bellwether_abi::{self as abi, Map};
use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use crate::headers::Headers;

/// Reads all request headers. Only in the request-headers callback.
pub fn request_headers() -> Headers {
    Headers::parse(abi::headers(Map::Request).unwrap_or_default())
}

/// Sets a request header. Only in the request-headers callback.
pub fn set_request_header(name: &str, value: &[u8]) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value));
}

/// Returns whether there is a request header of this name. Only in the request-headers callback.
pub fn has_request_header(name: &str) -> bool {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).is_ok_and(|value| value.is_some())
}

/// Reads a request header. Only in the request-headers callback.
pub fn request_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok().flatten()
}

/// Removes a request header. Only in the request-headers callback.
pub fn remove_request_header(name: &str) {
    let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
}

/// Sets a response header. Only in the response-headers callback.
pub fn set_response_header(name: &str, value: &str) {
    let _ = hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(value));
}

/// Removes a response header. Only in the response-headers callback.
pub fn remove_response_header(name: &str) {
    let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, name);
}

/// Reads the status of the response; 0 if it is not a number. Only in the response-headers callback.
pub fn response_status() -> Option<u16> {
    let bytes = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status").ok()??;
    Some(std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Reads all response headers. Only in the response-headers callback.
pub fn response_headers() -> Option<Headers> {
    abi::headers(Map::Response).map(Headers::parse)
}
