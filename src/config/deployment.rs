//! `deployments`: one gray release each, with its versions, rules, sticky identities and failover.

use crate::config::pool::DEFAULT_HEADER;
use crate::config::{Context, bounds, condition, guard, model, ramp, rewrite, texts, unique, value};
use crate::credentials;
use crate::headers::OWN_PREFIX;
use crate::json::{Cursor, Items, Member, Read, each};
use crate::plan::guard::Recovery;
use crate::plan::matching::Match;
use crate::plan::ramp::Ramp;
use crate::plan::split::Split;
use crate::plan::{Deployment, IdentitySource, PrefixRewrite, Rule, Sticky, Version};
use crate::units::{Bps, WHOLE};

/// Reads one deployment.
pub fn deployment(at: &Cursor<'_>, context: &Context<'_>) -> Read<Deployment> {
    let object = at.object(&[
        "name", "release", "match", "stable", "versions", "rules", "sticky", "failover", "guard", "recovery",
        "ramp", "llm",
    ])?;
    let name = object.need("name").and_then(|at| value::deployment_name(&at));
    let release = object.get("release").map_or_else(|| Ok("1".to_owned()), |at| value::release(&at));
    let matches = object.get("match").map_or(Ok(Match::default()), |at| condition::matches(&at));

    let versions_at = object.need("versions");
    let items = versions_at.as_ref().map_err(|reported| *reported).and_then(|at| at.items(&bounds::VERSIONS));
    let ids = texts(&items, "id");
    let ramped = object.get("ramp").is_some();
    let versions = items.and_then(|items| {
        unique(&items, "id");
        if !ramped {
            check_sum(&items);
        }
        each(&items, |at| version(at, ramped, context))
    });
    let stable = object.need("stable").and_then(|at| reference(&at, "version", &ids));
    let rules =
        object.get("rules").map_or(Ok(Vec::new()), |at| each(&at.items(&bounds::ANY)?, |at| rule(at, &ids)));
    let sticky = object.get("sticky").map(|at| sticky(&at)).transpose();
    let failover = object.get("failover").map_or(Ok(Some(1)), |at| failover(&at));
    let guard =
        object.get("guard").map_or_else(|| Ok(guard::default()), |at| guard::guard(&at, &guard::default()));
    let recovery = object.get("recovery").map_or(Ok(Recovery::Hold), |at| guard::recovery(&at));
    let ramp = object
        .get("ramp")
        .map(|at| {
            if let Ok(ids) = &ids
                && ids.len() != 2
            {
                at.wrong_as("needs exactly two versions", ids.len().to_string());
            }
            ramp::ramp(&at, guard.as_ref().unwrap_or(&guard::default()))
        })
        .transpose();

    let llm = object.get("llm").map(|at| model::llm(&at)).transpose();
    if object.get("llm").is_none() {
        model::report_without_llm(&object);
    }

    let (name, release) = (name?, release?);
    let (sticky, salt) = sticky?.unzip();
    let salt = salt.flatten().unwrap_or_else(|| format!("{name}/{release}"));
    let (stable, versions, ramp) = (stable?, versions?, ramp?);
    let (matches, rules) = (matches?, rules?);
    Ok(Deployment {
        wants: model::wants(&matches, &rules, sticky.as_ref(), &versions),
        llm: llm?,
        split: split(stable, &versions, ramp.as_ref()),
        name,
        release,
        matches,
        stable,
        versions,
        rules,
        sticky,
        salt,
        failover: failover?,
        guard: guard?,
        recovery: recovery?,
        ramp,
    })
}

/// Reads a name and returns its index in `known`. Nothing is reported if the list itself has a problem.
fn reference(at: &Cursor<'_>, what: &str, known: &Read<Vec<String>>) -> Read<usize> {
    let name = at.string()?;
    let known = known.as_ref().map_err(|reported| *reported)?;
    if let Some(index) = known.iter().position(|id| id == name).filter(|_| !name.is_empty()) {
        return Ok(index);
    }
    let mut rule = format!("unknown {what}");
    let mut before = ", expected one of ";
    for id in known.iter().filter(|id| value::is_id(id)).take(LISTED_MAX) {
        rule.push_str(before);
        rule.push_str(id);
        before = ", ";
    }
    if known.len() > LISTED_MAX {
        rule.push_str(", …");
    }
    Err(at.wrong(&rule))
}

/// Names that a message lists: as many as a deployment can have versions.
const LISTED_MAX: usize = 16;

