//! The keys of a pool with the values that are known now, and the choice among them.
//!
//! A pool of the plan names its keys. Their values may come later, in the secrets document of a `keys` role, so each new document
//! makes a new [`KeySet`].

use std::collections::BTreeMap;

use crate::hash::hash;
use crate::plan::pool::{KeyPool, KeyValue, Secret};

/// Characters at the end of a key that are shown.
const SHOWN: usize = 4;
/// Fewest characters before them. Nothing is shown of a shorter key.
const HIDDEN: usize = 8;

/// The keys of a pool with their values. Holds secrets: no `Debug`.
pub struct KeySet {
    keys: Vec<Slot>,
    /// The candidates, each with the sum of the weights up to it.
    cumulative_weights: Vec<(u64, usize)>,
}

struct Slot {
    /// Weight; 0 for a duplicate, because one key under two names has the quota of one key.
    weight: u32,
    /// The key that is used in place of this one, a duplicate.
    same_as: Option<usize>,
    /// Value; `None` while the secret is missing, which disables the key.
    value: Option<Value>,
}

struct Value {
    /// Prefix and key, as they go into the header.
    header: Secret,
    fingerprint: u64,
}

impl KeySet {
    /// Resolves the keys of a pool against the known secrets.
    pub fn new(pool: &KeyPool, secrets: &BTreeMap<String, Secret>) -> KeySet {
        let keys = pool.keys.iter().map(|key| {
            let secret = match &key.value {
                KeyValue::Known(secret) => Some(secret.clone()),
                KeyValue::Named(name) => {
                    secrets.get(name).map(|raw| Secret::for_header(raw.expose(), &pool.header, &pool.prefix))
                }
            };
            let value = secret.filter(|secret| !secret.expose().is_empty()).map(|secret| Value {
                header: secret.prefixed(&pool.prefix),
                fingerprint: fingerprint(&pool.name, secret.expose()),
            });
            Slot { weight: key.weight, same_as: None, value }
        });
        let mut set = KeySet { keys: keys.collect(), cumulative_weights: Vec::new() };
        set.merge_duplicates();
        set.cumulative_weights = set
            .candidates()
            .scan(0u64, |end, n| {
                *end = end.saturating_add(set.weight(n));
                Some((*end, n))
            })
            .collect();
        set
    }

    /// Keeps one of several keys with the same value: the first with a weight, or else the first.
    fn merge_duplicates(&mut self) {
        let kept = |n: usize| {
            let fingerprint = self.fingerprint(n)?;
            let same = || (0..self.keys.len()).filter(|other| self.fingerprint(*other) == Some(fingerprint));
            same().find(|other| self.weight(*other) > 0).or_else(|| same().next())
        };
        let used: Vec<Option<usize>> = (0..self.keys.len()).map(kept).collect();
        for (n, (slot, used)) in self.keys.iter_mut().zip(used).enumerate() {
            slot.same_as = used.filter(|used| *used != n);
            if slot.same_as.is_some() {
                slot.weight = 0;
            }
        }
    }

    /// Returns the key that is used and counted in place of this one, if it is a duplicate.
    pub fn same_as(&self, key: usize) -> Option<usize> {
        self.keys.get(key).and_then(|slot| slot.same_as)
    }

    fn weight(&self, n: usize) -> u64 {
        self.keys.get(n).map_or(0, |slot| u64::from(slot.weight))
    }

