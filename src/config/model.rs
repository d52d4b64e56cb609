//! `llm`, and everything that needs it: models, conditions on the body, changes of the body.

use std::ops::RangeInclusive;

use crate::config::condition::NamedTest;
use crate::config::{bounds, condition, value};
use crate::json::{Cursor, Object, Read, each};
use crate::llm::LITE;
use crate::llm::api::Family;
use crate::plan::matching::{BodyCondition, Match, ModelPattern};
use crate::plan::model::{Dialect, Llm, ModelMap, RequestChanges, UnknownModel, Unreadable, Wants};
use crate::plan::{BodyPath, IdentitySource, Rule, Sticky, Version};

/// The rule for a field that has no effect without `llm`.
const NEEDS_LLM: &str = "needs llm in this deployment";

/// Reads `llm`.
pub fn llm(at: &Cursor<'_>) -> Read<Llm> {
    if LITE {
        return Err(at.refuse("needs bellwether.wasm, and this is bellwether-lite.wasm"));
    }
    let object = at.object(&["api", "body_limit", "unreadable", "unknown_model"])?;
    let family = object.get("api").map_or(Ok(Family::Auto), |at| {
        const FAMILIES: [Family; 4] = [Family::Auto, Family::OpenAi, Family::Anthropic, Family::Gemini];
        at.choice(&["auto", "openai", "anthropic", "gemini"])
            .map(|n| FAMILIES.get(n).copied().unwrap_or_default())
    });
    let body_limit =
        object.get("body_limit").map_or(Ok(bounds::BODY_LIMIT_DEFAULT), |at| size(&at, &bounds::BODY_LIMIT));
    let unreadable = object.get("unreadable").map_or(Ok(Unreadable::Stable), |at| {
        at.choice(&["stable", "reject"]).map(|n| if n == 1 { Unreadable::Reject } else { Unreadable::Stable })
    });
    let unknown_model = object.get("unknown_model").map_or(Ok(UnknownModel::Pass), |at| {
        at.choice(&["pass", "reject"]).map(|n| if n == 1 { UnknownModel::Reject } else { UnknownModel::Pass })
    });
    Ok(Llm {
        family: family?,
        body_limit: body_limit?,
        unreadable: unreadable?,
        unknown_model: unknown_model?,
    })
}

/// Reads a size in bytes, such as `64KiB` or `8MiB`.
fn size(at: &Cursor<'_>, range: &RangeInclusive<u64>) -> Read<u64> {
    let parse = |text: &str| {
        let (number, unit) = match text.strip_suffix("KiB") {
            Some(number) => (number, 1024u64),
            None => (text.strip_suffix("MiB")?, 1024 * 1024),
        };
        let digits = number.bytes().all(|b| b.is_ascii_digit());
        number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(unit)
    };
    let Some(bytes) = at.as_str().and_then(parse) else {
        return Err(at.wrong("must be a size such as 512KiB or 8MiB"));
    };
    if range.contains(&bytes) { Ok(bytes) } else { Err(at.wrong("must be in 64KiB..=64MiB")) }
}

/// Reads the name of a model.
fn model_name(at: &Cursor<'_>) -> Read<String> {
    value::text(at, "must be the name of a model: 1 to 256 bytes without control characters", is_model_name)
}

