//! The claims of SECURITY.md: each names one test, and the test exists. The promises of the samples about themselves are
//! here too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of SECURITY.md that state a claim: the claim, and the tests named beside it.
fn claims() -> Vec<(String, Vec<String>)> {
    let text = read("docs/SECURITY.md");
    let mut in_claims = false;
    let mut rows = Vec::new();
    for line in text.lines() {
        match line {
            "| claim | test |" => in_claims = true,
            "" => in_claims = false,
            _ if in_claims && !line.starts_with("|---") => {
                let (claim, tests) = line.trim_matches('|').rsplit_once(" | ").unwrap();
                let tests = tests.split('`').filter(|piece| piece.contains("::")).map(str::to_owned);
                rows.push((claim.trim().to_owned(), tests.collect()));
            }
            _ => {}
        }
    }
    rows
}

/// Whether a file has a test of this name that is run: not ignored, and an attribute or `proptest!` makes it a test.
fn has_test(file: &str, name: &str) -> bool {
    let text = read(file);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let line = line.trim_start_matches("async ");
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().filter(|(_, line)| begins(line)).any(|(n, _)| {
        let attributes: Vec<&&str> =
            lines[..n].iter().rev().take_while(|line| line.starts_with("#[")).collect();
        let is_test = attributes.iter().any(|a| a.starts_with("#[test]") || a.starts_with("#[tokio::test"));
        is_test && !attributes.iter().any(|a| a.starts_with("#[ignore"))
    })
}

#[test]
fn each_claim_of_security_md_has_one_test_and_it_exists() {
    let claims = claims();
    assert!(claims.len() > 40, "{} claims were read", claims.len());
    let mut named = BTreeSet::new();
    for (claim, tests) in &claims {
        let [test] = tests.as_slice() else { panic!("{claim}: {} tests", tests.len()) };
        let (file, name) = test.split_once("::").unwrap();
        assert!(has_test(file, name), "{claim}: no test {test}");
        assert!(named.insert(test), "{test} is named twice");
    }
    // Every name of a test in the document is in a row that was checked.
    let in_document = read("docs/SECURITY.md").matches(".rs::").count();
    assert_eq!(in_document, named.len());
}

#[test]
fn a_missing_test_is_found() {
    let here = "tests/native/security.rs";
    assert!(has_test(here, "a_missing_test_is_found"));
    for name in ["a_test_that_is_not_there", "has_test", "claims", "nothing_of_the_kind"] {
        assert!(!has_test(here, name), "{name}");
    }
}

/// The runnable samples themselves: `envoy/*.yaml` and `envoy/ecds/*.yaml`.
fn samples() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["envoy", "envoy/ecds"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                found.push((path.clone(), read(&path)));
            }
        }
    }
    found
}

#[test]
fn every_sample_recovers_from_a_crash_and_shares_its_vm_with_nobody_else() {
    let mut plugins = 0;
    for (path, text) in samples() {
        let settings: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
        let count = |setting: &str| settings.iter().filter(|line| **line == setting).count();
        let runtimes = settings.iter().filter(|line| line.starts_with("runtime: envoy.wasm.runtime")).count();
        assert_eq!(count("failure_policy: FAIL_RELOAD"), runtimes, "{}", path.display());
        assert_eq!(count("vm_id: bellwether"), runtimes, "{}", path.display());
        plugins += runtimes;
    }
    assert!(plugins >= 2, "{plugins} plugins in the samples");
}

#[test]
fn every_address_of_the_samples_is_on_loopback() {
    let mut addresses = 0;
    for (path, text) in samples() {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some((_, rest)) = line.split_once("socket_address:") else { continue };
            assert!(rest.contains("address: 127.0.0.1"), "{}: {line}", path.display());
            addresses += 1;
        }
    }
    assert!(addresses >= 4, "{addresses} addresses in the samples");
}

#[test]
fn unsafe_code_is_forbidden_in_every_package_but_that_of_some_host_calls() {
    let workspace: toml::Table = read("Cargo.toml").parse().unwrap();
    let forbidden = |lints: &toml::Value| lints["rust"]["unsafe_code"].as_str() == Some("forbid");
    assert!(forbidden(&workspace["lints"]), "the filter");
    assert!(forbidden(&workspace["workspace"]["lints"]), "the packages that inherit it");
    for member in workspace["workspace"]["members"].as_array().unwrap() {
        let member = member.as_str().unwrap();
        let manifest: toml::Table = read(format!("{member}/Cargo.toml")).parse().unwrap();
        let lints = &manifest["lints"];
        if member == "src/host/abi" {
            assert!(!manifest.contains_key("dependencies"));
            for lint in ["undocumented_unsafe_blocks", "multiple_unsafe_ops_per_block"] {
                assert_eq!(lints["clippy"][lint].as_str(), Some("deny"), "{lint}");
            }
        } else {
            assert_eq!(lints["workspace"].as_bool(), Some(true), "{member}");
        }
    }
    // The imports, a call of each, and the conversion of the buffer that the host has filled.
    let abi = read("src/host/abi/lib.rs");
    let code = abi.lines().filter(|line| !line.trim_start().starts_with("//"));
    assert_eq!(code.filter(|line| line.contains("unsafe ")).count(), 8, "in src/host/abi/lib.rs");
    let mut files: Vec<_> =
        fs::read_dir(root().join("src/host/abi")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["Cargo.toml", "lib.rs"], "files in src/host/abi");
}
