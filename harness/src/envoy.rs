//! Runs a real Envoy on the sample configuration.
//!
//! The files in `envoy/` are copied into a temporary directory with the ports and paths replaced, so a test of the
//! filter is a test of the samples. Envoy picks its own free ports and tells them, which no other process can race.

mod options;
mod paths;
mod prometheus;
mod restart;
mod sample;
mod update;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

pub use options::{Edit, EnvoyOptions, Role, Route};
pub use paths::{envoy_path, envoy_version, skipped, wasm_path};
pub use prometheus::sum_metric;
pub use restart::Kept;
use restart::Launch;
pub use sample::router_config;
pub use update::ConfigUpdate;

use crate::client::Client;

/// How often something awaited is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Lines of Envoy's log shown when something fails, and characters of each: it begins with pages of extension names.
const TAIL_LINES: usize = 40;
const TAIL_CHARS: usize = 1_000;

/// The listener that the samples serve requests on.
const INGRESS: &str = "ingress";

/// A running Envoy; dropping it ends the process, and prints the end of its log if the thread is panicking.
#[derive(Debug)]
pub struct EnvoyProcess {
    child: Child,
    /// How it was started, to start it again.
    launch: Launch,
    directory: TempDir,
    sample: sample::Sample,
    admin: Client,
    admin_port: u16,
    listeners: BTreeMap<String, u16>,
    /// The last `version_info` written, the same counter for all roles.
    version: AtomicU64,
}

impl EnvoyProcess {
    /// Starts Envoy and returns when it serves.
    ///
    /// # Errors
    /// If there is no Envoy or no module, if Envoy ends or is not ready within a minute, or if a role's configuration
    /// is rejected and the options do not allow that. The error has the end of Envoy's log.
    pub async fn start(mut options: EnvoyOptions) -> Result<EnvoyProcess> {
        let binary = envoy_path()?;
        let wasm = match &options.wasm {
            Some(path) => path.clone(),
            None => wasm_path()?,
        };
        let directory = tempfile::Builder::new().prefix("bellwether-envoy-").tempdir()?;
        let sample = sample::Sample::read(&mut options, &wasm, directory.path())?;
        sample.write(directory.path())?;

        let file = |name: &str| File::create(directory.path().join(name));
        let admin_address = directory.path().join(Launch::ADMIN_ADDRESS);
        let mut words = options.launcher.clone().into_iter().chain([binary.clone().into_os_string()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .arg("--config-path")
            .arg(directory.path().join("bootstrap.json"))
            .arg("--admin-address-path")
            .arg(&admin_address)
            .args(["--concurrency", &options.concurrency.to_string()])
            .args(["--log-level", &options.log_level])
            // Tests run in parallel: without hot restart there is no base id to share and nothing left in /dev/shm.
            .arg("--disable-hot-restart")
            // The access log is written at once, or a test would wait ten seconds for a line.
            .args(["--file-flush-interval-msec", "20"]);
        if !options.component_log_level.is_empty() {
            command.args(["--component-log-level", &options.component_log_level]);
        }
        command
            // The keys of whoever runs the tests are not the keys of the tests.
            .env_clear()
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file("access.log")?)
            .stderr(file("envoy.log")?);
        let mut launch = Launch(command);
        let mut envoy = EnvoyProcess {
            child: launch.spawn()?,
            launch,
            directory,
            sample,
            // Not known before Envoy has written it.
            admin: Client::new(0),
            admin_port: 0,
            listeners: BTreeMap::new(),
            version: AtomicU64::new(1),
        };
        envoy.wait_ready(&admin_address, options.start_limit).await?;
        if !options.allow_rejected_config {
            for role in envoy.sample.roles() {
                let rejected = envoy.role_stat(role, "update_rejected").await?;
                ensure!(rejected == 0, "the first {role:?} configuration was rejected\n{}", envoy.log_tail());
            }
        }
        Ok(envoy)
    }

    /// The port of the listener that serves requests.
    pub fn port(&self) -> u16 {
        self.listeners.get(INGRESS).copied().unwrap_or(0)
    }

    /// The port of a listener by its name in the bootstrap.
    pub fn listener_port(&self, name: &str) -> Option<u16> {
        self.listeners.get(name).copied()
    }

    /// The port of the admin role's listener; 0 without that role.
    pub fn admin_role_port(&self) -> u16 {
        self.listener_port(sample::ADMIN_LISTENER).unwrap_or(0)
    }

    /// The port of Envoy's own admin interface.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// A new client of the listener that serves requests.
    pub fn client(&self) -> Client {
        Client::new(self.port())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The directory of this Envoy's files: `bootstrap.json`, `ecds/`, `envoy.log`, `access.log`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Envoy's log so far.
    pub fn logs(&self) -> String {
        self.read("envoy.log")
    }

    /// The access log so far, one value per complete line.
    pub fn access_log(&self) -> Vec<Value> {
        self.read("access.log").lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// All of Envoy's statistics by name, except histograms with their quantiles as text.
    ///
    /// # Errors
    /// If the admin interface does not answer.
    pub async fn stats(&self) -> Result<BTreeMap<String, String>> {
        self.stats_matching("").await
    }

    /// A counter or gauge, `None` if there is none of this name (yet).
    ///
    /// # Errors
    /// If the admin interface does not answer.
    pub async fn stat(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.text_stat(name).await?.and_then(|value| value.parse().ok()))
    }

    /// A statistic as text, without quotes, `None` if there is none of this name (yet).
    ///
    /// # Errors
    /// If the admin interface does not answer.
    pub async fn text_stat(&self, name: &str) -> Result<Option<String>> {
        Ok(self.stats_matching(name).await?.remove(name))
    }

    /// The page a Prometheus server would scrape.
    ///
    /// # Errors
    /// If the admin interface does not answer.
    pub async fn prometheus(&self) -> Result<String> {
        self.admin("/stats/prometheus").await
    }

    /// The sum of a metric over all series that have these labels, 0 without any; see [`sum_metric`].
    ///
    /// # Errors
    /// If the admin interface does not answer.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(sum_metric(&self.prometheus().await?, name, labels))
    }

    /// The body of a GET on Envoy's admin interface, for example of `/config_dump`.
    ///
    /// # Errors
    /// If the admin interface does not answer with 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let answer =
            self.admin.get(path, &[]).await.with_context(|| format!("GET {path} of Envoy's admin"))?;
        ensure!(answer.status == 200, "GET {path} of Envoy's admin: status {}", answer.status);
        Ok(answer.text())
    }

