//! What was measured, as a table in Markdown, and what it means.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::operator::{Costs, Done};
use super::traffic::Counts;

/// One interval: what is counted is since the beginning, the latencies are the interval's.
pub struct Row {
    /// Since the beginning.
    pub at: Duration,
    /// Of the clients.
    pub counts: Counts,
    /// Of the plain requests, in microseconds.
    pub latency: Histogram<u64>,
    /// Of the operator.
    pub operator: Done,
    /// Since the beginning.
    pub rollbacks: u64,
    /// At its end.
    pub in_flight: u64,
    /// Resident memory of Envoy in bytes.
    pub rss: u64,
    /// What Envoy's allocator has given out, in bytes.
    pub allocated: u64,
    /// Linear memory of all VMs, in bytes.
    pub vm_memory: u64,
}

/// The whole run.
pub struct Report {
    /// Percent by which memory may grow.
    growth: f64,
    /// Bytes of the module.
    module: u64,
    /// One an interval.
    pub rows: Vec<Row>,
    /// Requests in flight when there was no client any more.
    pub left_in_flight: f64,
    /// Requests that the filter has counted.
    pub counted: u64,
    /// Requests that the clients have sent.
    pub sent: u64,
    /// Clients that left before there was an answer.
    pub early_cancels: u64,
    /// What failed that should not have.
    pub failures: BTreeMap<String, u64>,
    /// Releases under load.
    pub releases: u64,
    /// Of reloads at rest.
    pub costs: Costs,
    /// VMs that were built anew.
    pub traps: u64,
}

const MIB: f64 = 1_048_576.0;

/// Bytes that a reload may leave behind. With two workers it leaves 1 900, of which 860 are Envoy's timers of root contexts that are
/// gone; a filter that defined its metrics anew with every plan left 3 100.
const RELOAD_MAX: f64 = 2_800.0;

const ALLOCATED: &str = "allocated memory";

impl Report {
    /// The first lines of the table.
    pub const HEAD: &str = "| time | requests | p50 ms | p99 ms | failed | broken | left | reloads | rotations | faults | releases | \
        rollbacks | in flight | RSS MiB | allocated MiB | VMs MiB |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

    /// Without rows.
    pub fn new(growth: f64, module: u64) -> Report {
        Report {
            growth,
            module,
            rows: Vec::new(),
            left_in_flight: f64::NAN,
            counted: 0,
            sent: 0,
            early_cancels: 0,
            failures: BTreeMap::new(),
            releases: 0,
            costs: Costs::default(),
            traps: 0,
        }
    }

    /// What must not be; empty if all is well.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, of) in MEMORIES {
            let (early, late) = self.fifths(of);
            // What every update leaves in Envoy is said, and judged, by itself.
            let explained = if name == ALLOCATED { self.left_by_updates() } else { 0.0 };
            // What cannot be compared is no proof of anything.
            let grown = ((late - explained) / early - 1.0) * 100.0;
            if grown.is_nan() || grown > self.growth {
                faults.push(format!("{name} has grown by {grown:.1} %, from {early:.1} to {late:.1} MiB"));
            }
        }
        if self.costs.reload > RELOAD_MAX {
            faults.push(format!("a reload leaves {:.0} bytes", self.costs.reload));
        }
        if self.left_in_flight != 0.0 {
            faults.push(format!("{} requests are in flight without a client", self.left_in_flight));
        }
        if !self.failures.is_empty() {
            faults.push(format!("requests failed: {:?}", self.failures));
        }
        let least = self.sent.saturating_sub(self.early_cancels);
        if !(least..=self.sent).contains(&self.counted) {
            faults.push(format!(
                "{} requests are counted, {} were sent, of which {} perhaps did not arrive",
                self.counted, self.sent, self.early_cancels
            ));
        }
        if self.traps != 0 {
            faults.push(format!("{} VMs were built anew", self.traps));
        }
        faults
    }

    /// What the reloads and rotations between the two fifths have left in Envoy, in MiB, if a rotation leaves as much as a reload.
    fn left_by_updates(&self) -> f64 {
        let (before, after) = self.fifths(|row| (row.operator.reloads + row.operator.rotations) as f64);
        (after - before) * self.costs.reload.max(0.0) / MIB
    }

    /// The means of the second and of the last fifth of the rows.
    fn fifths(&self, of: fn(&Row) -> f64) -> (f64, f64) {
        let fifth = self.rows.len() / 5;
        let mean = |rows: &[Row]| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
        (mean(&self.rows[fifth..2 * fifth]), mean(&self.rows[self.rows.len() - fifth..]))
    }
}

