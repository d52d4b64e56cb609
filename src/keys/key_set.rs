//! Key pools: which key a request or an attempt carries.
//!
//! A pool of the plan names its keys; their values may come later, from the `keys` role's secrets document. [`KeySet`] is the
//! pool with what is known now: the header value ready to be written, or nothing for a key whose secret is not there.

use std::collections::BTreeMap;

use crate::hash::hash;
use crate::plan::pool::{KeyPool, KeyValue, Secret};

/// Characters of a key that are shown, and how many more it must have.
const MASK: usize = 4;
const MASKED: usize = 8;

/// A pool with its values resolved. Holds secrets: no `Debug`.
pub struct KeySet {
    keys: Vec<Slot>,
    /// The candidates, each with the sum of the weights up to it.
    cumulative_weights: Vec<(u64, usize)>,
}

struct Slot {
    /// 0 for one that is the same as an earlier one, under another name: it has been configured twice, not bought twice.
    weight: u32,
    /// The key that it is the same as.
    same_as: Option<usize>,
    /// Prefix and key, as it goes into the header, and its fingerprint; `None`: disabled for want of its secret.
    value: Option<(Secret, u64)>,
}

impl KeySet {
    /// Resolves a pool against the secrets that are known.
    pub fn new(pool: &KeyPool, secrets: &BTreeMap<String, Secret>) -> KeySet {
        let keys = pool.keys.iter().map(|key| {
            let secret = match &key.value {
                KeyValue::Known(secret) => Some(secret.clone()),
                KeyValue::Named(name) => {
                    secrets.get(name).map(|raw| Secret::clean(raw.expose(), &pool.prefix))
                }
            };
            let value = secret
                .filter(|secret| !secret.expose().is_empty())
                .map(|secret| (secret.prefixed(&pool.prefix), fingerprint(&pool.name, secret.expose())));
            Slot { weight: key.weight, same_as: None, value }
        });
        let mut ring = KeySet { keys: keys.collect(), cumulative_weights: Vec::new() };
        ring.merge_duplicates();
        ring.cumulative_weights = ring
            .candidates()
            .scan(0u64, |end, n| {
                *end = end.saturating_add(ring.weight(n));
                Some((*end, n))
            })
            .collect();
        ring
    }

    /// Of several keys with one value the first that has a weight is used, or else the first.
    fn merge_duplicates(&mut self) {
        let of_value = |n: usize| {
            let fingerprint = self.fingerprint(n)?;
            let same = || (0..self.keys.len()).filter(|other| self.fingerprint(*other) == Some(fingerprint));
            same().find(|other| self.weight(*other) > 0).or_else(|| same().next())
        };
        let used: Vec<Option<usize>> = (0..self.keys.len()).map(of_value).collect();
        for (n, (slot, used)) in self.keys.iter_mut().zip(used).enumerate() {
            slot.same_as = used.filter(|used| *used != n);
            if slot.same_as.is_some() {
                slot.weight = 0;
            }
        }
    }

    /// The key that this one has the value of: that one is used and counted, and this one is not.
    pub fn same_as(&self, key: usize) -> Option<usize> {
        self.keys.get(key).and_then(|slot| slot.same_as)
    }

    fn weight(&self, n: usize) -> u64 {
        self.keys.get(n).map_or(0, |slot| u64::from(slot.weight))
    }

