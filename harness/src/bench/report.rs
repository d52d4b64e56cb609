//! The tables of `make bench`, in Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bellwether_harness::workspace_root;

use super::time::{Case, Measured, interleaved, middle, ratio};
use super::variant::{SMALL, Size, Variant};
use super::{order, reload};

/// Measures everything but instructions, or only these parts of it (`variants`, `sizes`, `workers`, `reload`, `order`).
pub async fn time(empty: &Path, rounds: usize, requests: u64, parts: &[String]) -> Result<String> {
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let mut out = format!(
        "CPU time of the Envoy process, user and system, {rounds} rounds of {requests} requests each, in turn; medians, \
         ± half of the distance between the quartiles.\n"
    );
    if wanted("variants") {
        let cases = Variant::ALL.map(Case::of);
        variants(&mut out, &interleaved(&cases, empty, rounds, requests).await?)?;
    }
    if wanted("sizes") {
        let size = |deployments, keys| Size { deployments, keys };
        let sizes = [SMALL, size(10, 1), size(100, 1), size(1000, 1), size(1, 10), size(1, 100)];
        let cases = sizes.map(|size| Case { size, ..Case::of(Variant::RouterAndKeys) });
        by_size(&mut out, &interleaved(&cases, empty, rounds, requests).await?)?;
    }
    if wanted("workers") {
        let cases = [Variant::Native, Variant::EmptyTwice, Variant::RouterAndKeys]
            .map(|variant| [1, 2].map(|workers| Case { workers, ..Case::of(variant) }));
        by_workers(&mut out, &interleaved(&cases.concat(), empty, rounds, requests).await?)?;
    }
    if wanted("reload") {
        reloads(&mut out, empty).await?;
    }
    if wanted("order") {
        orders(&mut out, &order::measure().await?)?;
    }
    Ok(out)
}

async fn reloads(out: &mut String, empty: &Path) -> Result<()> {
    writeln!(
        out,
        "\n| deployments | reload: CPU time on the worker | on the main thread | longest request, quiet | longest, ten \
         reloads | idle worker | memory of a VM |\n|---|---|---|---|---|---|---|"
    )?;
    for deployments in [1, 100, 1000] {
        let r = reload::measure(deployments, empty).await?;
        writeln!(
            out,
            "| {} | {} | {} | {:.1} ms | {:.1} ms | {:.2} % | {:.1} MiB |",
            r.deployments,
            millis(&r.worker),
            millis(&r.main),
            r.quiet.as_secs_f64() * 1e3,
            r.reloading.as_secs_f64() * 1e3,
            r.idle.as_secs_f64() * 100.0,
            mib(r.memory),
        )?;
    }
    Ok(())
}

fn orders(out: &mut String, of: &order::Orders) -> Result<()> {
    let (answered, last) = (sorted(&of.answered), sorted(&of.last));
    let at = |times: &[Duration], percent: usize| {
        let time = times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    };
    writeln!(
        out,
        "\n| {} rollbacks by POST, {:.0} requests a second, two workers | median | 90 % | longest |\n|---|---|---|---|",
        last.len(),
        of.rate
    )?;
    for (what, times) in
        [("the POST", &answered), ("from its answer to the last request that the canary got", &last)]
    {
        writeln!(out, "| {what} | {} | {} | {} |", at(times, 50), at(times, 90), at(times, 100))?;
    }
    Ok(())
}

fn sorted(times: &[Duration]) -> Vec<Duration> {
    let mut times = times.to_vec();
    times.sort();
    times
}

/// A column of ratios: to the case of this variant.
fn to(all: &[Measured], of: &Measured, variant: Variant) -> String {
    match all.iter().find(|m| m.case.variant == variant) {
        Some(other) => {
            let (ratio, spread) = ratio(of, other);
            format!("{ratio:.3} ± {spread:.3}")
        }
        None => String::from("–"),
    }
}