    /// Returns the keys with a value and a weight.
    pub fn candidates(&self) -> impl Iterator<Item = usize> {
        self.keys
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.weight > 0 && slot.value.is_some())
            .map(|(n, _)| n)
    }

    /// Returns the fingerprints of all keys with a value.
    pub fn fingerprints(&self) -> Vec<u64> {
        self.keys.iter().filter_map(|slot| slot.value.as_ref()).map(|value| value.fingerprint).collect()
    }

    /// Chooses among all candidates by weight. `random`: 64 uniform bits. The result is that of [`KeySet::choose`] with every key
    /// allowed, but no loop over the keys is needed.
    pub fn choose_any(&self, random: u64) -> Option<usize> {
        let total = self.cumulative_weights.last().map(|(end, _)| *end)?;
        let scaled = scale(random, total)?;
        let at = self.cumulative_weights.partition_point(|(end, _)| *end <= scaled);
        self.cumulative_weights.get(at).map(|(_, n)| *n)
    }

    /// Chooses among the candidates that are `allowed`. Without an identity the weight decides and `random`, 64 uniform bits. With an
    /// identity weighted rendezvous hashing decides, which moves an identity only if its key is not allowed.
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

    /// Chooses by an exponential race (Efraimidis and Spirakis, 2006): each key draws `-ln(u) / weight`, with `u` hashed from key and
    /// identity, and the smallest draw wins. Each key wins in proportion to its weight.
    fn rendezvous(&self, identity: u64, allowed: &dyn Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for n in self.candidates().filter(|n| allowed(*n)) {
            let Some(slot) = self.keys.get(n) else { continue };
            let fingerprint = slot.value.as_ref().map_or(0, |value| value.fingerprint);
            let bits = hash(&[&fingerprint.to_le_bytes(), &identity.to_le_bytes()]);
            // Between 0 and 1, neither included: 53 bits and a half.
            let u = ((bits >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0;
            let drawn = -u.ln() / f64::from(slot.weight);
            if best.is_none_or(|(least, _)| drawn < least) {
                best = Some((drawn, n));
            }
        }
        best.map(|(_, n)| n)
    }

    fn value(&self, key: usize) -> Option<&Value> {
        self.keys.get(key).and_then(|slot| slot.value.as_ref())
    }

    /// Returns the header value of a key; `None` while its secret is missing.
    pub fn header_value(&self, key: usize) -> Option<&Secret> {
        self.value(key).map(|value| &value.header)
    }

    /// Returns the part of a key that may be shown: the last four characters of a key with twelve or more, nothing of a shorter one.
    /// `None` while the secret is missing. `prefix`: the pool's.
    pub fn mask(&self, key: usize, prefix: &str) -> Option<String> {
        let value = self.header_value(key)?.expose();
        let value = value.strip_prefix(prefix).unwrap_or(value);
        let mut mask = "…".to_owned();
        if let Some(before) = value.chars().count().checked_sub(SHOWN).filter(|before| *before >= HIDDEN) {
            mask.extend(value.chars().skip(before));
        }
        Some(mask)
    }

    /// Returns whether this is the header value of a key. `pool`: the pool of these keys.
    pub fn holds(&self, pool: &KeyPool, header_value: &[u8]) -> bool {
        let Some(value) = header_value.strip_prefix(pool.prefix.as_bytes()) else { return false };
        let Ok(value) = std::str::from_utf8(value) else { return false };
        let fingerprint = fingerprint(&pool.name, value);
        self.keys.iter().filter_map(|slot| slot.value.as_ref()).any(|value| value.fingerprint == fingerprint)
    }

    /// Returns the fingerprint of a key; `None` while its secret is missing.
    pub fn fingerprint(&self, key: usize) -> Option<u64> {
        self.value(key).map(|value| value.fingerprint)
    }
}

/// Scales 64 uniform bits to `0..total` by a multiplication and a shift; 0 if `total` is 0.
fn scale(random: u64, total: u64) -> Option<u64> {
    u64::try_from(u128::from(random).saturating_mul(u128::from(total)) >> 64).ok()
}

/// Returns the fingerprint of a key: a hash of its pool and its value. It means nothing outside the pool, and it depends neither on
/// the key's position nor on its name. A rotated secret is another key.
pub fn fingerprint(pool: &str, value: &str) -> u64 {
    hash(&[b"bellwether/key", pool.as_bytes(), value.as_bytes()])
}

#[cfg(test)]
mod tests;
