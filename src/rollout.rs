//! Where a version stands: its phase, and how signals move it.
//!
//! ```text
//!            shared trouble                    fault                      a probe is due
//!   active ◀───────────────▶ holding    any ─────────▶ rolled back ◀───────────────▶ probing ──▶ active
//!            a window without                                        a probe failed          enough passed
//! ```
//!
//! Every (phase × signal) pair is defined, and each standing carries an epoch that moves on whenever the version's right to
//! traffic changes. A request remembers the epoch it was assigned under; a result of another epoch decides nothing: calls that
//! began before a rollback end during the probing after it, and must not fail it. Stable always stands in [`Phase::Active`].
//!
//! An operator may put a canary out by hand and bring it back. What was put out by hand, or was out already when the operator
//! said so, is latched: it is not probed, whatever `recovery` says, until an operator resumes it or the release changes.

pub mod ramp; // the position in a ramp, and the start of the next stage
pub mod standings; // the shared record of a release: phases of its versions, position of its ramp

use serde::{Deserialize, Serialize};

use crate::plan::guard::{Probe, Recovery};
use crate::time::{Micros, Millis, UnixMillis};

/// How long a probe may keep its place: a worker that dies with a probe in flight gives it back after this. Longer than all
/// but the longest streams; a probe that outlives it counts for nothing.
pub const LEASE: Millis = Millis(300_000);

/// Label of what an operator did by hand.
pub const OPERATOR: &str = "operator";

/// Why and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Label of the limit, of the comparison, or `operator`.
    pub label: String,
    /// In words, with the numbers.
    pub text: String,
    /// For deadlines.
    pub since: Micros,
    /// For people.
    pub wall: UnixMillis,
}

impl Cause {
    /// It was an operator's doing.
    pub fn by_operator(&self) -> bool {
        self.label == OPERATOR
    }
}

/// A probe in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Names it.
    pub id: u64,
    /// When its place is given back.
    pub until: Micros,
}

/// Phase of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Gets its share.
    Active,
    /// Gets its share, but a limit is broken for which stable is no better: nothing advances.
    Holding(Cause),
    /// Gets nothing (rules with `keep` apart).
    RolledBack {
        /// Why.
        cause: Cause,
        /// Rounds of probing that have failed since: the wait doubles with each.
        failed_rounds: u32,
        /// When probing begins; `None` under `recovery: hold`.
        probe_at: Option<Micros>,
    },
    /// Gets single requests of its share, to see whether it has recovered.
    Probing {
        /// Why it was rolled back.
        cause: Cause,
        /// As above.
        failed_rounds: u32,
        /// Probes that went well.
        passed: u32,
        /// Probes in flight.
        leases: Vec<Lease>,
    },
}

impl Phase {
    /// The phase without its contents.
    pub const fn kind(&self) -> PhaseKind {
        match self {
            Phase::Active => PhaseKind::Active,
            Phase::Holding(_) => PhaseKind::Holding,
            Phase::RolledBack { .. } => PhaseKind::RolledBack,
            Phase::Probing { .. } => PhaseKind::Probing,
        }
    }

    /// Value of the phase gauge: 0 active, 1 holding, 2 probing, 3 rolled back.
    pub const fn gauge(&self) -> u64 {
        match self {
            Phase::Active => 0,
            Phase::Holding(_) => 1,
            Phase::Probing { .. } => 2,
            Phase::RolledBack { .. } => 3,
        }
    }

    /// Why it is not active.
    pub const fn cause(&self) -> Option<&Cause> {
        match self {
            Phase::Active => None,
            Phase::Holding(cause) | Phase::RolledBack { cause, .. } | Phase::Probing { cause, .. } => {
                Some(cause)
            }
        }
    }
}

/// The phases of a canary by name, without their contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    /// [`Phase::Active`].
    Active,
    /// [`Phase::Holding`].
    Holding,
    /// [`Phase::RolledBack`].
    RolledBack,
    /// [`Phase::Probing`].
    Probing,
}

