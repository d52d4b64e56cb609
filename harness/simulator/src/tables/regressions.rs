//! Broken canaries: how many of its users suffer before it is rolled back?

use super::{WORKERS, from, side_by_side};
use crate::fleet::{self, Ended, Latency, Scenario};
use crate::race::{Course, Mark, run};
use crate::report::{Bound, Findings, shown};
use crate::setup;
use crate::traffic::Traffic;
use crate::trials::{Effort, median, quantile};

/// Health before the trouble in seconds: in bulk, and with whole engines.
const LEAD: u64 = 600;
const LEAD_ENGINES: u64 = 10;
/// Shape of the latencies: their p95 is 3.7 times their median.
const SHAPE: f64 = 0.8;

struct Cell {
    name: &'static str,
    rps: f64,
    share: u16,
    /// Stable's error rate before and after, the canary's error rate after.
    base: f64,
    stable: f64,
    canary: f64,
    /// How many times as slow the canary becomes, and how many of its answers are then above stable's p95.
    slower: f64,
    slow: f64,
    /// Median of what must not be exceeded.
    bound: Option<u64>,
    /// Trials with whole engines are a part of all: the slow cells take a while.
    part: u64,
}

const CELL: Cell = Cell {
    name: "",
    rps: 100.0,
    share: 500,
    base: 0.005,
    stable: 0.005,
    canary: 1.0,
    slower: 1.0,
    slow: 0.05,
    bound: None,
    part: 1,
};

const CELLS: [Cell; 13] = [
    Cell { name: "100 % failing", bound: Some(8), ..CELL },
    Cell { name: "30 % failing", canary: 0.3, bound: Some(10), ..CELL },
    Cell { name: "10 % failing", canary: 0.1, bound: Some(13), ..CELL },
    Cell { name: "3 % failing", canary: 0.03, bound: Some(30), part: 10, ..CELL },
    Cell { name: "noisy, 4 % → 20 %", base: 0.04, stable: 0.04, canary: 0.2, part: 4, ..CELL },
    Cell { name: "share 1 %, 30 % failing", share: 100, canary: 0.3, part: 4, ..CELL },
    Cell { name: "share 25 %, 30 % failing", share: 2500, canary: 0.3, ..CELL },
    Cell { name: "share 50 %, 10 % failing", share: 5000, canary: 0.1, part: 2, ..CELL },
    Cell { name: "0.5 rps, share 10 %, 100 % failing", rps: 0.5, share: 1000, part: 4, ..CELL },
    Cell { name: "0.5 rps, share 10 %, 30 % failing", rps: 0.5, share: 1000, canary: 0.3, part: 4, ..CELL },
    Cell { name: "60 % failing while stable fails 20 %", stable: 0.2, canary: 0.6, part: 4, ..CELL },
    Cell {
        name: "twice as slow (slow answers)",
        canary: 0.005,
        slower: 2.0,
        slow: 0.218,
        bound: Some(45),
        part: 2,
        ..CELL
    },
    Cell {
        name: "1.5 times as slow (slow answers)",
        canary: 0.005,
        slower: 1.5,
        slow: 0.1276,
        part: 20,
        ..CELL
    },
];

impl Cell {
    fn course(&self) -> Course {
        let traffic = Traffic {
            rps: self.rps,
            share: self.share,
            stable: from(LEAD, self.base, self.stable),
            canary: from(LEAD, self.base, self.canary),
            slow_stable: 0.05,
            slow_canary: from(LEAD, 0.05, self.slow),
        };
        // Long enough for Argo's example with the traffic at hand.
        let seconds = LEAD + if self.rps < 1.0 { 4 * 3600 } else { 3600 };
        Course { traffic, seconds, from: LEAD, compare: setup::compare(), workers: WORKERS, rules: true }
    }

    fn scenario(&self) -> Scenario {
        Scenario {
            rps: self.rps,
            share: self.share,
            stable: from(LEAD_ENGINES, self.base, self.stable),
            canary: from(LEAD_ENGINES, self.base, self.canary),
            latency: Latency { median: 300.0, shape: SHAPE, canary: self.slower },
            rest: String::new(),
            workers: WORKERS,
            disturbance: fleet::Disturbance::default(),
            clients: None,
            from: LEAD_ENGINES,
            seconds: LEAD_ENGINES + 4 * 3600,
        }
    }

