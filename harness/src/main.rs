//! The harness on the command line.

use std::net::{IpAddr, Ipv4Addr};

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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Provider { name, port, address } => {
            let address = (address, port).into();
            let provider =
                Provider::start_on(&name, address).await.with_context(|| format!("listen on {address}"))?;
            println!("provider {name} on http://{}:{}", address.ip(), provider.port());
            // Both are awaited because the first process of a container ignores what it does not handle.
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => interrupted?,
                _ = terminate.recv() => {}
            }
            provider.stop().await;
        }
    }
    Ok(())
}
