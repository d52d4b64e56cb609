//! Judges canaries by the counts of all workers.

use super::advance::Basis;
use super::binding::Bound;
use super::record::Slot;
use super::state::State;
use super::{Score, Transition};
use crate::judge::comparison::Measure;
use crate::judge::limits::{self, Limit};
use crate::judge::scores::Evidence;
use crate::judge::stats::Snapshot;
use crate::judge::verdict::{self, Verdict};
use crate::plan::guard::GuardMode;
use crate::rollout::{Cause, Signal};
use crate::shared::turn::Turn;
use crate::units::Hundredths;

/// Evidence of the comparison that suffices for a rollback.
#[derive(Clone, Copy)]
pub(super) struct Blame {
    pub(super) measure: Measure,
    pub(super) evidence: Evidence,
}

/// The numbers of a canary to judge.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'a> {
    pub(super) canary: &'a Snapshot,
    /// Stable's numbers; `None` to read them if they are needed.
    pub(super) stable: Option<&'a Snapshot>,
    pub(super) blame: Option<Blame>,
}

impl State {
    /// Judges the canaries without a merge: their trouble may have left the window, other workers may have counted more, or
    /// the last verdict could not be written.
    pub(super) fn judge_again(&mut self, bound: Bound<'_>, turn: &mut Turn<'_>) -> Vec<Transition> {
        let compare = self.guard(bound.deployment).compare;
        let mut transitions = Vec::new();
        for slot in bound.canaries() {
            let Some(held) = self.record.version_mut(slot) else { continue };
            if let Some(compare) = &compare
                && let Some(comparison) = held.shared_comparison(turn.store)
            {
                held.at_zero = comparison.is_at_zero();
                held.compare_percent = comparison.percent(compare);
            }
            transitions.extend(self.judge_shared(bound, slot, None, turn));
            transitions.extend(self.signal(bound, slot, Signal::Time(turn.now.mono), None, turn));
        }
        transitions
    }

    /// Judges a canary by its shared numbers as they are.
    pub(super) fn judge_shared(
        &mut self,
        bound: Bound<'_>,
        slot: Slot,
        blame: Option<Blame>,
        turn: &mut Turn<'_>,
    ) -> Option<Transition> {
        let window = self.guard(bound.deployment).window;
        let held = self.record.version_mut(slot)?;
        let found = held.snapshot(window, turn);
        if held.blind == found.is_some() {
            held.blind = found.is_none();
            self.record.touch();
        }
        self.judge(bound, slot, Numbers { canary: &found?, stable: None, blame }, turn)
    }

    /// Judges a canary, and makes the transition that follows.
    pub(super) fn judge(
        &mut self,
        bound: Bound<'_>,
        slot: Slot,
        numbers: Numbers<'_>,
        turn: &mut Turn<'_>,
    ) -> Option<Transition> {
        let Numbers { canary, stable, blame } = numbers;
        let guard = self.guard(bound.deployment);
        let held = self.record.version_mut(slot)?;
        held.limits_percent = limits::evidence(guard, canary);
        let exceeded = limits::any_exceeded(guard, canary);
        if !exceeded && blame.is_none() {
            let signal = Signal::Pass { now: turn.now.mono, window: guard.window };
            return self.signal(bound, slot, signal, None, turn);
        }
        let mut read;
        let stable = match stable {
            Some(stable) => stable,
            None => {
                let held = bound.stable().and_then(|slot| self.record.version(slot));
                read = held.and_then(|held| held.snapshot(guard.window, turn));
                // Stable's numbers cannot excuse a canary if they cannot be read.
                read.get_or_insert_default()
            }
        };
        let found = if exceeded { verdict::judge(guard, canary, stable) } else { Verdict::Pass };
        let now = turn.now;
        let cause = |label: &str, text: String| Cause {
            label: label.to_owned(),
            text,
            since: now.mono,
            wall: now.wall,
        };
        let limit = |limit: Limit| cause(limit.label(), limits::explain(limit, guard, canary, stable));
        let enforce = guard.mode == GuardMode::Enforce;
        let fail = |cause| if enforce { Signal::Fail(cause) } else { Signal::WouldFail(cause) };
        let hold = |cause| if enforce { Signal::Shared(cause) } else { Signal::WouldHold(cause) };
        let mut score = None;
        // A limit is named before the comparison. The comparison blames the canary also in shared trouble.
        let signal = match (found, blame) {
            (Verdict::Fail(broken), _) => fail(limit(broken)),
            (_, Some(blame)) => {
                let Evidence { score: value, limit, .. } = blame.evidence;
                score = Some(Score { value, limit });
                fail(cause(blame.measure.label(), blame.explain()))
            }
            (Verdict::Shared(broken), None) => hold(limit(broken)),
            (Verdict::Pass | Verdict::Inconclusive, None) => return None,
        };
        self.signal(bound, slot, signal, Some(Basis { canary, stable, score }), turn)
    }
}

impl Blame {
    /// Says why the comparison blames the canary, with the numbers that it is based on.
    fn explain(&self) -> String {
        let counts = &self.evidence.counts;
        let failed = match self.measure {
            Measure::Errors => "failed",
            Measure::Slow => "were slower than stable's p95",
        };
        format!(
            "{} of {} {failed} while of stable's {} of {} did (score {}, limit {})",
            counts.canary_bad,
            counts.canary,
            counts.stable_bad,
            counts.stable,
            Hundredths::of(self.evidence.score),
            Hundredths::of(self.evidence.limit)
        )
    }
}
