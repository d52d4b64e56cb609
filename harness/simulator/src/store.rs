//! Shared data by the proxy's rules, with other processes' interference.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroU32;

use bellwether::shared::store::{Expected, Store, StoreError, Versioned};

use crate::rng::Rng;

/// One map for all workers; one token counter for all keys.
pub struct Memory {
    values: RefCell<HashMap<String, (Vec<u8>, NonZeroU32)>>,
    tokens: Cell<u32>,
    /// Probability that somebody else wrote between a read and its write.
    interference: f64,
    dice: RefCell<Rng>,
    /// Reads and writes so far.
    pub calls: Cell<u64>,
    /// Writes that were refused because somebody else was first.
    pub mismatches: Cell<u64>,
}

impl Memory {
    /// An empty store.
    pub fn new(interference: f64, dice: Rng) -> Memory {
        Memory {
            values: RefCell::default(),
            tokens: Cell::new(0),
            interference,
            dice: RefCell::new(dice),
            calls: Cell::new(0),
            mismatches: Cell::new(0),
        }
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.calls.set(self.calls.get() + 1);
        let values = self.values.borrow();
        Ok(values.get(key).map(|(bytes, token)| Versioned { bytes: bytes.clone(), token: *token }))
    }

    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError> {
        self.calls.set(self.calls.get() + 1);
        let mut values = self.values.borrow_mut();
        let fits = match (values.get(key), expected) {
            (None, _) => true,
            (Some((_, held)), Expected::Version(token)) => *held == token,
            (Some(_), Expected::Absent) => false,
        };
        if !fits || (self.interference > 0.0 && self.dice.borrow_mut().chance(self.interference)) {
            self.mismatches.set(self.mismatches.get() + 1);
            return Err(StoreError::Mismatch);
        }
        let token = NonZeroU32::MIN.saturating_add(self.tokens.get());
        self.tokens.set(token.get());
        values.insert(key.to_owned(), (bytes.to_vec(), token));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_after_somebody_elses_is_refused() {
        let store = Memory::new(0.0, Rng::of(0, "store", 0));
        store.set("k", b"1", Expected::Absent).unwrap();
        assert_eq!(store.set("k", b"2", Expected::Absent), Err(StoreError::Mismatch));
        let first = store.get("k").unwrap().unwrap();
        store.set("k", b"2", Expected::Version(first.token)).unwrap();
        assert_eq!(store.set("k", b"3", Expected::Version(first.token)), Err(StoreError::Mismatch));
        assert_eq!(store.get("k").unwrap().unwrap().bytes, b"2");
    }

    #[test]
    fn interference_comes_as_often_as_asked_for() {
        let store = Memory::new(0.3, Rng::of(0, "store", 0));
        let refused =
            (0..1000).filter(|i| store.set(&i.to_string(), b"1", Expected::Absent).is_err()).count();
        assert!((240..360).contains(&refused), "{refused}");
    }
}
