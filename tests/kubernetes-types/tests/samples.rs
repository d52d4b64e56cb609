//! The Kubernetes samples have no field that their kinds do not have, and each field is of its type.
//!
//! The types are generated from the custom resource definitions by others. There are none of Envoy Gateway's kinds; those
//! five the test names, so that nobody takes them for checked.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gateway_api::{gatewayclasses::GatewayClass, gateways::Gateway, httproutes::HttpRoute};
use istio_api_rs::extensions::v1alpha1::wasm_plugin::WasmPlugin;
use istio_api_rs::networking::v1 as istio;
use istio_api_rs::networking::v1alpha3::envoy_filter::EnvoyFilter;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Kinds that nobody has generated types of.
const UNCHECKED: [&str; 5] =
    ["Backend", "BackendTrafficPolicy", "ClientTrafficPolicy", "EnvoyExtensionPolicy", "EnvoyProxy"];

/// The problems of a document of this type.
fn problems<T: DeserializeOwned>(document: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(format!("{path}: no such field"));
    let read = serde_ignored::deserialize::<_, _, T>(document, &mut note);
    // The generated types have these two as constants, and do not read them.
    unknown.retain(|problem| !problem.starts_with("apiVersion:") && !problem.starts_with("kind:"));
    unknown.extend(read.err().map(|error| error.to_string()));
    unknown
}

/// The problems of a document, `None` if there is no type of its kind.
fn check(document: &Value) -> Option<Vec<String>> {
    let text = |name: &str| document[name].as_str().unwrap_or_default();
    Some(match (text("apiVersion"), text("kind")) {
        ("v1", "Namespace") => problems::<Namespace>(document),
        ("v1", "Secret") => problems::<Secret>(document),
        ("v1", "Service") => problems::<Service>(document),
        ("apps/v1", "Deployment") => problems::<Deployment>(document),
        ("networking.istio.io/v1", "Gateway") => problems::<istio::gateway::Gateway>(document),
        ("networking.istio.io/v1", "VirtualService") => {
            problems::<istio::virtual_service::VirtualService>(document)
        }
        ("networking.istio.io/v1", "ServiceEntry") => {
            problems::<istio::service_entry::ServiceEntry>(document)
        }
        ("networking.istio.io/v1", "DestinationRule") => {
            problems::<istio::destination_rule::DestinationRule>(document)
        }
        ("networking.istio.io/v1alpha3", "EnvoyFilter") => problems::<EnvoyFilter>(document),
        ("extensions.istio.io/v1alpha1", "WasmPlugin") => problems::<WasmPlugin>(document),
        ("gateway.networking.k8s.io/v1", "GatewayClass") => problems::<GatewayClass>(document),
        ("gateway.networking.k8s.io/v1", "Gateway") => problems::<Gateway>(document),
        ("gateway.networking.k8s.io/v1", "HTTPRoute") => problems::<HttpRoute>(document),
        _ => return None,
    })
}

fn documents(sample: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy/kubernetes").join(sample);
    let text = fs::read_to_string(&path).expect("the sample is there");
    serde_norway::Deserializer::from_str(&text).map(|one| Value::deserialize(one).expect("YAML")).collect()
}

#[test]
fn the_samples_have_the_fields_that_their_kinds_have() {
    let mut unchecked = BTreeSet::new();
    for sample in ["istio.yaml", "envoy-gateway.yaml"] {
        for document in documents(sample) {
            let kind = document["kind"].as_str().expect("a kind").to_owned();
            match check(&document) {
                Some(problems) => assert_eq!(problems, Vec::<String>::new(), "{kind} in {sample}"),
                None => drop(unchecked.insert(kind)),
            }
        }
    }
    assert_eq!(unchecked, BTreeSet::from(UNCHECKED.map(str::to_owned)), "kinds without types");
}

#[test]
fn a_field_that_does_not_exist_and_one_of_another_type_are_found() {
    let plugin = documents("istio.yaml").into_iter().find(|document| document["kind"] == "WasmPlugin");
    let mut plugin = plugin.expect("a WasmPlugin");
    plugin["spec"]["phases"] = "AUTHN".into();
    assert_eq!(check(&plugin), Some(vec!["spec.phases: no such field".to_owned()]));
    plugin["spec"]["phase"] = "BEFORE".into();
    let found = check(&plugin).expect("it has a type");
    assert!(found.iter().any(|problem| problem.contains("unknown variant `BEFORE`")), "{found:?}");
}
