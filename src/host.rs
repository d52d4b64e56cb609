//! The only file with host calls: the clocks, shared data, headers, properties, metrics, the log, chance. Those that the SDK makes
//! too dear go through `bellwether-abi`.
//!
//! Everything here returns a value or nothing; nothing panics on what a client or an upstream may send. The SDK's `String`
//! getters and its trait conveniences do (they unwrap every status), so they are not used anywhere, and header *values* are
//! always bytes.
#![allow(clippy::disallowed_methods)]

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bellwether_abi::{self as abi, Map};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType, Status};

use crate::hash::hash;
use crate::headers::Headers;
use crate::keys;
use crate::keys::reset;
use crate::shared::store::{Expected, Store, StoreError, Versioned};
use crate::time::{Micros, Millis, Now, UnixMillis};

/// A token that no value has (tokens count up from 1): a write with it creates a key, or fails because it exists.
const NOBODYS_TOKEN: u32 = u32::MAX;

/// The process's monotonic clock as a number. An [`Instant`] cannot be turned into one, and a difference to this VM's start
/// means nothing to another worker; but on this target an `Instant` is the host's reading itself, so the largest span that
/// can be subtracted from it is the number, counted from the lowest there is. Found once a VM by halving.
pub struct Clock {
    origin: Instant,
    micros: u64,
    /// The last reading of the wall clock, and where the monotonic one stood.
    wall: Cell<(u64, UnixMillis)>,
}

/// The wall clock is read anew when its last reading is older than this (20 ms), and counted on from there: a host call less in
/// most callbacks. When somebody sets it, that is noticed so much later; nothing is decided by it but a date in `retry-after`.
const WALL_AFTER: u64 = 20_000;

impl Clock {
    /// Reads the clock's zero.
    pub fn new() -> Clock {
        let origin = Instant::now();
        let fits = |secs, nanos| origin.checked_sub(Duration::new(secs, nanos)).is_some();
        let secs = largest(u64::MAX, &|secs| fits(secs, 0));
        let nanos = largest(999_999_999, &|nanos| u32::try_from(nanos).is_ok_and(|nanos| fits(secs, nanos)));
        let secs = secs.checked_sub(SIGNED_ZERO).unwrap_or(secs);
        let micros = secs.saturating_mul(1_000_000).saturating_add(nanos.checked_div(1000).unwrap_or(0));
        Clock { origin, micros, wall: Cell::new((0, UnixMillis(0))) }
    }

    /// Microseconds on the process's monotonic clock.
    pub fn mono(&self) -> Micros {
        let elapsed = self.origin.elapsed();
        // `as_micros` would count in 128 bits, for which this target has no instruction.
        let seconds = elapsed.as_secs().saturating_mul(1_000_000);
        Micros(self.micros.saturating_add(seconds).saturating_add(u64::from(elapsed.subsec_micros())))
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        let mono = self.mono();
        let (at, wall) = self.wall.get();
        let since = mono.since(Micros(at));
        if wall != UnixMillis(0) && since < WALL_AFTER {
            return Now {
                mono,
                wall: UnixMillis(wall.0.saturating_add(since.checked_div(1000).unwrap_or(0))),
            };
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        self.wall.set((mono.0, wall));
        Now { mono, wall }
    }
}

/// The seconds of an `Instant` are an `i64` in Rust 1.95 (and were a `u64` once), whose zero is this far above the lowest.
const SIGNED_ZERO: u64 = 1 << 63;

/// The largest number up to `max` that `fits`, if 0 does, and every number below one that does.
fn largest(max: u64, fits: &dyn Fn(u64) -> bool) -> u64 {
    let (mut known, mut above) = (0, max);
    while above > known {
        let middle = above.saturating_sub(above.saturating_sub(known) >> 1);
        if fits(middle) {
            known = middle;
        } else {
            above = middle.saturating_sub(1);
        }
    }
    known
}

/// The proxy's shared data.
pub struct SharedData;

impl Store for SharedData {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        match hostcalls::get_shared_data(key) {
            Ok((bytes, token)) => Ok(token.and_then(NonZeroU32::new).map(|token| {
                // An empty value reads as `None` with a token.
                Versioned { bytes: bytes.unwrap_or_default(), token }
            })),
            Err(_) => Err(StoreError::Refused),
        }
    }

    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError> {
        let token = match expected {
            Expected::Absent => NOBODYS_TOKEN,
            Expected::Version(token) => token.get(),
        };
        match hostcalls::set_shared_data(key, Some(bytes), Some(token)) {
            Ok(()) => Ok(()),
            Err(Status::CasMismatch) => Err(StoreError::Mismatch),
            Err(_) => Err(StoreError::Refused),
        }
    }
}

