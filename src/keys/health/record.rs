//! The shared record: health of the keys of one pool, as all workers see it.
//!
//! The record identifies keys by fingerprint, never by position or value. It holds only keys with something to remember, so the
//! record of a healthy pool is empty.
//!
//! An entry goes when no worker has its key any more. No single worker can know that: others may have an older configuration, or
//! already a newer one in a new VM. Therefore each worker confirms the entries of its own keys twice a second, with one write for
//! all of them, and drops entries that were not confirmed for three seconds. A key that is missing for a moment, while its secret
//! is being replaced, finds its health unchanged.

use crate::keys::health::{Doubt, Health, Status, Streak};
use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Micros, Span};

/// Most keys in a record: those of a pool, and as many of an older plan.
pub(super) const MAX_KEYS: usize = 512;
/// Age at which an entry is confirmed again.
const CONFIRM_AFTER: Span = Span::from_millis(500);
/// Age at which an unconfirmed entry is dropped: six missed confirmations, so that busy workers forget nothing.
const EXPIRY: Span = Span::from_secs(3);

/// Health of the keys of one pool, by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolHealth(pub Vec<Entry>);

/// Health of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Fingerprint of the key.
    pub fingerprint: u64,
    /// Health of the key.
    pub health: Health,
    /// Time at which a worker last confirmed that it has the key.
    confirmed: Micros,
}

impl PoolHealth {
    /// Returns the health of a key; a key without an entry is healthy.
    pub fn get(&self, fingerprint: u64) -> Health {
        let entry = self.0.iter().find(|entry| entry.fingerprint == fingerprint);
        entry.map(|entry| entry.health).unwrap_or_default()
    }

    /// Replaces the health of a key. A healthy key gets no entry.
    pub fn put(&mut self, fingerprint: u64, health: Health, now: Micros) {
        self.0.retain(|entry| entry.fingerprint != fingerprint);
        if health == Health::default() {
            return;
        }
        if self.0.len() >= MAX_KEYS {
            // The key that would come back first makes room.
            let first =
                self.0.iter().enumerate().min_by_key(|(_, entry)| entry.health.until).map(|(at, _)| at);
            first.map(|at| self.0.swap_remove(at));
        }
        self.0.push(Entry { fingerprint, health, confirmed: now });
    }

    /// Returns whether a good answer of a key to an attempt that began at `began` may count for the doubt of another key.
    pub fn has_room_for_service(&self, fingerprint: u64, began: Micros) -> bool {
        self.0.iter().any(|entry| entry.fingerprint != fingerprint && entry.health.doubt.has_room(began))
    }

    /// Returns whether a good answer of a key to this client adds something to the doubt of another key.
    pub fn is_changed_by_service(&self, fingerprint: u64, client: u64, began: Micros) -> bool {
        let is_changed = |entry: &Entry| entry.health.doubt.is_changed_by_service(client, began);
        self.0.iter().any(|entry| entry.fingerprint != fingerprint && is_changed(entry))
    }

    /// Notes in the doubts of all other keys that a key has served this client.
    pub fn add_service(&mut self, fingerprint: u64, client: u64, began: Micros, now: Micros) {
        for entry in self.0.iter_mut().filter(|entry| entry.fingerprint != fingerprint) {
            entry.health.doubt = entry.health.doubt.with_service(client, began, now);
        }
    }

    /// Confirms the entries of the keys that a worker `has`, where that is due, and drops entries that expired. If the
    /// worker also `had` the key at its last look, the entry never expires here: the whole process may have stood still.
    pub fn confirm(&mut self, had: &[u64], has: &[u64], now: Micros) {
        let stays = |entry: &Entry| {
            let known = has.contains(&entry.fingerprint) && had.contains(&entry.fingerprint);
            known || now.since(entry.confirmed) < EXPIRY
        };
        self.0.retain(stays);
        for entry in self.0.iter_mut().filter(|entry| has.contains(&entry.fingerprint)) {
            if now.since(entry.confirmed) >= CONFIRM_AFTER {
                entry.confirmed = now;
            }
        }
    }

    /// Writes the record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::try_from(self.0.len()).unwrap_or(0));
        for Entry { fingerprint, health: h, confirmed } in &self.0 {
            let d = &h.doubt;
            let streaks = [h.failed, h.broken].map(|streak| [u64::from(streak.count), streak.since.0]);
            for number in [*fingerprint, h.status.gauge(), h.since.0, h.until.0, h.trial_until.0]
                .into_iter()
                .chain([u64::from(h.doublings), u64::from(h.rejected)])
                .chain(streaks.into_iter().flatten())
                .chain([
                    d.since.0,
                    d.last.0,
                    u64::from(d.alone),
                    u64::from(d.shared),
                    d.served_at.0,
                    d.served_last.0,
                ])
                .chain(d.refused)
                .chain(d.served)
                .chain([confirmed.0])
            {
                w.number(number);
            }
        }
        w.finish()
    }

    /// Reads a record from bytes; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<PoolHealth> {
        Found::read(bytes, read)
    }
}

fn read(bytes: &[u8]) -> Option<PoolHealth> {
    let mut r = Reader::new(bytes)?;
    let count = r.count(MAX_KEYS)?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let fingerprint = r.number()?;
        let status = match r.number()? {
            0 => Status::Active,
            1 => Status::RateLimited,
            2 => Status::CoolingDown,
            3 => Status::Disabled,
            4 => Status::Suspect,
            5 => Status::Exhausted,
            _ => return None,
        };
        let (since, until, trial_until) = (Micros(r.number()?), Micros(r.number()?), Micros(r.number()?));
        let (doublings, rejected) = (r.small()?, r.small()?);
        let mut streak = || Some(Streak { count: r.small()?, since: Micros(r.number()?) });
        let (failed, broken) = (streak()?, streak()?);
        let doubt = Doubt {
            since: Micros(r.number()?),
            last: Micros(r.number()?),
            alone: r.small()?,
            shared: r.small()?,
            served_at: Micros(r.number()?),
            served_last: Micros(r.number()?),
            refused: [r.number()?, r.number()?, r.number()?],
            served: [r.number()?, r.number()?, r.number()?],
        };
        let health = Health { status, since, until, doublings, rejected, failed, broken, doubt, trial_until };
        keys.push(Entry { fingerprint, health, confirmed: Micros(r.number()?) });
    }
    r.end()?;
    Some(PoolHealth(keys))
}

#[cfg(test)]
mod tests;
