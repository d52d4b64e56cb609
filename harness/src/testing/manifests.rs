//! The Kubernetes samples, as far as tests look at them.

use std::fs;

use serde::Deserialize;
use serde_json::Value;

use crate::workspace_root;

/// The header that the filter names a cluster in.
pub const CLUSTER_HEADER: &str = "x-bellwether-cluster";

/// The providers' names in the samples, and what a version calls their clusters.
pub const BACKENDS: [(&str, &str); 2] = [("api.openai.com", "openai"), ("relay.example.net", "relay")];

/// What loads the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Istio, by a `WasmPlugin`.
    Istio,
    /// Envoy Gateway, by an `EnvoyExtensionPolicy`.
    EnvoyGateway,
}

/// The documents of a sample.
pub struct Manifest {
    /// The platform that the sample is for.
    pub platform: Platform,
    /// The resources, in the order of the file.
    pub documents: Vec<Value>,
}

/// One rule of a VirtualService or an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The exact value of [`CLUSTER_HEADER`] that it wants, `None` for a rule that wants nothing.
    pub cluster: Option<String>,
    /// The host name of its backend.
    pub backend: String,
    /// The host that it rewrites to.
    pub authority: String,
    /// Request headers that it removes.
    pub removed: Vec<String>,
}

/// Reads a sample.
pub fn read(platform: Platform) -> Manifest {
    let name = match platform {
        Platform::Istio => "istio.yaml",
        Platform::EnvoyGateway => "envoy-gateway.yaml",
    };
    let text = fs::read_to_string(workspace_root().join("envoy/kubernetes").join(name)).unwrap();
    let documents = serde_norway::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).expect("YAML that is JSON as well"))
        .collect();
    Manifest { platform, documents }
}

impl Manifest {
    /// The documents of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.documents.iter().filter(|document| document["kind"] == kind).collect()
    }

    /// The only document of a kind.
    pub fn one(&self, kind: &str) -> &Value {
        let all = self.all(kind);
        assert_eq!(all.len(), 1, "documents of kind {kind}");
        all[0]
    }

    /// What loads the filter.
    pub fn plugin(&self) -> &Value {
        match self.platform {
            Platform::Istio => &self.one("WasmPlugin")["spec"],
            Platform::EnvoyGateway => &self.one("EnvoyExtensionPolicy")["spec"]["wasm"][0],
        }
    }

    /// The filter's configuration.
    pub fn document(&self) -> Value {
        let name = if self.platform == Platform::Istio { "pluginConfig" } else { "config" };
        self.plugin()[name].clone()
    }

    /// The names of Envoy's environment variables that the filter may read.
    pub fn variables(&self) -> Vec<String> {
        match self.platform {
            Platform::Istio => {
                let variables = self.plugin()["vmConfig"]["env"].as_array().unwrap();
                assert!(variables.iter().all(|variable| variable["valueFrom"] == "HOST"), "{variables:?}");
                variables.iter().map(|variable| text(&variable["name"])).collect()
            }
            Platform::EnvoyGateway => {
                self.plugin()["env"]["hostKeys"].as_array().unwrap().iter().map(text).collect()
            }
        }
    }

    /// Variables of the container that runs Envoy, with the secret and the key in it that each is from.
    pub fn environment(&self) -> Vec<(String, String, String)> {
        let container = match self.platform {
            Platform::Istio => self.one("Deployment").pointer("/spec/template/spec/containers/0"),
            Platform::EnvoyGateway => {
                self.one("EnvoyProxy").pointer("/spec/provider/kubernetes/envoyDeployment/container")
            }
        };
        let variables = container.expect("a container")["env"].as_array().expect("its environment").iter();
        variables
            .map(|variable| {
                let from = &variable["valueFrom"]["secretKeyRef"];
                (text(&variable["name"]), text(&from["name"]), text(&from["key"]))
            })
            .collect()
    }

    /// The rules, in their order.
    pub fn rules(&self) -> Vec<Rule> {
        match self.platform {
            Platform::Istio => self.one("VirtualService")["spec"]["http"]
                .as_array()
                .unwrap()
                .iter()
                .map(istio_rule)
                .collect(),
            Platform::EnvoyGateway => {
                let rules = self.one("HTTPRoute")["spec"]["rules"].as_array().unwrap();
                rules.iter().map(|rule| self.gateway_rule(rule)).collect()
            }
        }
    }

    fn gateway_rule(&self, rule: &Value) -> Rule {
        let backend = rule["backendRefs"].as_array().expect("backends");
        let [backend] = &backend[..] else { panic!("one backend a rule: {rule}") };
        let named = |known: &&&Value| known["metadata"]["name"] == backend["name"];
        let backends = self.all("Backend");
        let backend = backends.iter().find(named).expect("a Backend of this name");
        let filter = |kind: &str| {
            let filters = rule["filters"].as_array().expect("filters");
            filters.iter().find(|filter| filter["type"] == kind).cloned().unwrap_or_default()
        };
        let header = rule.pointer("/matches/0/headers/0");
        if let Some(header) = header {
            assert_eq!((&header["type"], &header["name"]), (&"Exact".into(), &CLUSTER_HEADER.into()));
        }
        Rule {
            cluster: header.map(|header| text(&header["value"])),
            backend: text(&backend["spec"]["endpoints"][0]["fqdn"]["hostname"]),
            authority: text(&filter("URLRewrite")["urlRewrite"]["hostname"]),
            removed: texts(&filter("RequestHeaderModifier")["requestHeaderModifier"]["remove"]),
        }
    }
}

fn istio_rule(rule: &Value) -> Rule {
    let destinations = rule["route"].as_array().expect("destinations");
    let [destination] = &destinations[..] else { panic!("one destination a rule: {rule}") };
    Rule {
        cluster: rule.get("match").map(|matches| text(&matches[0]["headers"][CLUSTER_HEADER]["exact"])),
        backend: text(&destination["destination"]["host"]),
        authority: text(&rule["rewrite"]["authority"]),
        removed: texts(&rule["headers"]["request"]["remove"]),
    }
}

/// A text that has to be there.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text is expected, got {value}")).to_owned()
}

/// Texts, none if there is no list.
fn texts(value: &Value) -> Vec<String> {
    value.as_array().map(|values| values.iter().map(text).collect()).unwrap_or_default()
}
