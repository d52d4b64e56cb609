//! Two workers on one store: what one has seen the other must act on.

use super::*;
use crate::codec::TOMBSTONE;
use crate::outcome::Outcome;
use crate::route::Headers;
use crate::testing::{MemoryStore, deployment_plan};
use crate::units::UnixMillis;

const GOOD: Event = Event::Answered { outcome: Outcome::Good, latency: Some(Micros(9_000)) };
const BAD: Event = Event::Answered { outcome: Outcome::Bad, latency: None };
/// First random number of the canary's tenth, and one of stable's.
const TO_CANARY: u64 = 0;
const TO_STABLE: u64 = u64::MAX;

struct Worker {
    engine: Engine,
    plan: Plan,
    bindings: Vec<Binding>,
}

impl Worker {
    fn new(rest: &str) -> Worker {
        let (mut engine, plan) = (Engine::default(), deployment_plan(rest));
        let bindings = engine.attach(&plan);
        Worker { engine, plan, bindings }
    }

    fn reload(&mut self, store: &MemoryStore, rest: &str) {
        self.plan = deployment_plan(rest);
        self.bindings = self.engine.attach(&self.plan);
        self.engine.sweep(store, true);
    }

    fn assign(&self, store: &MemoryStore, now: u64, random: u64, notes: &mut Notes) -> Assigned {
        let headers = Headers::default();
        let facts = RequestFacts { headers: &headers, client_address: &|| None, random };
        self.bindings[0].assign(&self.plan.deployments[0], &facts, store, Micros(now), notes)
    }

    /// The version that a request with these random bits goes to.
    fn goes_to(&self, store: &MemoryStore, now: u64, random: u64) -> usize {
        self.assign(store, now, random, &mut Notes::default()).choice.version
    }

    fn see(&self, store: &MemoryStore, at: u64, of: (usize, u32), event: Event) -> Notes {
        let mut notes = Notes::default();
        self.bindings[0].record(&self.plan.deployments[0], of, event, store, now(at), &mut notes);
        notes
    }

    fn tick(&self, store: &MemoryStore, at: u64) -> Notes {
        let mut notes = Notes::default();
        self.bindings[0].tick(&self.plan.deployments[0], store, now(at), &mut notes);
        notes
    }

    fn weights(&self) -> Vec<u16> {
        self.bindings[0].effective_weights(&self.plan.deployments[0]).iter().map(|w| w.get()).collect()
    }
}

fn now(micros: u64) -> Now {
    Now { mono: Micros(micros), wall: UnixMillis(1_795_000_000_000) }
}

const CONSECUTIVE: &str = r#""guard": {"max_consecutive_errors": 3},"#;
const MS: u64 = 1000;

#[test]
fn a_rollback_is_made_once_and_seen_by_every_worker_within_ten_milliseconds() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    assert_eq!(b.goes_to(&store, 0, TO_CANARY), 1);
    let mut transitions = Vec::new();
    for (worker, at) in [(&a, 1), (&b, 2), (&a, 3)] {
        transitions.extend(worker.see(&store, at, (1, 0), BAD).transitions);
    }
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    let t = &transitions[0];
    assert_eq!((t.version.as_str(), t.from, t.to, t.epoch), ("v2", "active", "rolled_back", 1));
    assert_eq!(t.cause.as_ref().unwrap().text, "3 failed in a row (limit 3); stable: 0 of 0 failed");
    assert_eq!(t.canary, (3, 3));
    assert_eq!(a.goes_to(&store, 4, TO_CANARY), 0, "at once where it was made");
    assert_eq!(b.goes_to(&store, 9 * MS, TO_CANARY), 1, "b's copy is not 10 ms old");
    assert_eq!(b.goes_to(&store, 10 * MS, TO_CANARY), 0, "now it is");
    assert_eq!((a.weights(), b.weights()), (vec![10_000, 0], vec![10_000, 0]));
    assert_eq!((a.bindings[0].phase_gauge(), b.bindings[0].evidence()), (3, 100));
}

#[test]
fn late_results_decide_nothing_and_are_counted() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    let notes = a.see(&store, 9, (1, 0), BAD);
    assert_eq!(notes, Notes { transitions: vec![], dropped: vec![(Dropped::LateResult, 1)] });
}

#[test]
fn late_results_of_a_worker_that_has_not_heard_are_dropped_at_its_merge() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    b.assign(&store, 0, TO_CANARY, &mut Notes::default());
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    // A forced request is recorded under the new epoch first, so that the record has moved on.
    a.see(&store, 4, (1, 1), BAD);
    let notes = b.see(&store, 5, (1, 0), BAD);
    assert_eq!(notes.dropped, [(Dropped::LateResult, 1)]);
    assert_eq!(b.goes_to(&store, 6, TO_CANARY), 0, "and it has heard now");
}

