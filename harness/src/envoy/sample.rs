//! The sample configuration, changed only where a test must: ports, paths, clusters, environment, plugin configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::options::{EnvoyOptions, Role};
use crate::workspace_root;

/// Nothing listens here, so a cluster that a test does not provide refuses connections.
const DEAD_PORT: u16 = 1;

/// The listener of the admin role in the samples.
pub(super) const ADMIN_LISTENER: &str = "bellwether-admin";

/// The sample's plugin configuration of the router, to start from.
///
/// # Errors
/// If the sample cannot be read.
pub fn router_config() -> Result<Value> {
    let mut resource = read_yaml(&workspace_root().join("envoy/ecds").join(Role::Router.file()))?;
    Ok(serde_json::from_str(config_text(&mut resource)?)?)
}

/// The files of one Envoy.
#[derive(Debug)]
pub(super) struct Sample {
    bootstrap: Value,
    /// By role, ready to be written.
    resources: BTreeMap<Role, Value>,
}

impl Sample {
    /// Reads the samples and fits them to `options` and to the directory they will be in.
    pub fn read(options: &mut EnvoyOptions, wasm: &Path, directory: &Path) -> Result<Sample> {
        let root = workspace_root().join("envoy");
        let mut bootstrap = read_yaml(&root.join(options.route.file()))?;
        free_ports(&mut bootstrap);
        move_ecds(&mut bootstrap, &directory.join("ecds"))?;
        if !options.keys_role {
            each_object(&mut bootstrap, &mut |object| {
                object.remove("upstream_http_filters");
            });
        }
        if !options.admin_role
            && let Some(listeners) = bootstrap["static_resources"]["listeners"].as_array_mut()
        {
            listeners.retain(|listener| listener["name"] != ADMIN_LISTENER);
        }
        if !options.clusters.is_empty() {
            set_clusters(&mut bootstrap, &options.clusters)?;
        }
        if let Some(edit) = options.edit.take() {
            edit(&mut bootstrap);
        }

        let mut sample = Sample { bootstrap, resources: BTreeMap::new() };
        let roles = [
            (Role::Router, true, &options.router_config),
            (Role::Keys, options.keys_role, &options.keys_config),
            (Role::Admin, options.admin_role, &options.admin_config),
        ];
        for (role, there, config) in roles {
            if !there {
                continue;
            }
            let mut resource = read_yaml(&root.join("ecds").join(role.file()))?;
            fit_module(&mut resource, wasm, options)?;
            if let Some(config) = config {
                set_config(&mut resource, &config.to_string())?;
            }
            sample.resources.insert(role, resource);
        }
        Ok(sample)
    }

    /// Writes the files into an empty directory.
    pub fn write(&self, directory: &Path) -> Result<()> {
        fs::write(directory.join("bootstrap.json"), self.bootstrap.to_string())?;
        fs::create_dir(directory.join("ecds"))?;
        for (role, resource) in &self.resources {
            fs::write(directory.join("ecds").join(role.file()), resource.to_string())?;
        }
        Ok(())
    }

    /// The roles this Envoy has.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        self.resources.keys().copied()
    }

    /// A role's resource with another plugin configuration.
    pub fn ecds(&self, role: Role, config: &str, version: &str) -> Result<Value> {
        let mut resource = self.resources.get(&role).context("no such role")?.clone();
        set_config(&mut resource, config)?;
        resource["version_info"] = json!(version);
        Ok(resource)
    }
}

/// Replaces a role's file the only way that Envoy notices: by a rename within the directory it watches.
pub(super) fn replace(directory: &Path, role: Role, text: &str) -> Result<()> {
    let ecds = directory.join("ecds");
    let file = tempfile::NamedTempFile::new_in(&ecds)?;
    fs::write(file.path(), text)?;
    file.persist(ecds.join(role.file()))?;
    Ok(())
}

