//! Stages: the clock of the ramp.

use super::binding::Bound;
use super::record::{Decision, Report, Slot};
use super::state::State;
use super::{Change, Evidence, IDLE_AFTER, Transition};
use crate::judge::limits;
use crate::judge::stats::Snapshot;
use crate::rollout::Phase;
use crate::rollout::ramp::{Position, RampFacts};
use crate::shared::dropped::Dropped;
use crate::shared::turn::Turn;

impl State {
    /// Moves the ramp's clock on, about once a second in the whole process, and begins the next stage when it is due.
    pub(super) fn advance_ramp(&mut self, bound: Bound<'_>, turn: &mut Turn<'_>) -> Option<Transition> {
        let ramp = bound.deployment.ramp.as_ref()?;
        let now = turn.now;
        // Under a ramp there is exactly one canary.
        let canary = bound.canaries().next()?;
        let seen = self.read_numbers(bound, canary, turn)?;
        let held = self.record.version(canary)?;
        let facts = RampFacts {
            now,
            outcomes: held.total,
            evidence: held.evidence(),
            active: held.standing.phase == Phase::Active && !held.blind,
        };
        let (version, epoch) = (held.id.clone(), held.standing.epoch);
        let advanced = self.record.update_standings(turn.store, &mut |standings| {
            let (position, begun) = match standings.ramp {
                None => (Position::first(ramp, now), false),
                Some(held) if now.mono.since(held.updated_at) < IDLE_AFTER => return Decision::Keep(None),
                Some(held) => {
                    let next = held.advance(ramp, facts);
                    (next, next.stage != held.stage)
                }
            };
            standings.ramp = Some(position);
            Decision::Write(Some(begun))
        });
        match advanced {
            Ok(Some((standings, Some(begun)))) => {
                self.record.adopt(&standings);
                let evidence = Evidence { canary: (&seen).into(), ..Evidence::default() };
                let change = Change::StageBegun;
                let report = Report { version, epoch, change, cause: None, evidence };
                begun.then(|| self.record.transition(bound.deployment, report))
            }
            Ok(_) => None,
            Err(error) => {
                turn.drops.one(Dropped::of(error));
                None
            }
        }
    }

    /// Reads a canary's numbers: this worker, or the main thread, may never have judged it.
    fn read_numbers(&mut self, bound: Bound<'_>, canary: Slot, turn: &Turn<'_>) -> Option<Snapshot> {
        let guard = self.guard(bound.deployment);
        let held = self.record.version_mut(canary)?;
        let Some(stats) = held.shared_stats(turn.store) else { return Some(Snapshot::default()) };
        held.total = stats.total;
        if stats.epoch != held.standing.epoch {
            return Some(Snapshot::default());
        }
        let seen = stats.snapshot(turn.now.mono, guard.window);
        held.limits_percent = limits::evidence(guard, &seen);
        Some(seen)
    }
}
