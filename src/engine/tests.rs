//! Two workers on one store: what one has seen the other must act on.

use super::*;
use crate::headers::Headers;
use crate::outcome::Outcome;
use crate::rollout::PhaseKind::{Active, Holding, Probing, RolledBack};
use crate::rollout::{Cause, OPERATOR, PhaseKind, Standing};
use crate::shared::codec::TOMBSTONE;
use crate::shared::dropped::{Dropped, Drops};
use crate::testing::{MemoryStore, deployment_plan, ramp_plan};
use crate::time::{Span, UnixMillis};

const GOOD: Event = Event::Answered { outcome: Outcome::Good, latency: Some(Span(9_000)) };
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
        Worker::on(deployment_plan(rest))
    }

    fn ramp(ramp: &str) -> Worker {
        Worker::on(ramp_plan(ramp))
    }

    fn on(plan: Plan) -> Worker {
        let mut engine = Engine::default();
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
        let choice = Choice { version: of.0, forced: false, probe: false, identity: None };
        let shares = self.bindings[0].effective_weights(&self.plan.deployments[0]);
        self.result(
            store,
            at,
            &Assigned {
                choice,
                epoch: of.1,
                shares,
                stage: None,
                lease: None,
                request_id: None,
                compared: Cell::default(),
            },
            event,
        )
    }

    fn result(&self, store: &MemoryStore, at: u64, of: &Assigned, event: Event) -> Notes {
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
        self.bindings[0].effective_weights(&self.plan.deployments[0]).to_vec()
    }
}

fn change(from: PhaseKind, to: PhaseKind) -> Change {
    Change::Moved { from, to }
}

fn observed(from: PhaseKind, to: PhaseKind) -> Change {
    Change::Observed { from, to }
}

fn now(micros: u64) -> Now {
    Now { mono: Micros(micros), wall: UnixMillis(1_795_000_000_000) }
}

const CONSECUTIVE: &str = r#""guard": {"max_consecutive_errors": 3, "compare": false},"#;
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
    assert_eq!((t.version.as_str(), t.change, t.epoch), ("v2", change(Active, RolledBack), 1));
    assert_eq!(t.cause.as_ref().unwrap().text, "3 failed in a row (limit 3); stable: 0 of 0 failed");
    assert_eq!(t.evidence.canary, Counts { judged: 3, bad: 3 });
    assert_eq!(a.goes_to(&store, 4, TO_CANARY), 0, "at once where it was made");
    assert_eq!(b.goes_to(&store, 9 * MS, TO_CANARY), 1, "b's copy is not 10 ms old");
    assert_eq!(b.goes_to(&store, 10 * MS, TO_CANARY), 0, "now it is");
    assert_eq!((a.weights(), b.weights()), (vec![10_000, 0], vec![10_000, 0]));
    assert_eq!(
        (a.bindings[0].phase_gauge(&a.plan.deployments[0]), b.bindings[0].evidence(&b.plan.deployments[0])),
        (3, 100)
    );
}

#[test]
fn late_results_decide_nothing_and_are_counted() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    for at in 1..=3 {
        a.see(&store, at, (1, 0), BAD);
    }
    let notes = a.see(&store, 9, (1, 0), BAD);
    assert_eq!(notes, Notes { transitions: vec![], dropped: Drops(vec![(Dropped::LateResult, 1)]) });
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
    assert_eq!(notes.dropped.0, [(Dropped::LateResult, 1)]);
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
        assert_eq!((notes.transitions.len(), notes.dropped.0), (0, vec![(Dropped::LateResult, 1)]));
    }
    assert_eq!(old.tick(&store, 2 * IDLE_AFTER.0), Notes::default());
    assert_eq!(w.goes_to(&store, 2 * IDLE_AFTER.0, TO_CANARY), 1);
    // Another listener that still serves it has it watched again.
    assert_eq!(old.goes_to(&store, 3 * IDLE_AFTER.0, TO_CANARY), 1);
    let seen: Vec<_> =
        (4..7).flat_map(|n| old.see(&store, n * IDLE_AFTER.0, (1, 0), BAD).transitions).collect();
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
    assert_eq!(notes.dropped.0, [(Dropped::Undecodable, 1)]);
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
    assert_eq!(notes.dropped.0, [(Dropped::Undecodable, 1)]);
    assert_eq!(a.goes_to(&store, 2, TO_CANARY), 0);
    store.force("bellwether/1/stats/d/1/v2", TOMBSTONE);
    a.tick(&store, 1_100 * MS);
    assert_eq!(a.goes_to(&store, 1_101 * MS, TO_CANARY), 1, "readable again");
}

#[test]
fn a_comparison_of_a_module_with_another_layout_is_counted_left_alone_and_served_by_stable() {
    let (store, mut notes) = (MemoryStore::default(), Notes::default());
    let a = Worker::new("");
    // As it was written when a signal had one sketch of clients.
    let older = [&[1, 0][..], &[0; 26], &[0; 26]].concat();
    store.force("bellwether/1/compare/d/1/v2", &older);
    notes.dropped.0.extend(a.see(&store, 1, (1, 0), BAD).dropped.0);
    assert_eq!(notes.dropped.0, [(Dropped::Undecodable, 1)]);
    assert_eq!(a.goes_to(&store, 2, TO_CANARY), 0);
    assert!(store.content().iter().any(|(_, value)| *value == older));
    // The older module buries what it has bound.
    store.force("bellwether/1/compare/d/1/v2", TOMBSTONE);
    a.tick(&store, 1_100 * MS);
    assert_eq!(a.goes_to(&store, 1_101 * MS, TO_CANARY), 1);
    let failures = (1..100).find(|n| !a.see(&store, (1_200 + n) * MS, (1, 0), BAD).transitions.is_empty());
    assert_eq!(failures, Some(9), "it is compared anew");
}

