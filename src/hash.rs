//! A stable hash for identities: the same on every worker, every Envoy and every build.
//!
//! FNV-1a over the bytes (one multiplication a byte), then the finalizer of MurmurHash3 (`fmix64`, public domain, Austin
//! Appleby), because FNV's upper bits are weak for short inputs and the upper bits are what a point is made of. Not
//! `std`'s hasher: its algorithm may change with the compiler, and then every sticky user would move. Not a keyed one: a
//! client that wants another version can just as well send another identity.

use std::hash::Hasher;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hashes the parts in order. Each part ends with a byte that UTF-8 and header values never contain, so that
/// `["ab", "c"]` and `["a", "bc"]` differ.
pub fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = OFFSET;
    for part in parts {
        for byte in *part {
            state = (state ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
        state = (state ^ 0xff).wrapping_mul(PRIME);
    }
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^= state >> 33;
    state = state.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

/// For maps whose keys are numbers that we have given ourselves, one after the other: one multiplication (by 2⁶⁴ divided by the
/// golden ratio, Knuth's multiplicative hashing) in place of `std`'s defence against keys that somebody chooses.
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.write_u64(hash(&[bytes]));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Point;

    #[test]
    fn the_hash_of_a_known_input_never_changes() {
        // Changing these moves every sticky user of every installation. The numbers come from an independent computation.
        assert_eq!(hash(&[]), 0xefd0_1f60_ba99_2926);
        assert_eq!(hash(&[b"salt", b"user-1"]), 0xc9c1_92d7_40fc_b5e7);
    }

    #[test]
    fn borders_between_parts_matter() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }

    #[test]
    fn points_of_sequential_identities_are_even() {
        let mut low = 0u32;
        for i in 0..100_000u32 {
            let id = format!("user-{i}");
            if Point::from_random(hash(&[b"salt", id.as_bytes()])).get() < 1000 {
                low += 1;
            }
        }
        // 10 % of 100 000, four standard deviations (95 each) either way.
        assert!((9_620..=10_380).contains(&low), "{low} of 100000 in the first tenth");
    }
}
