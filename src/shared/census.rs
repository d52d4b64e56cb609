//! Requests in flight and memory of all VMs of the filter, so that a leak is seen.
//!
//! A VM knows only itself, and a gauge of the process has no label for a worker. If each VM added to such a gauge and subtracted
//! from it, the gauge would drift with the first VM that dies with requests in it. So each VM writes its own numbers into one
//! shared list and shows the sum of the list. An entry that is not renewed leaves the list.

use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Micros, Span};

/// Time between two reports of a VM. A leak takes hours to matter. Every worker reads and writes the list: with a hundred workers
/// this is still two hundred times less often than the engine merges under load.
pub const PERIOD: Span = Span::from_millis(500);

/// An entry that was not renewed for this long belongs to a VM that is gone: trapped, or replaced by another module. It is six
/// periods, so that a worker that is only busy does not flicker.
const LIFE: Span = Span::from_secs(3);

/// Most entries: one for each worker, one for the main thread, and those of VMs that have just gone. The oldest are dropped.
const ENTRIES_MAX: usize = 1024;

/// The numbers of a VM, or of all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holding {
    /// Requests between their headers and their end.
    pub in_flight: u64,
    /// Linear memory in bytes. It never shrinks, so it is the most that was ever in use, in pages of 64 KiB.
    pub memory: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    vm: u64,
    at: Micros,
    held: Holding,
}

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census(Vec<Entry>);

impl Census {
    /// Renews a VM's entry, and drops the entries of VMs that are gone. `vm`: the VM's random number.
    pub fn report(&mut self, vm: u64, held: Holding, now: Micros) {
        self.0.retain(|entry| entry.vm != vm && now.since(entry.at) < LIFE);
        self.0.push(Entry { vm, at: now, held });
        let above = self.0.len().saturating_sub(ENTRIES_MAX);
        self.0.drain(..above);
    }

    /// Returns the sum of all entries.
    pub fn sum(&self) -> Holding {
        self.0.iter().fold(Holding::default(), |sum, entry| Holding {
            in_flight: sum.in_flight.saturating_add(entry.held.in_flight),
            memory: sum.memory.saturating_add(entry.held.memory),
        })
    }

    /// Encodes the list for shared data.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::try_from(self.0.len()).unwrap_or(0));
        for Entry { vm, at, held } in &self.0 {
            [*vm, at.0, held.in_flight, held.memory].into_iter().for_each(|number| w.number(number));
        }
        w.finish()
    }

    /// Decodes a list from shared data.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Census> {
        Found::read(bytes, |bytes| {
            let mut r = Reader::new(bytes)?;
            let mut entries = Vec::new();
            for _ in 0..r.count(ENTRIES_MAX)? {
                let (vm, at) = (r.number()?, Micros(r.number()?));
                entries.push(Entry { vm, at, held: Holding { in_flight: r.number()?, memory: r.number()? } });
            }
            r.end()?;
            Some(Census(entries))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(in_flight: u64, memory: u64) -> Holding {
        Holding { in_flight, memory }
    }

    #[test]
    fn the_sum_is_of_the_last_report_of_each_vm() {
        let mut census = Census::default();
        census.report(1, holding(5, 100), Micros(0));
        census.report(2, holding(7, 200), Micros(10));
        assert_eq!(census.sum(), holding(12, 300));
        census.report(1, holding(0, 150), Micros(PERIOD.0));
        assert_eq!(census.sum(), holding(7, 350));
    }

    #[test]
    fn a_vm_that_is_gone_takes_its_requests_with_it() {
        let mut census = Census::default();
        census.report(1, holding(5, 100), Micros(0));
        census.report(2, holding(1, 200), Micros(LIFE.0 - 1));
        assert_eq!(census.sum(), holding(6, 300), "it may only be busy");
        census.report(2, holding(1, 200), Micros(LIFE.0));
        assert_eq!(census.sum(), holding(1, 200));
    }

    #[test]
    fn a_vm_whose_clock_is_a_hair_behind_drops_nobody() {
        let mut census = Census::default();
        census.report(1, holding(5, 100), Micros(LIFE.0));
        census.report(2, holding(1, 200), Micros(0));
        assert_eq!(census.sum(), holding(6, 300));
    }

    #[test]
    fn the_list_is_bounded_and_has_the_newest_entries() {
        let mut census = Census::default();
        for vm in 0..2_000 {
            census.report(vm, holding(1, u64::MAX), Micros(vm));
        }
        assert_eq!(census.sum(), holding(1024, u64::MAX));
        assert!(matches!(Census::decode(Some(&census.encode())), Found::Value(back) if back == census));
        census.report(1_999, holding(3, 0), Micros(2_000));
        assert_eq!(census.sum().in_flight, 1023 + 3);
    }

    #[test]
    fn a_list_that_was_never_written_is_nothing_and_one_with_a_rest_is_undecodable() {
        assert!(matches!(Census::decode(None), Found::Nothing));
        let mut bytes = Census::default().encode();
        assert!(matches!(Census::decode(Some(&bytes)), Found::Value(_)));
        bytes.push(0);
        assert!(matches!(Census::decode(Some(&bytes)), Found::Undecodable));
    }
}