#[test]
fn nothing_is_lost_to_interference() {
    let store = MemoryStore::default();
    let a = Worker::new(CONSECUTIVE);
    store.interference.set(1000);
    for at in 1..=3 {
        let notes = a.see(&store, at, (1, 0), BAD);
        assert_eq!(notes.dropped.0, [(Dropped::MergeDeferred, 1)]);
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
fn nothing_that_a_request_brings_becomes_a_key_of_shared_data() {
    let store = MemoryStore::default();
    let w = Worker::new(r#""sticky": {"on": [{"header": "u"}]}, "guard": {"max_errors": 1000000},"#);
    let mut known = Vec::new();
    for n in 0..2000u64 {
        let pairs =
            [("u", format!("user-{n}")), (":path", format!("/{n}")), ("x-request-id", format!("id-{n}"))];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.into_bytes()));
        let headers = Headers::new(pairs.into());
        let facts = RequestFacts { headers: &headers, client_address: &|| None, random: n };
        let (mut notes, at) = (Notes::default(), n * 30_000);
        let deployment = &w.plan.deployments[0];
        let assigned = w.bindings[0].assign(deployment, &facts, &store, Micros(at), &mut notes);
        w.result(&store, at, &assigned, if n % 50 == 0 { BAD } else { GOOD });
        let keys: Vec<String> = store.content().into_iter().map(|(key, _)| key).collect();
        if n == 100 {
            known = keys;
        } else if n > 100 {
            assert_eq!(keys, known, "after request {n}");
        }
    }
    assert!(!known.is_empty());
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
    let rest = r#""guard": {"max_error_rate": 5, "window": "1s", "compare": false},"#;
    let a = Worker::new(rest);
    let mut transitions = Vec::new();
    for i in 0..100u64 {
        let of = (usize::from(i % 2 == 0), 0);
        transitions.extend(a.see(&store, i * MS, of, if i % 4 < 2 { BAD } else { GOOD }).transitions);
    }
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    assert_eq!(transitions[0].change, change(Active, Holding));
    assert_eq!(a.goes_to(&store, 200 * MS, TO_CANARY), 1, "traffic goes on");
    // The trouble leaves the window; nobody needs to send a request for the hold to end.
    let ended: Vec<Transition> = (1..5).flat_map(|s| a.tick(&store, s * 1_100 * MS).transitions).collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].change, change(Holding, Active));
}

/// Lets a canary fail until it is rolled back, beside a stable of which every tenth request fails and that is asked no more.
/// Returns the phases that it went through, each with the number of its failure.
fn die_beside(store: &MemoryStore, worker: &Worker, stable: u64, good: u64) -> Vec<(u64, PhaseKind)> {
    for n in 0..stable {
        worker.see(store, n * MS, (0, 0), if n % 10 == 5 { BAD } else { GOOD });
    }
    (0..good).for_each(|n| drop(worker.see(store, (stable + n) * MS, (1, 0), GOOD)));
    worker.tick(store, (stable + good) * MS);
    let begin = (stable + good + 100) * MS;
    (1..=200)
        .flat_map(|n| {
            let moved = worker.see(store, begin + n * 10 * MS, (1, 0), BAD).transitions;
            moved.into_iter().map(move |t| (n, t.change.to()))
        })
        .collect()
}

#[test]
fn a_stable_that_fails_now_and_then_keeps_no_limit_from_its_canary() {
    for (limit, stable, good, at) in [
        ("\"max_consecutive_errors\": 5", 108, 100, 5),
        ("\"max_errors\": 5", 10, 0, 5),
        ("\"max_error_rate\": 5", 10, 0, 20),
    ] {
        let w = Worker::new(&format!(r#""guard": {{{limit}, "compare": false}},"#));
        let phases = die_beside(&MemoryStore::default(), &w, stable, good);
        assert_eq!(phases, [(at, RolledBack)], "{limit}");
    }
}

#[test]
fn a_total_outage_in_which_the_canary_is_first_past_a_limit_is_shared() {
    for limit in ["\"max_consecutive_errors\": 5", "\"max_errors\": 5", "\"max_error_rate\": 5"] {
        let store = MemoryStore::default();
        let rest = format!(r#""guard": {{{limit}, "compare": false}},"#);
        let workers = [Worker::new(&rest), Worker::new(&rest)];
        (0..400).for_each(|n| drop(workers[n % 2].see(&store, n as u64 * MS, (n / 2 % 2, 0), GOOD)));
        let mut moved = Vec::new();
        // Five of the canary's requests for two of stable's, which other workers get.
        for n in 0..140u64 {
            let (worker, version) = if matches!(n % 7, 1 | 4) { (1, 0) } else { (0, 1) };
            moved.extend(workers[worker].see(&store, (400 + n) * MS, (version, 0), BAD).transitions);
            moved.extend(workers[1].tick(&store, (400 + n) * MS).transitions);
        }
        assert_eq!(moved.iter().map(|t| t.change.to()).collect::<Vec<_>>(), [Holding], "{limit}: {moved:?}");
    }
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
    assert_eq!(transitions[0].change, observed(Active, RolledBack));
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 1);
}

#[test]
fn in_observe_mode_trouble_that_stable_has_too_is_reported_once_and_holds_nothing() {
    let store = MemoryStore::default();
    let stages = r#""stages": [{"weight": 50, "for": "2s", "guard": {"mode": "observe", "max_error_rate": 5, "window": "1s",
        "compare": false}}, {"weight": 60, "for": "1h"}]"#;
    let w = Worker::ramp(stages);
    let (mut told, mut begun) = (Vec::new(), None);
    for at in 0..400u64 {
        let event = if at < 150 && at % 4 < 2 { BAD } else { GOOD };
        told.extend(w.see(&store, at * 10 * MS, (usize::from(at % 2 == 0), 0), event).transitions);
        for t in w.tick(&store, at * 10 * MS).transitions {
            if t.change.from() == t.change.to() { begun = Some(at * 10) } else { told.push(t) }
        }
        assert_eq!(view(&w, &store, at * 10 * MS).versions[1].standing.phase.kind(), Active);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].change, observed(Active, Holding));
    assert!(told[0].cause.is_some());
    assert!(begun.is_some_and(|at| at < 3_200), "its clock went on in the trouble: {begun:?}");
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
    assert_eq!(transitions[0].change.to(), Active);
}

