//! probe
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr)]
mod common;
use bellwether_harness::client::Request;
use common::*;

#[tokio::test(flavor = "multi_thread")]
async fn probe() {
    let rig = Rig::configured(canary_at(20.0)).await;
    let clients = client_per_worker(&rig.envoy, 2).await;
    eprintln!("{}", clients.len());
    for (k, v) in rig.envoy.stats().await.unwrap() {
        if k.contains("wasm") || k.contains("worker") || k.contains("bellwether") {
            eprintln!("{k} = {v}");
        }
    }
    let t = std::time::Instant::now();
    let a = ask_all(&rig.envoy.client(), 2000, |_| Request::chat(false)).await;
    eprintln!("{:?} {}", t.elapsed(), a.iter().filter(|a| a.version() == Some("v2")).count());
    let t = std::time::Instant::now();
    for _ in 0..300 {
        clients[0].send(Request::get("/x")).await.unwrap();
    }
    eprintln!("seq 300: {:?}", t.elapsed());
    eprintln!("{:?}", rig.ask(Request::get("/v1/x?y").header("authorization", "mine")).await.1);
    eprintln!("{}", rig.envoy.access_log().last().unwrap());
    assert_no_trap(&rig.envoy, "x").await;
}