impl PhaseKind {
    /// The name in status, events and logs.
    pub const fn name(self) -> &'static str {
        match self {
            PhaseKind::Active => "active",
            PhaseKind::Holding => "holding",
            PhaseKind::RolledBack => "rolled_back",
            PhaseKind::Probing => "probing",
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
    /// A verdict: stable has the same trouble, in observe mode.
    WouldHold(Cause),
    /// A verdict: nothing is broken, judged over `window`.
    Pass {
        /// Now.
        now: Micros,
        /// Length of the guard's window.
        window: Millis,
    },
    /// Time has passed.
    Time(Micros),
    /// A request of its share asks to be a probe.
    Ask(Lease, Micros),
    /// A probe is over: well, badly, or without saying anything. Badly carries what went wrong.
    Probed(u64, Result<bool, Cause>),
    /// An operator puts the canary out.
    Latch(Cause),
    /// An operator brings it back.
    Resume(Cause),
}

/// How the deployment wants to recover, with chance for the jitter: what a transition depends on besides the signal.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// From the plan.
    pub recovery: Recovery,
    /// 64 random bits.
    pub random: u64,
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
    /// Likewise, that it would have been held.
    pub observed_hold: bool,
}

impl Standing {
    /// As a version begins.
    pub const NEW: Standing =
        Standing { epoch: 0, phase: Phase::Active, observed: false, observed_hold: false };

    /// Where a signal leads; `None` if it changes nothing.
    pub fn on(&self, signal: &Signal, rules: Rules) -> Option<Standing> {
        match (&self.phase, signal) {
            (Phase::Active | Phase::Holding(_), Signal::Fail(cause)) => Some(self.out(cause, 0, rules)),
            (Phase::Active | Phase::Holding(_), Signal::WouldFail(_)) => {
                (!self.observed).then(|| Standing { observed: true, ..self.clone() })
            }
            // What is held already, since before the mode was changed, needs no report.
            (Phase::Active, Signal::WouldHold(_)) => {
                (!self.observed_hold).then(|| Standing { observed_hold: true, ..self.clone() })
            }
            (Phase::Active, Signal::Shared(cause)) => Some(self.within(Phase::Holding(cause.clone()))),
            // Held for a whole window at least: at the edge of a limit the phase would flicker otherwise.
            (Phase::Holding(cause), Signal::Pass { now, window })
                if now.since(cause.since) >= window.span() =>
            {
                Some(self.within(Phase::Active))
            }
            (Phase::RolledBack { cause, failed_rounds, probe_at }, Signal::Time(now))
                if !cause.by_operator() =>
            {
                let Recovery::Probe(probe) = rules.recovery else { return None };
                // Rolled back under `hold`, which has been changed since: as if it had been `probe` all along.
                let due = probe_at.unwrap_or_else(|| cause.since.plus(probe.after));
                (*now >= due).then(|| {
                    self.next(Phase::Probing {
                        cause: cause.clone(),
                        failed_rounds: *failed_rounds,
                        passed: 0,
                        leases: Vec::new(),
                    })
                })
            }
            (Phase::Probing { cause, failed_rounds, .. }, Signal::Time(_)) => match rules.recovery {
                Recovery::Probe(_) => None,
                Recovery::Hold => Some(self.out(cause, *failed_rounds, rules)),
            },
            (Phase::Probing { failed_rounds, .. }, Signal::Fail(cause) | Signal::Probed(_, Err(cause))) => {
                Some(self.out(cause, failed_rounds.saturating_add(1), rules))
            }
            (Phase::Active | Phase::Holding(_) | Phase::Probing { .. }, Signal::Latch(cause)) => {
                Some(self.latched(cause))
            }
            // Out already: the same right to traffic, which is none.
            (Phase::RolledBack { cause: held, .. }, Signal::Latch(cause)) if !held.by_operator() => {
                let text = [&cause.text, "; it was out: ", &held.text].concat();
                Some(Standing {
                    epoch: self.epoch,
                    ..self.latched(&Cause { label: cause.label.clone(), text, ..held.clone() })
                })
            }
            (Phase::Holding(_) | Phase::RolledBack { .. } | Phase::Probing { .. }, Signal::Resume(_)) => {
                Some(self.next(Phase::Active))
            }
            (Phase::Probing { .. }, Signal::Ask(lease, now)) => self.lend(*lease, *now, rules),
            (Phase::Probing { .. }, Signal::Probed(id, Ok(good))) => self.give_back(*id, *good, rules),
            (Phase::Holding(_), Signal::Shared(_) | Signal::WouldHold(_) | Signal::Pass { .. })
            | (Phase::Active, Signal::Pass { .. })
            | (Phase::Active | Phase::Holding(_), Signal::Time(_) | Signal::Ask(..) | Signal::Probed(..))
            | (
                Phase::Probing { .. },
                Signal::WouldFail(_) | Signal::Shared(_) | Signal::WouldHold(_) | Signal::Pass { .. },
            )
            | (Phase::Active, Signal::Resume(_))
            | (Phase::RolledBack { .. }, _) => None,
        }
    }

