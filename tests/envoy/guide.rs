//! The guide on a real Envoy: the clusters of its providers are taken, their documents send what its table says, and the script
//! that checks a document finds what is wrong with one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bellwether_harness::client::Request;
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Route, envoy_path};
use bellwether_harness::provider::Provider;
use bellwether_harness::workspace_root;
use serde_json::{Value, json};

/// The page under test.
const PAGE: &str = "docs/guide/providers.md";

/// What is awaited on loopback is there in milliseconds; on a machine that is busy, in seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The certificate of no authority in particular, in place of the system's, which a test machine may lack.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBejCCAR+gAwIBAgIUaNQ9vnCIydbxaLmWJhQoLpJvVJEwCgYIKoZIzj0EAwIw\n\
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEzMDE3NDYwOVoYDzIxMjYxMTA2MTc0\n\
NjA5WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AAT/k+yyg6A1AeaqmVors3VPK+uD7ISvjjldVuI4TMNSM5k2LwaKnh7/I1rJChWl\n\
PP8ApUm6xo2qZxhNmaJNGWq7o1MwUTAdBgNVHQ4EFgQUWiSLMdJ/78zjI5Y1cMan\n\
bAGoMCIwHwYDVR0jBBgwFoAUWiSLMdJ/78zjI5Y1cManbAGoMCIwDwYDVR0TAQH/\n\
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAhSEemjedG6ilUmahcfni85o4e4sl\n\
nH7OvCV7uRzFfG8CIQCBkw7Uj95jOU5qfkraoMGXO/hropVwKfNbbuxXCkjTfw==\n\
-----END CERTIFICATE-----\n\
";

/// A section of the page: a document of the filter, and the clusters that it names.
struct Section {
    title: String,
    document: Value,
    clusters: Vec<Value>,
}

/// A row of the page's table.
struct Row {
    section: String,
    version: String,
    asked: String,
    path: String,
    /// `None` where the client's host stays.
    host: Option<String>,
    header: String,
    /// Before the key.
    prefix: String,
}

fn page() -> String {
    fs::read_to_string(workspace_root().join(PAGE)).unwrap()
}

/// The fenced blocks of a language in a text, those of list items apart.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

/// The sections that have a document and clusters.
fn sections() -> Vec<Section> {
    let page = page();
    let mut found = Vec::new();
    for text in page.split("\n## ").skip(1) {
        let title = text.lines().next().unwrap().to_owned();
        let documents: Vec<Value> =
            blocks(text, "json").into_iter().map(|block| serde_json::from_str(block).unwrap()).collect();
        let parsed = blocks(text, "yaml").into_iter().map(|block| serde_norway::from_str(block).unwrap());
        let lists = parsed.filter_map(|value: Value| value.as_array().cloned());
        let clusters: Vec<Value> = lists.flatten().collect();
        if clusters.is_empty() {
            continue;
        }
        let [document] = &documents[..] else { panic!("{title}: {} documents", documents.len()) };
        found.push(Section { title, document: document.clone(), clusters });
    }
    found
}

fn rows() -> Vec<Row> {
    let page = page();
    let mut found = Vec::new();
    for line in page.lines().skip_while(|line| !line.starts_with("| section |")).skip(2) {
        let cells: Vec<&str> =
            line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [section, version, asked, path, host, key] = cells[..] else { panic!("{line}") };
        let (header, value) = key.split_once(": ").unwrap();
        found.push(Row {
            section: section.to_owned(),
            version: version.to_owned(),
            asked: asked.to_owned(),
            path: path.to_owned(),
            host: (host != "the client's").then(|| host.to_owned()),
            header: header.to_owned(),
            prefix: value.strip_suffix("KEY").unwrap().to_owned(),
        });
    }
    found
}

/// Every value of a member of this name, anywhere in a document.
fn named(value: &Value, name: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get(name).and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| named(value, name, found));
        }
        Value::Array(items) => items.iter().for_each(|value| named(value, name, found)),
        _ => {}
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

const SNI: &str = "/transport_socket/typed_config/sni";
const CHECKED: &str = "/transport_socket/typed_config/common_tls_context/validation_context/match_typed_subject_alt_names/0/matcher/exact";
const ADDRESS: &str = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/address";

#[test]
fn each_version_of_the_page_has_a_cluster_that_greets_its_host_by_name() {
    let sections = sections();
    assert!(sections.len() >= 7, "{} sections", sections.len());
    for Section { title, document, clusters } in sections {
        let mut wanted = BTreeSet::new();
        for version in document["deployments"][0]["versions"].as_array().unwrap() {
            let name = version["cluster"].as_str().unwrap();
            wanted.insert(name.to_owned());
            let of_it: Vec<&Value> = clusters.iter().filter(|cluster| cluster["name"] == name).collect();
            let [cluster] = of_it[..] else { panic!("{title}: {} clusters {name}", of_it.len()) };
            assert_eq!(text(cluster, "/load_assignment/cluster_name"), Some(name), "{title}");
            if cluster.get("transport_socket").is_some() {
                let host = version["host"].as_str();
                for pointer in [SNI, CHECKED, ADDRESS] {
                    assert_eq!(text(cluster, pointer), host, "{title}: {pointer} of {name}");
                }
            }
        }
        assert_eq!(clusters.len(), wanted.len(), "{title}: a cluster that no version names");
    }
}

