//! Shared data by the proxy's rules, into which somebody else may write.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use bellwether::shared::store::{Expected, Store, StoreError, Versioned};

/// One map, one token counter for all keys.
#[derive(Default)]
pub struct Memory {
    values: RefCell<BTreeMap<String, (Vec<u8>, NonZeroU32)>>,
    tokens: Cell<u32>,
    /// Keys that somebody has asked for.
    asked: RefCell<Vec<String>>,
    /// So many of the next writes come too late.
    pub late: Cell<u32>,
    /// The host refuses everything.
    pub broken: Cell<bool>,
    /// Looks at every value that is written.
    watch: Option<fn(&str, &[u8])>,
}

impl Memory {
    /// An empty store whose values are all looked at before they are written.
    pub fn watched(watch: fn(&str, &[u8])) -> Memory {
        Memory { watch: Some(watch), ..Memory::default() }
    }

    /// Writes whatever was there before.
    pub fn force(&self, key: &str, bytes: &[u8]) {
        self.tokens.set(self.tokens.get() + 1);
        let token = NonZeroU32::new(self.tokens.get()).unwrap();
        self.values.borrow_mut().insert(key.to_owned(), (bytes.to_vec(), token));
    }

    /// A key that has been asked for.
    pub fn key(&self, n: usize) -> Option<String> {
        let asked = self.asked.borrow();
        (!asked.is_empty()).then(|| asked[n % asked.len()].clone())
    }

    /// What is there.
    pub fn value(&self, key: &str) -> Vec<u8> {
        self.values.borrow().get(key).map(|(bytes, _)| bytes.clone()).unwrap_or_default()
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        if !self.asked.borrow().iter().any(|held| held == key) {
            self.asked.borrow_mut().push(key.to_owned());
        }
        if self.broken.get() {
            return Err(StoreError::Refused);
        }
        let values = self.values.borrow();
        Ok(values.get(key).map(|(bytes, token)| Versioned { bytes: bytes.clone(), token: *token }))
    }

    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError> {
        if self.broken.get() {
            return Err(StoreError::Refused);
        }
        assert!(!bytes.is_empty(), "an empty value reads as missing");
        if let Some(watch) = self.watch {
            watch(key, bytes);
        }
        let held = self.values.borrow().get(key).map(|(_, token)| *token);
        let fits = match (held, expected) {
            (None, _) => true,
            (Some(held), Expected::Version(token)) => held == token,
            (Some(_), Expected::Absent) => false,
        };
        if !fits || self.late.get() > 0 {
            self.late.set(self.late.get().saturating_sub(1));
            return Err(StoreError::Mismatch);
        }
        self.force(key, bytes);
        Ok(())
    }
}
