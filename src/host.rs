//! All host calls: clocks, shared data, headers, properties, metrics, the log, random numbers. Those that cost too much through
//! the SDK go through the crate `abi`.
//!
//! Nothing here panics on anything that a client or an upstream may send. The SDK's `String` getters and its trait conveniences do
//! (they unwrap every status), so they are used nowhere, and header *values* are always bytes.
#![allow(clippy::disallowed_methods)]

mod body; // the body of a request
mod clock; // both clocks of the process
mod data; // shared data as a store
mod headers; // headers of requests and responses
mod http; // calls to other services; answers of our own
mod log; // Envoy's log
mod metric; // metrics
mod properties; // properties of the stream and of the plugin
mod request_link; // the link from an attempt to its request
mod vm; // configuration, environment, timer, memory, random numbers

pub use self::body::{change_request_body, request_body};
pub use self::clock::Clock;
pub use self::data::SharedData;
pub use self::headers::{
    has_request_header, remove_request_header, remove_response_header, request_header, request_headers,
    response_headers, response_status, set_request_header, set_response_header,
};
pub use self::http::{call_status, post, respond};
pub use self::log::{error, info, warn};
pub use self::metric::Metric;
pub use self::properties::{
    UpstreamOk, answered_status, attempt_cluster, attempt_label, buffered_body, filter_name,
    has_client_connection, property, response_flags, source_address, via_upstream,
};
pub use self::request_link::{
    clear_request_link, is_request, mark_request, request_link, set_next_cluster, set_request_link,
};
pub use self::vm::{environment, memory, plugin_configuration, seed, set_tick};
