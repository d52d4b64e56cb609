//! One release of one deployment on this worker: the copy of its record and the counts since the last merge.

use std::rc::{Rc, Weak};

use super::binding::Bound;
use super::record::Record;
use super::{Assigned, IDLE_AFTER, MERGE_AFTER, Transition};
use crate::judge::comparison::Observed;
use crate::judge::scores::{Arm, Odds};
use crate::outcome::Outcome;
use crate::outcome::blame::Event;
use crate::plan::Deployment;
use crate::shared::REFRESH_AFTER;
use crate::shared::dropped::Dropped;
use crate::shared::turn::Turn;
use crate::time::{Micros, Span};

/// One release of one deployment on this worker.
pub(super) struct State {
    pub(super) record: Record,
    /// The time of the last merge.
    pub(super) merged_at: Micros,
    /// The time at which verdicts were last checked without a request.
    checked_at: Option<Micros>,
    /// Set while counts wait to be merged.
    pub(super) dirty: bool,
    /// Set when another release has taken the place of this one and no request was assigned under this one since. Late results
    /// then decide nothing.
    pub(super) superseded: bool,
    /// The plan that was bound last, or that last assigned a new request. While it lives, only it judges and moves the ramp: a
    /// plan that only has streams left may have other limits, another recovery and other stages.
    newest: Weak<()>,
    /// Set if stable's last outcome on this worker was a failure.
    stable_failing: bool,
    /// The latency above which a response is slow: the upper border of stable's 95th percentile.
    pub(super) yardstick: Option<Span>,
}

impl State {
    pub(super) fn new(deployment: &Deployment) -> State {
        State {
            record: Record::new(deployment),
            merged_at: Micros(0),
            checked_at: None,
            dirty: false,
            superseded: false,
            newest: Weak::new(),
            stable_failing: false,
            yardstick: None,
        }
    }

    /// Binds a plan, which is the newest from now on. Returns its identity.
    pub(super) fn bind_newest(&mut self) -> Rc<()> {
        let generation = Rc::new(());
        self.newest = Rc::downgrade(&generation);
        generation
    }

    /// Makes a plan that has assigned a request the newest: it is in service. A plan that only has streams left assigns none.
    pub(super) fn mark_in_service(&mut self, generation: &Rc<()>) {
        if !std::ptr::eq(self.newest.as_ptr(), Rc::as_ptr(generation)) {
            self.newest = Rc::downgrade(generation);
        }
    }

    /// Returns whether this plan judges. If the newest plan is gone, because its listener was removed, the plan that asks takes
    /// its place.
    pub(super) fn decides(&mut self, generation: &Rc<()>) -> bool {
        match self.newest.upgrade() {
            Some(newest) => Rc::ptr_eq(&newest, generation),
            None => {
                self.newest = Rc::downgrade(generation);
                true
            }
        }
    }

    /// Counts an event of a version if its epoch is the present one. Merges and judges when that is due.
    pub(super) fn record_event(
        &mut self,
        bound: Bound<'_>,
        assigned: &Assigned,
        event: Event,
        turn: &mut Turn<'_>,
    ) -> Vec<Transition> {
        let Bound { deployment, .. } = bound;
        let version = assigned.choice.version;
        let held = bound.slot(version).and_then(|slot| self.record.version_mut(slot));
        let Some(held) = held else { return Vec::new() };
        if self.superseded || held.standing.epoch != assigned.epoch {
            turn.drops.one(Dropped::LateResult);
            return Vec::new();
        }
        held.pending.add(event);
        self.dirty |= !held.pending.is_empty();
        let failed = matches!(event, Event::Broke | Event::Answered { outcome: Outcome::Bad, .. });
        if let (true, Some(id)) = (failed, &assigned.request_id) {
            held.keep_bad_request(id);
        }
        let mut due = turn.now.mono.since(self.merged_at) >= MERGE_AFTER;
        // A canary's failure is merged at once. So is the first of stable's in a row: when the canary is judged, it must be
        // known whether its trouble is shared.
        due |= failed && (version != deployment.stable || !self.stable_failing);
        let answered = matches!(event, Event::Answered { outcome: Outcome::Good | Outcome::Bad, .. });
        if version == deployment.stable && (answered || failed) {
            self.stable_failing = failed;
        }
        if !assigned.choice.forced && deployment.guard_at(assigned.stage).compare.is_some() {
            due |= self.observe(bound, assigned, event);
        }
        let mut transitions = if self.dirty && due { self.flush(bound, turn) } else { Vec::new() };
        if failed && assigned.lease.is_some() {
            transitions.extend(self.finish_probe(bound, assigned, Some(false), turn));
        }
        transitions
    }

    /// Adds an event to the comparisons that it belongs to. Returns whether they should be merged at once.
    fn observe(&mut self, bound: Bound<'_>, assigned: &Assigned, event: Event) -> bool {
        let Bound { deployment, slots, .. } = bound;
        let share = |version: usize| assigned.shares.get(version).copied().unwrap_or(0);
        let (yardstick, identity) = (self.yardstick, assigned.choice.identity);
        let Some(event) = not_yet_compared(assigned, event, yardstick.is_some()) else { return false };
        let mut full = false;
        for (canary, slot) in slots.iter().enumerate() {
            let arm = match assigned.choice.version {
                version if version == canary => Arm::Canary,
                version if version == deployment.stable => Arm::Stable,
                _ => continue,
            };
            if let (true, Some(held)) = (canary != deployment.stable, self.record.version_mut(*slot)) {
                let odds = Odds { canary: share(canary), stable: share(deployment.stable) };
                held.compared.add(Observed { arm, odds, identity, event, yardstick });
                full |= held.compared.is_full();
            }
        }
        full
    }

    /// Does the work that is due without a request: merges leftovers, reads the standings, judges again, moves the ramp.
    pub(super) fn tick(&mut self, bound: Bound<'_>, turn: &mut Turn<'_>) -> Vec<Transition> {
        let now = turn.now.mono;
        if self.superseded || !self.decides(bound.generation) {
            return Vec::new();
        }
        let mut transitions = Vec::new();
        if self.dirty && now.since(self.merged_at) >= MERGE_AFTER {
            transitions = self.flush(bound, turn);
        }
        if self.checked_at.is_none_or(|at| now.since(at) >= IDLE_AFTER) {
            self.checked_at = Some(now);
            self.record.refresh(REFRESH_AFTER, turn);
            self.record.drop_unclaimed(turn.store);
            transitions.extend(self.judge_again(bound, turn));
            transitions.extend(self.advance_ramp(bound, turn));
        }
        transitions
    }
}

/// Returns the part of `event` that this request has not yet contributed to the comparison, and marks it as contributed.
fn not_yet_compared(assigned: &Assigned, event: Event, yardstick: bool) -> Option<Event> {
    let mut compared = assigned.compared.get();
    let event = match event {
        Event::Answered { outcome, latency } => {
            let outcome = if compared.failed { Outcome::Local } else { outcome };
            let latency = latency.filter(|_| !compared.timed);
            compared.failed |= outcome == Outcome::Bad;
            compared.timed |= latency.is_some() && yardstick;
            Event::Answered { outcome, latency }
        }
        Event::Broke if !compared.failed => {
            compared.failed = true;
            Event::Broke
        }
        Event::Broke | Event::Completed => return None,
    };
    assigned.compared.set(compared);
    Some(event)
}
