//! A stable hash of identities: every worker, every Envoy and every build computes the same.
//!
//! The hash is FNV-1a over the bytes (one multiplication a byte), then the finalizer of MurmurHash3 (`fmix64`, public domain,
//! Austin Appleby). The finalizer is needed because a point is made of the upper bits, and FNV's upper bits are weak for short
//! inputs. The hasher of `std` is unfit: its algorithm may change with the compiler, and then every sticky user would change
//! version. A keyed hash would protect nothing: a client can change its version by sending another identity.

use std::hash::Hasher;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hashes the parts in order. A byte that neither UTF-8 nor a header value contains ends each part, so that `["ab", "c"]` and
/// `["a", "bc"]` differ.
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

/// A hasher for maps with consecutive numbers of our own as keys. It does one multiplication, by 2⁶⁴ divided by the golden
/// ratio (Knuth's multiplicative hashing). The slower hasher of `std` defends against keys that an attacker chooses; nobody
/// chooses these.
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
        // Another value would move every sticky user of every installation. The numbers come from an independent computation.
        assert_eq!(hash(&[]), 0xefd0_1f60_ba99_2926);
        assert_eq!(hash(&[b"salt", b"user-1"]), 0xc9c1_92d7_40fc_b5e7);
    }

    #[test]
    fn parts_that_are_divided_differently_hash_differently() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }

    #[test]
    fn points_of_sequential_identities_are_evenly_distributed() {
        let mut low = 0u32;
        for i in 0..100_000u32 {
            let id = format!("user-{i}");
            if Point::from_random(hash(&[b"salt", id.as_bytes()])).get() < 1000 {
                low += 1;
            }
        }
        // 10 % of 100 000, four standard deviations (95 each) up and down.
        assert!((9_620..=10_380).contains(&low), "{low} of 100000 in the first tenth");
    }
}