#[test]
fn a_new_release_starts_afresh_and_an_old_one_that_returns_does_too() {
    let store = MemoryStore::default();
    let mut a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    a.reload(&store, r#""release": "2", "guard": {"max_consecutive_errors": 3},"#);
    assert_eq!(a.goes_to(&store, 10, TO_CANARY), 1);
    a.reload(&store, CONSECUTIVE);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 1, "release 1 was dropped when it left");
}

#[test]
fn results_of_a_release_that_was_replaced_decide_nothing() {
    let store = MemoryStore::default();
    let mut w = Worker::new(CONSECUTIVE);
    let old = Worker { bindings: std::mem::take(&mut w.bindings), ..Worker::new(CONSECUTIVE) };
    assert!(old.see(&store, 1, (1, 0), BAD).transitions.is_empty());
    w.reload(&store, &format!(r#"{CONSECUTIVE} "release": "2","#));
    for at in 2..9 {
        let notes = old.see(&store, at, (1, 0), BAD);
        assert_eq!((notes.transitions.len(), notes.dropped), (0, vec![(Dropped::LateResult, 1)]));
    }
    assert_eq!(old.tick(&store, 2 * IDLE_AFTER), Notes::default());
    assert_eq!(w.goes_to(&store, 2 * IDLE_AFTER, TO_CANARY), 1);
    // Back again, it is judged again.
    w.reload(&store, CONSECUTIVE);
    let seen: Vec<_> = (3..6).flat_map(|n| w.see(&store, n * IDLE_AFTER, (1, 0), BAD).transitions).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn a_rollback_survives_a_reload_of_the_same_release() {
    let store = MemoryStore::default();
    let mut a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    a.reload(&store, r#""guard": {"max_consecutive_errors": 9}, "rules": [],"#);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 0);
    // Also on a worker that starts with nothing in memory.
    assert_eq!(Worker::new(CONSECUTIVE).goes_to(&store, 21 * MS, TO_CANARY), 0);
}

#[test]
fn a_value_that_is_lost_does_not_bring_a_canary_back() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    store.force("bellwether/1/standings/d/1", TOMBSTONE);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 0);
}

#[test]
fn a_release_that_is_still_served_somewhere_stays_rolled_back_everywhere_when_it_returns() {
    let store = MemoryStore::default();
    let (mut a, b) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    assert_eq!(b.goes_to(&store, 10 * MS, TO_CANARY), 0);
    a.reload(&store, r#""release": "2","#);
    // b still has streams of release 1 and ticks.
    b.tick(&store, 20 * MS);
    a.reload(&store, CONSECUTIVE);
    assert_eq!(a.goes_to(&store, 30 * MS, TO_CANARY), 0);
}

#[test]
fn what_cannot_be_read_is_served_by_stable_and_counted() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    store.force("bellwether/1/standings/d/1", b"\x01garbage");
    let mut notes = Notes::default();
    assert_eq!(a.assign(&store, 0, TO_CANARY, &mut notes).choice.version, 0);
    assert_eq!(notes.dropped, [(Dropped::Undecodable, 1)]);
    store.force("bellwether/1/standings/d/1", TOMBSTONE);
    assert_eq!(a.goes_to(&store, 10 * MS, TO_CANARY), 1, "readable again");
    store.broken.set(true);
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 0, "the host refuses");
}

#[test]
fn undecodable_statistics_send_everything_to_stable_too() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    store.force("bellwether/1/stats/d/1/v2", b"\x01\xff");
    let notes = a.see(&store, 1, (1, 0), BAD);
    assert_eq!(notes.dropped, [(Dropped::Undecodable, 1)]);
    assert_eq!(a.goes_to(&store, 2, TO_CANARY), 0);
    store.force("bellwether/1/stats/d/1/v2", TOMBSTONE);
    a.tick(&store, 1_100 * MS);
    assert_eq!(a.goes_to(&store, 1_101 * MS, TO_CANARY), 1, "readable again");
}

#[test]
fn nothing_is_lost_to_interference() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    store.interference.set(1000);
    for at in 1..=3 {
        let notes = a.see(&store, at, (1, 0), BAD);
        assert_eq!(notes.dropped, [(Dropped::MergeDeferred, 1)]);
    }
    store.interference.set(0);
    let notes = a.tick(&store, 100 * MS);
    assert_eq!(notes.transitions.len(), 1, "the failures were kept and judged at the next merge");
}

#[test]
fn the_request_path_reads_shared_data_once_in_ten_milliseconds() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 0..100 * MS {
        a.assign(&store, at, TO_STABLE, &mut Notes::default());
    }
    assert_eq!(store.calls.get(), 10);
}

