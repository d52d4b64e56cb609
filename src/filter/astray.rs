//! Keys at home: removes a pool's key from a request that is not, or no longer, one of a deployment. Two kinds of request carry a
//! key that the filter has put in without being the filter's: the copy for a mirror, and a request that Envoy sends again after an
//! internal redirect.

use super::worker::Worker;
use crate::headers::Headers;
use crate::host;

/// Header that Envoy adds when it follows an internal redirect. It removes a client's own, unless the client is internal.
pub const REDIRECTED: &str = "x-envoy-original-url";

impl Worker {
    /// Removes the headers that carry a key of a pool. `value`: reads a request header. Calls `removed` with the name of each.
    fn remove_keys(&self, value: &dyn Fn(&str) -> Option<Vec<u8>>, removed: &mut dyn FnMut(&str)) {
        let mut asked: Vec<(String, Option<Vec<u8>>)> = Vec::new();
        for service in self.services.held() {
            for (pool, live) in service.plan.pools.iter().zip(&service.pools) {
                if !asked.iter().any(|(name, _)| *name == pool.header) {
                    asked.push((pool.header.clone(), value(&pool.header)));
                }
                let Some((_, held)) = asked.iter_mut().find(|(name, _)| *name == pool.header) else {
                    continue;
                };
                if held.as_deref().is_some_and(|held| live.holds(pool, held)) {
                    host::remove_request_header(&pool.header);
                    removed(&pool.header);
                    *held = None;
                }
            }
        }
    }

    /// Removes a pool's key from an attempt that belongs to no request of a deployment, if it is a mirror's. A client that sends
    /// a key of its own past all deployments keeps it.
    pub fn keep_keys_from_mirror(&self) {
        if !host::has_client_connection() {
            self.remove_keys(&host::request_header, &mut |_| {});
        }
    }

    /// Removes the key that the filter has put into this request before Envoy followed a redirect with it.
    pub fn keep_keys_from_redirect(&self, headers: &mut Headers) {
        if !headers.has(REDIRECTED) {
            return;
        }
        host::clear_request_link();
        let mut names = Vec::new();
        self.remove_keys(&|name| headers.get(name).map(|value| value.into_owned()), &mut |name| {
            names.push(name.to_owned());
        });
        headers.remove(&|name| names.iter().any(|removed| removed.as_bytes() == name), &mut |_| {});
    }
}
