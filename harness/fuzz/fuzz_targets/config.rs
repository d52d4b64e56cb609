//! See `bellwether_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bellwether_fuzz::config::run(data));