#[test]
fn envoy_takes_every_cluster_of_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("authority.pem");
    fs::write(&authority, AUTHORITY).unwrap();
    let mut clusters: Vec<Value> = sections().into_iter().flat_map(|section| section.clusters).collect();
    for cluster in &mut clusters {
        let file = "/transport_socket/typed_config/common_tls_context/validation_context/trusted_ca/filename";
        if let Some(file) = cluster.pointer_mut(file) {
            *file = json!(authority);
        }
    }
    let bootstrap = directory.path().join("bootstrap.json");
    fs::write(&bootstrap, json!({"static_resources": {"clusters": clusters}}).to_string()).unwrap();
    let output = Command::new(envoy_path().unwrap())
        .args(["--mode", "validate", "--log-level", "warn", "--config-path"])
        .arg(&bootstrap)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn each_section_of_the_page_sends_what_its_table_says() {
    let sections = sections();
    let rows = rows();
    let provider = Provider::start("any").await.unwrap();
    let mut options = EnvoyOptions { route: Route::ClusterHeader, ..EnvoyOptions::default() };
    let mut secrets = BTreeMap::new();
    for Section { document, clusters, .. } in &sections {
        for cluster in clusters {
            options = options.cluster(cluster["name"].as_str().unwrap(), provider.port());
        }
        let (mut variables, mut names) = (BTreeSet::new(), BTreeSet::new());
        named(document, "env", &mut variables);
        named(document, "secret", &mut names);
        let known = |name: &String| options.env.iter().any(|(known, _)| known == name);
        let new: Vec<String> = variables.into_iter().filter(|name| !known(name)).collect();
        options.env.extend(new.into_iter().map(|name| (name.clone(), format!("sk-{name}"))));
        secrets.extend(names.into_iter().map(|name| (name.clone(), format!("sk-{name}"))));
    }
    options.keys_config = Some(json!({"secrets": secrets}));
    let envoy = EnvoyProcess::start(options).await.unwrap();
    let client = envoy.client();
    for Section { title, document, .. } in &sections {
        let update = envoy.write_router_config(document).await.unwrap();
        envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
        let versions = document["deployments"][0]["versions"].as_array().unwrap();
        let of_it: Vec<&Row> = rows.iter().filter(|row| row.section == *title).collect();
        assert_eq!(of_it.len(), versions.len(), "{title}: rows and versions");
        for row in of_it {
            provider.clear();
            let mut request = Request::post(&row.asked, "{}").header("host", "client.example");
            request = request.header("x-test-version", &row.version);
            for credential in ["authorization", "x-api-key", "api-key"] {
                request = request.header(credential, "the-clients");
            }
            let answer = client.send(request).await.unwrap();
            assert_eq!((answer.status, answer.version()), (200, Some(row.version.as_str())), "{title}");
            let [received] = &provider.requests()[..] else { panic!("{title}: not one request") };
            assert_eq!(received.path, row.path, "{title}");
            let host = row.host.as_deref().unwrap_or("client.example");
            assert_eq!(received.header("host"), Some(host), "{title}");
            let value = received.header(&row.header).unwrap_or_default();
            assert!(value.starts_with(&format!("{}sk-", row.prefix)), "{title}: {}: {value}", row.header);
            let leaked = received.headers.iter().find(|(_, value)| value == b"the-clients");
            assert_eq!(leaked, None, "{title}: the client's own credential");
        }
    }
    let titles: BTreeSet<&str> = sections.iter().map(|section| section.title.as_str()).collect();
    assert!(rows.iter().all(|row| titles.contains(row.section.as_str())), "a row of no section");
}

#[test]
fn the_script_of_the_recipes_finds_the_problems_of_a_document() {
    let recipes = fs::read_to_string(workspace_root().join("docs/guide/recipes.md")).unwrap();
    let scripts = blocks(&recipes, "sh").into_iter().filter(|block| block.starts_with("#!/bin/sh\n"));
    let [script] = scripts.collect::<Vec<_>>()[..] else { panic!("not one script") };
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let script = file("check-document", script);
    std::os::unix::fs::symlink(envoy_path().unwrap(), directory.path().join("envoy")).unwrap();
    let check = |document: &Path| {
        let output = Command::new("sh")
            .args([&script, document])
            .current_dir(workspace_root())
            .env("PATH", format!("{}:/usr/bin:/bin", directory.path().display()))
            .envs([("OPENAI_KEY_1", "sk-one"), ("RELAY_KEY_1", "sk-two")])
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    for role in ["router", "keys", "admin"] {
        let (right, said) = check(&workspace_root().join(format!("envoy/ecds/{role}.yaml")));
        assert!(right, "{role}: {said}");
    }
    let router = fs::read_to_string(workspace_root().join("envoy/ecds/router.yaml")).unwrap();
    let wrong = router
        .replace(r#""stable": "v1""#, r#""stable": "v7""#)
        .replace(r#""weight": 90"#, r#""weight": 95"#);
    let (right, said) = check(&file("wrong.yaml", &wrong));
    assert!(!right, "{said}");
    for problem in ["stable: unknown version, expected one of v1, v2", "weights must sum to 100, got 105"] {
        assert!(said.contains(problem), "{said}");
    }
}
