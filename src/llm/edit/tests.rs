use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::llm::request::{Body, Wanted};

fn edits_of(body: &str, wishes: &Wishes<'_>) -> Edits {
    let mut reader = Body::new(Wanted::default());
    reader.feed(body.as_bytes());
    reader.end();
    assert_eq!(reader.seen().fault, None, "{body}");
    Edits::new(reader.seen(), wishes)
}

fn apply(edits: &Edits, pieces: &[&[u8]]) -> Vec<u8> {
    let mut editor = Editor::new(edits);
    let mut out = Vec::new();
    for piece in pieces {
        editor.pass(piece, &mut out);
    }
    out
}

fn changed(body: &str, wishes: &Wishes<'_>) -> String {
    let edits = edits_of(body, wishes);
    let whole = apply(&edits, &[body.as_bytes()]);
    for at in 0..=body.len() {
        let (a, b) = body.as_bytes().split_at(at);
        assert_eq!(apply(&edits, &[a, b]), whole, "split at {at}");
    }
    let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
    assert_eq!(apply(&edits, &bytes), whole);
    assert_eq!(edits.length_of(length(body.as_bytes())), length(&whole), "the announced length");
    String::from_utf8(whole).unwrap()
}

#[test]
fn the_model_is_replaced_and_nothing_else() {
    let wishes = Wishes { set: vec![("model", quoted("gpt-5.5"))], ..Wishes::default() };
    for (body, expected) in [
        (r#"{"model":"gpt-4o","n":1}"#, r#"{"model":"gpt-5.5","n":1}"#),
        (r#"{ "n":1, "model" : "gpt-4o" }"#, r#"{ "n":1, "model" : "gpt-5.5" }"#),
        (r#"{"n":1}"#, r#"{"model":"gpt-5.5","n":1}"#),
        ("{}", r#"{"model":"gpt-5.5"}"#),
        (r#"{"model":["x"]}"#, r#"{"model":"gpt-5.5"}"#),
    ] {
        assert_eq!(changed(body, &wishes), expected);
    }
    assert!(edits_of(r#"{"model":"a"}"#, &Wishes::default()).is_empty());
}

#[test]
fn members_go_with_their_commas() {
    for (drop, expected) in [
        (vec!["a"], r#"{ "b":2, "c":3 }"#),
        (vec!["b"], r#"{ "a":1, "c":3 }"#),
        (vec!["c"], r#"{ "a":1, "b":2 }"#),
        (vec!["a", "b"], r#"{ "c":3 }"#),
        (vec!["b", "c"], r#"{ "a":1 }"#),
        (vec!["a", "c"], r#"{ "b":2 }"#),
        (vec!["a", "b", "c"], r"{  }"),
        (vec!["d"], r#"{ "a":1, "b":2, "c":3 }"#),
    ] {
        let wishes = Wishes { drop, ..Wishes::default() };
        assert_eq!(changed(r#"{ "a":1, "b":2, "c":3 }"#, &wishes), expected);
    }
}

#[test]
fn a_renamed_member_gives_way_to_its_target() {
    let rename = vec![("max_tokens", "max_completion_tokens")];
    let wishes = Wishes { rename: rename.clone(), ..Wishes::default() };
    assert_eq!(changed(r#"{"max_tokens":5,"x":1}"#, &wishes), r#"{"max_completion_tokens":5,"x":1}"#);
    assert_eq!(
        changed(r#"{"max_tokens":5,"max_completion_tokens":7}"#, &wishes),
        r#"{"max_completion_tokens":7}"#
    );
    let set = vec![("max_completion_tokens", "9".to_owned())];
    let both = Wishes { set, rename, ..Wishes::default() };
    assert_eq!(changed(r#"{"max_tokens":5,"x":1}"#, &both), r#"{"max_completion_tokens":9,"x":1}"#);
}

/// The same on parsed values.
fn reference(body: &Map<String, Value>, wishes: &Wishes<'_>) -> Value {
    let mut out = Map::new();
    for (name, value) in body {
        let target = wishes.rename.iter().find(|(from, _)| from == name).map(|(_, to)| *to);
        let gone = wishes.drop.contains(&name.as_str()) || target.is_some_and(|to| body.contains_key(to));
        if !gone {
            out.insert(target.unwrap_or(name).to_owned(), value.clone());
        }
    }
    for (name, value) in &wishes.set {
        out.insert((*name).to_owned(), serde_json::from_str(value).unwrap());
    }
    Value::Object(out)
}

proptest! {
    #[test]
    fn any_changes_of_any_body_give_what_parsed_values_give(
        names in proptest::sample::subsequence(vec!["a", "b", "c", "d", "e"], 0..=5).prop_shuffle(),
        values in proptest::collection::vec(prop::sample::select(vec!["1", "\"x,}\"", "[1,{\"a\":2}]", "{}", "null", "{\"b\":\"]\"}"]), 5),
        spaces in proptest::collection::vec(prop::sample::select(vec!["", " ", "\n\t"]), 8),
        set in proptest::sample::subsequence(vec!["a", "c", "f"], 0..=3),
        drop in proptest::sample::subsequence(vec!["b", "d", "g"], 0..=3),
        rename in proptest::sample::subsequence(vec![("e", "h"), ("c", "i")], 0..=2),
    ) {
        let space = |n: usize| spaces[n % spaces.len()];
        let members: Vec<String> = names.iter().zip(&values).enumerate()
            .map(|(n, (name, value))| format!("{}\"{name}\"{}:{}{value}{}", space(n), space(n + 1), space(n + 2), space(n + 3)))
            .collect();
        let body = format!("{{{}}}", members.join(","));
        let set = set.into_iter().filter(|name| !rename.iter().any(|(from, _)| from == name));
        let wishes = Wishes { set: set.map(|name| (name, "true".to_owned())).collect(), drop, rename };
        let parsed: Map<String, Value> = serde_json::from_str(&body).unwrap();
        let result: Value = serde_json::from_str(&changed(&body, &wishes)).unwrap();
        prop_assert_eq!(result, reference(&parsed, &wishes));
    }
}
