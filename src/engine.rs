//! The engine: one worker's part of the decision, and the only place where its parts meet.
//!
//! Requests and outcomes change only memory of this worker. Counts are merged into shared data in batches: at once when a
//! canary fails, because clients suffer from it, otherwise when the last merge is older than [`MERGE_AFTER`]. The worker that
//! merges also judges, by the counts of all workers. If its verdict wins the compare-and-swap on the standings, the
//! worker makes the transition and returns it, so each transition is reported once. All workers read the standings again when their copy is
//! older than [`crate::shared::REFRESH_AFTER`]: within that time a rollback is in force everywhere.
//!
//! A value that cannot be read is never taken for health: the deployment then serves stable only, and the failure is counted.

mod advance; // applies signals to the shared standings; places of probes
mod assigned; // the decision about one request
mod binding; // a deployment of one plan, bound to its state
mod judge; // asks for verdicts
mod merge; // merges counts into shared data
mod order; // orders of an operator
mod record; // the copy of the shared record: standings and the ramp's position
mod stage; // the clock of the ramp
mod state; // one release of one deployment on this worker
mod transition; // the report of a transition
mod version; // one version, with its counts and its shared values
mod view; // a deployment as its status shows it
pub mod warnings; // parts of a plan that cannot have the expected effect

use std::collections::BTreeMap;
use std::rc::Rc;

pub use self::assigned::{Assigned, Compared};
pub use self::binding::Binding;
pub use self::order::{Order, Refused};
use self::state::State;
pub use self::transition::{Change, Counts, Evidence, Score, Transition};
pub use self::view::{VersionView, View};
use crate::plan::Plan;
use crate::shared::cell::SharedCell;
use crate::shared::store::Store;
use crate::time::Span;

/// Counts are merged when the last merge is older than this (20 ms). Half of it would make stable's numbers fresher by 10 ms
/// and double the writes under the process-wide lock. A canary's failure never waits for it.
pub const MERGE_AFTER: Span = Span::from_millis(20);
/// Period at which the standings and held verdicts of an idle deployment are checked (1 s).
const IDLE_AFTER: Span = Span::from_secs(1);

/// The states of this worker, by deployment and release. They outlive reloads and die with the last plan that binds them.
#[derive(Default)]
pub struct Engine {
    states: BTreeMap<(String, String), Rc<SharedCell<State>>>,
}

impl Engine {
    /// Binds a plan's deployments to their states, and makes states that do not exist. Other releases of the same deployments
    /// are superseded: results that are still to come for them decide nothing any more.
    pub fn attach(&mut self, plan: &Plan) -> Vec<Binding> {
        plan.deployments
            .iter()
            .map(|deployment| {
                let releases = self.states.range((deployment.name.clone(), String::new())..);
                for ((_, release), state) in releases.take_while(|((name, _), _)| *name == deployment.name) {
                    state.with_mut(|state| state.superseded = *release != deployment.release);
                }
                let key = (deployment.name.clone(), deployment.release.clone());
                let state = self.states.entry(key);
                let state = state.or_insert_with(|| Rc::new(SharedCell::new(State::new(deployment))));
                Binding::new(deployment, state)
            })
            .collect()
    }

    /// Drops the states that no plan on this worker binds any more. With `bury`, tombstones replace their shared values, so
    /// that a release that comes back starts afresh. Without it the shared values stay: the plan never served, because it was
    /// bound in the throw-away VM that checks a configuration.
    pub fn sweep(&mut self, store: &dyn Store, bury: bool) {
        self.states.retain(|_, state| {
            let is_bound = Rc::strong_count(state) > 1;
            if !is_bound && bury {
                state.with(|state| state.record.bury(store));
            }
            is_bound
        });
    }
}

#[cfg(test)]
mod tests;
