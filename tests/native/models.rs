//! The configuration of models: accepted documents and their meaning, and the exact words of every refusal.

use bellwether::config::compile;
use bellwether::llm::api::Family;
use bellwether::plan::matching::{BodyCondition, HeaderTest, ModelPattern};
use bellwether::plan::model::{Llm, ModelMap, RequestChanges, UnknownModel, Unreadable, Wants};
use bellwether::plan::{BodyPath, Deployment, IdentitySource, Plan};
use serde_json::{Value, json};

fn document() -> Value {
    json!({"deployments": [{
        "name": "d", "stable": "v1",
        "llm": {"api": "openai", "body_limit": "512KiB", "unreadable": "reject", "unknown_model": "reject"},
        "match": {"models": ["gpt-4o", "gpt-4o-*"], "body": [{"name": "Tenant", "exact": "acme"}]},
        "versions": [
            {"id": "v1", "weight": 90, "cluster": "a", "model": {"gpt-4o": "gpt-4.1", "*": "gpt-4.1-mini"}},
            {"id": "v2", "weight": 10, "cluster": "b", "model": "gpt-5.5", "request": {
                "set": {"effort": "low", "n": 1, "t": 0.25, "list": [1, {"a": null, "b": [true]}]},
                "drop": ["temperature", "top_p"], "rename": {"max_tokens": "max_completion_tokens"}}}],
        "rules": [{"models": ["gpt-4o"], "body": [{"name": "user", "prefix": "t", "invert": true}], "version": "v2"}],
        "sticky": {"on": [{"body": "user"}, {"body": "metadata.user_id"}, {"conversation": true}]},
    }]})
}

fn compiled(document: &Value) -> Result<Plan, Vec<String>> {
    compile(document.to_string().as_bytes(), &|_| None)
        .map_err(|problems| problems.0.iter().map(ToString::to_string).collect())
}

fn deployment(document: &Value) -> Deployment {
    compiled(document).unwrap().deployments.remove(0)
}

fn refused(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut document = document();
    change(&mut document["deployments"][0]);
    compiled(&document).err().unwrap_or_default()
}

