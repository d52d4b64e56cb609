//! An Envoy and two providers, a client for each of its workers, and the traces that a crash of the filter leaves behind.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bellwether_harness::client::{Answer, Client, Request};
use bellwether_harness::envoy::{EnvoyOptions, EnvoyProcess, Role};
use bellwether_harness::provider::{Provider, Received};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// On loopback each awaited event takes milliseconds; on a busy machine, seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A point in time after which a test has waited long enough.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// Twenty seconds from now.
    pub fn soon() -> Deadline {
        Deadline(Instant::now() + LIMIT)
    }

    /// Fails with the message of `context` when the time is up; otherwise waits a moment for the next look.
    pub async fn next(self, context: impl FnOnce() -> String) {
        assert!(Instant::now() < self.0, "not within {LIMIT:?}: {}", context());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An Envoy and a provider behind each of the sample's clusters.
pub struct Rig {
    pub envoy: EnvoyProcess,
    pub openai: Provider,
    pub relay: Provider,
}

impl Rig {
    /// Starts them; `openai` gets all requests that match no deployment.
    pub async fn start(options: EnvoyOptions) -> Rig {
        let openai = Provider::start("openai").await.unwrap();
        let relay = Provider::start("relay").await.unwrap();
        let options = options.cluster("openai", openai.port()).cluster("relay", relay.port());
        Rig { envoy: EnvoyProcess::start(options).await.unwrap(), openai, relay }
    }

    /// Starts them with this configuration of the router, and else the defaults.
    pub async fn configured(router: Value) -> Rig {
        Rig::start(EnvoyOptions::default().router_config(router)).await
    }

    /// The requests that both received since the last call, those of `openai` first.
    pub fn take_received(&self) -> Vec<Received> {
        let mut all = self.openai.requests();
        all.extend(self.relay.requests());
        self.openai.clear();
        self.relay.clear();
        all
    }

    /// Sends one request and returns its answer and the requests that arrived.
    pub async fn ask(&self, request: Request) -> (Answer, Vec<Received>) {
        self.take_received();
        let answer = self.envoy.client().send(request).await.unwrap();
        (answer, self.take_received())
    }

    /// Gives the router another configuration and waits until Envoy has taken it; its workers follow a moment later.
    pub async fn reconfigure(&self, router: &Value) {
        let update = self.envoy.write_router_config(router).await.unwrap();
        self.envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
    }

    /// Gives the router a configuration that it must not take; returns the warnings and errors in the log.
    pub async fn reconfigure_in_vain(&self, router: &Value) -> String {
        let update = self.envoy.write_router_config(router).await.unwrap();
        self.envoy.wait_rejected(&update, LIMIT).await.unwrap()
    }

    /// As [`reconfigure`](Rig::reconfigure), of the keys role.
    pub async fn set_secrets(&self, secrets: &Value) {
        let update = self.envoy.write_keys_config(&json!({"secrets": secrets})).await.unwrap();
        self.envoy.wait_config_accepted(&update, LIMIT).await.unwrap();
    }

    /// One client for each of the two workers, with a connection that stays open; for requests one after the other.
    pub async fn workers(&self) -> [Client; 2] {
        let mut clients = [None, None];
        // A new connection goes to either worker: a hundred miss one of them in no run that anybody will see.
        for _ in 0..100 {
            let before = connections(&self.envoy).await;
            let client = self.envoy.client();
            client.get("/health", &[]).await.unwrap();
            let after = connections(&self.envoy).await;
            let worker = usize::from(after[1] > before[1]);
            clients[worker].get_or_insert(client);
            if let [Some(first), Some(second)] = &clients {
                return [first.clone(), second.clone()];
            }
        }
        panic!("a worker gets no connections");
    }
}

/// Connections that each worker has accepted.
async fn connections(envoy: &EnvoyProcess) -> [u64; 2] {
    let stats = envoy.stats().await.unwrap();
    [0, 1].map(|worker| {
        let end = format!(".worker_{worker}.downstream_cx_total");
        let mut of =
            stats.iter().filter(|(name, _)| name.starts_with("listener.127") && name.ends_with(&end));
        of.next().unwrap().1.parse().unwrap()
    })
}

/// A configuration of one deployment and no pools: `v1`, stable, on `openai` and `v2` on `relay` with this weight.
pub fn canary_at(weight: f64) -> Value {
    json!({"deployments": [{
        "name": "test",
        "stable": "v1",
        "versions": [
            {"id": "v1", "weight": 100.0 - weight, "cluster": "openai"},
            {"id": "v2", "weight": weight, "cluster": "relay"},
        ],
    }]})
}

/// The only request that arrived.
pub fn only(received: &[Received]) -> &Received {
    let [one] = received else { panic!("{} requests arrived: {received:?}", received.len()) };
    one
}

/// Sends `count` requests, a few at a time, and returns the answers in the order of their numbers.
pub async fn ask_all(
    client: &Client,
    count: usize,
    request: impl Fn(usize) -> Request + Clone + Send + 'static,
) -> Vec<Answer> {
    const LANES: usize = 8;
    let mut running = JoinSet::new();
    for lane in 0..LANES {
        let (client, request) = (client.clone(), request.clone());
        running.spawn(async move {
            let mut answers = Vec::new();
            for n in (lane..count).step_by(LANES) {
                answers.push((n, client.send(request(n)).await.unwrap()));
            }
            answers
        });
    }
    let mut answers: Vec<(usize, Answer)> = running.join_all().await.into_iter().flatten().collect();
    answers.sort_by_key(|(n, _)| *n);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Writes bytes from an address of this machine (any of 127.0.0.0/8) and returns all bytes until the peer closes.
pub async fn raw_from(address: Ipv4Addr, port: u16, bytes: &[u8]) -> Vec<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
    let mut received = Vec::new();
    // A peer that resets has already sent its answer.
    let _ = stream.write_all(bytes).await;
    let _ = timeout(LIMIT, stream.read_to_end(&mut received)).await.unwrap();
    received
}

/// Changes a role's resource in a way that the harness has no word for, and renames it into its place.
pub fn rewrite_resource(envoy: &EnvoyProcess, role: Role, version: &str, change: impl FnOnce(&mut Value)) {
    let name = match role {
        Role::Router => "router.yaml",
        Role::Keys => "keys.yaml",
        Role::Admin => "admin.yaml",
    };
    let directory = envoy.directory().join("ecds");
    let mut resource: Value = serde_json::from_slice(&fs::read(directory.join(name)).unwrap()).unwrap();
    resource["version_info"] = json!(version);
    change(&mut resource["resources"][0]["typed_config"]["config"]);
    let new = directory.join(format!("{name}.new"));
    fs::write(&new, resource.to_string()).unwrap();
    fs::rename(&new, directory.join(name)).unwrap();
}

/// A configuration of the VM, which the filter does not read, but which makes Envoy build another one for it.
pub fn another_vm() -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "another"})
}

