//! What a deployment looks like from outside: the shared record as it is now, whoever asks. The asking worker may never have
//! seen a request of it, so nothing here comes from what this worker has counted or judged itself.

use super::state::{Scene, State};
use super::{Binding, Counts, Notes, Order, Refused};
use crate::judge::comparison::Comparison;
use crate::judge::limits;
use crate::judge::stats::Snapshot;
use crate::judge::window::Tally;
use crate::plan::Deployment;
use crate::rollout::ramp::Position;
use crate::rollout::{Cause, Phase, Standing};
use crate::shared::codec::Found;
use crate::shared::store::Store;
use crate::time::{Now, Span};

/// A deployment.
pub struct View {
    /// Where the ramp is, if there is one and somebody has looked.
    pub ramp: Option<Position>,
    /// In the plan's order.
    pub versions: Vec<VersionView>,
    /// The shared record cannot be read: stable serves everything.
    pub unreadable: bool,
}

/// One version of it.
pub struct VersionView {
    /// Its standing; that of stable never changes.
    pub standing: Standing,
    /// Share of the traffic that it gets now, in basis points.
    pub share: u16,
    /// Outcomes of all workers within the guard's window; those of the present epoch, or while it is out the last ones.
    pub tally: Tally,
    /// Judged and bad outcomes since the release was first seen.
    pub totals: Counts,
    /// Percent of the way to a rollback; 0 for stable.
    pub evidence: u64,
}

impl View {
    /// The canary in the worst phase, with its index; the first one of these, and stable if there is no canary.
    pub fn worst(&self, stable: usize) -> Option<(usize, &VersionView)> {
        let mut worst: Option<(usize, &VersionView)> = None;
        for (n, version) in self.versions.iter().enumerate().filter(|(n, _)| *n != stable) {
            if worst.is_none_or(|(_, held)| version.standing.phase.gauge() > held.standing.phase.gauge()) {
                worst = Some((n, version));
            }
        }
        worst.or_else(|| self.versions.get(stable).map(|version| (stable, version)))
    }
}

impl Binding {
    /// Reads everything there is to show. About a microsecond for each of two or three shared values a version.
    pub fn view(&self, deployment: &Deployment, store: &dyn Store, now: Now, notes: &mut Notes) -> View {
        let mut view = View { ramp: None, versions: Vec::new(), unreadable: true };
        let Ok(mut state) = self.state.try_borrow_mut() else { return view };
        state.refresh(store, now.mono, Span::ZERO, notes);
        drop(state);
        let shares = self.effective_weights(deployment);
        let Ok(state) = self.state.try_borrow() else { return view };
        view.unreadable = state.unreadable;
        view.ramp = state.position(deployment);
        let scene = self.scene(deployment, store, now);
        for n in 0..deployment.versions.len() {
            let share = shares.get(n).copied().unwrap_or(0);
            view.versions.push(self.version_view(&state, scene, n, share));
        }
        view
    }

    fn version_view(&self, state: &State, scene: Scene<'_>, n: usize, share: u16) -> VersionView {
        let (slot, guard) = (self.slot(n), scene.deployment.guard_at(state.stage(scene.deployment)));
        let standing = state.version(slot).map_or(Standing::NEW, |held| held.standing.clone());
        let stats = state.shared_stats(scene, slot);
        let totals = stats
            .as_ref()
            .map(|stats| Counts { judged: stats.total, bad: stats.total_bad })
            .unwrap_or_default();
        let of_now = stats.as_ref().is_some_and(|stats| stats.epoch == standing.epoch);
        // While it is out, what has put it out is shown for as long as it is in the window.
        let in_service = matches!(standing.phase, Phase::Active | Phase::Holding(_));
        let shown = stats.filter(|_| of_now || !in_service);
        let seen = shown.map_or_else(Snapshot::default, |s| s.snapshot(scene.now.mono, guard.window));
        let evidence = match &standing.phase {
            _ if n == scene.deployment.stable => 0,
            Phase::RolledBack { .. } => 100,
            _ => {
                let compared = guard.compare.as_ref().and_then(|compare| {
                    let comparison = state.shared_comparison(scene, slot)?;
                    (comparison.epoch == standing.epoch).then(|| comparison.percent(compare))
                });
                let limits = if of_now { limits::evidence(guard, &seen) } else { 0 };
                limits.max(compared.unwrap_or(0))
            }
        };
        VersionView { standing, share, tally: seen.tally, totals, evidence }
    }

    /// Carries out what an operator orders, and reports it like any other transition. In force on this worker at once, on the
    /// others when they next read, within 10 ms.
    ///
    /// # Errors
    /// Nothing was changed, and why.
    pub fn order(
        &self,
        deployment: &Deployment,
        order: Order,
        cause: &Cause,
        store: &dyn Store,
        now: Now,
        notes: &mut Notes,
    ) -> Result<(), Refused> {
        let Ok(mut state) = self.state.try_borrow_mut() else { return Err(Refused::Contended) };
        state.order(self.scene(deployment, store, now), order, cause, notes)
    }
}

impl State {
    fn shared_comparison(&self, scene: Scene<'_>, slot: usize) -> Option<Comparison> {
        let found = scene.store.get(&self.version(slot)?.compare_key()).ok().flatten()?;
        match Comparison::decode(Some(&found.bytes)) {
            Found::Value(comparison) => Some(comparison),
            Found::Nothing | Found::Undecodable => None,
        }
    }
}