    /// The same right to traffic, another phase.
    fn within(&self, phase: Phase) -> Standing {
        Standing { phase, ..self.clone() }
    }

    /// Another right to traffic.
    fn next(&self, phase: Phase) -> Standing {
        Standing { epoch: self.epoch.saturating_add(1), phase, ..Standing::NEW }
    }

    fn out(&self, cause: &Cause, failed_rounds: u32, rules: Rules) -> Standing {
        let probe_at = match rules.recovery {
            Recovery::Hold => None,
            Recovery::Probe(probe) => Some(cause.since.plus(wait(probe, failed_rounds, rules.random))),
        };
        self.next(Phase::RolledBack { cause: cause.clone(), failed_rounds, probe_at })
    }

    /// Out until an operator says otherwise.
    fn latched(&self, cause: &Cause) -> Standing {
        self.next(Phase::RolledBack { cause: cause.clone(), failed_rounds: 0, probe_at: None })
    }

    /// Gives a request a place as a probe, if one is free.
    fn lend(&self, lease: Lease, now: Micros, rules: Rules) -> Option<Standing> {
        let (Phase::Probing { cause, failed_rounds, passed, leases }, Recovery::Probe(probe)) =
            (&self.phase, rules.recovery)
        else {
            return None;
        };
        let mut leases: Vec<Lease> = leases.iter().filter(|held| held.until > now).copied().collect();
        let full = u32::try_from(leases.len()).map_or(true, |n| n >= probe.max_in_flight);
        if full {
            return None;
        }
        leases.push(lease);
        Some(self.within(Phase::Probing {
            cause: cause.clone(),
            failed_rounds: *failed_rounds,
            passed: *passed,
            leases,
        }))
    }

    /// A probe is over without harm. One whose place was already given back counts for nothing.
    fn give_back(&self, id: u64, good: bool, rules: Rules) -> Option<Standing> {
        let Phase::Probing { cause, failed_rounds, passed, leases } = &self.phase else { return None };
        if !leases.iter().any(|lease| lease.id == id) {
            return None;
        }
        let passed = passed.saturating_add(u32::from(good));
        let enough = match rules.recovery {
            Recovery::Probe(probe) => passed >= probe.successes,
            Recovery::Hold => false,
        };
        if enough {
            return Some(self.next(Phase::Active));
        }
        Some(self.within(Phase::Probing {
            cause: cause.clone(),
            failed_rounds: *failed_rounds,
            passed,
            leases: leases.iter().filter(|lease| lease.id != id).copied().collect(),
        }))
    }
}

