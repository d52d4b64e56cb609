//! Configuration: turns the operator's JSON document into a [`Plan`], or into the complete list of its problems.
//!
//! Each part of the document has a file, and all files have the same shape: a function takes a [`Cursor`], reads every field,
//! and only then fails or returns the checked part. [`crate::json`] says why serde's derive does not do this. Deserialization
//! into raw structs with a validation afterwards would not do it either: a raw struct has no paths, order or duplicates.
//!
//! References (a version's key pool, a rule's version) are looked up in the document, not in the result. So one mistake neither
//! hides another nor causes a second message.
//!
//! No problem shows a key. For a value below `key_pools[].keys`, in `set_headers` or in a secrets document, it shows at most the
//! kind.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::credentials;
use crate::json::{self, Cursor, Items, Member, Node, Read, Sink, each};
use crate::plan::index::Index;
use crate::plan::pool::Secret;
use crate::plan::{Alerts, Deployment, Plan};
use crate::problems::Problems;
use crate::time::Millis;

pub mod bounds; // every range of the configuration
mod condition; // `match` of a deployment, and conditions on headers
mod deployment; // `deployments[]`: versions, rules, sticky identities, failover
mod envelope; // finds the JSON document in the plugin configuration's bytes
mod guard; // `guard` and `recovery`
mod model; // `llm`: models, conditions on the body, changes of the body
mod pool; // `key_pools[]`: keys, their values, cooldowns
mod ramp; // `ramp` and its stages
mod rewrite; // `query` and `remove_headers`
mod structure; // a serialized protobuf `Struct` as JSON text
mod value; // single values: names, hosts, durations, percentages
mod wire; // protobuf's wire format

pub use envelope::document;

/// Compiles the `router`'s plugin configuration. A document that is passed by value is released as soon as it is parsed. `env`
/// reads an environment variable, for keys that name one.
///
/// # Errors
/// All problems, in document order.
pub fn compile(document: impl AsRef<[u8]>, env: &dyn Fn(&str) -> Option<String>) -> Result<Plan, Problems> {
    let text = envelope::document(document.as_ref())?;
    let mut root = json::parse(&text)?;
    // Envoy's YAML reader turns the decimals of a Struct into strings.
    let sink = if let Cow::Owned(_) = text { Sink::numbers_in_strings() } else { Sink::default() };
    // A VM's memory never shrinks: the plan reuses the memory that is released here.
    drop(text);
    drop(document);
    let plan = plan(&mut root, &sink, env);
    sink.finish(plan)
}

/// Reads the `keys` role's plugin configuration: `{}` or `{"secrets": {"NAME": "value"}}`, or nothing at all. Trims the values;
/// a doubled prefix stays, because only the pool knows the prefix.
///
/// # Errors
/// All problems, in document order, without any value.
pub fn secrets(document: &[u8]) -> Result<BTreeMap<String, Secret>, Problems> {
    if document.is_empty() {
        return Ok(BTreeMap::new());
    }
    let root = json::parse(&envelope::document(document)?)?;
    let sink = Sink::default();
    let secrets = named_secrets(&Cursor::root(&root, &sink).hidden());
    sink.finish(secrets)
}

/// Reads the `admin` role's plugin configuration: `{}` or `{"hosts": ["ops.example.com"]}`, or nothing at all. Returns the
/// hosts, in lower case, that requests to the admin listener may name besides IP addresses and `localhost`.
///
/// # Errors
/// All problems, in document order, without any value: the document may be another role's.
pub fn admin(document: &[u8]) -> Result<Vec<String>, Problems> {
    if document.is_empty() {
        return Ok(Vec::new());
    }
    let root = json::parse(&envelope::document(document)?)?;
    let sink = Sink::default();
    let hosts = admin_hosts(&Cursor::root(&root, &sink).hidden());
    sink.finish(hosts)
}

/// Reads the document of the `admin` role.
fn admin_hosts(at: &Cursor<'_>) -> Read<Vec<String>> {
    let object = at.object(&["hosts"])?;
    let Some(at) = object.get("hosts").map(Cursor::hidden) else { return Ok(Vec::new()) };
    let items = at.items(&bounds::ADMIN_HOSTS)?;
    each(&items, |at| value::host(at).map(|host| host.to_ascii_lowercase()))
}

