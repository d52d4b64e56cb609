//! Is the fast way the same as the slow one? Both run where decisions are frequent enough to be compared.

use super::{WORKERS, from};
use crate::fleet::{self, Disturbance, Latency, Scenario};
use crate::race::{Course, run};
use crate::report::{Bound, Findings, Table, percent};
use crate::setup;
use crate::traffic::{Curve, Traffic};
use crate::trials::Effort;

const SECONDS: u64 = 120;
const LEAD: u64 = 5;

struct Cell {
    name: &'static str,
    members: &'static str,
    stable: f64,
    canary: f64,
}

const CELLS: [Cell; 3] = [
    Cell {
        name: "healthy, confidence 100, bare",
        members: r#""confidence": 100, "min_difference": 0, "floor": 0"#,
        stable: 0.05,
        canary: 0.05,
    },
    Cell { name: "healthy, confidence 100", members: r#""confidence": 100"#, stable: 0.05, canary: 0.05 },
    Cell { name: "3 % failing, defaults", members: "", stable: 0.005, canary: 0.03 },
];

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let mut table = Table::new(
        "Validation: rolled back for errors within two minutes, in bulk and with whole engines",
        &format!(
            "{} trials a cell in bulk, a quarter of them with engines; 100 rps, share 5 %, {WORKERS} workers, answers in 1 ms so that \
             both see the same moment. The difference is in standard errors.",
            effort.trials
        ),
        &["Canary", "Bulk", "Engines", "Difference"],
    );
    let mut findings = Findings::default();
    for cell in CELLS {
        let name = format!("validate/{}", cell.name);
        let canary = from(LEAD, cell.stable, cell.canary);
        let traffic = Traffic {
            canary,
            slow_stable: 0.0,
            slow_canary: Curve::Flat(0.0),
            ..Traffic::alike(100.0, 500, Curve::Flat(cell.stable))
        };
        let compare = setup::compare_of(cell.members);
        let course = Course { traffic, seconds: SECONDS, from: 0, compare, workers: WORKERS, rules: false };
        let scenario = Scenario {
            rps: 100.0,
            share: 500,
            stable: Curve::Flat(cell.stable),
            canary,
            // All in one cell of the histogram: nothing is slow.
            latency: Latency { median: 1.0, shape: 0.0, canary: 1.0 },
            rest: format!(r#""guard": {{"compare": {{{}}}}},"#, cell.members),
            workers: WORKERS,
            disturbance: Disturbance::default(),
            clients: None,
            from: LEAD,
            seconds: SECONDS,
        };
        let bulk = effort.run(&name, |mut rng| run(&course, &mut rng).share.is_some());
        let engines = effort.run_some(effort.trials.div_ceil(4), &name, |mut rng| {
            fleet::run(&scenario, &mut rng).label.is_some()
        });
        let count = |all: &[bool]| all.iter().filter(|blamed| **blamed).count() as u64;
        let (a, b) = (count(&bulk), count(&engines));
        let (n, m) = (bulk.len() as f64, engines.len() as f64);
        let pooled = (a + b) as f64 / (n + m);
        let error = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
        let off = if error > 0.0 { (a as f64 / n - b as f64 / m) / error } else { 0.0 };
        table.rows.push(vec![
            cell.name.to_owned(),
            percent(a, bulk.len() as u64),
            percent(b, engines.len() as u64),
            format!("{off:+.1}"),
        ]);
        findings.bounds.push(Bound {
            what: format!("bulk and engines agree: {}", cell.name),
            measured: format!("{off:+.1} standard errors"),
            allowed: "within 4".to_owned(),
            holds: off.abs() <= 4.0,
        });
    }
    findings.tables.push(table);
    findings
}
