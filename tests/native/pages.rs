//! README and guide keep to the code: every example is read by the code that will read it, every field of the configuration is
//! described ([`fields`]), and every link leads somewhere.

mod fields;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use bellwether::config;
use bellwether::problems::Problems;
use serde_json::Value;

/// Lines of a page above its first example, at most.
const EXAMPLE_BEGINS: usize = 40;

/// Bytes that somebody reads in five minutes.
const README_BYTES: u64 = 9216;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Markdown files below a directory, in order.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn guide() -> Vec<PathBuf> {
    below(&root().join("docs/guide"))
}

/// README and all pages of `docs/`.
fn pages() -> Vec<PathBuf> {
    let mut pages = below(&root().join("docs"));
    pages.push(root().join("README.md"));
    pages
}

/// A fenced block of a page: its language, and its lines without the fence's indentation.
struct Block {
    language: String,
    lines: Vec<String>,
}

/// Splits a page into its lines of prose, each with its number, and its fenced blocks.
fn split(text: &str) -> (Vec<(usize, &str)>, Vec<Block>) {
    let (mut prose, mut blocks) = (Vec::new(), Vec::new());
    let mut open: Option<(usize, Block)> = None;
    for (n, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        match (&mut open, bare.strip_prefix("```")) {
            (None, Some(language)) => {
                let block = Block { language: language.trim().to_owned(), lines: Vec::new() };
                open = Some((line.len() - bare.len(), block));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), None) => {
                block.lines.push(line.get(*indent..).unwrap_or_default().to_owned())
            }
            (None, None) => prose.push((n, line)),
        }
    }
    assert!(open.is_none(), "a fence is left open");
    (prose, blocks)
}

/// The fenced blocks of one language.
fn blocks(page: &Path, language: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let (_, blocks) = split(&text);
    blocks.into_iter().filter(|block| block.language == language).map(|block| block.lines).collect()
}

/// The roles that have a document, with the fields by which it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Router,
    Keys,
    Admin,
}

/// The role that reads this document; `None` for JSON that is something else, such as an answer of the admin listener.
fn role_of(document: &Value) -> Option<Role> {
    const ROUTER: [&str; 5] = ["deployments", "key_pools", "cluster_header", "version_header", "alerts"];
    let fields: Vec<&str> = document.as_object()?.keys().map(String::as_str).collect();
    match fields.as_slice() {
        [] => None,
        ["secrets"] => Some(Role::Keys),
        ["hosts"] => Some(Role::Admin),
        _ => fields.iter().all(|field| ROUTER.contains(field)).then_some(Role::Router),
    }
}

/// A document that shows only a part has the smallest deployment besides.
fn completed(role: Role, mut document: Value) -> Value {
    if role == Role::Router && document.get("deployments").is_none() {
        document["deployments"] = serde_json::json!([
            {"name": "d", "stable": "v", "versions": [{"id": "v", "weight": 100, "cluster": "c"}]}
        ]);
    }
    document
}

fn problems(role: Role, document: &str) -> Option<Problems> {
    let document = document.as_bytes();
    match role {
        Role::Router => config::compile(document, &|name| Some(format!("sk-{name}"))).err(),
        Role::Keys => config::secrets(document).err(),
        Role::Admin => config::admin(document).err(),
    }
}

/// JSON pointers of all objects of a value.
fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.push(at.to_owned());
            members.iter().for_each(|(name, value)| objects(value, &format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| objects(item, &format!("{at}/{n}"), found));
        }
        _ => {}
    }
}

/// The documents in a page's JSON blocks, and those that its YAML blocks have inline, as text or as YAML.
fn documents(page: &Path) -> Vec<(Role, Value)> {
    let shown = |error: &dyn std::fmt::Display, text: &str| -> Value {
        panic!("{}: {error}\n{text}", page.display())
    };
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| shown(&error, text));
    let mut values: Vec<Value> =
        blocks(page, "json").into_iter().map(|lines| json(&lines.join("\n"))).collect();
    for lines in blocks(page, "yaml") {
        let begin = lines.iter().position(|line| line.trim() == "inline_string: |").map(|line| line + 1);
        let inline = lines[begin.unwrap_or(lines.len())..].join("\n");
        let text = lines.join("\n");
        if inline.trim_start().starts_with('{') {
            values.push(json(&inline));
        } else if text.contains("deployments:") {
            let whole = serde_norway::from_str(&text).unwrap_or_else(|error| shown(&error, &text));
            let mut places = Vec::new();
            objects(&whole, "", &mut places);
            let has_some = |value: &&Value| value.get("deployments").is_some();
            values.extend(
                places.iter().filter_map(|place| whole.pointer(place)).filter(has_some).take(1).cloned(),
            );
        }
    }
    values
        .into_iter()
        .filter_map(|value| role_of(&value).map(|role| (role, completed(role, value))))
        .collect()
}

#[test]
fn every_configuration_in_readme_and_guide_is_valid() {
    let mut count = 0;
    for page in pages() {
        for (role, document) in documents(&page) {
            let text = document.to_string();
            assert!(
                problems(role, &text).is_none(),
                "{}, {role:?}: {}\n{text}",
                page.display(),
                problems(role, &text).unwrap()
            );
            count += 1;
        }
    }
    assert!(count > 20, "{count} documents were found");
    assert!(!documents(&root().join("README.md")).is_empty(), "the README shows no configuration");
}

