//! The link from the attempts of a request to the request: filter state that never leaves the process.

use bellwether_abi as abi;

use super::property;

/// Name of the property that holds the id of the request and its home.
const REQUEST: &str = "bw.req";

/// Links the attempts of a request to it. `home`: the cluster of the version that the request is rewritten for; empty if no attempt
/// can go to another cluster.
pub fn set_request_link(id: u64, home: &[u8]) {
    let id = id.to_le_bytes();
    match home {
        [] => abi::set_property(REQUEST.as_bytes(), &id),
        home => abi::set_property(REQUEST.as_bytes(), &[&id, home].concat()),
    }
}

/// Returns the name of an empty property that only the request of this id has. Asking for it costs a quarter of reading the id.
fn mark(id: u64) -> [u8; 17] {
    const LOWER_HALVES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    // Four bits a character, `@` to `O`: none is a zero byte, which would end the name. The uppermost byte is left out, and
    // Envoy allocates nothing for a name of this length.
    const LETTERS: u64 = 0x4040_4040_4040_4040;
    let [a, b, c, d, e, f, g, _] = (id & LOWER_HALVES | LETTERS).to_le_bytes();
    let [h, i, j, k, l, m, n, _] = ((id >> 4) & LOWER_HALVES | LETTERS).to_le_bytes();
    [b'b', b'w', b'.', a, b, c, d, e, f, g, h, i, j, k, l, m, n]
}

/// Marks the request, for [`is_request`].
pub fn mark_request(id: u64) {
    abi::set_property(&mark(id), b"");
}

/// Returns whether this attempt belongs to the request of this id, which was marked.
pub fn is_request(id: u64) -> bool {
    abi::property(&mark(id)).is_some()
}

/// The link from an attempt to its request.
pub struct RequestLink {
    /// The id of the request.
    pub id: u64,
    /// The name of its home cluster, or empty.
    pub home: Vec<u8>,
}

/// Reads the link from this attempt to its request.
pub fn request_link() -> Option<RequestLink> {
    let bytes = property(REQUEST)?;
    let (id, home) = bytes.split_first_chunk()?;
    Some(RequestLink { id: u64::from_le_bytes(*id), home: home.to_vec() })
}

/// Name of the property from which the route reads the cluster of the next attempt. An attempt that has begun cannot change
/// request headers any more. Envoy knows the property as the filter state `wasm.bw.cluster`.
const NEXT_CLUSTER: &str = "bw.cluster";

/// Has the route choose this cluster for the request's next attempt, if there is one.
pub fn set_next_cluster(cluster: &str) {
    abi::set_property(NEXT_CLUSTER.as_bytes(), cluster.as_bytes());
}

/// Cuts a request off from an earlier one with the same filter state, which Envoy keeps when it follows an internal redirect.
pub fn clear_request_link() {
    abi::set_property(REQUEST.as_bytes(), b"");
    abi::set_property(NEXT_CLUSTER.as_bytes(), b"");
}
