//! Metrics of the proxy.

use std::cell::Cell;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use crate::hash::hash;
use crate::shared::cell::SharedCell;

thread_local! {
    /// The metrics that this VM has defined: hash of the name and number, ordered by the hash.
    static DEFINED: SharedCell<Vec<(u64, u32)>> = const { SharedCell::new(Vec::new()) };
}

/// Defines a metric once in a VM's life. The host would give a new number for each definition and keep all of them: with every
/// reload it would grow by some kilobytes.
fn define(kind: MetricType, name: &str) -> Option<u32> {
    let hash = hash(&[name.as_bytes()]);
    let define = |defined: &mut Vec<(u64, u32)>| match defined.binary_search_by_key(&hash, |(held, _)| *held)
    {
        Ok(at) => defined.get(at).map(|(_, id)| *id),
        Err(at) => {
            let id = hostcalls::define_metric(kind, name).ok()?;
            defined.insert(at, (hash, id));
            Some(id)
        }
    };
    DEFINED.with(|defined| defined.with_mut(define))?
}

/// One metric of this VM, defined when it is first used: an unused series is never shown.
///
/// It is small because a gateway may hold tens of thousands of them, and a VM holds two plans while one takes over from the other.
/// Its name is put together when it is defined.
pub struct Metric(Cell<u32>);

/// Number of a metric that is not defined yet. The host counts up from 0 by fours.
const UNDEFINED: u32 = u32::MAX;

impl Metric {
    /// Makes a metric that is defined when it is first used.
    pub const fn new() -> Metric {
        Metric(Cell::new(UNDEFINED))
    }

    /// Adds to a counter. `name`: the parts of its name.
    pub fn add(&self, name: &[&str], count: u64) {
        // The host refuses an increment of 0.
        if let (Some(id), Ok(count @ 1..)) = (self.id(MetricType::Counter, name), i64::try_from(count)) {
            let _ = hostcalls::increment_metric(id, count);
        }
    }

    /// Sets a gauge. `name`: the parts of its name.
    pub fn set(&self, name: &[&str], value: u64) {
        self.record(MetricType::Gauge, name, value);
    }

    /// Records a value in a histogram. `name`: the parts of its name.
    pub fn observe(&self, name: &[&str], value: u64) {
        self.record(MetricType::Histogram, name, value);
    }

    /// Makes a counter visible before it has a value.
    pub fn define(&self, name: &[&str]) {
        let _ = self.id(MetricType::Counter, name);
    }

    fn record(&self, kind: MetricType, name: &[&str], value: u64) {
        if let Some(id) = self.id(kind, name) {
            let _ = hostcalls::record_metric(id, value);
        }
    }

    fn id(&self, kind: MetricType, name: &[&str]) -> Option<u32> {
        if self.0.get() == UNDEFINED {
            self.0.set(define(kind, &name.concat())?);
        }
        Some(self.0.get())
    }
}
