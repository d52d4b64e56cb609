//! Does `confidence` mean what it says? Measured where false alarms are frequent enough to be counted.

use super::WORKERS;
use crate::bulk::Bulk;
use crate::report::{Bound, Findings, Table};
use crate::rng::Rng;
use crate::setup;
use crate::traffic::Kind;
use crate::trials::Effort;
use bellwether::judge::scores::Arm;

/// Failing requests a trial.
const EVENTS: u64 = 20_000;
const SHARE: u16 = 500;
/// Sticky clients of the canary that are not broken.
const CLIENTS: usize = 25;
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
    let mut findings = guarantee(effort);
    findings.extend(beside_a_broken_client(effort));
    findings
}

fn guarantee(effort: &Effort) -> Findings {
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

/// False alarms among so many failing requests of clients of which none is broken, while one more client of the canary fails
/// `broken` times as often as all of them.
fn alarms_beside(broken: f64, confidence: u64, rng: &mut Rng) -> u64 {
    let compare = setup::compare_of(&format!(r#""confidence": {confidence}"#));
    let mut bulk = Bulk::new(compare, SHARE, WORKERS);
    let w = f64::from(SHARE) / 10_000.0;
    let rate = 100.0 * ERRORS;
    let (mut now, mut others, mut alarms) = (0.0, 0, 0);
    while others < EVENTS {
        let wait = rng.exponential(rate * (1.0 + broken));
        now += wait;
        let calm = 100.0 * (1.0 - ERRORS) * wait;
        bulk.calm([rng.poisson(w * calm), rng.poisson((1.0 - w) * calm)]);
        let other = rng.chance(1.0 / (1.0 + broken));
        others += u64::from(other);
        let arm = if other && !rng.chance(w) { Arm::Stable } else { Arm::Canary };
        let client = if other { 1 + rng.below(CLIENTS) as u64 } else { 0 };
        let worker = rng.below(WORKERS);
        if bulk.add((now * 1e6) as u64, arm, Kind::Failed, Some(client), worker).is_some() {
            alarms += 1;
            bulk.restart();
        }
    }
    alarms
}

/// Whether one broken client makes false alarms of the others' failures more frequent.
fn beside_a_broken_client(effort: &Effort) -> Findings {
    let trials = effort.trials.div_ceil(4);
    let mut table = Table::new(
        "`confidence` beside one broken client: failing requests of the others between false rollbacks",
        &format!(
            "Mean over {trials} trials of {EVENTS} failing requests of the others; {WORKERS} workers, share 5 %, 5 % errors of \
             both versions, {CLIENTS} clients of the canary. One more fails with whatever it sends: so often for a hundred \
             failures of all others."
        ),
        &["Confidence", "None", "5", "20", "100", "500"],
    );
    let mut findings = Findings::default();
    for confidence in [100u64, 1_000] {
        let means = [0.0, 0.05, 0.2, 1.0, 5.0].map(|broken| {
            let cell = format!("confidence/beside/{confidence}/{broken}");
            let counts =
                effort.run_some(trials, &cell, |mut rng| alarms_beside(broken, confidence, &mut rng));
            (EVENTS * trials) / counts.iter().sum::<u64>().max(1)
        });
        let least = means.into_iter().min().unwrap_or(0);
        // Without a broken client it is several times what `confidence` says.
        let allowed = 3 * confidence;
        findings.bounds.push(Bound {
            what: format!("failing requests of others between false rollbacks, confidence {confidence}"),
            measured: least.to_string(),
            allowed: format!("≥ {allowed}"),
            holds: least >= allowed,
        });
        let row = means.map(|mean| mean.to_string());
        table.rows.push([confidence.to_string()].into_iter().chain(row).collect());
    }
    findings.tables.push(table);
    findings
}
