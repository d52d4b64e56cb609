//! Rewrites a request for the upstream of a version, and restores it for a failover.

use super::service::Service;
use crate::headers::{CLIENT_CREDENTIALS, Headers};
use crate::host;
use crate::plan::Version;
use crate::route;

/// The client's own values of the headers that the version or stable changes; `None` for a header that was not there.
pub struct OriginalHeaders(Vec<(String, Option<Vec<u8>>)>);

impl OriginalHeaders {
    /// Copies the headers that these versions change.
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

    /// Puts all of them back.
    pub fn restore(&self) {
        for (name, value) in &self.0 {
            match value {
                Some(value) => host::set_request_header(name, value),
                None => host::remove_request_header(name),
            }
        }
    }

    /// Returns the client's path.
    pub fn path(&self) -> Option<&[u8]> {
        self.0.iter().find(|(name, _)| name == ":path").and_then(|(_, value)| value.as_deref())
    }
}

/// Sets host, path and headers for a version, and removes the client's credentials if the version has a pool. Puts in no key.
/// `path`: the client's path. `has`: whether a header is there and is not about to be replaced.
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
        // The pool's own header may be none of them. The client's value in it must not reach the upstream either.
        for name in CLIENT_CREDENTIALS.into_iter().chain([pool.header.as_str()]) {
            if has(name) {
                host::remove_request_header(name);
            }
        }
    }
}
