//! The refusals that one worker has seen in the last second.
//!
//! A refusal that a request has met is not yet a fault of the key. Until the request is decided, a few milliseconds later, the worker
//! lets other requests prefer other keys. And where a key that was refused itself does well a moment later, the provider has refused all
//! keys and has come back: its good answer proves nothing against the keys that were refused with it.

use crate::time::{Micros, Span};

/// Time for which a refused key is in doubt, unless it does well before (0.2 s): most requests are decided by then.
const DOUBTED_FOR: Span = Span::from_millis(200);
/// Time after a refusal of a key in which its good answers prove nothing against other keys (1 s).
const OUTAGE: Span = Span::from_secs(1);
/// Most keys that are remembered: those of a pool.
const MAX_KEYS: usize = 256;

/// The last refusal of a key.
struct Seen {
    fingerprint: u64,
    at: Micros,
    /// The key has done well since.
    served: bool,
}

/// The refusals that one worker has seen in the last second.
#[derive(Default)]
pub struct Refusals(Vec<Seen>);

/// Returns the time from which on a refusal of the good key counts as part of the same outage as that of an attempt that began at
/// `began`.
pub fn outage_since(began: Micros) -> Micros {
    Micros(began.0.saturating_sub(OUTAGE.0))
}

impl Refusals {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops refusals that are too old to matter.
    pub fn expire(&mut self, now: Micros) {
        // Attempts that began a second ago are compared with refusals of a second before.
        self.0.retain(|seen| now.since(seen.at) < OUTAGE.saturating_add(OUTAGE));
    }

    /// Notes a refusal.
    pub fn note(&mut self, fingerprint: u64, now: Micros) {
        self.0.retain(|seen| seen.fingerprint != fingerprint);
        if self.0.len() >= MAX_KEYS {
            self.0.remove(0);
        }
        self.0.push(Seen { fingerprint, at: now, served: false });
    }

    /// Notes that a key has done well.
    pub fn note_service(&mut self, fingerprint: u64) {
        if let Some(seen) = self.0.iter_mut().find(|seen| seen.fingerprint == fingerprint) {
            seen.served = true;
        }
    }

    /// Returns whether a key was refused a moment ago and has not done well since.
    pub fn is_doubted(&self, fingerprint: u64, now: Micros) -> bool {
        let doubts = |seen: &Seen| !seen.served && now.since(seen.at) < DOUBTED_FOR;
        self.0.iter().any(|seen| seen.fingerprint == fingerprint && doubts(seen))
    }

    /// Returns whether a key was refused at `time` or later.
    pub fn has_since(&self, fingerprint: u64, time: Micros) -> bool {
        self.0.iter().any(|seen| seen.fingerprint == fingerprint && seen.at >= time)
    }
}
