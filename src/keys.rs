//! Key pools: which key a request or an attempt carries.
//!
//! A pool of the plan names its keys; their values may come later, from the `keys` role's secrets document. [`Ring`] is the
//! pool with what is known now: the header value ready to be written, or nothing for a key whose secret is not there.

pub mod documents;
pub mod health;
pub mod pool;
pub mod reset;
pub mod usage;

use std::collections::BTreeMap;

use crate::hash::hash;
use crate::plan::pool::{KeyPool, KeyValue, Secret};

/// Characters of a key that are shown, and how many more it must have.
const MASK: usize = 4;
const MASKED: usize = 8;

/// A pool with its values resolved. Holds secrets: no `Debug`.
pub struct Ring {
    keys: Vec<Slot>,
    /// The candidates, each with the sum of the weights up to it.
    ends: Vec<(u64, usize)>,
}

struct Slot {
    /// 0 for one that is the same as an earlier one, under another name: it has been configured twice, not bought twice.
    weight: u32,
    /// The key that it is the same as.
    same_as: Option<usize>,
    /// Prefix and key, as it goes into the header, and its fingerprint; `None`: disabled for want of its secret.
    value: Option<(Secret, u64)>,
}

impl Ring {
    /// Resolves a pool against the secrets that are known.
    pub fn new(pool: &KeyPool, secrets: &BTreeMap<String, Secret>) -> Ring {
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
        let mut ring = Ring { keys: keys.collect(), ends: Vec::new() };
        ring.unite();
        ring.ends = ring
            .candidates()
            .scan(0u64, |end, n| {
                *end = end.saturating_add(ring.weight(n));
                Some((*end, n))
            })
            .collect();
        ring
    }

