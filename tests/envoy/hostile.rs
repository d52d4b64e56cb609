//! Hostile requests and answers on a real Envoy with two workers. They may get any answer, but they must not crash the
//! filter, and the next request must be served on both workers.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellwether_harness::client::{Client, Request};
use bellwether_harness::envoy::EnvoyOptions;
use bellwether_harness::provider::Received;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::common::rig::*;

/// Bytes that are no ASCII, and sequences that are no UTF-8; all may be in a header's value by RFC 9110.
const VALUES: [&[u8]; 7] = [
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xc0\xaf",
    b"a\x80b\xbfc\t\xfe",
    b"\xf0\x9f\x92\xa9\xf0\x9f\x92",
];

/// A configuration that looks at everything a request has: host, path, headers, cookies, address.
fn inquisitive() -> Value {
    let tests = [
        json!({"name": "x-rule", "exact": "never"}),
        json!({"name": "x-rule", "prefix": "never"}),
        json!({"name": "x-rule", "suffix": "never"}),
        json!({"name": "x-rule", "contains": "never"}),
        json!({"name": "x-rule", "one_of": ["never", "ever"]}),
    ];
    let never = |name: &str, conditions: Value| {
        json!({"name": name, "match": conditions, "stable": "v1",
               "versions": [{"id": "v1", "weight": 100, "cluster": "relay"}]})
    };
    let mut rules: Vec<Value> =
        tests.iter().map(|test| json!({"headers": [test], "version": "v2"})).collect();
    rules.push(json!({"headers": [{"name": "x-rule", "present": true}], "version": "v2", "percent": 50}));
    json!({
        "deployments": [
            never("host", json!({"hosts": ["never.example", "*.never.example"]})),
            never("path", json!({"path_prefix": "/never/"})),
            never("header", json!({"headers": tests})),
            {
                "name": "test",
                "stable": "v1",
                "rules": rules,
                "sticky": {"on": [{"header": "x-user-id"}, {"cookie": "uid"}, {"client_address": true}]},
                "versions": [
                    {"id": "v1", "weight": 50, "cluster": "openai", "key_pool": "pool",
                     "rewrite_prefix": {"from": "/v1/", "to": "/compat/v1/"}},
                    {"id": "v2", "weight": 50, "cluster": "relay", "key_pool": "pool",
                     "host": "relay.example", "set_headers": {"x-tier": "gold"}},
                ],
            },
        ],
        "key_pools": [{"name": "pool", "sticky": true, "keys": [
            {"id": "one", "value": "sk-one"}, {"id": "two", "value": "sk-two"},
        ]}],
    })
}

/// The HTTP connection manager of a bootstrap.
fn manager(bootstrap: &mut Value) -> &mut Value {
    &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
}

/// An Envoy under attack, with a connection to each worker to see whether it is still well.
struct Siege {
    rig: Rig,
    workers: [Client; 2],
}

impl Siege {
    async fn lay(mut options: EnvoyOptions) -> Siege {
        let edit = options.edit.take();
        options.edit = Some(Box::new(|bootstrap| {
            // Envoy gives a client that it has refused a second to read why. Here hundreds are.
            manager(bootstrap)["delayed_close_timeout"] = json!("0.02s");
            edit.into_iter().for_each(|edit| edit(bootstrap));
        }));
        let rig = Rig::start(options).await;
        let workers = rig.workers().await;
        Siege { rig, workers }
    }

    /// Sends bytes on a few connections; returns an answer's status, 0 without one, and the requests that arrived.
    async fn send(&self, bytes: &[u8]) -> (u16, Vec<Received>) {
        self.rig.take_received();
        let port = self.rig.envoy.port();
        let send = |n| raw_from(Ipv4Addr::new(127, 0, 0, n), port, bytes);
        let (answer, ..) = tokio::join!(send(1), send(2), send(3));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, self.rig.take_received())
    }

    /// Fails if a worker is not well.
    async fn assert_well(&self, after: &str) {
        for client in &self.workers {
            let answer = client.send(Request::chat(false).header("x-user-id", "somebody")).await.unwrap();
            assert_eq!(answer.status, 200, "after {after}: {}", answer.text());
            assert!(answer.version().is_some(), "after {after}: the filter is there");
        }
        let received = self.rig.take_received();
        assert!(
            received.iter().all(|r| r.key.as_deref().is_some_and(|k| k.starts_with("sk-"))),
            "after {after}"
        );
        assert_no_trap(&self.rig.envoy, after).await;
    }
}