    /// What users suffered from: failures, or slow answers.
    fn suffered(&self, errors: u64, slow: u64) -> u64 {
        if self.slower > 1.0 { slow } else { errors }
    }
}

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let note = format!(
        "Median of the canary's failures (or slow answers) from the beginning of the trouble to the flip, and the time it \
         took; 100 rps, share 5 %, 0.5 % errors in health unless said otherwise. *Engines*: {WORKERS} workers with the \
         shipping engine, answers that take 300 ms (lognormal, shape {SHAPE}), 90th percentile in brackets, and + the \
         failures of requests that were in flight at the flip. *Bulk*: the same decision on the same traffic as the other \
         rules, {} trials. *Never*: not within an hour (four at 0.5 rps). *Before*: most trials gave the canary up while \
         it was healthy.",
        effort.trials
    );
    let mut table = side_by_side(
        "Broken canaries: what users suffer before the rollback",
        &note,
        &["Regression", "Bellwether, engines", "Bellwether, bulk"],
    );
    let mut findings = Findings::default();
    for cell in &CELLS {
        let trials = (effort.trials / cell.part).max(5);
        let name = format!("regressions/{}", cell.name);
        let scenario = cell.scenario();
        let ended = effort.run_some(trials, &name, |mut rng| fleet::run(&scenario, &mut rng));
        let engines = |of: &dyn Fn(&Ended) -> u64| -> Vec<Option<u64>> {
            ended.iter().map(|ended| ended.label.as_ref().map(|_| of(ended))).collect()
        };
        let costs = engines(&|ended| cell.suffered(ended.errors, ended.slow));
        let after = engines(&|ended| ended.after);
        let times = engines(&|ended| ended.at.saturating_sub(LEAD_ENGINES * 1_000_000));
        let course = cell.course();
        let results = effort.run(&name, |mut rng| run(&course, &mut rng));
        let bulk: Vec<Option<Mark>> = results.iter().map(|r| r.share.map(|(_, mark)| mark)).collect();
        let mut row = vec![
            cell.name.to_owned(),
            format!(
                "**{}** ({}) +{}, {}",
                shown(median(&costs)),
                shown(quantile(&costs, 0.9)),
                shown(median(&after)),
                time(median(&times))
            ),
            summary(cell, &bulk),
        ];
        for rule in 0..crate::rules::ALL.len() {
            let marks: Vec<Option<Mark>> = results.iter().map(|result| result.rules[rule]).collect();
            row.push(summary(cell, &marks));
        }
        table.rows.push(row);
        if let Some(bound) = cell.bound {
            let what = format!("median suffered before the flip, engines ({trials} trials): {}", cell.name);
            findings.bounds.push(Bound::at_most(&what, median(&costs), bound));
            let costs: Vec<Option<u64>> =
                bulk.iter().map(|mark| mark.map(|mark| cell.suffered(mark.errors, mark.slow))).collect();
            let what =
                format!("median suffered before the flip, bulk ({} trials): {}", effort.trials, cell.name);
            findings.bounds.push(Bound::at_most(&what, median(&costs), bound));
        }
    }
    findings.tables.push(table);
    findings
}

fn summary(cell: &Cell, marks: &[Option<Mark>]) -> String {
    let begin = LEAD * 1_000_000;
    let early = marks.iter().flatten().filter(|mark| mark.at < begin).count();
    if early * 2 > marks.len() {
        return "before".to_owned();
    }
    let of = |f: &dyn Fn(&Mark) -> u64| median(&marks.iter().map(|m| m.as_ref().map(f)).collect::<Vec<_>>());
    let cost = of(&|mark| cell.suffered(mark.errors, mark.slow));
    match cost {
        None => "never".to_owned(),
        Some(cost) => format!("{cost}, {}", time(of(&|mark| mark.at.saturating_sub(begin)))),
    }
}

fn time(micros: Option<u64>) -> String {
    match micros.map(|micros| micros as f64 / 1e6) {
        None => "never".to_owned(),
        Some(s) if s < 10.0 => format!("{s:.1} s"),
        Some(s) if s < 120.0 => format!("{s:.0} s"),
        Some(s) => format!("{:.0} min", s / 60.0),
    }
}
