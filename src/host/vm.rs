//! The VM and the plugin that it runs: configuration, environment, timer, memory, entropy.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::BufferType;

/// Reads the plugin's configuration.
pub fn plugin_configuration() -> Vec<u8> {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// Reads a variable of the VM's environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Sets the period of the root context's tick; 0 stops it. Otherwise it goes on after the context's end.
pub fn set_tick(period: Duration) {
    let _ = hostcalls::set_tick_period(period);
}

/// Returns the bytes of this VM's linear memory.
pub fn memory() -> u64 {
    const PAGE: u64 = 65_536;
    u64::try_from(core::arch::wasm32::memory_size::<0>()).unwrap_or(0).saturating_mul(PAGE)
}

/// Returns a seed from the host's entropy.
pub fn seed() -> u64 {
    getrandom::u64().unwrap_or(0)
}
