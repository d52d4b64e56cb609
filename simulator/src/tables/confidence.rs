//! Does `confidence` mean what it says? Measured where false alarms are frequent enough to be counted.

use crate::bulk::Bulk;
use crate::report::{Bound, Findings, Table};
use crate::rng::Rng;
use crate::setup;
use crate::traffic::Kind;
use crate::trials::Effort;
use bellwether::share::Arm;

/// Failing requests a trial.
const EVENTS: u64 = 20_000;
const SHARE: u16 = 500;
/// Error rate of stable.
const ERRORS: f64 = 0.05;

/// False alarms among so many failing requests, when the canary fails `ratio` times as often as stable.
fn alarms(members: &str, ratio: f64, workers: usize, rng: &mut Rng) -> u64 {
    let mut bulk = Bulk::new(setup::compare_of(members), SHARE, workers);
    let w = f64::from(SHARE) / 10_000.0;
    let (canary, stable) = (w * ratio * ERRORS, (1.0 - w) * ERRORS);
    let rps = 100.0;
    let rate = rps * (canary + stable);
    let calm = [rps * w * (1.0 - ratio * ERRORS), rps * (1.0 - w) * (1.0 - ERRORS)];
    let (mut now, mut alarms) = (0.0, 0);
    for _ in 0..EVENTS {
        let wait = rng.exponential(rate);
        now += wait;
        bulk.calm([rng.poisson(calm[0] * wait), rng.poisson(calm[1] * wait)]);
        let arm = if rng.chance(canary / (canary + stable)) { Arm::Canary } else { Arm::Stable };
        let worker = rng.below(workers.max(1));
        if bulk.add((now * 1e6) as u64, arm, Kind::Failed, None, worker).is_some() {
            alarms += 1;
            bulk.restart();
        }
    }
    alarms
}

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let trials = effort.trials.div_ceil(4);
    let mut table = Table::new(
        "`confidence`: failing requests between false rollbacks",
        &format!(
            "Mean over {} trials of {EVENTS} failing requests; share 5 %, 5 % errors of stable. *Tolerated*: a canary that \
             fails 1.5 times as often as stable, just what `worse_than_stable` tolerates: the worst case of the proof, \
             which gives confidence / 4. *Alike*: a canary as good as stable. *Bare*: without `min_difference` and `floor`.",
            trials
        ),
        &["Confidence", "Workers", "Tolerated, bare", "Tolerated", "Alike, bare", "Alike"],
    );
    let mut findings = Findings::default();
    for confidence in [100u64, 1_000, 10_000] {
        for (workers, label) in [(0, "one, merging each time"), (8, "8")] {
            let mut row = vec![confidence.to_string(), label.to_owned()];
            for (ratio, bare) in [(1.5, true), (1.5, false), (1.0, true), (1.0, false)] {
                let rest = if bare { r#", "min_difference": 0, "floor": 0"# } else { "" };
                let members = format!(r#""confidence": {confidence}{rest}"#);
                let cell = format!("confidence/{confidence}/{ratio}/{bare}");
                let counts =
                    effort.run_some(trials, &cell, |mut rng| alarms(&members, ratio, workers, &mut rng));
                let all: u64 = counts.iter().sum();
                let events = EVENTS * trials;
                let mean = events.checked_div(all);
                row.push(mean.map_or_else(|| format!("> {events}"), |mean| mean.to_string()));
                if bare && ratio > 1.0 {
                    let what = format!("bounds of the proof: confidence {confidence}, {label}");
                    findings.bounds.push(Bound {
                        what,
                        measured: mean.map_or_else(|| "none".to_owned(), |mean| mean.to_string()),
                        allowed: format!("≥ {}", confidence / 4),
                        holds: mean.is_none_or(|mean| mean >= confidence / 4),
                    });
                }
            }
            table.rows.push(row);
        }
    }
    findings.tables.push(table);
    findings
}
