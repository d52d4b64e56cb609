//! Interference, restarts, mixed releases and clocks: what do they do to a decision?

use super::{WORKERS, from};
use crate::fleet::{self, Disturbance, Latency, Scenario};
use crate::report::{Bound, Findings, Table, percent, shown};
use crate::traffic::Curve;
use crate::trials::{Effort, median, quantile};

const LEAD: u64 = 5;
const CALM: Disturbance =
    Disturbance { interference: 0.0, restart_every: 0, old_plans: (0, 0), skew: 0, wall_steps: false };

const CELLS: [(&str, Disturbance); 7] = [
    ("none", CALM),
    ("30 % of writes interfered with", Disturbance { interference: 0.3, ..CALM }),
    ("90 % of writes interfered with", Disturbance { interference: 0.9, ..CALM }),
    ("a worker restarts every second", Disturbance { restart_every: 1, ..CALM }),
    ("half of the workers on an older plan (share 20 %)", Disturbance { old_plans: (4, 2000), ..CALM }),
    (
        "clocks 20 ms apart, wall clock in steps of an hour",
        Disturbance { skew: 20_000, wall_steps: true, ..CALM },
    ),
    (
        "all of these, 30 % of writes",
        Disturbance {
            interference: 0.3,
            restart_every: 1,
            old_plans: (4, 2000),
            skew: 20_000,
            wall_steps: true,
        },
    ),
];

fn scenario(disturbance: Disturbance) -> Scenario {
    Scenario {
        rps: 100.0,
        share: 500,
        stable: Curve::Flat(0.005),
        canary: from(LEAD, 0.005, 0.3),
        latency: Latency { median: 300.0, shape: 0.8, canary: 1.0 },
        rest: String::new(),
        workers: WORKERS,
        disturbance,
        clients: None,
        from: LEAD,
        seconds: LEAD + 600,
    }
}

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let mut table = Table::new(
        "Disturbed workers",
        &format!(
            "{} trials a cell (half of them for *blamed*), whole engines, {WORKERS} workers, 100 rps, share 5 %. *Failures*: of a canary that fails 30 %, \
             to the flip (median, 90th percentile). *Blamed*: a healthy canary, in an outage of both of 30 s at 50 %. \
             *Reported*: rollbacks reported more than once.",
            effort.trials.div_ceil(2)
        ),
        &["Disturbance", "Failures", "Blamed", "Reported twice", "Writes refused"],
    );
    // The slowest cells of all; a bias would show in half of the trials.
    let trials = effort.trials.div_ceil(2);
    let mut findings = Findings::default();
    for (name, disturbance) in CELLS {
        let broken = scenario(disturbance);
        let outage = Curve::Step { base: 0.005, level: 0.5, from: LEAD, until: LEAD + 30 };
        let shared = Scenario { stable: outage, canary: outage, seconds: LEAD + 35, ..broken.clone() };
        let ended =
            effort.run_some(trials, &format!("robust/{name}"), |mut rng| fleet::run(&broken, &mut rng));
        let healthy = effort.run_some(trials.div_ceil(2), &format!("robust/shared/{name}"), |mut rng| {
            fleet::run(&shared, &mut rng)
        });
        let errors: Vec<Option<u64>> = ended.iter().map(|e| e.label.as_ref().map(|_| e.errors)).collect();
        let blamed = healthy.iter().filter(|e| e.label.is_some()).count() as u64;
        let twice = ended.iter().filter(|e| e.rollbacks > 1).count() as u64;
        let refused = ended.iter().map(|e| e.mismatches).sum::<u64>() / trials;
        table.rows.push(vec![
            name.to_owned(),
            format!("{} ({})", shown(median(&errors)), shown(quantile(&errors, 0.9))),
            percent(blamed, healthy.len() as u64),
            twice.to_string(),
            format!("{refused} a trial"),
        ]);
        let count = healthy.len() as u64;
        findings.bounds.push(Bound::rare(
            &format!("canary blamed for an outage of both: {name}"),
            blamed,
            count,
        ));
        findings.bounds.push(Bound::at_most(&format!("rollbacks reported twice: {name}"), Some(twice), 0));
    }
    findings.tables.push(table);
    findings
}
