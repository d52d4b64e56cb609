use super::*;
use crate::keys::health::{Observation, Others};
use crate::outcome::blame::KeyOutcome;
use crate::testing;

/// The other keys work.
const WORKING: Others = Others { active: true, trusted: true, work: true };

fn s(seconds: u64) -> Micros {
    Micros(seconds * 1_000_000)
}

/// Applies the outcome of an attempt that took no time, while other keys work.
fn apply(health: Health, outcome: KeyOutcome, at: u64) -> Health {
    let seen = Observation { outcome, began: s(at), now: s(at), client: 1 };
    health.apply(seen, WORKING, &testing::pool(&[("a", 1)]))
}

#[test]
fn keys_that_were_rotated_away_make_room() {
    let mut pool = PoolHealth::default();
    for n in 0..2000u64 {
        pool.put(n, apply(Health::default(), KeyOutcome::Rejected, 100 + n), s(5));
        assert!(!pool.get(n).is_active(), "key {n}");
    }
    assert!(pool.0.len() <= MAX_KEYS);
}

#[test]
fn an_entry_lasts_as_long_as_a_worker_has_its_key() {
    let out = apply(Health::default(), KeyOutcome::Rejected, 100);
    let mut pool = PoolHealth::default();
    pool.put(7, out, s(100));
    // A worker that has the key keeps the entry, even after a standstill of the process.
    for at in [101, 102, 200] {
        pool.confirm(&[7, 8], &[7, 8], s(at));
        assert_eq!(pool.get(7), out);
    }
    // Missing for a moment, the key is not confirmed. Its entry is still there when it comes back.
    pool.confirm(&[7, 8], &[8], s(202));
    pool.confirm(&[8], &[7, 8], s(202));
    assert_eq!(pool.get(7), out);
    // Missing for longer, it expires at the next look of any worker, also of one that has the key for the first time.
    let mut again = pool.clone();
    pool.confirm(&[8], &[8], s(205));
    again.confirm(&[], &[7], s(205));
    assert_eq!((pool.0.len(), again.0.len()), (0, 0));
}

#[test]
fn a_record_comes_back_from_its_bytes_and_forgets_healthy_keys() {
    let mut pool = PoolHealth::default();
    pool.put(7, apply(Health::default(), KeyOutcome::Limited(None), 5), s(5));
    pool.put(9, apply(Health::default(), KeyOutcome::Rejected, 5).start_trial(s(700)), s(5));
    pool.put(8, apply(apply(Health::default(), KeyOutcome::Failed, 5), KeyOutcome::Broke, 6), s(5));
    assert!(matches!(PoolHealth::decode(Some(&pool.encode())), Found::Value(back) if back == pool));
    pool.put(7, Health::default(), s(5));
    assert_eq!(pool.0.len(), 2);
    assert!(matches!(PoolHealth::decode(Some(&[1, 1])), Found::Undecodable));
}
