//! The filter state that ties the attempts of a request to the request.

use bellwether_abi as abi;

use super::property;

/// The property under which a request's number travels to its attempts; it never leaves the process.
const REQUEST: &str = "bw.req";

/// Ties the request to its attempts. `home`: the cluster of the version that the request is dressed for; empty where no attempt
/// can go to another one.
pub fn set_request_link(id: u64, home: &[u8]) {
    let id = id.to_le_bytes();
    match home {
        [] => abi::set_property(REQUEST.as_bytes(), &id),
        home => abi::set_property(REQUEST.as_bytes(), &[&id, home].concat()),
    }
}

/// The name of an empty property that only the request of this number has. To ask whether it is there costs a quarter of what it
/// costs to read the number.
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

/// Whether this attempt belongs to the request of this number, which was marked.
pub fn is_request(id: u64) -> bool {
    abi::property(&mark(id)).is_some()
}

/// The tie of an attempt to its request.
pub struct RequestLink {
    /// The id of the request.
    pub id: u64,
    /// The name of its home cluster, or empty.
    pub home: Vec<u8>,
}

/// Reads the tie of this attempt to its request.
pub fn request_link() -> Option<RequestLink> {
    let bytes = property(REQUEST)?;
    let (id, home) = bytes.split_first_chunk()?;
    Some(RequestLink { id: u64::from_le_bytes(*id), home: home.to_vec() })
}

/// Where the route reads, between two attempts, which cluster the next one goes to: an attempt that has begun cannot change
/// request headers any more. Envoy knows it as the filter state `wasm.bw.cluster`.
const NEXT_CLUSTER: &str = "bw.cluster";

/// Has the route choose this cluster for the request's next attempt, if there is one.
pub fn set_next_cluster(cluster: &str) {
    abi::set_property(NEXT_CLUSTER.as_bytes(), cluster.as_bytes());
}