/// Checks that the weights sum to 100. The problem is reported at the last weight, and only if all weights could be read.
fn check_sum(items: &Items<'_>) {
    let mut sum: u32 = 0;
    for item in &items.cursors {
        let Some(weight) = item.peek("weight").and_then(|at| value::as_percent(&at)) else { return };
        sum = sum.saturating_add(u32::from(weight.get()));
    }
    if items.complete.is_err() || sum == u32::from(WHOLE) {
        return;
    }
    if let Some(last) = items.cursors.last().and_then(|item| item.peek("weight")) {
        let (whole, hundredths) = (sum / 100, format!("{:02}", sum % 100));
        let got = format!("{whole}.{hundredths}");
        last.wrong_as("weights must sum to 100", got.trim_end_matches('0').trim_end_matches('.').to_owned());
    }
}

/// Reads one version; under a ramp it has no weight.
fn version(at: &Cursor<'_>, ramped: bool, context: &Context<'_>) -> Read<Version> {
    let object = at.object(&[
        "id",
        "weight",
        "cluster",
        "key_pool",
        "host",
        "rewrite_prefix",
        "set_headers",
        "model",
        "request",
        "query",
        "remove_headers",
    ])?;
    let id = object.need("id").and_then(|at| value::id(&at));
    let weight = match (object.get("weight"), ramped) {
        (Some(at), true) => Err(at.wrong("must be absent when ramp is given")),
        (None, true) => Ok(None),
        _ => object.need("weight").and_then(|at| value::percent(&at)).map(Some),
    };
    let cluster = object.need("cluster").and_then(|at| value::cluster(&at));
    let pool = object.get("key_pool").map(|at| reference(&at, "key pool", &context.pool_names)).transpose();
    let host = object.get("host").map(|at| value::host(&at)).transpose();
    let rewrite_prefix = object.get("rewrite_prefix").map(|at| rewrite_prefix(&at)).transpose();
    let pooled = object.get("key_pool").is_some();
    let index = pool.ok().flatten();
    let pool_header = index.and_then(|index| context.pool_headers.as_ref().ok()?.get(index));
    let pool_header = pool_header.map(|name| if name.is_empty() { DEFAULT_HEADER } else { name });
    let mut reserved = vec![context.cluster_header.as_str()];
    reserved.extend(pool_header);
    if pooled {
        reserved.extend(credentials::RESERVED);
    }
    let removed = index.and_then(|index| context.pool_removed.get(index));
    reserved.extend(removed.into_iter().flatten().map(String::as_str));
    let set_headers =
        object.get("set_headers").map_or(Ok(Vec::new()), |at| set_headers(&at.hidden(), &reserved));
    let dialect = model::dialect(&object);
    let query = object.get("query").map_or(Ok(Vec::new()), |at| rewrite::query(&at.hidden(), pooled));
    let set = set_headers.as_ref().map_or(&[][..], Vec::as_slice).iter().map(|(name, _)| name.as_str());
    let own: Vec<&str> = set.chain(pool_header).collect();
    let remove_headers =
        object.get("remove_headers").map_or(Ok(Vec::new()), |at| rewrite::remove_headers(&at, &own, context));
    Ok(Version {
        id: id?,
        weight: weight?,
        cluster: cluster?,
        pool: pool?,
        host: host?,
        rewrite_prefix: rewrite_prefix?,
        query: query?,
        remove_headers: remove_headers?,
        set_headers: set_headers?,
        dialect: dialect?,
    })
}

/// Reads `rewrite_prefix`.
fn rewrite_prefix(at: &Cursor<'_>) -> Read<PrefixRewrite> {
    let object = at.object(&["from", "to"])?;
    let from = object.need("from").and_then(|at| value::path(&at));
    let to = object.need("to").and_then(|at| value::path(&at));
    Ok(PrefixRewrite { from: from?, to: to? })
}