#[test]
fn every_field_reaches_the_plan() {
    let plan = compiled(&document()).unwrap();
    assert!(plan.reads_bodies);
    let d = &plan.deployments[0];
    assert_eq!(
        d.llm,
        Some(Llm {
            family: Family::OpenAi,
            body_limit: 524_288,
            unreadable: Unreadable::Reject,
            unknown_model: UnknownModel::Reject,
        })
    );
    assert_eq!(
        d.matches.models,
        [ModelPattern::Exact("gpt-4o".to_owned()), ModelPattern::Prefix("gpt-4o-".to_owned())]
    );
    let tenant = BodyCondition {
        name: "Tenant".to_owned(),
        test: HeaderTest::Exact("acme".to_owned()),
        invert: false,
    };
    assert_eq!(d.matches.body, [tenant]);
    let pair = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
    let [v1, v2] = d.versions.as_slice() else { panic!("two versions") };
    let map = |names: &[(&str, &str)], others: &str| {
        Some(ModelMap { names: names.iter().copied().map(pair).collect(), others: Some(others.to_owned()) })
    };
    assert_eq!(v1.dialect.model, map(&[("gpt-4o", "gpt-4.1")], "gpt-4.1-mini"));
    assert!(v1.dialect.request.is_empty());
    assert_eq!(v2.dialect.model, map(&[], "gpt-5.5"));
    assert_eq!(
        v2.dialect.request,
        RequestChanges {
            set: [
                ("effort", r#""low""#),
                ("list", r#"[1,{"a":null,"b":[true]}]"#),
                ("n", "1"),
                ("t", "0.25")
            ]
            .into_iter()
            .map(pair)
            .collect(),
            drop: vec!["temperature".to_owned(), "top_p".to_owned()],
            rename: vec![pair(("max_tokens", "max_completion_tokens"))],
        }
    );
    let rule = &d.rules[0];
    assert!(rule.headers.is_empty());
    assert_eq!(rule.models, [ModelPattern::Exact("gpt-4o".to_owned())]);
    assert_eq!((rule.body[0].name.as_str(), rule.body[0].invert), ("user", true));
    assert_eq!(
        d.sticky.as_ref().unwrap().on,
        [
            IdentitySource::Body(BodyPath::Top("user".to_owned())),
            IdentitySource::Body(BodyPath::Inner("metadata".to_owned(), "user_id".to_owned())),
            IdentitySource::Conversation,
        ]
    );
    assert!(d.wants.model && d.wants.conversation && d.wants.whole);
    assert_eq!(d.wants.names, ["user", "Tenant", "effort", "list", "n", "t"]);
    assert_eq!(d.wants.paths, [pair(("metadata", "user_id"))]);
}

#[test]
fn absent_fields_have_the_defaults_and_nothing_is_read_without_a_reason() {
    let small = |llm: &str| {
        json!({"deployments": [{"name": "d", "stable": "v", "versions": [{"id": "v", "weight": 100, "cluster": "c"}]}]})
            .to_string()
            .replace(r#""name""#, &format!(r#"{llm}"name""#))
    };
    let of = |text: String| deployment(&serde_json::from_str(&text).unwrap());
    let without = of(small(""));
    assert_eq!((without.llm, without.wants), (None, Wants::default()));
    let with = of(small(r#""llm": {}, "#));
    assert_eq!(
        with.llm,
        Some(Llm {
            family: Family::Auto,
            body_limit: 8 << 20,
            unreadable: Unreadable::Stable,
            unknown_model: UnknownModel::Pass,
        })
    );
    assert!(with.wants.is_empty());
}

#[test]
fn members_of_a_struct_that_are_decimals_in_strings_are_numbers() {
    let pick = |text: &str| {
        let mut plain = document();
        plain["deployments"][0]["versions"][1]["request"]["set"] = json!({"t": text});
        deployment(&plain).versions[1].dialect.request.set[0].1.clone()
    };
    assert_eq!(pick("0.7"), r#""0.7""#, "JSON has numbers of its own");
}

#[test]
fn a_mistake_has_one_message() {
    let name = "must be the name of a member: 1 to 64 bytes without control characters";
    let model = "must be the name of a model: 1 to 256 bytes without control characters";
    let cases: Vec<(&str, Value, String)> = vec![
        ("/llm/api", json!("aws"), r#"llm.api: must be one of auto, openai, anthropic, gemini, got "aws""#.into()),
        ("/llm/body_limit", json!("8MB"), r#"llm.body_limit: must be a size such as 512KiB or 8MiB, got "8MB""#.into()),
        ("/llm/body_limit", json!("1KiB"), r#"llm.body_limit: must be in 64KiB..=64MiB, got "1KiB""#.into()),
        ("/llm/body_limit", json!("65MiB"), r#"llm.body_limit: must be in 64KiB..=64MiB, got "65MiB""#.into()),
        ("/llm/body_limit", json!(8), "llm.body_limit: must be a size such as 512KiB or 8MiB, got 8".into()),
        ("/llm/unreadable", json!("drop"), r#"llm.unreadable: must be one of stable, reject, got "drop""#.into()),
        ("/llm/unknown_model", json!("404"), r#"llm.unknown_model: must be one of pass, reject, got "404""#.into()),
        ("/match/models", json!([]), "match.models: must not be empty".into()),
        (
            "/match/models",
            json!(["gpt-*-mini"]),
            r#"match.models[0]: must be the name of a model, or its beginning with * behind it, got "gpt-*-mini""#.into(),
        ),
        ("/match/body", json!([]), "match.body: must not be empty".into()),
        ("/match/body/0/name", json!(""), format!(r#"match.body[0].name: {name}, got """#)),
        (
            "/match/body/0",
            json!({"name": "a"}),
            "match.body[0]: must have exactly one of exact, prefix, suffix, contains, one_of, present".into(),
        ),
        ("/versions/1/model", json!(""), format!(r#"versions[1].model: {model}, got """#)),
        ("/versions/1/model", json!(7), "versions[1].model: must be a string or an object, got 7".into()),
        ("/versions/1/model", json!({}), "versions[1].model: must have 1 to 64 fields, got 0".into()),
        ("/versions/1/model", json!({"a": ""}), format!(r#"versions[1].model.a: {model}, got """#)),
        ("/versions/1/model", json!({"a*": "b"}), "versions[1].model.a*: must stand under the name of a model, or *".into()),
        ("/versions/1/request", json!({}), "versions[1].request: must have set, drop or rename".into()),
        ("/versions/1/request/set", json!({}), "versions[1].request.set: must have 1 to 64 fields, got 0".into()),
        (
            "/versions/1/request/set",
            json!({"model": "x"}),
            "versions[1].request.set.model: must not be model, which has a field of its own".into(),
        ),
        (
            "/versions/1/request/set",
            json!({"t": 1e-12}),
            "versions[1].request.set.t: must have no number with more than nine decimals".into(),
        ),
        (
            "/versions/1/request/set",
            json!({"t": "x".repeat(5000)}),
            "versions[1].request.set.t: must be at most 4096 bytes of JSON, got 5002".into(),
        ),
        (
            "/versions/1/request/drop",
            json!(["n"]),
            r#"versions[1].request.drop[0]: must not be set as well, got "n""#.into(),
        ),
        (
            "/versions/1/request/drop",
            json!(["a", "a"]),
            r#"versions[1].request.drop[1]: duplicates another one, got "a""#.into(),
        ),
        (
            "/versions/1/request/drop",
            json!(["model"]),
            r#"versions[1].request.drop[0]: must not be model, which has a field of its own, got "model""#.into(),
        ),
        (
            "/versions/1/request/rename",
            json!({"a": "a"}),
            r#"versions[1].request.rename.a: must differ from the former name, got "a""#.into(),
        ),
        (
            "/versions/1/request/rename",
            json!({"n": "m"}),
            r#"versions[1].request.rename.n: must not rename a member that is set, got "m""#.into(),
        ),
        (
            "/versions/1/request/rename",
            json!({"a": "top_p"}),
            r#"versions[1].request.rename.a: must not rename a dropped member, or to one, got "top_p""#.into(),
        ),
        (
            "/versions/1/request/rename",
            json!({"a": "c", "b": "c"}),
            r#"versions[1].request.rename.b: must not be the new name of two members, got "c""#.into(),
        ),
        (
            "/rules/0",
            json!({"version": "v2"}),
            "rules[0].headers: is required".into(),
        ),
        ("/rules/0/models", json!([]), "rules[0].models: must not be empty".into()),
        (
            "/sticky/on/0",
            json!({"body": "a.b.c"}),
            r#"sticky.on[0].body: must be the name of a member, or two with a dot between them, got "a.b.c""#.into(),
        ),
        ("/sticky/on/2", json!({"conversation": false}), "sticky.on[2].conversation: must be true, got false".into()),
        (
            "/sticky/on/0",
            json!({"body": "a", "header": "b"}),
            "sticky.on[0]: must have exactly one of header, cookie, client_address, body, conversation".into(),
        ),
    ];
    for (at, value, expected) in cases {
        let found = refused(|deployment| *deployment.pointer_mut(at).unwrap() = value.clone());
        assert_eq!(found, [format!("deployments[0].{expected}")], "{at} {value}");
    }
}

#[test]
fn everything_that_needs_llm_says_so() {
    let found = refused(|deployment| {
        deployment.as_object_mut().unwrap().remove("llm");
    });
    let expected = [
        "match.models",
        "match.body",
        "versions[0].model",
        "versions[1].model",
        "versions[1].request",
        "rules[0].models",
        "rules[0].body",
        "sticky.on[0].body",
        "sticky.on[1].body",
        "sticky.on[2].conversation",
    ];
    let found: std::collections::BTreeSet<String> = found.into_iter().collect();
    let lines = expected.map(|at| format!("deployments[0].{at}: needs llm in this deployment"));
    assert_eq!(found, lines.into_iter().collect());
}
