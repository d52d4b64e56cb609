//! The terminal.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use bellwether_harness::client::Client;
use bellwether_harness::envoy::sum_metric;
use bellwether_harness::load::Summary;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at};

use super::stage::{CANARY, STABLE};
use super::traffic::Traffic;

/// From one line to the next.
const TICK: Duration = Duration::from_millis(500);

/// Width of the bar that shows the split: one block is 5 %.
const BAR: usize = 20;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Lines of text, in colour where there is a terminal that wants it.
#[derive(Clone)]
pub struct Screen {
    colour: bool,
    started: Instant,
}

impl Screen {
    pub fn new() -> Screen {
        // https://no-color.org: set and not empty.
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Screen { colour: wanted && stdout().is_terminal(), started: Instant::now() }
    }

    /// The first line.
    pub fn title(&self, text: &str) {
        self.print(&format!("\n{}", self.paint(BOLD, text)));
    }

    /// Something happens, and lines about its effect follow.
    pub fn act(&self, text: &str) {
        self.print(&format!("\n{}  {}", self.time(), self.paint(BOLD, text)));
    }

    /// Something has happened.
    pub fn event(&self, text: &str) {
        self.print(&format!("{}  {}", self.time(), self.paint(YELLOW, text)));
    }

    /// A line of the summary.
    pub fn fact(&self, name: &str, text: &str) {
        self.print(&format!("  {name:<14}{text}"));
    }

    /// Text as it is.
    pub fn print(&self, text: &str) {
        // Whoever closed the pipe has seen enough.
        let _ = writeln!(stdout(), "{text}");
    }

    /// Begins to print a line about the traffic every half second.
    pub fn ticker(&self, traffic: &Traffic, admin_port: u16) -> JoinHandle<()> {
        let (screen, seen, admin) = (self.clone(), traffic.seen(), Client::new(admin_port));
        tokio::spawn(async move {
            let mut ticks = interval_at(tokio::time::Instant::now() + TICK, TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut told = 0;
            loop {
                ticks.tick().await;
                let samples = seen.from(told);
                told += samples.len();
                let page = admin.get("/stats/prometheus", &[]).await.map(|answer| answer.text());
                screen.line(&Summary::of(&samples), &page.unwrap_or_default());
            }
        })
    }

    fn line(&self, traffic: &Summary, page: &str) {
        let (v1, v2) = (traffic.version(STABLE), traffic.version(CANARY));
        // Rounded, but what is there at all is shown.
        let canary = (v2 * BAR).div_ceil((v1 + v2).max(1)).min(BAR);
        let stable = if v1 + v2 == 0 { 0 } else { BAR - canary };
        let bar = format!(
            "{}{}{}",
            self.paint(CYAN, &"█".repeat(stable)),
            self.paint(YELLOW, &"░".repeat(canary)),
            " ".repeat(BAR - stable - canary)
        );
        let failed = format!("{:>3} failed", traffic.failed);
        let failed = if traffic.failed > 0 { self.paint(RED, &failed) } else { failed };
        let weight = sum_metric(page, "bellwether_weight", &[("version", CANARY)]) / 100.0;
        let evidence = sum_metric(page, "bellwether_evidence", &[]);
        let phase = match sum_metric(page, "bellwether_phase", &[]) as u8 {
            0 => "active".to_owned(),
            1 => "holding".to_owned(),
            2 => "probing".to_owned(),
            _ => self.paint(RED, "rolled back"),
        };
        self.print(&format!(
            "{}  {bar}  {STABLE} {v1:>3}  {CANARY} {v2:>3}  {failed}   weight of {CANARY} {weight:>2.0} %   \
             evidence {evidence:>3.0} %   {phase}",
            self.time()
        ));
    }

    fn time(&self) -> String {
        self.paint(DIM, &format!("{:>6.2} s", self.started.elapsed().as_secs_f64()))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
