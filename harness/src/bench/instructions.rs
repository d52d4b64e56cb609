//! Instructions a request, the steadier gauge: it repeats to a few tenths of a percent where times move by a sixth.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::callgrind::Counted;
use super::traffic::{CONNECTIONS, Load, STREAM, Upstream, WHOLE};
use super::variant::{SMALL, Size, Variant};

/// Requests until V8 and Envoy's own caches have settled.
const WARM_UP: u64 = 2_000;
/// Requests of a window.
const WINDOW: u64 = 1_500;
/// Windows; their median is reported.
const WINDOWS: usize = 3;
/// How long Envoy is watched doing nothing.
const IDLE_SECONDS: u64 = 2;
/// Streams at a time: so few that callgrind keeps up with each chunk.
const STREAMS: usize = 8;
/// Streams of a window.
const STREAM_WINDOW: u64 = 64;

/// Instructions a request.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// The median of the windows.
    pub median: f64,
    /// Half of the distance between the lowest and the highest, in percent of the median.
    pub spread: f64,
}

/// What one variant costs.
pub struct Cost {
    /// Of a request that is answered at once.
    pub whole: Count,
    /// Of one that is answered with a stream, if that was measured.
    pub streamed: Option<Count>,
}

/// Measures one variant.
pub async fn measure(variant: Variant, size: Size, empty: &Path, streams: bool) -> Result<Cost> {
    let upstream = Upstream::start().await?;
    let counted = Counted::start(variant.options(upstream.port, empty, size)?).await?;
    let deployment = format!("d{}", size.deployments.saturating_sub(1));
    let port = counted.envoy.port();
    let mut load = Load::open(port, CONNECTIONS, WHOLE, &deployment).await?;
    load.send(WARM_UP).await?;
    let whole = windows(&counted, &mut load, WINDOW).await?;
    let streamed = if streams {
        drop(load);
        let mut load = Load::open(port, STREAMS, STREAM, &deployment).await?;
        load.send(2 * STREAMS as u64).await?;
        Some(windows(&counted, &mut load, STREAM_WINDOW).await?)
    } else {
        None
    };
    Ok(Cost { whole, streamed })
}

/// Measures once more if that fails: on a busy machine what is fifty times slower may run into somebody's time-out.
async fn patiently(variant: Variant, size: Size, empty: &Path, streams: bool) -> Result<Cost> {
    match measure(variant, size, empty, streams).await {
        Ok(cost) => Ok(cost),
        Err(error) => {
            eprintln!("{}: {error:#}; once more", variant.name());
            measure(variant, size, empty, streams).await
        }
    }
}

async fn windows(counted: &Counted, load: &mut Load, requests: u64) -> Result<Count> {
    let mut counts = Vec::new();
    let before = counted.instructions()?;
    let idle_since = Instant::now();
    tokio::time::sleep(std::time::Duration::from_secs(IDLE_SECONDS)).await;
    let idle_rate = (counted.instructions()? - before) as f64 / idle_since.elapsed().as_secs_f64();
    for _ in 0..WINDOWS {
        let (before, started) = (counted.instructions()?, Instant::now());
        load.send(requests).await?;
        let (after, seconds) = (counted.instructions()?, started.elapsed().as_secs_f64());
        counts.push(((after - before) as f64 - idle_rate * seconds) / requests as f64);
    }
    counts.sort_by(f64::total_cmp);
    let median = counts[counts.len() / 2];
    let spread = (counts[counts.len() - 1] - counts[0]) / 2.0 / median * 100.0;
    Ok(Count { median, spread })
}

