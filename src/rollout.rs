//! Where a version stands: its phase, and how events move it.
//!
//! Every (phase × event) pair is defined, transitions are total and idempotent, and each standing carries an epoch that
//! moves on whenever the version's right to traffic changes. A request remembers the epoch it was assigned under; a result
//! of another epoch decides nothing. Stable always stands in [`Phase::Active`].

use crate::codec::{Reader, TOMBSTONE, Writer};
use crate::stats::Found;
use crate::units::{Micros, Millis, UnixMillis};

/// Longest reason kept, in bytes.
const REASON_BYTES: usize = 400;
/// Most versions a record may hold: those of a plan, and as many that an older plan of the release still knows.
const VERSIONS: usize = 64;

/// Why and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Label of the limit, or `operator`.
    pub label: String,
    /// In words, with the numbers.
    pub text: String,
    /// For deadlines.
    pub since: Micros,
    /// For people.
    pub wall: UnixMillis,
}

/// Phase of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Gets its share.
    Active,
    /// Gets its share, but a limit is broken for which stable is no better: nothing advances.
    Holding(Cause),
    /// Gets nothing (rules with `keep` apart).
    RolledBack(Cause),
}

impl Phase {
    /// The name in status, events and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Phase::Active => "active",
            Phase::Holding(_) => "holding",
            Phase::RolledBack(_) => "rolled_back",
        }
    }

    /// Value of the phase gauge: 0 active, 1 holding, 3 rolled back.
    pub const fn gauge(&self) -> u64 {
        match self {
            Phase::Active => 0,
            Phase::Holding(_) => 1,
            Phase::RolledBack(_) => 3,
        }
    }
}

/// What may happen to a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A verdict: its fault.
    Fail(Cause),
    /// A verdict: its fault, in observe mode.
    WouldFail(Cause),
    /// A verdict: stable has the same trouble.
    Shared(Cause),
    /// A verdict: nothing is broken, judged over `window`.
    Pass {
        /// Now.
        now: Micros,
        /// Length of the guard's window.
        window: Millis,
    },
}

/// A version's standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Moves on whenever the right to traffic changes.
    pub epoch: u32,
    /// The phase.
    pub phase: Phase,
    /// In observe mode: that it would have been rolled back has been reported in this epoch.
    pub observed: bool,
}

impl Standing {
    /// As a version begins.
    pub const NEW: Standing = Standing { epoch: 0, phase: Phase::Active, observed: false };

    /// Whether the split may send it traffic.
    pub fn available(&self) -> bool {
        !matches!(self.phase, Phase::RolledBack(_))
    }

    /// Where a signal leads; `None` if it changes nothing.
    pub fn on(&self, signal: &Signal) -> Option<Standing> {
        match (&self.phase, signal) {
            (Phase::Active | Phase::Holding(_), Signal::Fail(cause)) => Some(Standing {
                epoch: self.epoch.saturating_add(1),
                phase: Phase::RolledBack(cause.clone()),
                observed: false,
            }),
            (Phase::Active | Phase::Holding(_), Signal::WouldFail(_)) => {
                (!self.observed).then(|| Standing { observed: true, ..self.clone() })
            }
            (Phase::Active, Signal::Shared(cause)) => {
                Some(Standing { phase: Phase::Holding(cause.clone()), ..self.clone() })
            }
            // Held for a whole window at least: at the edge of a limit the phase would flicker otherwise.
            (Phase::Holding(cause), Signal::Pass { now, window })
                if now.since(cause.since) >= window.as_micros() =>
            {
                Some(Standing { phase: Phase::Active, ..self.clone() })
            }
            (Phase::Holding(_), Signal::Shared(_) | Signal::Pass { .. })
            | (Phase::Active, Signal::Pass { .. })
            | (Phase::RolledBack(_), _) => None,
        }
    }
}

/// The shared record: standings by version id. A version it does not name stands as new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standings(pub Vec<(String, Standing)>);

impl Standings {
    /// The standing of a version, if the record names it.
    pub fn get(&self, version: &str) -> Option<&Standing> {
        self.0.iter().find(|(id, _)| id == version).map(|(_, standing)| standing)
    }

