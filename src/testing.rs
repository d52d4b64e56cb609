//! Parts for unit tests: small plans, made by the configuration code, and a store in memory with the proxy's rules.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::config::compile;
use crate::plan::guard::Guard;
use crate::plan::pool::KeyPool;
use crate::plan::{Plan, Version};
use crate::shared::store::{Expected, Store, StoreError, Versioned};

/// Compiles a plan from JSON text.
pub fn plan(document: &str) -> Plan {
    match compile(document.as_bytes(), &|_| None) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems}"),
    }
}

/// Returns a plan with two versions and no pools; `rest` is inserted into the deployment.
pub fn deployment_plan(rest: &str) -> Plan {
    plan(&format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1", {rest} "versions": [
            {{"id": "v1", "weight": 90, "cluster": "a"}}, {{"id": "v2", "weight": 10, "cluster": "b"}}]}}]}}"#
    ))
}

/// Returns a plan with two versions under a ramp.
pub fn ramp_plan(ramp: &str) -> Plan {
    plan(&format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1", "ramp": {{{ramp}}}, "versions": [
            {{"id": "v1", "cluster": "a"}}, {{"id": "v2", "cluster": "b"}}]}}]}}"#
    ))
}

/// Returns the default guard, with every limit off.
pub fn guard() -> Guard {
    deployment_plan("").deployments.remove(0).guard
}

/// Returns a version without optional fields.
pub fn version(id: &str) -> Version {
    let mut version = deployment_plan("").deployments.remove(0).versions.remove(0);
    id.clone_into(&mut version.id);
    version
}

/// Returns a pool of inline keys with these ids and weights.
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

/// Shared data with the proxy's rules: one token counter for all keys; the token of a missing key is ignored.
#[derive(Default)]
pub struct MemoryStore {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    tokens: Cell<u32>,
    /// Number of the next writes that fail because another worker wrote first.
    pub interference: Cell<u32>,
    /// Makes every call fail.
    pub broken: Cell<bool>,
    /// Number of calls so far.
    pub calls: Cell<u32>,
}

impl MemoryStore {
    /// Returns all values, by key.
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
