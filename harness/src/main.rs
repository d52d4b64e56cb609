//! The harness on the command line.

use anyhow::Context;
use bellwether_harness::provider::Provider;
use clap::{Parser, Subcommand};

/// What Bellwether is tested with.
#[derive(Parser)]
#[command(name = "bellwether-harness", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a mock OpenAI-compatible provider on 127.0.0.1 until interrupted.
    ///
    /// `PUT /_mock/behaviour` changes what it does, `GET /_mock/requests` shows what it received.
    Provider {
        /// The name it signs its answers with.
        #[arg(long)]
        name: String,
        /// The port to listen on, 0 for any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Provider { name, port } => {
            let provider = Provider::start_on(&name, port)
                .await
                .with_context(|| format!("listen on 127.0.0.1:{port}"))?;
            println!("provider {name} on http://127.0.0.1:{}", provider.port());
            tokio::signal::ctrl_c().await?;
            provider.stop().await;
        }
    }
    Ok(())
}