/// All request headers. Only in the request-headers callback.
pub fn request_headers() -> Headers {
    Headers::parse(abi::headers(Map::Request).unwrap_or_default())
}

/// Sets a request header. Only in the request-headers callback.
pub fn set_request_header(name: &str, value: &[u8]) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value));
}

/// Whether there is a request header of this name. Only in the request-headers callback.
pub fn has_request_header(name: &str) -> bool {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).is_ok_and(|value| value.is_some())
}

/// Removes a request header. Only in the request-headers callback.
pub fn remove_request_header(name: &str) {
    let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
}

/// Sets a response header. Only in the response-headers callback.
pub fn set_response_header(name: &str, value: &str) {
    let _ = hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(value));
}

/// The status of the response; 0 if it is not a number. Only in the response-headers callback.
pub fn response_status() -> Option<u16> {
    let bytes = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status").ok()??;
    Some(std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// A property as bytes; `None` where there is none, or an empty one. `path`: its parts with `\0` between them.
pub fn property(path: &str) -> Option<Vec<u8>> {
    abi::property(path.as_bytes()).filter(|bytes| !bytes.is_empty())
}

/// Name of the filter that is configured. Only in a root context.
pub fn filter_name() -> String {
    String::from_utf8_lossy(&property("plugin_name").unwrap_or_default()).into_owned()
}

/// Envoy's response flags.
pub fn response_flags() -> u64 {
    let bytes = property("response\0flags");
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether the response came from an upstream. No status and no chosen endpoint can stand for the details: Envoy answers a gRPC
/// request with 200 whatever went wrong, and a gateway may map its own answers to any status.
pub fn via_upstream() -> bool {
    property("response\0code_details").is_some_and(|details| details == b"via_upstream")
}

/// Whether an upstream has answered with 200, asked in one call that hands nothing over: two thirds of what it costs to read status
/// and details. Any other answer has to be read, and so has every one of an Envoy that knows no expressions.
pub struct Well(Option<[u8; 4]>);

/// Nothing if so, in the language of Envoy's expressions (CEL): the length tells.
const WELL: &str =
    "response.code_details == 'via_upstream' && response.headers[':status'] == '200' ? '' : 'other'";

impl Well {
    /// Has Envoy compile the expression, for the streams of the plugin whose callback this is and for as long as that lasts.
    pub fn new() -> Well {
        Well(abi::foreign("expr_create", WELL.as_bytes()).and_then(|number| number.try_into().ok()))
    }

    /// Only in the response-headers callback.
    pub fn is_so(&self) -> bool {
        self.0.is_some_and(|number| abi::foreign_length("expr_evaluate", &number) == Some(0))
    }
}

/// The downstream address, with port.
pub fn source_address() -> Option<Vec<u8>> {
    property("source\0address")
}

/// The property under which a request's number travels to its attempts; it never leaves the process.
const FLIGHT: &str = "bw.req";

/// Ties the request to its attempts. `home`: the cluster of the version that the request is dressed for; empty where no attempt
/// can go to another one.
pub fn set_flight(id: u64, home: &[u8]) {
    let id = id.to_le_bytes();
    match home {
        [] => abi::set_property(FLIGHT.as_bytes(), &id),
        home => abi::set_property(FLIGHT.as_bytes(), &[&id, home].concat()),
    }
}

/// The name of an empty property that only the request of this number has. To ask whether it is there costs a quarter of what it
/// costs to read the number.
fn mark(id: u64) -> [u8; 17] {
    const LOWER_HALVES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    // Four bits a character, `@` to `O`: none is a zero byte, which would end the name. The uppermost byte is left out, and
    // Envoy allocates nothing for a name of this length.
    const LETTERS: u64 = 0x4040_4040_4040_4040;
    let [a, b, c, d, e, f, g, _] = (id & LOWER_HALVES | LETTERS).to_le_bytes();
    let [h, i, j, k, l, m, n, _] = ((id >> 4) & LOWER_HALVES | LETTERS).to_le_bytes();
    [b'b', b'w', b'.', a, b, c, d, e, f, g, h, i, j, k, l, m, n]
}

/// Marks the request, for [`is_flight`].
pub fn mark_flight(id: u64) {
    abi::set_property(&mark(id), b"");
}

/// Whether this attempt belongs to the request of this number, which was marked.
pub fn is_flight(id: u64) -> bool {
    abi::property(&mark(id)).is_some()
}

/// The number of the request that this attempt belongs to, and its home.
pub fn flight() -> Option<(u64, Vec<u8>)> {
    let bytes = property(FLIGHT)?;
    let (id, home) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*id), home.to_vec()))
}