    /// Of several keys with one value the first that has a weight is used, or else the first.
    fn unite(&mut self) {
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

    /// Chooses among all candidates by weight, `random` being 64 uniform bits: as [`Ring::choose`] does where every key is
    /// allowed, but without a look at each of them.
    pub fn any(&self, random: u64) -> Option<usize> {
        let total = self.ends.last().map(|(end, _)| *end)?;
        let scaled = scale(random, total)?;
        let at = self.ends.partition_point(|(end, _)| *end <= scaled);
        self.ends.get(at).map(|(_, n)| *n)
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
mod tests {
    use super::*;
    use crate::testing::pool;

    fn secrets(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::clean(value, ""))).collect()
    }

    #[test]
    fn choosing_among_all_is_choosing_with_every_key_allowed() {
        let mut keys = pool(&[("a", 3), ("b", 0), ("c", 2), ("d", 5)]);
        keys.keys[2].value = KeyValue::Named("absent".to_owned());
        for ring in [Ring::new(&keys, &BTreeMap::new()), Ring::new(&keys, &secrets(&[("absent", "sk-c")]))] {
            for step in 0..1000u64 {
                let random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                assert_eq!(ring.any(random), ring.choose(random, None, &|_| true));
            }
        }
        let nothing = Ring::new(&pool(&[("a", 1)]), &BTreeMap::new());
        assert_eq!(nothing.any(u64::MAX), Some(0));
    }

    #[test]
    fn keys_are_picked_by_weight() {
        let ring = Ring::new(&pool(&[("a", 3), ("b", 3), ("c", 2), ("d", 2)]), &BTreeMap::new());
        let mut counts = [0u32; 4];
        for i in 0..1000u64 {
            counts[ring.choose((2 * i + 1) * (u64::MAX / 2000), None, &|_| true).unwrap()] += 1;
        }
        assert_eq!(counts, [300, 300, 200, 200]);
    }

    #[test]
    fn a_key_of_weight_0_is_never_picked() {
        let ring = Ring::new(&pool(&[("a", 0), ("b", 1)]), &BTreeMap::new());
        for i in 0..100u64 {
            assert_eq!(ring.choose(i << 57, None, &|_| true), Some(1));
            assert_eq!(ring.choose(0, Some(i), &|_| true), Some(1));
        }
    }

    #[test]
    fn identities_are_spread_by_weight_and_move_only_when_their_key_is_out() {
        let ring = Ring::new(&pool(&[("a", 3), ("b", 1), ("c", 1)]), &BTreeMap::new());
        let mut counts = [0u32; 3];
        for i in 0..10_000u64 {
            let identity = hash(&[&i.to_le_bytes()]);
            let key = ring.choose(0, Some(identity), &|_| true).unwrap();
            counts[key] += 1;
            let without_b = ring.choose(0, Some(identity), &|n| n != 1).unwrap();
            assert!(key == 1 || key == without_b, "identity {i} moved from {key} to {without_b}");
        }
        // 6000, 2000, 2000, four standard deviations either way.
        assert!((5_800..=6_200).contains(&counts[0]) && (1_840..=2_160).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn a_secret_that_comes_later_enables_its_key() {
        let mut p = pool(&[("a", 1)]);
        p.keys[0].value = KeyValue::Named("openai-1".to_owned());
        assert_eq!(Ring::new(&p, &secrets(&[])).candidates().count(), 0);
        assert_eq!(Ring::new(&p, &secrets(&[])).choose(1, None, &|_| true), None);
        let ring = Ring::new(&p, &secrets(&[("openai-1", " Bearer sk-1\n")]));
        assert_eq!(ring.value(0).unwrap().expose(), "Bearer sk-1", "trimmed, the prefix once");
    }

    #[test]
    fn one_value_under_two_names_is_one_key() {
        let mut p = pool(&[("a", 0), ("b", 2), ("c", 3), ("d", 1)]);
        for (key, name) in p.keys.iter_mut().zip(["x", "y", "z"]) {
            key.value = KeyValue::Named(name.to_owned());
        }
        let ring = Ring::new(&p, &secrets(&[("x", "sk-1"), ("y", " sk-1 "), ("z", "Bearer sk-1")]));
        assert_eq!(ring.candidates().collect::<Vec<_>>(), [1, 3], "the first that has a weight");
        assert_eq!([0, 1, 2, 3].map(|n| ring.same_as(n)), [Some(1), None, Some(1), None]);
        assert!(ring.value(2).is_some(), "its secret is there");
        let ring = Ring::new(&p, &secrets(&[("x", "sk-1"), ("y", "sk-2"), ("z", "sk-3")]));
        assert_eq!(ring.candidates().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_mask_shows_four_characters_of_twelve_and_nothing_of_fewer() {
        let mut p = pool(&[("a", 1)]);
        for (value, prefix, mask) in [
            ("sk-123456789", "Bearer ", "…6789"),
            ("sk-12345678", "Bearer ", "…"),
            ("sk-1", "Bearer ", "…"),
            ("k", "", "…"),
            ("ääääääääöäüß", "Bearer ", "…öäüß"),
            ("ääääääääöäü", "Bearer ", "…"),
            ("Bearer-and-more", "Bearer ", "…more"),
        ] {
            p.prefix = prefix.to_owned();
            p.keys[0].value = KeyValue::Known(Secret::clean(value, prefix));
            let ring = Ring::new(&p, &BTreeMap::new());
            assert_eq!(ring.mask(0, &p.prefix).as_deref(), Some(mask), "{value:?}");
        }
        p.keys[0].value = KeyValue::Named("later".to_owned());
        assert_eq!(Ring::new(&p, &BTreeMap::new()).mask(0, &p.prefix), None);
    }

    #[test]
    fn keys_as_people_paste_them() {
        for (raw, prefix, clean) in [
            ("  sk-1 \n", "Bearer ", "sk-1"),
            ("Bearer sk-1", "Bearer ", "sk-1"),
            ("bearer   sk-1", "Bearer ", "sk-1"),
            ("Bearersk-1", "Bearer ", "Bearersk-1"),
            ("sk-1", "", "sk-1"),
            ("Key:abc", "Key:", "abc"),
            ("", "Bearer ", ""),
            ("Bearer ", "Bearer ", ""),
            ("ä", "Bearer ", "ä"),
        ] {
            assert_eq!(Secret::clean(raw, prefix).expose(), clean, "{raw:?} with prefix {prefix:?}");
        }
    }
}
