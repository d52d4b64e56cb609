//! The view of a deployment from outside: the shared record as it is now. The worker that is asked may never have seen a request
//! of the deployment, so nothing here comes from its own counts and verdicts.

use super::binding::Bound;
use super::record::Slot;
use super::state::State;
use super::{Binding, Counts};
use crate::judge::limits;
use crate::judge::stats::Snapshot;
use crate::judge::window::Tally;
use crate::plan::Deployment;
use crate::rollout::ramp::Position;
use crate::rollout::{Phase, Standing};
use crate::shared::turn::Turn;
use crate::time::Span;

/// The view of a deployment.
pub struct View {
    /// Position of the ramp; `None` without a ramp, and until a worker has first looked at its clock.
    pub ramp: Option<Position>,
    /// The versions in the plan's order.
    pub versions: Vec<VersionView>,
    /// Set if the shared record cannot be read: stable serves everything.
    pub unreadable: bool,
}

/// The view of a version.
pub struct VersionView {
    /// Its standing. Stable's standing never changes.
    pub standing: Standing,
    /// Present share of the traffic, in basis points.
    pub share: u16,
    /// Outcomes of all workers within the guard's window: those of the present epoch, and of a version that is out the last
    /// ones.
    pub tally: Tally,
    /// Outcomes since the release was first seen.
    pub totals: Counts,
    /// Evidence in percent of a rollback; 0 for stable.
    pub evidence: u64,
}

impl View {
    /// Returns the canary in the worst phase, the first of several; stable if there is no canary.
    pub fn worst(&self, stable: usize) -> Option<usize> {
        let mut worst: Option<(usize, u64)> = None;
        for (n, version) in self.versions.iter().enumerate().filter(|(n, _)| *n != stable) {
            let gauge = version.standing.phase.gauge();
            if worst.is_none_or(|(_, held)| gauge > held) {
                worst = Some((n, gauge));
            }
        }
        worst.map(|(n, _)| n).or_else(|| self.versions.get(stable).map(|_| stable))
    }
}

impl Binding {
    /// Reads the view. Costs about a microsecond for each of two or three shared values of a version.
    pub fn view(&self, deployment: &Deployment, turn: &mut Turn<'_>) -> View {
        self.state.with_mut(|state| state.record.refresh(Span::ZERO, turn));
        let shares = self.effective_weights(deployment);
        let bound = self.bound(deployment);
        let seen = self.state.with(|state| View {
            ramp: state.record.position(deployment),
            versions: (0..deployment.versions.len())
                .map(|version| {
                    let share = shares.get(version).copied().unwrap_or(0);
                    state.version_view(bound, version, share, turn)
                })
                .collect(),
            unreadable: state.record.unreadable,
        });
        seen.unwrap_or_else(|| View { ramp: None, versions: Vec::new(), unreadable: true })
    }
}

impl State {
    fn version_view(&self, bound: Bound<'_>, version: usize, share: u16, turn: &Turn<'_>) -> VersionView {
        let guard = self.guard(bound.deployment);
        let held = bound.slot(version).and_then(|slot: Slot| self.record.version(slot));
        let standing = held.map_or(Standing::NEW, |held| held.standing.clone());
        let stats = held.and_then(|held| held.shared_stats(turn.store));
        let totals = stats.as_ref().map(|stats| Counts { judged: stats.total, bad: stats.total_bad });
        let is_present = stats.as_ref().is_some_and(|stats| stats.epoch == standing.epoch);
        // The numbers that have put a version out are shown for as long as they are in the window.
        let in_service = matches!(standing.phase, Phase::Active | Phase::Holding(_));
        let shown = stats.filter(|_| is_present || !in_service);
        let seen = shown.map_or_else(Snapshot::default, |s| s.snapshot(turn.now.mono, guard.window));
        let evidence = match &standing.phase {
            _ if version == bound.deployment.stable => 0,
            Phase::RolledBack { .. } => 100,
            _ => {
                let compared = guard.compare.as_ref().and_then(|compare| {
                    let comparison = held?.shared_comparison(turn.store)?;
                    Some(comparison.percent(compare))
                });
                let limits = if is_present { limits::evidence(guard, &seen) } else { 0 };
                limits.max(compared.unwrap_or(0))
            }
        };
        VersionView { standing, share, tally: seen.tally, totals: totals.unwrap_or_default(), evidence }
    }
}
