//! See `bellwether_fuzz::shared`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bellwether_fuzz::shared::run(data));
