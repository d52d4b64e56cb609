//! Configuration updates of a running Envoy, as an operator makes them: a new file renamed into place.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::options::Role;
use super::sample::replace;
use super::{EnvoyProcess, POLL};

/// A configuration that was written and that Envoy may or may not have taken.
#[derive(Debug, Clone)]
pub struct ConfigUpdate {
    /// Its `version_info`.
    pub version: String,
    /// Whose configuration it is.
    pub role: Role,
    rejected_before: u64,
    log_before: usize,
}

impl EnvoyProcess {
    /// Gives the router role a new configuration, and returns without waiting for it to be taken.
    ///
    /// # Errors
    /// If the file cannot be written or the admin interface does not answer.
    pub async fn write_router_config(&self, config: &Value) -> Result<ConfigUpdate> {
        self.write_config(Role::Router, &config.to_string()).await
    }

    /// Gives the keys role a new configuration.
    ///
    /// # Errors
    /// As [`write_router_config`](EnvoyProcess::write_router_config), and if this Envoy has no keys role.
    pub async fn write_keys_config(&self, config: &Value) -> Result<ConfigUpdate> {
        self.write_config(Role::Keys, &config.to_string()).await
    }

    /// Gives the admin role a new configuration.
    ///
    /// # Errors
    /// As [`write_router_config`](EnvoyProcess::write_router_config), and if this Envoy has no admin role.
    pub async fn write_admin_config(&self, config: &Value) -> Result<ConfigUpdate> {
        self.write_config(Role::Admin, &config.to_string()).await
    }

    /// Gives a role a new configuration, which need not be JSON.
    ///
    /// # Errors
    /// As [`write_router_config`](EnvoyProcess::write_router_config), and if this Envoy does not have the role.
    pub async fn write_config(&self, role: Role, config: &str) -> Result<ConfigUpdate> {
        ensure!(self.sample.roles().any(|known| known == role), "this Envoy runs without the {role:?} role");
        let update = ConfigUpdate {
            version: (self.version.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
            role,
            rejected_before: self.role_stat(role, "update_rejected").await?,
            log_before: self.logs().len(),
        };
        let text = self.sample.ecds(role, config, &update.version)?.to_string();
        replace(self.directory.path(), role, &text)?;
        Ok(update)
    }

    /// Waits until Envoy has taken an update. Its workers follow within a turn of their event loops.
    ///
    /// # Errors
    /// If Envoy rejects it or the time is up; the error has what the log says about it.
    pub async fn wait_config_accepted(&self, update: &ConfigUpdate, limit: Duration) -> Result<()> {
        match self.outcome(update, limit).await? {
            Some(true) => Ok(()),
            Some(false) => bail!("configuration {} was rejected\n{}", update.version, self.said(update)),
            None => bail!("configuration {} is not in force\n{}", update.version, self.log_tail()),
        }
    }

    /// Waits until Envoy has rejected an update, and returns the warnings and errors in the log since it was written.
    ///
    /// # Errors
    /// If Envoy takes it or the time is up.
    pub async fn wait_rejected(&self, update: &ConfigUpdate, limit: Duration) -> Result<String> {
        match self.outcome(update, limit).await? {
            Some(false) => Ok(self.said(update)),
            Some(true) => bail!("configuration {} was accepted", update.version),
            None => {
                bail!(
                    "configuration {} is neither accepted nor rejected\n{}",
                    update.version,
                    self.log_tail()
                )
            }
        }
    }

    /// Whether an update was taken (true) or rejected (false), `None` if neither happened in time.
    async fn outcome(&self, update: &ConfigUpdate, limit: Duration) -> Result<Option<bool>> {
        let deadline = Instant::now() + limit;
        loop {
            // Of a rejected configuration only the statistics tell: /config_dump shows it as if it were in force.
            let version = self.text_stat(&update.role.stat("version_text")).await?;
            if version.as_deref() == Some(&update.version) {
                return Ok(Some(true));
            }
            if self.role_stat(update.role, "update_rejected").await? > update.rejected_before {
                return Ok(Some(false));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    /// Warnings and errors since an update was written.
    fn said(&self, update: &ConfigUpdate) -> String {
        let logs = self.logs();
        let news = logs.get(update.log_before..).unwrap_or_default();
        let bad =
            |line: &&str| ["[warning]", "[error]", "[critical]"].iter().any(|level| line.contains(level));
        news.lines().filter(bad).collect::<Vec<_>>().join("\n")
    }
}
