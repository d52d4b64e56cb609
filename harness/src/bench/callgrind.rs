//! An Envoy under callgrind, which counts the instructions it executes in user space.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess};
use bellwether_harness::workspace_root;
use tempfile::TempDir;

/// How much slower the clock goes: about as much as everything else does.
const SLOWER: u64 = 50;
/// Callgrind needs half a minute for what takes Envoy half a second.
const START_LIMIT: Duration = Duration::from_secs(300);

/// An Envoy that is counted.
pub struct Counted {
    /// It.
    pub envoy: EnvoyProcess,
    directory: TempDir,
}

impl Counted {
    /// Starts one; from then on its clock is slow and its instructions are counted.
    ///
    /// # Errors
    /// If there is no valgrind or no C compiler, or Envoy does not start.
    pub async fn start(mut options: EnvoyOptions) -> Result<Counted> {
        let directory = tempfile::Builder::new().prefix("bellwether-callgrind-").tempdir()?;
        let clock = directory.path().join("clock");
        fs::write(&clock, [0u8; 16])?;
        options.launcher = ["valgrind", "--tool=callgrind", "--instr-atstart=no"].map(Into::into).to_vec();
        for (name, file) in [("--callgrind-out-file", "out"), ("--vgdb-prefix", "vgdb")] {
            let path = directory.path().join(file);
            options.launcher.push(format!("{name}={}", path.display()).into());
        }
        options.start_limit = START_LIMIT;
        options.env.push(("LD_PRELOAD".to_owned(), slow_clock(directory.path())?.display().to_string()));
        options.env.push(("BELLWETHER_SLOW_CLOCK".to_owned(), clock.display().to_string()));
        options.env.push(("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()));
        if let Ok(library) = std::env::var("VALGRIND_LIB") {
            options.env.push(("VALGRIND_LIB".to_owned(), library));
        }
        let envoy = EnvoyProcess::start(options).await?;
        let counted = Counted { envoy, directory };
        counted.tell("instrumentation on")?;
        let mut shared = [0u8; 16];
        shared[..8].copy_from_slice(&SLOWER.to_le_bytes());
        fs::write(&clock, shared)?;
        Ok(counted)
    }

    /// Instructions executed so far, by all threads.
    ///
    /// # Errors
    /// If callgrind does not tell.
    pub fn instructions(&self) -> Result<u64> {
        let status = self.tell("status internal")?;
        let counts = status.lines().filter_map(|line| {
            let (thread, count) = line.strip_prefix("events-")?.split_once(": ")?;
            thread.parse::<u32>().ok()?;
            count.trim().parse::<u64>().ok()
        });
        let sum = counts.sum();
        ensure!(sum > 0, "callgrind tells no counts: {status}");
        Ok(sum)
    }

    fn tell(&self, command: &str) -> Result<String> {
        let output = Command::new("vgdb")
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .arg(format!("--vgdb-prefix={}", self.directory.path().join("vgdb").display()))
            .arg(format!("--pid={}", self.envoy.pid()))
            .arg(command)
            .output()
            .context("run vgdb, which is part of valgrind")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "vgdb: {}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }
}

/// Compiles what slows the clock.
fn slow_clock(directory: &Path) -> Result<PathBuf> {
    let library = directory.join("slow_clock.so");
    let status = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(workspace_root().join("harness/bench/slow_clock.c"))
        .status()
        .context("run cc")?;
    ensure!(status.success(), "harness/bench/slow_clock.c does not compile");
    Ok(library)
}
