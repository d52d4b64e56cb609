//! Runs a real Prometheus, and asks it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::client::Client;
use crate::workspace_root;

/// It starts within a second; a machine that is busy takes longer.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often something awaited is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A program of Prometheus, `prometheus` or `promtool`: in the directory `PROMETHEUS`, else what `make prometheus` fetches.
///
/// # Errors
/// If it is not there.
pub fn prometheus_path(program: &str) -> Result<PathBuf> {
    let directory = std::env::var_os("PROMETHEUS").filter(|path| !path.is_empty());
    let directory = directory.map_or_else(|| workspace_root().join(".prometheus"), PathBuf::from);
    let path = directory.join(program);
    ensure!(
        path.is_file(),
        "{}: no such file; run `make prometheus`, or set PROMETHEUS to the directory it is in",
        path.display()
    );
    Ok(path)
}

/// One series of an answer, at one point in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels; `__name__` is the metric, where the expression keeps it.
    pub labels: BTreeMap<String, String>,
    /// Its value, which may be NaN.
    pub value: f64,
}

impl Sample {
    /// The value of a label, empty without one, as in Prometheus.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A running Prometheus; dropping it ends the process.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    directory: TempDir,
    client: Client,
}

impl Prometheus {
    /// Starts it with this configuration and these other files beside it, and returns when it answers.
    ///
    /// # Errors
    /// If there is no Prometheus, or it ends or is not ready within a minute; the error has the end of its log.
    pub async fn start(config: &Value, files: &[(&str, String)]) -> Result<Prometheus> {
        let directory = tempfile::Builder::new().prefix("bellwether-prometheus-").tempdir()?;
        let here = directory.path();
        // JSON is YAML.
        fs::write(here.join("prometheus.yml"), config.to_string())?;
        for (name, text) in files {
            fs::write(here.join(name), text)?;
        }
        let child = Command::new(prometheus_path("prometheus")?)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            // It chooses a free port and tells, which no other process can race.
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(here)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(here.join("prometheus.log"))?)
            .spawn()
            .context("start Prometheus")?;
        let mut prometheus = Prometheus { child, directory, client: Client::new(0) };
        prometheus.wait_ready().await?;
        Ok(prometheus)
    }

    /// Evaluates an expression now, and returns its series in no order; a scalar is one without labels.
    ///
    /// # Errors
    /// If Prometheus does not answer or does not understand the expression.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let path = format!("/api/v1/query?query={}", percent_encoded(expression));
        let answer = self.client.get(&path, &[]).await.context("ask Prometheus")?;
        let document = answer.json();
        if answer.status != 200 {
            bail!("{expression}: {}", document["error"].as_str().unwrap_or("no answer"));
        }
        let data = &document["data"];
        match data["resultType"].as_str() {
            Some("scalar") => Ok(vec![Sample { labels: BTreeMap::new(), value: value(&data["result"])? }]),
            Some("vector") => {
                let series = data["result"].as_array().context("no result")?;
                series.iter().map(sample).collect()
            }
            other => bail!("{expression}: an answer of type {other:?}"),
        }
    }

    /// The last lines of its log, for an error message.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("prometheus.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("Prometheus ended with {status}\n{}", self.log_tail());
            }
            ensure!(Instant::now() < deadline, "Prometheus is not ready\n{}", self.log_tail());
            if let Some(port) = port_in(&self.directory.path().join("prometheus.log")) {
                self.client = Client::new(port);
                if self.client.get("/-/ready", &[]).await.is_ok_and(|answer| answer.status == 200) {
                    return Ok(());
                }
            }
            sleep(POLL).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port in the line `… msg="Listening on" address=127.0.0.1:41234` of its log.
fn port_in(log: &Path) -> Option<u16> {
    let text = fs::read_to_string(log).ok()?;
    let line = text.lines().find(|line| line.contains("Listening on"))?;
    let address = line.split("address=").nth(1)?.split_whitespace().next()?;
    address.rsplit(':').next()?.parse().ok()
}

fn sample(series: &Value) -> Result<Sample> {
    let labels = serde_json::from_value(series["metric"].clone())?;
    Ok(Sample { labels, value: value(&series["value"])? })
}

/// Prometheus writes `[time, "value"]`; Rust reads NaN and +Inf as it writes them.
fn value(pair: &Value) -> Result<f64> {
    let text = pair[1].as_str().context("no value")?;
    text.parse().with_context(|| format!("{text} is not a value"))
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
