//! Warnings: conditions that reject nothing and lose something in silence. All workers of an Envoy share one list of them.
//!
//! A worker that finds a condition *holds* its warning, again and again for as long as the condition lasts. A warning that nobody
//! has held for [`LEASE`] has ended. It stays in the list for another `MEMORY`, so that every worker, also one of a new module,
//! can take it back from the metrics.

use serde::{Deserialize, Serialize};

use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Micros, Now, Span, UnixMillis};

/// A warning that nobody has held for this long (5 s) has ended.
pub const LEASE: Span = Span::from_secs(5);
/// An ended warning is remembered for this long (60 s).
const MEMORY: Span = Span::from_secs(60);
/// Most warnings in the list. Further ones are counted as dropped events.
pub const WARNINGS_MAX: usize = 32;
/// Longest text of a warning, in bytes.
pub const TEXT_BYTES: usize = 400;
/// Longest name of a deployment or version, in bytes.
const NAME_BYTES: usize = 255;

/// The condition that a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The configuration needs a `keys` role, and this VM has none.
    KeysRoleMissing,
    /// Two documents have a deployment of this name, and share its state.
    DuplicateDeployment,
    /// A limit on the error rate is so low that a fraction was probably meant.
    LowErrorRate,
    /// No limit of a guard can break at the traffic seen, and neither can the comparison decide.
    GuardCannotFire,
    /// Limits of a guard cannot break at the traffic seen; something else still can.
    LimitsCannotFire,
    /// Envoy's circuit breaker refuses requests of a version.
    BreakerOpen,
}

impl Condition {
    /// All conditions, in the order of their numbers in shared data.
    pub const ALL: [Condition; 6] = [
        Condition::KeysRoleMissing,
        Condition::DuplicateDeployment,
        Condition::LowErrorRate,
        Condition::GuardCannotFire,
        Condition::LimitsCannotFire,
        Condition::BreakerOpen,
    ];

    /// Returns the word for it in metrics, events and status: one of a fixed set.
    pub const fn label(self) -> &'static str {
        match self {
            Condition::KeysRoleMissing => "keys_role_missing",
            Condition::DuplicateDeployment => "duplicate_deployment",
            Condition::LowErrorRate => "low_error_rate",
            Condition::GuardCannotFire => "guard_cannot_fire",
            Condition::LimitsCannotFire => "limits_cannot_fire",
            Condition::BreakerOpen => "breaker_open",
        }
    }
}

/// A warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The condition.
    pub condition: Condition,
    /// Name of the deployment; empty if it is about none.
    pub deployment: String,
    /// Id of the version; empty if it is about none.
    pub version: String,
    /// The condition, its consequence and its cure in one sentence, of at most [`TEXT_BYTES`].
    pub text: String,
}

impl Warning {
    /// Makes a warning; a text that is too long is cut.
    pub fn new(condition: Condition, deployment: &str, version: &str, mut text: String) -> Warning {
        text.truncate(text.floor_char_boundary(TEXT_BYTES));
        Warning { condition, deployment: deployment.to_owned(), version: version.to_owned(), text }
    }

    /// Returns whether two warnings are about the same condition of the same thing, in whatever words.
    fn is_about(&self, other: &Warning) -> bool {
        self.condition == other.condition
            && self.deployment == other.deployment
            && self.version == other.version
    }
}

/// A warning of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The warning.
    pub warning: Warning,
    /// Time at which it was held first.
    pub since: UnixMillis,
    /// Moment at which it ends unless it is held again.
    until: Micros,
}

impl Held {
    /// Returns whether the condition lasts.
    pub fn stands(&self, now: Micros) -> bool {
        now < self.until
    }
}

/// The result of holding a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// It is new: this worker has to publish it.
    Begun,
    /// It was held before, and the list was changed.
    Renewed,
    /// It was held a moment ago, and the list was not changed.
    Unchanged,
    /// The list is full.
    NoRoom,
}

/// The list of warnings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings(Vec<Held>);

impl Warnings {
    /// Holds a warning for another [`LEASE`].
    pub fn hold(&mut self, warning: &Warning, now: Now) -> Holding {
        let until = now.mono.plus(LEASE);
        let Some(held) = self.0.iter_mut().find(|held| held.warning.is_about(warning)) else {
            self.0.retain(|held| now.mono < held.until.plus(MEMORY));
            if self.0.len() >= WARNINGS_MAX {
                return Holding::NoRoom;
            }
            self.0.push(Held { warning: warning.clone(), since: now.wall, until });
            return Holding::Begun;
        };
        if !held.stands(now.mono) {
            *held = Held { warning: warning.clone(), since: now.wall, until };
            return Holding::Begun;
        }
        // To write a half of the lease before its end is soon enough.
        if held.until.since(now.mono).0 > LEASE.0 / 2 {
            return Holding::Unchanged;
        }
        held.until = until;
        held.warning.text.clone_from(&warning.text);
        Holding::Renewed
    }

