//! The whole output: the tables with what somebody needs to read them who sees them for the first time.

use crate::report::Findings;
use crate::trials::Effort;

/// The output as Markdown.
pub fn text(effort: &Effort, findings: &Findings) -> String {
    let all = findings.bounds.len();
    let held = findings.bounds.iter().filter(|bound| bound.holds).count();
    let Effort { seed, trials, hours, .. } = effort;
    let command = match hours {
        24 => format!("cargo run --release -p bellwether-simulator -- --trials {trials} --seed {seed}"),
        _ => format!("cargo run --release -p bellwether-simulator -- --quick --seed {seed}"),
    };
    format!(
        r#"# What the decision rules do, measured

Bellwether sends a small share of the requests to a *canary* (the new version), the rest to *stable* (the old one), and takes
the canary out of service (*rolls it back*) when it is worse. This file says how often it does so wrongly, and how many users
suffer before it does so rightly. It is written by the simulator, which runs the code that ships (`src/`) on simulated traffic:

    {command}

Seed {seed}, {trials} trials a cell unless its table says otherwise, simulated days of {hours} h. **{held} of {all} bounds hold**;
they are listed [below](#bounds). The same seed gives the same tables, on any number of cores. The command fails if a bound
is broken. Add `--out FILE` to write this file, `--table NAME` for one table only, `--quick` for a run of some seconds.

How to read it:

* *100 rps, 5 %, 0.5 % errors*: 100 requests a second of both versions together, 5 % of them to the canary, 0.5 % of all fail.
* A *trial* is one simulated release. *Rolled back*, *blamed*: the part of the trials in which the canary was rolled back. None
  of 1000 trials means that the true rate is below 0.3 %, with 95 % confidence; one of 1000, below 0.5 %.
* *Slow*: slower than the 95th percentile of stable's answers, so one healthy answer in twenty is slow.
* A *worker* is a thread of the proxy. Each counts by itself, and what they have counted is merged in batches.
* The other columns are rules that people use today, on the same requests in the same order. They are our reading of their
  documentation with the parameters of its examples, [as listed at the end](#the-other-rules-and-what-was-assumed-of-them);
  tuned for this traffic they may do better. Some of them (Envoy's outlier detection) are made for another purpose.
* Requests arrive independently of each other (a Poisson process) and fail independently with the rate of their version at the
  time. Real failures come in clumps; how clumps of one client are dealt with is in the tables on sticky clients.

{}"#,
        findings.markdown()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Bound;

    #[test]
    fn the_command_is_the_one_that_was_run_and_broken_bounds_are_counted() {
        let bounds = vec![Bound::at_most("a", Some(1), 1), Bound::at_most("b", Some(2), 1)];
        let findings = Findings { tables: Vec::new(), bounds };
        let effort = Effort { seed: 7, trials: 50, hours: 24, threads: 1 };
        let whole = text(&effort, &findings);
        assert!(whole.contains("-- --trials 50 --seed 7\n") && whole.contains("**1 of 2 bounds hold**"));
        assert!(text(&Effort::QUICK, &findings).contains("--quick --seed 1"));
    }
}
