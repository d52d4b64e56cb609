//! Providers that die, hang, break off and talk nonsense, on a real Envoy with two workers: whatever a healthy stable could
//! have served is served, every attempt is counted for whom it went to, and nothing is left behind.

use std::net::Ipv4Addr;
use std::time::Duration;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess};
use bellwether_harness::load::Sample;
use bellwether_harness::provider::{Behaviour, Fault, Provider};
use bellwether_harness::testing::load::{Lanes, Load, eventually};
use serde_json::{Value, json};

use crate::common::chaos::{Counts, Sabotage, Saboteur, all_ok, at_rest, burst, config, counts, impatient};

/// Requests at once.
const BURST: u64 = 60;

/// An Envoy with a faulty canary.
struct Stage {
    envoy: EnvoyProcess,
    lanes: Lanes,
    v1: Provider,
}

impl Stage {
    async fn start(canary: u16, config: Value, edit: fn(&mut Value)) -> Stage {
        let v1 = Provider::start("v1").await.unwrap();
        let options = EnvoyOptions { edit: Some(Box::new(edit)), ..EnvoyOptions::default() };
        let options = options.cluster("v1", v1.port()).cluster("v2", canary).router_config(config);
        let envoy = EnvoyProcess::start(options).await.unwrap();
        let lanes = Lanes::open(&envoy).await;
        // The requests that open the lanes belong to the deployment, too: it takes all there are.
        eventually("the lanes' requests are counted", || async {
            (Counts::of(&envoy).await.requests.values().sum::<u64>() >= lanes.count()).then_some(())
        })
        .await;
        v1.clear();
        Stage { envoy, lanes, v1 }
    }
}

fn of_version<'a>(samples: &'a [Sample], version: &str) -> Vec<&'a Sample> {
    samples.iter().filter(|sample| sample.version.as_deref() == Some(version)).collect()
}

