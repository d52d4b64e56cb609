//! Absolute limits: how often does each of them blame a healthy canary?

use bellwether::histogram::Histogram;
use bellwether::plan::Guard;
use bellwether::stats::Snapshot;
use bellwether::units::Micros;
use bellwether::verdict::{self, Verdict};
use bellwether::window::{Tally, Window};

use crate::report::{Findings, Table, percent};
use crate::rng::Rng;
use crate::setup;
use crate::traffic::{Curve, Kind, Traffic, generate};
use crate::trials::Effort;
use bellwether::share::Arm;

const HOUR: u64 = 3600;

/// One side's record, as the engine keeps it.
struct Record {
    window: Window,
    run: u32,
}

impl Record {
    fn new(guard: &Guard) -> Record {
        Record { window: Window::new(guard.window), run: 0 }
    }

    fn add(&mut self, at: Micros, good: u64, bad: bool) {
        let bad = u64::from(bad);
        self.run = if good > 0 { 0 } else { self.run } + bad as u32;
        if good + bad > 0 {
            self.window.add(at, &Tally { judged: good + bad, bad, latency: Histogram::default() });
        }
    }

    fn snapshot(&self, now: Micros) -> Snapshot {
        Snapshot { tally: self.window.sum(now), failed_in_a_row: self.run, failing_now: self.run > 0 }
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
            if verdict::any_exceeded(guard, &snapshot)
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
    let mut record = Record::new(guard);
    let mut now = 0.0;
    loop {
        now += rng.exponential(rps);
        if now >= seconds as f64 {
            return None;
        }
        let mut tally = Tally { judged: 1, ..Tally::default() };
        tally.latency.record(Micros((rng.lognormal(median, shape) * 1000.0) as u64));
        let at = Micros((now * 1e6) as u64 + 1_000_000_000);
        record.window.add(at, &tally);
        // Stable's twenty times as many answers put its percentile below the limit, where its true value is.
        let snapshot = record.snapshot(at);
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
    Findings { tables: vec![table], bounds: Vec::new() }
}

fn row(limit: &str, traffic: &str, times: &[Option<u64>]) -> Vec<String> {
    let blamed = times.iter().flatten().count() as u64;
    vec![format!("`{limit}`"), traffic.to_owned(), percent(blamed, times.len() as u64)]
}
