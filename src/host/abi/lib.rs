//! The host calls of proxy-wasm that the SDK makes dearer than they are, and the only unsafe code of the filter.
//!
//! The SDK hands headers over as a vector of pairs, two allocations a header, which costs as much as the call itself; it
//! cannot tell a property that is empty from one that is not there; it asks for all of a result of which the length would do; and it
//! ends the VM at a status that it does not expect.
//! Here nothing panics, and what the host says is handed over as it is.
//!
//! Contract of the imports: `proxy-wasm/spec`, ABI 0.2.1. The host asks this module for memory by the export
//! `proxy_on_memory_allocate` (the SDK's, which leaks a boxed slice of just that many bytes), writes into it and hands over
//! address and length: from then on it is ours.
#![cfg(target_family = "wasm")]

use std::ptr::null_mut;

/// Which headers.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Map {
    /// Of the request.
    Request = 0,
    /// Of the response.
    Response = 2,
}

const OK: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, data: *const u8, size: usize) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        argument: *const u8,
        argument_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
}

/// Makes a call that hands bytes over; `None` if its status is another than OK.
fn bytes_of(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let mut data = null_mut();
    let mut size = 0;
    let status = call(&raw mut data, &raw mut size);
    let bytes = if data.is_null() {
        // Nothing at all is handed over without memory.
        Vec::new()
    } else {
        // SAFETY: `data` is what `proxy_on_memory_allocate` gave for `size` bytes by the same allocator: a boxed slice
        // of just that length, which the host has filled and whose address nobody else keeps.
        unsafe { Vec::from_raw_parts(data, size, size) }
    };
    (status == OK).then_some(bytes)
}

/// All headers of a map, in the ABI's form: their number, the lengths of each name and value (all `u32`, little endian), then
/// each name and value with a zero byte behind it. Outside the callbacks that have this map there are none, or nothing.
pub fn headers(map: Map) -> Option<Vec<u8>> {
    bytes_of(|data, size| {
        // SAFETY: both pointers are to locals of the caller, valid for writes of their types while the call lasts.
        unsafe { proxy_get_header_map_pairs(map as u32, data, size) }
    })
}

/// A property; `None` if there is none, or none that can be handed over. `path`: its parts with zero bytes between them. `Some` of
/// no bytes: it is there, and empty; that costs a quarter of one with bytes.
pub fn property(path: &[u8]) -> Option<Vec<u8>> {
    bytes_of(|data, size| {
        // SAFETY: the path is readable for its length; the others are as in `headers`.
        unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }
    })
}

/// Sets a property of the stream. Envoy keeps it as filter state, under `wasm.` and this name.
pub fn set_property(name: &[u8], value: &[u8]) {
    // SAFETY: both are readable for their lengths. The only failures are a name that somebody else has made read-only, and
    // no stream: then there is no property, which whoever reads it sees.
    unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Calls a function that the host has beyond the ABI, and returns what it hands over; `None` if it fails or there is none of
/// this name.
pub fn foreign(name: &str, argument: &[u8]) -> Option<Vec<u8>> {
    bytes_of(|data, size| call(name, argument, data, size))
}

/// The same, of whose result only the length is wanted: little more than half as dear, as no memory has to be had for it.
pub fn foreign_length(name: &str, argument: &[u8]) -> Option<usize> {
    let mut size = 0;
    let status = call(name, argument, null_mut(), &raw mut size);
    (status == OK).then_some(size)
}

fn call(name: &str, argument: &[u8], data: *mut *mut u8, size: *mut usize) -> u32 {
    // SAFETY: name and argument are readable for their lengths. `data` and `size` are pointers to locals of the callers', or
    // `data` is null, upon which the host keeps the result to itself.
    unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), argument.as_ptr(), argument.len(), data, size)
    }
}
