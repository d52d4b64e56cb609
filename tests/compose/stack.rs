//! The containers of `envoy/compose.yaml`, a set of them for each test.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::{Role, router_config, sum_metric};
use bellwether_harness::load::until;
use bellwether_harness::provider::Behaviour;
use bellwether_harness::workspace_root;
use serde_json::{Value, json};

/// Envoy needs seconds at most for each awaited step; a container engine on a busy machine needs tens of seconds.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The variables of the ports that `envoy/compose.yaml` publishes.
const PORTS: [&str; 6] =
    ["ENVOY_PORT", "ENVOY_ADMIN_PORT", "PAGE_PORT", "V1_PORT", "V2_PORT", "PROMETHEUS_PORT"];

/// Running containers; dropping it removes them, and prints the end of Envoy's log if the thread is panicking.
pub struct Stack {
    project: String,
    /// Where the containers' `envoy/` is on this machine.
    directory: PathBuf,
    ports: [u16; PORTS.len()],
    /// The last `version_info` written.
    version: AtomicU32,
}

impl Stack {
    /// Starts Envoy, both providers and these services under a project name and on ports of their own.
    pub async fn up(more: &[&str]) -> Stack {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let project = format!("bellwether-test-{}-{number}", std::process::id());
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&project);
        let files =
            Command::new(workspace_root().join("harness/scripts/compose-files")).arg(&directory).status();
        assert!(files.unwrap().success(), "harness/scripts/compose-files failed");
        // All are bound at a time, so that none is there twice.
        let bound = PORTS.map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let ports = bound.map(|listener| listener.local_addr().unwrap().port());
        let stack = Stack { project, directory, ports, version: AtomicU32::new(1) };
        stack.compose(&[&["up", "--detach", "envoy", "v1", "v2"], more].concat());
        let ready = async || stack.admin().get("/ready", &[]).await.is_ok_and(|answer| answer.status == 200);
        assert!(until(LIMIT, ready).await, "Envoy is not ready\n{}", stack.envoy_log());
        for (name, cluster) in [("v1", "openai"), ("v2", "relay")] {
            let found = format!("cluster.{cluster}.membership_healthy");
            let found = async || {
                stack.provider(name).is_up().await && stack.stat(&found).await.as_deref() == Some("1")
            };
            assert!(until(LIMIT, found).await, "Envoy does not find {name}\n{}", stack.envoy_log());
        }
        stack
    }

    fn port(&self, name: &str) -> u16 {
        let index = PORTS.iter().position(|known| *known == name);
        *self.ports.get(index.expect("a port of compose.yaml")).unwrap()
    }

    /// A new client of Envoy.
    pub fn client(&self) -> Client {
        Client::new(self.port("ENVOY_PORT"))
    }

    /// A new client of the filter's admin role.
    pub fn page(&self) -> Client {
        Client::new(self.port("PAGE_PORT"))
    }

    /// A new client of Envoy's admin interface.
    pub fn admin(&self) -> Client {
        Client::new(self.port("ENVOY_ADMIN_PORT"))
    }

    /// A new client of Prometheus.
    pub fn prometheus(&self) -> Client {
        Client::new(self.port("PROMETHEUS_PORT"))
    }

    /// A provider as it is published on this machine, which does not go through Envoy.
    pub fn provider(&self, name: &str) -> Remote {
        Remote(Client::new(self.port(if name == "v1" { "V1_PORT" } else { "V2_PORT" })))
    }

    /// Runs compose with these arguments and returns its standard output.
    pub fn compose(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(workspace_root().join("harness/scripts/compose"));
        command
            .args(arguments)
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("BELLWETHER_DIRECTORY", &self.directory)
            .envs(PORTS.iter().zip(self.ports).map(|(name, port)| (name, port.to_string())));
        String::from_utf8_lossy(&run(command).stdout).into_owned()
    }

    /// The container of a service, running or not.
    pub fn container(&self, service: &str) -> String {
        self.compose(&["ps", "--quiet", service]).trim().to_owned()
    }

    /// Disconnects a provider from the network on which Envoy reaches it.
    pub fn cut_off(&self, provider: &str) {
        let network = format!("{}_providers", self.project);
        docker(&["network", "disconnect", &network, &self.container(provider)]);
    }

    /// The opposite of [`cut_off`](Stack::cut_off).
    pub fn connect(&self, provider: &str) {
        let network = format!("{}_providers", self.project);
        docker(&["network", "connect", "--alias", provider, &network, &self.container(provider)]);
    }

    /// Envoy's standard output and standard error so far.
    pub fn envoy_log(&self) -> String {
        let Output { stdout, stderr, .. } = docker(&["logs", &self.container("envoy")]);
        String::from_utf8_lossy(&[stderr, stdout].concat()).into_owned()
    }

    /// The events that the filter has logged, oldest first.
    pub fn events(&self) -> Vec<String> {
        let log = self.envoy_log();
        log.lines().filter(|line| line.contains("{\"bellwether\"")).map(str::to_owned).collect()
    }

    /// The router's configuration of the sample with these shares, in percent, and without comparison of versions:
    /// providers that answer in no time are as slow as the machine is busy, and one of them may be slower for a while.
    pub fn config(release: &str, stable: u32, canary: u32) -> Value {
        let mut config = router_config().unwrap();
        let deployment = config.pointer_mut("/deployments/0").unwrap();
        deployment["release"] = json!(release);
        deployment["guard"]["compare"] = json!(false);
        // A canary dies at once here, and nothing else may bring it back.
        deployment["guard"]["max_consecutive_errors"] = json!(5);
        deployment["recovery"] = json!({"mode": "hold"});
        deployment["versions"][0]["weight"] = json!(stable);
        deployment["versions"][1]["weight"] = json!(canary);
        config
    }

    /// Renames a new configuration of the router into its place on this machine, and does not wait for Envoy.
    pub fn write(&self, config: &Value) -> String {
        let version = (self.version.fetch_add(1, Ordering::Relaxed) + 1).to_string();
        let sample = fs::read_to_string(workspace_root().join("envoy/ecds/router.yaml")).unwrap();
        let (head, _) = sample.split_once("inline_string: |").expect("the sample's document is a block");
        // JSON is YAML, a string of it too.
        let text = format!("{head}inline_string: {}\n", Value::String(config.to_string()));
        let text = text.replacen("\nversion_info: \"1\"\n", &format!("\nversion_info: \"{version}\"\n"), 1);
        let router = self.directory.join("ecds/router.yaml");
        fs::write(router.with_extension("new"), text).unwrap();
        fs::rename(router.with_extension("new"), router).unwrap();
        version
    }

    /// Gives the router another configuration and waits until it is in force.
    pub async fn reload(&self, config: &Value) {
        let version = self.write(config);
        let stat = Role::Router.stat("version_text");
        let taken = async || self.stat(&stat).await.is_some_and(|text| text == version);
        assert!(until(LIMIT, taken).await, "version {version} is not in force\n{}", self.envoy_log());
    }

    /// A statistic of Envoy as text, without quotes.
    pub async fn stat(&self, name: &str) -> Option<String> {
        let answer = self.admin().get(&format!("/stats?filter={name}"), &[]).await.ok()?;
        let text = answer.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
        Some(line.trim_matches('"').to_owned())
    }

    /// The sum of a metric, 0 without any.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = self.admin().get("/stats/prometheus", &[]).await.unwrap();
        sum_metric(&page.text(), name, labels)
    }

    /// Waits for the rollback of the only deployment.
    pub async fn wait_rolled_back(&self) {
        let rolled_back = async || self.metric("bellwether_phase", &[]).await == 3.0;
        assert!(until(LIMIT, rolled_back).await, "no rollback\n{}", self.envoy_log());
    }

    /// Waits until a request is served by this version: any for v1, and for v2 one that the sample's rule for testers sends
    /// there, also when it is rolled back.
    pub async fn wait_served_by(&self, version: &str) {
        let client = self.client();
        let served = async || {
            let answer = client.send(Request::chat(false).header("x-test-version", version)).await;
            answer.is_ok_and(|answer| answer.status == 200 && answer.version() == Some(version))
        };
        assert!(until(LIMIT, served).await, "{version} serves nothing\n{}", self.envoy_log());
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.envoy_log();
            let lines: Vec<&str> = log.lines().filter(|line| line.len() < 1000).collect();
            let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            eprintln!("--- end of Envoy's log ---\n{}\n---", tail.join("\n"));
        }
        self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "1"]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A provider in a container, by its control interface.
