//! What the filter costs.

mod callgrind;
mod instructions;
mod order;
mod process;
mod reload;
mod report;
mod time;
mod traffic;
mod variant;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use bellwether_harness::workspace_root;
use clap::Subcommand;

use variant::Variant;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// CPU time a request, sizes, workers, reloads, memory, and rollbacks by hand.
    Time {
        /// Rounds of all cases.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// Requests of each case in a round.
        #[arg(long, default_value_t = 4_000)]
        requests: u64,
        /// Only these parts: variants, sizes, workers, reload, order.
        #[arg(long)]
        part: Vec<String>,
        /// Write the tables into this document too, between its marks.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Instructions a request, under callgrind.
    Instructions {
        /// Only the variants whose name contains one of these.
        #[arg(long)]
        only: Vec<String>,
        /// Also at other sizes of the configuration.
        #[arg(long)]
        sizes: bool,
        /// Also of single host calls.
        #[arg(long)]
        calls: bool,
        /// Write the tables into this document too, between its marks.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// Measures.
///
/// # Errors
/// If something does not start, or a request fails.
pub async fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Time { rounds, requests, part, out } => {
            let text = report::time(&empty_module()?, rounds, requests, &part).await?;
            tell("time", &text, out.as_deref())?;
        }
        Bench::Instructions { only, sizes, calls, out } => {
            let wanted = |variant: &Variant| {
                let name = variant.name();
                only.is_empty() || only.iter().any(|part| name.contains(part))
            };
            let variants: Vec<Variant> = Variant::ALL.into_iter().filter(wanted).collect();
            let mut text = instructions::table(&variants, &empty_module()?).await?;
            if sizes {
                text = [text, instructions::sizes(&empty_module()?).await?].join("\n");
            }
            if calls {
                text = [text, instructions::calls(&module("bellwether_bench_calls")?).await?].join("\n");
            }
            tell("instructions", &text, out.as_deref())?;
        }
    }
    Ok(())
}

/// Prints a text, and puts it into a document.
fn tell(mark: &str, text: &str, out: Option<&Path>) -> Result<()> {
    let text = format!("{}\n\n{text}", report::machine());
    println!("{text}");
    out.map_or(Ok(()), |document| report::insert(document, mark, &text))
}

/// The filter that does nothing.
fn empty_module() -> Result<PathBuf> {
    module("bellwether_bench_empty")
}

/// A module of `bench/`, as linked.
fn module(name: &str) -> Result<PathBuf> {
    let path = workspace_root().join(format!("target/linked/wasm32-wasip1/release/{name}.wasm"));
    ensure!(path.is_file(), "{}: no such file; run `make bench`, which builds it", path.display());
    Ok(path)
}