#[test]
fn documents_are_told_from_other_json() {
    let role = |text| role_of(&serde_json::from_str(text).unwrap());
    assert_eq!(role(r#"{"deployments": [], "alerts": {}}"#), Some(Role::Router));
    assert_eq!(role(r#"{"secrets": {}}"#), Some(Role::Keys));
    assert_eq!(role(r#"{"hosts": []}"#), Some(Role::Admin));
    assert_eq!(role(r#"{"key_pools": []}"#), Some(Role::Router));
    for other in [r#"{"now": "", "deployments": []}"#, r#"{"error": ""}"#, r#"{"events": []}"#, "{}", "[]"] {
        assert_eq!(role(other), None, "{other}");
    }
}

#[test]
fn the_readme_is_read_in_five_minutes() {
    let bytes = fs::metadata(root().join("README.md")).unwrap().len();
    assert!(bytes <= README_BYTES, "README.md has {bytes} bytes, at most {README_BYTES}");
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// All anchors of a page; one that comes again has a number.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = read(page);
    let (prose, _) = split(&text);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in prose.iter().filter(|(_, line)| line.starts_with('#')) {
        let anchor = anchor(line);
        let count = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    anchors
}

/// The targets of a line's links; not those in code.
fn links(line: &str) -> Vec<&str> {
    let prose = line.split('`').step_by(2);
    let targets = prose.flat_map(|part| part.split("](").skip(1));
    targets.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// Resolves `..` without asking the file system, so that a message names a short path.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for (n, line) in split(&text).0 {
            for target in links(line).into_iter().filter(|target| !target.contains("://")) {
                count += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file =
                    if file.is_empty() { page.clone() } else { normal(&page.parent().unwrap().join(file)) };
                let there = file.exists() && (anchor.is_empty() || anchors(&file).contains(anchor));
                if !there {
                    broken.push(format!("{}:{}: {target}", page.display(), n + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(count > 50, "{count} links were found");
}

/// The code spans of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut missing = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for (n, line) in split(&text).0 {
            for span in spans(line) {
                let path = span.split("::").next().unwrap_or_default();
                let ours =
                    ["src/", "tests/", "harness/", "envoy/", "docs/"].iter().any(|top| path.starts_with(top));
                if !ours || path.contains(['*', ' ', '<']) {
                    continue;
                }
                count += 1;
                if !root().join(path).exists() {
                    missing.push(format!("{}:{}: {path}", page.display(), n + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(count > 50, "{count} files are named");
}

#[test]
fn links_and_anchors_are_those_of_github() {
    assert_eq!(links("[a](b.md#c), `[x](y)` and ![d](e.png)"), ["b.md#c", "e.png"]);
    assert_eq!(anchor("## Keys and failover"), "keys-and-failover");
    assert_eq!(anchor("#### `key_pools[].keys[]`"), "key_poolskeys");
    assert_eq!(anchor("### 7. Speak TLS, with `sni`!"), "7-speak-tls-with-sni");
}

#[test]
fn the_index_names_every_page() {
    let index = root().join("docs/guide/README.md");
    let text = read(&index);
    let linked: BTreeSet<&str> = text.lines().flat_map(links).collect();
    for page in guide().into_iter().filter(|page| *page != index) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(linked.contains(name), "{name} is not in the index");
    }
}

#[test]
fn every_page_begins_with_the_reader_and_an_example_before_its_tables() {
    for page in guide() {
        let text = read(&page);
        let begin = text.split("\n\n").nth(1).unwrap_or_default().to_lowercase();
        assert!(begin.contains("you"), "{}: {begin}", page.display());
        let line = |begin: &str| text.lines().position(|line| line.trim_start().starts_with(begin));
        let example = line("```").unwrap_or_else(|| panic!("{} has no example", page.display()));
        assert!(example < EXAMPLE_BEGINS, "{}: the first example is in line {example}", page.display());
        if let Some(table) = line("|---") {
            assert!(example < table, "{}: a table in line {table}, an example in {example}", page.display());
        }
    }
}

/// Lines that the sample has in another form, or not at all: TLS to a real provider, and a setting that is a matter of taste.
const NOT_IN_THE_SAMPLE: [&str; 2] = [
    "- endpoint: {address: {socket_address: {address: api.openai.com, port_value: 443}}}",
    "circuit_breakers:",
];

#[test]
fn the_fragments_of_the_installation_are_those_of_the_sample() {
    let sample = ["envoy/bootstrap.yaml", "envoy/ecds/router.yaml"].map(|file| read(&root().join(file)));
    // Comments too: the sample has its TLS as one.
    let plain = |line: &str| line.trim().trim_start_matches("# ").trim().to_owned();
    let known: BTreeSet<String> = sample.iter().flat_map(|text| text.lines()).map(plain).collect();
    let mut count = 0;
    for line in blocks(&root().join("docs/guide/install.md"), "yaml").into_iter().flatten() {
        count += 1;
        let here = plain(&line);
        assert!(
            known.contains(&here) || NOT_IN_THE_SAMPLE.contains(&line.trim()),
            "not in the sample: {line}"
        );
    }
    assert!(count > 100, "{count} lines were compared");
}
