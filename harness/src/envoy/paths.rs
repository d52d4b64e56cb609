//! Where the module and Envoy are, and which Envoy it is.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

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

/// Major and minor version of the Envoy under test; `None` if it does not tell.
pub fn envoy_version() -> Option<(u32, u32)> {
    static VERSION: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let told = Command::new(envoy_path().ok()?).arg("--version").output().ok()?;
        version_in(&String::from_utf8_lossy(&told.stdout))
    })
}

/// `…/envoy  version: <commit>/1.36.4/Clean/RELEASE/BoringSSL` → `(1, 36)`.
fn version_in(told: &str) -> Option<(u32, u32)> {
    let (_, told) = told.split_once("version:")?;
    let mut numbers = told.trim().split('/').nth(1)?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Says that the running test, or a part of it, is skipped on this Envoy. Straight to stderr: what a test that passes prints,
/// the test runner keeps to itself.
pub fn skipped(why: &str) {
    let version = envoy_version().map_or("?".to_owned(), |(major, minor)| format!("{major}.{minor}"));
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    let _ = writeln!(io::stderr(), "SKIPPED on Envoy {version}: {test}: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_envoy_says_of_itself() {
        let told = "\n/a/1.2.3/envoy  version: bad8280de85c25b147a90c1d9b8a8c67a13e7134/1.36.4/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(version_in(told), Some((1, 36)));
        assert_eq!(version_in("envoy  version: 0/1.41.0-dev/Modified/DEBUG/BoringSSL"), Some((1, 41)));
        for odd in ["", "envoy", "version: x", "version: x/y.z", "version: x/1"] {
            assert_eq!(version_in(odd), None, "{odd:?}");
        }
    }
}