pub struct Remote(Client);

impl Remote {
    /// Replaces its behaviour.
    pub async fn set(&self, behaviour: &Behaviour) {
        self.send("PUT", "behaviour", json!(behaviour).to_string()).await;
    }

    /// Whether it answers.
    async fn is_up(&self) -> bool {
        self.0.get("/health", &[]).await.is_ok_and(|answer| answer.status == 200)
    }

    /// Forgets the requests it has received.
    pub async fn clear(&self) {
        self.send("DELETE", "requests", String::new()).await;
    }

    /// How many requests it has received.
    pub async fn count(&self) -> u64 {
        self.requests().await["count"].as_u64().unwrap()
    }

    /// The keys of the last thousand requests that it has received, each once.
    pub async fn keys(&self) -> Vec<String> {
        let requests = self.requests().await;
        let requests = requests["requests"].as_array().unwrap();
        let mut keys: Vec<String> =
            requests.iter().map(|request| request["key"].as_str().unwrap_or("none").to_owned()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    async fn requests(&self) -> Value {
        self.send("GET", "requests", String::new()).await
    }

    async fn send(&self, method: &str, resource: &str, body: String) -> Value {
        let request = Request::post(&format!("/_mock/{resource}"), body);
        let request = Request { method: method.parse().unwrap(), ..request };
        let answer = self.0.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{method} {resource}: {}", answer.text());
        serde_json::from_str(&answer.text()).unwrap()
    }
}

fn docker(arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(arguments);
    run(command)
}

/// Runs a command; fails if it fails, but not twice.
fn run(mut command: Command) -> Output {
    let output = command.output().expect("the command can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || std::thread::panicking(), "{command:?}: {error}");
    output
}
