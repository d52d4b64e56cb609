//! Trials on all cores. A trial's randomness depends on its number only, so neither the number of threads nor their order
//! changes a result.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rng::Rng;

/// How much to do, and from which seed.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Printed, so that a run can be repeated.
    pub seed: u64,
    /// Trials a cell.
    pub trials: u64,
    /// Length of a simulated day in hours.
    pub hours: u64,
    /// Threads.
    pub threads: usize,
}

impl Effort {
    /// For tests: some seconds.
    pub const QUICK: Effort = Effort { seed: 1, trials: 60, hours: 1, threads: 2 };

    /// A day's seconds.
    pub fn day(&self) -> u64 {
        self.hours * 3600
    }

    /// The generator of a trial.
    pub fn rng(&self, cell: &str, trial: u64) -> Rng {
        Rng::of(self.seed, cell, trial)
    }

    /// Runs a cell; results in the order of the trials.
    pub fn run<T: Send>(&self, cell: &str, trial: impl Fn(Rng) -> T + Sync) -> Vec<T> {
        self.run_some(self.trials, cell, trial)
    }

    /// Runs so many trials of a cell.
    pub fn run_some<T: Send>(&self, trials: u64, cell: &str, trial: impl Fn(Rng) -> T + Sync) -> Vec<T> {
        let (next, results) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= trials {
                            return;
                        }
                        let result = trial(self.rng(cell, number));
                        // A poisoned lock means that another trial panicked; the scope reports it.
                        if let Ok(mut results) = results.lock() {
                            results.push((number, result));
                        }
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_default();
        results.sort_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

/// The value below which `part` of the values lie; `None` where that is one of the trials that never ended.
pub fn quantile(values: &[Option<u64>], part: f64) -> Option<u64> {
    let mut sorted: Vec<u64> = values.iter().map(|v| v.unwrap_or(u64::MAX)).collect();
    sorted.sort_unstable();
    let at = ((values.len() as f64 * part).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    sorted.get(at).copied().filter(|v| *v != u64::MAX)
}

/// The middle value.
pub fn median(values: &[Option<u64>]) -> Option<u64> {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let of = |threads| {
            let effort = Effort { seed: 7, trials: 100, hours: 1, threads };
            effort.run("cell", |mut rng| rng.bits())
        };
        assert_eq!(of(1), of(8));
    }

    #[test]
    fn quantiles_count_what_never_ended_as_late() {
        let values = [Some(3), None, Some(1), Some(2), None];
        assert_eq!(
            (median(&values), quantile(&values, 0.2), quantile(&values, 0.9)),
            (Some(3), Some(1), None)
        );
    }
}
