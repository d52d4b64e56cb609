//! How far a percentile on the dashboard may be from the truth, over all latencies that an API can have.

use std::collections::BTreeMap;
use std::fmt::Write;

use bellwether_harness::prometheus::Prometheus;
use bellwether_harness::testing::load::eventually;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::shipped::{list, yaml};

const SAMPLES: [&str; 3] =
    ["envoy/bootstrap.yaml", "envoy/bootstrap-aggregate.yaml", "envoy/bootstrap-cluster-header.yaml"];

/// The upper bounds of a sample's latency buckets, in milliseconds.
fn bounds(sample: &str) -> Vec<u64> {
    let bootstrap = yaml(sample);
    let settings = list(&bootstrap["stats_config"]["histogram_bucket_settings"]).to_vec();
    let ours =
        settings.iter().find(|one| one["match"]["prefix"] == "wasmcustom.bellwether_latency_ms").unwrap();
    list(&ours["buckets"]).iter().map(|bound| bound.as_u64().unwrap()).collect()
}

#[test]
fn bounds_reach_from_a_millisecond_to_ten_minutes_without_a_gap() {
    let all = bounds(SAMPLES[0]);
    assert!(SAMPLES.into_iter().all(|sample| bounds(sample) == all), "all samples");
    // Each bucket counts exactly the values below this bound, at which the next cell of Envoy's histogram begins.
    let ends: Vec<u64> = all.iter().map(|bound| bound + 1).collect();
    assert_eq!((ends.first(), ends.last()), (Some(&2), Some(&600_000)));
    for end in &ends {
        assert_eq!(*end, cell(*end), "Envoy keeps two significant digits");
    }
    for pair in ends.windows(2) {
        let (below, above) = (pair[0] as f64, pair[1] as f64);
        let most = if (100.0..60_000.0).contains(&below) { 4.0 / 3.0 } else { 1.5 };
        assert!(below < above && above <= below * most + 1e-9, "from {below} to {above}");
    }
    // Each is a series of each version.
    assert!(all.len() <= 50, "{} buckets", all.len());
}

/// Where Envoy's cell of a recorded value begins: it keeps two significant digits.
fn cell(recorded: u64) -> u64 {
    let unit = 10u64.pow(recorded.max(10).ilog10() - 1);
    recorded / unit * unit
}

/// Latencies in milliseconds, ascending.
struct Distribution {
    name: String,
    latencies: Vec<f64>,
}

fn constant(ms: f64) -> Distribution {
    Distribution { name: format!("constant {ms:.3}"), latencies: vec![ms; 1000] }
}

/// Points that fill the square evenly make normal ones (Box and Muller) that are as even.
fn lognormal(median: f64, sigma: f64) -> Distribution {
    const POINTS: u32 = 20_000;
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let point = |n: u32| {
        let (u, v) = ((f64::from(n) + 0.5) / f64::from(POINTS), (f64::from(n) * GOLDEN).fract());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        median * (sigma * normal).exp()
    };
    let mut latencies: Vec<f64> = (0..POINTS).map(point).collect();
    latencies.sort_by(f64::total_cmp);
    Distribution { name: format!("lognormal {median:.3} {sigma}"), latencies }
}

impl Distribution {
    fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.latencies.len() as f64).ceil() as usize;
        self.latencies[rank.saturating_sub(1)]
    }

    /// Writes a histogram as Envoy 1.40 shows it: the filter records whole milliseconds, and a bucket has every cell that
    /// begins at or below its bound.
    fn write(&self, page: &mut String, bounds: &[u64]) {
        let count = self.latencies.len();
        for bound in bounds {
            let below = self.latencies.partition_point(|ms| cell(ms.floor() as u64) <= *bound);
            writeln!(page, "latency_bucket{{of=\"{}\",le=\"{bound}\"}} {below}", self.name).unwrap();
        }
        writeln!(page, "latency_bucket{{of=\"{}\",le=\"+Inf\"}} {count}", self.name).unwrap();
    }
}

/// Serves a page on every connection until the runtime ends; returns the port.
async fn serve(page: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        page.len()
    );
    let answer = [head, page].concat();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

/// A range of true latencies in milliseconds, and how far a percentile may be off there, as a part of the truth.
struct Promise {
    of: &'static str,
    from: f64,
    to: f64,
    error: f64,
}

#[tokio::test(flavor = "multi_thread")]
async fn percentiles_from_a_millisecond_to_ten_minutes_are_near_the_exact_values() {
    let mut all: Vec<Distribution> = Vec::new();
    let bounds = bounds(SAMPLES[0]);
    // On a bound, where it is worst, just below one, and everywhere between.
    for bound in &bounds {
        all.extend([constant(*bound as f64), constant(*bound as f64 * 0.999)]);
    }
    all.extend((0..272).map(|n| constant(1.05f64.powi(n))));
    for sigma in [0.3, 0.5, 1.0] {
        all.extend((0..36).map(|n| lognormal(2.0 * 1.35f64.powi(n), sigma)));
    }
    let mut page = String::new();
    all.iter().for_each(|distribution| distribution.write(&mut page, &bounds));
    let port = serve(page).await;
    let config = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "page", "static_configs": [{"targets": [format!("127.0.0.1:{port}")]}]}],
    });
    let prometheus = Prometheus::start(&config, &[]).await.unwrap();
    eventually("a scrape", || async {
        (!prometheus.query("count(latency_bucket)").await.unwrap().is_empty()).then_some(())
    })
    .await;

    let promises = [
        Promise { of: "constant", from: 100.0, to: 60_000.0, error: 0.334 },
        Promise { of: "constant", from: 2.0, to: 600_000.0, error: 0.5 },
        Promise { of: "lognormal", from: 100.0, to: 60_000.0, error: 0.09 },
        Promise { of: "lognormal", from: 20.0, to: 600_000.0, error: 0.16 },
    ];
    for (label, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let shown = prometheus.query(&format!("histogram_quantile({q}, latency_bucket)")).await.unwrap();
        let shown: BTreeMap<&str, f64> = shown.iter().map(|one| (one.label("of"), one.value)).collect();
        for promise in &promises {
            let (mut worst, mut cases) = ((0.0, String::new()), 0);
            for distribution in all.iter().filter(|one| one.name.starts_with(promise.of)) {
                let truth = distribution.quantile(q);
                if !(promise.from..promise.to).contains(&truth) {
                    continue;
                }
                let error = (shown[distribution.name.as_str()] / truth - 1.0).abs();
                cases += 1;
                if error > worst.0 {
                    worst = (error, distribution.name.clone());
                }
            }
            println!(
                "{label} of {} {} ms to {} ms: off by at most {:.1} % ({}), {cases} cases",
                promise.of,
                promise.from,
                promise.to,
                worst.0 * 100.0,
                worst.1
            );
            assert!(cases >= 30, "{cases} cases are no test");
            assert!(worst.0 <= promise.error, "{label} of {}: off by {} of the truth", worst.1, worst.0);
        }
    }
}
