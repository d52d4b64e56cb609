//! The image of `make image`, read as its fetchers read it: Istio's agent and Envoy Gateway take the last layer of the
//! manifest, look at its media type, and unpack the file with the base name `plugin.wasm` from it.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use bellwether_harness::envoy::wasm_path;
use bellwether_harness::workspace_root;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn write_image(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output =
        Command::new(workspace_root().join("harness/scripts/image")).arg(&directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The content that a descriptor describes, after a check that it is that.
fn content(image: &Path, descriptor: &Value) -> Vec<u8> {
    let name = descriptor["digest"].as_str().unwrap();
    let (algorithm, hash) = name.split_once(':').unwrap();
    let bytes = fs::read(image.join("blobs").join(algorithm).join(hash)).unwrap();
    assert_eq!(digest(&bytes), name, "{descriptor}");
    assert_eq!(json!(bytes.len()), descriptor["size"], "{descriptor}");
    bytes
}

fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn the_image_holds_the_built_module_where_fetchers_look_for_it() {
    let image = write_image("image");
    assert_eq!(
        document(&fs::read(image.join("oci-layout")).unwrap()),
        json!({"imageLayoutVersion": "1.0.0"})
    );
    let index = document(&fs::read(image.join("index.json")).unwrap());
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let [described] = index["manifests"].as_array().unwrap().as_slice() else { panic!("one image: {index}") };
    assert_eq!(described["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(described["annotations"]["org.opencontainers.image.ref.name"], env!("CARGO_PKG_VERSION"));

    let manifest = document(&content(&image, described));
    assert_eq!((&manifest["schemaVersion"], &manifest["mediaType"]), (&json!(2), &described["mediaType"]));
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let mut unpacked = Vec::new();
    GzDecoder::new(content(&image, layer).as_slice()).read_to_end(&mut unpacked).unwrap();
    let mut modules = Vec::new();
    for entry in tar::Archive::new(unpacked.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let is_it = entry.path().unwrap().file_name().is_some_and(|name| name == "plugin.wasm");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        modules.extend(is_it.then_some(bytes));
    }
    let built = fs::read(wasm_path().unwrap()).unwrap();
    assert_eq!(built.get(..8), Some(&b"\0asm\x01\0\0\0"[..]), "a WebAssembly module of version 1");
    assert!(modules == [built], "the only plugin.wasm is not the built module");

    // Tools that unpack images as file systems check this, and refuse an image with another value.
    let config = &manifest["config"];
    assert_eq!(config["mediaType"], "application/vnd.oci.image.config.v1+json");
    let config = document(&content(&image, config));
    assert_eq!(config["rootfs"], json!({"type": "layers", "diff_ids": [digest(&unpacked)]}));
    for name in ["architecture", "os"] {
        assert!(config[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {config}");
    }
}

#[test]
fn the_same_module_gives_the_same_bytes_and_the_image_holds_nothing_else() {
    let files = |image: &Path| -> BTreeSet<(String, Vec<u8>)> {
        let blobs = fs::read_dir(image.join("blobs/sha256")).unwrap();
        let paths = blobs.map(|blob| blob.unwrap().path());
        let paths = paths.chain(["index.json", "oci-layout"].map(|name| image.join(name)));
        paths
            .map(|path| {
                let bytes = fs::read(&path).unwrap();
                (path.file_name().unwrap().to_str().unwrap().to_owned(), bytes)
            })
            .collect()
    };
    let (first, second) = (files(&write_image("image-1")), files(&write_image("image-2")));
    assert_eq!(first.len(), 5, "layer, configuration, manifest, index and layout");
    assert!(first == second, "two images of one module differ");
}
