//! `make demo`: a canary breaks and is rolled back, while you watch.
//!
//! Nothing shown is made up: requests are counted by the client that sent them and by the provider that received them, and
//! what the filter decided is read from Envoy's log and metrics. The demonstration judges itself: it ends with an error as
//! soon as something it tells has not happened.

mod cost;
mod keep;
mod log;
mod screen;
mod stage;
mod traffic;

pub use traffic::Traffic;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bellwether_harness::client::Request;
use bellwether_harness::load::{Sample, Summary};
use bellwether_harness::provider::Behaviour;
use tokio::time::{sleep, timeout};

use cost::{Cost, Moment};
use log::Transition;
use screen::Screen;
use stage::{CANARY, CANARY_PERCENT, STABLE, Stage};

/// Requests a second: a hundred in each line, and enough failures of the canary for a verdict in a blink.
const RATE: f64 = 200.0;

/// How long each act is shown: eight lines of a healthy release, and fewer of what does not change.
const HEALTHY: Duration = Duration::from_secs(4);
const ROLLED_BACK: Duration = Duration::from_secs(3);
const MENDED: Duration = Duration::from_millis(2500);

/// A rollback or a reload takes milliseconds. After this it does not happen at all.
const LIMIT: Duration = Duration::from_secs(5);

/// A request begun later than this after a rollback is no straggler: workers follow within 10 ms, and a busy machine has
/// ten times that.
const GRACE: Duration = Duration::from_millis(100);

/// Runs the demonstration; with `keep` it stays on fixed ports afterwards, until interrupted.
///
/// # Errors
/// If it cannot start, or if something did not happen as it should; then with the end of Envoy's log.
pub async fn run(keep: bool) -> Result<()> {
    let screen = Screen::new();
    let stage = Stage::start(keep).await?;
    screen.title(&format!(
        "Envoy with two workers on 127.0.0.1:{}, providers {STABLE} on :{} and {CANARY} on :{}",
        stage.envoy.port(),
        stage.v1.port(),
        stage.v2.port(),
    ));
    let traffic = Traffic::start(stage.envoy.client(), RATE);
    let ticker = screen.ticker(&traffic, stage.envoy.admin_port());
    let played = play(&stage, &traffic, &screen).await;
    ticker.abort();
    let story = played
        .map_err(|error| anyhow!("{error:#}\n\nThe end of Envoy's log:\n{}", stage.envoy.log_tail()))?;
    let samples = traffic.stop().await;
    story.tell(&screen, &samples);
    if keep {
        keep::stay(stage, &screen).await?;
    }
    Ok(())
}

/// What was measured.
struct Story {
    flip: Transition,
    flip_millis: u64,
    cost: Cost,
    reload: Duration,
}

