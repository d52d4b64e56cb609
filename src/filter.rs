//! The adapter: proxy-wasm contexts on one side, the engine on the other. It reads facts, asks the engine and applies the
//! answers; it decides nothing.
//!
//! The end of a request, an attempt or a configuration is handled when its context is dropped, which is when Envoy deletes it.
//! Envoy would make three calls at an end (`on_log`, `on_done`, `on_delete`); only the last is exported, because each entry into
//! the VM costs more than two thousand instructions.

mod admin; // the `admin` role: one context a request
mod alerts; // events posted to a webhook
mod astray; // removes keys from mirrored and redirected requests
mod attempt; // the `keys` role: one context an attempt
mod body; // request bodies: held, read, changed for a version
mod census; // this VM's part in the census
mod events; // events to the log, to shared data and to alerts
mod metrics; // the names and values of all metrics
mod pool; // a key pool in service
mod record; // records outcomes: in metrics, for versions, for keys
mod reply; // our own answers; the rate limit in a provider's answer
mod request; // a request in flight, shared by both roles
mod requests; // all requests in flight on this worker
mod rewrite; // rewrites a request for its version: path, headers; removes clients' credentials
mod router; // the `router` role: one context a request
mod secrets; // the secrets documents of this worker
mod service; // a plan in service
mod services; // all plans of this worker
mod warnings; // the search for conditions that lose something in silence
mod worker; // the state that all contexts of a worker share

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel};

use self::admin::AdminStream;
use self::attempt::AttemptStream;
use self::router::RouterStream;
use self::service::{Service, turn};
use self::worker::Worker;
use crate::config;
use crate::hash::hash;
use crate::host::{self, SharedData};
use crate::problems::Problems;
use crate::shared::cell::take_busy;
use crate::shared::dropped::Dropped;
use crate::shared::names::CONFIGURATION;
use crate::shared::store::{Change, update};

/// Period of the router's tick, which merges leftovers and writes gauges.
const TICK: Duration = Duration::from_millis(20);

#[allow(missing_docs)] // `proxy_wasm::main!` defines an undocumented export.
mod entry {
    proxy_wasm::main! {{
        super::start();
    }}
}

fn start() {
    // Installs the panic hook, which logs where a trap happened. Nothing logs through the SDK.
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|id| {
        Box::new(Root { id, worker: Worker::current(), role: Role::Unconfigured })
    });
}

/// One plugin configuration on one thread.
struct Root {
    id: u32,
    worker: Rc<Worker>,
    role: Role,
}

enum Role {
    Unconfigured,
    Router {
        service: Rc<Service>,
        /// Hash of the configuration, until the first tick has counted it.
        uncounted: Option<u64>,
    },
    Keys {
        /// Name of the filter.
        filter: String,
        /// The secrets document.
        document: Rc<[u8]>,
        /// Whether it still has to be kept in shared data.
        unkept: Cell<bool>,
    },
    Admin {
        /// The host names that a request may name, besides addresses and `localhost`.
        hosts: Rc<[String]>,
    },
}

impl Root {
    fn configure(&mut self, bytes: Vec<u8>) -> Result<(), Problems> {
        let root_id = host::property("plugin_root_id").unwrap_or_default();
        match root_id.as_slice() {
            b"router" => self.configure_router(bytes),
            b"keys" => self.configure_keys(bytes),
            b"admin" => {
                self.role = Role::Admin { hosts: config::admin(&bytes)?.into() };
                Ok(())
            }
            other => Err(Problems::of_root_id(other)),
        }
    }

    fn configure_router(&mut self, bytes: Vec<u8>) -> Result<(), Problems> {
        let uncounted = Some(hash(&[&bytes]));
        let plan = config::compile(bytes, &host::environment)?;
        self.role = Role::Router { service: self.worker.install(plan), uncounted };
        host::set_tick(TICK);
        Ok(())
    }

    fn configure_keys(&mut self, bytes: Vec<u8>) -> Result<(), Problems> {
        let document: Rc<[u8]> = bytes.into();
        let secrets = config::secrets(&document)?;
        let filter = host::filter_name();
        if let Role::Keys { document: former, .. } = &self.role {
            self.worker.drop_document(former);
        } else {
            self.worker.secrets.count_keys_role(1);
        }
        self.worker.take_document(&filter, &document, secrets);
        // Kept by the first tick, which the throw-away VM that checks a configuration never sees.
        self.role = Role::Keys { filter, document, unkept: Cell::new(true) };
        host::set_tick(TICK);
        Ok(())
    }

