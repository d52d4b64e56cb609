//! Properties of the stream and of the plugin.

use bellwether_abi as abi;

/// A property as bytes; `None` where there is none, or an empty one. `path`: its parts with `\0` between them.
pub fn property(path: &str) -> Option<Vec<u8>> {
    abi::property(path.as_bytes()).filter(|bytes| !bytes.is_empty())
}

/// Name of the filter that is configured. Only in a root context.
pub fn filter_name() -> String {
    String::from_utf8_lossy(&property("plugin_name").unwrap_or_default()).into_owned()
}

/// Envoy's response flags.
pub fn response_flags() -> u64 {
    let bytes = property("response\0flags");
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether the response came from an upstream. No status and no chosen endpoint can stand for the details: Envoy answers a gRPC
/// request with 200 whatever went wrong, and a gateway may map its own answers to any status.
pub fn via_upstream() -> bool {
    property("response\0code_details").is_some_and(|details| details == b"via_upstream")
}

/// Whether an upstream has answered with 200, asked in one call that hands nothing over: two thirds of what it costs to read status
/// and details. Any other answer has to be read, and so has every one of an Envoy that knows no expressions.
pub struct UpstreamOk(Option<[u8; 4]>);

/// Nothing if so, in the language of Envoy's expressions (CEL): the length tells.
const UPSTREAM_OK: &str =
    "response.code_details == 'via_upstream' && response.headers[':status'] == '200' ? '' : 'other'";

impl UpstreamOk {
    /// Has Envoy compile the expression, for the streams of the plugin whose callback this is and for as long as that lasts.
    pub fn new() -> UpstreamOk {
        UpstreamOk(
            abi::foreign("expr_create", UPSTREAM_OK.as_bytes()).and_then(|number| number.try_into().ok()),
        )
    }

    /// Only in the response-headers callback.
    pub fn holds(&self) -> bool {
        self.0.is_some_and(|number| abi::foreign_length("expr_evaluate", &number) == Some(0))
    }
}

/// The downstream address, with port.
pub fn source_address() -> Option<Vec<u8>> {
    property("source\0address")
}

/// The cluster that an attempt goes to. Only in an upstream context.
pub fn attempt_cluster() -> Option<Vec<u8>> {
    property("xds\0cluster_name")
}

/// The label of the endpoint that an attempt goes to: the member of an aggregate cluster, by the name that a version gives to
/// its cluster. Only in an upstream context. Cheap where there is none.
pub fn attempt_label() -> Option<Vec<u8>> {
    property("xds\0upstream_host_metadata\0filter_metadata\0bellwether\0cluster")
}

/// The body of a request to the admin listener, where the filter before this one has put it.
pub fn buffered_body() -> Option<Vec<u8>> {
    property("metadata\0filter_metadata\0bellwether\0body")
}