fn variants(out: &mut String, all: &[Measured]) -> Result<()> {
    writeln!(
        out,
        "\n| who chooses | µs a request | of native | of one empty filter | of two |\n|---|---|---|---|---|"
    )?;
    for of in all {
        let (micros, spread) = middle(&of.rounds);
        writeln!(
            out,
            "| {} | {micros:.1} ± {spread:.1} | {} | {} | {} |",
            of.case.variant.name(),
            to(all, of, Variant::Native),
            to(all, of, Variant::Empty),
            to(all, of, Variant::EmptyTwice),
        )?;
    }
    Ok(())
}

fn by_size(out: &mut String, all: &[Measured]) -> Result<()> {
    writeln!(
        out,
        "\n| deployments | keys a pool | µs a request | of the smallest | memory of a VM |\n|---|---|---|---|---|"
    )?;
    for of in all {
        let (micros, spread) = middle(&of.rounds);
        writeln!(
            out,
            "| {} | {} | {micros:.1} ± {spread:.1} | {} | {:.1} MiB |",
            of.case.size.deployments,
            of.case.size.keys,
            all.first()
                .map(|first| ratio(of, first))
                .map_or(String::new(), |(r, s)| format!("{r:.3} ± {s:.3}")),
            mib(of.memory),
        )?;
    }
    Ok(())
}

fn by_workers(out: &mut String, all: &[Measured]) -> Result<()> {
    writeln!(out, "\n| who chooses | workers | µs a request | of one worker |\n|---|---|---|---|")?;
    for pair in all.chunks(2) {
        for of in pair {
            let (micros, spread) = middle(&of.rounds);
            let of_one = pair.first().map(|one| ratio(of, one));
            writeln!(
                out,
                "| {} | {} | {micros:.1} ± {spread:.1} | {} |",
                of.case.variant.name(),
                of.case.workers,
                of_one.map_or(String::new(), |(r, s)| format!("{r:.3} ± {s:.3}")),
            )?;
        }
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn millis(times: &[Duration]) -> String {
    let millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let (median, spread) = middle(&millis);
    format!("{median:.1} ± {spread:.1} ms")
}

/// Puts a text between two marks of a document, in place of what is there.
pub fn insert(document: &Path, mark: &str, text: &str) -> Result<()> {
    let held = fs::read_to_string(document).with_context(|| format!("read {}", document.display()))?;
    let (begin, end) = (format!("<!-- {mark} -->"), format!("<!-- end of {mark} -->"));
    let (before, rest) = held.split_once(&begin).with_context(|| format!("no {begin} in the document"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("no {end} in the document"))?;
    fs::write(document, format!("{before}{begin}\n{}\n{end}{after}", text.trim_end()))?;
    Ok(())
}

/// The machine, in one line.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::from("unknown"), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (cpu, load) = (field(&read("/proc/cpuinfo"), "model name"), read("/proc/loadavg"));
    let envoy = read(&workspace_root().join("envoy/VERSION").display().to_string());
    format!(
        "{cpu}, {cores} cores, Linux {}, load average {} when it was written; Envoy {}.",
        read("/proc/sys/kernel/osrelease").trim(),
        load.split_whitespace().next().unwrap_or_default(),
        envoy.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_takes_the_place_of_what_is_between_its_marks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter <!-- b --><!-- end of b -->";
        fs::write(file.path(), held).unwrap();
        insert(file.path(), "a", "new\n\n").unwrap();
        insert(file.path(), "a", "newer").unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, held.replace("old", "newer"));
        assert!(insert(file.path(), "c", "x").is_err());
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let measured =
            |rounds: &[f64]| Measured { case: Case::of(Variant::Native), rounds: rounds.to_vec(), memory: 0 };
        // The machine is twice as slow in the second round and three times in the third.
        let (one, other) = (measured(&[10.0, 20.0, 30.0]), measured(&[12.0, 24.0, 36.0]));
        let (ratio, spread) = ratio(&other, &one);
        assert!((ratio - 1.2).abs() < 1e-9 && spread < 1e-9, "{ratio} ± {spread}");
    }
}
