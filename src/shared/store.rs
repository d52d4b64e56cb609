//! The one effect the engine has on the world: a bounded compare-and-swap.
//!
//! The store is the proxy's shared data, one process-wide map behind one mutex. The types of this module follow its rules. A write
//! with token 0 overwrites any value, so there is no token 0 here. A write with any other token to a missing key succeeds, so a
//! value is created "only if absent" by a write with a token that no value has. There is no deletion and no listing. An empty value
//! reads as missing.

use std::num::NonZeroU32;

/// A value with the token that proves which version of it was read.
pub struct Versioned {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// For the write that follows.
    pub token: NonZeroU32,
}

/// The state of a key that a write expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The version that was read with this token.
    Version(NonZeroU32),
}

/// Why a read or a write did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// Another writer was first.
    Mismatch,
    /// The host refused.
    Refused,
}

/// Shared data as the engine needs it.
pub trait Store {
    /// Reads a key; `None` if it was never written.
    ///
    /// # Errors
    /// [`StoreError::Refused`].
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// Writes a key if it still is as expected. `bytes` is never empty.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is not, [`StoreError::Refused`].
    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError>;
}

/// Most tries of an update. If W workers write at once, the last of them needs W tries. 16 is enough for any machine that spreads
/// its requests; counts that still fail are kept for the next merge, not lost.
pub const TRIES: u32 = 16;

/// The result of the closure of [`update`].
pub enum Change<T> {
    /// Write these bytes.
    Write(Vec<u8>, T),
    /// Leave the value alone.
    Keep(T),
}

/// Reads, computes and writes until no other worker interferes, at most [`TRIES`] times. The closure may run several times and is
/// given the current bytes each time.
///
/// # Errors
/// [`StoreError::Mismatch`] if other workers interfered with all tries, [`StoreError::Refused`] if the host refused.
pub fn update<T>(
    store: &dyn Store,
    key: &str,
    change: &mut dyn FnMut(Option<&[u8]>) -> Change<T>,
) -> Result<T, StoreError> {
    for _ in 0..TRIES {
        let current = store.get(key)?;
        let expected = current.as_ref().map_or(Expected::Absent, |v| Expected::Version(v.token));
        match change(current.as_ref().map(|v| v.bytes.as_slice())) {
            Change::Keep(value) => return Ok(value),
            Change::Write(bytes, value) => match store.set(key, &bytes, expected) {
                Ok(()) => return Ok(value),
                Err(StoreError::Mismatch) => {}
                Err(StoreError::Refused) => return Err(StoreError::Refused),
            },
        }
    }
    Err(StoreError::Mismatch)
}
