//! The Kubernetes samples hold together: every name that one resource uses is there in another one, and the filter takes
//! their documents.

use std::collections::BTreeSet;

use bellwether::config;
use bellwether_harness::testing::manifests::{self, BACKENDS, CLUSTER_HEADER, Manifest, Platform, text};
use bellwether_harness::workspace_root;
use serde_json::{Value, json};

fn both() -> [Manifest; 2] {
    [manifests::read(Platform::Istio), manifests::read(Platform::EnvoyGateway)]
}

fn read_yaml(path: &str) -> Value {
    serde_norway::from_str(&std::fs::read_to_string(workspace_root().join(path)).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn the_filter_accepts_the_documents_and_they_need_nothing_that_the_platforms_lack() {
    for manifest in both() {
        let document = manifest.document();
        let plan = config::compile(document.to_string().as_bytes(), &|name| Some(format!("sk-{name}")));
        assert!(plan.is_ok(), "{}", plan.err().map(|problems| problems.to_string()).unwrap_or_default());
        for pool in list(&document["key_pools"]) {
            assert_eq!(pool["inject"], "request", "there is no keys role: {pool}");
        }
        for deployment in list(&document["deployments"]) {
            assert_eq!(deployment["failover"], false, "there is no next attempt elsewhere: {deployment}");
            for version in list(&deployment["versions"]) {
                let rewrites = version.get("host").or(version.get("rewrite_prefix"));
                assert_eq!(rewrites, None, "{:?} would look for another route: {version}", manifest.platform);
            }
        }
    }
}

#[test]
fn every_version_has_one_rule_for_its_cluster_and_the_last_rule_takes_all_other_requests() {
    for manifest in both() {
        let rules = manifest.rules();
        let document = manifest.document();
        for version in list(&document["deployments"][0]["versions"]) {
            let cluster = text(&version["cluster"]);
            let its: Vec<_> = rules.iter().filter(|rule| rule.cluster.as_ref() == Some(&cluster)).collect();
            let [rule] = its[..] else { panic!("{cluster}: {rules:#?}") };
            assert_eq!(rule.backend, rule.authority, "a provider is called by its own name");
            assert!(BACKENDS.contains(&(rule.backend.as_str(), cluster.as_str())), "{rule:?}");
            assert_eq!(rule.removed, [CLUSTER_HEADER], "no provider gets the header");
        }
        let (last, others) = rules.split_last().unwrap();
        assert!(last.cluster.is_none(), "{last:?}");
        assert!(others.iter().all(|rule| rule.cluster.is_some()), "{others:?}");
    }
}

#[test]
fn every_key_is_in_a_secret_in_envoys_environment_and_among_the_filters_variables() {
    for manifest in both() {
        let secret = manifest.one("Secret");
        let environment = manifest.environment();
        for pool in list(&manifest.document()["key_pools"]) {
            for key in list(&pool["keys"]) {
                let name = text(&key["value"]["env"]);
                assert!(manifest.variables().contains(&name), "{name} is not passed to the filter");
                let (_, from, in_it) = environment.iter().find(|known| known.0 == name).expect("a variable");
                assert_eq!(*from, text(&secret["metadata"]["name"]));
                // A sample has no key, not even one that looks like it.
                assert_eq!(secret["stringData"][in_it], "replace-me", "{name}");
            }
        }
    }
}

#[test]
fn istio_knows_every_destination_speaks_tls_to_it_and_puts_the_filter_on_the_gateway_of_the_routes() {
    let istio = manifests::read(Platform::Istio);
    let spec = |kind| istio.all(kind).into_iter().map(|document| &document["spec"]).collect::<Vec<_>>();
    for rule in istio.rules() {
        let entries = spec("ServiceEntry");
        let entry = entries.iter().find(|entry| list(&entry["hosts"]).contains(&json!(rule.backend)));
        assert_eq!(entry.expect("a ServiceEntry")["ports"][0]["number"], 443, "{rule:?}");
        let policies = spec("DestinationRule");
        let policy = policies.iter().find(|policy| policy["host"] == rule.backend.as_str());
        let tls = &policy.expect("a DestinationRule")["trafficPolicy"]["tls"];
        let wanted = json!({"mode": "SIMPLE", "sni": rule.backend, "subjectAltNames": [rule.backend]});
        assert_eq!(*tls, wanted, "{rule:?}");
    }
    let labels = &istio.one("Deployment")["spec"]["selector"]["matchLabels"];
    assert_eq!(istio.plugin()["selector"]["matchLabels"], *labels);
    let (gateway, routes) = (istio.one("Gateway"), istio.one("VirtualService"));
    assert_eq!(gateway["spec"]["selector"], *labels);
    assert_eq!(istio.one("Service")["spec"]["selector"], *labels);
    assert_eq!(routes["spec"]["gateways"], json!([gateway["metadata"]["name"]]));
    assert_eq!(routes["spec"]["hosts"], gateway["spec"]["servers"][0]["hosts"]);
    let service_port = &istio.one("Service")["spec"]["ports"][0]["targetPort"];
    assert_eq!(*service_port, gateway["spec"]["servers"][0]["port"]["number"]);
    let plugin = istio.plugin();
    assert_eq!((&plugin["pluginName"], &plugin["phase"]), (&json!("router"), &json!("AUTHN")));
    assert_eq!(plugin["failStrategy"], "FAIL_RELOAD");
}

#[test]
fn envoy_gateway_has_the_filter_on_the_whole_route_and_the_metrics_labels_of_the_samples() {
    let gateway = manifests::read(Platform::EnvoyGateway);
    let name = |kind: &str| gateway.one(kind)["metadata"]["name"].clone();
    let policy = &gateway.one("EnvoyExtensionPolicy")["spec"];
    let target = json!([{
        "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name("HTTPRoute"),
    }]);
    assert_eq!(policy["targetRefs"], target);
    assert_eq!(gateway.one("BackendTrafficPolicy")["spec"]["targetRefs"], target);
    assert_eq!(gateway.one("HTTPRoute")["spec"]["parentRefs"], json!([{"name": name("Gateway")}]));
    assert_eq!(gateway.one("Gateway")["spec"]["gatewayClassName"], name("GatewayClass"));
    assert_eq!(gateway.one("GatewayClass")["spec"]["parametersRef"]["name"], name("EnvoyProxy"));
    let plugin = gateway.plugin();
    assert_eq!((&plugin["rootID"], &plugin["failOpen"]), (&json!("router"), &json!(false)));
    let backends = gateway.all("Backend");
    let names: BTreeSet<String> = backends.iter().map(|backend| text(&backend["metadata"]["name"])).collect();
    assert_eq!(names.len(), backends.len(), "one Backend a name");
    for backend in backends {
        let host = &backend["spec"]["endpoints"][0]["fqdn"]["hostname"];
        assert_eq!(backend["spec"]["tls"], json!({"wellKnownCACertificates": "System", "sni": host}));
    }
    let bootstrap = &gateway.one("EnvoyProxy")["spec"]["bootstrap"];
    let value: Value = serde_norway::from_str(&text(&bootstrap["value"])).unwrap();
    assert_eq!(bootstrap["type"], "Merge");
    assert_eq!(value, json!({"stats_config": read_yaml("envoy/bootstrap.yaml")["stats_config"]}));
}

#[test]
fn the_platforms_have_the_settings_of_the_samples_connection_manager() {
    let bootstrap = read_yaml("envoy/bootstrap.yaml");
    let manager = bootstrap.pointer("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config");
    let manager = manager.expect("the connection manager");
    let istio = manifests::read(Platform::Istio);
    let filter = &istio.one("EnvoyFilter")["spec"];
    assert_eq!(
        filter["workloadSelector"]["labels"],
        istio.one("Deployment")["spec"]["selector"]["matchLabels"]
    );
    let [patch] = list(&filter["configPatches"]) else { panic!("{filter}") };
    let settings = patch["patch"]["value"]["typed_config"].as_object().expect("settings");
    for (name, value) in settings {
        assert_eq!(*value, manager[name], "{name}");
    }
    for name in ["request_timeout", "request_headers_timeout", "delayed_close_timeout", "local_reply_config"]
    {
        assert!(settings.contains_key(name), "{name}");
    }
    let gateway = manifests::read(Platform::EnvoyGateway);
    let policy = &gateway.one("ClientTrafficPolicy")["spec"];
    assert_eq!(policy["targetRefs"][0]["name"], gateway.one("Gateway")["metadata"]["name"]);
    assert_eq!(policy["timeout"]["http"]["requestReceivedTimeout"], manager["request_timeout"]);
}

#[test]
fn both_samples_load_the_image_of_this_version() {
    let image = format!("registry.example.com/bellwether:{}", env!("CARGO_PKG_VERSION"));
    let [istio, gateway] = both();
    assert_eq!(text(&istio.plugin()["url"]), format!("oci://{image}"));
    assert_eq!(gateway.plugin()["code"], json!({"type": "Image", "image": {"url": image}}));
}
