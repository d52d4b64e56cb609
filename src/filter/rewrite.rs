//! Making a request what a version's upstream expects, and, for a failover, what it was before.

use super::service::Service;
use crate::headers::{CLIENT_CREDENTIALS, Headers};
use crate::host;
use crate::plan::Version;
use crate::route;

/// The client's headers, as they were where the version or stable changes them.
pub struct OriginalHeaders(Vec<(String, Option<Vec<u8>>)>);

impl OriginalHeaders {
    /// Remembers what these versions will change.
    pub fn new(service: &Service, versions: [&Version; 2], headers: &Headers) -> OriginalHeaders {
        let mut names = vec![":authority", ":path"];
        names.extend(CLIENT_CREDENTIALS);
        for version in versions {
            let pool = version.pool.and_then(|pool| service.plan.pools.get(pool));
            let own = version.set_headers.iter().map(|(name, _)| name.as_str());
            for name in pool.map(|pool| pool.header.as_str()).into_iter().chain(own) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let held = |name: &str| (name.to_owned(), headers.get(name).map(|value| value.into_owned()));
        OriginalHeaders(names.into_iter().map(held).collect())
    }

    /// Puts everything back.
    pub fn restore(&self) {
        for (name, value) in &self.0 {
            match value {
                Some(value) => host::set_request_header(name, value),
                None => host::remove_request_header(name),
            }
        }
    }

    /// The client's path.
    pub fn path(&self) -> Option<&[u8]> {
        self.0.iter().find(|(name, _)| name == ":path").and_then(|(_, value)| value.as_deref())
    }
}

/// Sets host, path and headers for a version and removes the client's credentials if it has a pool, but puts no key in.
/// `path`: the client's; `has`: whether a header is there and is not about to be replaced.
pub fn rewrite(service: &Service, version: &Version, path: Option<&[u8]>, has: &dyn Fn(&str) -> bool) {
    if let Some(host) = &version.host {
        host::set_request_header(":authority", host.as_bytes());
    }
    if let Some(path) = path.and_then(|path| route::rewritten_path(version, path)) {
        host::set_request_header(":path", &path);
    }
    for (name, value) in &version.set_headers {
        host::set_request_header(name, value.as_bytes());
    }
    if let Some(pool) = version.pool.and_then(|pool| service.plan.pools.get(pool)) {
        // A pool's own header may be another one; a client's value in it must not reach the upstream either.
        for name in CLIENT_CREDENTIALS.into_iter().chain([pool.header.as_str()]) {
            if has(name) {
                host::remove_request_header(name);
            }
        }
    }
}
