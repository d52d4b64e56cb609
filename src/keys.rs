//! Key pools: which key a request or an attempt carries.

pub mod documents;
pub mod health;
pub mod key_set;
pub mod pool;
pub mod reset;
pub mod usage;
