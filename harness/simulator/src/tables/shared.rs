//! Trouble of both versions: how often is the canary blamed?

use super::{WORKERS, side_by_side};
use crate::race::{Course, Mark, run};
use crate::report::{Bound, Findings, percent};
use crate::setup;
use crate::traffic::{Curve, Traffic};
use crate::trials::Effort;

/// Health before the trouble, in seconds.
const LEAD: u64 = 600;

struct Cell {
    name: &'static str,
    rps: f64,
    errors: Curve,
    seconds: u64,
}

fn cells(effort: &Effort) -> Vec<Cell> {
    let outage = |base, level, length| Curve::Step { base, level, from: LEAD, until: LEAD + length };
    let cell = |name, rps, errors, seconds| Cell { name, rps, errors, seconds };
    vec![
        cell("60 s at 50 %, 100 rps", 100.0, outage(0.005, 0.5, 60), LEAD + 660),
        cell("30 min at 10 %, 100 rps", 100.0, outage(0.005, 0.1, 1800), LEAD + 2400),
        cell("60 s at 100 %, 100 rps", 100.0, outage(0.005, 1.0, 60), LEAD + 660),
        cell("60 s at 100 %, 5 rps", 5.0, outage(0.005, 1.0, 60), LEAD + 660),
        cell(
            "a day between 0.1 % and 20 %, 50 rps",
            50.0,
            Curve::Swing { low: 0.001, high: 0.2, period: 600 },
            effort.day().max(LEAD + 600),
        ),
    ]
}

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let mut table = side_by_side(
        "Shared trouble: how often the canary is blamed for it",
        &format!(
            "{} trials a cell, share 5 %, both versions alike, {WORKERS} workers. After ten minutes of health (0.5 % errors) \
             the trouble begins; ten minutes after it ends the trial does. In brackets: blamed before it began. The swing \
             is a sine of ten minutes.",
            effort.trials
        ),
        &["Trouble", "Bellwether"],
    );
    let mut findings = Findings::default();
    for cell in cells(effort) {
        let course = Course {
            traffic: Traffic::alike(cell.rps, 500, cell.errors),
            seconds: cell.seconds,
            from: LEAD,
            compare: setup::compare(),
            workers: WORKERS,
            rules: true,
        };
        let results = effort.run(&format!("shared/{}", cell.name), |mut rng| run(&course, &mut rng));
        let count = results.iter().filter(|result| result.share.is_some()).count() as u64;
        let mut row = vec![cell.name.to_owned(), percent(count, effort.trials)];
        for rule in 0..crate::rules::ALL.len() {
            row.push(blamed(results.iter().filter_map(|result| result.rules[rule]), effort.trials));
        }
        table.rows.push(row);
        let what = format!("canary blamed for shared trouble: {}", cell.name);
        findings.bounds.push(Bound::rare(&what, count, effort.trials));
    }
    findings.tables.push(table);
    findings
}

fn blamed(marks: impl Iterator<Item = Mark>, trials: u64) -> String {
    let (mut during, mut before) = (0, 0);
    for mark in marks {
        if mark.at < LEAD * 1_000_000 { before += 1 } else { during += 1 }
    }
    match before {
        0 => percent(during, trials),
        before => format!("{} ({})", percent(during, trials), percent(before, trials)),
    }
}