/// Values from other parts of the document that a part needs.
struct Context<'a> {
    /// Reads an environment variable.
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Names of all pools, from [`texts`].
    pool_names: Read<Vec<String>>,
    /// Key headers of all pools, from [`texts`].
    pool_headers: Read<Vec<String>>,
    /// Names, in lower case, in `remove_headers` of each pool.
    pool_removed: Vec<Vec<String>>,
    cluster_header: String,
    version_header: Option<String>,
}

/// Default of `cluster_header`, which Envoy's route reads.
const CLUSTER_HEADER: &str = "x-bellwether-cluster";
/// Default of `version_header`, which names the version in responses.
const VERSION_HEADER: &str = "x-bellwether-version";
/// Default of `alerts.timeout`: an alert that takes longer is better sent again.
const ALERT_TIMEOUT: Millis = Millis(5_000);

/// Reads the whole document of the `router` role.
fn plan(root: &mut Node, sink: &Sink, env: &dyn Fn(&str) -> Option<String>) -> Read<Plan> {
    let at = Cursor::root(root, sink);
    let object = at.object(&["deployments", "key_pools", "cluster_header", "version_header", "alerts"])?;
    let cluster_header =
        object.get("cluster_header").map_or_else(|| Ok(CLUSTER_HEADER.to_owned()), |at| routing_header(&at));
    let version_header = match object.get("version_header") {
        None => Ok(Some(VERSION_HEADER.to_owned())),
        Some(at) if at.as_str() == Some("") => Ok(None),
        Some(at) => routing_header(&at).map(Some),
    };
    if let (Ok(cluster), Ok(Some(version))) = (&cluster_header, &version_header)
        && cluster == version
        && let Some(at) = object.get("version_header").or_else(|| object.get("cluster_header"))
    {
        at.wrong("must differ from the other of cluster_header and version_header");
    }

    let pools_at = object.get("key_pools").map(Cursor::hidden);
    let pool_items = match &pools_at {
        None => Ok(Items::default()),
        Some(at) => at.items(&bounds::POOLS),
    };
    let context = Context {
        env,
        pool_names: texts(&pool_items, "name"),
        pool_headers: texts(&pool_items, "header"),
        pool_removed: pool_items.as_ref().map_or(Vec::new(), removed_headers),
        cluster_header: cluster_header.clone().unwrap_or_else(|_| CLUSTER_HEADER.to_owned()),
        version_header: version_header.clone().unwrap_or_default(),
    };
    let pools = pool_items.and_then(|items| {
        unique(&items, "name");
        each(&items, |at| pool::pool(at, &context))
    });

    let complete = object.need("deployments").and_then(|at| {
        let items = at.items(&bounds::DEPLOYMENTS)?;
        unique(&items, "name");
        items.complete
    });
    let alerts = object.get("alerts").map(|at| alerts(&at)).transpose();
    let deployments = deployments(root, sink, &context);
    complete?;
    let deployments = deployments?;
    Ok(Plan {
        index: Index::new(deployments.iter().map(|deployment| &deployment.matches)),
        reads_bodies: deployments.iter().any(|deployment| deployment.llm.is_some()),
        deployments,
        pools: pools?,
        cluster_header: cluster_header?,
        version_header: version_header?,
        alerts: alerts?,
    })
}

