//! Absolute limits: how often does each of them blame a healthy canary?

use bellwether::judge::limits;
use bellwether::judge::stats::{Delta, Snapshot, Stats};
use bellwether::judge::verdict::{self, Verdict};
use bellwether::judge::window::{Tally, Window};
use bellwether::outcome::Outcome;
use bellwether::outcome::blame::Event;
use bellwether::plan::guard::Guard;
use bellwether::time::{Micros, Millis, Span};

use super::WORKERS;
use crate::fleet::{self, Disturbance, Latency, Scenario};
use crate::report::{Findings, Table, percent, shown};
use crate::rng::Rng;
use crate::setup;
use crate::traffic::{Curve, Kind, Traffic, generate};
use crate::trials::{Effort, median, quantile};
use bellwether::judge::scores::Arm;

const HOUR: u64 = 3600;

/// One side's record, as the engine keeps it.
struct Record(Stats, Millis);

impl Record {
    fn new(guard: &Guard) -> Record {
        Record(Stats::new(0, guard.window), guard.window)
    }

    fn add(&mut self, at: Micros, good: u64, bad: bool) {
        let mut delta = Delta::default();
        let outcomes = (0..good).map(|_| Outcome::Good).chain(bad.then_some(Outcome::Bad));
        outcomes.for_each(|outcome| delta.add(Event::Answered { outcome, latency: None }));
        if !delta.is_empty() {
            self.0.merge(&delta, at);
        }
    }

    fn snapshot(&self, now: Micros) -> Snapshot {
        self.0.snapshot(now, self.1)
    }
}

/// When limits on errors blame the canary, in seconds.
fn errors(guard: &Guard, traffic: &Traffic, seconds: u64, rng: &mut Rng) -> Option<u64> {
    let (mut canary, mut stable, mut blamed) = (Record::new(guard), Record::new(guard), None);
    generate(traffic, seconds, rng, &mut |item| {
        let at = Micros(item.at + 1_000_000_000);
        let failed = |arm| item.event == Some((arm, Kind::Failed));
        canary.add(at, item.calm[0], failed(Arm::Canary));
        stable.add(at, item.calm[1], failed(Arm::Stable));
        if failed(Arm::Canary) {
            let snapshot = canary.snapshot(at);
            if limits::any_exceeded(guard, &snapshot)
                && matches!(verdict::judge(guard, &snapshot, &stable.snapshot(at)), Verdict::Fail(_))
            {
                blamed = Some(item.at / 1_000_000);
            }
        }
        blamed.is_none()
    });
    blamed
}

/// When a limit on the 95th percentile blames a canary with lognormal latencies whose true one is `below` the limit.
fn latency(guard: &Guard, below: f64, rps: f64, seconds: u64, rng: &mut Rng) -> Option<u64> {
    let limit = guard.max_latency.p95.map_or(0.0, |limit| limit.0 as f64);
    let shape = 0.8;
    let median = limit * below / (shape * 1.644_853_627f64).exp();
    let mut window = Window::new(guard.window);
    let mut now = 0.0;
    loop {
        now += rng.exponential(rps);
        if now >= seconds as f64 {
            return None;
        }
        let mut tally = Tally { judged: 1, ..Tally::default() };
        tally.latency.record(Span((rng.lognormal(median, shape) * 1000.0) as u64));
        let at = Micros((now * 1e6) as u64 + 1_000_000_000);
        window.add(at, &tally);
        // Stable's twenty times as many answers put its percentile below the limit, where its true value is.
        let snapshot = Snapshot { tally: window.sum(at), ..Snapshot::default() };
        if matches!(verdict::judge(guard, &snapshot, &Snapshot::default()), Verdict::Fail(_)) {
            return Some(now as u64);
        }
    }
}