/// Deals out requests as the split would and lets each go as `fate` says; returns transitions and the canary's failures.
fn run(
    worker: &Worker,
    store: &MemoryStore,
    requests: u64,
    identity: Option<u64>,
    fate: impl Fn(usize, u64) -> Event,
) -> (Vec<Transition>, u64) {
    let (mut transitions, mut failed) = (Vec::new(), 0);
    for i in 0..requests {
        let at = i * 10 * MS;
        // A fixed, even sequence of points: every tenth request is the canary's.
        let random = (i % 10) * (u64::MAX / 10) + u64::MAX / 20;
        let mut assigned = worker.assign(store, at, random, &mut Notes::default());
        assigned.choice.identity = identity;
        let event = fate(assigned.choice.version, i);
        if assigned.choice.version == 1 && event == BAD {
            failed += 1;
        }
        transitions.extend(worker.result(store, at, &assigned, event).transitions);
        if !transitions.is_empty() {
            break;
        }
    }
    (transitions, failed)
}

#[test]
fn without_any_limit_a_broken_canary_is_found_by_comparison() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    let (transitions, failed) =
        run(&a, &store, 10_000, None, |version, _| if version == 1 { BAD } else { GOOD });
    assert_eq!(failed, 9, "at a share of 10 %");
    let cause = transitions[0].cause.as_ref().unwrap();
    assert_eq!(cause.label, "worse_errors");
    assert_eq!(cause.text, "9 of 9 failed while of stable's 0 of 72 did (score 16.74, limit 16.12)");
    assert_eq!(a.goes_to(&store, 200_000 * MS, TO_CANARY), 0);
}

#[test]
fn an_outage_of_both_is_not_blamed_on_the_canary_by_comparison() {
    let store = MemoryStore::default();
    let (transitions, _) = run(&Worker::new(""), &store, 20_000, None, |_, _| BAD);
    assert!(transitions.is_empty(), "{transitions:?}");
}

#[test]
fn a_slow_canary_is_found_by_comparison() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    let fate = |version: usize, i: u64| {
        let millis = if version == 1 { 900 } else { 100 + i % 100 };
        Event::Answered { outcome: Outcome::Good, latency: Some(Span::from_millis(millis)) }
    };
    let (transitions, _) = run(&a, &store, 10_000, None, fate);
    assert_eq!(transitions[0].cause.as_ref().unwrap().label, "worse_latency");
}

#[test]
fn what_is_faster_than_the_latency_floor_is_never_slow() {
    let fate = |version: usize, i: u64| {
        let millis = if version == 1 { 90 } else { 1 + i % 3 };
        Event::Answered { outcome: Outcome::Good, latency: Some(Span::from_millis(millis)) }
    };
    let (transitions, _) = run(&Worker::new(""), &MemoryStore::default(), 10_000, None, fate);
    assert!(transitions.is_empty(), "nobody minds 90 ms: {transitions:?}");
    let strict = Worker::new(r#""guard": {"compare": {"latency_floor": "20ms"}},"#);
    let (transitions, _) = run(&strict, &MemoryStore::default(), 10_000, None, fate);
    assert_eq!(transitions[0].cause.as_ref().unwrap().label, "worse_latency");
}

#[test]
fn one_broken_sticky_client_is_not_a_broken_canary() {
    let store = MemoryStore::default();
    let (transitions, _) =
        run(&Worker::new(""), &store, 6_000, Some(7), |version, _| if version == 1 { BAD } else { GOOD });
    assert!(transitions.is_empty(), "{transitions:?}");
}

#[test]
fn forced_traffic_is_not_compared() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    for i in 0..100 {
        let assigned = Assigned::forced(1);
        assert!(a.result(&store, i * MS, &assigned, BAD).transitions.is_empty());
    }
}

const PROBING: &str = r#""guard": {"max_consecutive_errors": 3, "compare": false},
    "recovery": {"mode": "probe", "after": "10s", "max_probes_in_flight": 1, "successes": 2},"#;
const SECOND: u64 = 1000 * MS;

/// A worker whose canary was rolled back at 0 s, at the second at which it is probing.
fn probing(store: &MemoryStore) -> (Worker, u64) {
    let a = Worker::new(PROBING);
    for _ in 0..3 {
        a.see(store, 1, (1, 0), BAD);
    }
    for second in 1..20 {
        let moved = a.tick(store, second * SECOND).transitions;
        if let Some(t) = moved.first() {
            assert_eq!(t.change, change(RolledBack, Probing));
            assert!((8..=10).contains(&second), "after {second} s");
            return (a, second * SECOND);
        }
    }
    panic!("never probing");
}

/// What a request becomes that the split gives to the canary.
fn probe(worker: &Worker, store: &MemoryStore, at: u64) -> Assigned {
    worker.assign(store, at, TO_CANARY + 7 * at, &mut Notes::default())
}

fn finish(
    worker: &Worker,
    store: &MemoryStore,
    at: u64,
    probe: &Assigned,
    good: Option<bool>,
) -> Vec<Transition> {
    let mut notes = Notes::default();
    worker.bindings[0].finish(&worker.plan.deployments[0], probe, good, store, now(at), &mut notes);
    notes.transitions
}