/// The wait before probing: doubled with every failed round up to `max_after`, then shortened by up to a fifth at random, so
/// that many Envoys which were rolled back together do not probe together.
fn wait(probe: Probe, failed_rounds: u32, random: u64) -> Millis {
    let doubled = probe.after.0.saturating_mul(1u64.checked_shl(failed_rounds.min(40)).unwrap_or(u64::MAX));
    let nominal = doubled.min(probe.max_after.0);
    let jitter = nominal.saturating_mul(random % 201).checked_div(1000).unwrap_or(0);
    Millis(nominal.saturating_sub(jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const PROBE: Probe =
        Probe { after: Millis(30_000), max_after: Millis(600_000), max_in_flight: 2, successes: 3 };

    fn cause(since: u64) -> Cause {
        Cause {
            label: "error_rate".to_owned(),
            text: "10 of 41 failed".to_owned(),
            since: Micros(since),
            wall: UnixMillis(1_795_000_000_000),
        }
    }

    fn standing(phase: Phase) -> Standing {
        Standing { epoch: 4, phase, ..Standing::NEW }
    }

    fn out(failed_rounds: u32, probe_at: Option<u64>) -> Phase {
        Phase::RolledBack { cause: cause(0), failed_rounds, probe_at: probe_at.map(Micros) }
    }

    fn by_hand(since: u64) -> Cause {
        Cause { label: OPERATOR.to_owned(), text: "looks wrong".to_owned(), ..cause(since) }
    }

    fn latched() -> Phase {
        Phase::RolledBack { cause: by_hand(0), failed_rounds: 0, probe_at: None }
    }

    fn probing(passed: u32, leases: &[(u64, u64)]) -> Phase {
        let leases = leases.iter().map(|(id, until)| Lease { id: *id, until: Micros(*until) }).collect();
        Phase::Probing { cause: cause(0), failed_rounds: 1, passed, leases }
    }

    fn rules(recovery: Recovery) -> Rules {
        Rules { recovery, random: 0 }
    }

    fn with_probes() -> Rules {
        rules(Recovery::Probe(PROBE))
    }

    #[test]
    fn every_pair_of_phase_and_signal_is_defined() {
        let pass = |now| Signal::Pass { now: Micros(now), window: Millis(1000) };
        let ask = Signal::Ask(Lease { id: 9, until: Micros(99) }, Micros(5));
        let signals = [
            Signal::Fail(cause(9)),
            Signal::WouldFail(cause(9)),
            Signal::Shared(cause(9)),
            Signal::WouldHold(cause(9)),
            pass(999_999),
            pass(1_000_000),
            Signal::Time(Micros(30 * SECOND - 1)),
            Signal::Time(Micros(30 * SECOND)),
            ask,
            Signal::Probed(7, Ok(true)),
            Signal::Probed(7, Ok(false)),
            Signal::Probed(7, Err(cause(9))),
            Signal::Probed(8, Ok(true)),
            Signal::Latch(by_hand(9)),
            Signal::Resume(by_hand(9)),
        ];
        let (r, a) = (Some(PhaseKind::RolledBack), Some(PhaseKind::Active));
        let (h, p) = (Some(PhaseKind::Holding), Some(PhaseKind::Probing));
        let n = None;
        type Row = [Option<PhaseKind>; 15];
        let table: [(Recovery, Phase, Row); 12] = {
            let (hold, probe) = (Recovery::Hold, Recovery::Probe(PROBE));
            [
                //                                fail obs shared obs pass pass time time ask  good neut bad  other latch resume
                (hold, Phase::Active, [r, a, h, a, n, n, n, n, n, n, n, n, n, r, n]),
                (probe, Phase::Active, [r, a, h, a, n, n, n, n, n, n, n, n, n, r, n]),
                (hold, Phase::Holding(cause(0)), [r, h, n, n, n, a, n, n, n, n, n, n, n, r, a]),
                (hold, out(0, None), [n, n, n, n, n, n, n, n, n, n, n, n, n, r, a]),
                (hold, out(0, Some(0)), [n, n, n, n, n, n, n, n, n, n, n, n, n, r, a]),
                (probe, out(0, None), [n, n, n, n, n, n, n, p, n, n, n, n, n, r, a]),
                (probe, out(0, Some(30 * SECOND)), [n, n, n, n, n, n, n, p, n, n, n, n, n, r, a]),
                (probe, probing(0, &[(7, 99)]), [r, n, n, n, n, n, n, n, p, p, p, r, n, r, a]),
                (probe, probing(2, &[(7, 99)]), [r, n, n, n, n, n, n, n, p, a, p, r, n, r, a]),
                (hold, probing(2, &[(7, 99)]), [r, n, n, n, n, n, r, r, n, p, p, r, n, r, a]),
                (probe, latched(), [n, n, n, n, n, n, n, n, n, n, n, n, n, n, a]),
                (hold, latched(), [n, n, n, n, n, n, n, n, n, n, n, n, n, n, a]),
            ]
        };
        for (recovery, phase, row) in table {
            for (signal, to) in signals.iter().zip(row) {
                let next = standing(phase.clone()).on(signal, rules(recovery));
                assert_eq!(next.map(|s| s.phase.kind()), to, "{recovery:?}: {phase:?} on {signal:?}");
            }
        }
    }

    #[test]
    fn a_fail_rolls_back_once_and_the_epoch_moves_on_with_the_right_to_traffic() {
        let active = standing(Phase::Active);
        let failed = active.on(&Signal::Fail(cause(0)), with_probes()).unwrap();
        assert_eq!(failed.epoch, 5);
        assert_eq!(failed.on(&Signal::Fail(cause(0)), with_probes()), None);
        assert_eq!(failed.on(&Signal::Time(Micros(30 * SECOND)), with_probes()).unwrap().epoch, 6);
        assert_eq!(active.on(&Signal::Shared(cause(0)), with_probes()).unwrap().epoch, 4);
        let told = active.on(&Signal::WouldFail(cause(0)), with_probes()).unwrap();
        assert_eq!((told.epoch, told.on(&Signal::WouldFail(cause(0)), with_probes())), (4, None), "once");
        let told = told.on(&Signal::WouldHold(cause(0)), with_probes()).unwrap();
        assert_eq!((told.epoch, told.on(&Signal::WouldHold(cause(0)), with_probes())), (4, None), "once");
        let last = standing(probing(2, &[(7, 99)])).on(&Signal::Probed(7, Ok(true)), with_probes()).unwrap();
        assert_eq!((last.epoch, last.phase), (5, Phase::Active));
    }

    #[test]
    fn what_an_operator_puts_out_is_out_in_the_same_epoch_if_it_was_and_comes_back_in_another() {
        let failed = standing(out(2, Some(0)));
        let held = failed.on(&Signal::Latch(by_hand(9)), with_probes()).unwrap();
        let reason = Cause { text: "looks wrong; it was out: 10 of 41 failed".to_owned(), ..by_hand(0) };
        let phase = Phase::RolledBack { cause: reason, failed_rounds: 0, probe_at: None };
        assert_eq!(
            held,
            Standing { epoch: 4, phase, ..Standing::NEW },
            "since it was put out, for both reasons"
        );
        let back = held.on(&Signal::Resume(by_hand(9)), with_probes()).unwrap();
        assert_eq!((back.epoch, back.phase), (5, Phase::Active));
        let probing = standing(probing(0, &[(7, 99)]));
        assert_eq!(probing.on(&Signal::Latch(by_hand(9)), with_probes()).unwrap().epoch, 5);
    }

    #[test]
    fn no_more_probes_are_lent_than_allowed_and_expired_ones_are_given_back() {
        let ask = |id, now| Signal::Ask(Lease { id, until: Micros(now + 100) }, Micros(now));
        let one = standing(probing(0, &[])).on(&ask(1, 0), with_probes()).unwrap();
        let two = one.on(&ask(2, 50), with_probes()).unwrap();
        assert_eq!(two.on(&ask(3, 99), with_probes()), None, "two are in flight");
        let three = two.on(&ask(3, 100), with_probes()).unwrap();
        assert_eq!(
            three.phase,
            probing(0, &[(2, 150), (3, 200)]),
            "the first was given back at its deadline"
        );
        assert_eq!(three.on(&Signal::Probed(1, Ok(true)), with_probes()), None, "and counts for nothing");
        assert_eq!(three.epoch, 4, "probing goes on");
    }

    #[test]
    fn every_end_of_a_probe_gives_its_place_back() {
        for (said, passed) in [(true, 1), (false, 0)] {
            let next = standing(probing(0, &[(7, 99)])).on(&Signal::Probed(7, Ok(said)), with_probes());
            assert_eq!(next.unwrap().phase, probing(passed, &[]));
        }
    }

    #[test]
    fn the_wait_doubles_with_every_failed_round_up_to_its_bound() {
        let mut s = standing(Phase::Active);
        let mut waits = Vec::new();
        s = s.on(&Signal::Fail(cause(0)), with_probes()).unwrap();
        for _ in 0..7 {
            let Phase::RolledBack { probe_at: Some(at), .. } = s.phase else { panic!("{s:?}") };
            waits.push(at.0 / SECOND);
            s = s.on(&Signal::Time(at), with_probes()).unwrap();
            s = s.on(&Signal::Probed(1, Err(cause(0))), with_probes()).unwrap();
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn jitter_shortens_the_wait_by_a_fifth_at_most() {
        for random in 0..1000 {
            let waited = wait(PROBE, 0, random).0;
            assert!((24_000..=30_000).contains(&waited), "{waited}");
        }
        assert_eq!(wait(PROBE, u32::MAX, u64::MAX).0.max(480_000), wait(PROBE, u32::MAX, u64::MAX).0);
    }
}