/// The table of all variants, in Markdown.
pub async fn table(variants: &[Variant], empty: &Path) -> Result<String> {
    let mut out = String::from(
        "| who chooses | instructions a request | more than native | streamed, 50 chunks | more than native |\n\
         |---|---|---|---|---|\n",
    );
    let mut native = None;
    for &variant in variants {
        let streams = matches!(
            variant,
            Variant::Native | Variant::Empty | Variant::EmptyTwice | Variant::Router | Variant::RouterAndKeys
        );
        let cost = patiently(variant, SMALL, empty, streams).await?;
        if variant == Variant::Native {
            native = Some((cost.whole.median, cost.streamed.map(|count| count.median)));
        }
        let shown = |count: Option<Count>| match count {
            Some(count) => format!("{:.1} k ± {:.1} %", count.median / 1000.0, count.spread),
            None => String::from("–"),
        };
        let more = |count: Option<Count>, than: Option<f64>| match (count, than) {
            (Some(count), Some(than)) => format!("{:+.1} k", (count.median - than) / 1000.0),
            _ => String::from("–"),
        };
        let row = format!(
            "| {} | {} | {} | {} | {} |\n",
            variant.name(),
            shown(Some(cost.whole)),
            more(Some(cost.whole), native.map(|native| native.0)),
            shown(cost.streamed),
            more(cost.streamed, native.and_then(|native| native.1)),
        );
        eprint!("{row}");
        out.push_str(&row);
    }
    Ok(out)
}

/// What `harness/bench/calls` can do, in words.
const CALLS: [(&str, &str); 15] = [
    ("nothing", ""),
    ("header", "reading a header that is there"),
    ("missing", "reading one that is not"),
    ("headers", "reading all request headers, as the SDK does"),
    ("as-is", "the same without a copy of each, as Bellwether does"),
    ("set", "setting a header"),
    ("remove", "removing a header that is not there"),
    ("property", "reading a property (`response.flags`)"),
    ("absent", "reading one that is absent"),
    ("empty", "reading one that is empty"),
    ("expression", "evaluating an expression (`response.flags == 0`)"),
    ("length", "the same, without taking the result over"),
    ("set-property", "setting a property"),
    ("clock", "reading the clock"),
    ("metric", "incrementing a counter"),
];
/// How often `harness/bench/calls` does it in a request.
const TIMES: f64 = 10.0;

/// The table of host calls, in Markdown. `calls`: the module that makes them.
pub async fn calls(calls: &Path) -> Result<String> {
    let mut out = String::from("| host call | instructions |\n|---|---|\n");
    let upstream = Upstream::start().await?;
    let counted = Counted::start(Variant::Empty.options(upstream.port, calls, SMALL)?).await?;
    let mut nothing = None;
    for (name, what) in CALLS {
        let mut load = Load::open(counted.envoy.port(), CONNECTIONS, WHOLE, name).await?;
        load.send(if nothing.is_none() { WARM_UP } else { WARM_UP / 4 }).await?;
        let count = windows(&counted, &mut load, WINDOW / 3).await?;
        let least = *nothing.get_or_insert(count.median);
        if !what.is_empty() {
            let row = format!("| {what} | {:.1} k |\n", (count.median - least) / TIMES / 1000.0);
            eprint!("{row}");
            out.push_str(&row);
        }
    }
    Ok(out)
}

/// The table of sizes, in Markdown.
pub async fn sizes(empty: &Path) -> Result<String> {
    let mut out = String::from(
        "| deployments | keys a pool | instructions a request | of the smallest |\n|---|---|---|---|\n",
    );
    let deployments = [1, 10, 100, 1000].map(|deployments| Size { deployments, keys: 1 });
    let keys = [10, 100].map(|keys| Size { deployments: 1, keys });
    let mut smallest = None;
    for size in deployments.into_iter().chain(keys) {
        let count = patiently(Variant::RouterAndKeys, size, empty, false).await?.whole;
        let least = *smallest.get_or_insert(count.median);
        let row = format!(
            "| {} | {} | {:.1} k ± {:.1} % | {:.3} |\n",
            size.deployments,
            size.keys,
            count.median / 1000.0,
            count.spread,
            count.median / least
        );
        eprint!("{row}");
        out.push_str(&row);
    }
    Ok(out)
}
