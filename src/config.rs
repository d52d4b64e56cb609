//! Configuration: from the operator's JSON document to a [`Plan`], or to the complete list of what is wrong with it.
//!
//! One file for each part of the document, all of the same shape: a function takes a [`Cursor`], reads every field before
//! it gives up on any, and returns the checked part. Not derived with serde, which stops at the first problem: whoever
//! pushes a configuration gets one rejection to read, and it should be the last one. Not in two stages (raw structs,
//! then validation) either: a raw struct has lost the paths, the order and the duplicates.
//!
//! What a part means to another (a version's key pool, a rule's version) is looked up in the document, not in the result,
//! so that one mistake does not hide another or cause a second message.
//!
//! No problem shows a key: values below `key_pools[].keys`, of `set_headers` and of a secrets document are named by
//! their kind at most.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::headers::CLIENT_CREDENTIALS;
use crate::json::{self, Cursor, Items, Node, Read, Sink, each};
use crate::plan::index::Index;
use crate::plan::pool::Secret;
use crate::plan::{Alerts, Deployment, Plan};
use crate::problems::Problems;
use crate::time::Millis;

pub mod bounds;
mod condition;
mod deployment;
mod envelope;
mod guard;
mod pool;
mod ramp;
mod structure;
mod value;
mod wire;

pub use envelope::document;

/// Compiles the `router`'s plugin configuration, and releases it as soon as it is read, if it is handed over. `env` reads an
/// environment variable, for keys that name one.
///
/// # Errors
/// Everything that is wrong with it, in document order.
pub fn compile(document: impl AsRef<[u8]>, env: &dyn Fn(&str) -> Option<String>) -> Result<Plan, Problems> {
    let text = envelope::document(document.as_ref())?;
    let mut root = json::parse(&text)?;
    // A Struct from a YAML file has its decimals as strings: Envoy's YAML reader knows no others.
    let sink = if let Cow::Owned(_) = text { Sink::numbers_in_strings() } else { Sink::default() };
    // What is released here the plan uses again: a VM's memory never shrinks.
    drop(text);
    drop(document);
    let plan = plan(&mut root, &sink, env);
    sink.finish(plan)
}

/// Reads the `keys` role's plugin configuration: `{}` or `{"secrets": {"NAME": "value"}}`, or nothing at all. Values are
/// trimmed; a doubled prefix is the pool's to remove.
///
/// # Errors
/// Everything that is wrong with it, in document order, without any value.
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
/// hosts, in lower case, by which the admin listener may be asked besides IP addresses and `localhost`.
///
/// # Errors
/// Everything that is wrong with it, in document order, without any value: it may be another role's document.
pub fn admin(document: &[u8]) -> Result<Vec<String>, Problems> {
    if document.is_empty() {
        return Ok(Vec::new());
    }
    let root = json::parse(&envelope::document(document)?)?;
    let sink = Sink::default();
    let hosts = admin_hosts(&Cursor::root(&root, &sink).hidden());
    sink.finish(hosts)
}

fn admin_hosts(at: &Cursor<'_>) -> Read<Vec<String>> {
    let object = at.object(&["hosts"])?;
    let Some(at) = object.get("hosts").map(Cursor::hidden) else { return Ok(Vec::new()) };
    let items = at.items(&bounds::ADMIN_HOSTS)?;
    each(&items, |at| value::host(at).map(|host| host.to_ascii_lowercase()))
}

/// What a part of the document has to know of the others.
struct Surroundings<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Names of the pools, as the document has them; see [`texts`].
    pool_names: Read<Vec<String>>,
    /// Their headers, likewise.
    pool_headers: Read<Vec<String>>,
    cluster_header: String,
    version_header: Option<String>,
}

