//! Changes of a request's headers: it is rewritten for the upstream of a version, and restored for a failover.

use std::iter;

use super::service::Service;
use crate::headers::{CLIENT_CREDENTIALS, Headers, OWN_PREFIX};
use crate::host;
use crate::plan::{Plan, Version};
use crate::route;

/// Removes headers by which a client would choose the cluster or the version itself, before rules can see them.
pub fn remove_spoofed(plan: &Plan, headers: &mut Headers) {
    let others = || iter::once(&plan.cluster_header).chain(&plan.version_header);
    if headers.names_with(OWN_PREFIX.as_bytes()).next().is_none() && !others().any(|name| headers.has(name)) {
        return;
    }
    let spoofed = |name: &[u8]| {
        name.starts_with(OWN_PREFIX.as_bytes()) || others().any(|other| name == other.as_bytes())
    };
    headers.remove(&spoofed, &mut |name| {
        // Envoy accepts only text as a name.
        host::remove_request_header(std::str::from_utf8(name).unwrap_or_default());
    });
}

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
