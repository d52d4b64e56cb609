//! What an Envoy is started with.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Compiling the module takes most of it; a debug build of one on a busy machine takes longest.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a version's cluster reaches the route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Route {
    /// `bootstrap.yaml`: a retry may go to another cluster. Envoy 1.39 or newer.
    #[default]
    Matcher,
    /// `bootstrap-cluster-header.yaml`: a retry stays in its cluster. Any Envoy.
    ClusterHeader,
}

impl Route {
    pub(super) fn file(self) -> &'static str {
        match self {
            Route::Matcher => "bootstrap.yaml",
            Route::ClusterHeader => "bootstrap-cluster-header.yaml",
        }
    }
}

/// A role of the filter whose configuration is a resource of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The HTTP filter of the connection manager.
    Router,
    /// The upstream HTTP filter, which runs per attempt.
    Keys,
}

impl Role {
    pub(super) fn file(self) -> &'static str {
        match self {
            Role::Router => "router.yaml",
            Role::Keys => "keys.yaml",
        }
    }

    /// The full name of a statistic of this role's configuration, for example of `update_rejected`.
    pub fn stat(self, name: &str) -> String {
        let prefix = match self {
            Role::Router => "http_filter.bellwether-router",
            Role::Keys => "upstream_http_filter.bellwether-keys",
        };
        format!("extension_config_discovery.{prefix}.{name}")
    }
}

/// A change to a bootstrap.
pub type Edit = Box<dyn FnOnce(&mut Value) + Send>;

/// What an Envoy is started with; the default is the sample as it stands, with example keys and no providers.
pub struct EnvoyOptions {
    /// Which of the two samples.
    pub route: Route,
    /// Whether the keys role is there; default true.
    pub keys_role: bool,
    /// Clusters and the ports of their providers. The first takes what matches no deployment. Clusters of the sample
    /// that are not among them refuse connections; those that the sample lacks are added to it and to its route.
    pub clusters: Vec<(String, u16)>,
    /// Envoy's whole environment. Every name is passed on to the module too.
    pub env: Vec<(String, String)>,
    /// The router's plugin configuration, `None` for the sample's.
    pub router_config: Option<Value>,
    /// The keys role's plugin configuration, `None` for the sample's.
    pub keys_config: Option<Value>,
    /// Whether a rejected first configuration is an Envoy that has started and not an error; default false.
    pub allow_rejected_config: bool,
    /// The module, `None` for [`wasm_path`](super::wasm_path).
    pub wasm: Option<PathBuf>,
    /// Number of workers; default 2, the least that has anything to share.
    pub concurrency: u32,
    /// The log level; default `info`.
    pub log_level: String,
    /// Levels by component, for example `wasm:debug,upstream:debug`; default none.
    pub component_log_level: String,
    /// Changes the bootstrap after everything else, for what has no option.
    pub edit: Option<Edit>,
    /// A command that runs Envoy: words put before its own command line, for example of a profiler; default none.
    pub launcher: Vec<OsString>,
    /// How long Envoy may take to start; default a minute.
    pub start_limit: Duration,
}

impl Default for EnvoyOptions {
    fn default() -> Self {
        let env = [("OPENAI_KEY_1", "sk-openai-one"), ("RELAY_KEY_1", "sk-relay-one")];
        EnvoyOptions {
            route: Route::default(),
            keys_role: true,
            clusters: Vec::new(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            router_config: None,
            keys_config: None,
            allow_rejected_config: false,
            wasm: None,
            concurrency: 2,
            log_level: "info".to_owned(),
            component_log_level: String::new(),
            edit: None,
            launcher: Vec::new(),
            start_limit: START_LIMIT,
        }
    }
}

impl EnvoyOptions {
    /// The same with one more cluster.
    #[must_use]
    pub fn cluster(mut self, name: &str, port: u16) -> EnvoyOptions {
        self.clusters.push((name.to_owned(), port));
        self
    }

    /// The same with one more environment variable, in place of an earlier one of this name.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> EnvoyOptions {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with this plugin configuration of the router.
    #[must_use]
    pub fn router_config(mut self, config: Value) -> EnvoyOptions {
        self.router_config = Some(config);
        self
    }
}

impl fmt::Debug for EnvoyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the environment: there are keys in it, if only a test's.
        f.debug_struct("EnvoyOptions")
            .field("route", &self.route)
            .field("keys_role", &self.keys_role)
            .field("clusters", &self.clusters)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}