    /// Returns all warnings, ended ones included, in the order in which they began.
    pub fn all(&self) -> &[Held] {
        &self.0
    }

    /// Encodes the list.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::try_from(self.0.len()).unwrap_or(0));
        for Held { warning, since, until } in &self.0 {
            let at = Condition::ALL.iter().position(|known| *known == warning.condition);
            w.number(u64::try_from(at.unwrap_or(0)).unwrap_or(0));
            [&warning.deployment, &warning.version, &warning.text].into_iter().for_each(|text| w.text(text));
            w.number(since.0);
            w.number(until.0);
        }
        w.finish()
    }

    /// Decodes a list; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Warnings> {
        Found::read(bytes, read)
    }
}

fn read(bytes: &[u8]) -> Option<Warnings> {
    let mut r = Reader::new(bytes)?;
    let count = r.count(WARNINGS_MAX)?;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let condition = *Condition::ALL.get(r.small::<usize>()?)?;
        let (deployment, version) = (r.text(NAME_BYTES)?, r.text(NAME_BYTES)?);
        let warning = Warning { condition, deployment, version, text: r.text(TEXT_BYTES)? };
        all.push(Held { warning, since: UnixMillis(r.number()?), until: Micros(r.number()?) });
    }
    r.end()?;
    Some(Warnings(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: Micros(seconds * 1_000_000), wall: UnixMillis(seconds * 1000) }
    }

    fn warning(deployment: &str, text: &str) -> Warning {
        Warning::new(Condition::BreakerOpen, deployment, "v2", text.to_owned())
    }

    fn standing(warnings: &Warnings, now: Now) -> Vec<(&str, &str, u64)> {
        let standing = warnings.all().iter().filter(|held| held.stands(now.mono));
        standing.map(|h| (h.warning.deployment.as_str(), h.warning.text.as_str(), h.since.0)).collect()
    }

    #[test]
    fn a_warning_stands_while_somebody_holds_it_and_begins_once() {
        let mut warnings = Warnings::default();
        assert_eq!(warnings.hold(&warning("d", "first"), at(100)), Holding::Begun);
        assert_eq!(warnings.hold(&warning("d", "second"), at(101)), Holding::Unchanged);
        assert_eq!(standing(&warnings, at(102)), [("d", "first", 100_000)]);
        assert_eq!(warnings.hold(&warning("d", "third"), at(103)), Holding::Renewed);
        assert_eq!(standing(&warnings, at(107)), [("d", "third", 100_000)]);
        assert_eq!(standing(&warnings, at(108)), []);
        assert_eq!(warnings.all().len(), 1, "remembered, to be taken back from the metrics");
        assert_eq!(warnings.hold(&warning("d", "again"), at(110)), Holding::Begun);
        assert_eq!(standing(&warnings, at(110)), [("d", "again", 110_000)]);
    }

    #[test]
    fn an_ended_warning_is_forgotten_after_a_minute_and_makes_room() {
        let mut warnings = Warnings::default();
        for n in 0..WARNINGS_MAX {
            assert_eq!(warnings.hold(&warning(&format!("d{n}"), ""), at(100)), Holding::Begun);
        }
        assert_eq!(warnings.hold(&warning("more", ""), at(101)), Holding::NoRoom);
        assert_eq!(warnings.hold(&warning("more", ""), at(164)), Holding::NoRoom);
        assert_eq!(warnings.hold(&warning("more", ""), at(165)), Holding::Begun);
        assert_eq!(warnings.all().len(), 1);
    }

    #[test]
    fn the_list_comes_back_from_its_bytes_and_no_other_bytes_are_one() {
        let mut warnings = Warnings::default();
        for (n, condition) in Condition::ALL.into_iter().enumerate() {
            let warning = Warning::new(condition, &format!("d{n}"), "", "ä".repeat(500));
            assert!(warning.text.len() <= TEXT_BYTES && !warning.text.is_empty());
            assert_eq!(warnings.hold(&warning, at(7)), Holding::Begun);
        }
        let bytes = warnings.encode();
        assert!(matches!(Warnings::decode(Some(&bytes)), Found::Value(back) if back == warnings));
        for end in 0..bytes.len() {
            assert!(!matches!(Warnings::decode(Some(&bytes[..end])), Found::Value(_)), "{end} bytes");
        }
        assert!(matches!(Warnings::decode(None), Found::Nothing));
    }
}