    /// Counts an accepted update once in the process, not once a thread: the first thread to write its hash counts it.
    fn count_update(&self, configuration: u64) {
        let key = [CONFIGURATION, &host::filter_name()].concat();
        let bytes = configuration.to_le_bytes();
        let first = update(&SharedData, &key, &mut |held| {
            if held == Some(bytes.as_slice()) {
                Change::Keep(false)
            } else {
                Change::Write(bytes.to_vec(), true)
            }
        });
        if first == Ok(true) {
            self.worker.metrics.accepted();
        }
    }

    /// Does the work that is due without a request, and writes the gauges.
    fn tick(&self, service: &Service) {
        service.served.set(true);
        let now = self.worker.clock.now();
        self.worker.report_census(now.mono);
        self.worker.look_out(service, now);
        let mut turn = turn(now);
        for (n, (deployment, binding)) in service.plan.deployments.iter().zip(&service.bindings).enumerate() {
            let transitions = binding.tick(deployment, &mut turn);
            self.worker.publish_transitions(service, n, &transitions);
            service.write_gauges(n);
        }
        for pool in &service.pools {
            pool.write_gauges(&mut turn);
            pool.merge_usage(&mut turn);
        }
        turn.drops.many(Dropped::Busy, take_busy());
        self.worker.count_dropped(turn.drops);
        let given_up = self.worker.outbox.with_mut(|outbox| outbox.post(now.mono, u64::from(self.id)));
        if let Some(given_up @ 1..) = given_up {
            self.worker.metrics.dropped(Dropped::Alert, given_up);
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, call: u32, _: usize, _: usize, _: usize) {
        let now = self.worker.clock.mono();
        let given_up = self.worker.outbox.with_mut(|outbox| outbox.answered(call, host::call_status(), now));
        if given_up == Some(true) {
            self.worker.metrics.dropped(Dropped::Alert, 1);
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.role, Role::Unconfigured) {
            Role::Router { service, .. } => {
                // Without this the timer of a context that has ended goes on for ever.
                host::set_tick(Duration::ZERO);
                let now = self.worker.clock.mono();
                self.worker.outbox.with_mut(|outbox| outbox.context_ended(now, u64::from(self.id)));
                self.worker.services.end(service);
            }
            Role::Keys { document, .. } => {
                host::set_tick(Duration::ZERO);
                self.worker.secrets.count_keys_role(-1);
                self.worker.drop_document(&document);
            }
            Role::Admin { .. } | Role::Unconfigured => {}
        }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        match self.configure(host::plugin_configuration()) {
            Ok(()) => true,
            Err(problems) => {
                for problem in &problems.0 {
                    host::error(&format!("bellwether: configuration rejected: {problem}"));
                }
                self.worker.reject(&problems);
                false
            }
        }
    }

    fn on_tick(&mut self) {
        match &mut self.role {
            Role::Router { service, uncounted } => {
                let configuration = uncounted.take();
                let service = Rc::clone(service);
                if let Some(configuration) = configuration {
                    self.count_update(configuration);
                }
                self.tick(&service);
            }
            Role::Keys { unkept, .. } => {
                if unkept.take() {
                    self.worker.secrets.keep();
                }
                host::set_tick(Duration::ZERO);
            }
            Role::Admin { .. } | Role::Unconfigured => {}
        }
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        let worker = Rc::clone(&self.worker);
        Some(match &self.role {
            // A configuration may come back while streams from its first time last. Envoy then still has this context, and puts
            // it in service without configuring it again.
            Role::Router { service, .. } => {
                worker.services.mark_newest(service);
                Box::new(RouterStream::new(worker, Rc::clone(service)))
            }
            Role::Keys { filter, document, unkept } => {
                if !worker.secrets.has(document)
                    && let Ok(secrets) = config::secrets(document)
                {
                    worker.take_document(filter, document, secrets);
                    unkept.set(true);
                    host::set_tick(TICK);
                }
                Box::new(AttemptStream::new(worker))
            }
            Role::Admin { hosts } => Box::new(AdminStream::new(worker, Rc::clone(hosts))),
            Role::Unconfigured => Box::new(Untouched),
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// A stream of a context that has no configuration: every request passes.
struct Untouched;

impl Context for Untouched {}
impl HttpContext for Untouched {}
