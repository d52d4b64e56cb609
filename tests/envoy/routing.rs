//! Routing on a real Envoy with two workers: weights, rules, identities, matches, rewrites, and headers that a client may
//! not set. Other tests show without Envoy that the split is exact; here it only has to arrive.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bellwether_harness::client::{Answer, Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role, Route};
use bellwether_harness::provider::{Provider, Received};
use serde_json::{Value, json};

use crate::common::rig::*;

/// The names of all headers that arrived.
fn names(received: &Received) -> Vec<&str> {
    received.headers.iter().map(|(name, _)| name.as_str()).collect()
}

// Weights

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_split_as_configured_on_all_samples() {
    const REQUESTS: usize = 2000;
    let weights = [("v1", 70.0), ("v2", 20.0), ("v3", 9.5), ("v4", 0.5), ("v5", 0.0)];
    let versions: Vec<Value> = weights
        .map(|(id, weight)| json!({"id": id, "weight": weight, "cluster": format!("to-{id}")}))
        .to_vec();
    for route in Route::here(&Route::ALL) {
        let mut options = EnvoyOptions { route, ..EnvoyOptions::default() };
        let mut providers = Vec::new();
        for (id, _) in weights {
            let provider = Provider::start(id).await.unwrap();
            options = options.cluster(&format!("to-{id}"), provider.port());
            providers.push(provider);
        }
        let config = json!({"deployments": [{"name": "test", "stable": "v1", "versions": versions}]});
        let envoy = EnvoyProcess::start(options.router_config(config)).await.unwrap();

        let answers = ask_all(&envoy.client(), REQUESTS, |_| Request::chat(false)).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{route:?}: some failed");
        for ((id, weight), provider) in weights.iter().zip(&providers) {
            let named = answers.iter().filter(|answer| answer.version() == Some(id)).count();
            assert_eq!(
                named as u64,
                provider.count(),
                "{route:?}: {id} is named by the provider that served"
            );
            assert_share(named, REQUESTS, weight / 100.0, &format!("{route:?}: {id}"));
        }
    }
}

// Rules

#[tokio::test(flavor = "multi_thread")]
async fn rules_come_before_weights_and_the_first_that_matches_decides() {
    let mut config = canary_at(0.0);
    config["deployments"][0]["sticky"] = json!({"on": [{"header": "x-user-id"}]});
    config["deployments"][0]["rules"] = json!([
        {"headers": [{"name": "x-test-version", "exact": "v2"}], "version": "v2"},
        {"headers": [{"name": "x-group", "prefix": "beta"}, {"name": "x-off", "present": false}], "version": "v2"},
        {"headers": [{"name": "x-group", "exact": "beta-1"}], "version": "v1"},
        {"headers": [{"name": "x-group", "suffix": "-1"}], "version": "v2"},
        {"headers": [{"name": "x-plan", "one_of": ["gold", "silver"]}], "version": "v2"},
        {"headers": [{"name": "x-note", "contains": "canary"}], "version": "v2"},
        {"headers": [{"name": "x-region", "exact": "eu", "invert": true}, {"name": "x-region", "present": true}],
         "version": "v2"},
        {"headers": [{"name": "x-gray-group", "exact": "treatment"}], "version": "v2", "percent": 30},
    ]);
    let rig = Rig::configured(config).await;
    let workers = rig.workers().await;
    let table: [(&[(&str, &str)], &str); 14] = [
        (&[], "v1"),
        (&[("x-test-version", "v2")], "v2"),
        (&[("X-Test-Version", "v2")], "v2"),
        (&[("x-test-version", "V2")], "v1"),
        (&[("x-group", "beta-7")], "v2"),
        (&[("x-group", "beta-1")], "v2"),
        (&[("x-group", "beta-1"), ("x-off", "")], "v1"),
        (&[("x-group", "alpha-1")], "v2"),
        (&[("x-plan", "silver")], "v2"),
        (&[("x-plan", "bronze")], "v1"),
        (&[("x-note", "one canary please")], "v2"),
        (&[("x-region", "eu")], "v1"),
        (&[("x-region", "us")], "v2"),
        (&[("x-group", "beta-1"), ("x-off", ""), ("x-test-version", "v2")], "v2"),
    ];
    for client in &workers {
        for (headers, version) in table {
            let answer = client.get("/v1/models", headers).await.unwrap();
            assert_eq!(answer.version(), Some(version), "{headers:?}");
        }
    }

    // A percentage is of the identities, and each of them is in or out for good, whichever worker it meets.
    const USERS: usize = 300;
    let mut taken = 0;
    for user in 0..USERS {
        let user = format!("user-{user}");
        let headers = [("x-user-id", user.as_str()), ("x-gray-group", "treatment")];
        let mut versions = BTreeSet::new();
        for client in workers.iter().chain(&workers) {
            versions.insert(client.get("/x", &headers).await.unwrap().version().map(str::to_owned));
        }
        assert_eq!(versions.len(), 1, "{user} is moved about");
        taken += usize::from(versions.contains(&Some("v2".to_owned())));
    }
    assert_share(taken, USERS, 0.3, "a rule of 30 %");

    // Without an identity it is of the client addresses.
    let mut taken = 0;
    for n in 0..100u8 {
        let address = Ipv4Addr::new(127, 9, 0, n);
        let mut versions = BTreeSet::new();
        for _ in 0..3 {
            let answer = version_from(&rig.envoy, address, "x-gray-group: treatment\r\n").await;
            versions.insert(answer.1);
        }
        assert_eq!(versions.len(), 1, "{address} is moved about");
        taken += usize::from(versions.contains("v2"));
    }
    assert_share(taken, 100, 0.3, "a rule of 30 % of addresses");
}

