//! What the filter costs.

mod callgrind;
mod instructions;
mod process;
mod reload;
mod report;
mod time;
mod traffic;
mod variant;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use bellwether_harness::workspace_root;
use clap::Subcommand;

use variant::Variant;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// CPU time a request, sizes, workers, reloads and memory.
    Time {
        /// Rounds of all cases.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// Requests of each case in a round.
        #[arg(long, default_value_t = 4_000)]
        requests: u64,
    },
    /// Instructions a request, under callgrind.
    Instructions {
        /// Only the variants whose name contains one of these.
        #[arg(long)]
        only: Vec<String>,
        /// Also at other sizes of the configuration.
        #[arg(long)]
        sizes: bool,
    },
}

/// Measures.
///
/// # Errors
/// If something does not start, or a request fails.
pub async fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Time { rounds, requests } => report::time(&empty_module()?, rounds, requests).await?,
        Bench::Instructions { only, sizes } => {
            let wanted = |variant: &Variant| {
                let name = variant.name();
                only.is_empty() || only.iter().any(|part| name.contains(part))
            };
            let variants: Vec<Variant> = Variant::ALL.into_iter().filter(wanted).collect();
            println!("{}", instructions::table(&variants, &empty_module()?).await?);
            if sizes {
                println!("{}", instructions::sizes(&empty_module()?).await?);
            }
        }
    }
    Ok(())
}

/// The filter that does nothing.
fn empty_module() -> Result<PathBuf> {
    let path = workspace_root().join("target/linked/wasm32-wasip1/release/bellwether_bench_empty.wasm");
    ensure!(path.is_file(), "{}: no such file; run `make bench`, which builds it", path.display());
    Ok(path)
}
