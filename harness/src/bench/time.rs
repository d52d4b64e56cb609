//! CPU time a request, of all cases in turn, so that what else the machine does hits them all.

use std::path::Path;

use anyhow::Result;
use bellwether_harness::envoy::EnvoyProcess;

use super::process::{cpu_time, wasm_memories};
use super::traffic::{CONNECTIONS, Load, Upstream, WHOLE};
use super::variant::{SMALL, Size, Variant};

/// Requests until the caches have settled.
const WARM_UP: u64 = 4_000;

/// One Envoy among those compared.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Who chooses.
    pub variant: Variant,
    /// How large the configuration is.
    pub size: Size,
    /// Workers.
    pub workers: u32,
}

/// What a case costs.
pub struct Measured {
    /// The case.
    pub case: Case,
    /// Microseconds a request, by round.
    pub rounds: Vec<f64>,
    /// The largest linear memory of its VMs, in bytes; 0 without one.
    pub memory: u64,
}

impl Case {
    /// With one worker, at the sample's size.
    pub fn of(variant: Variant) -> Case {
        Case { variant, size: SMALL, workers: 1 }
    }
}

/// Runs all cases at once and measures them in turn, `rounds` times `requests`.
pub async fn interleaved(
    cases: &[Case],
    empty: &Path,
    rounds: usize,
    requests: u64,
) -> Result<Vec<Measured>> {
    let upstream = Upstream::start().await?;
    let mut running = Vec::new();
    for case in cases {
        let mut options = case.variant.options(upstream.port, empty, case.size)?;
        options.concurrency = case.workers;
        let envoy = EnvoyProcess::start(options).await?;
        let deployment = format!("d{}", case.size.deployments.saturating_sub(1));
        let mut load = Load::open(envoy.port(), CONNECTIONS, WHOLE, &deployment).await?;
        load.send(WARM_UP).await?;
        running.push((envoy, load, Measured { case: *case, rounds: Vec::new(), memory: 0 }));
    }
    for _ in 0..rounds {
        for (envoy, load, measured) in &mut running {
            let before = cpu_time(envoy.pid(), "")?;
            load.send(requests).await?;
            let spent = cpu_time(envoy.pid(), "")? - before;
            measured.rounds.push(spent.as_secs_f64() * 1e6 / requests as f64);
        }
    }
    for (envoy, _, measured) in &mut running {
        measured.memory = wasm_memories(envoy.pid())?.into_iter().max().unwrap_or(0);
    }
    Ok(running.into_iter().map(|(_, _, measured)| measured).collect())
}

/// The middle one, and half of the distance between the quartiles.
pub fn middle(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at =
        |part: usize| sorted.get((sorted.len() * part / 4).min(sorted.len() - 1)).copied().unwrap_or(0.0);
    (at(2), (at(3) - at(1)) / 2.0)
}

/// Ratios of the rounds of two cases: those of one round are neighbours in time.
pub fn ratio(of: &Measured, to: &Measured) -> (f64, f64) {
    let ratios: Vec<f64> = of.rounds.iter().zip(&to.rounds).map(|(of, to)| of / to).collect();
    middle(&ratios)
}
