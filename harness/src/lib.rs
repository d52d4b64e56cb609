//! What Bellwether is tested with, and what its demonstration runs on.
//!
//! - [`provider`]: a mock OpenAI-compatible provider that can be told to misbehave while it runs;
//! - [`envoy`]: starts a real Envoy on the sample configuration in `envoy/`, so that tests test the samples;
//! - [`prometheus`]: starts a real Prometheus and asks it, so that tests test the dashboard and the alerts;
//! - [`client`] and [`load`]: one request, many requests at a rate, or bytes no HTTP library would send.
//! - [`testing`]: helpers that several test binaries share.
//!
//! Nothing here depends on the filter: the harness knows it as a file and by what it does on the wire.

pub mod client;
pub mod envoy;
pub mod load;
pub mod prometheus;
pub mod provider;
pub mod testing;

use std::path::{Path, PathBuf};

/// The root of the workspace, where `envoy/` and `target/` are.
pub fn workspace_root() -> PathBuf {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    harness.parent().unwrap_or(harness).to_path_buf()
}