type Measure = (&'static str, fn(&Row) -> f64);

/// What must not grow, in MiB.
const MEMORIES: [Measure; 3] = [
    ("resident memory", |row| row.rss as f64 / MIB),
    (ALLOCATED, |row| row.allocated as f64 / MIB),
    ("linear memory of the VMs", |row| row.vm_memory as f64 / MIB),
];

fn percentile(row: &Row, percent: f64) -> f64 {
    row.latency.value_at_percentile(percent) as f64 / 1000.0
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.as_secs();
        let Counts { sent, left, broken, failed } = self.counts;
        let Done { reloads, rotations, faults, releases } = self.operator;
        write!(
            f,
            "| {}:{:02} | {sent} | {:.1} | {:.1} | {failed} | {broken} | {left} | {reloads} | {rotations} | {faults} | {releases} | \
             {} | {} | {:.1} | {:.1} | {:.2} |",
            seconds / 60,
            seconds % 60,
            percentile(self, 50.0),
            percentile(self, 99.0),
            self.rollbacks,
            self.in_flight,
            self.rss as f64 / MIB,
            self.allocated as f64 / MIB,
            self.vm_memory as f64 / MIB,
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(last) = self.rows.last() else { return write!(f, "Nothing was measured.") };
        writeln!(
            f,
            "{} requests in {:.1} minutes, {:.0} a second; module of {} bytes.\n\n\
             | second fifth → last fifth | | | |\n|---|--:|--:|--:|",
            self.sent,
            last.at.as_secs_f64() / 60.0,
            last.counts.sent as f64 / last.at.as_secs_f64(),
            self.module,
        )?;
        for (name, of) in MEMORIES {
            let (early, late) = self.fifths(of);
            let grown = (late / early - 1.0) * 100.0;
            writeln!(f, "| {name} | {early:.2} MiB | {late:.2} MiB | {grown:+.2} % |")?;
        }
        for (name, of) in [
            ("p50 of plain requests", (|row| percentile(row, 50.0)) as fn(&Row) -> f64),
            ("p99 of plain requests", |row| percentile(row, 99.0)),
        ] {
            let (early, late) = self.fifths(of);
            writeln!(
                f,
                "| {name} | {early:.2} ms | {late:.2} ms | {:+.1} % |",
                (late / early - 1.0) * 100.0
            )?;
        }
        writeln!(
            f,
            "\n{} of {} requests are counted ({} clients left before an answer). {} releases under sixteen names. \
             Afterwards, at rest: a reload has left {:.0} bytes in Envoy, and one to a release of a new name {:.0}; \
             that makes {:.2} MiB of what is allocated between the two fifths. The VMs have grown by {:.0} KiB with all of these.",
            self.counted,
            self.sent,
            self.early_cancels,
            self.releases,
            self.costs.reload,
            self.costs.name,
            self.left_by_updates(),
            self.costs.vms / 1024.0,
        )?;
        match self.faults().as_slice() {
            [] => write!(
                f,
                "\nVerdict: good. Nothing grows, nothing leaks, nothing failed that should not have."
            ),
            faults => write!(f, "\nVerdict: BAD. {}.", faults.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of ten rows with this resident memory each, in MiB, and otherwise well.
    fn run(rss: [u64; 10]) -> Report {
        let row = |(n, mib): (usize, &u64)| Row {
            at: Duration::from_secs(60),
            counts: Counts::default(),
            latency: Histogram::new(3).unwrap(),
            operator: Done { reloads: 1000 * n as u64, ..Done::default() },
            rollbacks: 0,
            in_flight: 7,
            rss: mib << 20,
            allocated: (10 << 20) + 1_000_000 * n as u64,
            vm_memory: 1 << 20,
        };
        let mut report = Report::new(5.0, 1);
        report.rows = rss.iter().enumerate().map(row).collect();
        report.costs = Costs { reload: 1000.0, name: 2000.0, vms: 0.0 };
        (report.left_in_flight, report.sent, report.counted) = (0.0, 100, 98);
        report.early_cancels = 2;
        report
    }

    #[test]
    fn memory_may_grow_before_the_second_fifth_and_not_after_it() {
        assert_eq!(run([10, 50, 100, 100, 100, 100, 100, 100, 104, 104]).faults(), Vec::<String>::new());
        let faults = run([100, 100, 100, 100, 100, 100, 100, 100, 106, 106]).faults();
        assert_eq!(faults, ["resident memory has grown by 6.0 %, from 100.0 to 106.0 MiB"]);
    }

    #[test]
    fn a_leak_a_failure_a_trap_and_a_lost_count_are_faults_each() {
        let spoil: [fn(&mut Report); 8] = [
            // What is allocated grows by more than the reloads leave, or they leave too much.
            |r| r.costs.reload = 700.0,
            |r| r.costs.reload = 2_801.0,
            |r| r.left_in_flight = 1.0,
            |r| r.left_in_flight = f64::NAN,
            |r| r.failures = [("503".to_owned(), 1)].into(),
            |r| r.traps = 1,
            |r| r.counted = 97,
            |r| r.counted = 101,
        ];
        for (n, spoil) in spoil.into_iter().enumerate() {
            let mut report = run([100; 10]);
            assert!(report.faults().is_empty());
            spoil(&mut report);
            assert_eq!(report.faults().len(), 1, "{n}");
            assert!(report.to_string().contains("BAD"), "{n}");
        }
    }
}