/// The sent bytes as a name in a message.
fn context(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().chars().take(200).collect()
}

/// A request of this head, which is all but the blank line.
fn request(head: &[&[u8]]) -> Vec<u8> {
    let mut bytes = head.join(&b"\r\n"[..]);
    bytes.extend_from_slice(b"\r\nconnection: close\r\n\r\n");
    bytes
}

const LINE: &[u8] = b"GET /v1/x?q=1 HTTP/1.1";
const HOST: &[u8] = b"host: api.example";

#[tokio::test(flavor = "multi_thread")]
async fn header_values_may_be_any_bytes() {
    let siege = Siege::lay(EnvoyOptions::default().router_config(inquisitive())).await;
    let all: Vec<u8> = (0x80..=0xff).chain([b'\t', b' ', b'x']).collect();
    let before = [
        ("x-user-id", ""),
        ("cookie", "a=b; uid="),
        ("cookie", "uid=\""),
        ("cookie", ""),
        ("x-rule", ""),
        ("authorization", "Bearer "),
        ("x-api-key", ""),
        ("x-bellwether-version", ""),
        ("x-bellwether-cluster", ""),
        ("x-forwarded-for", ""),
        ("user-agent", ""),
        ("x-request-id", ""),
    ];
    for (name, begin) in before {
        for value in VALUES.into_iter().chain([all.as_slice()]) {
            let line = [name.as_bytes(), b": ", begin.as_bytes(), value].concat();
            let (status, received) = siege.send(&request(&[LINE, HOST, &line])).await;
            assert_eq!((status, received.len()), (200, 3), "{}", context(&line));
            if name == "x-user-id" {
                let (_, arrived) = received[0].headers.iter().find(|(n, _)| n == name).unwrap();
                assert_eq!(arrived, value, "as it was sent");
            }
            siege.assert_well(&context(&line)).await;
        }
    }
    // One identity is one version, bytes or not.
    let line = [b"x-user-id: ".as_slice(), &all].concat();
    let (mut openai, mut relay) = (0, 0);
    for _ in 0..10 {
        let (_, received) = siege.send(&request(&[LINE, HOST, &line])).await;
        let to_openai = received.iter().filter(|r| r.path.starts_with("/compat/")).count();
        openai += to_openai;
        relay += received.len() - to_openai;
    }
    assert!((openai, relay) == (30, 0) || (openai, relay) == (0, 30), "{openai} and {relay}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_http1_request_the_next_one_is_served() {
    let siege = Siege::lay(EnvoyOptions::default().router_config(inquisitive())).await;
    let mut rows: Vec<(Vec<u8>, Vec<u16>)> = Vec::new();
    let mut row = |head: &[&[u8]], statuses: &[u16]| rows.push((request(head), statuses.to_vec()));
    // Bytes that no name or value may contain.
    for byte in (0x00..0x20).chain([0x7f]).filter(|byte| ![b'\t', b'\n', b'\r'].contains(byte)) {
        row(&[LINE, HOST, &[b"x-user-id: a".as_slice(), &[byte], b"b"].concat()], &[]);
    }
    for name in [
        &b"x-\xff"[..],
        b"\x80",
        b"x\x00y",
        b"x y",
        b"",
        b"x\ty",
        b"x\x7f",
        b"x(y)",
        b"x\"y\"",
        b"x{y}",
        b"\xc3\xa4",
        b"x-bellwether-\xff",
        b":path",
        b":authority",
        b":status",
    ] {
        row(&[LINE, HOST, &[name, b": value"].concat()], &[400]);
    }
    // Hosts and paths.
    for value in VALUES {
        row(&[LINE, &[b"host: ", value].concat()], &[]);
        row(&[LINE, &[b"host: a.", value, b".never.example:80"].concat()], &[]);
        row(&[&[b"GET /v1/", value, b" HTTP/1.1"].concat(), HOST], &[]);
        row(&[&[b"GET /v1/x?", value, b" HTTP/1.1"].concat(), HOST], &[]);
        row(&[&[value, b" /v1/x HTTP/1.1"].concat(), HOST], &[400]);
    }
    for host in [
        "",
        ":",
        ":80",
        "[",
        "[]",
        "[::1",
        "[::1]:",
        "::1",
        "a:b:c",
        "a:",
        "a:-1",
        "a:99999999999999999999",
        ".",
        "*.never.example",
        ".never.example",
        "a b",
        "user@api.example",
        "a,b",
        "%00",
        "https://api.example/",
    ] {
        row(&[LINE, &[b"host: ", host.as_bytes()].concat()], &[]);
    }
    for target in [
        "",
        " ",
        "*",
        "/",
        "//",
        "/..",
        "/../../etc/passwd",
        "/%",
        "/%zz",
        "/%2e%2e/v1/",
        "/v1/%00",
        "/%ff%fe",
        "?",
        "#",
        "/v1/#x",
        "/v1/;a=b",
        "\\v1\\",
        "http://",
        "http://never.example/v1/",
        "https://a:b@c:d/e",
        "v1/x",
        "/v1",
        "/v1/",
        "/v1//",
        "/v1/./x",
        "ftp://x/",
        "http:///v1/",
    ] {
        row(&[format!("GET {target} HTTP/1.1").as_bytes(), HOST], &[]);
    }
    row(&[b"OPTIONS * HTTP/1.1", HOST], &[]);
    // Methods.
    for method in ["PURGE", "get", "G", "M-SEARCH", "PROPFIND", "TRACE", "HEAD", "PRI", &"X".repeat(5_000)] {
        row(&[format!("{method} /v1/x HTTP/1.1").as_bytes(), HOST], &[]);
    }
    row(&[b"CONNECT api.example:443 HTTP/1.1", HOST], &[403, 404]);
    row(&[b"CONNECT / HTTP/1.1", HOST], &[]);
    // Protocols.
    row(&[b"GET /v1/x HTTP/1.0"], &[426]);
    row(&[b"GET /v1/x HTTP/1.0", HOST], &[426]);
    row(&[LINE], &[400]);
    row(&[b"GET /v1/x HTTP/1.1", HOST, b"host: other.example"], &[]);
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/9.9", "HTTP/", "ICY", "http/1.1", ""] {
        row(&[format!("GET /v1/x {version}").as_bytes(), HOST], &[]);
    }
    row(&[LINE, HOST, b"upgrade: websocket", b"sec-websocket-version: 13"], &[]);
    row(&[LINE, HOST, b"content-length: 3", b"content-length: 4"], &[400]);
    row(&[LINE, HOST, b"content-length: -1"], &[400]);
    row(&[LINE, HOST, b"content-length: 3", b"transfer-encoding: chunked"], &[400]);
    row(&[LINE, HOST, b"transfer-encoding: gzip, \xff"], &[400, 501]);
    row(&[LINE, HOST, b"expect: 100-continue"], &[]);
    row(&[LINE, HOST, b"expect: \xff"], &[]);
    row(&[LINE, HOST, b"te: trailers", b"connection: x-user-id", b"x-user-id: me"], &[]);
    // Empty, twice, many times, folded, long.
    row(&[LINE, HOST, b"x-user-id:", b"cookie:", b"x-rule:", b"authorization:", b"x-bellwether-:"], &[200]);
    row(&[LINE, HOST, b"cookie: uid", b"cookie: =", b"cookie: ;;;=;uid=;uid=\";uid=\"\""], &[200]);
    row(
        &[LINE, HOST, b"x-user-id: a", b"x-user-id: ", b"X-USER-ID: b", b"x-rule: a", b"x-rule: \xff"],
        &[200],
    );
    row(&[LINE, HOST, b"x-user-id: a", b" folded", b"\tagain"], &[]);
    row(&[LINE, b" folded", HOST], &[]);
    let cookies: Vec<u8> = (0..500).flat_map(|n| format!("c{n}={n}; ").into_bytes()).collect();
    row(&[LINE, HOST, &[b"cookie: ", cookies.as_slice(), b"uid=me"].concat()], &[200]);
    let lines: Vec<Vec<u8>> = (0..90).map(|n| format!("cookie: uid{n}={n}; uid =x").into_bytes()).collect();
    let mut head = vec![LINE, HOST];
    head.extend(lines.iter().map(Vec::as_slice));
    row(&head, &[200]);
    let long = vec![b'x'; 100_000];
    row(&[LINE, HOST, &[b"x-user-id: ", long.as_slice()].concat()], &[431]);
    row(&[LINE, HOST, &[b"cookie: uid=", long.as_slice()].concat()], &[431]);
    row(&[&[b"GET /v1/", long.as_slice(), b" HTTP/1.1"].concat(), HOST], &[400, 431]);
    // Nothing at all, and no HTTP.
    for bytes in [&b"\r\n\r\n\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n"] {
        rows.push(([bytes, b"\r\n\r\nx\r\n\r\n"].concat(), vec![]));
    }

    for (bytes, statuses) in rows {
        let (status, _) = siege.send(&bytes).await;
        let context = context(&bytes);
        assert!(
            statuses.is_empty() || statuses.contains(&status),
            "{context}: {status}, not one of {statuses:?}"
        );
        assert!(status < 500 || status == 501, "{context}: {status}");
        siege.assert_well(&context).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_as_large_and_as_many_as_an_operator_allows_reach_the_filter_and_do_no_harm() {
    let allow = |bootstrap: &mut Value| {
        let manager = manager(bootstrap);
        manager["max_request_headers_kb"] = json!(200);
        manager["common_http_protocol_options"] = json!({"max_headers_count": 5000});
        manager["http_protocol_options"] = json!({"accept_http_10": true, "enable_trailers": true});
        manager["use_remote_address"] = json!(false);
    };
    let options = EnvoyOptions { edit: Some(Box::new(allow)), ..EnvoyOptions::default() };
    let siege = Siege::lay(options.router_config(inquisitive())).await;
    let long = vec![b'x'; 100_000];
    let high = vec![0xf1; 100_000];
    for value in [&long, &high] {
        for begin in
            ["x-user-id: ", "cookie: uid=", "cookie: ", "x-rule: ", "authorization: Bearer ", "x-else: "]
        {
            let line = [begin.as_bytes(), value].concat();
            let (status, received) = siege.send(&request(&[LINE, HOST, &line])).await;
            assert_eq!((status, received.len()), (200, 3), "{}", context(&line));
            siege.assert_well(&context(&line)).await;
        }
    }
    let target = [b"GET /v1/", long.as_slice(), b" HTTP/1.1"].concat();
    let name = [b"x-", &long[..60_000], b": y"].concat();
    for head in [vec![target.as_slice(), HOST], vec![LINE, HOST, &name]] {
        let bytes = request(&head);
        let (status, _) = siege.send(&bytes).await;
        assert!([200, 400, 414, 431].contains(&status), "{}: {status}", context(&bytes));
        siege.assert_well(&context(&bytes)).await;
    }

    // More headers than the host hands a filter at once, if it counts; the mock provider takes a hundred.
    for (line, statuses) in [
        ("x-bellwether-N: spoofed", [200, 200]),
        ("X-Bellwether-Cluster: relay", [200, 200]),
        ("x-user-id: N", [200, 431]),
        ("cookie: cN=N", [200, 431]),
        ("x-N: N", [200, 431]),
    ] {
        let lines: Vec<Vec<u8>> = (0..3000).map(|n| line.replace('N', &n.to_string()).into_bytes()).collect();
        let mut head = vec![LINE, HOST];
        head.extend(lines.iter().map(Vec::as_slice));
        let (status, received) = siege.send(&request(&head)).await;
        assert!(statuses.contains(&status), "3000 times {line}: {status}");
        if statuses == [200, 200] {
            assert_eq!(received.len(), 3, "3000 times {line}");
            let left =
                |r: &Received| r.headers.iter().filter(|(n, _)| n.starts_with("x-bellwether-")).count();
            assert!(
                received.iter().all(|r| left(r) <= 1),
                "3000 times {line}: all removed but the filter's own"
            );
        }
        siege.assert_well(&format!("3000 times {line}")).await;
    }

    // HTTP/1.0, and addresses that a client may make up.
    for head in [
        &[&b"GET /v1/x HTTP/1.0"[..]][..],
        &[b"GET /v1/x HTTP/1.0", HOST],
        &[LINE, HOST, b"x-forwarded-for: \xff"],
        &[LINE, HOST, b"x-forwarded-for: unknown, ::1, [::1]:80, 10.0.0.1:99999"],
        &[LINE, HOST, b"x-forwarded-for: ,,,"],
    ] {
        let bytes = request(head);
        let (status, _) = siege.send(&bytes).await;
        assert!([200, 400].contains(&status), "{}: {status}", context(&bytes));
        siege.assert_well(&context(&bytes)).await;
    }
}

// HTTP/2, which needs no characters to end a name or a value

/// Envoy answers at once or never.
const LIMIT: Duration = Duration::from_secs(5);

/// A header field as a literal that is never indexed.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let string = |bytes: &[u8]| {
        let mut out = Vec::new();
        // A length of 7 bits, or 127 and the rest in groups of 7.
        let mut rest = bytes.len();
        if rest < 127 {
            out.push(rest as u8);
        } else {
            out.push(127);
            rest -= 127;
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
        out.extend_from_slice(bytes);
        out
    };
    [vec![0x10], string(name), string(value)].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Answered,
    Refused,
    /// Nothing more came.
    Silent,
}

/// Sends frames after the preface and reads until this stream, or the connection, is over.
async fn http2(port: u16, wanted: u32, frames: &[u8]) -> Ending {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let settings = frame(4, 0, 0, b"");
    if stream.write_all(&[PREFACE, &settings, frames].concat()).await.is_err() {
        return Ending::Refused;
    }
    let mut head = [0; 9];
    loop {
        match timeout(LIMIT, stream.read_exact(&mut head)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Ending::Refused,
            Err(_) => return Ending::Silent,
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return Ending::Refused;
        }
        match (head[3], head[4] & 1) {
            // Headers or data that end the stream.
            (0 | 1, 1) if id == wanted => return Ending::Answered,
            // A reset, or the end of the connection.
            (3, _) if id == wanted => return Ending::Refused,
            (7, _) => return Ending::Refused,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_values_of_http2_may_be_any_bytes() {
    let siege = Siege::lay(EnvoyOptions::default().router_config(inquisitive())).await;
    let port = siege.rig.envoy.port();
    let pseudo: Vec<u8> = [
        literal(b":method", b"GET"),
        literal(b":scheme", b"http"),
        literal(b":path", b"/v1/x"),
        literal(b":authority", b"api.example"),
    ]
    .concat();
    const END: u8 = 0x1 | 0x4;
    let headers = |fields: &[u8]| frame(1, END, 1, fields);

    let plain = http2(port, 1, &headers(&pseudo)).await;
    assert_eq!((plain, siege.rig.take_received().len()), (Ending::Answered, 1), "a sound request");
    let all: Vec<u8> = (0x80..=0xff).collect();
    for name in ["x-user-id", "cookie", "x-rule", "authorization", "x-bellwether-x"] {
        for value in VALUES.into_iter().chain([all.as_slice()]) {
            let fields = [pseudo.as_slice(), &literal(name.as_bytes(), value)].concat();
            let ending = http2(port, 1, &headers(&fields)).await;
            let context = format!("{name}: {}", context(value));
            assert_eq!((ending, siege.rig.take_received().len()), (Ending::Answered, 1), "{context}");
            siege.assert_well(&context).await;
        }
    }
    // A filter that got these could be made to panic by the SDK: names are strings to it.
    for name in [
        &b"x-\xff"[..],
        b"\x80",
        b"\xc3\xa4",
        b"x\x00y",
        b"X-Upper",
        b"",
        b"x y",
        b":unknown",
        b"x\r\ny",
        b"x:y",
        b"x-bellwether-\xff",
        &all,
    ] {
        let fields = [pseudo.as_slice(), &literal(name, b"value")].concat();
        let ending = http2(port, 1, &headers(&fields)).await;
        let arrived = siege.rig.take_received().len();
        assert_eq!((ending, arrived), (Ending::Refused, 0), "the name {}", context(name));
        siege.assert_well(&context(name)).await;
    }
    // Without the one, with the other twice, and bytes in them.
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/v1/x"), (":authority", "api.example")];
    for n in 0..fields.len() {
        let with = |values: &[&[u8]]| -> Vec<u8> {
            let field = |(m, (name, value)): (usize, &(&str, &str))| -> Vec<u8> {
                let own = [value.as_bytes()];
                let values = if m == n { values } else { &own };
                values.iter().flat_map(|value| literal(name.as_bytes(), value)).collect()
            };
            fields.iter().enumerate().flat_map(field).collect()
        };
        let mut variants =
            vec![with(&[]), with(&[b""]), with(&[b"a", b"b"]), with(&[b"*"]), with(&[b"\x00"])];
        variants.extend(VALUES.map(|value| with(&[&[b"/", value].concat()])));
        for fields in variants {
            http2(port, 1, &headers(&fields)).await;
            siege.rig.take_received();
            siege.assert_well(&context(&fields)).await;
        }
    }
    // Streams that are reset as soon as they are open, some of them answered by then; and one that stays.
    let reset = |n: u32| [frame(1, END, n, &pseudo), frame(3, 0, n, &8u32.to_be_bytes())].concat();
    let mut frames: Vec<u8> = (1..80).step_by(2).flat_map(reset).collect();
    frames.extend(frame(1, END, 81, &pseudo));
    for _ in 0..5 {
        assert_eq!(http2(port, 81, &frames).await, Ending::Answered);
    }
    siege.assert_well("resets").await;
}

// Providers

/// A provider that answers every request with the same bytes and closes the connection.
struct Impostor {
    port: u16,
    answer: Arc<Mutex<Vec<u8>>>,
    server: JoinHandle<()>,
}

impl Impostor {
    async fn start() -> Impostor {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&answer);
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
                            return;
                        }
                    }
                    let answer = shared.lock().unwrap().clone();
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Impostor { port, answer, server }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_answer_of_a_provider_the_next_request_is_served() {
    let impostor = Impostor::start().await;
    let mut config = inquisitive();
    let test = &mut config["deployments"][3];
    test["failover"] = json!(false);
    test["versions"][0]["weight"] = json!(100);
    test["versions"][1]["weight"] = json!(0);
    test["versions"].as_array_mut().unwrap().push(json!({"id": "v3", "weight": 0, "cluster": "impostor"}));
    test["rules"] = json!([{"headers": [{"name": "x-version", "exact": "v3"}], "version": "v3",
                            "after_rollback": "keep"}]);
    test["guard"] = json!({"errors": ["5xx", "4xx", "reset", "timeout"], "max_errors": 5});
    let options = EnvoyOptions::default().cluster("impostor", impostor.port).router_config(config);
    // Envoy's default cluster is the first.
    let siege =
        Siege::lay(EnvoyOptions { clusters: options.clusters.into_iter().rev().collect(), ..options }).await;

    let mut rows: Vec<Vec<u8>> = Vec::new();
    for status in [
        "99",
        "0",
        "00",
        "000",
        "099",
        "100",
        "101",
        "102",
        "103",
        "150",
        "199",
        "200",
        "204",
        "205",
        "299",
        "304",
        "399",
        "429",
        "499",
        "599",
        "600",
        "700",
        "999",
        "1000",
        "65536",
        "99999999999999999999",
        "-1",
        "+200",
        "0200",
        "2 0",
        "20",
        "abc",
        "2xx",
        "",
        " ",
        "\u{ff}",
    ] {
        rows.push(format!("HTTP/1.1 {status} OK\r\ncontent-length: 0\r\n\r\n").into_bytes());
        rows.push(format!("HTTP/1.1 {status}\r\n\r\nbody").into_bytes());
    }
    for head in [
        "",
        "\r\n",
        "\r\n\r\n",
        "HTTP/1.1",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y",
        "HTTP/1.0 200 OK\r\n\r\nold",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>hello</html>\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\0\0",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
    ] {
        rows.push(head.as_bytes().to_vec());
    }
    rows.push(b"\x00\xff\xfe\x16\x03\x01".repeat(50));
    rows.push(b"HTTP/1.1 200 \xff\xfe\r\ncontent-length: 0\r\n\r\n".to_vec());
    let long = "x".repeat(100_000);
    let many = "x-many: 1\r\n".repeat(500);
    let mut lines: Vec<Vec<u8>> = [
        ":status: 500",
        ": y",
        " folded",
        "x y: z",
        "no colon",
        "content-length: -1",
        "content-length: abc",
        "content-length: 1000",
        "content-length: 18446744073709551616",
        "content-length: 1\r\ncontent-length: 2",
        "transfer-encoding: chunked",
        "transfer-encoding: chunked\r\n\r\nzz\r\n",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked\r\n\r\n5\r\nab",
        "transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
        "transfer-encoding: chunked\r\n\r\n0\r\nx-trailer: \u{ff}",
        "x-bellwether-version: v9",
        "x-bellwether-version: a\r\nx-bellwether-version: b",
        "connection: x-bellwether-version",
        "grpc-status: x",
        "x-envoy-overloaded: true",
        "x-envoy-upstream-service-time: -1",
        "x-envoy-immediate-health-check-fail: 1",
        "retry-after:",
        "retry-after: -1",
        "retry-after: 99999999999999999999",
        "retry-after: 1e309",
        "retry-after: Thu, 99 Foo 99999 99:99:99 GMT",
        "retry-after: 1\r\nretry-after: 2",
        "x-ratelimit-reset-requests: 99999999999999999999h",
        "x-ratelimit-reset-tokens: -1ms",
        "x-ratelimit-remaining-requests: NaN",
        "x-ratelimit-reset: 1m1m1m1m1m1m",
        "content-type: \u{ff}",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec();
    lines.extend([format!("x: {long}"), format!("{long}: x"), many].map(String::into_bytes));
    for name in [
        "retry-after",
        "x-ratelimit-reset-requests",
        "x-ratelimit-remaining-tokens",
        "x-bellwether-version",
        "content-type",
        "server",
        "x-request-id",
        "location",
        "set-cookie",
    ] {
        lines.extend(VALUES.map(|value| [name.as_bytes(), b": ", value].concat()));
    }
    lines.extend(VALUES.map(|name| [name, b": x"].concat()));
    for line in lines {
        for status in ["200 OK", "429 Too Many", "503 No"] {
            rows.push([b"HTTP/1.1 ", status.as_bytes(), b"\r\n", &line, b"\r\n\r\n"].concat());
        }
    }

    let attack = request(&[b"GET /v1/x HTTP/1.1", HOST, b"x-version: v3"]);
    for bytes in rows {
        *impostor.answer.lock().unwrap() = bytes.clone();
        siege.send(&attack).await;
        let context = context(&bytes);
        siege.assert_well(&context).await;
    }
}