/// Sends a request from an address; returns the header that names the version, and the version.
async fn version_from(envoy: &EnvoyProcess, address: Ipv4Addr, headers: &str) -> (String, String) {
    let request = format!("GET /x HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    let answer = String::from_utf8(raw_from(address, envoy.port(), request.as_bytes()).await).unwrap();
    let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(name, _)| name.starts_with("x-plan-") || *name == "x-bellwether-version");
    let (name, version) = found.unwrap_or_else(|| panic!("no version from {address}: {answer}"));
    (name.to_owned(), version.to_owned())
}

// Identities

/// The source of a client's identity.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Header,
    Cookie,
    Address,
}

/// The version that an identity is given by this plan, which is known by the header it names the version in: a worker
/// follows an update in its own time.
async fn version_by(plan: &str, kind: Kind, number: u8, client: &Client, envoy: &EnvoyProcess) -> String {
    let deadline = Deadline::soon();
    loop {
        let version = match kind {
            Kind::Header => {
                let user = format!("user-{number}");
                // The cookie is there as well: the first identity of the list counts.
                let headers = [("x-user-id", user.as_str()), ("cookie", "uid=somebody-else")];
                client.get("/x", &headers).await.unwrap().header(plan).map(str::to_owned)
            }
            Kind::Cookie => {
                let cookie = format!("theme=dark; uid=cookie-{number}; lang=en");
                client.get("/x", &[("cookie", &cookie)]).await.unwrap().header(plan).map(str::to_owned)
            }
            Kind::Address => {
                let (by, version) = version_from(envoy, Ipv4Addr::new(127, 8, 0, number), "").await;
                (by == plan).then_some(version)
            }
        };
        match version {
            Some(version) => return version,
            None => deadline.next(|| format!("no worker answers by {plan}")).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_keeps_its_version_and_only_a_changed_weight_moves_it_and_only_one_way() {
    let kinds = [(Kind::Header, 150u8), (Kind::Cookie, 100), (Kind::Address, 60)];
    let plan = |weight: f64, name: &str| {
        let mut config = canary_at(weight);
        config["version_header"] = json!(name);
        config["deployments"][0]["sticky"] =
            json!({"on": [{"header": "x-user-id"}, {"cookie": "uid"}, {"client_address": true}]});
        config
    };
    let rig = Rig::configured(plan(20.0, "x-plan-0")).await;
    let workers = rig.workers().await;
    // The identities on the canary at each weight.
    let mut canary: Vec<(f64, BTreeSet<String>)> = Vec::new();
    for (n, weight) in [20.0, 50.0, 100.0, 50.0, 10.0, 0.0, 20.0].into_iter().enumerate() {
        let name = format!("x-plan-{n}");
        if n > 0 {
            rig.reconfigure(&plan(weight, &name)).await;
        }
        let mut on_canary = BTreeSet::new();
        for (kind, count) in kinds {
            let before = on_canary.len();
            for number in 0..count {
                let mut versions = BTreeSet::new();
                for client in workers.iter().chain(&workers) {
                    versions.insert(version_by(&name, kind, number, client, &rig.envoy).await);
                }
                assert_eq!(versions.len(), 1, "{kind:?} {number} has more than one version at {weight} %");
                if versions.contains("v2") {
                    on_canary.insert(format!("{kind:?} {number}"));
                }
            }
            let share = on_canary.len() - before;
            assert_share(share, usize::from(count), weight / 100.0, &format!("{kind:?} at {weight} %"));
        }
        for (then, others) in &canary {
            let (low, high) = if *then <= weight { (others, &on_canary) } else { (&on_canary, others) };
            assert!(low.is_subset(high), "between {then} % and {weight} %: {:?}", low.difference(high));
            assert!(*then != weight || others == &on_canary, "{weight} % twice, with others");
        }
        canary.push((weight, on_canary));
    }
}

// Matches

#[tokio::test(flavor = "multi_thread")]
async fn the_first_deployment_whose_match_holds_takes_the_request() {
    let deployment = |name: &str, conditions: Value| {
        json!({"name": name, "match": conditions, "stable": name,
               "versions": [{"id": name, "weight": 100, "cluster": "relay"}]})
    };
    let header = |name: &str, test: &str, value: Value| json!({"headers": [{"name": name, test: value}]});
    let config = json!({"deployments": [
        deployment("host", json!({"hosts": ["api.example.com", "*.wild.example"]})),
        deployment("path", json!({"path_prefix": "/v1/"})),
        deployment("both", json!({"hosts": ["other.example"], "path_prefix": "/v2/"})),
        deployment("id", header("x-deployment-id", "exact", json!("id"))),
        deployment("late", header("x-deployment-id", "present", json!(true))),
        deployment("all", json!({"hosts": ["all.example"], "path_prefix": "/v3/",
                                 "headers": [{"name": "x-a", "exact": "1"}, {"name": "x-b", "prefix": "2"}]})),
    ]});
    let rig = Rig::configured(config).await;
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Option<&'a str>);
    let table: [Row<'_>; 18] = [
        ("api.example.com", "/v1/models", &[], Some("host")),
        ("API.Example.COM:8443", "/", &[], Some("host")),
        ("a.wild.example", "/", &[], Some("host")),
        ("a.b.wild.example:1", "/", &[], Some("host")),
        ("wild.example", "/", &[], None),
        ("nothing.example", "/v1/models", &[], Some("path")),
        ("nothing.example", "/v1/", &[], Some("path")),
        ("nothing.example", "/v1", &[], None),
        ("nothing.example", "/x/../v1/models", &[], Some("path")),
        ("nothing.example", "//v1/models", &[], Some("path")),
        ("nothing.example", "/V1/models", &[], None),
        ("other.example", "/v2/x?y=/v1/", &[], Some("both")),
        ("other.example", "/x", &[], None),
        ("nothing.example", "/x", &[("x-deployment-id", "id")], Some("id")),
        ("nothing.example", "/x", &[("x-deployment-id", "else")], Some("late")),
        ("all.example", "/v3/x", &[("x-a", "1"), ("x-b", "23")], Some("all")),
        ("all.example", "/v3/x", &[("x-a", "1")], None),
        ("nothing.example", "/", &[], None),
    ];
    for (host, path, headers, deployment) in table {
        let mut request = Request::get(path).header("host", host);
        request.headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let (answer, received) = rig.ask(request).await;
        assert_eq!(answer.version(), deployment, "{host} {path} {headers:?}");
        assert_eq!(answer.status, 200, "{host} {path} {headers:?}");
        assert_eq!(only(&received).header("host"), Some(host), "it reaches the provider as it came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_match_no_deployment_pass_unchanged() {
    let mut config = canary_at(50.0);
    config["deployments"][0]["match"] = json!({"path_prefix": "/v1/"});
    config["deployments"][0]["versions"][0]["key_pool"] = json!("pool");
    config["deployments"][0]["versions"][0]["set_headers"] = json!({"x-tier": "gold"});
    config["key_pools"] = json!([{"name": "pool", "keys": [{"id": "one", "value": "sk-one"}]}]);
    for route in Route::here(&Route::ALL) {
        let options = EnvoyOptions { route, ..EnvoyOptions::default() }.router_config(config.clone());
        let rig = Rig::start(options).await;
        let own = [
            ("host", "client.example"),
            ("authorization", "Bearer sk-mine"),
            ("x-api-key", "mine"),
            ("api-key", "mine too"),
            ("x-user-id", "me"),
        ];
        let mut request = Request::post("/v2/x?y=1&z=/v1/", "body");
        request.headers = own.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        let (answer, received) = rig.ask(request).await;
        assert_eq!((answer.status, answer.version()), (200, None), "{route:?}");
        let received = only(&received);
        assert_eq!(answer.json()["provider"], json!("openai"), "{route:?}: the default cluster");
        assert_eq!(
            (received.method.as_str(), received.path.as_str(), received.body_len),
            ("POST", "/v2/x?y=1&z=/v1/", 4),
            "{route:?}"
        );
        for (name, value) in own {
            assert_eq!(received.header(name), Some(value), "{route:?}: {name}");
        }
        let others: Vec<&str> =
            names(received).into_iter().filter(|name| own.iter().all(|(own, _)| own != name)).collect();
        assert_eq!(others, ["content-length", "x-request-id"], "{route:?}: and nothing is added");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_chooses_neither_cluster_nor_version() {
    let config = |cluster_header: &str, version_header: &str| {
        let mut config = canary_at(0.0);
        config["deployments"][0]["match"] = json!({"path_prefix": "/v1/"});
        config["cluster_header"] = json!(cluster_header);
        config["version_header"] = json!(version_header);
        // Rules do not see them either.
        let spoofed = [cluster_header, version_header, "x-bellwether-cluster", "x-bellwether-anything-else"];
        let rule = |name: &str| json!({"headers": [{"name": name, "present": true}], "version": "v2"});
        config["deployments"][0]["rules"] = spoofed.map(rule).to_vec().into();
        config
    };
    let names_of = [("x-bellwether-cluster", "x-bellwether-version"), ("x-llm-target", "x-served-by")];
    let both_names = |route| names_of.map(|names| (route, names));
    for (route, (cluster, version)) in Route::here(&Route::ALL).into_iter().flat_map(both_names) {
        let rename = move |bootstrap: &mut Value| {
            *bootstrap =
                serde_json::from_str(&bootstrap.to_string().replace("x-bellwether-cluster", cluster))
                    .unwrap();
        };
        let options = EnvoyOptions { route, edit: Some(Box::new(rename)), ..EnvoyOptions::default() };
        let rig = Rig::start(options.router_config(config(cluster, version))).await;
        for (path, answered_by) in [("/v1/models", Some("v1")), ("/v2/x", None)] {
            let spoofed = Request::get(path)
                .header(cluster, "relay")
                .header(&cluster.to_uppercase(), "nonexistent")
                .header(version, "v2")
                .header("X-Bellwether-Cluster", "relay")
                .header("x-bellwether-cluster", "relay")
                .header("x-bellwether-version", "v2")
                .header("x-bellwether-anything-else", "yes")
                .header("x-bellwether-", "yes")
                .header("x-bellwethers", "stays");
            let (answer, received) = rig.ask(spoofed).await;
            let context = format!("{route:?}, {cluster}, {path}");
            assert_eq!((answer.status, answer.header(version)), (200, answered_by), "{context}");
            assert_eq!(rig.relay.count(), 0, "{context}");
            let received = only(&received);
            let left: Vec<(&str, &str)> = received
                .headers
                .iter()
                .filter(|(name, _)| name.starts_with("x-bellwether") || name == cluster || name == version)
                .map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap()))
                .collect();
            // The matcher reads this header again at a retry, so it stays, with the filter's own value.
            let mut expected = vec![("x-bellwethers", "stays")];
            if route == Route::Matcher && answered_by.is_some() {
                expected.push((cluster, "openai"));
            }
            assert_eq!(left, expected, "{context}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_on_host_reads_the_authority_of_the_request() {
    let mut config = canary_at(0.0);
    config["deployments"][0]["rules"] =
        json!([{"headers": [{"name": "Host", "prefix": "canary."}], "version": "v2"}]);
    let rig = Rig::configured(config).await;
    for (host, version) in [("canary.example.com", "v2"), ("example.com", "v1")] {
        let (answer, _) = rig.ask(Request::get("/").header("host", host)).await;
        assert_eq!(answer.version(), Some(version), "{host}");
    }
}

// Requests as a version's upstream gets them

#[tokio::test(flavor = "multi_thread")]
async fn host_prefix_and_headers_arrive_as_the_version_sets_them() {
    let mut config = canary_at(0.0);
    config["deployments"][0]["rules"] =
        json!([{"headers": [{"name": "x-test-version", "exact": "v2"}], "version": "v2"}]);
    let v2 = &mut config["deployments"][0]["versions"][1];
    v2["host"] = json!("api.relay.example:8443");
    v2["rewrite_prefix"] = json!({"from": "/v1/", "to": "/compat/openai/v1/"});
    v2["set_headers"] = json!({"X-Tier": "gold", "x-empty": "", "user-agent": "bellwether"});
    let rig = Rig::configured(config).await;
    let table = [
        ("/v1/chat/completions?a=/v1/&b=%2F", "/compat/openai/v1/chat/completions?a=/v1/&b=%2F"),
        ("/v1/", "/compat/openai/v1/"),
        ("/v1/?x", "/compat/openai/v1/?x"),
        ("/v1", "/v1"),
        ("/other/v1/x?y", "/other/v1/x?y"),
    ];
    for (path, rewritten) in table {
        let request = |version: &str| {
            Request::post(path, "{}")
                .header("host", "client.example")
                .header("x-test-version", version)
                .header("x-tier", "of the client")
                .header("X-Tier", "of the client again")
        };
        let (answer, received) = rig.ask(request("v2")).await;
        assert_eq!((answer.status, answer.version()), (200, Some("v2")), "{path}");
        let received = only(&received);
        assert_eq!(received.path, rewritten);
        assert_eq!(received.header("host"), Some("api.relay.example:8443"), "{path}");
        let tiers: Vec<_> = received.headers.iter().filter(|(name, _)| name == "x-tier").collect();
        assert_eq!(tiers, [&("x-tier".to_owned(), b"gold".to_vec())], "{path}: replaced, not added");
        assert_eq!(received.header("x-empty"), Some(""), "{path}");
        assert_eq!(received.header("user-agent"), Some("bellwether"), "{path}");

        let (_, received) = rig.ask(request("v1")).await;
        let received = only(&received);
        assert_eq!(
            (received.path.as_str(), received.header("host")),
            (path, Some("client.example")),
            "the other version's upstream gets the client's headers"
        );
        assert_eq!(received.header("x-tier"), Some("of the client"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_name_the_version_unless_configured_not_to() {
    let with = |name: Value| {
        let mut config = canary_at(0.0);
        config["version_header"] = name;
        config
    };
    let rig = Rig::configured(canary_at(0.0)).await;
    let headers = |answer: &Answer| -> Vec<String> {
        answer.headers.keys().map(|name| name.as_str().to_owned()).filter(|n| n.starts_with("x-")).collect()
    };
    let (answer, _) = rig.ask(Request::chat(false)).await;
    assert_eq!(answer.version(), Some("v1"));
    // An answer of the upstream's own does not pass for ours.
    let lying = [("x-bellwether-version".to_owned(), "v9".to_owned())].into();
    rig.openai.set(bellwether_harness::provider::Behaviour { headers: lying, ..Default::default() });
    let (answer, _) = rig.ask(Request::chat(true)).await;
    let all: Vec<_> = answer.headers.get_all("x-bellwether-version").iter().collect();
    assert_eq!(all, ["v1"]);
    rig.openai.set(Default::default());

    for (name, expected) in [(json!("X-Served-By"), Some("x-served-by")), (json!(""), None)] {
        rig.reconfigure(&with(name)).await;
        for client in rig.workers().await {
            let deadline = Deadline::soon();
            loop {
                let answer = client.send(Request::chat(false)).await.unwrap();
                let of_envoy = |name: &String| name.starts_with("x-envoy-") || name == "x-request-id";
                let ours: Vec<String> = headers(&answer).into_iter().filter(|name| !of_envoy(name)).collect();
                if ours.iter().map(String::as_str).eq(expected) {
                    break;
                }
                deadline.next(|| format!("expected {expected:?}, got {ours:?}")).await;
            }
        }
    }
}

// The plugin configuration

/// Waits until a version of the router's resource is in force.
async fn wait_version(envoy: &EnvoyProcess, role: Role, version: &str) {
    let deadline = Deadline::soon();
    while envoy.text_stat(&role.stat("version_text")).await.unwrap().as_deref() != Some(version) {
        deadline.next(|| format!("{role:?} {version} is not in force:\n{}", envoy.logs())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_string_value_and_a_generic_secret_are_understood_and_the_secret_is_not_dumped() {
    wrappings_are_understood(&["string-value", "inline-bytes", "inline-string"]).await;
}

/// Envoy hands a `Struct` over as serialized protobuf, whatever its documentation says.
#[tokio::test(flavor = "multi_thread")]
async fn a_struct_is_understood() {
    wrappings_are_understood(&["struct"]).await;
}

/// Starts with the harness's own wrapping, which is the sample's, and goes on to these.
async fn wrappings_are_understood(wanted: &[&str]) {
    const ROUTER_KEY: &str = "sk-inline-0123456789";
    const SECRET_KEY: &str = "sk-secret-0123456789";
    let router = |id: &str| {
        json!({
            "deployments": [{
                "name": "test",
                "stable": id,
                "versions": [{"id": id, "weight": 99.75, "cluster": "openai", "key_pool": "pool"},
                             {"id": "other", "weight": 0.25, "cluster": "openai", "key_pool": "pool"}],
                "rules": [{"headers": [{"name": "x-other", "present": false}], "version": id}],
                "guard": {"window": "30s", "min_requests": 20, "max_error_rate": 2.5,
                          "compare": {"worse_than_stable": 1.5, "confidence": 1e7}},
                "failover": false,
            }],
            "key_pools": [{"name": "pool", "keys": [
                {"id": "inline", "value": ROUTER_KEY}, {"id": "secret", "value": {"secret": "named"}},
            ]}],
        })
    };
    let keys = |n: u32| json!({"secrets": {"named": SECRET_KEY, "another": format!("sk-{n}-0123456789")}});
    let text = |document: &Value| json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": document.to_string()});
    let structure =
        |document: &Value| json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": document});
    let secret = |field: &str, document: String| {
        json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.GenericSecret",
               "name": "bellwether", "secret": {field: document}})
    };
    let base64 = |document: &Value| {
        // Envoy reads bytes in JSON as base64.
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes = document.to_string().into_bytes();
        bytes.resize(bytes.len().div_ceil(3) * 3, b' ');
        let digit = |n: u32| char::from(DIGITS[n as usize & 63]);
        let quad = |three: &[u8]| {
            let n = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
            [digit(n >> 18), digit(n >> 12), digit(n >> 6), digit(n)]
        };
        bytes.chunks(3).flat_map(quad).collect::<String>()
    };

    let options = EnvoyOptions::default().router_config(router("first"));
    let rig = Rig::start(EnvoyOptions { keys_config: Some(keys(0)), ..options }).await;
    let workers = rig.workers().await;
    let both_keys_serve = async |version: &str| {
        for client in &workers {
            let deadline = Deadline::soon();
            while client.send(Request::chat(false)).await.unwrap().version() != Some(version) {
                deadline.next(|| format!("{version} is not in force")).await;
            }
            rig.take_received();
            let mut used = BTreeSet::new();
            while used.len() < 2 {
                deadline.next(|| format!("{version}: only {used:?} are used")).await;
                let answer = client.send(Request::chat(false)).await.unwrap();
                assert_eq!((answer.status, answer.version()), (200, Some(version)));
                used.extend(rig.take_received().into_iter().filter_map(|received| received.key));
            }
            assert_eq!(used, BTreeSet::from([ROUTER_KEY.to_owned(), SECRET_KEY.to_owned()]), "{version}");
        }
    };

    let dumped = async || {
        let dump = rig.envoy.admin("/config_dump?include_eds").await.unwrap();
        assert!(
            dump.contains("bellwether-router") && dump.contains("bellwether-keys"),
            "the dump has the roles"
        );
        (dump.contains(ROUTER_KEY), dump.contains(SECRET_KEY))
    };
    both_keys_serve("first").await;
    assert_eq!(dumped().await, (false, false), "a GenericSecret is not in /config_dump");

    type Wrap<'a> = (&'a str, &'a dyn Fn(&Value) -> Value, bool);
    let wrappings: [Wrap<'_>; 4] = [
        ("string-value", &text, true),
        ("struct", &structure, true),
        ("inline-bytes", &|document| secret("inline_bytes", base64(document)), false),
        ("inline-string", &|document| secret("inline_string", document.to_string()), false),
    ];
    for (n, (version, wrap, shown)) in (1..).zip(wrappings.into_iter().filter(|w| wanted.contains(&w.0))) {
        let (router, keys) = (wrap(&router(version)), wrap(&keys(n)));
        rewrite_resource(&rig.envoy, Role::Router, version, |plugin| plugin["configuration"] = router);
        rewrite_resource(&rig.envoy, Role::Keys, version, |plugin| plugin["configuration"] = keys);
        wait_version(&rig.envoy, Role::Router, version).await;
        wait_version(&rig.envoy, Role::Keys, version).await;
        both_keys_serve(version).await;
        assert_eq!(dumped().await, (shown, shown), "{version} in /config_dump");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_root_id_is_rejected_with_a_line_that_names_it() {
    let rig = Rig::configured(canary_at(0.0)).await;
    for (role, name) in [(Role::Router, "rooter"), (Role::Keys, "kees")] {
        rewrite_resource(&rig.envoy, role, "unknown", |plugin| plugin["root_id"] = json!(name));
        let deadline = Deadline::soon();
        while rig.envoy.stat(&role.stat("update_rejected")).await.unwrap() != Some(1) {
            deadline.next(|| format!("not rejected:\n{}", rig.envoy.logs())).await;
        }
        let logs = rig.envoy.logs();
        let line = logs.lines().find(|line| line.contains("configuration rejected") && line.contains(name));
        let line = line.unwrap_or_else(|| panic!("no line names {name}:\n{logs}"));
        assert!(line.contains("[error]") && line.contains("root_id") && line.contains("router"), "{line}");
    }
    for client in rig.workers().await {
        let answer = client.send(Request::chat(false)).await.unwrap();
        assert_eq!((answer.status, answer.version()), (200, Some("v1")), "the last good one stays in force");
    }
    assert_no_trap(&rig.envoy, "an unknown root_id").await;
}