#[test]
fn a_canary_recovers_by_probes_that_no_worker_has_too_many_of() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    let b = Worker::new(PROBING);
    assert_eq!(a.weights(), [10_000, 0], "a probe is no share");
    let first = probe(&a, &store, at + MS);
    assert_eq!((first.choice.version, first.choice.probe), (1, true));
    assert_eq!(probe(&a, &store, at + 2 * MS).choice.version, 0, "one in flight");
    assert_eq!(probe(&b, &store, at + 20 * MS).choice.version, 0, "also for other workers");
    assert!(finish(&a, &store, at + 30 * MS, &first, Some(true)).is_empty());
    let second = probe(&b, &store, at + 50 * MS);
    assert_eq!(second.choice.version, 1);
    let t = finish(&b, &store, at + 60 * MS, &second, Some(true));
    assert_eq!(t[0].change, change(Probing, Active));
    assert_eq!(probe(&a, &store, at + 80 * MS).choice.version, 1);
    assert_eq!(b.weights(), [9000, 1000]);
}

#[test]
fn a_probe_that_fails_rolls_back_for_twice_as_long() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    let first = probe(&a, &store, at + MS);
    let t = a.result(&store, at + 2 * MS, &first, BAD).transitions;
    assert_eq!(t[0].change, change(Probing, RolledBack));
    assert!(
        finish(&a, &store, at + 3 * MS, &first, Some(true)).is_empty(),
        "a retry that went well changes nothing"
    );
    let again = (1..40).find(|s| !a.tick(&store, at + s * SECOND).transitions.is_empty()).unwrap();
    assert!((16..=20).contains(&again), "after {again} s");
}

#[test]
fn a_cancelled_probe_gives_its_place_back_and_says_nothing() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    for i in 0..5 {
        let p = probe(&a, &store, at + i * 20 * MS + MS);
        assert_eq!(p.choice.version, 1, "round {i}");
        assert!(finish(&a, &store, at + i * 20 * MS + 2 * MS, &p, None).is_empty());
    }
}

#[test]
fn calls_that_began_before_a_rollback_do_not_fail_the_probing_after_it() {
    let store = MemoryStore::default();
    let (a, at) = probing(&store);
    let notes = a.see(&store, at + MS, (1, 0), BAD);
    assert_eq!(notes.dropped.0, [(Dropped::LateResult, 1)]);
    assert_eq!(probe(&a, &store, at + 20 * MS).choice.version, 1, "still probing");
}

const STAGES: &str = r#""stages": [{"weight": 10, "for": "5s"}, {"weight": 50, "for": "5s", "min_requests": 3},
    {"weight": 100, "for": "1h"}]"#;

#[test]
fn a_ramp_moves_on_by_itself_and_survives_reloads() {
    let store = MemoryStore::default();
    let (mut a, b) = (Worker::ramp(STAGES), Worker::ramp(STAGES));
    let mut stages = Vec::new();
    for second in 1..=30 {
        for worker in [&a, &b] {
            let moved = worker.tick(&store, second * SECOND).transitions;
            stages.extend(moved.iter().map(|t| (second, t.stage, worker.weights()[1])));
        }
        if second == 8 {
            a.bindings = a.engine.attach(&ramp_plan(STAGES));
        }
        if second == 20 {
            // Time alone is not enough for the second stage.
            (0..3).for_each(|i| drop(a.see(&store, second * SECOND + i, (1, 0), GOOD)));
            a.tick(&store, second * SECOND + 50 * MS);
        }
    }
    assert_eq!(stages.len(), 2, "each once, whichever worker made it: {stages:?}");
    assert_eq!((stages[0].1, stages[0].2, stages[1].1, stages[1].2), (Some(1), 5000, Some(2), 10_000));
    assert!((6..=7).contains(&stages[0].0) && (21..=22).contains(&stages[1].0), "{stages:?}");
}

#[test]
fn a_rollback_fires_in_every_stage_and_while_paused() {
    for (paused, second) in [(true, 1), (false, 1), (false, 9)] {
        let store = MemoryStore::default();
        let plan = format!(r#"{STAGES}, "paused": {paused}"#);
        let a = Worker::ramp(&plan);
        (1..=second).for_each(|s| drop(a.tick(&store, s * SECOND)));
        let (transitions, failed) =
            run(&a, &store, 10_000, None, |version, _| if version == 1 { BAD } else { GOOD });
        assert_eq!(
            transitions.first().map(|t| t.change.to()),
            Some(RolledBack),
            "paused {paused}, {second} s"
        );
        assert!(failed <= 40, "{failed}");
        assert_eq!(a.weights(), [10_000, 0]);
    }
}

/// An older plan whose streams are still under way, and the newer one, on one worker.
fn reloaded(old: &str, new: &str) -> (Worker, Worker) {
    let mut newer = Worker::new(old);
    let older = Worker { bindings: std::mem::take(&mut newer.bindings), ..Worker::new(old) };
    newer.plan = deployment_plan(new);
    newer.bindings = newer.engine.attach(&newer.plan);
    (older, newer)
}

#[test]
fn an_older_plan_merges_what_it_sees_and_the_newest_says_what_it_means() {
    let store = MemoryStore::default();
    let (older, newer) = reloaded(
        CONSECUTIVE,
        r#""guard": {"mode": "observe", "max_consecutive_errors": 3, "compare": false},"#,
    );
    for at in 1..=5 {
        assert!(older.see(&store, at, (1, 0), BAD).transitions.is_empty(), "the old plan would enforce");
    }
    assert!(older.tick(&store, 1_000 * MS).transitions.is_empty());
    let told = newer.tick(&store, 1_001 * MS).transitions;
    assert_eq!((told.len(), told[0].change), (1, observed(Active, RolledBack)), "{told:?}");
    // Another listener that still serves the old plan has its own idea enforced.
    let (again, _) = reloaded(
        CONSECUTIVE,
        r#""guard": {"mode": "observe", "max_consecutive_errors": 3, "compare": false},"#,
    );
    let other = MemoryStore::default();
    again.assign(&other, 0, TO_CANARY, &mut Notes::default());
    let moved: Vec<Transition> =
        (1..=3).flat_map(|at| again.see(&other, at, (1, 0), BAD).transitions).collect();
    assert_eq!((moved.len(), moved[0].change), (1, change(Active, RolledBack)));
    drop(newer);
    // Without the newer one (its listener was removed) the older decides again.
    assert_eq!(older.see(&store, 1_002 * MS, (1, 0), BAD).transitions.len(), 1);
}

#[test]
fn a_recovery_that_was_changed_while_rolled_back_does_not_swing() {
    let store = MemoryStore::default();
    let (older, newer) = reloaded(PROBING, CONSECUTIVE);
    (1..=3).for_each(|at| drop(newer.see(&store, at, (1, 0), BAD)));
    for second in 1..60 {
        assert!(older.tick(&store, second * SECOND).transitions.is_empty(), "{second} s");
        assert!(newer.tick(&store, second * SECOND + 1).transitions.is_empty(), "{second} s");
    }
}

#[test]
fn of_a_request_that_is_tried_three_times_one_failure_is_compared() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    let mut failed = 0;
    for i in 0..10_000u64 {
        let assigned =
            a.assign(&store, i * 10 * MS, (i % 10) * (u64::MAX / 10) + u64::MAX / 20, &mut Notes::default());
        let canary = assigned.choice.version == 1;
        for _ in 0..3 {
            a.result(&store, i * 10 * MS, &assigned, if canary { BAD } else { GOOD });
        }
        failed += u64::from(canary);
        if a.weights()[1] == 0 {
            break;
        }
    }
    assert_eq!(failed, 9, "requests, not attempts");
}

