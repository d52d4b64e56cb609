//! The shipping comparison on traffic in bulk: [`Scores`] and [`ScoresDelta`] themselves, batched by workers as the engine does.
//!
//! A worker that sees the canary fail merges at once; anything else waits for the worker's next turn, every 20 ms. That is
//! the longest the engine ever waits, so results of different workers change places at least as often as in the engine.
//! Good answers are merged with the next bad event. The engine itself runs in [`crate::fleet`]; a table compares the two.

use bellwether::engine::MERGE_AFTER;
use bellwether::judge::comparison::Measure;
use bellwether::judge::scores::{Arm, BOUNDED, Odds, Scores, ScoresDelta};
use bellwether::plan::guard::Compare;

use crate::rng::Rng;
use crate::traffic::{Item, Kind};

/// Most workers simulated.
const WORKERS_MAX: usize = 64;

/// What one worker holds back.
#[derive(Debug, Clone, Default)]
struct Held {
    errors: ScoresDelta,
    slow: ScoresDelta,
}

/// Workers that share one comparison.
#[derive(Debug)]
pub struct Bulk {
    compare: Compare,
    odds: Odds,
    errors: Scores,
    slow: Scores,
    held: Vec<Held>,
    /// Nothing is ever held back.
    each_time: bool,
    /// When each worker's batch is due; `u64::MAX` for nothing held.
    due: [u64; WORKERS_MAX],
    earliest: u64,
    /// Good answers not yet given to a worker: all that are good, and those that are fast too.
    good: [u64; 2],
    fast: [u64; 2],
    /// Bad events merged or held so far, by signal.
    pub events: [u64; 2],
}

impl Bulk {
    /// `workers` of them, at most 64; 0 for one that merges each time.
    pub fn new(compare: Compare, share: u16, workers: usize) -> Bulk {
        Bulk {
            compare,
            odds: Odds { canary: share, stable: 10_000 - share },
            errors: Scores::default(),
            slow: Scores::default(),
            held: vec![Held::default(); workers.clamp(1, WORKERS_MAX)],
            each_time: workers == 0,
            due: [u64::MAX; WORKERS_MAX],
            earliest: u64::MAX,
            good: [0; 2],
            fast: [0; 2],
            events: [0; 2],
        }
    }

    /// Takes a moment of the traffic in; the signal by which the canary is blamed, if it is.
    #[inline]
    pub fn observe(&mut self, item: &Item, rng: &mut Rng) -> Option<Measure> {
        self.calm(item.calm);
        let (arm, kind) = item.event?;
        let worker = if self.held.len() == 1 { 0 } else { rng.below(self.held.len()) };
        self.add(item.at, arm, kind, None, worker)
    }

    /// Good and fast answers of canary and stable.
    #[inline]
    pub fn calm(&mut self, calm: [u64; 2]) {
        for (side, count) in calm.into_iter().enumerate() {
            self.good[side] += count;
            self.fast[side] += count;
        }
    }

    /// One bad event on one worker; `client`: hash of the sticky identity, if there is one.
    pub fn add(
        &mut self,
        at: u64,
        arm: Arm,
        kind: Kind,
        client: Option<u64>,
        worker: usize,
    ) -> Option<Measure> {
        let blamed = if self.earliest <= at { self.flush_due(at) } else { None };
        let held = &mut self.held[worker];
        match kind {
            Kind::Failed => {
                self.events[0] += 1;
                held.errors.add_good(self.good[0], self.good[1]);
                held.errors.add(arm, true, self.odds, client);
                self.good = [0; 2];
            }
            Kind::Slow => {
                self.events[1] += 1;
                held.slow.add_good(self.fast[0], self.fast[1]);
                held.slow.add(arm, true, self.odds, client);
                self.fast = [0; 2];
                // A slow answer is a good one.
                self.good[usize::from(arm == Arm::Stable)] += 1;
            }
        }
        let urgent = arm == Arm::Canary && kind == Kind::Failed;
        if urgent || self.each_time || held.errors.is_full() || held.slow.is_full() {
            return blamed.or(self.flush(worker));
        }
        if self.due[worker] == u64::MAX {
            // Workers take their turns one after the other, each every 20 ms.
            let phase = MERGE_AFTER.0 / self.held.len() as u64 * worker as u64;
            self.due[worker] = (at + MERGE_AFTER.0 - phase) / MERGE_AFTER.0 * MERGE_AFTER.0 + phase;
            self.earliest = self.earliest.min(self.due[worker]);
        }
        blamed
    }

    fn flush_due(&mut self, at: u64) -> Option<Measure> {
        let mut blamed = None;
        loop {
            let due = &self.due[..self.held.len()];
            let Some((worker, when)) = due.iter().copied().enumerate().min_by_key(|(_, due)| *due) else {
                return blamed;
            };
            self.earliest = when;
            if when > at {
                return blamed;
            }
            blamed = blamed.or(self.flush(worker));
        }
    }

    fn flush(&mut self, worker: usize) -> Option<Measure> {
        let held = std::mem::take(&mut self.held[worker]);
        self.due[worker] = u64::MAX;
        // As the engine: both signals are merged, then both are judged.
        if !held.errors.is_quiet() {
            self.errors.merge(&held.errors, &self.compare, usize::MAX);
        }
        if !held.slow.is_quiet() {
            self.slow.merge(&held.slow, &self.compare, BOUNDED);
        }
        if self.errors.verdict(&self.compare).is_some() {
            return Some(Measure::Errors);
        }
        self.slow.verdict(&self.compare).map(|_| Measure::Slow)
    }

    /// Starts the comparison again, as after a rollback that an operator resumed.
    pub fn restart(&mut self) {
        (self.errors, self.slow) = (Scores::default(), Scores::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;
    use crate::traffic::{Curve, Traffic, generate};

    #[test]
    fn clean_failures_of_the_canary_are_blamed_after_seven() {
        let mut bulk = Bulk::new(setup::compare(), 500, 8);
        for n in 1..=7 {
            let blamed = bulk.add(n * 100_000, Arm::Canary, Kind::Failed, None, n as usize % 8);
            assert_eq!(blamed, (n == 7).then_some(Measure::Errors), "after {n}");
        }
    }

    #[test]
    fn what_stable_has_seen_is_merged_at_its_workers_turn() {
        let mut bulk = Bulk::new(setup::compare(), 500, 8);
        bulk.add(1_000, Arm::Canary, Kind::Failed, None, 0);
        let score = bulk.errors.evidence(&setup::compare()).score;
        bulk.add(1_001, Arm::Stable, Kind::Failed, None, 1);
        assert_eq!(bulk.errors.evidence(&setup::compare()).score, score, "held back");
        bulk.add(30_000, Arm::Stable, Kind::Failed, None, 2);
        assert!(bulk.errors.evidence(&setup::compare()).score < score, "merged when its turn came");
    }

    #[test]
    fn a_slow_canary_is_blamed_for_being_slow() {
        let traffic =
            Traffic { slow_canary: Curve::Flat(0.5), ..Traffic::alike(100.0, 500, Curve::Flat(0.005)) };
        let mut bulk = Bulk::new(setup::compare(), 500, 8);
        let (mut rng, mut workers) = (Rng::of(1, "slow", 0), Rng::of(1, "workers", 0));
        let mut blamed = None;
        generate(&traffic, 600, &mut rng, &mut |item| {
            blamed = bulk.observe(item, &mut workers);
            blamed.is_none()
        });
        assert_eq!(blamed, Some(Measure::Slow));
    }
}
