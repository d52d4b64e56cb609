//! Merging and judging: what all workers have counted, and what it says about a canary.

use super::advance::Seen;
use super::state::{Scene, State, VersionState};
use crate::engine::{Notes, Score};
use crate::judge::comparison::{Comparison, Measure as Kind, YARDSTICK_MIN};
use crate::judge::limits::{self, Limit};
use crate::judge::scores::Evidence;
use crate::judge::stats::{Delta, Snapshot, Stats};
use crate::judge::verdict::{self, Verdict};
use crate::plan::guard::GuardMode;
use crate::rollout::{Cause, Signal};
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::store::{Change, StoreError, update};
use crate::time::Millis;
use crate::units::Hundredths;

/// What became of a merge.
enum Merged {
    Into(Snapshot),
    /// The record is of a later epoch.
    Late,
    Undecodable,
}

impl State {
    /// Merges everything that waits, and judges the canaries that were merged.
    pub(super) fn flush(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, now, .. } = scene;
        let window = deployment.guard_at(self.stage(deployment)).window;
        self.merged_at = now.mono;
        self.dirty = false;
        let mut merged: Vec<(usize, Snapshot)> = Vec::new();
        for (version, slot) in slots.iter().enumerate() {
            let Some(held) = self.versions.get_mut(*slot).filter(|held| !held.pending.is_empty()) else {
                continue;
            };
            match merge(scene, held, window) {
                Ok(Merged::Into(snapshot)) => {
                    held.pending = Delta::default();
                    merged.push((version, snapshot));
                }
                Ok(Merged::Late) => {
                    notes.dropped.many(Dropped::LateResult, held.pending.outcomes());
                    held.pending = Delta::default();
                    self.read_at = None;
                }
                Ok(Merged::Undecodable) => {
                    notes.dropped.many(Dropped::Undecodable, held.pending.outcomes().max(1));
                    held.pending = Delta::default();
                    held.blind = true;
                    self.revision = self.revision.wrapping_add(1);
                }
                Err(error) => {
                    self.dirty = true;
                    notes.dropped.many(Dropped::of(error), 1);
                }
            }
        }
        let stable = merged.iter().find(|(version, _)| *version == deployment.stable).map(|(_, s)| s.clone());
        if let Some(stable) = &stable {
            let enough = stable.tally.latency.count() >= YARDSTICK_MIN;
            let floor = deployment
                .guard_at(self.stage(deployment))
                .compare
                .map_or(Millis(0), |compare| compare.latency_floor);
            let p95 = stable.tally.latency.percentile_ceiling(9500).filter(|_| enough);
            self.yardstick = p95.map(|p95| p95.max(floor.span()));
        }
        // What an older plan has seen is merged; what it means is for the newest to say.
        let decides = self.decides(scene.generation);
        for (version, _) in slots.iter().enumerate() {
            if version == deployment.stable {
                continue;
            }
            let blame = self.compare(scene, version, notes);
            if !decides {
                continue;
            }
            match merged.iter().find(|(merged, _)| *merged == version) {
                Some((_, snapshot)) => self.judge(scene, version, snapshot, stable.as_ref(), blame, notes),
                None if blame.is_some() => self.look_at(scene, version, blame, notes),
                None => {}
            }
        }
    }

    /// Merges what is held back for a canary's comparison with stable. Returns the evidence that suffices against it.
    fn compare(&mut self, scene: Scene<'_>, version: usize, notes: &mut Notes) -> Option<(Kind, Evidence)> {
        let Scene { deployment, slots, store, .. } = scene;
        let compare = deployment.guard_at(self.stage(deployment)).compare.as_ref()?;
        let held = slots.get(version).and_then(|slot| self.versions.get_mut(*slot))?;
        if held.compared.is_quiet() && held.at_zero {
            // Good outcomes do not move a comparison at zero.
            held.compared.clear();
            return None;
        }
        let epoch = held.standing.epoch;
        let merged = update(store, &held.compare_key(), &mut |bytes| {
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
                comparison.verdict(compare).filter(|_| comparison.epoch == epoch)
            }
            Ok(None) => {
                held.compared.clear();
                held.blind = true;
                self.revision = self.revision.wrapping_add(1);
                notes.dropped.many(Dropped::Undecodable, 1);
                None
            }
            Err(error) => {
                // Held back for the next merge, unless that has failed for as long as it takes to fill up.
                if held.compared.is_full() {
                    held.compared.clear();
                }
                self.dirty = true;
                notes.dropped.many(Dropped::of(error), 1);
                None
            }
        }
    }

    /// Judges canaries with something against them although nothing was merged here: their trouble may have left the window,
    /// other workers may have seen more, or the last verdict could not be written.
    pub(super) fn look_again(&mut self, scene: Scene<'_>, notes: &mut Notes) {
        let Scene { deployment, slots, store, .. } = scene;
        let compare = deployment.guard_at(self.stage(deployment)).compare;
        for (version, slot) in slots.iter().enumerate().filter(|(version, _)| *version != deployment.stable) {
            let Some(held) = self.versions.get_mut(*slot) else { continue };
            if let (Some(compare), Ok(Some(found))) = (&compare, store.get(&held.compare_key()))
                && let Found::Value(comparison) = Comparison::decode(Some(&found.bytes))
                && comparison.epoch == held.standing.epoch
            {
                held.at_zero = comparison.is_at_zero();
                held.compare_percent = comparison.percent(compare);
            }
            self.look_at(scene, version, None, notes);
            self.signal(scene, *slot, Signal::Time(scene.now.mono), None, notes);
        }
    }

    /// Judges a canary by its shared numbers as they are.
    fn look_at(
        &mut self,
        scene: Scene<'_>,
        version: usize,
        blame: Option<(Kind, Evidence)>,
        notes: &mut Notes,
    ) {
        let window = scene.deployment.guard_at(self.stage(scene.deployment)).window;
        let Some(held) = scene.slots.get(version).and_then(|slot| self.versions.get_mut(*slot)) else {
            return;
        };
        let found = snapshot_of(scene, held, window, notes);
        self.revision = self.revision.wrapping_add(u64::from(held.blind == found.is_some()));
        held.blind = found.is_none();
        if let Some(snapshot) = found {
            self.judge(scene, version, &snapshot, None, blame, notes);
        }
    }

    fn judge(
        &mut self,
        scene: Scene<'_>,
        version: usize,
        canary: &Snapshot,
        stable: Option<&Snapshot>,
        blame: Option<(Kind, Evidence)>,
        notes: &mut Notes,
    ) {
        let Scene { deployment, slots, now, .. } = scene;
        let guard = deployment.guard_at(self.stage(deployment));
        let slot = slots.get(version).copied().unwrap_or(usize::MAX);
        let Some(held) = self.versions.get_mut(slot) else { return };
        held.limits_percent = limits::evidence(guard, canary);
        let exceeded = limits::any_exceeded(guard, canary);
        if !exceeded && blame.is_none() {
            let signal = Signal::Pass { now: now.mono, window: guard.window };
            return self.signal(scene, slot, signal, None, notes);
        }
        let mut read;
        let stable = match stable {
            Some(stable) => stable,
            None => {
                let slot = slots.get(deployment.stable).and_then(|slot| self.versions.get(*slot));
                read = slot.and_then(|held| snapshot_of(scene, held, guard.window, notes));
                // Stable's numbers cannot excuse a canary if they cannot be read.
                read.get_or_insert_default()
            }
        };
        let found = if exceeded { verdict::judge(guard, canary, stable) } else { Verdict::Pass };
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
        // A limit is named before the comparison; the comparison blames the canary also in shared trouble.
        let signal = match (found, blame) {
            (Verdict::Fail(broken), _) => fail(limit(broken)),
            (_, Some((kind, evidence))) => fail(cause(kind.label(), compared(kind, &evidence))),
            (Verdict::Shared(broken), None) => hold(limit(broken)),
            (Verdict::Pass | Verdict::Inconclusive, None) => return,
        };
        let score = blame.filter(|(kind, _)| signal_is(&signal, kind.label()));
        let score = score.map(|(_, evidence)| Score { value: evidence.score, limit: evidence.limit });
        self.signal(scene, slot, signal, Some(Seen { canary, stable, score }), notes);
    }
}

