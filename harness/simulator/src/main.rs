//! Prints the simulator's tables; fails when a bound is broken.
#![allow(clippy::disallowed_methods)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use bellwether_simulator::document;
use bellwether_simulator::report::Findings;
use bellwether_simulator::tables;
use bellwether_simulator::trials::Effort;
use clap::Parser;

/// Measures what Bellwether's decision rules promise, on the shipping code, beside the rules people use today.
#[derive(Parser)]
#[command(name = "bellwether-simulator", version)]
struct Arguments {
    /// Trials a cell.
    #[arg(long, default_value_t = 1000)]
    trials: u64,
    /// A run is a function of this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these tables.
    #[arg(long)]
    table: Vec<String>,
    /// 60 trials, days of an hour.
    #[arg(long)]
    quick: bool,
    /// Threads; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Where to write the tables too.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores);
    let effort = match arguments.quick {
        true => Effort { threads, seed: arguments.seed, ..Effort::QUICK },
        false => Effort { seed: arguments.seed, trials: arguments.trials, hours: 24, threads },
    };
    for name in &arguments.table {
        let names: Vec<&str> = tables::ALL.iter().map(|entry| entry.name).collect();
        anyhow::ensure!(names.contains(&name.as_str()), "no table {name}; there are {}", names.join(", "));
    }
    let mut findings = Findings::default();
    for entry in &tables::ALL {
        if arguments.table.is_empty() || arguments.table.iter().any(|name| name == entry.name) {
            let began = Instant::now();
            findings.extend((entry.measure)(&effort));
            eprintln!("{}: {:.1} s", entry.name, began.elapsed().as_secs_f64());
        }
    }
    findings.tables.push(tables::assumptions());
    let text = document::text(&effort, &findings);
    std::io::stdout().write_all(text.as_bytes())?;
    if let Some(path) = arguments.out {
        std::fs::write(path, text)?;
    }
    Ok(if findings.hold() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
