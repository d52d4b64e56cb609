//! The body of a request, as far as Envoy holds it.

use bellwether_abi as abi;

/// Bytes that are read or replaced at once: the memory of a VM grows by them and never shrinks.
const PIECE: usize = 65_536;

/// Reads a part of the body. Only in the request-body callback.
pub fn request_body(start: usize, length: usize) -> Option<Vec<u8>> {
    abi::request_body(start, length)
}

/// Changes the first `end` bytes of the body: `change` gets them in pieces, in order, and appends the new bytes. `size`: bytes that
/// Envoy holds. Returns false if that fails, and then the body is of no use any more. Only in the request-body callback.
///
/// Envoy cannot change bytes in the middle. A short beginning is replaced. Behind a longer one the whole buffer is turned round
/// once: each piece is taken from the front and put at the end, so that no more than one piece is in memory.
pub fn change_request_body(size: usize, end: usize, change: &mut dyn FnMut(&[u8], &mut Vec<u8>)) -> bool {
    if end <= PIECE {
        let Some(old) = abi::request_body(0, end).filter(|old| old.len() == end) else { return false };
        let mut new = Vec::with_capacity(end);
        change(&old, &mut new);
        return abi::set_request_body(0, end, &new);
    }
    let mut left = size;
    let mut new = Vec::new();
    while left > 0 {
        let length = left.min(PIECE);
        let Some(old) = abi::request_body(0, length).filter(|old| old.len() == length) else { return false };
        new.clear();
        change(&old, &mut new);
        // Appended first: a buffer that is empty in between would end the body.
        if !abi::set_request_body(usize::MAX, 0, &new) || !abi::set_request_body(0, length, &[]) {
            return false;
        }
        left = left.saturating_sub(length);
    }
    true
}
