//! Key pools: which key a request or an attempt carries.
//!
//! A pool of the plan names its keys; their values may come later, from the `keys` role's secrets document. [`Ring`] is the
//! pool with what is known now: the header value ready to be written, or nothing for a key whose secret is not there.

use std::collections::BTreeMap;

use crate::plan::{KeyPool, KeyValue, Secret};

/// A pool with its values resolved. Holds secrets: no `Debug`.
pub struct Ring {
    keys: Vec<Slot>,
}

struct Slot {
    weight: u32,
    /// Prefix and key, as it goes into the header; `None`: the key is disabled for want of its secret.
    value: Option<Secret>,
}

impl Ring {
    /// Resolves a pool against the secrets that are known.
    pub fn new(pool: &KeyPool, secrets: &BTreeMap<String, Secret>) -> Ring {
        let keys = pool
            .keys
            .iter()
            .map(|key| {
                let secret = match &key.value {
                    KeyValue::Known(secret) => Some(secret.clone()),
                    KeyValue::Named(name) => {
                        secrets.get(name).map(|raw| Secret::clean(raw.expose(), &pool.prefix))
                    }
                };
                let value = secret
                    .filter(|secret| !secret.expose().is_empty())
                    .map(|secret| secret.prefixed(&pool.prefix));
                Slot { weight: key.weight, value }
            })
            .collect();
        Ring { keys }
    }

    /// Whether any key can be used.
    pub fn usable(&self) -> bool {
        self.keys.iter().any(Slot::usable)
    }

    /// Whether this key has its value.
    pub fn has_value(&self, key: usize) -> bool {
        self.keys.get(key).is_some_and(|slot| slot.value.is_some())
    }

    /// A weighted pick among the keys that have a value and were not tried yet; when all were, among all that have one.
    /// `random`: 64 uniform bits. `None` if no key is usable.
    pub fn pick(&self, tried: &[usize], random: u64) -> Option<usize> {
        self.pick_where(random, &|n| !tried.contains(&n)).or_else(|| self.pick_where(random, &|_| true))
    }

    fn pick_where(&self, random: u64, allowed: &dyn Fn(usize) -> bool) -> Option<usize> {
        let candidates = || self.keys.iter().enumerate().filter(|(n, slot)| slot.usable() && allowed(*n));
        let total = candidates().fold(0u64, |sum, (_, slot)| sum.saturating_add(u64::from(slot.weight)));
        // Multiply-shift: uniform on 0..total, and 0 when there is nothing to choose from.
        let scaled = u128::from(random).saturating_mul(u128::from(total)) >> 64;
        let mut rest = u64::try_from(scaled).ok()?;
        for (n, slot) in candidates() {
            let weight = u64::from(slot.weight);
            if rest < weight {
                return Some(n);
            }
            rest = rest.saturating_sub(weight);
        }
        None
    }

    /// The header value of a key.
    pub fn value(&self, key: usize) -> Option<&Secret> {
        self.keys.get(key).and_then(|slot| slot.value.as_ref())
    }
}

impl Slot {
    fn usable(&self) -> bool {
        self.weight > 0 && self.value.is_some()
    }
}

/// Headers in which clients bring credentials of their own; removed when a version has a key pool.
pub const CLIENT_CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Why no key could be had, as an OpenAI client understands it: status, body.
pub const UNAVAILABLE: (u32, &str) = (
    503,
    r#"{"error":{"message":"no API key is available for this request","type":"server_error","param":null,"code":"keys_unavailable"}}"#,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pool;

    fn secrets(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::clean(value, ""))).collect()
    }

    #[test]
    fn keys_are_picked_by_weight() {
        let ring = Ring::new(&pool(&[("a", 3), ("b", 3), ("c", 2), ("d", 2)]), &BTreeMap::new());
        let mut counts = [0u32; 4];
        for i in 0..1000u64 {
            counts[ring.pick(&[], (2 * i + 1) * (u64::MAX / 2000)).unwrap()] += 1;
        }
        assert_eq!(counts, [300, 300, 200, 200]);
    }

    #[test]
    fn a_key_of_weight_0_is_never_picked() {
        let ring = Ring::new(&pool(&[("a", 0), ("b", 1)]), &BTreeMap::new());
        for i in 0..100u64 {
            assert_eq!(ring.pick(&[], i << 57), Some(1));
        }
    }

    #[test]
    fn a_tried_key_is_taken_again_only_when_all_were_tried() {
        let ring = Ring::new(&pool(&[("a", 1), ("b", 1)]), &BTreeMap::new());
        for i in 0..100u64 {
            assert_eq!(ring.pick(&[0], i << 57), Some(1));
        }
        assert!(ring.pick(&[0, 1], 0).is_some());
    }

    #[test]
    fn a_secret_that_comes_later_enables_its_key() {
        let mut p = pool(&[("a", 1)]);
        p.keys[0].value = KeyValue::Named("openai-1".to_owned());
        assert!(!Ring::new(&p, &secrets(&[])).usable());
        assert_eq!(Ring::new(&p, &secrets(&[])).pick(&[], 1), None);
        let ring = Ring::new(&p, &secrets(&[("openai-1", " Bearer sk-1\n")]));
        assert_eq!(ring.value(0).unwrap().expose(), "Bearer sk-1", "trimmed, the prefix once");
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
