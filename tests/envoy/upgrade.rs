//! A new module, or a changed environment, is a new VM on every worker. The state of the old VMs must survive, and no
//! request may leave without its key meanwhile.

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, sum_metric};
use bellwether_harness::provider::{Behaviour, Provider};
use bellwether_harness::testing::load::{Lanes, Load, eventually};
use serde_json::json;

use crate::common::rig::{another_vm, rewrite_resource};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_and_every_key_survive_a_new_vm_on_every_worker() {
    let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
    let config = json!({
        "deployments": [{"name": "d", "stable": "v1", "guard": {"max_consecutive_errors": 3}, "versions": [
            {"id": "v1", "weight": 50, "cluster": "v1", "key_pool": "one"},
            {"id": "v2", "weight": 50, "cluster": "v2", "key_pool": "two"}]}],
        "key_pools": [{"name": "one", "keys": [{"id": "a", "value": "sk-one"}]},
                      {"name": "two", "keys": [{"id": "b", "value": "sk-two"}]}],
    });
    for first in [Role::Router, Role::Keys] {
        v1.set(Behaviour::default());
        v2.set(Behaviour::status(500));
        let options = EnvoyOptions::default().cluster("v1", v1.port()).cluster("v2", v2.port());
        let envoy = EnvoyProcess::start(options.router_config(config.clone())).await.unwrap();
        let lanes = Lanes::open(&envoy).await;
        let load = Load::start(&lanes, 300.0, |_| Request::chat(false));
        let phase = || async {
            let page = envoy.prometheus().await.unwrap();
            sum_metric(&page, "bellwether_phase", &[("deployment", "d")]) as u64
        };
        eventually("a rollback", || async { (phase().await == 3).then_some(()) }).await;
        v2.set(Behaviour::default());
        v1.clear();
        v2.clear();

        let second = if first == Role::Router { Role::Keys } else { Role::Router };
        for role in [first, second] {
            rewrite_resource(&envoy, role, "new-vm", |config| {
                config["vm_config"]["environment_variables"]["host_env_keys"] = json!(["ANOTHER_NAME"]);
                // Before 1.39 the environment alone makes none.
                config["vm_config"]["configuration"] = another_vm();
            });
            eventually("the new resource is in force", || async {
                let version = envoy.text_stat(&role.stat("version_text")).await.unwrap()?;
                version.contains("new-vm").then_some(())
            })
            .await;
        }
        let before = v1.count();
        eventually("traffic under the new VMs", || async { (v1.count() >= before + 300).then_some(()) })
            .await;
        let samples = load.stop().await;
        assert!(samples.iter().rev().take(250).all(|sample| sample.ok()), "{first:?} first");
        let wrong: Vec<_> =
            v1.requests().into_iter().filter(|r| r.key.as_deref() != Some("sk-one")).collect();
        assert!(wrong.is_empty(), "{first:?} first: {wrong:?}");
        // In the moment in which one VM has buried and another not yet put back, a request or two may slip through.
        assert!(v2.count() <= 5, "{first:?} first: {} requests went to the canary", v2.count());
        assert_eq!(phase().await, 3, "{first:?} first");
        envoy.quit().await.unwrap();
    }
}