/// JSON is YAML, so what is read as YAML is written as JSON and no YAML writer is needed.
fn read_yaml(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_norway::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// Lets Envoy choose the ports it listens on.
fn free_ports(bootstrap: &mut Value) {
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = json!(0);
    if let Some(listeners) = bootstrap["static_resources"]["listeners"].as_array_mut() {
        for listener in listeners {
            listener["address"]["socket_address"]["port_value"] = json!(0);
        }
    }
}

/// Points `envoy/ecds` to the copy.
fn move_ecds(bootstrap: &mut Value, ecds: &Path) -> Result<()> {
    let ecds = ecds.to_str().context("the temporary directory is not UTF-8")?;
    each_object(bootstrap, &mut |object| {
        for value in object.values_mut() {
            if let Some(rest) = value.as_str().and_then(|text| text.strip_prefix("envoy/ecds")) {
                *value = json!(format!("{ecds}{rest}"));
            }
        }
    });
    Ok(())
}

/// Gives the bootstrap these clusters and lets its routes reach them. The first is stable's.
fn set_clusters(bootstrap: &mut Value, wanted: &[(String, u16)]) -> Result<()> {
    let clusters =
        bootstrap["static_resources"]["clusters"].as_array_mut().context("the sample has no clusters")?;
    let template = clusters.first().cloned().context("the sample has no clusters")?;
    let aggregate = clusters.iter().find(|cluster| cluster.get("cluster_type").is_some()).cloned();
    clusters.iter_mut().for_each(|cluster| set_port(cluster, DEAD_PORT));
    let (stable, _) = wanted.first().context("no clusters")?;
    for (name, port) in wanted {
        let mut endpoints = template.clone();
        set_label(&mut endpoints, name);
        set_port(&mut endpoints, *port);
        let Some(aggregate) = aggregate.as_ref().filter(|_| name != stable) else {
            put_cluster(clusters, name, endpoints);
            continue;
        };
        let only = format!("{name}-only");
        let mut both = aggregate.clone();
        both["cluster_type"]["typed_config"]["clusters"] = json!([only, stable]);
        put_cluster(clusters, name, both);
        put_cluster(clusters, &only, endpoints);
    }

    // The sample itself has to list its own clusters wherever a route looks for one.
    let mut listed = BTreeSet::new();
    each_object(bootstrap, &mut |object| {
        if let Some(map) = object.get("exact_match_map").and_then(|value| value["map"].as_object()) {
            listed.extend(map.keys().cloned());
        }
    });
    each_object(bootstrap, &mut |object| {
        // The matcher route: one entry for each cluster of the test's own, made from any that is there.
        if let Some(map) = object.get_mut("exact_match_map").and_then(|value| value["map"].as_object_mut())
            && let Some(template) = map.values().next().cloned()
        {
            for (name, _) in wanted.iter().filter(|(name, _)| !listed.contains(name)) {
                let mut entry = template.clone();
                entry["action"]["typed_config"]["cluster"] = json!(name);
                map.insert(name.clone(), entry);
            }
        }
        // The default route.
        if let Some(route) = object.get_mut("route").and_then(|route| route.get_mut("cluster")) {
            *route = json!(stable);
        }
    });
    Ok(())
}

/// Puts a cluster in the place of the one of this name, or behind the others.
fn put_cluster(clusters: &mut Vec<Value>, name: &str, mut cluster: Value) {
    cluster["name"] = json!(name);
    if let Some(assignment) = cluster.get_mut("load_assignment") {
        assignment["cluster_name"] = json!(name);
    }
    match clusters.iter_mut().find(|cluster| cluster["name"] == json!(name)) {
        Some(there) => *there = cluster,
        None => clusters.push(cluster),
    }
}

/// Labels the endpoints with a cluster's name, where the sample has labels.
fn set_label(cluster: &mut Value, name: &str) {
    each_object(cluster, &mut |object| {
        if let Some(label) = object.get_mut("bellwether") {
            *label = json!({"cluster": name});
        }
    });
}

fn set_port(cluster: &mut Value, port: u16) {
    each_object(cluster, &mut |object| {
        if object.contains_key("port_value") {
            object.insert("port_value".to_owned(), json!(port));
        }
    });
}

/// Sets the module's path and the environment variables it may read.
fn fit_module(resource: &mut Value, wasm: &Path, options: &EnvoyOptions) -> Result<()> {
    let vm = plugin(resource)?.get_mut("vm_config").context("the sample has no vm_config")?;
    vm["code"]["local"]["filename"] = json!(wasm.canonicalize()?.to_str().context("path is not UTF-8")?);
    let names: Vec<&String> = options.env.iter().map(|(name, _)| name).collect();
    vm["environment_variables"]["host_env_keys"] = json!(names);
    Ok(())
}

/// Sets the plugin configuration, wrapped as the sample wraps it.
fn set_config(resource: &mut Value, config: &str) -> Result<()> {
    config.clone_into(config_text(resource)?);
    Ok(())
}

fn config_text(resource: &mut Value) -> Result<&mut String> {
    match plugin(resource)?["configuration"].pointer_mut("/secret/inline_string") {
        Some(Value::String(text)) => Ok(text),
        _ => bail!("the sample's configuration is not a GenericSecret"),
    }
}

fn plugin(resource: &mut Value) -> Result<&mut Value> {
    let plugin = resource.pointer_mut("/resources/0/typed_config/config");
    let plugin = plugin.context("the sample has no plugin")?;
    ensure!(plugin.is_object(), "the sample's plugin is not an object");
    Ok(plugin)
}

/// Calls `change` for every object in a document, outer ones first.
fn each_object(value: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            change(object);
            object.values_mut().for_each(|value| each_object(value, change));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| each_object(value, change)),
        _ => {}
    }
}
