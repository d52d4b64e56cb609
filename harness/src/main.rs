//! The harness on the command line.

mod bench;
mod compose;
mod demo;
mod soak;
mod stand;

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use anyhow::Context;
use bellwether_harness::provider::Provider;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// What Bellwether is tested with.
#[derive(Parser)]
#[command(name = "bellwether-harness", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a mock OpenAI-compatible provider until interrupted.
    ///
    /// `PUT /_mock/behaviour` changes what it does, `GET /_mock/requests` shows what it received.
    Provider {
        /// The name it signs its answers with.
        #[arg(long)]
        name: String,
        /// The port to listen on, 0 for any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// The address to listen on; in a container 0.0.0.0.
        #[arg(long, default_value_t = Ipv4Addr::LOCALHOST.into())]
        address: IpAddr,
    },
    /// Watch a canary break and be rolled back; fails if it is not.
    Demo {
        /// Leave everything running on fixed ports afterwards, with things to try, until interrupted.
        #[arg(long)]
        keep: bool,
    },
    /// Watch Envoy's memory under hours of load with reloads, rotations, faults and rollbacks; fails if anything grows or fails.
    Soak(soak::Soak),
    /// Measure what the filter costs.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Run Envoy, the filter and two providers on free ports until standard input is closed.
    ///
    /// Prints the ports as a line of JSON.
    Stand {
        /// The router's configuration, the sample's if not given.
        #[arg(long)]
        router_config: Option<String>,
    },
    /// Send chat completions to a port of 127.0.0.1, every second one streamed, until interrupted.
    Traffic {
        /// The port.
        #[arg(long)]
        port: u16,
        /// Requests a second.
        #[arg(long, default_value_t = 20.0, value_parser = rate)]
        rate: f64,
    },
    /// Show a rollback in the containers of `envoy/compose.yaml`, which are running; fails if there is none.
    ComposeDemo(compose::Ports),
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=10_000.0).contains(&rate) { Ok(rate) } else { Err("must be in 0.01..=10000".to_owned()) }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not returned: that would be printed with a stack trace where RUST_BACKTRACE is set.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for an interrupt or to be told to end; both because the first process of a container ignores what it does not
/// handle.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

async fn run() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Provider { name, port, address } => {
            let address = (address, port).into();
            let provider =
                Provider::start_on(&name, address).await.with_context(|| format!("listen on {address}"))?;
            println!("provider {name} on http://{}:{}", address.ip(), provider.port());
            interrupted().await?;
            provider.stop().await;
        }
        // Not in tasks: Envoy ends with the thread that started it, and this one stays.
        Command::Demo { keep } => demo::run(keep).await?,
        Command::Soak(options) => soak::run(options).await?,
        Command::Bench { bench } => bench::run(bench).await?,
        Command::Stand { router_config } => stand::run(router_config.as_deref()).await?,
        Command::Traffic { port, rate } => compose::traffic(port, rate).await?,
        Command::ComposeDemo(ports) => compose::demo(&ports).await?,
    }
    Ok(())
}