async fn play(stage: &Stage, traffic: &Traffic, screen: &Screen) -> Result<Story> {
    screen.act(&format!("both versions are healthy, {CANARY} gets {CANARY_PERCENT} %"));
    sleep(HEALTHY).await;
    let healthy = traffic.samples_from(0);
    expect_share(&healthy, CANARY_PERCENT)?;
    expect_no_failures(&healthy, "while both versions are healthy")?;

    let mut log = log::Tail::new(&stage.envoy);
    let before = traffic.count();
    stage.v2.set(Behaviour { latency: stage::LATENCY, ..Behaviour::status(500) });
    let broken = Moment::now();
    screen.act(&format!("breaking {CANARY} now: it answers 500 to everything"));
    let flip = timeout(LIMIT, log.next_transition())
        .await
        .map_err(|_| anyhow!("expected a rollback within {LIMIT:?} of the break, got none"))??;
    ensure!(
        flip.to == "rolled_back" && flip.version == CANARY && !flip.why.is_empty(),
        "expected {CANARY} to be rolled back with a reason, got {flip:?}"
    );
    let flip_millis = broken.millis_to(flip.millis_of_day);
    screen.event(&format!("{CANARY} rolled back, {flip_millis} ms after the break: {}", flip.why));
    sleep(ROLLED_BACK).await;

    let cost = Cost::measure(&stage.v2.requests(), &traffic.samples_from(before), broken, flip_millis);
    cost.lines().iter().for_each(|line| screen.event(line));
    let (stragglers, failed) = (cost.stragglers(GRACE), cost.failed_later(GRACE));
    ensure!(
        stragglers == 0 && failed == 0,
        "expected nothing at {CANARY} and no failures later than {GRACE:?} after the rollback, got {stragglers} new requests \
         and {failed} failures"
    );

    let (received, sent) = (stage.v2.count(), traffic.count());
    stage.v2.set(stage::healthy());
    screen.act(&format!(
        "{CANARY} is mended, and stays rolled back: a release is not resumed by itself (recovery: hold)"
    ));
    sleep(MENDED).await;
    expect_no_failures(&traffic.samples_from(sent), &format!("while {CANARY} is rolled back"))?;
    let arrived = stage.v2.count() - received;
    ensure!(arrived == 0, "expected no request at {CANARY} while it is rolled back, got {arrived}");
    let forced = stage.envoy.client().send(Request::chat(false).header("x-test-version", CANARY)).await?;
    ensure!(
        forced.status == 200 && forced.version() == Some(CANARY),
        "expected x-test-version: {CANARY} to reach {CANARY}, got status {} from {:?}",
        forced.status,
        forced.version()
    );
    screen.event(&format!(
        "a tester still reaches it: x-test-version: {CANARY} is answered with 200 by {CANARY}"
    ));

    let reload = reload(stage, screen).await?;
    let sent = traffic.count();
    sleep(HEALTHY).await;
    let again = traffic.samples_from(sent);
    expect_share(&again, CANARY_PERCENT)?;
    expect_no_failures(&again, "in the new release")?;
    Ok(Story { flip, flip_millis, cost, reload })
}

/// Starts release 2 by renaming a file, and measures until a request arrives at the canary.
async fn reload(stage: &Stage, screen: &Screen) -> Result<Duration> {
    let received = stage.v2.count();
    let update = stage.envoy.write_router_config(&stage::config("2")?).await?;
    let renamed = Instant::now();
    screen.act("release 2 is renamed into place (ECDS): a new release starts afresh");
    let arrival = async {
        while stage.v2.count() == received {
            sleep(log::POLL).await;
        }
        renamed.elapsed()
    };
    let took = timeout(LIMIT, arrival).await.map_err(|_| {
        anyhow!("expected requests at {CANARY} within {LIMIT:?} of the new release, got none")
    })?;
    stage.envoy.wait_config_accepted(&update, LIMIT).await.context("expected release 2 to be in force")?;
    screen.event(&format!("{CANARY} serves again, {} ms after the rename", took.as_millis()));
    Ok(took)
}

/// Expects the canary's share to be `percent`, as exactly as so many draws can tell.
fn expect_share(samples: &[Sample], percent: u32) -> Result<()> {
    let (share, count) = (f64::from(percent) / 100.0, samples.len() as f64);
    // Five standard deviations: by chance once in a million runs.
    let slack = 5.0 * (count * share * (1.0 - share)).sqrt();
    let got = Summary::of(samples).version(CANARY);
    ensure!(
        (got as f64 - share * count).abs() <= slack,
        "expected about {percent} % of {count} requests at {CANARY}, got {got}"
    );
    Ok(())
}

fn expect_no_failures(samples: &[Sample], when: &str) -> Result<()> {
    let summary = Summary::of(samples);
    ensure!(summary.count > 0, "expected traffic {when}, got none");
    ensure!(
        summary.failed == 0,
        "expected no failures {when}, got {}: {:?}",
        summary.failed,
        summary.by_status
    );
    Ok(())
}

impl Story {
    /// The summary at the end.
    fn tell(&self, screen: &Screen, samples: &[Sample]) {
        let all = Summary::of(samples);
        screen.act("summary");
        screen.fact("requests", &format!("{} sent, {} failed for their clients", all.count, all.failed));
        screen
            .fact("time to flip", &format!("{} ms after the break ({})", self.flip_millis, self.flip.reason));
        for (name, line) in ["cost of it", "", ""].iter().zip(self.cost.lines()) {
            screen.fact(name, &line);
        }
        screen.fact(
            "new release",
            &format!("{} ms from the rename to its first request", self.reload.as_millis()),
        );
    }
}
