//! The fuzzing corpora, replayed without libFuzzer on every run of the tests. Each input is also changed in a short walk,
//! which is the same on every machine. The long walk is `make fuzz`.

#[path = "../../harness/fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

use fuzz::{Run, TARGETS};

/// Changed inputs that each target is given: a few seconds without optimisation.
const WALK: usize = 3_000;
/// Bytes of all corpora: they are in every clone.
const CORPORA_MAX: u64 = 300_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/fuzz/corpus")
}

/// The inputs of a target, in an order that does not depend on the disk.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let listed = fs::read_dir(folder().join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Says which input it was when a target panics with it.
struct Told<'a> {
    target: &'a str,
    path: &'a Path,
    bytes: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (target, path, bytes) = (self.target, self.path.display(), self.bytes.escape_ascii());
            eprintln!("{target} panicked with {path}, or this change of it: \"{bytes}\"");
        }
    }
}

/// Numbers without any pretension (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }

    /// A byte changed, put in or taken out, or a piece repeated, a few times over.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let byte = u8::try_from(self.below(256)).unwrap();
            match (self.below(5), bytes.is_empty()) {
                (0, _) | (_, true) => bytes.insert(at, byte),
                (1, _) => drop(bytes.remove(at)),
                (2, _) => bytes[at] ^= 1 << self.below(8),
                (3, _) => {
                    let piece = bytes[at..bytes.len().min(at + self.below(16))].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => bytes[at] = byte,
            }
        }
    }
}

fn walk(target: &str, run: Run, inputs: &[(PathBuf, Vec<u8>)]) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..WALK {
        let (path, bytes) = &inputs[dice.below(inputs.len())];
        let mut bytes = bytes.clone();
        dice.change(&mut bytes);
        let _told = Told { target, path, bytes: &bytes };
        run(&bytes);
    }
}

#[test]
fn every_target_accepts_its_corpus_and_small_changes_of_it() {
    std::thread::scope(|scope| {
        for (target, run) in TARGETS {
            scope.spawn(move || {
                let inputs = inputs(target);
                assert!(inputs.len() >= 3, "{target} has {} inputs", inputs.len());
                for (path, bytes) in &inputs {
                    let _told = Told { target, path, bytes };
                    run(bytes);
                }
                walk(target, run, &inputs);
            });
        }
    });
}

#[test]
fn every_corpus_belongs_to_a_target_and_all_of_them_are_small() {
    let mut bytes = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name} is no target");
        bytes += inputs(&name).iter().map(|(_, input)| u64::try_from(input.len()).unwrap()).sum::<u64>();
    }
    assert!(bytes <= CORPORA_MAX, "{bytes} bytes");
    let manifest = include_str!("../../harness/fuzz/Cargo.toml");
    for (target, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
    }
}
