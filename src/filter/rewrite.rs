//! Changes of a request's headers: it is rewritten for the upstream of a version, and restored for a failover.

use std::borrow::Cow;
use std::iter;

use super::service::Service;
use crate::credentials;
use crate::headers::{Headers, OWN_PREFIX};
use crate::host;
use crate::plan::pool::KeyPool;
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

/// The client's headers, as a rewrite asks for them.
pub trait ClientHeaders {
    /// Returns the value of a header, if the request has it.
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

impl ClientHeaders for Headers {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.get(name)
    }
}

/// The client's own values of the headers that the version or stable changes; `None` for a header that was not there and that
/// one of them sets.
pub struct OriginalHeaders(Vec<(String, Option<Vec<u8>>)>);

impl ClientHeaders for OriginalHeaders {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let held = self.0.iter().find(|(held, _)| held == name);
        held.and_then(|(_, value)| value.as_deref()).map(Cow::Borrowed)
    }
}

impl OriginalHeaders {
    /// Copies the headers that these versions change.
    pub fn new(service: &Service, versions: [&Version; 2], headers: &Headers) -> OriginalHeaders {
        let mut names = vec![":authority", ":path"];
        let mut add = |name| {
            if !names.contains(&name) {
                names.push(name);
            }
        };
        for version in versions {
            version.set_headers.iter().for_each(|(name, _)| add(name));
            if let Some(pool) = pool_of(service, version) {
                add(&pool.header);
            }
        }
        // A header that is only ever removed matters if it is there.
        for version in versions {
            removed_names(service, version).filter(|name| headers.has(name)).for_each(&mut add);
        }
        if headers.has(credentials::PROTOCOLS_HEADER) {
            add(credentials::PROTOCOLS_HEADER);
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
}

fn pool_of<'a>(service: &'a Service, version: &Version) -> Option<&'a KeyPool> {
    version.pool.and_then(|pool| service.plan.pools.get(pool))
}

/// Returns the names of all headers that requests to this version lose: the version's own list and, if it has a pool, the client's
/// credentials, the pool's list, and the pool's own header, which may be no credential of the list.
fn removed_names<'a>(service: &'a Service, version: &'a Version) -> impl Iterator<Item = &'a str> {
    let pool = pool_of(service, version);
    let of_pool = pool.into_iter().flat_map(|pool| {
        let own = iter::once(&pool.header).chain(&pool.remove_headers).map(String::as_str);
        credentials::HEADERS.into_iter().chain(own)
    });
    version.remove_headers.iter().map(String::as_str).chain(of_pool)
}

/// Rewrites host, path and headers for a version, and removes the client's credentials if the version has a pool. Puts in no key.
/// `replaced`: the header that the caller is about to replace.
pub fn rewrite(service: &Service, version: &Version, client: &dyn ClientHeaders, replaced: Option<&str>) {
    if let Some(host) = &version.host {
        host::set_request_header(":authority", host.as_bytes());
    }
    if let Some(path) = client.value(":path").and_then(|path| route::rewritten_path(version, &path)) {
        host::set_request_header(":path", &path);
    }
    let is_set = |name: &str| version.set_headers.iter().any(|(set, _)| set == name);
    for name in removed_names(service, version) {
        if replaced != Some(name) && client.value(name).is_some() && !is_set(name) {
            host::remove_request_header(name);
        }
    }
    for (name, value) in &version.set_headers {
        host::set_request_header(name, value.as_bytes());
    }
    if version.pool.is_some()
        && let Some(offered) = client.value(credentials::PROTOCOLS_HEADER)
    {
        match credentials::without_keys(&offered).as_deref() {
            Some([]) => host::remove_request_header(credentials::PROTOCOLS_HEADER),
            Some(kept) => host::set_request_header(credentials::PROTOCOLS_HEADER, kept),
            None => {}
        }
    }
}
