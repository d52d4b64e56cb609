//! An Envoy that is killed and started again, as after a crash of its machine.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::EnvoyProcess;
use super::options::START_LIMIT;

/// Envoy's command line and environment. Not shown: there are keys in it, if only a test's.
pub(super) struct Launch(pub(super) Command);

impl Launch {
    /// The file in which Envoy tells the port of its admin interface.
    pub const ADMIN_ADDRESS: &str = "admin-address";

    pub fn spawn(&mut self) -> Result<Child> {
        self.0.spawn().with_context(|| format!("start {}", self.0.get_program().display()))
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("program", &self.0.get_program()).finish_non_exhaustive()
    }
}

/// The ports of an Envoy that is down, kept for it.
#[derive(Debug)]
pub struct Kept(#[allow(dead_code, reason = "held, not used")] Vec<TcpSocket>);

impl EnvoyProcess {
    /// Kills the process (SIGKILL): whatever it had in memory or in flight is gone. Its ports are kept for it, but nobody listens
    /// there, so connections are refused until [`restart`](EnvoyProcess::restart).
    ///
    /// # Errors
    /// If the process cannot be killed or its ports cannot be kept.
    pub fn crash(&mut self) -> Result<Kept> {
        self.child.kill()?;
        self.child.wait()?;
        let keep = |port: &u16| -> Result<TcpSocket> {
            let socket = TcpSocket::new_v4()?;
            // As Envoy's listeners, so that both may hold the port.
            socket.set_reuseport(true)?;
            socket.bind((Ipv4Addr::LOCALHOST, *port).into())?;
            Ok(socket)
        };
        Ok(Kept(self.listeners.values().map(keep).collect::<Result<_>>().context("keep Envoy's ports")?))
    }

    /// Starts the process again, with the files that it finds and on the ports it had, and returns when it serves. Its logs go on
    /// in the same files.
    ///
    /// # Errors
    /// If Envoy ends or is not ready within a minute.
    pub async fn restart(&mut self, kept: Kept) -> Result<()> {
        let bootstrap = self.directory.path().join("bootstrap.json");
        let mut pinned: Value = serde_json::from_slice(&fs::read(&bootstrap)?)?;
        let listeners = pinned["static_resources"]["listeners"].as_array_mut().context("listeners")?;
        for listener in listeners {
            let name = listener["name"].as_str().unwrap_or_default();
            let port = self.listeners.get(name).copied().unwrap_or(0);
            listener["address"]["socket_address"]["port_value"] = json!(port);
        }
        fs::write(&bootstrap, pinned.to_string())?;
        // What the dead one has told of its admin interface is no longer true.
        let admin_address = self.directory.path().join(Launch::ADMIN_ADDRESS);
        fs::remove_file(&admin_address)?;
        self.child = self.launch.spawn()?;
        self.wait_ready(&admin_address, START_LIMIT).await?;
        drop(kept);
        Ok(())
    }
}
