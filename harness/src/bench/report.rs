//! The tables of `make bench`, in Markdown.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::reload;
use super::time::{Case, Measured, interleaved, middle, ratio};
use super::variant::{SMALL, Size, Variant};

/// Measures everything but instructions, and prints it.
pub async fn time(empty: &Path, rounds: usize, requests: u64) -> Result<()> {
    println!("### CPU time a request\n");
    println!(
        "{rounds} rounds of {requests} requests each, in turn; medians, ± half of the distance between the quartiles.\n"
    );
    let cases = Variant::ALL.map(Case::of);
    variants(&interleaved(&cases, empty, rounds, requests).await?);

    println!("\n### Size of the configuration\n");
    let size = |deployments, keys| Size { deployments, keys };
    let sizes = [SMALL, size(10, 1), size(100, 1), size(1000, 1), size(1, 10), size(1, 100)];
    let cases = sizes.map(|size| Case { size, ..Case::of(Variant::RouterAndKeys) });
    by_size(&interleaved(&cases, empty, rounds, requests).await?);

    println!("\n### Workers\n");
    let cases = [Variant::Native, Variant::EmptyTwice, Variant::RouterAndKeys]
        .map(|variant| [1, 2].map(|workers| Case { workers, ..Case::of(variant) }));
    by_workers(&interleaved(&cases.concat(), empty, rounds, requests).await?);

    println!("\n### Reload\n");
    println!(
        "| deployments | CPU time on the worker | on the main thread | longest request, quiet | longest request, ten reloads | idle worker |"
    );
    println!("|---|---|---|---|---|---|");
    for deployments in [1, 100, 1000] {
        let r = reload::measure(deployments, empty).await?;
        println!(
            "| {} | {} | {} | {:.1} ms | {:.1} ms | {:.2} % | {:.1} MiB |",
            r.deployments,
            millis(&r.worker),
            millis(&r.main),
            r.quiet.as_secs_f64() * 1e3,
            r.reloading.as_secs_f64() * 1e3,
            r.idle.as_secs_f64() * 100.0,
            mib(r.memory),
        );
    }
    Ok(())
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

fn variants(all: &[Measured]) {
    println!(
        "| who chooses | µs a request | of native | of one empty filter | of two |\n|---|---|---|---|---|"
    );
    for of in all {
        let (micros, spread) = middle(&of.rounds);
        println!(
            "| {} | {micros:.1} ± {spread:.1} | {} | {} | {} |",
            of.case.variant.name(),
            to(all, of, Variant::Native),
            to(all, of, Variant::Empty),
            to(all, of, Variant::EmptyTwice),
        );
    }
}

fn by_size(all: &[Measured]) {
    println!(
        "| deployments | keys a pool | µs a request | of the smallest | memory of a VM |\n|---|---|---|---|---|"
    );
    for of in all {
        let (micros, spread) = middle(&of.rounds);
        println!(
            "| {} | {} | {micros:.1} ± {spread:.1} | {} | {:.1} MiB |",
            of.case.size.deployments,
            of.case.size.keys,
            all.first()
                .map(|first| ratio(of, first))
                .map_or(String::new(), |(r, s)| format!("{r:.3} ± {s:.3}")),
            mib(of.memory),
        );
    }
}

fn by_workers(all: &[Measured]) {
    println!("| who chooses | workers | µs a request | of one worker |\n|---|---|---|---|");
    for pair in all.chunks(2) {
        for of in pair {
            let (micros, spread) = middle(&of.rounds);
            let of_one = pair.first().map(|one| ratio(of, one));
            println!(
                "| {} | {} | {micros:.1} ± {spread:.1} | {} |",
                of.case.variant.name(),
                of.case.workers,
                of_one.map_or(String::new(), |(r, s)| format!("{r:.3} ± {s:.3}")),
            );
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn millis(times: &[Duration]) -> String {
    let millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let (median, spread) = middle(&millis);
    format!("{median:.1} ± {spread:.1} ms")
}
