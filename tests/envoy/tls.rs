//! TLS to the providers as the samples describe it, on a real Envoy: each cluster greets its own host by name, also after a
//! failover. The providers' side is the same Envoy, with a certificate for each name.

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route};
use bellwether_harness::provider::{Behaviour, Provider};
use bellwether_harness::workspace_root;
use serde_json::{Value, json};

/// A cluster of the sample, its provider's host, its certificate and the key of that.
type Host = (&'static str, &'static str, &'static str, &'static str);

const HOSTS: [Host; 2] = [
    ("openai", "api.openai.com", OPENAI_CERTIFICATE, OPENAI_KEY),
    ("relay", "relay.example.com", RELAY_CERTIFICATE, RELAY_KEY),
];

/// A certificate for this test alone, signed by itself, and good for a hundred years.
const OPENAI_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBpDCCAUqgAwIBAgIUI+HngIPm9GJOZ/yV/0B3V/pBl/UwCgYIKoZIzj0EAwIw\n\
GTEXMBUGA1UEAwwOYXBpLm9wZW5haS5jb20wIBcNMjYxMTMwMTg1NDQyWhgPMjEy\n\
NjExMDYxODU0NDJaMBkxFzAVBgNVBAMMDmFwaS5vcGVuYWkuY29tMFkwEwYHKoZI\n\
zj0CAQYIKoZIzj0DAQcDQgAE0TJYFlql4ykOrAf5t3EmGDeJlpeYcd796On8orMK\n\
W+U36ri7WJDReG3oiiBJf8E8FkLZH/5v6tlTwFeCcMqxhqNuMGwwHQYDVR0OBBYE\n\
FNytRXuZoA8bpmL23L6/t0OkhU9aMB8GA1UdIwQYMBaAFNytRXuZoA8bpmL23L6/\n\
t0OkhU9aMA8GA1UdEwEB/wQFMAMBAf8wGQYDVR0RBBIwEIIOYXBpLm9wZW5haS5j\n\
b20wCgYIKoZIzj0EAwIDSAAwRQIgYTri+QRI1Hp0yDxqDzMuxNwY0BBNHBfQC4A+\n\
Q2J4VCQCIQDfsI2Dhl4TXRDyCQ2UCsfxLb/qHZBVCHxbX84pPn3rpQ==\n\
-----END CERTIFICATE-----\n\
";

/// Its key, which opens nothing else.
const OPENAI_KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgXjy5QOjw60uGcmDl\n\
J3JYjijIn29TzJNkwMrMU8A7EY6hRANCAATRMlgWWqXjKQ6sB/m3cSYYN4mWl5hx\n\
3v3o6fyiswpb5TfquLtYkNF4beiKIEl/wTwWQtkf/m/q2VPAV4JwyrGG\n\
-----END PRIVATE KEY-----\n\
";

/// The same for the other host.
const RELAY_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBrTCCAVOgAwIBAgIUBuD4jUObkp8BeQYAuTDYshyZkdwwCgYIKoZIzj0EAwIw\n\
HDEaMBgGA1UEAwwRcmVsYXkuZXhhbXBsZS5jb20wIBcNMjYxMTMwMTg1NDQyWhgP\n\
MjEyNjExMDYxODU0NDJaMBwxGjAYBgNVBAMMEXJlbGF5LmV4YW1wbGUuY29tMFkw\n\
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAETFMUYhsoQsjoQSa0g8eTzmsqE8mTIPeX\n\
OHy4zJn3OQfVOr3VR3jCXgnCPVOhKB9c/1OAVOQa+vpzRbHlUh8IO6NxMG8wHQYD\n\
VR0OBBYEFGk7NMfdxAxo9D3a7qdXTleIbUhHMB8GA1UdIwQYMBaAFGk7NMfdxAxo\n\
9D3a7qdXTleIbUhHMA8GA1UdEwEB/wQFMAMBAf8wHAYDVR0RBBUwE4IRcmVsYXku\n\
ZXhhbXBsZS5jb20wCgYIKoZIzj0EAwIDSAAwRQIgMpoLmyGOfEZ43bMz7jS9Chen\n\
bzvVknJijU+v/3+tdeECIQCFRxy00jllQqdxaLTBa1Z16QZihR65zsc2RIDSP2Zk\n\
qw==\n\
-----END CERTIFICATE-----\n\
";

/// Its key.
const RELAY_KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgOMAoG2SP+yU7qDYA\n\
Zn6t5JSbgCwtr2KQR1xEKgA/EnehRANCAARMUxRiGyhCyOhBJrSDx5POayoTyZMg\n\
95c4fLjMmfc5B9U6vdVHeMJeCcI9U6EoH1z/U4BU5Br6+nNFseVSHwg7\n\
-----END PRIVATE KEY-----\n\
";