#[test]
fn one_broken_client_on_many_workers_is_not_a_broken_canary() {
    let store = MemoryStore::default();
    let workers: Vec<Worker> = (0..16).map(|_| Worker::new("")).collect();
    let identity = Some(0x1234_5678_9abc_def0);
    for i in 0..5_000u64 {
        let at = i * 10 * MS;
        let worker = &workers[i as usize % 16];
        let random = (i % 10) * (u64::MAX / 10) + u64::MAX / 20;
        let mut assigned = worker.assign(&store, at, random, &mut Notes::default());
        assigned.choice.identity = identity.filter(|_| assigned.choice.version == 1).or(Some(i));
        let event = if assigned.choice.version == 1 { BAD } else { GOOD };
        assert!(worker.result(&store, at, &assigned, event).transitions.is_empty(), "request {i}");
    }
}

/// A request a hundredth of a second, each tenth the canary's, each second of those from one client whose every request fails.
/// From `broken` on the canary answers nobody else well either. Returns how many failures of others it then takes.
fn behind_one_broken_client(broken: u64) -> u64 {
    let workers: Vec<Worker> = (0..8).map(|_| Worker::new("")).collect();
    let (store, mut failed) = (MemoryStore::default(), 0);
    for i in 0..broken + 10_000 {
        let (at, worker) = (i * 10 * MS, &workers[i as usize % workers.len()]);
        let random = (i % 10) * (u64::MAX / 10) + u64::MAX / 20;
        let mut assigned = worker.assign(&store, at, random, &mut Notes::default());
        let canary = assigned.choice.version == 1;
        let one = canary && i / 10 % 2 == 0;
        assigned.choice.identity = Some(if one { 0x1234_5678_9abc_def0 } else { i });
        // In health one answer in a hundred is bad, whoever gives it.
        let bad = one || (canary && i >= broken) || i / 10 % 100 == 1 + i % 10 * 10;
        failed += u64::from(bad && canary && !one && i >= broken);
        let notes = worker.result(&store, at, &assigned, if bad { BAD } else { GOOD });
        if !notes.transitions.is_empty() {
            assert!(i >= broken, "blamed for one client: {:?}", notes.transitions);
            return failed;
        }
    }
    failed
}

#[test]
fn one_client_that_has_been_broken_for_long_hides_no_canary_that_breaks_for_all() {
    let found: Vec<u64> = (1..=10).map(|seconds| behind_one_broken_client(700 * seconds)).collect();
    assert!(found.iter().all(|failures| (9..=12).contains(failures)), "{found:?}");
}

#[test]
fn versions_that_left_make_room_for_those_that_came() {
    let store = MemoryStore::default();
    let with = |id: u64| {
        crate::testing::plan(&format!(
            r#"{{"deployments": [{{"name": "d", "stable": "v1", "guard": {{"max_consecutive_errors": 3, "compare": false}}, "versions": [
                {{"id": "v1", "weight": 90, "cluster": "a"}}, {{"id": "c{id}", "weight": 10, "cluster": "b"}}]}}]}}"#
        ))
    };
    let mut a = Worker::on(with(0));
    for id in 0..80 {
        a.plan = with(id);
        a.bindings = a.engine.attach(&a.plan);
        let moved: usize =
            (1..=3).map(|at| a.see(&store, id * SECOND + at, (1, 0), BAD).transitions.len()).sum();
        assert_eq!(moved, 1, "canary {id}");
    }
}

/// Stable alone, or with a canary that three failures put out.
fn with_canary(there: bool) -> Plan {
    let (weight, canary) =
        if there { (90, r#", {"id": "v2", "weight": 10, "cluster": "b"}"#) } else { (100, "") };
    crate::testing::plan(&format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1", {CONSECUTIVE} "versions": [
            {{"id": "v1", "weight": {weight}, "cluster": "a"}}{canary}]}}]}}"#
    ))
}

impl Worker {
    /// A reload; returns what the former plan had bound, as a stream still under way would keep it.
    fn take(&mut self, plan: Plan) -> Vec<Binding> {
        self.plan = plan;
        std::mem::replace(&mut self.bindings, self.engine.attach(&self.plan))
    }
}

