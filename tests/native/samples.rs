//! The configurations that we ship are valid for the very code that will read them.

use bellwether::config;
use bellwether::plan::guard::Recovery;
use bellwether_harness::testing::manifests::{self, Platform};

/// The `inline_string: |` block of a sample, without its indentation.
fn document_of(yaml: &str) -> String {
    let lines: Vec<&str> =
        yaml.lines().skip_while(|line| !line.trim_start().starts_with("inline_string:")).collect();
    let first =
        lines.first().map(|line| line.trim().trim_start_matches("inline_string:").trim()).unwrap_or_default();
    if first == "|" {
        lines.get(1..).unwrap_or_default().join("\n")
    } else {
        first.trim_matches('"').to_owned()
    }
}

#[test]
fn the_sample_of_the_router_role_is_valid() {
    let document = document_of(include_str!("../../envoy/ecds/router.yaml"));
    let plan = config::compile(document.as_bytes(), &|name| Some(format!("sk-{name}")));
    assert!(plan.is_ok(), "{}", plan.err().map(|problems| problems.to_string()).unwrap_or_default());
}

#[test]
fn the_sample_of_the_keys_role_is_valid() {
    let document = document_of(include_str!("../../envoy/ecds/keys.yaml"));
    assert!(config::secrets(document.as_bytes()).is_ok(), "{document}");
}

#[test]
fn the_sample_of_the_admin_role_is_valid() {
    let document = document_of(include_str!("../../envoy/ecds/admin.yaml"));
    assert_eq!(config::admin(document.as_bytes()), Ok(Vec::new()), "{document}");
}

#[test]
fn all_roles_of_the_samples_share_one_vm() {
    let vm = |yaml: &'static str| {
        let lines = yaml.lines().skip_while(|line| line.trim() != "vm_config:").skip(1);
        let lines = lines.take_while(|line| line.trim() != "configuration:");
        let lines = lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.collect::<Vec<_>>()
    };
    let router = vm(include_str!("../../envoy/ecds/router.yaml"));
    assert!(router.contains(&"vm_id: bellwether"), "{router:?}");
    assert_eq!(vm(include_str!("../../envoy/ecds/keys.yaml")), router);
    assert_eq!(vm(include_str!("../../envoy/ecds/admin.yaml")), router);
}

#[test]
fn no_sample_counts_failures_in_a_row_and_each_tries_a_rolled_back_canary_again() {
    let router = document_of(include_str!("../../envoy/ecds/router.yaml"));
    let platforms = [Platform::Istio, Platform::EnvoyGateway];
    let manifests = platforms.map(|platform| manifests::read(platform).document().to_string());
    for document in [router].into_iter().chain(manifests) {
        let plan = config::compile(document.as_bytes(), &|name| Some(format!("sk-{name}"))).unwrap();
        for deployment in &plan.deployments {
            // At a high share a run of failures is over before stable can show the same, and shares rise.
            assert_eq!(deployment.guard.max_consecutive_errors, None, "{document}");
            assert!(
                deployment.guard.max_error_rate.is_some() && deployment.guard.compare.is_some(),
                "{document}"
            );
            assert!(matches!(deployment.recovery, Recovery::Probe(_)), "{document}");
        }
    }
}
