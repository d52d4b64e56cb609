//! Workers: what does merging in batches cost against one worker that merges each outcome by itself?

use super::from;
use crate::fleet::{self, Disturbance, Latency, Scenario};
use crate::report::{Bound, Findings, Table};
use crate::trials::Effort;

const LEAD: u64 = 3;

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let mut table = Table::new(
        "Workers: failures lost by merging in batches",
        &format!(
            "{} trials a cell; each compares the engines with one worker that merges every outcome by itself, on the same \
             requests in the same order. Share 5 %, 0.5 % errors in health.",
            effort.trials
        ),
        &["Regression", "Workers", "Mean lost", "99th percentile", "Most"],
    );
    let mut findings = Findings::default();
    for (name, rps, canary) in [
        ("100 % failing, 100 rps", 100.0, 1.0),
        ("30 % failing, 100 rps", 100.0, 0.3),
        ("100 % failing, 1000 rps", 1000.0, 1.0),
    ] {
        for workers in [1, 2, 8, 32] {
            let scenario = Scenario {
                rps,
                share: 500,
                stable: from(LEAD, 0.005, 0.005),
                canary: from(LEAD, 0.005, canary),
                latency: Latency { median: 300.0, shape: 0.8, canary: 1.0 },
                rest: String::new(),
                workers,
                disturbance: Disturbance::default(),
                clients: None,
                from: LEAD,
                seconds: LEAD + 600,
            };
            let ended = effort.run(&format!("workers/{name}"), |mut rng| fleet::run(&scenario, &mut rng));
            let mut lost: Vec<u64> =
                ended.iter().map(|e| e.reference.map_or(0, |alone| e.errors.saturating_sub(alone))).collect();
            lost.sort_unstable();
            let mean = lost.iter().sum::<u64>() as f64 / lost.len() as f64;
            let most = lost.last().copied().unwrap_or(0);
            let late = lost[(lost.len() * 99).div_ceil(100) - 1];
            let cells = [
                name.to_owned(),
                workers.to_string(),
                format!("{mean:.3}"),
                late.to_string(),
                most.to_string(),
            ];
            table.rows.push(cells.to_vec());
            if workers == 8 {
                let what = format!("failures lost by eight workers, worst trial: {name}");
                findings.bounds.push(Bound::at_most(&what, Some(most), 2));
            }
        }
    }
    findings.tables.push(table);
    findings
}