/// A worker whose canary was put out at 0 s, and others that have heard of it.
fn rolled_back<const N: usize>(store: &MemoryStore) -> [Worker; N] {
    let workers = std::array::from_fn(|_| Worker::on(with_canary(true)));
    (1..=3).for_each(|at| drop(workers[0].see(store, at, (1, 0), BAD)));
    workers.iter().for_each(|w| assert_eq!(w.goes_to(store, 10 * MS, TO_CANARY), 0));
    workers
}

#[test]
fn a_version_that_was_away_comes_back_afresh() {
    let store = MemoryStore::default();
    let [mut a, mut b] = rolled_back::<2>(&store);
    for w in [&mut a, &mut b] {
        drop(w.take(with_canary(false)));
        w.tick(&store, 2 * SECOND);
    }
    let left: Vec<_> = store.content().into_iter().filter(|(_, bytes)| bytes != TOMBSTONE).collect();
    assert!(left.iter().all(|(key, _)| !key.ends_with("v2")), "{left:?}");
    for w in [&mut a, &mut b] {
        drop(w.take(with_canary(true)));
        assert_eq!(w.goes_to(&store, 4 * SECOND, TO_CANARY), 1);
        w.tick(&store, 4 * SECOND);
    }
    let seen = view(&a, &store, 5 * SECOND);
    assert_eq!(
        (seen.versions[1].standing.clone(), seen.versions[1].totals),
        (Standing::NEW, Counts::default())
    );
    let again: usize = (1..=3).map(|n| b.see(&store, 5 * SECOND + n, (1, 0), BAD).transitions.len()).sum();
    assert_eq!(again, 1);
    assert_eq!(a.goes_to(&store, 6 * SECOND, TO_CANARY), 0);
}

#[test]
fn a_version_is_kept_while_any_plan_of_any_worker_has_it() {
    let store = MemoryStore::default();
    let [mut a, mut b] = rolled_back::<2>(&store);
    drop(a.take(with_canary(false)));
    // The other worker is behind, then it has a stream of the former plan left.
    a.tick(&store, 2 * SECOND);
    b.tick(&store, 3 * SECOND);
    let stream = b.take(with_canary(false));
    a.tick(&store, 4 * SECOND);
    b.tick(&store, 5 * SECOND);
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, 6 * SECOND, TO_CANARY), 0);
    drop(stream);
    // Whoever has it no more does not put it back.
    [7, 8].into_iter().for_each(|at| [&a, &b].into_iter().for_each(|w| drop(w.tick(&store, at * SECOND))));
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, 9 * SECOND, TO_CANARY), 1);
}

#[test]
fn a_plan_without_a_version_drops_nothing_of_another_listeners() {
    let store = MemoryStore::default();
    let [mut a] = rolled_back::<1>(&store);
    let other_listener = a.take(with_canary(false));
    (2..5).for_each(|at| drop(a.tick(&store, at * SECOND)));
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, 5 * SECOND, TO_CANARY), 0);
    drop(other_listener);
}

#[test]
fn what_never_ticks_neither_drops_a_version_nor_brings_an_old_rollback_back() {
    let store = MemoryStore::default();
    let [mut served, mut checking] = rolled_back::<2>(&store);
    // As the VM that checks a configuration, and that of the main thread.
    drop(checking.take(with_canary(false)));
    checking.bindings[0].prime(&store, Micros(SECOND), &mut Notes::default());
    checking.engine.sweep(&store, false);
    assert_eq!(Worker::on(with_canary(true)).goes_to(&store, SECOND, TO_CANARY), 0, "dropped nothing");
    drop(served.take(with_canary(false)));
    served.tick(&store, 2 * SECOND);
    drop(checking.take(with_canary(true)));
    checking.bindings[0].prime(&store, Micros(3 * SECOND), &mut Notes::default());
    drop(served.take(with_canary(true)));
    assert_eq!(served.goes_to(&store, 4 * SECOND, TO_CANARY), 1, "put nothing back");
}

#[test]
fn a_canary_that_only_rules_reach_recovers_too() {
    let store = MemoryStore::default();
    let rest = r#""guard": {"max_consecutive_errors": 1}, "recovery": {"mode": "probe", "after": "1s", "successes": 1},
        "rules": [{"headers": [{"name": "x-a", "exact": "1"}], "version": "v2"}],"#;
    let a = Worker::new(rest);
    a.see(&store, 1, (1, 0), BAD);
    (1..4).for_each(|second| drop(a.tick(&store, second * SECOND)));
    let headers = Headers::new(vec![("x-a".to_owned(), "1".into())]);
    let facts = RequestFacts { headers: &headers, client_address: &|| None, random: TO_STABLE };
    let probe = a.bindings[0].assign(
        &a.plan.deployments[0],
        &facts,
        &store,
        Micros(4 * SECOND),
        &mut Notes::default(),
    );
    assert_eq!((probe.choice.version, probe.lease.is_some()), (1, true));
    assert_eq!(finish(&a, &store, 5 * SECOND, &probe, Some(true))[0].change.to(), Active);
}

#[test]
fn a_rollback_survives_a_new_module_whose_old_vms_bury_their_states() {
    let store = MemoryStore::default();
    let (mut old, old_too) = (Worker::new(CONSECUTIVE), Worker::new(CONSECUTIVE));
    (1..=3).for_each(|at| drop(old.see(&store, at, (1, 0), BAD)));
    // Another module is another VM, with a memory of its own; the old one has nothing left to serve.
    let new = Worker::new(CONSECUTIVE);
    new.bindings[0].prime(&store, Micros(10 * MS), &mut Notes::default());
    old.bindings.clear();
    old.engine.sweep(&store, true);
    drop(old_too);
    assert_eq!(new.goes_to(&store, 20 * MS, TO_CANARY), 0);
    assert_eq!(
        Worker::new(CONSECUTIVE).goes_to(&store, 30 * MS, TO_CANARY),
        0,
        "and was put back for the others"
    );
}

