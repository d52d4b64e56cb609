//! What the filter says in Envoy's log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bellwether_harness::envoy::EnvoyProcess;
use serde::Deserialize;
use tokio::time::sleep;

/// How often something awaited is looked at: more often than the differences that are shown.
pub const POLL: Duration = Duration::from_millis(1);

/// A change of a deployment's phase.
#[derive(Debug)]
pub struct Transition {
    pub version: String,
    pub to: String,
    pub reason: String,
    pub why: String,
    /// When it was decided: the time of day in UTC.
    pub millis_of_day: u64,
}

/// Reads Envoy's log as it grows.
pub struct Tail {
    path: PathBuf,
    offset: u64,
    /// The start of a line whose end is not written yet.
    rest: String,
}

impl Tail {
    /// From the end of what is there.
    pub fn new(envoy: &EnvoyProcess) -> Tail {
        let path = envoy.directory().join("envoy.log");
        let offset = path.metadata().map_or(0, |data| data.len());
        Tail { path, offset, rest: String::new() }
    }

    /// Waits for the next transition, for ever if there is none.
    pub async fn next_transition(&mut self) -> Result<Transition> {
        loop {
            for line in self.lines()? {
                if let Some(transition) = transition(&line) {
                    return Ok(transition);
                }
            }
            sleep(POLL).await;
        }
    }

    /// The lines that were completed since the last call.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        if self.path.metadata().context("Envoy's log")?.len() == self.offset {
            return Ok(Vec::new());
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        self.offset += file.read_to_end(&mut bytes)? as u64;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let Some((complete, rest)) = self.rest.rsplit_once('\n') else { return Ok(Vec::new()) };
        let lines = complete.lines().map(str::to_owned).collect();
        self.rest = rest.to_owned();
        Ok(lines)
    }
}

#[derive(Deserialize)]
struct Event {
    bellwether: String,
    version: String,
    to: String,
    reason: Option<String>,
    why: Option<String>,
    time: Option<String>,
}

/// The transition a line reports, if it does.
pub fn transition(line: &str) -> Option<Transition> {
    let event: Event = serde_json::from_str(line.get(line.find(r#"{"bellwether""#)?..)?).ok()?;
    (event.bellwether == "transition").then(|| Transition {
        version: event.version,
        to: event.to,
        reason: event.reason.unwrap_or_default(),
        why: event.why.unwrap_or_default(),
        millis_of_day: event.time.as_deref().and_then(millis_of_day).unwrap_or_default(),
    })
}

/// Of `2026-11-20T18:04:05.678Z`.
fn millis_of_day(time: &str) -> Option<u64> {
    let clock = time.split_once('T')?.1.strip_suffix('Z')?;
    let (whole, millis) = clock.split_once('.')?;
    let mut seconds = 0;
    for part in whole.split(':') {
        seconds = seconds * 60 + part.parse::<u64>().ok()?;
    }
    Some(seconds * 1000 + millis.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_is_found_in_its_line() {
        let line = r#"[2026-11-20 18:04:05.679][7][warning][wasm] wasm log router: {"bellwether":"transition","deployment":"d","from":"active","reason":"consecutive","time":"2026-11-20T18:04:05.678Z","to":"rolled_back","version":"v2","why":"5 in a row"}"#;
        let found = transition(line).unwrap();
        assert_eq!(
            (found.version.as_str(), found.to.as_str(), found.why.as_str()),
            ("v2", "rolled_back", "5 in a row")
        );
        assert_eq!(found.millis_of_day, ((18 * 60 + 4) * 60 + 5) * 1000 + 678);
        assert!(transition(&line.replace("\"transition\"", "\"would_transition\"")).is_none());
        assert!(transition("[info] something else").is_none());
    }
}
