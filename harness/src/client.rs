//! An HTTP client for one port of 127.0.0.1: plain requests, streams that can be left, and raw bytes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The response header that names the version which served, unless configured otherwise.
pub const VERSION_HEADER: &str = "x-bellwether-version";

/// Waiting longer than this for a local answer means that none will come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request to send.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path with the query.
    pub path: String,
    /// The headers; `host` may be among them.
    pub headers: Vec<(String, String)>,
    /// The body, empty for none.
    pub body: Bytes,
}

impl Request {
    /// A GET of `path`.
    pub fn get(path: &str) -> Request {
        Request { method: Method::GET, path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    /// A POST of `body` to `path`.
    pub fn post(path: &str, body: impl Into<Bytes>) -> Request {
        Request { method: Method::POST, body: body.into(), ..Request::get(path) }
    }

    /// A chat completion with one short message, streamed or not.
    pub fn chat(stream: bool) -> Request {
        let body = json!({
            "model": "gpt-4o-mini", "stream": stream, "messages": [{"role": "user", "content": "hello"}],
        });
        Request::post("/v1/chat/completions", body.to_string()).header("content-type", "application/json")
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or as much of it as came.
    pub body: Bytes,
    /// Why the body broke off, if it did.
    pub broken: Option<String>,
    /// From sending to the response headers.
    pub first_byte: Duration,
    /// From sending to the end of the body.
    pub latency: Duration,
}

impl Answer {
    /// The first value of a header, if it is there and visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The version that served, by [`VERSION_HEADER`].
    pub fn version(&self) -> Option<&str> {
        self.header(VERSION_HEADER)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, null if it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer whose headers are here and whose body is still to come; dropping it closes the connection.
#[derive(Debug)]
pub struct Opened {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
}

impl Opened {
    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// If the body breaks off or nothing comes for half a minute.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match timeout(PATIENCE, self.body.frame()).await.context("no next chunk in time")? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// A client with keep-alive connections to one port; clones share them.
#[derive(Debug, Clone)]
pub struct Client {
    port: u16,
    pool: Pool<HttpConnector, Full<Bytes>>,
    patience: Duration,
}

impl Client {
    /// A client of 127.0.0.1:`port` that gives up after half a minute.
    pub fn new(port: u16) -> Client {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client { port, pool: Pool::builder(TokioExecutor::new()).build(connector), patience: PATIENCE }
    }

    /// The same client giving up after `patience`.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Client {
        self.patience = patience;
        self
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// If there is no complete answer head.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send(with(Request::get(path), headers)).await
    }

    /// Sends a POST.
    ///
    /// # Errors
    /// If there is no complete answer head.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer> {
        self.send(with(Request::post(path, body), headers)).await
    }

    /// Sends a request and reads the whole answer; a body that breaks off is an answer with `broken` set.
    ///
    /// # Errors
    /// If there is no complete answer head, or the whole takes longer than the client's patience.
    pub async fn send(&self, request: Request) -> Result<Answer> {
        let started = Instant::now();
        let whole = async {
            let mut opened = self.open(request).await?;
            let first_byte = started.elapsed();
            let mut body = Vec::new();
            let broken = loop {
                match opened.chunk().await {
                    Ok(Some(data)) => body.extend_from_slice(&data),
                    Ok(None) => break None,
                    Err(error) => break Some(format!("{error:#}")),
                }
            };
            let Opened { status, headers, .. } = opened;
            let latency = started.elapsed();
            Ok(Answer { status, headers, body: body.into(), broken, first_byte, latency })
        };
        timeout(self.patience, whole).await.map_err(|_| anyhow!("no answer within {:?}", self.patience))?
    }

    /// Sends a request and returns when the response headers are here.
    ///
    /// # Errors
    /// If the request is not one, or there is no complete answer head in time.
    pub async fn open(&self, request: Request) -> Result<Opened> {
        let uri: Uri = format!("http://127.0.0.1:{}{}", self.port, request.path).parse()?;
        let mut builder = hyper::Request::builder().method(request.method).uri(uri);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let sending = self.pool.request(builder.body(Full::new(request.body))?);
        let response = timeout(self.patience, sending)
            .await
            .map_err(|_| anyhow!("no response headers within {:?}", self.patience))??;
        let (head, body) = response.into_parts();
        Ok(Opened { status: head.status.as_u16(), headers: head.headers, body })
    }
}

fn with(mut request: Request, headers: &[(&str, &str)]) -> Request {
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request
}

/// Writes bytes on a new connection to 127.0.0.1:`port` and returns what comes back.
///
/// Reads until the peer closes, or has been silent for half a second after its first byte, or five seconds have
/// passed. Send `connection: close` to make it quick. For what no HTTP library would send.
///
/// # Errors
/// If the connection cannot be made; a reset is not an error but the end of what came back.
pub async fn raw(port: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    const SILENCE: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut received = Vec::new();
    if stream.write_all(bytes).await.is_err() {
        return Ok(received);
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = if received.is_empty() { left } else { left.min(SILENCE) };
        match timeout(patience, stream.read_buf(&mut received)).await {
            Ok(Ok(1..)) => {}
            _ => return Ok(received),
        }
    }
}
