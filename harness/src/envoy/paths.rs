//! Where the module and Envoy are.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::workspace_root;

/// The module under test: `BELLWETHER_WASM`, else what `make build` makes.
///
/// # Errors
/// If it is not there.
pub fn wasm_path() -> Result<PathBuf> {
    let path = std::env::var_os("BELLWETHER_WASM")
        .map_or_else(|| workspace_root().join("target/wasm32-wasip1/release/bellwether.wasm"), PathBuf::from);
    ensure!(path.is_file(), "{}: no such file; run `make build`, or set BELLWETHER_WASM", path.display());
    Ok(path)
}

/// The Envoy binary: `ENVOY`, else what `make envoy` fetches, of version `ENVOY_VERSION` or that in `envoy/VERSION`.
///
/// # Errors
/// If it is not there.
pub fn envoy_path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "ENVOY={}: no such file", path.display());
        return Ok(path);
    }
    let root = workspace_root();
    let version = match std::env::var("ENVOY_VERSION") {
        Ok(version) => version,
        Err(_) => fs::read_to_string(root.join("envoy/VERSION")).context("read envoy/VERSION")?,
    };
    let path = root.join(".envoy").join(format!("envoy-{}", version.trim()));
    ensure!(path.is_file(), "{}: no such file; run `make envoy`, or set ENVOY to a binary", path.display());
    Ok(path)
}