    /// Keys that have a value and a weight.
    pub fn candidates(&self) -> impl Iterator<Item = usize> {
        self.keys
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.weight > 0 && slot.value.is_some())
            .map(|(n, _)| n)
    }

    /// Of all keys that have a value.
    pub fn fingerprints(&self) -> Vec<u64> {
        self.keys.iter().filter_map(|slot| slot.value.as_ref()).map(|(_, fingerprint)| *fingerprint).collect()
    }

    /// Chooses among all candidates by weight, `random` being 64 uniform bits: as [`KeySet::choose`] does where every key is
    /// allowed, but without a look at each of them.
    pub fn choose_any(&self, random: u64) -> Option<usize> {
        let total = self.cumulative_weights.last().map(|(end, _)| *end)?;
        let scaled = scale(random, total)?;
        let at = self.cumulative_weights.partition_point(|(end, _)| *end <= scaled);
        self.cumulative_weights.get(at).map(|(_, n)| *n)
    }

    /// Chooses among the candidates that are `allowed`: by weight, `random` being 64 uniform bits, or for an identity by
    /// weighted rendezvous hashing, which moves an identity only when its key is not allowed.
    pub fn choose(
        &self,
        random: u64,
        identity: Option<u64>,
        allowed: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        match identity {
            Some(identity) => self.rendezvous(identity, allowed),
            None => self.by_weight(random, allowed),
        }
    }

    fn by_weight(&self, random: u64, allowed: &dyn Fn(usize) -> bool) -> Option<usize> {
        let weight = |n: usize| self.weight(n);
        let allowed = || self.candidates().filter(|n| allowed(*n));
        let total = allowed().fold(0u64, |sum, n| sum.saturating_add(weight(n)));
        let mut rest = scale(random, total)?;
        for n in allowed() {
            if rest < weight(n) {
                return Some(n);
            }
            rest = rest.saturating_sub(weight(n));
        }
        None
    }

    /// Each key draws `-ln(u) / weight` with `u` hashed from key and identity; the smallest wins, which each key does in
    /// proportion to its weight (exponential race; Efraimidis and Spirakis, 2006).
    fn rendezvous(&self, identity: u64, allowed: &dyn Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for n in self.candidates().filter(|n| allowed(*n)) {
            let Some(slot) = self.keys.get(n) else { continue };
            let fingerprint = slot.value.as_ref().map_or(0, |(_, fingerprint)| *fingerprint);
            let bits = hash(&[&fingerprint.to_le_bytes(), &identity.to_le_bytes()]);
            // In (0, 1): 53 bits and a half.
            let u = ((bits >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0;
            let drawn = -u.ln() / f64::from(slot.weight);
            if best.is_none_or(|(least, _)| drawn < least) {
                best = Some((drawn, n));
            }
        }
        best.map(|(_, n)| n)
    }

    /// The header value of a key.
    pub fn value(&self, key: usize) -> Option<&Secret> {
        self.keys.get(key).and_then(|slot| slot.value.as_ref()).map(|(value, _)| value)
    }

    /// What may be shown of a key: the last four characters of one that has twelve or more, of any other nothing. `prefix` is
    /// the pool's; `None` for a key without a value.
    pub fn mask(&self, key: usize, prefix: &str) -> Option<String> {
        let value = self.value(key)?.expose();
        let value = value.strip_prefix(prefix).unwrap_or(value);
        let mut mask = "…".to_owned();
        if let Some(before) = value.chars().count().checked_sub(MASK).filter(|before| *before >= MASKED) {
            mask.extend(value.chars().skip(before));
        }
        Some(mask)
    }

    /// Names a key without saying what it is; `None` for one without a value.
    pub fn fingerprint(&self, key: usize) -> Option<u64> {
        self.keys.get(key).and_then(|slot| slot.value.as_ref()).map(|(_, fingerprint)| *fingerprint)
    }
}

/// Multiply-shift: uniform on 0..total, and 0 when there is nothing to choose from.
fn scale(random: u64, total: u64) -> Option<u64> {
    u64::try_from(u128::from(random).saturating_mul(u128::from(total)) >> 64).ok()
}

/// The fingerprint of a key: of its pool and its value, so that it means nothing outside and moves with neither position nor
/// name. A rotated secret is another key.
pub fn fingerprint(pool: &str, value: &str) -> u64 {
    hash(&[b"bellwether/key", pool.as_bytes(), value.as_bytes()])
}

#[cfg(test)]
mod tests;