    /// Replaces or adds a standing; beyond the bound nothing is added and `false` returned.
    pub fn put(&mut self, version: &str, standing: Standing) -> bool {
        let full = self.0.len() >= VERSIONS;
        match self.0.iter_mut().find(|(id, _)| id == version) {
            Some((_, held)) => *held = standing,
            None if full => return false,
            None => self.0.push((version.to_owned(), standing)),
        }
        true
    }

    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::try_from(self.0.len()).unwrap_or(0));
        for (id, standing) in &self.0 {
            w.text(id);
            w.number(u64::from(standing.epoch));
            w.number(u64::from(standing.observed));
            w.number(standing.phase.gauge());
            if let Phase::Holding(cause) | Phase::RolledBack(cause) = &standing.phase {
                w.text(&cause.label);
                w.text(shortened(&cause.text));
                w.number(cause.since.0);
                w.number(cause.wall.0);
            }
        }
        w.finish()
    }

    /// From bytes; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Standings> {
        match bytes {
            None | Some(TOMBSTONE) => Found::Nothing,
            Some(bytes) => read_standings(bytes).map_or(Found::Undecodable, Found::Value),
        }
    }
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(REASON_BYTES)).unwrap_or("")
}

fn read_standings(bytes: &[u8]) -> Option<Standings> {
    let mut r = Reader::new(bytes)?;
    let count = r.count(VERSIONS)?;
    let mut standings = Vec::with_capacity(count);
    for _ in 0..count {
        let id = r.text(64)?;
        let epoch = r.small()?;
        let observed = match r.number()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let phase = match r.number()? {
            0 => Phase::Active,
            1 => Phase::Holding(read_cause(&mut r)?),
            3 => Phase::RolledBack(read_cause(&mut r)?),
            _ => return None,
        };
        standings.push((id, Standing { epoch, phase, observed }));
    }
    r.end()?;
    Some(Standings(standings))
}

fn read_cause(r: &mut Reader<'_>) -> Option<Cause> {
    Some(Cause {
        label: r.text(64)?,
        text: r.text(REASON_BYTES)?,
        since: Micros(r.number()?),
        wall: UnixMillis(r.number()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(since: u64) -> Cause {
        Cause {
            label: "error_rate".to_owned(),
            text: "10 of 41 failed".to_owned(),
            since: Micros(since),
            wall: UnixMillis(1_795_000_000_000),
        }
    }

    fn standing(phase: Phase) -> Standing {
        Standing { epoch: 4, phase, observed: false }
    }

    #[test]
    fn every_pair_of_phase_and_signal_is_defined() {
        let pass = |now| Signal::Pass { now: Micros(now), window: Millis(1000) };
        let phases = [Phase::Active, Phase::Holding(cause(0)), Phase::RolledBack(cause(0))];
        let signals = [
            Signal::Fail(cause(9)),
            Signal::WouldFail(cause(9)),
            Signal::Shared(cause(9)),
            pass(999_999),
            pass(1_000_000),
        ];
        let expected = [
            [Some("rolled_back"), Some("active"), Some("holding"), None, None],
            [Some("rolled_back"), Some("holding"), None, None, Some("active")],
            [None, None, None, None, None],
        ];
        for (phase, row) in phases.iter().zip(expected) {
            for (signal, to) in signals.iter().zip(row) {
                let next = standing(phase.clone()).on(signal);
                assert_eq!(next.as_ref().map(|s| s.phase.name()), to, "{} on {signal:?}", phase.name());
                // Once applied, the same signal changes nothing more.
                if let Some(next) = next {
                    assert_eq!(next.on(signal), None, "{} on {signal:?} twice", phase.name());
                }
            }
        }
    }

    #[test]
    fn the_epoch_moves_on_when_the_right_to_traffic_changes_and_only_then() {
        let active = standing(Phase::Active);
        assert_eq!(active.on(&Signal::Fail(cause(0))).unwrap().epoch, 5);
        assert_eq!(active.on(&Signal::Shared(cause(0))).unwrap().epoch, 4);
        assert_eq!(active.on(&Signal::WouldFail(cause(0))).unwrap().epoch, 4);
    }

    #[test]
    fn records_come_back_from_their_bytes() {
        let mut all = Standings::default();
        assert!(all.put("v2", standing(Phase::RolledBack(cause(77)))));
        assert!(all.put("v3", standing(Phase::Holding(cause(5)))));
        assert!(all.put("v4", Standing { observed: true, ..Standing::NEW }));
        assert!(matches!(Standings::decode(Some(&all.encode())), Found::Value(back) if back == all));
        assert!(matches!(Standings::decode(Some(&[1, 9])), Found::Undecodable));
        assert!(matches!(Standings::decode(Some(TOMBSTONE)), Found::Nothing));
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let mut long = cause(0);
        long.text = "ä".repeat(500);
        let mut all = Standings::default();
        all.put("v2", standing(Phase::RolledBack(long)));
        let Found::Value(back) = Standings::decode(Some(&all.encode())) else { panic!("undecodable") };
        assert!(matches!(&back.get("v2").unwrap().phase, Phase::RolledBack(c) if c.text == "ä".repeat(200)));
    }
}