/// Fails if anything has crashed the VM of any worker so far. A worker notices with its next request.
pub async fn assert_no_trap(envoy: &EnvoyProcess, after: &str) {
    const SIGNS: [&str; 5] = ["[critical]", "panicked", "Uncaught", "RuntimeError", "wasm_fail_stream"];
    // A rejected update is critical to Envoy, too.
    const REJECTED: &str = "failed to load";
    let logs = envoy.logs();
    let mut lines = logs.lines().filter(|line| !line.ends_with(REJECTED));
    let trap = lines.find(|line| SIGNS.iter().any(|sign| line.contains(sign)));
    assert_eq!(trap, None, "after {after}");
    let failed = envoy.access_log().into_iter().find(|line| line.to_string().contains("wasm_fail_stream"));
    assert_eq!(failed, None, "after {after}");
    let stats = envoy.stats().await.unwrap();
    let reloads = stats.iter().filter(|(name, _)| name.starts_with("wasm.") && name.contains(".vm_reload"));
    for (name, value) in reloads {
        assert_eq!(value, "0", "{name} after {after}");
    }
}

/// Fails unless `count` of `n` matches a probability within five standard deviations. One run in two millions fails
/// without a reason.
pub fn assert_share(count: usize, n: usize, probability: f64, of: &str) {
    let (count, n) = (count as f64, n as f64);
    let sigma = (n * probability * (1.0 - probability)).sqrt();
    let off = (count - n * probability).abs();
    assert!(off <= 5.0 * sigma, "{of}: {count} of {n}, expected {} ± {}", n * probability, 5.0 * sigma);
}
