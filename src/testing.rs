//! Small parts for unit tests, made by the shipping configuration code, and a store with the proxy's rules.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::config::compile;
use crate::plan::guard::Guard;
use crate::plan::pool::KeyPool;
use crate::plan::{Plan, Version};
use crate::shared::store::{Expected, Store, StoreError, Versioned};

/// A plan from JSON text.
pub fn plan(document: &str) -> Plan {
    match compile(document.as_bytes(), &|_| None) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems}"),
    }
}

/// Two versions, no pools; `rest` is inserted into the deployment.
pub fn deployment_plan(rest: &str) -> Plan {
    plan(&format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1", {rest} "versions": [
            {{"id": "v1", "weight": 90, "cluster": "a"}}, {{"id": "v2", "weight": 10, "cluster": "b"}}]}}]}}"#
    ))
}

/// Two versions under a ramp.
pub fn ramp_plan(ramp: &str) -> Plan {
    plan(&format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1", "ramp": {{{ramp}}}, "versions": [
            {{"id": "v1", "cluster": "a"}}, {{"id": "v2", "cluster": "b"}}]}}]}}"#
    ))
}

/// The guard of a deployment that sets none: every limit off.
pub fn guard() -> Guard {
    deployment_plan("").deployments.remove(0).guard
}

/// A version without anything special.
pub fn version(id: &str) -> Version {
    let mut version = deployment_plan("").deployments.remove(0).versions.remove(0);
    id.clone_into(&mut version.id);
    version
}

/// A pool of inline keys with these ids and weights.
pub fn pool(keys: &[(&str, u32)]) -> KeyPool {
    let keys: Vec<String> = keys
        .iter()
        .map(|(id, weight)| format!(r#"{{"id": "{id}", "value": "sk-{id}", "weight": {weight}}}"#))
        .collect();
    plan(&format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1",
             "versions": [{{"id": "v1", "weight": 100, "cluster": "a", "key_pool": "p"}}]}}],
             "key_pools": [{{"name": "p", "keys": [{}]}}]}}"#,
        keys.join(",")
    ))
    .pools
    .remove(0)
}

/// Shared data by the proxy's rules: one token counter for all keys, a token for a missing key is ignored.
#[derive(Default)]
pub struct MemoryStore {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    tokens: Cell<u32>,
    /// So many of the next writes are interfered with by another worker.
    pub interference: Cell<u32>,
    /// Every call fails.
    pub broken: Cell<bool>,
    /// Calls so far.
    pub calls: Cell<u32>,
}

impl MemoryStore {
    /// Everything in it, by key.
    pub fn content(&self) -> Vec<(String, Vec<u8>)> {
        self.values.borrow().iter().map(|(key, (bytes, _))| (key.clone(), bytes.clone())).collect()
    }

    /// Overwrites a value from outside.
    pub fn force(&self, key: &str, bytes: &[u8]) {
        self.tokens.set(self.tokens.get() + 1);
        self.values.borrow_mut().insert(key.to_owned(), (bytes.to_vec(), self.tokens.get()));
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.calls.set(self.calls.get() + 1);
        if self.broken.get() {
            return Err(StoreError::Refused);
        }
        Ok(self.values.borrow().get(key).and_then(|(bytes, token)| {
            Some(Versioned { bytes: bytes.clone(), token: NonZeroU32::new(*token)? })
        }))
    }

    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError> {
        self.calls.set(self.calls.get() + 1);
        if self.broken.get() {
            return Err(StoreError::Refused);
        }
        if self.interference.get() > 0 {
            self.interference.set(self.interference.get() - 1);
            return Err(StoreError::Mismatch);
        }
        let held = self.values.borrow().get(key).map(|(_, token)| *token);
        let fits = match (held, expected) {
            (None, _) => true,
            (Some(held), Expected::Version(token)) => held == token.get(),
            (Some(_), Expected::Absent) => false,
        };
        if !fits {
            return Err(StoreError::Mismatch);
        }
        self.force(key, bytes);
        Ok(())
    }
}