/// The transport socket of a real provider, from the comment of the sample, for this host.
fn transport_socket(sample: Route, host: &str) -> Value {
    let text = std::fs::read_to_string(workspace_root().join(sample.sample())).unwrap();
    let comment = text.lines().skip_while(|line| !line.ends_with("A real one has")).skip(1);
    let comment = comment.map_while(|line| line.strip_prefix("  #"));
    let block: Vec<String> = comment.map(|line| line.replace("api.openai.com", host)).collect();
    let mut cluster: Value = serde_norway::from_str(&block.join("\n")).unwrap();
    let authority = cluster
        .pointer_mut("/transport_socket/typed_config/common_tls_context/validation_context/trusted_ca")
        .expect("an authority");
    let both = [OPENAI_CERTIFICATE, RELAY_CERTIFICATE].concat();
    *authority = json!({"inline_string": both});
    cluster["transport_socket"].clone()
}

/// The bootstrap with TLS between the samples' clusters and their providers.
fn speak_tls(bootstrap: &mut Value, sample: Route, directory: &std::path::Path, auto: bool) {
    for (name, host, certificate, key) in HOSTS {
        let socket = json!({"pipe": {"path": directory.join(host)}});
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
        let named = |cluster: &&mut Value| {
            let own = cluster["name"].as_str().unwrap();
            cluster.get("load_assignment").is_some() && (own == name || own == format!("{name}-only"))
        };
        let cluster = clusters.iter_mut().find(named).unwrap();
        let mut plain = cluster.clone();
        plain["name"] = json!(format!("plain-{name}"));
        plain["load_assignment"]["cluster_name"] = plain["name"].clone();
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = socket.clone();
        cluster["transport_socket"] = transport_socket(sample, host);
        if auto {
            let context = &mut cluster["transport_socket"]["typed_config"];
            context.as_object_mut().unwrap().remove("sni");
            let validation = &mut context["common_tls_context"]["validation_context"];
            validation.as_object_mut().unwrap().remove("match_typed_subject_alt_names");
            cluster["typed_extension_protocol_options"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
                    "explicit_http_config": {"http_protocol_options": {}},
                },
            });
        }
        clusters.push(plain);
        let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
        listeners.push(json!({
            "name": host,
            "address": socket,
            "listener_filters": [{"name": "inspector", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            }}],
            // Another name is no name of this host's.
            "filter_chains": [{
                "filter_chain_match": {"server_names": [host]},
                "filters": [{"name": "tcp", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": host,
                    "cluster": format!("plain-{name}"),
                }}],
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "common_tls_context": {"tls_certificates": [{
                        "certificate_chain": {"inline_string": certificate},
                        "private_key": {"inline_string": key},
                    }]},
                }},
            }],
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_name_for_each_cluster_a_failover_reaches_stable_and_with_auto_sni_it_does_not() {
    for sample in Route::here(&Route::WITH_FAILOVER) {
        // With an aggregate cluster auto_sni gives no name at all, so that not even the canary is reached.
        for auto in [false, true].into_iter().filter(|auto| !auto || sample == Route::Matcher) {
            let context = format!("{sample:?}, auto_sni {auto}");
            let (v1, v2) = (Provider::start("v1").await.unwrap(), Provider::start("v2").await.unwrap());
            let directory = tempfile::tempdir().unwrap();
            let sockets = directory.path().to_owned();
            let edit = move |bootstrap: &mut Value| speak_tls(bootstrap, sample, &sockets, auto);
            let options =
                EnvoyOptions { route: sample, edit: Some(Box::new(edit)), ..EnvoyOptions::default() };
            let options = options.cluster("openai", v1.port()).cluster("relay", v2.port());
            let document = json!({"deployments": [{"name": "d", "stable": "v1", "versions": [
                {"id": "v1", "weight": 0, "cluster": "openai", "host": "api.openai.com"},
                {"id": "v2", "weight": 100, "cluster": "relay", "host": "relay.example.com"},
            ]}]});
            let envoy = EnvoyProcess::start(options.router_config(document)).await.unwrap();
            let answer = envoy.client().send(Request::chat(false)).await.unwrap();
            assert_eq!((answer.status, answer.version()), (200, Some("v2")), "{context}: {}", answer.text());
            assert_eq!(v2.requests()[0].header("host"), Some("relay.example.com"), "{context}");
            v2.set(Behaviour::status(503));
            let answer = envoy.client().send(Request::chat(false)).await.unwrap();
            if auto {
                assert_eq!((answer.status, v1.count()), (503, 0), "{context}: {}", answer.text());
            } else {
                assert_eq!(
                    (answer.status, answer.version()),
                    (200, Some("v1")),
                    "{context}: {}",
                    answer.text()
                );
                assert_eq!(v1.requests()[0].header("host"), Some("api.openai.com"), "{context}");
            }
        }
    }
}
