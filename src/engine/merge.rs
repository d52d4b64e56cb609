//! Merges: this worker's counts join those of all workers.

use super::Transition;
use super::binding::Bound;
use super::judge::{Blame, Numbers};
use super::record::Slot;
use super::state::State;
use super::version::Merged;
use crate::judge::comparison::{Comparison, YARDSTICK_MIN};
use crate::judge::stats::{Delta, Snapshot};
use crate::plan::Deployment;
use crate::plan::guard::Guard;
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::store::{Change, update};
use crate::shared::turn::Turn;
use crate::time::{Millis, Span};

impl State {
    /// Merges all counts that wait, and judges the canaries that were merged.
    pub(super) fn flush(&mut self, bound: Bound<'_>, turn: &mut Turn<'_>) -> Vec<Transition> {
        self.merged_at = turn.now.mono;
        self.dirty = false;
        let merged = self.merge_counts(bound, turn);
        let numbers =
            |slot: Slot| merged.iter().find(|(merged, _)| *merged == slot).map(|(_, numbers)| numbers);
        let stable = bound.stable().and_then(numbers);
        if let Some(stable) = stable {
            self.yardstick = yardstick(self.guard(bound.deployment), stable);
        }
        // Counts from older plans are merged, but only the newest plan judges them.
        let decides = self.decides(bound.generation);
        let mut transitions = Vec::new();
        for slot in bound.canaries() {
            let blame = self.compare(bound, slot, turn);
            if !decides {
                continue;
            }
            transitions.extend(match numbers(slot) {
                Some(canary) => self.judge(bound, slot, Numbers { canary, stable, blame }, turn),
                None if blame.is_some() => self.judge_shared(bound, slot, blame, turn),
                None => None,
            });
        }
        transitions
    }

    /// Returns the guard in effect.
    pub(super) fn guard<'a>(&self, deployment: &'a Deployment) -> &'a Guard {
        deployment.guard_at(self.record.stage(deployment))
    }

    /// Merges the counts of each version. Returns the shared numbers of the versions that had any.
    fn merge_counts(&mut self, bound: Bound<'_>, turn: &mut Turn<'_>) -> Vec<(Slot, Snapshot)> {
        let window = self.guard(bound.deployment).window;
        let mut merged = Vec::new();
        for slot in bound.slots {
            let held = self.record.version_mut(*slot).filter(|held| !held.pending.is_empty());
            let Some(held) = held else { continue };
            match held.merge(window, turn) {
                Ok(Merged::Into(snapshot)) => {
                    held.pending = Delta::default();
                    merged.push((*slot, snapshot));
                }
                Ok(Merged::Late) => {
                    turn.drops.many(Dropped::LateResult, held.pending.outcomes());
                    held.pending = Delta::default();
                    self.record.expire();
                }
                Ok(Merged::Undecodable) => {
                    turn.drops.many(Dropped::Undecodable, held.pending.outcomes().max(1));
                    held.pending = Delta::default();
                    held.blind = true;
                    self.record.touch();
                }
                Err(error) => {
                    self.dirty = true;
                    turn.drops.one(Dropped::of(error));
                }
            }
        }
        merged
    }

    /// Merges the outcomes for a canary's comparison with stable. Returns evidence that suffices for a rollback.
    fn compare(&mut self, bound: Bound<'_>, slot: Slot, turn: &mut Turn<'_>) -> Option<Blame> {
        let compare = self.guard(bound.deployment).compare.as_ref()?;
        let held = self.record.version_mut(slot)?;
        if held.compared.is_quiet() && held.at_zero {
            // Good outcomes do not move a comparison at zero.
            held.compared.clear();
            return None;
        }
        let epoch = held.standing.epoch;
        let merged = update(turn.store, &held.compare_key(), &mut |bytes| {
            let mut comparison = match Comparison::decode(bytes) {
                Found::Nothing => Comparison::new(epoch),
                Found::Value(comparison) => comparison,
                Found::Undecodable => return Change::Keep(None),
            };
            if comparison.epoch > epoch {
                return Change::Keep(Some(comparison));
            }
            if comparison.epoch < epoch {
                comparison = Comparison::new(epoch);
            }
            comparison.merge(&held.compared, compare);
            Change::Write(comparison.encode(), Some(comparison))
        });
        match merged {
            Ok(Some(comparison)) => {
                held.compared.clear();
                held.at_zero = comparison.is_at_zero();
                held.compare_percent = comparison.percent(compare);
                let verdict = comparison.verdict(compare).filter(|_| comparison.epoch == epoch);
                verdict.map(|(measure, evidence)| Blame { measure, evidence })
            }
            Ok(None) => {
                held.compared.clear();
                held.blind = true;
                self.record.touch();
                turn.drops.one(Dropped::Undecodable);
                None
            }
            Err(error) => {
                // Kept for the next merge, unless merges have failed for as long as it takes to fill up.
                if held.compared.is_full() {
                    held.compared.clear();
                }
                self.dirty = true;
                turn.drops.one(Dropped::of(error));
                None
            }
        }
    }
}

/// Returns the latency above which a response is slow; `None` while stable has too few.
fn yardstick(guard: &Guard, stable: &Snapshot) -> Option<Span> {
    let latency = &stable.tally.latency;
    let floor = guard.compare.map_or(Millis(0), |compare| compare.latency_floor);
    let p95 = latency.percentile_ceiling(9500).filter(|_| latency.count() >= YARDSTICK_MIN);
    p95.map(|p95| p95.max(floor.span()))
}