/// Where the route reads, between two attempts, which cluster the next one goes to: an attempt that has begun cannot change
/// request headers any more. Envoy knows it as the filter state `wasm.bw.cluster`.
const NEXT_CLUSTER: &str = "bw.cluster";

/// Has the route choose this cluster for the request's next attempt, if there is one.
pub fn set_next_cluster(cluster: &str) {
    abi::set_property(NEXT_CLUSTER.as_bytes(), cluster.as_bytes());
}

/// The plugin's configuration as the host holds it.
pub fn plugin_configuration() -> Vec<u8> {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// A variable of the VM's environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Answers a request for which no key can be had. `returns_in`: when one comes back by itself. The response passes through
/// our own response callback.
pub fn refuse(returns_in: Option<Millis>) {
    let (status, body) = keys::unavailable(returns_in);
    // Whole seconds, rounded up: a client that comes back too early has come for nothing.
    let seconds = returns_in.map(|wait| wait.0.div_ceil(1000).max(1).to_string());
    let mut headers = vec![("content-type", "application/json")];
    if let Some(seconds) = &seconds {
        headers.push(("retry-after", seconds));
    }
    let _ = hostcalls::send_http_response(status, headers, Some(body.as_bytes()));
}

/// Answers a request of the admin listener.
pub fn answer(status: u32, kind: &str, policy: &str, allow: Option<&str>, body: &str) {
    let mut headers = vec![
        ("content-type", kind),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", policy),
    ];
    headers.extend(allow.map(|allow| ("allow", allow)));
    let _ = hostcalls::send_http_response(status, headers, Some(body.as_bytes()));
}

/// The body of a request to the admin listener, where the filter before this one has put it.
pub fn buffered_body() -> Option<Vec<u8>> {
    property("metadata\0filter_metadata\0bellwether\0body")
}

/// What the response says of a rate limit, if it is one. Only in the response-headers callback.
pub fn rate_limit_wait(status: u16, now: UnixMillis) -> Option<Millis> {
    if status != 429 {
        return None;
    }
    let headers = Headers::parse(abi::headers(Map::Response)?);
    let named = headers.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value));
    reset::wait(named, now)
}

/// The cluster that an attempt goes to. Only in an upstream context.
pub fn attempt_cluster() -> Option<Vec<u8>> {
    property("xds\0cluster_name")
}

/// The label of the endpoint that an attempt goes to: the member of an aggregate cluster, by the name that a version gives to
/// its cluster. Only in an upstream context. Cheap where there is none.
pub fn attempt_label() -> Option<Vec<u8>> {
    property("xds\0upstream_host_metadata\0filter_metadata\0bellwether\0cluster")
}

/// Posts a JSON body from a root context; the call's number, or `None` if Envoy would not (no such cluster).
pub fn post(cluster: &str, host: &str, path: &str, body: &str, timeout: Duration) -> Option<u32> {
    let headers = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", host),
        (":path", path),
        ("content-type", "application/json"),
        ("user-agent", "bellwether"),
    ];
    hostcalls::dispatch_http_call(cluster, headers, Some(body.as_bytes()), vec![], timeout).ok()
}

