//! A mock provider of an OpenAI-compatible API, and of Anthropic's messages, over HTTP/1.1.
//!
//! Any path that ends in `/chat/completions` is a chat completion and any in `/messages` a message, so rewritten prefixes work;
//! the content names the provider, so a test sees who served. `GET /v1/models` and `GET /health` answer too (the latter always with 200), and
//! any other path is echoed as JSON. What goes wrong is a [`Behaviour`], set in-process or with `PUT /_mock/behaviour`.
//!
//! Written on hyper's connection rather than on a web framework because faults live below HTTP: a reset has to take the
//! socket away from the server in the middle of an answer.

mod answer;
mod anthropic;
mod behaviour;
mod body;
mod control;
mod journal;
mod openai;
mod reply;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

pub use behaviour::{Behaviour, Fault, KeyAnswer, Latency};
pub use journal::Received;

use answer::Asked;
use behaviour::Chooser;
use body::Body;
use journal::Journal;

/// Larger than any prompt in the tests; a bigger body is answered with 413.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A running mock provider; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Provider {
    port: u16,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// What all connections of one provider share.
#[derive(Debug)]
struct Shared {
    name: String,
    chooser: Mutex<Chooser>,
    journal: Mutex<Journal>,
    /// Connections that ended because their bytes were no HTTP.
    malformed: AtomicU64,
}

impl Provider {
    /// Starts a provider on a free port of 127.0.0.1, on the current tokio runtime.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(name: &str) -> io::Result<Provider> {
        Provider::start_on(name, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts a provider on the given address, with port 0 for a free one.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start_on(name: &str, address: SocketAddr) -> io::Result<Provider> {
        let listener = TcpListener::bind(address).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            chooser: Mutex::new(Chooser::new(Behaviour::default())),
            journal: Mutex::default(),
            malformed: AtomicU64::default(),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Provider { port, shared, server })
    }

    /// The name this provider signs its answers with.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Replaces the behaviour; requests that are being answered keep the old one.
    pub fn set(&self, behaviour: Behaviour) {
        *lock(&self.shared.chooser) = Chooser::new(behaviour);
    }

    /// The behaviour in force.
    pub fn behaviour(&self) -> Behaviour {
        lock(&self.shared.chooser).behaviour().clone()
    }

    /// The requests received since the start or the last [`clear`](Provider::clear), oldest first.
    ///
    /// At most the last 200 000; `/_mock/` and `/health` are not among them. A request is here before its answer leaves.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.shared.journal).received().cloned().collect()
    }

    /// How many requests were received since the start or the last [`clear`](Provider::clear), kept or not.
    pub fn count(&self) -> u64 {
        lock(&self.shared.journal).count()
    }

    /// Keeps no request from now on, and only counts them: for loads of which nobody could look at each.
    pub fn count_only(&self) {
        lock(&self.shared.journal).count_only();
    }

    /// Keeps the bodies of requests from now on: for a few requests, in tests that compare them.
    pub fn keep_bodies(&self) {
        lock(&self.shared.journal).keep_bodies();
    }

    /// How many connections have ended because their bytes were no HTTP.
    pub fn malformed(&self) -> u64 {
        self.shared.malformed.load(Ordering::Relaxed)
    }

    /// Forgets the requests received so far.
    pub fn clear(&self) {
        lock(&self.shared.journal).clear();
    }

    /// Closes the port and every connection, and returns when that has happened.
    ///
    /// Use it, and not a drop, before expecting a connection to be refused.
    pub async fn stop(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Locks without caring about a panic elsewhere: a test that failed should not make its provider fail too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts until aborted; dropping the set of connections with the task closes them.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
                // Out of file descriptors: the next try is as good as any, but not at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection until it ends or a handler asks for a reset.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Chunks are measured one by one, so none may wait for the next.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(Notify::new());
    let counting = Arc::clone(&shared);
    let mut connection = http1::Builder::new().serve_connection(
        TokioIo::new(stream),
        service_fn(|request| handle(Arc::clone(&shared), Arc::clone(&reset), request)),
    );
    // The connection is polled first: it then has written all it was given when the reset is acted on.
    let reset_wanted = tokio::select! {
        biased;
        ended = &mut connection => {
            if ended.is_err_and(|error| error.is_parse()) {
                counting.malformed.fetch_add(1, Ordering::Relaxed);
            }
            false
        }
        () = reset.notified() => true,
    };
    if reset_wanted {
        // With a zero linger time, closing sends RST and not FIN.
        let stream = connection.into_parts().io.into_inner();
        let _ = stream.set_zero_linger();
    }
}

/// Answers one request.
async fn handle(
    shared: Arc<Shared>,
    reset: Arc<Notify>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let arrival = journal::Arrival::now();
    let (head, incoming) = request.into_parts();
    let Ok(body) = Limited::new(incoming, BODY_BYTES_MAX).collect().await else {
        return Ok(openai::error(StatusCode::PAYLOAD_TOO_LARGE, &[]));
    };
    let body: Bytes = body.to_bytes();
    let path = head.uri.path();
    if path == "/health" {
        return Ok(reply::json(
            StatusCode::OK,
            &serde_json::json!({"status": "ok", "provider": shared.name}),
        ));
    }
    if let Some(rest) = path.strip_prefix("/_mock/") {
        return Ok(control::answer(&shared, &head.method, rest, &body));
    }

    let received = Received::new(arrival, &head, &body);
    let chosen =
        lock(&shared.chooser).choose(received.key.as_deref(), received.header("x-flagged").is_some());
    lock(&shared.journal).push(received);
    if !chosen.latency.is_zero() {
        tokio::time::sleep(chosen.latency).await;
    }
    let asked = Asked { provider: &shared.name, method: &head.method, path, body: &body };
    Ok(answer::answer(&asked, chosen, reset).await)
}

#[cfg(test)]
mod tests;
