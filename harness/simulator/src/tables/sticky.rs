//! Sticky clients: is one broken client a broken canary, and does it hide one?

use super::WORKERS;
use crate::clients::Population;
use crate::fleet::{self, Disturbance, Latency, Scenario};
use crate::report::{Bound, Findings, Table, percent, shown};
use crate::sticky::{Crowd, run};
use crate::traffic::Curve;
use crate::trials::{Effort, median, quantile};

const HOUR: u64 = 3600;
const CROWD: Crowd = Crowd {
    rps: 100.0,
    share: 500,
    stable: 0.005,
    canary: 0.005,
    from: 0,
    population: broken(0.0, 1),
    workers: WORKERS,
    named: true,
    seconds: HOUR,
};

const fn broken(part: f64, spread: usize) -> Population {
    Population { clients: 500, broken: part, spread }
}

/// Measures it.
pub fn measure(effort: &Effort) -> Findings {
    let mut findings = one_broken_client(effort);
    findings.extend(detection(effort));
    findings.extend(masking(effort));
    findings
}

fn one_broken_client(effort: &Effort) -> Findings {
    let mut findings = Findings::default();
    let mut table = Table::new(
        "One broken sticky client in the canary's share",
        &format!(
            "500 sticky clients, share 5 %, {WORKERS} workers, a healthy canary. Everything one client of the canary sends \
             fails. *Its part*: of all requests; *none* is the control. *Connections*: over how many workers its requests are \
             spread. *Known*: whether \
             the comparison knows who sent what, as it does in Bellwether; *no* shows what would happen otherwise. *Engines*: \
             whole engines, request by request; otherwise the same comparison on traffic in bulk.",
        ),
        &["Traffic", "Its part", "Connections", "Known", "Hours", "Trials", "Rolled back", "Median time"],
    );
    let (mut broken_days, mut healthy_days) = ((0, 0), (0, 0));
    for (rps, errors) in [(100.0, 0.005), (100.0, 0.02), (10.0, 0.005), (10.0, 0.02), (2.0, 0.005)] {
        for (population, named) in [
            (broken(0.0, 1), true),
            (broken(0.05, 1), false),
            (broken(0.02, 1), true),
            (broken(0.05, 1), true),
            (broken(0.05, 8), true),
        ] {
            let crowd = Crowd {
                rps,
                stable: errors,
                canary: errors,
                population,
                named,
                seconds: effort.day(),
                ..CROWD
            };
            let traffic = format!("{rps} rps, {} % errors", errors * 100.0);
            let cell = format!("sticky/{traffic}/{}/{}/{named}", population.broken, population.spread);
            let times = effort.run(&cell, |mut rng| run(&crowd, &mut rng).map(|(at, _)| at));
            let blamed = report(&mut table, &crowd, &traffic, &times);
            let days = match population.broken {
                0.0 => &mut healthy_days,
                _ if named => &mut broken_days,
                _ => continue,
            };
            *days = (days.0 + blamed, days.1 + times.len() as u64);
        }
    }
    let mut broken_hours = (0, 0);
    for spread in [1, 8] {
        let crowd = Crowd { rps: 10.0, population: broken(0.05, spread), ..CROWD };
        let scenario = engines(&crowd);
        let trials = effort.trials.div_ceil(10);
        let times = effort.run_some(trials, &format!("sticky/engines/{spread}"), |mut rng| {
            let ended = fleet::run(&scenario, &mut rng);
            ended.label.map(|_| ended.at / 1_000_000)
        });
        let blamed = report(&mut table, &crowd, "10 rps, 0.5 % errors, engines", &times);
        broken_hours = (broken_hours.0 + blamed, broken_hours.1 + times.len() as u64);
    }
    // The rest of the canary is healthy, and a healthy day has its false alarms: the client must add none to them. One cell more or
    // less is chance, so they are taken together.
    for (what, (blamed, trials)) in [
        ("sticky canary blamed without a broken client, a day, all traffics", healthy_days),
        ("canary blamed for one broken client, a day, all traffics and clients", broken_days),
        ("canary blamed for one broken client, an hour of whole engines", broken_hours),
    ] {
        findings.bounds.push(Bound::rare(what, blamed, trials));
    }
    findings.tables.push(table);
    findings
}

fn engines(crowd: &Crowd) -> Scenario {
    Scenario {
        rps: crowd.rps,
        share: crowd.share,
        stable: Curve::Flat(crowd.stable),
        canary: Curve::Flat(crowd.canary),
        latency: Latency { median: 300.0, shape: 0.8, canary: 1.0 },
        rest: String::new(),
        workers: crowd.workers,
        disturbance: Disturbance::default(),
        clients: Some(crowd.population),
        from: 0,
        seconds: crowd.seconds,
    }
}