/// Read by the route's `cluster_header`.
const CLUSTER_HEADER: &str = "x-bellwether-cluster";
/// Names the version in responses.
const VERSION_HEADER: &str = "x-bellwether-version";
/// An alert that takes longer is better repeated.
const ALERT_TIMEOUT: Millis = Millis(5_000);

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
    let surroundings = Surroundings {
        env,
        pool_names: texts(&pool_items, "name"),
        pool_headers: texts(&pool_items, "header"),
        cluster_header: cluster_header.clone().unwrap_or_else(|_| CLUSTER_HEADER.to_owned()),
        version_header: version_header.clone().unwrap_or_default(),
    };
    let pools = pool_items.and_then(|items| {
        unique(&items, "name");
        each(&items, |at| pool::pool(at, &surroundings))
    });

    let complete = object.need("deployments").and_then(|at| {
        let items = at.items(&bounds::DEPLOYMENTS)?;
        unique(&items, "name");
        items.complete
    });
    let alerts = object.get("alerts").map(|at| alerts(&at)).transpose();
    let deployments = deployments(root, sink, &surroundings);
    complete?;
    let deployments = deployments?;
    Ok(Plan {
        index: Index::new(deployments.iter().map(|deployment| &deployment.matches)),
        deployments,
        pools: pools?,
        cluster_header: cluster_header?,
        version_header: version_header?,
        alerts: alerts?,
    })
}

/// Takes the deployments out of the tree and reads one after the other, releasing each when it has been read: the tree is larger
/// than the plan, and a VM's memory never shrinks.
fn deployments(root: &mut Node, sink: &Sink, surroundings: &Surroundings<'_>) -> Read<Vec<Deployment>> {
    let nodes = root.take_items("deployments");
    let at = Cursor::root(root, sink);
    let Some(at) = at.peek("deployments") else { return Ok(Vec::new()) };
    let count = nodes.len().min(*bounds::DEPLOYMENTS.end());
    let mut deployments = Vec::with_capacity(count);
    let mut outcome = Ok(());
    for (n, node) in nodes.into_iter().take(count).enumerate() {
        match deployment::deployment(&at.element(n, &node), surroundings) {
            Ok(deployment) => deployments.push(deployment),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| deployments)
}

/// `cluster_header` and `version_header`.
fn routing_header(at: &Cursor<'_>) -> Read<String> {
    let name = value::header_name(at)?;
    if value::is_framing(&name) || CLIENT_CREDENTIALS.contains(&name.as_str()) {
        return Err(at.wrong("must not be a header of the connection or of a credential"));
    }
    Ok(name)
}

fn alerts(at: &Cursor<'_>) -> Read<Alerts> {
    let object = at.object(&["cluster", "host", "path", "timeout"])?;
    let cluster = object.need("cluster").and_then(|at| value::cluster(&at));
    let host = object.need("host").and_then(|at| value::host(&at));
    // Whoever knows the path of a webhook may post to it.
    let path = object.need("path").and_then(|at| value::path(&at.hidden()));
    let timeout =
        object.get("timeout").map_or(Ok(ALERT_TIMEOUT), |at| value::duration(&at, &bounds::ALERT_TIMEOUT));
    Ok(Alerts { cluster: cluster?, host: host?, path: path?, timeout: timeout? })
}

fn named_secrets(at: &Cursor<'_>) -> Read<BTreeMap<String, Secret>> {
    let object = at.object(&["secrets"])?;
    let mut secrets = BTreeMap::new();
    let Some(at) = object.get("secrets").map(Cursor::hidden) else { return Ok(secrets) };
    for (name, at) in at.members()? {
        if !pool::is_secret_name(name) {
            at.refuse(pool::SECRET_NAME);
        }
        let Ok(raw) = at.string() else { continue };
        match pool::clean(raw, "") {
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

/// The string in the field `field` of each item, as the document has it, so that references can be looked up whatever else
/// is wrong; one that is absent or not a string is empty. Without the complete list, nothing can be said.
fn texts(items: &Read<Items<'_>>, field: &'static str) -> Read<Vec<String>> {
    let items = items.as_ref().map_err(|reported| *reported)?;
    let text = |item: &Cursor<'_>| item.peek(field).and_then(|at| at.as_str().map(str::to_owned));
    items.complete.map(|()| items.cursors.iter().map(|item| text(item).unwrap_or_default()).collect())
}

/// Reports every item whose field `field` is that of an earlier item, or differs from it only by `.` and `_`: a metric's
/// name shows both as `_`, and two owners would be one series.
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