/// Reads `set_headers`. Bellwether itself sets or removes the headers in `reserved` on requests of this version.
fn set_headers(at: &Cursor<'_>, reserved: &[&str]) -> Read<Vec<(String, String)>> {
    let mut headers = Vec::new();
    let mut outcome = Ok(());
    let members = at.members()?;
    if members.len() > bounds::SET_HEADERS_MAX {
        let rule = format!("must have at most {} fields", bounds::SET_HEADERS_MAX);
        return Err(at.wrong_as(&rule, members.len().to_string()));
    }
    for (i, Member { name, at }) in members.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        if !value::is_token(name) {
            outcome = Err(at.refuse("must be an HTTP header name"));
        } else if value::is_framing(&lower) {
            outcome = Err(at.refuse("must not be set, it is a header of the connection"));
        } else if lower.starts_with(OWN_PREFIX) || reserved.iter().any(|own| own.eq_ignore_ascii_case(&lower))
        {
            outcome = Err(at.refuse("must not be set, Bellwether sets or removes it"));
        } else if let Some(first) =
            members.iter().take(i).find(|earlier| earlier.name.eq_ignore_ascii_case(name))
        {
            outcome = Err(at.refuse(&format!("duplicates {}", first.at.path())));
        }
        match value::header_value(at) {
            Ok(value) => headers.push((lower, value)),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| headers)
}

/// Reads one rule.
fn rule(at: &Cursor<'_>, ids: &Read<Vec<String>>) -> Read<Rule> {
    let object = at.object(&["headers", "models", "body", "version", "percent", "after_rollback"])?;
    let (models_at, body_at) = (object.get("models"), object.get("body"));
    let headers = match object.get("headers") {
        None if models_at.is_some() || body_at.is_some() => Ok(Vec::new()),
        _ => object.need("headers").and_then(|at| condition::conditions(&at)),
    };
    let models = models_at.map_or(Ok(Vec::new()), |at| model::patterns(&at));
    let body = body_at.map_or(Ok(Vec::new()), |at| model::conditions(&at));
    let version = object.need("version").and_then(|at| reference(&at, "version", ids));
    let percent = object.get("percent").map_or(Ok(Bps::ALL), |at| value::percent(&at));
    let keep_after_rollback =
        object.get("after_rollback").map_or(Ok(false), |at| at.choice(&["stable", "keep"]).map(|i| i == 1));
    Ok(Rule {
        headers: headers?,
        models: models?,
        body: body?,
        version: version?,
        percent: percent?,
        keep_after_rollback: keep_after_rollback?,
    })
}

/// Reads `sticky`, as the identities and the salt.
fn sticky(at: &Cursor<'_>) -> Read<(Sticky, Option<String>)> {
    let object = at.object(&["on", "salt"])?;
    let on = object.need("on").and_then(|at| each(&at.items(&bounds::SOME)?, identity));
    let salt = object.get("salt").map(|at| value::not_empty(&at)).transpose();
    Ok((Sticky { on: on? }, salt?))
}

/// Reads one source of identities.
fn identity(at: &Cursor<'_>) -> Read<IdentitySource> {
    const SOURCES: [&str; 5] = ["header", "cookie", "client_address", "body", "conversation"];
    let object = at.object(&SOURCES)?;
    let is_true = |at: &Cursor<'_>, source| match at.as_bool() {
        Some(true) => Ok(source),
        _ => Err(at.wrong("must be true")),
    };
    let mut found = SOURCES.into_iter().filter_map(|source| {
        let at = object.get(source)?;
        Some(match source {
            "header" => value::header_asked_for(&at).map(IdentitySource::Header),
            "cookie" => value::cookie_name(&at).map(IdentitySource::Cookie),
            "client_address" => is_true(&at, IdentitySource::ClientAddress),
            "body" => model::body_path(&at),
            _ => is_true(&at, IdentitySource::Conversation),
        })
    });
    match (found.next(), found.next()) {
        (Some(one), None) => one,
        _ => Err(at.refuse(&format!("must have exactly one of {}", SOURCES.join(", ")))),
    }
}

/// Reads `failover`; `None` for never.
fn failover(at: &Cursor<'_>) -> Read<Option<u32>> {
    if at.as_bool() == Some(false) {
        return Ok(None);
    }
    if !at.is_object() {
        return Err(at.wrong("must be an object or false"));
    }
    let object = at.object(&["after"])?;
    object.get("after").map_or(Ok(Some(1)), |at| at.integer(&bounds::FAILOVER_AFTER).map(Some))
}

/// Computes the split by the configured weights, or under a ramp by the weight of its first stage.
fn split(stable: usize, versions: &[Version], ramp: Option<&Ramp>) -> Split {
    let first = ramp.and_then(|ramp| ramp.stages.first()).map(|stage| stage.weight);
    let weight = |version: &Version| version.weight.or(first).unwrap_or(Bps::ZERO);
    let weights: Vec<Bps> = versions.iter().map(weight).collect();
    Split::new(stable, &weights)
}
