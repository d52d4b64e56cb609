//! Key pools: which key an attempt carries, why a key is out of use, and how it comes back.

pub mod documents; // secrets documents of the `keys` roles, and which of them is in force
pub mod health; // health of one key: streaks, cooldowns, trials; the shared record of a pool
pub mod key_set; // the keys of a pool with their values; the choice by weight or identity
pub mod pool; // pools on one worker: picks keys, reports outcomes
pub mod reset; // the wait that a rate-limited answer asks for
pub mod usage; // requests and errors of each key, on all workers
