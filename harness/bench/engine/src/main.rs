//! What single decisions cost, natively and on fake time: nanoseconds, and where there is valgrind, instructions.
//!
//! `bellwether-bench-engine` prints a table (`--out` also puts it into a document); `bellwether-bench-engine NAME COUNT` only does one thing so often, for a profiler.
//! Instructions are those of 3 000 times less those of 1 000 times, so that making the plan does not count.

mod ops;

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// How often each is timed.
const TIMES: u32 = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let document = match arguments.as_slice() {
        [] => None,
        [option, document] if option == "--out" => Some(document),
        [name, count] => return ops::run(name, count.parse()?),
        _ => bail!("usage: bellwether-bench-engine [--out DOCUMENT | NAME COUNT]"),
    };
    let mut table = String::from("| decision | ns | instructions |\n|---|---|---|\n");
    for (name, what) in ops::ALL {
        let time = |count: u64| {
            let started = Instant::now();
            ops::run(name, count).map(|()| started.elapsed().as_secs_f64() * 1e9)
        };
        // The lowest of several: whatever else the machine does only adds.
        let (mut few, mut many) = (f64::MAX, f64::MAX);
        for _ in 0..TIMES {
            few = few.min(time(20_000)?);
            many = many.min(time(60_000)?);
        }
        let nanos = (many - few) / 40_000.0;
        let instructions = match (instructions(name, 1_000), instructions(name, 3_000)) {
            (Ok(few), Ok(many)) => format!("{:.0}", (many - few) / 2_000.0),
            _ => String::from("–"),
        };
        writeln!(table, "| {what} | {nanos:.0} | {instructions} |")?;
    }
    print!("{table}");
    document.map_or(Ok(()), |document| insert(document, &table))
}

/// Puts the table into a document, between its marks.
fn insert(document: &str, table: &str) -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- engine -->", "<!-- end of engine -->"];
    let held = std::fs::read_to_string(document).with_context(|| format!("read {document}"))?;
    let (before, rest) = held.split_once(MARKS[0]).context("the document has no place for the table")?;
    let (_, after) = rest.split_once(MARKS[1]).context("the document has no end of the table")?;
    std::fs::write(document, [before, MARKS[0], "\n", table, MARKS[1], after].concat())?;
    Ok(())
}

/// Instructions of this program doing one thing so often.
fn instructions(name: &str, count: u64) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([name, &count.to_string()])
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = told.lines().find_map(|line| line.split_once("Collected : ")).context("no count")?;
    Ok(collected.1.trim().parse()?)
}
