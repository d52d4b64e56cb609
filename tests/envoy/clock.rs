//! A wall clock that is set while Envoy runs. Spans of time do not change; dates follow the clock.
//!
//! A preloaded library steps the clock for Envoy alone. The monotonic clock stays as it is, as on a machine on which an
//! administrator sets the clock. Linux only, as is `LD_PRELOAD`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, sum_metric};
use bellwether_harness::provider::{Behaviour, Provider};
use bellwether_harness::testing::load::{Lanes, Load, events, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::common::chaos::{all_ok, burst, config, nothing_in_flight};
use crate::common::rig::assert_no_trap;

const HOUR: i64 = 3600;

/// The wall clock of one Envoy.
struct WallClock {
    directory: PathBuf,
}

impl WallClock {
    fn new(name: &str) -> WallClock {
        let directory = std::env::temp_dir().join(format!("bellwether-clock-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let clock = WallClock { directory };
        fs::write(clock.offset(), 0i64.to_le_bytes()).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/envoy/common/wall_clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(clock.library()).arg(source);
        assert!(compiler.arg("-ldl").status().expect("a C compiler").success());
        clock
    }

    fn offset(&self) -> PathBuf {
        self.directory.join("offset")
    }

    fn library(&self) -> PathBuf {
        self.directory.join("wall_clock.so")
    }

    /// Sets it so many seconds off.
    fn step(&self, seconds: i64) {
        // In place: Envoy has the file in its memory.
        let mut file = fs::OpenOptions::new().write(true).open(self.offset()).unwrap();
        std::io::Write::write_all(&mut file, &seconds.to_le_bytes()).unwrap();
    }

    fn options(&self) -> EnvoyOptions {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        EnvoyOptions::default()
            .env("LD_PRELOAD", &path(self.library()))
            .env("WALL_CLOCK_OFFSET", &path(self.offset()))
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The true time, so many seconds from now, as RFC 3339.
fn rfc3339(seconds: i64) -> String {
    // Through the tool of every system: a calendar of our own would be another thing to be wrong.
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + seconds;
    let output = Command::new("date").args(["-u", "-d", &format!("@{at}"), "+%Y-%m-%dT%H:%M:%SZ"]).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

/// The same as an HTTP date.
fn http_date(seconds: i64) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + seconds;
    let format = "+%a, %d %b %Y %H:%M:%S GMT";
    let output =
        Command::new("date").env("LC_ALL", "C").args(["-u", "-d", &format!("@{at}"), format]).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

async fn gauge(envoy: &EnvoyProcess, name: &str, label: (&str, &str)) -> u64 {
    sum_metric(&envoy.prometheus().await.unwrap(), name, &[label]) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ramp_begins_at_its_date_and_then_no_step_of_the_clock_moves_it() {
    let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
    let clock = WallClock::new("ramp");
    let mut document = config(Value::Null);
    let deployment = &mut document["deployments"][0];
    for version in deployment["versions"].as_array_mut().unwrap() {
        version.as_object_mut().unwrap().remove("weight");
    }
    deployment["ramp"] = json!({
        "start": rfc3339(HOUR),
        "stages": [{"weight": 50, "for": "1h"}, {"weight": 100, "for": "1h"}],
    });
    let options = clock.options().cluster("v1", v1.port()).cluster("v2", v2.port());
    let envoy = EnvoyProcess::start(options.router_config(document)).await.unwrap();
    let lanes = Lanes::open(&envoy).await;
    let load = Load::start(&lanes, 100.0, |_| Request::chat(false));
    let weight = async || gauge(&envoy, "bellwether_weight", ("version", "v2")).await;
    let becomes = async |wanted: u64, why: &str| {
        eventually(format!("{why}: the canary has {wanted}"), || async {
            (weight().await == wanted).then_some(())
        })
        .await;
    };
    // A second of looks, which the workers take every few milliseconds.
    let stays = async |wanted: u64, why: &str| {
        for _ in 0..50 {
            assert_eq!(weight().await, wanted, "{why}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    eventually("stable serves", || async { (v1.count() >= 50).then_some(()) }).await;
    clock.step(-HOUR);
    stays(0, "an hour back, before the start").await;
    assert_eq!(v2.count(), 0, "before its start it has no traffic");
    clock.step(HOUR + 60);
    becomes(5_000, "an hour on: the ramp begins").await;
    // A step is no time that the canary was watched for, and none that it was not.
    clock.step(3 * HOUR);
    stays(5_000, "two hours on, in a stage of an hour").await;
    clock.step(-24 * HOUR);
    stays(5_000, "a day back, before the start").await;
    all_ok(&load.stop().await, "steps of the clock");
    nothing_in_flight(&envoy, "steps of the clock").await;
    assert_no_trap(&envoy, "steps of the clock").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollbacks_windows_and_cooldowns_ignore_a_clock_that_is_set_and_a_date_becomes_a_span_on_arrival() {
    let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
    let clock = WallClock::new("spans");
    let mut document = config(json!({"window": "2s", "max_errors": 8, "compare": false}));
    document["deployments"][0]["failover"] = json!({"after": 1});
    let options = clock.options().cluster("v1", v1.port()).cluster("v2", v2.port());
    let envoy = EnvoyProcess::start(options.router_config(document)).await.unwrap();
    let lanes = Lanes::open(&envoy).await;
    let status = async |key: &str| gauge(&envoy, "bellwether_key_status", ("key", key)).await;
    // The provider's clock is Envoy's: both were set a day back, and the date is four seconds off.
    clock.step(-24 * HOUR);
    // The filter reads the wall clock anew when its last reading is 20 ms old.
    sleep(Duration::from_millis(50)).await;
    let date = http_date(4 - 24 * HOUR);
    v1.set(Behaviour::default().key("sk-one-1", 429, &[("retry-after", &date)]));
    let limited = Instant::now();
    eventually("the key is limited", || async {
        all_ok(&burst(&lanes, 8, |_| Request::chat(false)).await, "a limited key");
        (status("one-1").await == 1).then_some(())
    })
    .await;
    // From here on it is a span: two days forth change nothing, two days back do not make it endless.
    v1.set(Behaviour::default());
    clock.step(24 * HOUR);
    if limited.elapsed() < Duration::from_secs(2) {
        assert_eq!(status("one-1").await, 1, "not before its time");
    }
    clock.step(-48 * HOUR);
    eventually("the key is back", || async {
        all_ok(&burst(&lanes, 8, |_| Request::chat(false)).await, "a key that comes back");
        (status("one-1").await == 0).then_some(())
    })
    .await;
    let took = limited.elapsed();
    println!("the key was out for at most {took:?} of 4 s");
    assert!(took >= Duration::from_secs(2), "a date of four seconds, one of them cut off: {took:?}");

    // Eight errors within two seconds, with days between them by the clock: it is as if nobody had touched it.
    let load = Load::start(&lanes, 50.0, |_| Request::chat(false));
    v2.set(Behaviour::status(500));
    for n in 0.. {
        clock.step(if n % 2 == 0 { 72 * HOUR } else { -72 * HOUR });
        sleep(Duration::from_millis(20)).await;
        if gauge(&envoy, "bellwether_phase", ("deployment", "d")).await == 3 {
            break;
        }
        assert!(n < 1_000, "no rollback");
    }
    v2.set(Behaviour::default());
    for days in [-30, 30, 0] {
        clock.step(days * 24 * HOUR);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(gauge(&envoy, "bellwether_phase", ("deployment", "d")).await, 3, "{days} days off");
    }
    all_ok(&load.stop().await, "a rollback and steps of the clock");
    let context = events(&envoy, "d");
    assert_eq!(context.len(), 1, "{context:#?}");
    // Its time is that of the stepped clock: three days before or after today.
    let today = &rfc3339(0)[..10];
    assert!(
        !context[0]["time"].as_str().unwrap().starts_with(today),
        "{}: it was not {today}",
        context[0]["time"]
    );
    nothing_in_flight(&envoy, "steps of the clock").await;
    assert_no_trap(&envoy, "steps of the clock").await;
}
