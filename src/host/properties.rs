//! Properties of the stream and of the plugin.

use bellwether_abi as abi;

/// Reads a property; `None` if there is none, or an empty one. `path`: its parts with `\0` between them.
pub fn property(path: &str) -> Option<Vec<u8>> {
    abi::property(path.as_bytes()).filter(|bytes| !bytes.is_empty())
}

/// Reads the name of the filter that is configured. Only in a root context.
pub fn filter_name() -> String {
    String::from_utf8_lossy(&property("plugin_name").unwrap_or_default()).into_owned()
}

/// Reads Envoy's response flags.
pub fn response_flags() -> u64 {
    let bytes = property("response\0flags");
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Reads the status that the client was answered with, if it was.
pub fn answered_status() -> Option<u16> {
    let code = u64::from_le_bytes(property("response\0code")?.try_into().ok()?);
    u16::try_from(code).ok()
}

/// Returns whether the response came from an upstream. Only the details of the response code tell. The status does not: Envoy
/// answers a failed gRPC request with 200, and a gateway may map its own answers to any status.
pub fn via_upstream() -> bool {
    property("response\0code_details").is_some_and(|details| details == b"via_upstream")
}

/// The question whether an upstream has answered with 200. One call that hands nothing over asks it, for two thirds of the cost of
/// reading status and details. These still have to be read for any other answer, and if Envoy knows no expressions.
pub struct UpstreamOk(Option<[u8; 4]>);

/// The question in the language of Envoy's expressions (CEL). The result is empty if the answer is yes, so its length is enough.
const UPSTREAM_OK: &str =
    "response.code_details == 'via_upstream' && response.headers[':status'] == '200' ? '' : 'other'";

impl UpstreamOk {
    /// Has Envoy compile the expression for the streams of the plugin that is being called, for the life of this plugin.
    pub fn new() -> UpstreamOk {
        UpstreamOk(
            abi::foreign("expr_create", UPSTREAM_OK.as_bytes()).and_then(|number| number.try_into().ok()),
        )
    }

    /// Returns whether an upstream has answered with 200. Only in the response-headers callback.
    pub fn holds(&self) -> bool {
        self.0.is_some_and(|number| abi::foreign_length("expr_evaluate", &number) == Some(0))
    }
}

/// Reads the downstream address, with port.
pub fn source_address() -> Option<Vec<u8>> {
    property("source\0address")
}

/// Returns whether the stream has a client's connection. A mirrored request has none: Envoy makes it by itself.
pub fn has_client_connection() -> bool {
    property("connection\0id").is_some()
}

/// Reads the name of the cluster that an attempt goes to. Only in an upstream context.
pub fn attempt_cluster() -> Option<Vec<u8>> {
    property("xds\0cluster_name")
}

/// Reads the label of the endpoint that an attempt goes to. The label names the member of an aggregate cluster, as a version names
/// its cluster. Only in an upstream context. Cheap if there is none.
pub fn attempt_label() -> Option<Vec<u8>> {
    property("xds\0upstream_host_metadata\0filter_metadata\0bellwether\0cluster")
}

/// Reads the body of a request to the admin listener, from the place where the filter before this one has put it.
pub fn buffered_body() -> Option<Vec<u8>> {
    property("metadata\0filter_metadata\0bellwether\0body")
}