/// Ways to fail before the first byte of an answer.
fn failures() -> Vec<(&'static str, Sabotage)> {
    let say = |text: &str| Sabotage::Say(text.as_bytes().to_vec());
    let hang = |text: &str| Sabotage::SayAndHang(text.as_bytes().to_vec());
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: 1\r\n".repeat(500));
    vec![
        ("503", say("HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")),
        ("no word", say("")),
        ("a reset", Sabotage::Reset),
        ("silence", hang("")),
        ("half a head, then silence", hang("HTTP/1.1 200 OK\r\ncontent-le")),
        (
            "a head byte by byte without end",
            Sabotage::Drip(Vec::new(), b"HTTP/1.1 200 OK\r\nx: ".repeat(99), Duration::from_millis(40)),
        ),
        ("another protocol", say("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        ("a TLS alert", Sabotage::Say(b"\x15\x03\x01\x00\x02\x02\x28".repeat(20))),
        ("a status that is no number", say("HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n")),
        ("a header of 100 kB", say(&long)),
        ("five hundred headers", say(&many)),
        ("two lengths", say("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")),
        ("an invalid length", say("HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_before_its_first_byte_fails_no_client_request() {
    let canary = Saboteur::start().await;
    let stage = Stage::start(canary.port, config(Value::Null), impatient).await;
    for (how, sabotage) in failures() {
        canary.set(sabotage);
        stage.v1.clear();
        let (arrived, before) = (canary.count(), Counts::of(&stage.envoy).await);
        let samples = burst(&stage.lanes, BURST, |n| Request::chat(n % 2 == 0)).await;
        all_ok(&samples, how);
        assert_eq!(of_version(&samples, "v1").len() as u64, BURST, "{how}: stable served");
        let (counted, arrived) =
            (Counts::since(&before, &stage.envoy, BURST).await, canary.count() - arrived);
        assert_eq!(counted.requests, counts(&[("v1 good", BURST)]), "{how}");
        assert_eq!(counted.attempts, counts(&[("v1 good", BURST), ("v2 bad", arrived)]), "{how}");
        // Half of sixty, within five standard deviations.
        assert!((10..=50).contains(&arrived), "{how}: {arrived} attempts at the canary");
        let keys = stage.v1.requests().into_iter().map(|request| request.key.unwrap_or_default());
        let keys: Vec<String> = keys.collect();
        assert_eq!(keys.len() as u64, BURST, "{how}");
        assert!(keys.iter().all(|key| key.starts_with("sk-one-")), "{how}: stable's keys: {keys:?}");
    }
    at_rest(&stage.envoy, 0, "failures before the first byte").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_answers_that_a_canary_breaks_count_against_it() {
    let canary = Saboteur::start().await;
    let stage = Stage::start(canary.port, config(Value::Null), impatient).await;
    let ok = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
    let chunked = format!("{ok}transfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n");
    let say = |text: String| Sabotage::Say(text.into_bytes());
    let (head, every) =
        (format!("{ok}transfer-encoding: chunked\r\n\r\n").into_bytes(), Duration::from_millis(3));
    let ways = [
        ("less than its length", say(format!("{ok}content-length: 100\r\n\r\ndata")), false),
        ("an invalid chunk", say(format!("{chunked}zz\r\n")), false),
        ("no last chunk", say(chunked.clone()), false),
        // Envoy tries nobody else once there was an interim answer.
        ("two thousand early hints", say("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(2_000)), false),
        (
            "two thousand times 100, then silence",
            Sabotage::SayAndHang(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(2_000)),
            false,
        ),
        ("silence after a chunk", Sabotage::SayAndHang(chunked.clone().into_bytes()), false),
        (
            "a whole answer, byte by byte",
            Sabotage::Drip(head, b"5\r\ndata:\r\n0\r\n\r\n".to_vec(), every),
            true,
        ),
        ("an answer until the end of the connection", say(format!("{ok}\r\ndata")), true),
    ];
    for (how, sabotage, good) in ways {
        canary.set(sabotage);
        stage.v1.clear();
        let (arrived, before) = (canary.count(), Counts::of(&stage.envoy).await);
        let samples = burst(&stage.lanes, BURST, |_| Request::chat(true)).await;
        let (by_v1, by_v2) = (of_version(&samples, "v1"), of_version(&samples, "v2"));
        assert_eq!((by_v1.len() + by_v2.len()) as u64, BURST, "{how}: every answer has begun");
        all_ok(by_v1.iter().copied(), how);
        assert!(by_v2.len() >= 10 && by_v2.iter().all(|sample| sample.ok() == good), "{how}: {by_v2:#?}");
        let v2 = by_v2.len() as u64;
        let outcome = if good { "v2 good" } else { "v2 bad" };
        let expected = counts(&[("v1 good", BURST - v2), (outcome, v2)]);
        let counted = Counts::since(&before, &stage.envoy, BURST).await;
        assert_eq!(counted, Counts { requests: expected.clone(), attempts: expected }, "{how}");
        assert_eq!((canary.count() - arrived, stage.v1.count()), (v2, BURST - v2), "{how}");
    }
    at_rest(&stage.envoy, 0, "broken answers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_killed_and_come_back_under_load() {
    let mut v2 = Provider::start("v2").await.unwrap();
    let address = (Ipv4Addr::LOCALHOST, v2.port()).into();
    let guard = json!({"mode": "observe", "errors": ["5xx", "reset"]});
    let mut stage = Stage::start(v2.port(), config(guard), |_| {}).await;
    v2.clear();
    let before = Counts::of(&stage.envoy).await;
    let load = Load::start(&stage.lanes, 300.0, |n| Request::chat(n % 4 == 0));
    let mut at_v2 = 0;
    for n in 0..5 {
        let served = v2.count();
        eventually("the canary serves again", || async { (v2.count() >= served + 15).then_some(()) }).await;
        at_v2 += v2.count();
        let died = stage.v1.count();
        v2.stop().await;
        eventually("stable serves", || async { (stage.v1.count() >= died + 30).then_some(()) }).await;
        v2 = Provider::start_on("v2", address).await.unwrap();
        println!("killed the canary's provider, time {n}");
    }
    eventually("the canary serves again", || async { (v2.count() >= 15).then_some(()) }).await;
    let samples = load.stop().await;
    // A stream that had begun cannot be moved. Half of the load streams three chunks at once: there is hardly ever one.
    let broken: Vec<&Sample> = samples.iter().filter(|sample| !sample.ok()).collect();
    assert!(broken.iter().all(|s| s.version.as_deref() == Some("v2")), "lost at stable: {broken:#?}");
    assert!(broken.len() <= 5 * 16, "each had begun when a provider died: {}", broken.len());
    let sent = samples.len() as u64;
    let counted = Counts::since(&before, &stage.envoy, sent).await;
    let by_v2 = of_version(&samples, "v2").len() as u64;
    let bad = broken.len() as u64;
    let expected = counts(&[("v1 good", sent - by_v2), ("v2 good", by_v2 - bad), ("v2 bad", bad)]);
    assert_eq!(counted.requests, expected, "of {sent}");
    assert_eq!(counted.attempts["v1 good"], sent - by_v2);
    assert_eq!(
        stage.v1.count(),
        sent - by_v2,
        "every attempt at stable has arrived, and none was counted twice"
    );
    assert_eq!(counted.attempts["v2 good"], by_v2 - bad);
    // An attempt that was running when a provider died has arrived and is bad. An attempt that found no provider is bad
    // and has not arrived.
    assert!(counted.attempts["v2 good"] + counted.attempts["v2 bad"] >= at_v2 + v2.count());
    at_rest(&stage.envoy, 0, "killed providers").await;

    // Stable itself: nothing is moved to the canary, nothing is blamed on it, and it recovers by itself.
    let address = (Ipv4Addr::LOCALHOST, stage.v1.port()).into();
    let before = Counts::of(&stage.envoy).await;
    stage.v1.stop().await;
    let samples = burst(&stage.lanes, BURST, |_| Request::chat(false)).await;
    stage.v1 = Provider::start_on("v1", address).await.unwrap();
    all_ok(of_version(&samples, "v2"), "stable is dead");
    let lost = samples.iter().filter(|sample| !sample.ok()).count() as u64;
    let counted = Counts::since(&before, &stage.envoy, BURST).await;
    assert_eq!(counted.requests, counts(&[("v1 bad", lost), ("v2 good", BURST - lost)]));
    assert!((10..=50).contains(&lost), "{lost} of {BURST} were stable's");
    all_ok(&burst(&stage.lanes, BURST, |_| Request::chat(false)).await, "stable is back");
    at_rest(&stage.envoy, 0, "a dead stable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_shown_and_leave_with_their_clients() {
    const HELD: u64 = 40;
    let v2 = Provider::start("v2").await.unwrap();
    let stage = Stage::start(v2.port(), config(Value::Null), |_| {}).await;
    let shown = async |wanted: u64, after: &str| {
        eventually(format!("{wanted} in flight {after}"), || async {
            let shown = stage.envoy.metric("bellwether_in_flight", &[]).await.unwrap();
            (shown == wanted as f64).then_some(())
        })
        .await;
    };
    let endless = Behaviour { chunks: 10_000, chunk_delay_ms: 50, ..Behaviour::default() };
    for (when, behaviour) in
        [("before their first byte", Behaviour::failing(Fault::Hang)), ("in the middle of a stream", endless)]
    {
        for provider in [&stage.v1, &v2] {
            provider.clear();
            provider.set(behaviour.clone());
        }
        let before = Counts::of(&stage.envoy).await;
        let held = |n| {
            let client = stage.lanes.client(n).clone();
            tokio::spawn(async move { client.send(Request::chat(true)).await })
        };
        let clients: Vec<_> = (0..HELD).map(held).collect();
        shown(HELD, "while they wait").await;
        eventually("all have arrived", || async { (stage.v1.count() + v2.count() >= HELD).then_some(()) })
            .await;
        clients.iter().for_each(|client| client.abort());
        let counted = Counts::since(&before, &stage.envoy, HELD).await;
        let to_v1 = stage.v1.count();
        let expected = counts(&[("v1 cancelled", to_v1), ("v2 cancelled", HELD - to_v1)]);
        assert_eq!(counted, Counts { requests: expected.clone(), attempts: expected }, "{when}");
        shown(0, when).await;
    }
    let memory = stage.envoy.metric("bellwether_vm_memory_bytes", &[]).await.unwrap();
    // Two workers and the main thread, of at least seventeen pages each.
    assert!((3.0 * 17.0 * 65_536.0..64e6).contains(&memory), "{memory}");
    [&stage.v1, &v2].into_iter().for_each(|provider| provider.set(Behaviour::default()));
    all_ok(&burst(&stage.lanes, BURST, |_| Request::chat(false)).await, "clients that left");
    at_rest(&stage.envoy, 0, "clients that left").await;
}