/// Measures it. No bounds: these limits are the user's.
pub fn measure(effort: &Effort) -> Findings {
    let trials = effort.trials.div_ceil(4);
    let mut table = Table::new(
        "Absolute limits: how often they blame a healthy canary within an hour",
        &format!(
            "{} trials a cell; share 5 %, window 30 s, `min_requests` 20, comparison off, both versions alike.",
            trials
        ),
        &["Limit", "Traffic", "Blamed"],
    );
    let limits = [
        (r#""max_error_rate": 5"#, [(100.0, 0.005), (100.0, 0.02), (100.0, 0.04), (10.0, 0.02)]),
        (
            r#""max_error_rate": 5, "window": "5m""#,
            [(100.0, 0.005), (100.0, 0.02), (100.0, 0.04), (10.0, 0.02)],
        ),
        (r#""max_errors": 50"#, [(100.0, 0.02), (100.0, 0.04), (1000.0, 0.005), (1000.0, 0.02)]),
        (r#""max_consecutive_errors": 5"#, [(100.0, 0.005), (100.0, 0.02), (100.0, 0.04), (1000.0, 0.04)]),
    ];
    for (members, cells) in limits {
        let guard = setup::guard(&format!(r#"{members}, "compare": false"#));
        for (rps, rate) in cells {
            let quiet = Traffic::alike(rps, 500, Curve::Flat(rate));
            let traffic = Traffic { slow_stable: 0.0, slow_canary: Curve::Flat(0.0), ..quiet };
            let name = format!("{rps} rps, {} % errors", rate * 100.0);
            let times = effort.run_some(trials, &format!("limits/{members}/{name}"), |mut rng| {
                errors(&guard, &traffic, HOUR, &mut rng)
            });
            table.rows.push(row(members, &name, &times));
        }
    }
    let guard = setup::guard(r#""max_latency": {"p95": "1200ms"}, "compare": false"#);
    for (rps, below) in [(100.0, 0.5), (100.0, 0.8), (10.0, 0.5)] {
        let name = format!("{rps} rps, p95 at {} % of the limit", below * 100.0);
        let times = effort.run_some(trials, &format!("limits/latency/{name}"), |mut rng| {
            latency(&guard, below, rps * 0.05, HOUR, &mut rng)
        });
        table.rows.push(row(r#""max_latency": {"p95": …}"#, &name, &times));
    }
    Findings { tables: vec![table, in_trouble(effort)], bounds: Vec::new() }
}

/// Second at which trouble begins, and how long that of both versions lasts.
const LEAD: u64 = 40;
const LASTS: u64 = 30;

/// Whole engines in trouble of both versions, and with a dead canary beside a stable that fails a little.
fn in_trouble(effort: &Effort) -> Table {
    // Whole engines in 54 cells: a few minutes of the whole.
    let trials = effort.trials.div_ceil(6).min(50);
    let mut table = Table::new(
        "Absolute limits in trouble: whose fault is it?",
        &format!(
            "{trials} trials a cell, whole engines, {WORKERS} workers, 100 rps, window 30 s, comparison off, 0.5 % errors before. *Blamed*: a canary \
             as good as stable, in {LASTS} s in which both fail so often. *Failures*: of a canary that fails always while stable \
             fails so often all the time, to the flip (median, 90th percentile)."
        ),
        &["Limit", "Share", "Blamed, 10 %", "50 %", "100 %", "Failures, stable 0.5 %", "2 %", "10 %"],
    );
    for limit in [r#""max_consecutive_errors": 5"#, r#""max_errors": 50"#, r#""max_error_rate": 5"#] {
        for share in [500, 5_000, 9_000] {
            let calm = Scenario {
                rps: 100.0,
                share,
                stable: Curve::Flat(0.0),
                canary: Curve::Flat(0.0),
                latency: Latency { median: 300.0, shape: 0.8, canary: 1.0 },
                rest: format!(r#""guard": {{{limit}, "compare": false}},"#),
                workers: WORKERS,
                disturbance: Disturbance::default(),
                clients: None,
                from: LEAD,
                seconds: LEAD + LASTS + 35,
            };
            let mut row = vec![format!("`{limit}`"), percent(u64::from(share), 10_000)];
            for level in [0.1, 0.5, 1.0] {
                let trouble = Curve::Step { base: 0.005, level, from: LEAD, until: LEAD + LASTS };
                let shared = Scenario { stable: trouble, canary: trouble, ..calm.clone() };
                let name = format!("limits/shared/{limit}/{share}/{level}");
                let ended = effort.run_some(trials, &name, |mut rng| fleet::run(&shared, &mut rng));
                let blamed = ended.iter().filter(|ended| ended.label.is_some()).count() as u64;
                row.push(percent(blamed, ended.len() as u64));
            }
            for base in [0.005, 0.02, 0.1] {
                let dead = Curve::Step { base, level: 1.0, from: LEAD, until: u64::MAX };
                let broken = Scenario { stable: Curve::Flat(base), canary: dead, ..calm.clone() };
                let name = format!("limits/dead/{limit}/{share}/{base}");
                let ended = effort.run_some(trials, &name, |mut rng| fleet::run(&broken, &mut rng));
                // Given up before it died: nothing was suffered.
                let errors: Vec<Option<u64>> =
                    ended.iter().map(|ended| ended.label.as_ref().map(|_| ended.errors)).collect();
                row.push(format!("{} ({})", shown(median(&errors)), shown(quantile(&errors, 0.9))));
            }
            table.rows.push(row);
        }
    }
    table
}

fn row(limit: &str, traffic: &str, times: &[Option<u64>]) -> Vec<String> {
    let blamed = times.iter().flatten().count() as u64;
    vec![format!("`{limit}`"), traffic.to_owned(), percent(blamed, times.len() as u64)]
}
