//! Orders: what an operator does by hand, to all canaries of a deployment at once.

use super::state::{Scene, State};
use crate::engine::{Change, Counts, Evidence, Notes, Transition};
use crate::judge::stats::Stats;
use crate::rollout::standings::{Standings, VERSIONS};
use crate::rollout::{Cause, Rules, Signal, Standing};
use crate::shared::codec::Found;
use crate::shared::store::{self, StoreError, update};
use crate::time::Span;

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All canaries out, until an operator says otherwise.
    Rollback,
    /// All canaries in, with nothing held against them.
    Resume,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Other workers interfered with every try: it may work the next time.
    Contended,
    /// The record cannot be read, or the host refused.
    Unreadable,
    /// There is no canary.
    NoCanary,
}

/// What became of the write.
enum Written {
    /// The record, and each canary that changed: its place in the state, its standing before and after.
    Into(Standings, Vec<(usize, Standing, Standing)>),
    Undecodable,
    Full,
}

impl State {
    /// Carries out an order: one write for all canaries, so that no worker ever sees half of it. An order decides whatever plan
    /// it comes by and whatever epoch this worker knows; carried out already, it changes and reports nothing.
    pub(in crate::engine) fn order(
        &mut self,
        scene: Scene<'_>,
        order: Order,
        cause: &Cause,
        notes: &mut Notes,
    ) -> Result<(), Refused> {
        let Scene { deployment, slots, store, now, .. } = scene;
        self.refresh(store, now.mono, Span::ZERO, notes);
        let canaries = || {
            let canaries = slots.iter().enumerate().filter(|(version, _)| *version != deployment.stable);
            canaries.map(|(_, slot)| *slot)
        };
        if canaries().next().is_none() {
            return Err(Refused::NoCanary);
        }
        let signal = match order {
            Order::Rollback => Signal::Latch(cause.clone()),
            Order::Resume => Signal::Resume(cause.clone()),
        };
        let rules = Rules { recovery: deployment.recovery, random: 0 };
        // Under a ramp there is exactly one canary.
        let outcomes =
            canaries().next().and_then(|slot| self.shared_stats(scene, slot)).map_or(0, |s| s.total);
        let written = update(store, &self.standings_key, &mut |bytes| {
            let mut standings = match Standings::decode(bytes) {
                Found::Nothing => Standings { ramp: self.position, ..Standings::default() },
                Found::Value(standings) => standings,
                Found::Undecodable => return store::Change::Keep(Written::Undecodable),
            };
            if standings.versions.len() >= VERSIONS {
                standings
                    .versions
                    .retain(|(id, _)| deployment.versions.iter().any(|version| version.id == *id));
            }
            let mut changes = Vec::new();
            for slot in canaries() {
                let Some(held) = self.versions.get(slot) else { continue };
                // What is known here counts if the record is older or gone.
                let current = match standings.get(&held.id) {
                    Some(shared) if shared.epoch >= held.standing.epoch => shared.clone(),
                    _ => held.standing.clone(),
                };
                let Some(next) = current.on(&signal, rules) else { continue };
                if !standings.put(&held.id, next.clone()) {
                    return store::Change::Keep(Written::Full);
                }
                changes.push((slot, current, next));
            }
            if changes.is_empty() {
                return store::Change::Keep(Written::Into(standings, changes));
            }
            if order == Order::Resume {
                standings.ramp = standings.ramp.map(|position| position.again(outcomes, now.mono));
            }
            store::Change::Write(standings.encode(), Written::Into(standings, changes))
        });
        match written {
            Ok(Written::Into(standings, changes)) => {
                // Before the copy is replaced: the numbers are those of the epoch that ends.
                let reports = changes.into_iter().filter_map(|(slot, before, after)| {
                    // Put out before, and latched now: no transition.
                    let moved = before.phase.kind() != after.phase.kind();
                    moved.then(|| self.report(scene, slot, (&before, &after), cause, &standings)).flatten()
                });
                notes.transitions.extend(reports);
                self.adopt(&standings);
                Ok(())
            }
            Ok(Written::Undecodable | Written::Full) | Err(StoreError::Refused) => Err(Refused::Unreadable),
            Err(StoreError::Mismatch) => Err(Refused::Contended),
        }
    }

    fn report(
        &self,
        scene: Scene<'_>,
        slot: usize,
        (before, after): (&Standing, &Standing),
        cause: &Cause,
        standings: &Standings,
    ) -> Option<Transition> {
        let Scene { deployment, slots, now, .. } = scene;
        let held = self.versions.get(slot)?;
        let window = deployment.guard_at(self.stage(deployment)).window;
        let seen = |slot: usize, epoch: u32| {
            let stats = self.shared_stats(scene, slot).filter(|stats| stats.epoch == epoch);
            let tally = stats.map(|stats| stats.snapshot(now.mono, window).tally).unwrap_or_default();
            Counts { judged: tally.judged, bad: tally.bad }
        };
        let stable = slots.get(deployment.stable).copied().unwrap_or(usize::MAX);
        Some(Transition {
            deployment: self.name.clone(),
            release: self.release.clone(),
            version: held.id.clone(),
            epoch: after.epoch,
            stage: deployment.ramp.as_ref().and(standings.ramp).and_then(|position| position.stage),
            change: Change::Moved { from: before.phase.kind(), to: after.phase.kind() },
            cause: Some(cause.clone()),
            evidence: Evidence {
                canary: seen(slot, before.epoch),
                stable: seen(stable, self.epoch(stable)),
                ..Evidence::default()
            },
        })
    }

    /// A version's shared numbers as they are, of whatever epoch; `None` if there are none, or none that can be read.
    pub(in crate::engine) fn shared_stats(&self, scene: Scene<'_>, slot: usize) -> Option<Stats> {
        let held = self.versions.get(slot)?;
        let found = scene.store.get(&held.stats_key).ok().flatten()?;
        match Stats::decode(Some(&found.bytes)) {
            Found::Value(stats) => Some(stats),
            Found::Nothing | Found::Undecodable => None,
        }
    }
}
