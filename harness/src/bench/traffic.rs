//! Requests and answers that cost as little as possible to make: Envoy is measured, and must not wait for them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// Keep-alive connections of a load.
pub const CONNECTIONS: usize = 32;
/// Chunks of a streamed answer.
pub const CHUNKS: usize = 50;
/// Between two of them. Envoy reads what has come together as one chunk, so they must not come together, also under callgrind.
const CHUNK_DELAY: Duration = Duration::from_millis(10);
/// A path that ends like this is answered with a stream.
pub const STREAM: &str = "/v1/chat/completions?stream";
/// A path that is answered at once.
pub const WHOLE: &str = "/v1/chat/completions";

const QUESTION: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}"#;
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hello there"}}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const CHUNK: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n";

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// An upstream that answers at once, or streams.
pub struct Upstream {
    /// Its port on 127.0.0.1.
    pub port: u16,
    server: JoinHandle<()>,
}

impl Upstream {
    /// Starts it.
    pub async fn start() -> Result<Upstream> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let service = service_fn(answer);
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Upstream { port, server })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let streamed = request.uri().query().is_some();
    request.into_body().collect().await?;
    let response = Response::builder();
    let built = if streamed {
        let frames = stream::iter(0..CHUNKS).then(|n| async move {
            if n > 0 {
                sleep(CHUNK_DELAY).await;
            }
            Ok(Frame::data(Bytes::from_static(CHUNK.as_bytes())))
        });
        response.header("content-type", "text/event-stream").body(BodyExt::boxed(StreamBody::new(frames)))
    } else {
        let body = Full::new(Bytes::from_static(ANSWER.as_bytes())).boxed();
        response.header("content-type", "application/json").body(body)
    };
    Ok(built.unwrap_or_default())
}

/// Open connections to an Envoy.
pub struct Load {
    lanes: Vec<SendRequest<Full<Bytes>>>,
    request: Arc<Request<Full<Bytes>>>,
}

impl Load {
    /// Opens `connections`; every request will be for this path and deployment.
    pub async fn open(port: u16, connections: usize, path: &str, deployment: &str) -> Result<Load> {
        let mut lanes = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            stream.set_nodelay(true)?;
            let (lane, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            lanes.push(lane);
        }
        let request = Request::post(path)
            .header("host", "api.example.com")
            .header("user-agent", "bellwether-bench/1")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("authorization", "Bearer sk-client")
            .header("x-deployment-id", deployment)
            .body(Full::new(Bytes::from_static(QUESTION.as_bytes())))?;
        Ok(Load { lanes, request: Arc::new(request) })
    }

    /// Sends `count` requests, one at a time on each connection, and returns how long that took.
    ///
    /// # Errors
    /// If one is answered with another status than 200, or not whole.
    pub async fn send(&mut self, count: u64) -> Result<Duration> {
        let started = Instant::now();
        self.keep_up(count, |_| {}).await?;
        Ok(started.elapsed())
    }

    /// The same, telling each request's latency.
    pub async fn keep_up(&mut self, count: u64, mut tell: impl FnMut(Duration)) -> Result<()> {
        let left = Arc::new(AtomicU64::new(count));
        let mut running = JoinSet::new();
        for mut lane in self.lanes.drain(..) {
            let (left, request) = (Arc::clone(&left), Arc::clone(&self.request));
            running.spawn(async move {
                let mut latencies = Vec::new();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    let sent = Instant::now();
                    lane.ready().await?;
                    let response = lane.send_request(Request::clone(&request)).await?;
                    ensure!(response.status() == 200, "a request was answered with {}", response.status());
                    let mut body = response.into_body();
                    while let Some(frame) = body.frame().await {
                        frame?;
                    }
                    latencies.push(sent.elapsed());
                }
                Ok((lane, latencies))
            });
        }
        while let Some(lane) = running.join_next().await {
            let (lane, latencies) = lane??;
            self.lanes.push(lane);
            latencies.into_iter().for_each(&mut tell);
        }
        Ok(())
    }
}