/// Adds a row, and returns in how many trials the canary was rolled back.
fn report(table: &mut Table, crowd: &Crowd, traffic: &str, times: &[Option<u64>]) -> u64 {
    let (count, trials) = (times.iter().flatten().count() as u64, times.len() as u64);
    let spread = crowd.population.spread;
    let part = match crowd.population.broken {
        0.0 => "none".to_owned(),
        part => format!("{} %", part * 100.0),
    };
    let hours = crowd.seconds / HOUR;
    table.rows.push(vec![
        traffic.to_owned(),
        part.clone(),
        spread.to_string(),
        if crowd.named { "yes" } else { "no" }.to_owned(),
        hours.to_string(),
        trials.to_string(),
        percent(count, trials),
        median(times).map_or_else(String::new, |seconds| format!("{seconds} s")),
    ]);
    count
}

/// What leaving one client out costs when the canary is broken for all.
fn detection(effort: &Effort) -> Findings {
    let mut table = Table::new(
        "A broken canary with sticky clients: failures before the rollback",
        &format!(
            "{} trials a cell, median; sticky clients that send as much as each other, 100 rps, share 5 %, 0.5 % errors of \
             stable. *Known*: the comparison knows who sent what and leaves one client out, as in Bellwether. With 40 clients \
             the canary has two on average, and often none or one: *never* is within an hour.",
            effort.trials
        ),
        &[
            "Canary",
            "500 clients, not known",
            "500 clients, known",
            "100 clients, known",
            "40 clients, known",
        ],
    );
    for canary in [1.0, 0.3, 0.1, 0.03] {
        let cell = |clients, named| {
            let population = Population { clients, ..CROWD.population };
            let crowd = Crowd { canary, named, population, ..CROWD };
            let cell = format!("sticky/detection/{canary}/{clients}");
            let errors = effort.run(&cell, |mut rng| run(&crowd, &mut rng).map(|(_, errors)| errors));
            shown(median(&errors))
        };
        let cells = [cell(500, false), cell(500, true), cell(100, true), cell(40, true)];
        table.rows.push([format!("{} % failing", canary * 100.0)].into_iter().chain(cells).collect());
    }
    Findings { tables: vec![table], bounds: Vec::new() }
}

/// Whether a client that has been broken for a while hides a canary that breaks for all.
fn masking(effort: &Effort) -> Findings {
    let trials = effort.trials.div_ceil(10);
    let mut findings = Findings::default();
    let mut table = Table::new(
        "A canary that breaks after one client has been broken for a while",
        &format!(
            "{trials} trials a cell; median of the other clients' failures from when the canary breaks to the rollback, 90th \
             percentile in brackets, and the median time. 500 sticky clients, share 5 %, 0.5 % errors of stable, the broken \
             client sends 5 % of all requests. *Never*: not within two hours of it."
        ),
        &["Traffic and canary", "Broken for 0 min", "1 min", "10 min", "1 h", "6 h"],
    );
    // Two more than it takes when no client is broken.
    for (rps, canary, allowed) in [(100.0, 1.0, 11), (100.0, 0.3, 13), (10.0, 1.0, 11), (10.0, 0.3, 13)] {
        let traffic = format!("{rps} rps, {} % failing", canary * 100.0);
        let (mut row, mut all) = (vec![traffic.clone()], Vec::new());
        for from in [0, 60, 600, HOUR, 6 * HOUR] {
            let crowd = Crowd {
                rps,
                canary,
                from,
                population: broken(0.05, WORKERS),
                seconds: from + 2 * HOUR,
                ..CROWD
            };
            let cell = format!("sticky/masking/{rps}/{canary}/{from}");
            let found = effort.run_some(trials, &cell, |mut rng| run(&crowd, &mut rng));
            let errors: Vec<Option<u64>> =
                found.iter().map(|found| found.map(|(_, errors)| errors)).collect();
            let times: Vec<Option<u64>> = found.iter().map(|found| found.map(|(at, _)| at - from)).collect();
            row.push(match median(&errors) {
                None => "never".to_owned(),
                Some(errors_then) => {
                    let late = shown(quantile(&errors, 0.9));
                    format!("{errors_then} ({late}), {} s", shown(median(&times)))
                }
            });
            all.extend(errors);
        }
        let what = format!("failures behind one broken client, 90th percentile: {traffic}");
        findings.bounds.push(Bound::at_most(&what, quantile(&all, 0.9), allowed));
        table.rows.push(row);
    }
    findings.tables.push(table);
    findings
}
