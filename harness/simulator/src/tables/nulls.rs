//! Healthy canaries: how often is one rolled back within a day?

use super::{WORKERS, side_by_side};
use crate::race::{Course, run};
use crate::report::{Bound, Findings, percent};
use crate::setup;
use crate::traffic::{Curve, Traffic};
use crate::trials::Effort;

/// Requests a second, share, error rate.
const CELLS: [(f64, u16, f64); 4] =
    [(100.0, 500, 0.005), (10.0, 500, 0.02), (100.0, 500, 0.04), (0.5, 1000, 0.01)];

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let mut table = side_by_side(
        &format!("A healthy canary, {} h: how often it is rolled back anyway", effort.hours),
        &format!(
            "{} trials a cell, defaults (`guard: {{}}`), {WORKERS} workers, both signals: errors, and one answer in twenty \
             slow on either side. The other rules are meant for less than a day; see the assumptions.",
            effort.trials
        ),
        &["Traffic", "Bellwether"],
    );
    let mut findings = Findings::default();
    for (rps, share, errors) in CELLS {
        let name = format!("{rps} rps, {} %, {} % errors", f64::from(share) / 100.0, errors * 100.0);
        let course = Course {
            traffic: Traffic::alike(rps, share, Curve::Flat(errors)),
            seconds: effort.day(),
            from: 0,
            compare: setup::compare(),
            workers: WORKERS,
            rules: true,
        };
        let results = effort.run(&format!("nulls/{name}"), |mut rng| run(&course, &mut rng));
        let count = results.iter().filter(|result| result.share.is_some()).count() as u64;
        let mut row = vec![name.clone(), percent(count, effort.trials)];
        for rule in 0..crate::rules::ALL.len() {
            let count = results.iter().filter(|result| result.rules[rule].is_some()).count();
            row.push(percent(count as u64, effort.trials));
        }
        table.rows.push(row);
        let what = format!("false rollbacks of a healthy canary: {name}");
        findings.bounds.push(Bound::rare(&what, count, effort.trials));
    }
    findings.tables.push(table);
    findings
}
