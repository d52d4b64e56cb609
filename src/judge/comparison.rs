//! The comparison as the workers share it: for each canary one record with [`Scores`] for each measure, and the outcomes that this
//! worker has not merged yet.

use crate::judge::scores::{Arm, BOUNDED, Evidence, Odds, Scores, ScoresDelta};
use crate::outcome::Outcome;
use crate::outcome::blame::Event;
use crate::plan::guard::Compare;
use crate::shared::codec::{Found, Reader, Writer};
use crate::shared::names::COMPARISON_SCHEMA;
use crate::time::Span;

/// A measure by which the versions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Bad outcomes.
    Errors,
    /// Responses slower than stable's 95th percentile.
    Slow,
}

impl Measure {
    /// Returns the metric label of a rollback for this reason.
    pub const fn label(self) -> &'static str {
        match self {
            Measure::Errors => "worse_errors",
            Measure::Slow => "worse_latency",
        }
    }
}

/// The number of stable's latencies from which its 95th percentile is a yardstick. With fewer, the yardstick jumps about. It would
/// still be the same for both sides: this bounds the noise in the meaning of "slow", not the error of the comparison.
pub const YARDSTICK_MIN: u64 = 100;

/// The scores of all measures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// Epoch of the canary's standing.
    pub epoch: u32,
    errors: Scores,
    slow: Scores,
}

impl Comparison {
    /// Makes an empty record.
    pub fn new(epoch: u32) -> Comparison {
        Comparison { epoch, ..Comparison::default() }
    }

    /// Replays the outcomes that a worker held back.
    pub fn merge(&mut self, pending: &Pending, compare: &Compare) {
        self.errors.merge(&pending.errors, compare, usize::MAX);
        self.slow.merge(&pending.slow, compare, BOUNDED);
    }

    /// Returns whether good outcomes need not be merged.
    pub fn is_at_zero(&self) -> bool {
        self.errors.is_at_zero() && self.slow.is_at_zero()
    }

    /// Returns evidence that suffices for a rollback; errors come before slowness.
    pub fn verdict(&self, compare: &Compare) -> Option<(Measure, Evidence)> {
        let errors = self.errors.verdict(compare).map(|evidence| (Measure::Errors, evidence));
        errors.or_else(|| self.slow.verdict(compare).map(|evidence| (Measure::Slow, evidence)))
    }

    /// Returns how far the strongest measure is on its way to a rollback, in percent.
    pub fn percent(&self, compare: &Compare) -> u64 {
        let progress = |scores: &Scores| {
            let evidence = scores.evidence(compare);
            // Not negative, and capped: the conversion cannot go wrong.
            (evidence.score / evidence.limit * 100.0).clamp(0.0, 100.0) as u64
        };
        progress(&self.errors).max(progress(&self.slow))
    }

    /// Encodes the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::of(COMPARISON_SCHEMA);
        w.number(u64::from(self.epoch));
        self.errors.encode(&mut w);
        self.slow.encode(&mut w);
        w.finish()
    }

    /// Decodes a record; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Comparison> {
        Found::read(bytes, read)
    }
}

fn read(bytes: &[u8]) -> Option<Comparison> {
    let mut r = Reader::of(COMPARISON_SCHEMA, bytes)?;
    let comparison =
        Comparison { epoch: r.small()?, errors: Scores::decode(&mut r)?, slow: Scores::decode(&mut r)? };
    r.end()?;
    Some(comparison)
}

/// The outcomes that a worker holds back for one canary.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    errors: ScoresDelta,
    slow: ScoresDelta,
}

/// One event of a version, ready to be compared.
#[derive(Debug, Clone, Copy)]
pub struct Observed {
    /// Version of the request.
    pub arm: Arm,
    /// Shares by which the coin decided.
    pub odds: Odds,
    /// Hash of the sticky identity, if there is one.
    pub identity: Option<u64>,
    /// The event.
    pub event: Event,
    /// Above this a response is slow; `None` as long as there is no yardstick.
    pub yardstick: Option<Span>,
}

impl Pending {
    /// Adds an event of a request that the coin decided.
    pub fn add(&mut self, observed: Observed) {
        let Observed { arm, odds, identity, event, yardstick } = observed;
        if !odds.is_fair() {
            return;
        }
        match event {
            Event::Answered { outcome: Outcome::Good, .. } => self.errors.add(arm, false, odds, identity),
            Event::Answered { outcome: Outcome::Bad, .. } | Event::Broke => {
                self.errors.add(arm, true, odds, identity);
            }
            Event::Answered { .. } | Event::Completed => {}
        }
        if let (Event::Answered { latency: Some(latency), .. }, Some(yardstick)) = (event, yardstick) {
            self.slow.add(arm, latency > yardstick, odds, identity);
        }
    }

    /// Returns whether nothing bad is held back.
    pub fn is_quiet(&self) -> bool {
        self.errors.is_quiet() && self.slow.is_quiet()
    }

    /// Returns whether it should be merged at once.
    pub fn is_full(&self) -> bool {
        self.errors.is_full() || self.slow.is_full()
    }

    /// Forgets all outcomes: they were merged, or are not needed.
    pub fn clear(&mut self) {
        *self = Pending::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guard;

    fn event(arm: Arm, identity: u64) -> Pending {
        let mut pending = Pending::default();
        let event = Event::Answered { outcome: Outcome::Bad, latency: Some(Span(9_000)) };
        let odds = Odds { canary: 500, stable: 9_500 };
        pending.add(Observed { arm, odds, identity: Some(identity), event, yardstick: Some(Span(5_000)) });
        pending
    }

    /// Makes the longest record: sixteen clients that fail again and again, in every sketch.
    fn full() -> Comparison {
        let (mut comparison, compare) = (Comparison::new(3), guard().compare.unwrap());
        for n in 0..400u64 {
            comparison.merge(&event(Arm::Canary, (n % 16).wrapping_mul(0x9e37_79b9_7f4a_7c15)), &compare);
            if n % 4 == 0 {
                comparison.merge(&event(Arm::Stable, n), &compare);
            }
        }
        comparison
    }

    #[test]
    fn a_record_comes_back_from_its_bytes_and_no_part_of_them_decodes() {
        for comparison in [Comparison::new(3), full()] {
            let bytes = comparison.encode();
            assert!(matches!(Comparison::decode(Some(&bytes)), Found::Value(back) if back == comparison));
            for cut in 1..bytes.len() {
                assert!(matches!(Comparison::decode(Some(&bytes[..cut])), Found::Undecodable), "{cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(matches!(Comparison::decode(Some(&longer)), Found::Undecodable));
        }
    }

    #[test]
    fn a_record_is_small() {
        assert_eq!(Comparison::new(3).encode().len(), 26);
        assert!(full().encode().len() < 540, "{} bytes", full().encode().len());
    }

    #[test]
    fn other_layouts_are_undecodable() {
        let mut bytes = Comparison::new(3).encode();
        for schema in (0..=u8::MAX).filter(|schema| *schema != COMPARISON_SCHEMA) {
            bytes[0] = schema;
            assert!(matches!(Comparison::decode(Some(&bytes)), Found::Undecodable), "{schema}");
        }
    }
}