#[test]
fn good_outcomes_are_merged_in_batches_and_a_canarys_failure_at_once() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 0..20 * MS {
        a.see(&store, at, (0, 0), GOOD);
    }
    assert_eq!(store.calls.get(), 0, "within 20 ms nothing is merged");
    a.see(&store, 20 * MS, (1, 0), BAD);
    assert_eq!(store.calls.get(), 4, "both versions are read and written");
}

#[test]
fn an_outage_of_both_is_held_and_not_blamed_on_the_canary() {
    let store = MemoryStore::default();
    let rest = r#""guard": {"max_error_rate": 5, "window": "1s"},"#;
    let a = Worker::new(rest);
    let mut transitions = Vec::new();
    for i in 0..100u64 {
        let of = (usize::from(i % 2 == 0), 0);
        transitions.extend(a.see(&store, i * MS, of, if i % 4 < 2 { BAD } else { GOOD }).transitions);
    }
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    assert_eq!((transitions[0].from, transitions[0].to), ("active", "holding"));
    assert_eq!(a.goes_to(&store, 200 * MS, TO_CANARY), 1, "traffic goes on");
    // The trouble leaves the window; nobody needs to send a request for the hold to end.
    let ended: Vec<Transition> = (1..5).flat_map(|s| a.tick(&store, s * 1_100 * MS).transitions).collect();
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].from, ended[0].to), ("holding", "active"));
}

#[test]
fn in_observe_mode_a_rollback_is_reported_once_and_not_made() {
    let store = MemoryStore::default();
    let rest = r#""guard": {"mode": "observe", "max_consecutive_errors": 3},"#;
    let (a, b) = (Worker::new(rest), Worker::new(rest));
    let mut transitions = Vec::new();
    for at in 1..=9 {
        transitions.extend(a.see(&store, at, (1, 0), BAD).transitions);
        transitions.extend(b.see(&store, at, (1, 0), BAD).transitions);
    }
    assert_eq!(transitions.len(), 1);
    assert!(!transitions[0].enforced && transitions[0].to == "rolled_back");
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 1);
}

#[test]
fn rules_with_keep_outlive_a_rollback_and_others_do_not() {
    let rest = r#""guard": {"max_consecutive_errors": 1}, "rules": [
        {"headers": [{"name": "x-a", "exact": "1"}], "version": "v2", "after_rollback": "keep"},
        {"headers": [{"name": "x-a", "exact": "2"}], "version": "v2"}],"#;
    let store = MemoryStore::default();
    let a = Worker::new(rest);
    a.see(&store, 1, (1, 0), BAD);
    for (value, version) in [("1", 1), ("2", 0)] {
        let headers = Headers::new(vec![("x-a".to_owned(), value.into())]);
        let facts = RequestFacts { headers: &headers, client_address: &|| None, random: TO_STABLE };
        let assigned =
            a.bindings[0].assign(&a.plan.deployments[0], &facts, &store, Micros(2), &mut Notes::default());
        assert_eq!((assigned.choice.version, assigned.choice.forced), (version, true), "x-a: {value}");
    }
}

#[test]
fn the_latest_window_counts_after_a_reload_with_another_window() {
    let store = MemoryStore::default();
    let mut a = Worker::new(r#""guard": {"max_errors": 4, "window": "30s"},"#);
    a.see(&store, 1, (1, 0), BAD);
    a.see(&store, 2, (1, 0), BAD);
    a.reload(&store, r#""guard": {"max_errors": 4, "window": "1s"},"#);
    // Two seconds on, the first two have left the window of one second.
    a.see(&store, 2_000 * MS, (1, 0), BAD);
    assert!(a.see(&store, 2_001 * MS, (1, 0), BAD).transitions.is_empty());
    a.see(&store, 2_002 * MS, (1, 0), BAD);
    assert_eq!(a.see(&store, 2_003 * MS, (1, 0), BAD).transitions.len(), 1);
}

#[test]
fn a_hold_ends_also_while_only_stable_has_traffic() {
    let store = MemoryStore::default();
    let a = Worker::new(r#""guard": {"max_error_rate": 5, "window": "1s", "min_requests": 1},"#);
    a.see(&store, 1, (0, 0), BAD);
    assert_eq!(a.see(&store, 2, (1, 0), BAD).transitions.len(), 1);
    let mut transitions = Vec::new();
    for at in (0..5_000 * MS).step_by(5_000) {
        a.assign(&store, at, TO_STABLE, &mut Notes::default());
        transitions.extend(a.tick(&store, at).transitions);
    }
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    assert_eq!(transitions[0].to, "active");
}