/// Takes the deployments out of the tree, reads one after the other, and releases each: the tree is larger than the plan, and a
/// VM's memory never shrinks.
fn deployments(root: &mut Node, sink: &Sink, context: &Context<'_>) -> Read<Vec<Deployment>> {
    let nodes = root.take_items("deployments");
    let at = Cursor::root(root, sink);
    let Some(at) = at.peek("deployments") else { return Ok(Vec::new()) };
    let count = nodes.len().min(*bounds::DEPLOYMENTS.end());
    let mut deployments = Vec::with_capacity(count);
    let mut outcome = Ok(());
    for (n, node) in nodes.into_iter().take(count).enumerate() {
        match deployment::deployment(&at.element(n, &node), context) {
            Ok(deployment) => deployments.push(deployment),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| deployments)
}

/// Reads `cluster_header` or `version_header`.
fn routing_header(at: &Cursor<'_>) -> Read<String> {
    let name = value::header_name(at)?;
    if value::is_framing(&name) || credentials::HEADERS.contains(&name.as_str()) {
        return Err(at.wrong("must not be a header of the connection or of a credential"));
    }
    Ok(name)
}

/// Reads `alerts`.
fn alerts(at: &Cursor<'_>) -> Read<Alerts> {
    let object = at.object(&["cluster", "host", "path", "timeout"])?;
    let cluster = object.need("cluster").and_then(|at| value::cluster(&at));
    let host = object.need("host").and_then(|at| value::host(&at));
    // Hidden, because the path of a webhook is often its only credential.
    let path = object.need("path").and_then(|at| value::path(&at.hidden()));
    let timeout =
        object.get("timeout").map_or(Ok(ALERT_TIMEOUT), |at| value::duration(&at, &bounds::ALERT_TIMEOUT));
    Ok(Alerts { cluster: cluster?, host: host?, path: path?, timeout: timeout? })
}

/// Reads the document of the `keys` role.
fn named_secrets(at: &Cursor<'_>) -> Read<BTreeMap<String, Secret>> {
    let object = at.object(&["secrets"])?;
    let mut secrets = BTreeMap::new();
    let Some(at) = object.get("secrets").map(Cursor::hidden) else { return Ok(secrets) };
    for Member { name, at } in at.members()? {
        if !pool::is_secret_name(name) {
            at.refuse(pool::SECRET_NAME);
        }
        let Ok(raw) = at.string() else { continue };
        match pool::secret(raw) {
            Ok(secret) => {
                if secrets.insert(name.to_owned(), secret).is_some() {
                    at.refuse("duplicate field");
                }
            }
            Err(rule) => {
                at.refuse(rule);
            }
        }
    }
    Ok(secrets)
}

/// Returns the string in `field` of each item, for look-ups of references; empty where it is absent or no string. Other
/// problems of the items do not matter here.
///
/// # Errors
/// The list is not complete, so no reference can be judged.
fn texts(items: &Read<Items<'_>>, field: &'static str) -> Read<Vec<String>> {
    let items = items.as_ref().map_err(|reported| *reported)?;
    let text = |item: &Cursor<'_>| item.peek(field).and_then(|at| at.as_str().map(str::to_owned));
    items.complete.map(|()| items.cursors.iter().map(|item| text(item).unwrap_or_default()).collect())
}

/// Returns the names in `remove_headers` of each pool, in lower case. Problems of the pools do not matter here.
fn removed_headers(pools: &Items<'_>) -> Vec<Vec<String>> {
    let names = |pool: &Cursor<'_>| {
        let Some(at) = pool.peek("remove_headers") else { return Vec::new() };
        at.elements().iter().filter_map(|at| at.as_str().map(str::to_ascii_lowercase)).collect()
    };
    pools.cursors.iter().map(names).collect()
}

/// Reports each item with the same `field` as an earlier item, or with one that differs only by `.` and `_`. A metric's name
/// shows both characters as `_`, so that two items would share one series.
fn unique(items: &Items<'_>, field: &'static str) {
    let fold = |b: u8| if b == b'.' { b'_' } else { b };
    for (i, item) in items.cursors.iter().enumerate() {
        let Some(at) = item.peek(field) else { continue };
        let Some(name) = at.as_str() else { continue };
        for earlier in items.cursors.iter().take(i) {
            let Some(first) = earlier.peek(field) else { continue };
            let Some(held) = first.as_str() else { continue };
            if held == name {
                at.wrong(&format!("duplicates {}", first.path()));
                break;
            }
            if held.len() == name.len() && held.bytes().map(fold).eq(name.bytes().map(fold)) {
                at.wrong(&format!("differs from {} only by . and _, which metrics show alike", first.path()));
                break;
            }
        }
    }
}
