//! The host calls of proxy-wasm that cost too much through the SDK, and the only unsafe code of the filter.
//!
//! The SDK hands headers over as a vector of pairs, two allocations a header, which costs as much as the call itself. It cannot
//! tell an empty property from a missing one. It fetches a whole result where its length would do. It ends the VM at a status that
//! it does not expect. Here nothing panics, and the host's results are handed over unchanged.
//!
//! Contract of the imports: `proxy-wasm/spec`, ABI 0.2.1. The host asks this module for memory by the export
//! `proxy_on_memory_allocate` (the SDK's, which leaks a boxed slice of just that many bytes), writes into it and hands over
//! address and length: from then on it is ours.
#![cfg(target_family = "wasm")]

use std::ptr::null_mut;

/// A map of headers.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Map {
    /// The request's headers.
    Request = 0,
    /// The response's headers.
    Response = 2,
}

const OK: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, data: *const u8, size: usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        length: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: *const u8, size: usize) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        argument: *const u8,
        argument_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
}

/// Makes a call that hands bytes over. Returns `None` if its status is not OK.
fn bytes_of(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let mut data = null_mut();
    let mut size = 0;
    let status = call(&raw mut data, &raw mut size);
    let bytes = if data.is_null() {
        // An empty result is handed over without memory.
        Vec::new()
    } else {
        // SAFETY: `proxy_on_memory_allocate` returned `data` for `size` bytes from the same allocator: a boxed slice of just
        // that length. The host has filled it and keeps no copy of the address.
        unsafe { Vec::from_raw_parts(data, size, size) }
    };
    (status == OK).then_some(bytes)
}

/// Reads all headers of a map, in the ABI's form: their number, the lengths of each name and value (all `u32`, little endian),
/// then each name and value with a zero byte behind it. Outside the callbacks that have this map the result is empty or `None`.
pub fn headers(map: Map) -> Option<Vec<u8>> {
    bytes_of(|data, size| {
        // SAFETY: both pointers are to locals of the caller, valid for writes of their types while the call lasts.
        unsafe { proxy_get_header_map_pairs(map as u32, data, size) }
    })
}

/// Reads a property; `None` if there is none, or none that can be handed over. `path`: its parts with zero bytes between them. A
/// property that is empty is `Some` of no bytes, and costs a quarter of one with bytes.
pub fn property(path: &[u8]) -> Option<Vec<u8>> {
    bytes_of(|data, size| {
        // SAFETY: the path is readable for its length; the others are as in `headers`.
        unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }
    })
}

/// Number of the buffer of a request body.
const REQUEST_BODY: u32 = 0;

/// Reads a part of the request body that the host holds; `None` outside the callbacks that have one.
pub fn request_body(start: usize, length: usize) -> Option<Vec<u8>> {
    bytes_of(|data, size| {
        // SAFETY: both pointers are to locals of the caller, valid for writes of their types while the call lasts.
        unsafe { proxy_get_buffer_bytes(REQUEST_BODY, start, length, data, size) }
    })
}

/// Replaces a part of the request body that the host holds. The host can replace a beginning (`start` 0) and append (`start` at the
/// end or behind it), and refuses anything else. Returns whether it has done so.
pub fn set_request_body(start: usize, length: usize, bytes: &[u8]) -> bool {
    // SAFETY: the bytes are readable for their length, and the host copies them.
    let status = unsafe { proxy_set_buffer_bytes(REQUEST_BODY, start, length, bytes.as_ptr(), bytes.len()) };
    status == OK
}

/// Sets a property of the stream. Envoy keeps it as filter state, under `wasm.` and this name.
pub fn set_property(name: &[u8], value: &[u8]) {
    // SAFETY: both are readable for their lengths. The call fails only if there is no stream, or if another filter has made the
    // name read-only. The property is then missing when it is read.
    unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Calls a function that the host has beyond the ABI. Returns its result; `None` if it fails or if there is no function of this
/// name.
pub fn foreign(name: &str, argument: &[u8]) -> Option<Vec<u8>> {
    bytes_of(|data, size| call(name, argument, data, size))
}

/// Calls such a function and returns the length of its result. This costs little more than half, because no memory is allocated.
pub fn foreign_length(name: &str, argument: &[u8]) -> Option<usize> {
    let mut size = 0;
    let status = call(name, argument, null_mut(), &raw mut size);
    (status == OK).then_some(size)
}

fn call(name: &str, argument: &[u8], data: *mut *mut u8, size: *mut usize) -> u32 {
    // SAFETY: name and argument are readable for their lengths. `data` and `size` are pointers to locals of the callers. `data` may
    // be null: the host then hands over no result.
    unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), argument.as_ptr(), argument.len(), data, size)
    }
}
