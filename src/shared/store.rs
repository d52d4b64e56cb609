//! The one effect the engine has on the world: a bounded compare-and-swap.
//!
//! The store is the proxy's shared data, one process-wide map behind one mutex. Its rules, which this module turns into
//! types so that nobody can trip over them again: a write with token 0 overwrites whatever is there (so there is no token 0
//! here); a write with any other token to a missing key succeeds (so creating "only if absent" is a write with a token that
//! nobody holds); there is no deletion and no listing; an empty value reads as missing.

use std::num::NonZeroU32;

/// A value with the token that proves which version of it was read.
pub struct Versioned {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// For the write that follows.
    pub token: NonZeroU32,
}

/// What the writer believes is there.
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
    /// Somebody else wrote first.
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

    /// Writes a key if it still is what the writer believes. `bytes` is never empty.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is not, [`StoreError::Refused`].
    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError>;
}

/// How often an update is tried. With W workers that all write at once, the last of them needs W tries; 16 covers any
/// machine that spreads its requests, and what still fails is kept for the next merge, not lost.
pub const TRIES: u32 = 16;

/// What the closure of [`update`] wants.
pub enum Change<T> {
    /// Write these bytes.
    Write(Vec<u8>, T),
    /// Leave the value alone.
    Keep(T),
}

/// Reads, computes and writes until no other worker interferes; at most [`TRIES`] times. The closure may run several times
/// and sees the current bytes each time.
///
/// # Errors
/// [`StoreError::Mismatch`] when all tries were interfered with, [`StoreError::Refused`] when the host refused.
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
