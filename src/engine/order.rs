//! Orders of an operator, each for all canaries of a deployment at once.

use super::advance::Moved;
use super::binding::Bound;
use super::record::{Decision, Report, Slot};
use super::state::State;
use super::{Binding, Change, Counts, Evidence, Transition};
use crate::plan::Deployment;
use crate::rollout::{Cause, Rules, Signal};
use crate::shared::store::StoreError;
use crate::shared::turn::Turn;
use crate::time::Span;

/// An order of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Takes all canaries out until an operator resumes them.
    Rollback,
    /// Takes all canaries back in, with nothing held against them.
    Resume,
}

/// The reason why an order was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Other workers interfered with each try. The next order may succeed.
    Contended,
    /// The standings cannot be read, or the host refused.
    Unreadable,
    /// The deployment has no canary.
    NoCanary,
}

impl Binding {
    /// Carries out an order. It is in force on this worker at once, and on the others when they next read, within 10 ms.
    /// Returns the transitions.
    ///
    /// # Errors
    /// The reason, if nothing was changed.
    pub fn order(
        &self,
        deployment: &Deployment,
        order: Order,
        cause: &Cause,
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Transition>, Refused> {
        let ordered = self.state.with_mut(|state| state.order(self.bound(deployment), order, cause, turn));
        ordered.unwrap_or(Err(Refused::Contended))
    }
}

impl State {
    /// Carries out an order with one write for all canaries, so that no worker ever sees half of it. An order decides whichever
    /// plan it comes by and whichever epoch this worker knows. An order that is carried out already changes and reports nothing.
    fn order(
        &mut self,
        bound: Bound<'_>,
        order: Order,
        cause: &Cause,
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Transition>, Refused> {
        let deployment = bound.deployment;
        self.record.refresh(Span::ZERO, turn);
        // Under a ramp there is exactly one canary.
        let first = bound.canaries().next().ok_or(Refused::NoCanary)?;
        let stats = self.record.version(first).and_then(|held| held.shared_stats(turn.store));
        let outcomes = stats.map_or(0, |stats| stats.total);
        let signal = match order {
            Order::Rollback => Signal::Latch(cause.clone()),
            Order::Resume => Signal::Resume(cause.clone()),
        };
        let rules = Rules { recovery: deployment.recovery, random: 0 };
        let now = turn.now.mono;
        let written = self.record.update_standings(turn.store, &mut |standings| {
            standings.make_room(deployment);
            let mut moved = Vec::new();
            for slot in bound.canaries() {
                let Some(held) = self.record.version(slot) else { continue };
                let before = held.latest(standings);
                let Some(after) = before.on(&signal, rules) else { continue };
                if !standings.put(&held.id, after.clone()) {
                    return Decision::Keep(Err(Refused::Unreadable));
                }
                moved.push((slot, Moved { before, after }));
            }
            if moved.is_empty() {
                return Decision::Keep(Ok(moved));
            }
            if order == Order::Resume {
                standings.ramp = standings.ramp.map(|position| position.restart_stage(outcomes, now));
            }
            Decision::Write(Ok(moved))
        });
        let (standings, moved) = match written {
            Ok(Some((standings, moved))) => (standings, moved?),
            Ok(None) | Err(StoreError::Refused) => return Err(Refused::Unreadable),
            Err(StoreError::Mismatch) => return Err(Refused::Contended),
        };
        // Read before the copy is replaced: the numbers are those of the epoch that ends.
        let reports: Vec<Report> =
            moved.iter().filter_map(|(slot, moved)| self.report(bound, *slot, moved, cause, turn)).collect();
        self.record.adopt(&standings);
        Ok(reports.into_iter().map(|report| self.record.transition(deployment, report)).collect())
    }

    /// Reports a canary's change; `None` if its phase stays, because a rolled-back canary was latched.
    fn report(
        &self,
        bound: Bound<'_>,
        slot: Slot,
        moved: &Moved,
        cause: &Cause,
        turn: &Turn<'_>,
    ) -> Option<Report> {
        let (from, to) = (moved.before.phase.kind(), moved.after.phase.kind());
        if from == to {
            return None;
        }
        let window = self.guard(bound.deployment).window;
        let counts = |slot: Slot, epoch: u32| {
            let stats = self.record.version(slot).and_then(|held| held.shared_stats(turn.store));
            let stats = stats.filter(|stats| stats.epoch == epoch);
            stats.map(|stats| Counts::from(&stats.snapshot(turn.now.mono, window))).unwrap_or_default()
        };
        let stable = bound.stable().map(|slot| counts(slot, self.record.epoch(slot)));
        Some(Report {
            version: self.record.version(slot)?.id.clone(),
            epoch: moved.after.epoch,
            change: Change::Moved { from, to },
            cause: Some(cause.clone()),
            evidence: Evidence {
                canary: counts(slot, moved.before.epoch),
                stable: stable.unwrap_or_default(),
                ..Evidence::default()
            },
        })
    }
}