// Orders of an operator

fn order(
    worker: &Worker,
    store: &MemoryStore,
    at: u64,
    order: Order,
    text: &str,
) -> (Result<(), Refused>, Notes) {
    let now = now(at);
    let cause = Cause { label: OPERATOR.to_owned(), text: text.to_owned(), since: now.mono, wall: now.wall };
    let mut notes = Notes::default();
    let done = worker.bindings[0].order(&worker.plan.deployments[0], order, &cause, store, now, &mut notes);
    (done, notes)
}

fn view(worker: &Worker, store: &MemoryStore, at: u64) -> View {
    worker.bindings[0].view(&worker.plan.deployments[0], store, now(at), &mut Notes::default())
}

#[test]
fn an_order_is_in_force_on_every_worker_is_reported_once_and_holds() {
    let store = MemoryStore::default();
    let probing = r#""recovery": {"mode": "probe", "after": "1s"}, "guard": {"compare": false},"#;
    let (a, b) = (Worker::new(probing), Worker::new(probing));
    assert_eq!(b.goes_to(&store, 0, TO_CANARY), 1);
    b.see(&store, 25 * MS, (1, 0), GOOD);
    let (done, notes) = order(&a, &store, 30 * MS, Order::Rollback, "wrong tone");
    assert_eq!((done, notes.transitions.len()), (Ok(()), 1));
    let t = &notes.transitions[0];
    assert_eq!(
        (t.version.as_str(), t.change, t.epoch, t.evidence.canary),
        ("v2", change(Active, RolledBack), 1, Counts { judged: 1, bad: 0 })
    );
    assert_eq!(
        t.cause.as_ref().map(|cause| (cause.label.as_str(), cause.text.as_str())),
        Some(("operator", "wrong tone"))
    );
    assert_eq!(a.goes_to(&store, 30 * MS, TO_CANARY), 0, "at once where it was given");
    assert_eq!(b.goes_to(&store, 40 * MS, TO_CANARY), 0, "within 10 ms elsewhere");
    for worker in [&a, &b] {
        assert_eq!(order(worker, &store, 50 * MS, Order::Rollback, "again"), (Ok(()), Notes::default()));
    }
    // It would have been probed after a second.
    assert_eq!(b.tick(&store, 5_000 * MS), Notes::default());
    assert_eq!(b.goes_to(&store, 5_000 * MS, TO_CANARY), 0);
    let (done, notes) = order(&b, &store, 6_000 * MS, Order::Resume, "");
    assert_eq!((done, notes.transitions[0].change.to(), notes.transitions[0].epoch), (Ok(()), Active, 2));
    assert_eq!(a.goes_to(&store, 6_010 * MS, TO_CANARY), 1);
    assert_eq!(order(&a, &store, 6_020 * MS, Order::Resume, ""), (Ok(()), Notes::default()));
}

#[test]
fn what_led_to_a_rollback_is_not_held_against_a_canary_that_was_resumed() {
    let store = MemoryStore::default();
    let (a, b) =
        (Worker::new(r#""guard": {"max_errors": 10},"#), Worker::new(r#""guard": {"max_errors": 10},"#));
    let transitions: usize = (0..20).map(|at| a.see(&store, at, (1, 0), BAD).transitions.len()).sum();
    assert_eq!(transitions, 1);
    assert_eq!(view(&b, &store, 30).versions[1].evidence, 100);
    assert_eq!(order(&b, &store, 50 * MS, Order::Resume, "").0, Ok(()));
    let seen = view(&a, &store, 60 * MS);
    assert_eq!((seen.versions[1].evidence, seen.versions[1].tally.judged), (0, 0));
    // What the failures before have left behind is late.
    assert_eq!(a.see(&store, 61 * MS, (1, 0), BAD).dropped.0, [(Dropped::LateResult, 1)]);
    for at in 0..8 {
        assert_eq!(
            a.see(&store, 70 * MS + at, (1, 2), BAD).transitions,
            [],
            "eight new failures are not enough"
        );
    }
    assert_eq!(view(&b, &store, 90 * MS).versions[1].tally.bad, 8);
}

#[test]
fn an_operator_latches_what_a_guard_has_rolled_back() {
    let store = MemoryStore::default();
    let rest = r#""recovery": {"mode": "probe", "after": "1s"}, "guard": {"max_consecutive_errors": 3, "compare": false},"#;
    let (a, b) = (Worker::new(rest), Worker::new(rest));
    (1..=3).for_each(|at| drop(a.see(&store, at, (1, 0), BAD)));
    assert_eq!(
        order(&b, &store, 5 * MS, Order::Rollback, "leave it"),
        (Ok(()), Notes::default()),
        "no transition"
    );
    assert_eq!(a.tick(&store, 60_000 * MS), Notes::default(), "not probed");
    let seen = view(&a, &store, 60_000 * MS);
    let cause = seen.versions[1].standing.phase.cause().unwrap();
    assert!(cause.by_operator() && cause.text.starts_with("leave it; it was out: 3 failed"), "{cause:?}");
}

#[test]
fn all_canaries_go_with_one_write_and_stable_stays() {
    let store = MemoryStore::default();
    let document = r#"{"deployments": [{"name": "d", "stable": "v1", "versions": [
        {"id": "v1", "weight": 50, "cluster": "a"}, {"id": "v2", "weight": 25, "cluster": "b"},
        {"id": "v3", "weight": 25, "cluster": "c"}]}]}"#;
    let (a, b) = (Worker::on(crate::testing::plan(document)), Worker::on(crate::testing::plan(document)));
    let before = store.calls.get();
    let (done, notes) = order(&a, &store, MS, Order::Rollback, "");
    assert_eq!((done, notes.transitions.len()), (Ok(()), 2));
    assert!(store.calls.get() - before < 12, "{} calls", store.calls.get() - before);
    assert_eq!(view(&b, &store, MS).versions.iter().map(|v| v.share).collect::<Vec<_>>(), [10_000, 0, 0]);
}

