//! The part of this VM in the census: requests in flight and memory, of all VMs, as gauges.

use std::cell::Cell;

use super::metrics::Global;
use crate::host::{self, SharedData};
use crate::shared::census::{self, Census, Holding};
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::names::CENSUS;
use crate::shared::store::{Change, update};
use crate::time::Micros;

/// This VM as the census knows it.
pub struct Vm {
    /// Drawn at random.
    id: u64,
    reported: Cell<Option<Micros>>,
}

impl Vm {
    /// Makes an entry under this id, which has not been reported yet.
    pub fn new(id: u64) -> Vm {
        Vm { id, reported: Cell::new(None) }
    }

    /// Reports to the census, if that is due, and writes the gauges of all VMs.
    pub fn report(&self, in_flight: u64, now: Micros, metrics: &Global) {
        if self.reported.get().is_some_and(|last| now.since(last) < census::PERIOD) {
            return;
        }
        self.reported.set(Some(now));
        let held = Holding { in_flight, memory: host::memory() };
        let sum = update(&SharedData, CENSUS, &mut |bytes| {
            let mut census = match Census::decode(bytes) {
                Found::Undecodable => return Change::Keep(Err(Dropped::Undecodable)),
                Found::Value(census) => census,
                Found::Nothing => Census::default(),
            };
            census.report(self.id, held, now);
            Change::Write(census.encode(), Ok(census.sum()))
        });
        match sum {
            Ok(Ok(sum)) => metrics.census(sum.in_flight, sum.memory),
            Ok(Err(dropped)) => metrics.dropped(dropped, 1),
            // The next report says the same, or better.
            Err(_) => {}
        }
    }
}
