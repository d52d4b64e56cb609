//! What `--keep` leaves running, and how to play with it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bellwether_harness::envoy::Role;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::log::{Tail, transition};
use super::screen::Screen;
use super::stage::{ADMIN_PORT, ADMIN_ROLE_PORT, CANARY, ENVOY_PORT, Stage, V1_PORT, V2_PORT};
use super::traffic::Traffic;

/// Requests a second while somebody plays: a broken canary meets four a second, and the logs stay small for hours.
const RATE: f64 = 20.0;

/// What the filter says of each problem in a configuration.
const REJECTED: &str = "bellwether: configuration rejected: ";

/// Prints what to try and reports what happens, until interrupted.
pub async fn stay(stage: Stage, screen: &Screen) -> Result<()> {
    let router = stage.envoy.directory().join("ecds/router.yaml");
    make_readable(&router)?;
    let mut log = Tail::new(&stage.envoy);
    let traffic = Traffic::start(stage.envoy.client(), RATE);
    screen.act(&format!(
        "everything keeps running, with {RATE} requests/s and events shown here; Ctrl-C ends it"
    ));
    screen.print(&instructions(&stage, &router));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut version = None;
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            _ = terminate.recv() => return Ok(()),
            () = sleep(Duration::from_millis(100)) => {}
        }
        for line in log.lines()? {
            if let Some(found) = transition(&line) {
                screen.event(&format!("{} is {}: {}", found.version, found.to.replace('_', " "), found.why));
            } else if let Some((_, problem)) = line.split_once(REJECTED) {
                screen.event(&format!("not taken, what was in force stays: {problem}"));
            }
        }
        traffic.forget();
        let stat = Role::Router.stat("version_text");
        let now = stage.envoy.text_stat(&stat).await.context("Envoy has ended")?;
        if version.is_some() && now != version {
            screen.event(&format!("configuration {} is in force", now.as_deref().unwrap_or("?")));
        }
        version = now;
    }
}

/// Rewrites the router's resource, which the runner writes for Envoy alone, for people too.
fn make_readable(router: &Path) -> Result<()> {
    let mut resource: Value = serde_norway::from_str(&fs::read_to_string(router)?)?;
    let config = resource.pointer_mut("/resources/0/typed_config/config/configuration/secret/inline_string");
    let config = config.context("the resource has no configuration")?;
    let document: Value = serde_json::from_str(config.as_str().unwrap_or_default())?;
    *config = Value::String(format!("{document:#}\n"));
    let next = router.with_extension("next");
    fs::write(&next, serde_norway::to_string(&resource)?)?;
    fs::rename(next, router)?;
    Ok(())
}

fn instructions(stage: &Stage, router: &Path) -> String {
    let chat = r#"-H 'content-type: application/json' -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'"#;
    let (router, directory) = (router.display(), stage.envoy.directory().display());
    format!(
        r#"
  Envoy 127.0.0.1:{ENVOY_PORT}, its admin interface :{ADMIN_PORT}, providers v1 :{V1_PORT} and v2 :{V2_PORT}

  a request              curl -i 127.0.0.1:{ENVOY_PORT}/v1/chat/completions {chat}
  one that has to be {CANARY}  curl -i 127.0.0.1:{ENVOY_PORT}/v1/chat/completions -H 'x-test-version: {CANARY}' {chat}
  break {CANARY}               curl -X PUT 127.0.0.1:{V2_PORT}/_mock/behaviour -d '{{"fault":{{"kind":"status","status":500}}}}'
  mend {CANARY}                curl -X PUT 127.0.0.1:{V2_PORT}/_mock/behaviour -d '{{"latency":{{"kind":"lognormal","median_ms":20,"sigma":0.35}}}}'
  what {CANARY} received       curl 127.0.0.1:{V2_PORT}/_mock/requests
  the live page          http://127.0.0.1:{ADMIN_ROLE_PORT}/ (roll back and resume by hand)
  metrics                curl -s 127.0.0.1:{ADMIN_PORT}/stats/prometheus | grep ^bellwether_
  logs                   {directory}/envoy.log, {directory}/access.log
  configuration          {router}
                         Envoy reloads it when a file is renamed into its place. To start release 3, for example:
                         sed 's/"release": "2"/"release": "3"/; s/^version_info: .*/version_info: "release 3"/' {router} > {directory}/ecds/next && mv {directory}/ecds/next {router}
"#
    )
}