/// Whether this is the reason of a verdict.
fn signal_is(signal: &Signal, label: &str) -> bool {
    matches!(signal, Signal::Fail(cause) | Signal::WouldFail(cause) if cause.label == label)
}

/// Says why a comparison blames the canary, with the numbers it is based on.
fn compared(kind: Kind, evidence: &Evidence) -> String {
    let (counts, what) = (
        &evidence.counts,
        match kind {
            Kind::Errors => "failed",
            Kind::Slow => "were slower than stable's p95",
        },
    );
    format!(
        "{} of {} {what} while of stable's {} of {} did (score {}, limit {})",
        counts.canary_bad,
        counts.canary,
        counts.stable_bad,
        counts.stable,
        Hundredths::of(evidence.score),
        Hundredths::of(evidence.limit)
    )
}

fn merge(scene: Scene<'_>, held: &VersionState, window: Millis) -> Result<Merged, StoreError> {
    let Scene { store, now, .. } = scene;
    let epoch = held.standing.epoch;
    update(store, &held.stats_key, &mut |bytes| {
        let mut stats = match Stats::decode(bytes) {
            Found::Nothing => Stats::new(epoch, window),
            Found::Value(stats) => stats,
            Found::Undecodable => return Change::Keep(Merged::Undecodable),
        };
        if stats.epoch > epoch {
            return Change::Keep(Merged::Late);
        }
        if stats.epoch < epoch {
            stats.restart(epoch, window);
        }
        stats.window.resize(window);
        stats.merge(&held.pending, now.mono);
        let snapshot = stats.snapshot(now.mono, window);
        Change::Write(stats.encode(), Merged::Into(snapshot))
    })
}

/// A version's shared numbers as they are now; `None` if they cannot be read.
fn snapshot_of(scene: Scene<'_>, held: &VersionState, window: Millis, notes: &mut Notes) -> Option<Snapshot> {
    let Scene { store, now, .. } = scene;
    let Ok(found) = store.get(&held.stats_key) else {
        notes.dropped.many(Dropped::Refused, 1);
        return None;
    };
    match Stats::decode(found.as_ref().map(|v| v.bytes.as_slice())) {
        Found::Value(stats) if stats.epoch == held.standing.epoch => Some(stats.snapshot(now.mono, window)),
        Found::Value(_) | Found::Nothing => Some(Snapshot::default()),
        Found::Undecodable => {
            notes.dropped.many(Dropped::Undecodable, 1);
            None
        }
    }
}
