//! A VM that traps, on a real Envoy with two workers: shared state survives, no request leaves without its key, and only
//! real outcomes are counted.

use std::fs;
use std::time::Duration;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, sum_metric, wasm_path};
use bellwether_harness::provider::{Behaviour, Provider};
use bellwether_harness::testing::load::{Lanes, Load, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::common::chaos::{Counts, Sabotage, Saboteur, all_ok, burst, counts, nothing_in_flight};
use crate::common::trapping::{MARK, TRAP_HEADERS, TRAPPED, trapping_module};

/// Longer than Envoy waits, after it has built a VM anew, before it would do so again: a second, and at random up to half of one
/// more. A second trap within that time would cost every request of that worker until it has passed.
const BACKOFF: Duration = Duration::from_millis(1_800);

#[test]
fn the_shipped_module_has_no_trap_door() {
    let directory = std::env::temp_dir().join(format!("bellwether-trap-door-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = trapping_module(&directory);
    let has_mark = |bytes: &[u8]| bytes.windows(MARK.len()).any(|at| at == MARK.as_bytes());
    let (shipped, trapping) = (fs::read(wasm_path().unwrap()).unwrap(), fs::read(&path).unwrap());
    fs::remove_dir_all(directory).unwrap();
    assert!(has_mark(&trapping), "the mark is looked for as it is written");
    assert!(!has_mark(&shipped));
    let functions = |bytes: &[u8]| walrus::Module::from_buffer(bytes).unwrap().funcs.iter().count();
    assert_eq!(functions(&trapping), functions(&shipped) + TRAPPED.len(), "and nothing else is different");
}

/// A request with so many headers that it traps in the `router` role.
fn trapping_request() -> Request {
    (0..TRAP_HEADERS).fold(Request::chat(false), |request, n| request.header(&format!("x-{n}"), "x"))
}

/// A request for an answer with so many headers that the filter traps.
fn trapping_answer() -> Request {
    Request::chat(false).header("x-to", "v3")
}

fn keyed_by_secrets() -> Value {
    let key = |id: &str| json!({"id": id, "value": {"secret": id}});
    json!({
        "deployments": [{
            "name": "d", "stable": "v1", "guard": {"max_consecutive_errors": 3, "compare": false},
            "rules": [{"headers": [{"name": "x-to", "exact": "v3"}], "version": "v3", "after_rollback": "keep"}],
            "versions": [{"id": "v1", "weight": 50, "cluster": "v1", "key_pool": "one"},
                         {"id": "v2", "weight": 50, "cluster": "v2", "key_pool": "two"},
                         {"id": "v3", "weight": 0, "cluster": "v3", "key_pool": "two"}]}],
        "key_pools": [{"name": "one", "keys": [key("one-1"), key("one-2")]}, {"name": "two", "keys": [key("two-1")]}],
    })
}

/// How often a worker has built its VM anew.
async fn reloads(envoy: &EnvoyProcess) -> u64 {
    let stats = envoy.stats().await.unwrap();
    let of = |name: &str| name.starts_with("wasm.") && name.ends_with(".vm_reload_success");
    stats.iter().filter(|(name, _)| of(name)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_state_survives_traps_and_only_real_outcomes_are_counted() {
    let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
    let v3 = Saboteur::start().await;
    let many = "x-many: x\r\n".repeat(TRAP_HEADERS as usize);
    v3.set(Sabotage::Say(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{many}\r\n").into_bytes()));
    v2.set(Behaviour::status(500));
    v1.set(Behaviour::default().key("sk-one-1", 429, &[("retry-after", "300")]));
    let directory = std::env::temp_dir().join(format!("bellwether-trapping-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let secrets = json!({"one-1": "sk-one-1", "one-2": "sk-one-2", "two-1": "sk-two-1"});
    let options = EnvoyOptions {
        wasm: Some(trapping_module(&directory)),
        keys_config: Some(json!({"secrets": secrets})),
        ..EnvoyOptions::default()
    };
    let options = options.cluster("v1", v1.port()).cluster("v2", v2.port()).cluster("v3", v3.port);
    let envoy = EnvoyProcess::start(options.router_config(keyed_by_secrets())).await.unwrap();
    fs::remove_dir_all(directory).unwrap();
    let lanes = Lanes::open(&envoy).await;
    let state = async || {
        let page = envoy.prometheus().await.unwrap();
        let of = |name, label, value| sum_metric(&page, name, &[(label, value)]) as u64;
        let key = |key| of("bellwether_key_status", "key", key);
        (of("bellwether_phase", "deployment", "d"), key("one-1"), key("one-2"))
    };
    // A canary that is rolled back, and a key that is limited for five minutes.
    eventually("a rollback and a limited key", || async {
        all_ok(&burst(&lanes, 16, |_| Request::chat(false)).await, "a failing canary");
        (state().await == (3, 1, 0)).then_some(())
    })
    .await;
    nothing_in_flight(&envoy, "the beginning").await;
    let before = Counts::of(&envoy).await;
    let before_all = before.requests.values().sum::<u64>();
    v1.clear();
    v2.clear();

    // A trap in the request and one in the answer, on one worker after the other (unless a lane has changed its connection).
    let lane = |worker| (0..lanes.count()).find(|n| lanes.worker(*n) == worker).expect("three on each");
    let load = Load::start(&lanes, 100.0, |_| Request::chat(false));
    let (mut trapped, mut looked) = (0, Vec::<u16>::new());
    // The time counts from the making of the first VMs, too.
    sleep(BACKOFF).await;
    for (make, place) in [(trapping_request as fn() -> Request, "request"), (trapping_answer, "answer")] {
        for worker in [0, 1] {
            let rebuilt = reloads(&envoy).await;
            let answer = envoy_answer(&lanes, lane(worker), make()).await;
            assert_eq!(answer, 503, "a trap in the {place}");
            trapped += 1;
            // By the next request on that worker. A refused lane may have gone over to the other one, a new connection goes to either.
            let looks = std::cell::RefCell::new(Vec::new());
            eventually("the VM is built anew", || async {
                let status = envoy.client().send(Request::chat(false)).await.unwrap().status;
                looks.borrow_mut().push(status);
                (reloads(&envoy).await > rebuilt).then_some(())
            })
            .await;
            looked.extend(looks.into_inner());
            sleep(BACKOFF).await;
        }
    }
    let samples = load.stop().await;
    let logs = envoy.logs();
    assert!(logs.contains(MARK), "the trap door caused the trap\n{}", envoy.log_tail());

    // The counts are right. A request that was lost with a VM either got a 503 of Envoy and is not counted, or had its
    // answer already.
    let sent = (samples.len() + looked.len()) as u64 + trapped;
    let fell = eventually("the access log is written", || async {
        let fell =
            envoy.access_log().iter().filter(|line| line["details"] == "wasm_fail_stream").count() as u64;
        (fell >= trapped).then_some(fell)
    })
    .await;
    let refused = looked.iter().filter(|status| **status != 200).count();
    let failed = (samples.iter().filter(|sample| !sample.ok()).count() + refused) as u64;
    assert_eq!(failed + trapped, fell, "no other request is lost");
    // At a hundred requests a second a trap finds the one or the other under way, on its worker.
    assert!(failed <= trapped * 16, "{failed} requests fell with {trapped} traps");
    let counted = eventually("the rest is counted", || async {
        let counted = Counts::of(&envoy).await;
        let all = counted.requests.values().sum::<u64>() - before_all;
        (all + fell + trapped * 16 >= sent).then_some(counted)
    })
    .await;
    let good = counted.requests["v1 good"] - before.requests["v1 good"];
    let all = counted.requests.values().sum::<u64>() - before_all;
    println!("{sent} requests, {trapped} traps: {fell} fell, {all} are counted");
    assert!(good <= sent - fell, "{good} are counted as good, {} were", sent - fell);
    assert!(all <= sent, "{all} are counted, {sent} were sent");

    // State: the canary is still out, the limited key, too, and everything carries the other.
    assert_eq!(state().await, (3, 1, 0), "after the traps");
    assert_eq!(v2.count(), 0, "the canary is rolled back");
    let wrong: Vec<_> = v1.requests().into_iter().filter(|r| r.key.as_deref() != Some("sk-one-2")).collect();
    assert!(wrong.is_empty(), "without their key: {wrong:#?}");
    nothing_in_flight(&envoy, "the traps").await;
    let before = Counts::of(&envoy).await;
    all_ok(&burst(&lanes, 60, |_| Request::chat(false)).await, "the traps");
    let counted = Counts::since(&before, &envoy, 60).await;
    assert_eq!(counted.requests, counts(&[("v1 good", 60)]));
    assert_eq!(counted.attempts, counts(&[("v1 good", 60)]));
}

async fn envoy_answer(lanes: &Lanes, lane: u64, request: Request) -> u16 {
    lanes.client(lane).send(request).await.unwrap().status
}
