//! Where the code comes from that ends up in the filter, or builds and tests it: deny.toml, without cargo-deny.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

const LOCKS: [&str; 2] = ["Cargo.lock", "harness/fuzz/Cargo.lock"];

/// Everything that is compiled into the module, and why.
const IN_THE_FILTER: [(&str, &str); 17] = [
    ("allocator-api2", "of hashbrown"),
    ("bellwether", "the filter"),
    ("bellwether-abi", "host calls that cost more in the SDK"),
    ("cfg-if", "of getrandom"),
    ("equivalent", "of hashbrown"),
    ("fastrand", "chance"),
    ("foldhash", "of hashbrown"),
    ("getrandom", "a seed from the host"),
    ("hashbrown", "of proxy-wasm"),
    ("itoa", "of serde_json"),
    ("log", "of proxy-wasm"),
    ("memchr", "of serde_json"),
    ("proxy-wasm", "the host's interface"),
    ("serde", "reading JSON"),
    ("serde_core", "of serde"),
    ("serde_json", "reading JSON"),
    ("zmij", "of serde_json"),
];

/// Macros that generate code of the filter, and their dependencies. They run in the build only.
const IN_ITS_BUILD: [&str; 5] = ["proc-macro2", "quote", "serde_derive", "syn", "unicode-ident"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn toml(path: &str) -> toml::Table {
    fs::read_to_string(root().join(path)).unwrap().parse().unwrap()
}

fn texts(value: &toml::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Runs cargo and returns its standard output.
fn cargo(command: &[&str], more: &[&str]) -> Vec<u8> {
    let cargo = Command::new(env!("CARGO"))
        .args(command)
        .arg("--locked")
        .args(more)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    cargo.stdout
}

/// The packages for a platform: those that building for it has downloaded.
fn metadata(platform: &str) -> Value {
    serde_json::from_slice(&cargo(&["metadata", "--format-version", "1"], &["--filter-platform", platform]))
        .unwrap()
}

/// Name, version and source of each package of a lock file.
fn locked(path: &str) -> Vec<(String, String, Option<String>)> {
    let lock = toml(path);
    let text =
        |package: &toml::Value, field: &str| package.get(field).map(|v| v.as_str().unwrap().to_owned());
    let packages = lock["package"].as_array().unwrap().iter();
    packages.map(|p| (text(p, "name").unwrap(), text(p, "version").unwrap(), text(p, "source"))).collect()
}

#[test]
fn every_dependency_comes_from_crates_io_and_carries_a_checksum() {
    let policy = toml("harness/deny.toml");
    let allowed = texts(&policy["sources"]["allow-registry"]);
    for lock in LOCKS {
        let packages = toml(lock)["package"].as_array().unwrap().clone();
        for package in &packages {
            let (name, source) = (&package["name"], package.get("source"));
            // Without a source it is a folder of this repository.
            let Some(source) = source.map(|source| source.as_str().unwrap()) else { continue };
            let registry =
                source.strip_prefix("registry+").unwrap_or_else(|| panic!("{lock}: {name}: {source}"));
            assert!(allowed.contains(&registry), "{lock}: {name}: {source}");
            let checksum = package.get("checksum").and_then(|sum| sum.as_str()).unwrap_or_default();
            assert_eq!(checksum.len(), 64, "{lock}: {name} has no checksum");
        }
        assert!(packages.len() > 20, "{lock} was read");
    }
}

#[test]
fn nothing_is_locked_that_deny_toml_bans() {
    let policy = toml("harness/deny.toml");
    let banned = policy["bans"]["deny"].as_array().unwrap();
    let banned: BTreeSet<&str> = banned.iter().map(|ban| ban["crate"].as_str().unwrap()).collect();
    assert!(!banned.is_empty());
    for lock in LOCKS {
        for (name, version, _) in locked(lock) {
            assert!(!banned.contains(name.as_str()), "{lock}: {name} {version}");
        }
    }
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let policy = toml("harness/deny.toml");
    let allowed = texts(&policy["licenses"]["allow"]);
    let mut seen = 0;
    for platform in ["x86_64-unknown-linux-gnu", "wasm32-wasip1"] {
        for package in metadata(platform)["packages"].as_array().unwrap() {
            let name = &package["name"];
            let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
            // `MIT/Apache-2.0` is how alternatives were once written.
            let expression = Expression::parse_mode(licence, ParseMode::LAX).unwrap();
            let met = |one: &spdx::LicenseReq| allowed.iter().any(|allowed| *allowed == one.to_string());
            assert!(expression.evaluate(met), "{name}: {licence}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen} packages");
}

/// The packages that the filter depends on for wasm, by the edges of `cargo tree`.
fn packages_of_the_filter(edges: &str) -> BTreeSet<String> {
    // Not `cargo metadata`, which adds the features that tests ask for.
    let tree = cargo(
        &["tree", "--package", "bellwether", "--target", "wasm32-wasip1", "--edges", edges],
        &["--prefix", "none", "--format", "{p}"],
    );
    let tree = String::from_utf8(tree).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_filter_contains_these_crates_and_no_other() {
    let inside = packages_of_the_filter("normal,no-proc-macro");
    let wanted: BTreeSet<String> = IN_THE_FILTER.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(inside, wanted, "each further crate is code inside every worker of a gateway");
}

#[test]
fn the_filter_is_built_with_these_macros_and_no_other() {
    let with_macros = packages_of_the_filter("normal");
    let macros: Vec<String> =
        with_macros.difference(&packages_of_the_filter("normal,no-proc-macro")).cloned().collect();
    assert_eq!(macros, IN_ITS_BUILD);
}