    /// Asks Envoy to quit and waits until it has, which drops nothing that is in flight with a kill.
    ///
    /// # Errors
    /// If it does not within ten seconds.
    pub async fn quit(mut self) -> Result<()> {
        self.admin.post("/quitquitquit", &[], "").await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.is_running() {
            ensure!(Instant::now() < deadline, "Envoy does not quit\n{}", self.log_tail());
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn role_stat(&self, role: Role, name: &str) -> Result<u64> {
        Ok(self.stat(&role.stat(name)).await?.unwrap_or(0))
    }

    async fn stats_matching(&self, name: &str) -> Result<BTreeMap<String, String>> {
        // The filter is a regular expression in a URL; a dot in place of anything odd matches that and a little more.
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let filter: String = name.chars().map(|c| if safe(c) { c } else { '.' }).collect();
        let text = self.admin(&format!("/stats?filter={filter}")).await?;
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect())
    }

    async fn wait_ready(&mut self, admin_address: &Path, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("Envoy ended with {status}\n{}", self.log_tail());
            }
            ensure!(Instant::now() < deadline, "Envoy is not ready in {limit:?}\n{}", self.log_tail());
            let address = fs::read_to_string(admin_address).unwrap_or_default();
            let port = address.rsplit(':').next().and_then(|port| port.trim().parse().ok());
            if let Some(port) = port {
                (self.admin, self.admin_port) = (Client::new(port), port);
                if self.admin("/ready").await.is_ok() && self.find_listeners().await? {
                    return Ok(());
                }
            }
            sleep(POLL).await;
        }
    }

    /// Reads the ports Envoy has chosen; false while it has none to tell.
    async fn find_listeners(&mut self) -> Result<bool> {
        let listing: Value = serde_json::from_str(&self.admin("/listeners?format=json").await?)?;
        let statuses = listing["listener_statuses"].as_array().cloned().unwrap_or_default();
        self.listeners = statuses
            .iter()
            .filter_map(|status| {
                let port = status["local_address"]["socket_address"]["port_value"].as_u64()?;
                Some((status["name"].as_str()?.to_owned(), u16::try_from(port).ok()?))
            })
            .collect();
        Ok(self.listeners.contains_key(INGRESS))
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.directory.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of Envoy's log, for an error message.
    pub fn log_tail(&self) -> String {
        let logs = self.logs();
        let mut lines: Vec<String> =
            logs.lines().rev().take(TAIL_LINES).map(|line| line.chars().take(TAIL_CHARS).collect()).collect();
        lines.reverse();
        lines.join("\n")
    }
}

impl Drop for EnvoyProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- end of Envoy's log ---\n{}\n---", self.log_tail());
        }
    }
}
