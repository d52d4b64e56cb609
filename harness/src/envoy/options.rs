//! What an Envoy is started with.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::paths::{envoy_version, skipped};
/// Compiling the module takes most of it; a debug build of one on a busy machine takes longest.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

/// How a version's cluster reaches the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `bootstrap.yaml`: a retry may go to another cluster. Envoy 1.39 or newer.
    Matcher,
    /// `bootstrap-aggregate.yaml`: a retry may go to stable's endpoints within the canary's cluster. Any Envoy.
    Aggregate,
    /// `bootstrap-cluster-header.yaml`: a retry stays in its cluster. Any Envoy.
    ClusterHeader,
}

impl Route {
    /// All of them.
    pub const ALL: [Route; 3] = [Route::Matcher, Route::Aggregate, Route::ClusterHeader];

    /// Those in which a retry may go from a canary to stable.
    pub const WITH_FAILOVER: [Route; 2] = [Route::Matcher, Route::Aggregate];

    pub(super) fn file(self) -> &'static str {
        match self {
            Route::Matcher => "bootstrap.yaml",
            Route::Aggregate => "bootstrap-aggregate.yaml",
            Route::ClusterHeader => "bootstrap-cluster-header.yaml",
        }
    }

    /// The oldest Envoy that can do it, major and minor version.
    fn since(self) -> (u32, u32) {
        match self {
            // `refresh_cluster_on_retry`
            Route::Matcher => (1, 39),
            // The oldest that is tested.
            Route::Aggregate | Route::ClusterHeader => (1, 36),
        }
    }

    /// The path of the sample in the workspace.
    pub fn sample(self) -> String {
        format!("envoy/{}", self.file())
    }

    /// Those of `routes` that the Envoy under test can do. Each of the others is named on stderr, past any capture, as skipped in
    /// the running test.
    pub fn here(routes: &[Route]) -> Vec<Route> {
        let (can, cannot): (Vec<Route>, Vec<Route>) = routes.iter().partition(|route| route.works());
        for route in cannot {
            let (major, minor) = route.since();
            skipped(&format!("{route:?} needs Envoy {major}.{minor}"));
        }
        can
    }

    fn works(self) -> bool {
        // Whoever cannot be asked for its version is taken for a new one: it will say itself what it cannot do.
        envoy_version().is_none_or(|version| version >= self.since())
    }
}

impl Default for Route {
    /// What the Envoy under test does best: a test that does not care runs with failover.
    fn default() -> Self {
        if Route::Matcher.works() { Route::Matcher } else { Route::Aggregate }
    }
}

/// A role of the filter whose configuration is a resource of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The HTTP filter of the connection manager.
    Router,
    /// The upstream HTTP filter, which runs per attempt.
    Keys,
    /// The HTTP filter of the admin listener.
    Admin,
}

impl Role {
    pub(super) fn file(self) -> &'static str {
        match self {
            Role::Router => "router.yaml",
            Role::Keys => "keys.yaml",
            Role::Admin => "admin.yaml",
        }
    }

    /// The full name of a statistic of this role's configuration, for example of `update_rejected`.
    pub fn stat(self, name: &str) -> String {
        let prefix = match self {
            Role::Router => "http_filter.bellwether-router",
            Role::Keys => "upstream_http_filter.bellwether-keys",
            Role::Admin => "http_filter.bellwether-admin",
        };
        format!("extension_config_discovery.{prefix}.{name}")
    }
}

/// A change to a bootstrap.
pub type Edit = Box<dyn FnOnce(&mut Value) + Send>;

/// What an Envoy is started with; the default is the sample as it stands, with example keys and no providers.
pub struct EnvoyOptions {
    /// Which of the samples; default the one with failover that the Envoy under test can do.
    pub route: Route,
    /// Whether the keys role is there; default true.
    pub keys_role: bool,
    /// Whether the admin role and its listener are there; default true.
    pub admin_role: bool,
    /// Clusters and the ports of their providers. The first takes what matches no deployment. Clusters of the sample
    /// that are not among them refuse connections; those that the sample lacks are added to it and to its route.
    pub clusters: Vec<(String, u16)>,
    /// Envoy's whole environment. Every name is passed on to the module too.
    pub env: Vec<(String, String)>,
    /// The router's plugin configuration, `None` for the sample's.
    pub router_config: Option<Value>,
    /// The keys role's plugin configuration, `None` for the sample's.
    pub keys_config: Option<Value>,
    /// The admin role's plugin configuration, `None` for the sample's.
    pub admin_config: Option<Value>,
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
            admin_role: true,
            clusters: Vec::new(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            router_config: None,
            keys_config: None,
            admin_config: None,
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