fn is_model_name(text: &str) -> bool {
    (1..=bounds::MODEL_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Reads `models`: at least one pattern.
pub fn patterns(at: &Cursor<'_>) -> Read<Vec<ModelPattern>> {
    if LITE {
        return Ok(Vec::new());
    }
    each(&at.items(&bounds::SOME)?, |at| {
        let rule = "must be the name of a model, or its beginning with * behind it";
        let text = value::text(at, rule, |text| {
            is_model_name(text) && !text.strip_suffix('*').unwrap_or(text).contains('*')
        })?;
        Ok(match text.strip_suffix('*') {
            Some(prefix) => ModelPattern::Prefix(prefix.to_owned()),
            None => ModelPattern::Exact(text),
        })
    })
}

/// Reads the conditions of a `body`.
pub fn conditions(at: &Cursor<'_>) -> Read<Vec<BodyCondition>> {
    if LITE {
        return Ok(Vec::new());
    }
    each(&at.items(&bounds::SOME)?, |at| {
        let NamedTest { name, test, invert } = condition::named_test(at, member_name)?;
        Ok(BodyCondition { name, test, invert })
    })
}

fn is_member_name(text: &str) -> bool {
    (1..=bounds::MEMBER_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Reads the name of a top-level member.
fn member_name(at: &Cursor<'_>) -> Read<String> {
    value::text(at, "must be the name of a member: 1 to 64 bytes without control characters", is_member_name)
}

/// Reads the place of an identity in the body.
pub fn body_path(at: &Cursor<'_>) -> Read<IdentitySource> {
    if LITE {
        return Ok(IdentitySource::Conversation);
    }
    let text = value::text(at, "must be the name of a member, or two with a dot between them", |text| {
        let mut parts = text.split('.');
        parts.by_ref().take(2).all(is_member_name) && parts.next().is_none()
    })?;
    Ok(IdentitySource::Body(match text.split_once('.') {
        Some((parent, name)) => BodyPath::Inner(parent.to_owned(), name.to_owned()),
        None => BodyPath::Top(text),
    }))
}

/// Reads `model` and `request` of a version.
pub fn dialect(object: &Object<'_>) -> Read<Dialect> {
    if LITE {
        return Ok(Dialect::default());
    }
    let model = object.get("model").map(|at| model_map(&at)).transpose();
    let request = object.get("request").map_or(Ok(RequestChanges::default()), |at| changes(&at));
    Ok(Dialect { model: model?, request: request? })
}

fn model_map(at: &Cursor<'_>) -> Read<ModelMap> {
    if at.as_str().is_some() {
        return Ok(ModelMap { names: Vec::new(), others: Some(model_name(at)?) });
    }
    if !at.is_object() {
        return Err(at.wrong("must be a string or an object"));
    }
    let members = at.members()?;
    if members.is_empty() || members.len() > bounds::MODELS_MAX {
        let rule = format!("must have 1 to {} fields", bounds::MODELS_MAX);
        return Err(at.wrong_as(&rule, members.len().to_string()));
    }
    let mut map = ModelMap { names: Vec::new(), others: None };
    let mut outcome = Ok(());
    for (i, member) in members.iter().enumerate() {
        let (from, at) = (member.name, member.at.shown_values());
        if members.iter().take(i).any(|held| held.name == from) {
            outcome = Err(at.refuse("duplicate field"));
        }
        if !is_model_name(from) || (from.contains('*') && from != "*") {
            outcome = Err(at.refuse("must stand under the name of a model, or *"));
        }
        match model_name(&at) {
            Ok(to) if from == "*" => map.others = Some(to),
            Ok(to) => map.names.push((from.to_owned(), to)),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| map)
}

fn changes(at: &Cursor<'_>) -> Read<RequestChanges> {
    let object = at.object(&["set", "drop", "rename"])?;
    let set = object
        .get("set")
        .map_or(Ok(Vec::new()), |at| named(&at, |at| at.json(bounds::MEMBER_VALUE_BYTES_MAX)));
    let set_names: Vec<&str> = set.as_ref().map(|set| names(set)).unwrap_or_default();
    let drop = object.get("drop").map_or(Ok(Vec::new()), |at| {
        let items = at.items(&bounds::CHANGES)?;
        let mut held: Vec<String> = Vec::new();
        each(&items, |at| {
            let name = changeable(at)?;
            if set_names.contains(&name.as_str()) {
                return Err(at.wrong("must not be set as well"));
            }
            if held.contains(&name) {
                return Err(at.wrong("duplicates another one"));
            }
            held.push(name.clone());
            Ok(name)
        })
    });
    let rename = object
        .get("rename")
        .map_or(Ok(Vec::new()), |at| renames(&at, &set_names, drop.as_deref().unwrap_or_default()));
    let changes = RequestChanges { set: set?, drop: drop?, rename: rename? };
    if changes.is_empty() { Err(at.refuse("must have set, drop or rename")) } else { Ok(changes) }
}

fn renames(at: &Cursor<'_>, set: &[&str], drop: &[String]) -> Read<Vec<(String, String)>> {
    let renames = named(at, changeable)?;
    let members = at.members()?;
    let mut outcome = Ok(());
    for (i, (from, to)) in renames.iter().enumerate() {
        let rule = match () {
            () if from == to => "must differ from the former name",
            () if set.contains(&from.as_str()) => "must not rename a member that is set",
            () if drop.contains(from) || drop.contains(to) => "must not rename a dropped member, or to one",
            () if renames.iter().take(i).any(|(_, held)| held == to) => {
                "must not be the new name of two members"
            }
            () => continue,
        };
        if let Some(member) = members.get(i) {
            outcome = Err(member.at.shown_values().wrong(rule));
        }
    }
    outcome.map(|()| renames)
}

fn names<T>(pairs: &[(String, T)]) -> Vec<&str> {
    pairs.iter().map(|(name, _)| name.as_str()).collect()
}

/// Reads the name of a member that a version may change.
fn changeable(at: &Cursor<'_>) -> Read<String> {
    let name = member_name(at)?;
    if name == "model" { Err(at.wrong("must not be model, which has a field of its own")) } else { Ok(name) }
}

/// Reads an object by members of the body.
fn named<T>(at: &Cursor<'_>, read: impl Fn(&Cursor<'_>) -> Read<T>) -> Read<Vec<(String, T)>> {
    let members = at.members()?;
    if !bounds::CHANGES.contains(&members.len()) {
        let rule = format!("must have 1 to {} fields", bounds::CHANGES.end());
        return Err(at.wrong_as(&rule, members.len().to_string()));
    }
    let mut outcome = Ok(());
    let mut values = Vec::new();
    for (i, member) in members.iter().enumerate() {
        let (name, at) = (member.name, member.at.shown_values());
        if members.iter().take(i).any(|held| held.name == name) {
            outcome = Err(at.refuse("duplicate field"));
        } else if name == "model" {
            outcome = Err(at.refuse("must not be model, which has a field of its own"));
        } else if !is_member_name(name) {
            outcome = Err(at.refuse("must stand under the name of a member of the body"));
        }
        match read(&at) {
            Ok(value) => values.push((name.to_owned(), value)),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| values)
}

/// Reports every field of a deployment without `llm` that needs it.
pub fn report_without_llm(deployment: &Object<'_>) {
    let refuse = |at: Option<Cursor<'_>>| {
        if let Some(at) = at {
            at.refuse(NEEDS_LLM);
        }
    };
    if let Some(at) = deployment.get("match") {
        refuse(at.peek("models"));
        refuse(at.peek("body"));
    }
    let lists: [(&'static str, [&'static str; 2]); 2] =
        [("versions", ["model", "request"]), ("rules", ["models", "body"])];
    for (list, fields) in lists {
        let Some(at) = deployment.get(list) else { continue };
        for item in at.elements() {
            fields.into_iter().for_each(|field| refuse(item.peek(field)));
        }
    }
    if let Some(sticky) = deployment.get("sticky")
        && let Some(on) = sticky.peek("on")
    {
        for source in on.elements() {
            refuse(source.peek("body"));
            refuse(source.peek("conversation"));
        }
    }
}

/// Sums up the parts of a body that a deployment reads.
pub fn wants(matches: &Match, rules: &[Rule], sticky: Option<&Sticky>, versions: &[Version]) -> Wants {
    let mut wants = Wants {
        model: !matches.models.is_empty()
            || rules.iter().any(|rule| !rule.models.is_empty())
            || versions.iter().any(|version| version.dialect.model.is_some()),
        ..Wants::default()
    };
    let conditions = rules.iter().flat_map(|rule| &rule.body).chain(&matches.body);
    conditions.for_each(|condition| wants.add_name(&condition.name));
    for source in sticky.iter().flat_map(|sticky| &sticky.on) {
        match source {
            IdentitySource::Body(BodyPath::Top(name)) => wants.add_name(name),
            IdentitySource::Body(BodyPath::Inner(parent, name)) => {
                let path = (parent.clone(), name.clone());
                if !wants.paths.contains(&path) {
                    wants.paths.push(path);
                }
            }
            IdentitySource::Conversation => wants.conversation = true,
            _ => {}
        }
    }
    for changes in versions.iter().map(|version| &version.dialect.request) {
        changes.set.iter().for_each(|(name, _)| wants.add_name(name));
        // The neighbours of a member that goes must be known.
        wants.whole |= !changes.drop.is_empty() || !changes.rename.is_empty();
    }
    wants
}
