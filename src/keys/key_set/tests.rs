use super::*;
use crate::testing::pool;

fn secrets(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::clean(value, ""))).collect()
}

#[test]
fn choosing_among_all_is_choosing_with_every_key_allowed() {
    let mut keys = pool(&[("a", 3), ("b", 0), ("c", 2), ("d", 5)]);
    keys.keys[2].value = KeyValue::Named("absent".to_owned());
    for set in [KeySet::new(&keys, &BTreeMap::new()), KeySet::new(&keys, &secrets(&[("absent", "sk-c")]))] {
        for step in 0..1000u64 {
            let random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(set.choose_any(random), set.choose(random, None, &|_| true));
        }
    }
    let nothing = KeySet::new(&pool(&[("a", 1)]), &BTreeMap::new());
    assert_eq!(nothing.choose_any(u64::MAX), Some(0));
}

#[test]
fn keys_are_picked_by_weight() {
    let set = KeySet::new(&pool(&[("a", 3), ("b", 3), ("c", 2), ("d", 2)]), &BTreeMap::new());
    let mut counts = [0u32; 4];
    for i in 0..1000u64 {
        counts[set.choose((2 * i + 1) * (u64::MAX / 2000), None, &|_| true).unwrap()] += 1;
    }
    assert_eq!(counts, [300, 300, 200, 200]);
}

#[test]
fn a_key_of_weight_0_is_never_picked() {
    let set = KeySet::new(&pool(&[("a", 0), ("b", 1)]), &BTreeMap::new());
    for i in 0..100u64 {
        assert_eq!(set.choose(i << 57, None, &|_| true), Some(1));
        assert_eq!(set.choose(0, Some(i), &|_| true), Some(1));
    }
}

#[test]
fn identities_are_spread_by_weight_and_move_only_when_their_key_is_out() {
    let set = KeySet::new(&pool(&[("a", 3), ("b", 1), ("c", 1)]), &BTreeMap::new());
    let mut counts = [0u32; 3];
    for i in 0..10_000u64 {
        let identity = hash(&[&i.to_le_bytes()]);
        let key = set.choose(0, Some(identity), &|_| true).unwrap();
        counts[key] += 1;
        let without_b = set.choose(0, Some(identity), &|n| n != 1).unwrap();
        assert!(key == 1 || key == without_b, "identity {i} moved from {key} to {without_b}");
    }
    // Expected are 6000, 2000 and 2000; the bounds are four standard deviations either way.
    assert!((5_800..=6_200).contains(&counts[0]) && (1_840..=2_160).contains(&counts[1]), "{counts:?}");
}

#[test]
fn a_secret_that_comes_later_enables_its_key() {
    let mut p = pool(&[("a", 1)]);
    p.keys[0].value = KeyValue::Named("openai-1".to_owned());
    assert_eq!(KeySet::new(&p, &secrets(&[])).candidates().count(), 0);
    assert_eq!(KeySet::new(&p, &secrets(&[])).choose(1, None, &|_| true), None);
    let set = KeySet::new(&p, &secrets(&[("openai-1", " Bearer sk-1\n")]));
    assert_eq!(set.header_value(0).unwrap().expose(), "Bearer sk-1", "trimmed, the prefix once");
}

#[test]
fn one_value_under_two_names_is_one_key() {
    let mut p = pool(&[("a", 0), ("b", 2), ("c", 3), ("d", 1)]);
    for (key, name) in p.keys.iter_mut().zip(["x", "y", "z"]) {
        key.value = KeyValue::Named(name.to_owned());
    }
    let set = KeySet::new(&p, &secrets(&[("x", "sk-1"), ("y", " sk-1 "), ("z", "Bearer sk-1")]));
    assert_eq!(set.candidates().collect::<Vec<_>>(), [1, 3], "the first with a weight");
    assert_eq!([0, 1, 2, 3].map(|n| set.same_as(n)), [Some(1), None, Some(1), None]);
    assert!(set.header_value(2).is_some(), "its secret is there");
    let set = KeySet::new(&p, &secrets(&[("x", "sk-1"), ("y", "sk-2"), ("z", "sk-3")]));
    assert_eq!(set.candidates().collect::<Vec<_>>(), [1, 2, 3]);
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
        let set = KeySet::new(&p, &BTreeMap::new());
        assert_eq!(set.mask(0, &p.prefix).as_deref(), Some(mask), "{value:?}");
    }
    p.keys[0].value = KeyValue::Named("later".to_owned());
    assert_eq!(KeySet::new(&p, &BTreeMap::new()).mask(0, &p.prefix), None);
}

#[test]
fn pasted_keys_are_cleaned() {
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
