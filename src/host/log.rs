//! Envoy's log.

use proxy_wasm::hostcalls;
use proxy_wasm::types::LogLevel;

/// Writes a warning to Envoy's log.
pub fn warn(line: &str) {
    let _ = hostcalls::log(LogLevel::Warn, line);
}

/// Writes a line to Envoy's log, for information.
pub fn info(line: &str) {
    let _ = hostcalls::log(LogLevel::Info, line);
}

/// Writes an error to Envoy's log.
pub fn error(line: &str) {
    let _ = hostcalls::log(LogLevel::Error, line);
}