#[test]
fn an_order_that_cannot_be_carried_out_says_so_and_changes_nothing() {
    let store = MemoryStore::default();
    let a = Worker::new("");
    a.goes_to(&store, 0, TO_CANARY);
    store.interference.set(crate::shared::store::TRIES);
    assert_eq!(order(&a, &store, MS, Order::Rollback, ""), (Err(Refused::Contended), Notes::default()));
    assert_eq!(a.goes_to(&store, 20 * MS, TO_CANARY), 1);
    store.force("bellwether/1/standings/d/1", &[9, 9]);
    assert_eq!(order(&a, &store, 30 * MS, Order::Rollback, "").0, Err(Refused::Unreadable));
    assert!(view(&a, &store, 30 * MS).unreadable);
    let alone = Worker::on(crate::testing::plan(
        r#"{"deployments": [{"name": "d", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "a"}]}]}"#,
    ));
    assert_eq!(order(&alone, &MemoryStore::default(), MS, Order::Rollback, "").0, Err(Refused::NoCanary));
    store.broken.set(true);
    assert_eq!(order(&a, &store, 40 * MS, Order::Rollback, "").0, Err(Refused::Unreadable));
}

#[test]
fn a_ramp_that_was_resumed_begins_its_stage_anew() {
    let store = MemoryStore::default();
    let stages = r#""stages": [{"weight": 5, "for": "5s"}, {"weight": 25, "for": "20s"}, {"weight": 50, "for": "1h"}]"#;
    let (a, b) = (Worker::ramp(stages), Worker::ramp(stages));
    let second = 1000 * MS;
    let run = |from: u64, to: u64| (from..to).for_each(|at| drop(a.tick(&store, at * second)));
    run(0, 20);
    assert_eq!(view(&b, &store, 20 * second).ramp.unwrap().stage, Some(1));
    assert_eq!(order(&b, &store, 20 * second, Order::Rollback, "").0, Ok(()));
    run(20, 40);
    assert_eq!(view(&b, &store, 40 * second).versions[1].share, 0);
    assert_eq!(order(&b, &store, 40 * second, Order::Resume, "").0, Ok(()));
    run(40, 55);
    assert_eq!(
        view(&b, &store, 55 * second).versions[1].share,
        2500,
        "the stage's twenty seconds are not over"
    );
    run(55, 65);
    assert_eq!(view(&b, &store, 65 * second).versions[1].share, 5000);
}

#[test]
fn a_ramp_that_was_removed_has_no_stage_any_more() {
    let store = MemoryStore::default();
    let mut w = Worker::ramp(r#""stages": [{"weight": 5, "for": "1s"}, {"weight": 25, "for": "1h"}]"#);
    (0..4).for_each(|at| drop(w.tick(&store, at * SECOND)));
    assert_eq!(view(&w, &store, 4 * SECOND).ramp.unwrap().stage, Some(1));
    w.reload(&store, CONSECUTIVE);
    assert_eq!(view(&w, &store, 5 * SECOND).ramp, None);
    assert_eq!(w.assign(&store, 5 * SECOND, TO_CANARY, &mut Notes::default()).stage, None);
    let by_guard: Vec<Transition> =
        (1..=3).flat_map(|n| w.see(&store, 5 * SECOND + n, (1, 0), BAD).transitions).collect();
    let by_hand = order(&w, &store, 6 * SECOND, Order::Resume, "").1.transitions;
    let stages: Vec<_> = by_guard.iter().chain(&by_hand).map(|t| (t.change.to(), t.stage)).collect();
    assert_eq!(stages, [(RolledBack, None), (Active, None)]);
}

#[test]
fn a_worker_that_has_seen_nothing_shows_what_the_others_have() {
    let store = MemoryStore::default();
    let (a, b) =
        (Worker::new(r#""guard": {"max_errors": 50},"#), Worker::new(r#""guard": {"max_errors": 50},"#));
    for at in 0..40 {
        a.see(&store, 100 * MS * at, (0, 0), GOOD);
    }
    (0..20).for_each(|at| drop(a.see(&store, 4_000 * MS + at, (1, 0), BAD)));
    let seen = view(&b, &store, 4_100 * MS);
    assert_eq!(
        (seen.versions[1].tally.judged, seen.versions[1].tally.bad, seen.versions[1].totals),
        (9, 9, Counts { judged: 9, bad: 9 })
    );
    assert_eq!(seen.versions[0].tally.judged, 40);
    assert_eq!(seen.worst(0).map(|(n, v)| (n, v.standing.phase.kind())), Some((1, RolledBack)));
}

#[test]
fn a_second_rollback_names_none_of_the_requests_of_the_first() {
    let store = MemoryStore::default();
    let w = Worker::new(CONSECUTIVE);
    let mut named = Vec::new();
    for round in 0..2u32 {
        for n in 0..3u32 {
            let at = u64::from(round * 100 + n + 1) * MS;
            let epoch = round * 2;
            let choice = Choice { version: 1, forced: false, probe: false, identity: None };
            let shares = Assigned {
                choice,
                epoch,
                shares: Rc::new([5_000, 5_000]),
                stage: None,
                lease: None,
                request_id: Some(format!("round {round}, {n}").into()),
                compared: Cell::default(),
            };
            let notes = w.result(&store, at, &shares, BAD);
            named.extend(notes.transitions.into_iter().map(|t| t.evidence.requests));
        }
        let _ = order(&w, &store, u64::from(round * 100 + 50) * MS, Order::Resume, "again");
    }
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named[0].len() == 3 && named[0].iter().all(|id| id.starts_with("round 0")), "{named:?}");
    assert!(named[1].len() == 3 && named[1].iter().all(|id| id.starts_with("round 1")), "{named:?}");
}