/// The status of the answer to a call. Only in the callback of the call.
pub fn call_status() -> Option<u16> {
    let bytes = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok()??;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

/// Sets the period of the root context's tick; 0 stops it (it would go on after the context's end otherwise).
pub fn set_tick(period: Duration) {
    let _ = hostcalls::set_tick_period(period);
}

/// Bytes of this VM's linear memory.
pub fn memory() -> u64 {
    const PAGE: u64 = 65_536;
    u64::try_from(core::arch::wasm32::memory_size::<0>()).unwrap_or(0).saturating_mul(PAGE)
}

/// Seeds a generator from the host's entropy.
pub fn seed() -> u64 {
    getrandom::u64().unwrap_or(0)
}

/// Writes a line to Envoy's log.
pub fn warn(line: &str) {
    let _ = hostcalls::log(LogLevel::Warn, line);
}

/// Writes a line to Envoy's log.
pub fn info(line: &str) {
    let _ = hostcalls::log(LogLevel::Info, line);
}

/// Writes a line to Envoy's log.
pub fn error(line: &str) {
    let _ = hostcalls::log(LogLevel::Error, line);
}

thread_local! {
    /// The metrics that this VM has defined, by hash of their names, in order.
    static DEFINED: RefCell<Vec<(u64, u32)>> = const { RefCell::new(Vec::new()) };
}

/// Defines a metric once in a VM's life. The host gives a new number each time it is asked and keeps all of them, so that asking
/// with every plan would cost it some kilobytes a reload for ever.
fn define(kind: MetricType, name: &str) -> Option<u32> {
    let hash = hash(&[name.as_bytes()]);
    DEFINED.with(|defined| {
        let mut defined = defined.try_borrow_mut().ok()?;
        match defined.binary_search_by_key(&hash, |(held, _)| *held) {
            Ok(at) => defined.get(at).map(|(_, id)| *id),
            Err(at) => {
                let id = hostcalls::define_metric(kind, name).ok()?;
                defined.insert(at, (hash, id));
                Some(id)
            }
        }
    })
}

/// One metric of this VM, defined when first used: an unused series is never shown.
///
/// Small, because a gateway may hold some tens of thousands of them and a VM holds two plans while one takes over from the
/// other: its name is put together when it is defined, the labels are shared with its siblings.
pub struct Metric(Cell<u32>);

/// A metric that is not defined yet; the host counts up from 0 by fours.
const UNDEFINED: u32 = u32::MAX;

impl Metric {
    /// One that is defined when it is first used.
    pub const fn new() -> Metric {
        Metric(Cell::new(UNDEFINED))
    }

    /// Adds to a counter. `name`: the parts of its name.
    pub fn add(&self, name: &[&str], count: u64) {
        // The host refuses an increment of 0.
        if let (Some(id), Ok(count @ 1..)) = (self.id(MetricType::Counter, name), i64::try_from(count)) {
            let _ = hostcalls::increment_metric(id, count);
        }
    }

    /// Sets a gauge. `name`: the parts of its name.
    pub fn set(&self, name: &[&str], value: u64) {
        self.record(MetricType::Gauge, name, value);
    }

    /// Records a value in a histogram. `name`: the parts of its name.
    pub fn observe(&self, name: &[&str], value: u64) {
        self.record(MetricType::Histogram, name, value);
    }

    /// Makes a counter visible before it has a value.
    pub fn define(&self, name: &[&str]) {
        let _ = self.id(MetricType::Counter, name);
    }

    fn record(&self, kind: MetricType, name: &[&str], value: u64) {
        if let Some(id) = self.id(kind, name) {
            let _ = hostcalls::record_metric(id, value);
        }
    }

    fn id(&self, kind: MetricType, name: &[&str]) -> Option<u32> {
        if self.0.get() == UNDEFINED {
            self.0.set(define(kind, &name.concat())?);
        }
        Some(self.0.get())
    }
}
