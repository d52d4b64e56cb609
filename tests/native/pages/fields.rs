//! The tables of `configuration.md` are those of the code: each field, no other, with its default.

use std::collections::{BTreeMap, BTreeSet};

use bellwether::config;
use serde_json::Value;

use super::{Role, documents, objects, problems, read, root, spans};

/// The fields that the code knows, by the path of the object that has them (`deployments[].guard`).
type Fields = BTreeMap<(Role, String), BTreeSet<String>>;

/// An object that stands in two places is described once.
fn described_as(path: &str) -> String {
    path.replace("deployments[].ramp.stages[].guard", "deployments[].guard")
        .replace("deployments[].rules[].headers[]", "deployments[].match.headers[]")
        .replace("deployments[].match.body[]", "deployments[].match.headers[]")
        .replace("deployments[].rules[].body[]", "deployments[].match.headers[]")
}

/// `deployments[0].guard` → `deployments[].guard`.
fn without_indices(path: &str) -> String {
    let mut out = String::new();
    for part in path.split_inclusive(['[', ']']) {
        match part.strip_suffix(']') {
            Some(index) if index.bytes().all(|b| b.is_ascii_digit()) => out.push(']'),
            _ => out.push_str(part),
        }
    }
    out
}

/// Puts an unknown field into each object of each document and reads in the refusal what could be there. The second value
/// has the fields that the documents use.
fn known_fields(documents: &[(Role, Value)]) -> (Fields, Fields) {
    const UNKNOWN: &str = "unknown";
    let (mut known, mut used) = (Fields::new(), Fields::new());
    for (role, document) in documents {
        let mut places = Vec::new();
        objects(document, "", &mut places);
        for place in places {
            let mut poked = document.clone();
            let object = poked.pointer_mut(&place).unwrap().as_object_mut().unwrap();
            let names: BTreeSet<String> = object.keys().cloned().collect();
            object.insert(UNKNOWN.to_owned(), Value::from(1));
            let problems = problems(*role, &poked.to_string()).map(|problems| problems.0).unwrap_or_default();
            let refused = problems.into_iter().find_map(|problem| {
                let listed = problem.rule.strip_prefix("unknown field, expected ")?;
                let listed = listed.strip_prefix("one of ").unwrap_or(listed);
                Some((problem.path, listed.split(", ").map(str::to_owned).collect::<BTreeSet<_>>()))
            });
            // An object whose names are the user's has no unknown ones.
            let Some((path, listed)) = refused else { continue };
            let path = without_indices(path.strip_suffix(UNKNOWN).unwrap().trim_end_matches('.'));
            let key = (*role, described_as(&path));
            assert_eq!(known.entry(key.clone()).or_insert_with(|| listed.clone()), &listed, "{key:?}");
            used.entry(key).or_default().extend(names);
        }
    }
    (known, used)
}

/// The tables of `configuration.md`: the fields by the path in the heading.
fn described() -> Fields {
    let text = read(&root().join("docs/guide/configuration.md"));
    let (_, tables) = text.split_once("\n## All fields\n").unwrap();
    let mut fields = Fields::new();
    let mut at = None;
    for line in tables.lines() {
        if let Some(heading) = line.strip_prefix("#### ") {
            let path = heading.split('`').nth(1).unwrap_or_default();
            at = Some(match path {
                "keys" => (Role::Keys, String::new()),
                "admin" => (Role::Admin, String::new()),
                path => (Role::Router, path.to_owned()),
            });
        } else if let Some((field, _)) = line.strip_prefix("| `").and_then(|row| row.split_once("` | ")) {
            let at = at.clone().unwrap();
            assert!(
                fields.entry(at.clone()).or_default().insert(field.to_owned()),
                "{at:?}: {field} is described twice"
            );
        }
    }
    fields
}

#[test]
fn every_field_is_described_and_no_other() {
    let documents = documents(&root().join("docs/guide/configuration.md"));
    let (known, used) = known_fields(&documents);
    let described = described();
    for (at, fields) in &known {
        let rows = described.get(at).unwrap_or_else(|| panic!("no table for {at:?}"));
        assert_eq!(rows, fields, "{at:?}");
        // Otherwise an object below a field that no example uses would not be looked into.
        assert_eq!(
            fields.difference(&used[at]).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "{at:?}: no example"
        );
    }
    assert_eq!(described.keys().collect::<Vec<_>>(), known.keys().collect::<Vec<_>>());
}

/// The defaults of `configuration.md` that are values, by the place of the field. Words (`required`, `none`) are none.
fn defaults() -> Vec<(String, String, Value)> {
    let text = read(&root().join("docs/guide/configuration.md"));
    let (_, tables) = text.split_once("\n## All fields\n").unwrap();
    let mut found = Vec::new();
    let mut at = String::new();
    for line in tables.lines() {
        if let Some(heading) = line.strip_prefix("#### ") {
            at = heading.split('`').nth(1).unwrap_or_default().to_owned();
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        let [field, default, _] = cells.as_slice() else { continue };
        let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        let values: Vec<Value> = spans(default).map(parsed).collect();
        let value = match (values.as_slice(), default.parse::<f64>()) {
            ([one], _) => one.clone(),
            ([], Ok(number)) => Value::from(number),
            ([], Err(_)) => continue,
            (several, _) => Value::from(several.to_vec()),
        };
        found.push((at.clone(), field.trim_matches(['|', ' ', '`']).to_owned(), value));
    }
    found
}

#[test]
fn the_defaults_are_those_of_the_code() {
    let plan = |document: &Value| {
        let compiled = config::compile(document.to_string().as_bytes(), &|name| Some(format!("sk-{name}")));
        compiled.map(|plan| format!("{plan:?}"))
    };
    let documents = documents(&root().join("docs/guide/configuration.md"));
    let mut compared = BTreeSet::new();
    for (at, field, default) in defaults() {
        // The default of a salt is made of other fields.
        if field == "salt" {
            continue;
        }
        for (_, document) in documents.iter().filter(|(role, _)| *role == Role::Router) {
            let mut places = Vec::new();
            objects(document, "", &mut places);
            for place in places {
                let path = place.split('/').skip(1).fold(String::new(), |path, part| match part {
                    index if index.bytes().all(|b| b.is_ascii_digit()) => path + "[]",
                    name if path.is_empty() => name.to_owned(),
                    name => format!("{path}.{name}"),
                });
                let is_there = document.pointer(&place).is_some_and(|object| object.get(&field).is_some());
                if path != at || !is_there {
                    continue;
                }
                let (mut without, mut with) = (document.clone(), document.clone());
                without.pointer_mut(&place).unwrap().as_object_mut().unwrap().remove(&field);
                with.pointer_mut(&place).unwrap()[&field] = default.clone();
                // Some fields are needed by others that stand beside them.
                let Ok(without) = plan(&without) else { continue };
                assert_eq!(plan(&with), Ok(without), "{at}.{field}: the default is not {default}");
                compared.insert((at.clone(), field.clone()));
            }
        }
    }
    assert!(compared.len() > 35, "{} defaults were compared: {compared:?}", compared.len());
}

#[test]
fn paths_lose_their_indices() {
    assert_eq!(without_indices("deployments[0].match.headers[12]"), "deployments[].match.headers[]");
    assert_eq!(without_indices("a"), "a");
    assert_eq!(without_indices(""), "");
}
