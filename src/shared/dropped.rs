//! Counts of everything that a bound or a fault has dropped or put off. The adapter adds them to a metric.

use crate::shared::store::StoreError;

/// A kind of dropped or deferred work. Each is a label of `bellwether_dropped_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Outcomes of an older epoch: counted in metrics, decide nothing.
    LateResult,
    /// Merges put off because other workers interfered too often; the counts are kept for the next merge.
    MergeDeferred,
    /// A verdict put off for the same reason; the next merge judges again.
    VerdictDeferred,
    /// Outcomes of attempts that did not reach the state of their key, because other workers interfered too often.
    KeyReport,
    /// Shared values that this build cannot read.
    Undecodable,
    /// Host calls refused.
    Refused,
    /// Uses of a value that was in use further up the stack; see [`crate::shared::cell`].
    Busy,
    /// Events that are in the log only: too long, or not to be written.
    Event,
    /// Alerts that could not be delivered.
    Alert,
    /// Attempts that were not made, because it is not known which provider's key they may carry.
    Attempt,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Dropped; 10] = [
        Dropped::LateResult,
        Dropped::MergeDeferred,
        Dropped::VerdictDeferred,
        Dropped::KeyReport,
        Dropped::Undecodable,
        Dropped::Refused,
        Dropped::Busy,
        Dropped::Event,
        Dropped::Alert,
        Dropped::Attempt,
    ];

    /// Returns the kind for an error of the store.
    pub const fn of(error: StoreError) -> Dropped {
        match error {
            StoreError::Mismatch => Dropped::MergeDeferred,
            StoreError::Refused => Dropped::Refused,
        }
    }

    /// Returns the label of the metric.
    pub const fn label(self) -> &'static str {
        match self {
            Dropped::LateResult => "late_result",
            Dropped::MergeDeferred => "merge_deferred",
            Dropped::VerdictDeferred => "verdict_deferred",
            Dropped::KeyReport => "key_report",
            Dropped::Undecodable => "undecodable",
            Dropped::Refused => "refused",
            Dropped::Busy => "busy",
            Dropped::Event => "event",
            Dropped::Alert => "alert",
            Dropped::Attempt => "attempt",
        }
    }
}

/// Counts by kind, for the adapter.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drops(pub Vec<(Dropped, u64)>);

impl Drops {
    /// Counts one.
    pub fn one(&mut self, what: Dropped) {
        self.many(what, 1);
    }

    /// Counts several. A count of 0 adds nothing.
    pub fn many(&mut self, what: Dropped, count: u64) {
        if count > 0 {
            self.0.push((what, count));
        }
    }
}
