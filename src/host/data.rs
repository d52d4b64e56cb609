//! The proxy's shared data as a store.

use std::num::NonZeroU32;

use proxy_wasm::hostcalls;
use proxy_wasm::types::Status;

use crate::shared::store::{Expected, Store, StoreError, Versioned};

/// A token that no value has (tokens count up from 1): a write with it creates a key, or fails because it exists.
const UNUSED_TOKEN: u32 = u32::MAX;

/// The proxy's shared data.
pub struct SharedData;

impl Store for SharedData {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        match hostcalls::get_shared_data(key) {
            Ok((bytes, token)) => Ok(token.and_then(NonZeroU32::new).map(|token| {
                // An empty value reads as `None` with a token.
                Versioned { bytes: bytes.unwrap_or_default(), token }
            })),
            Err(_) => Err(StoreError::Refused),
        }
    }

    fn set(&self, key: &str, bytes: &[u8], expected: Expected) -> Result<(), StoreError> {
        let token = match expected {
            Expected::Absent => UNUSED_TOKEN,
            Expected::Version(token) => token.get(),
        };
        match hostcalls::set_shared_data(key, Some(bytes), Some(token)) {
            Ok(()) => Ok(()),
            Err(Status::CasMismatch) => Err(StoreError::Mismatch),
            Err(_) => Err(StoreError::Refused),
        }
    }
}
