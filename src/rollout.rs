//! The standing of a version: its phase, and how signals move it.
//!
//! ```text
//!            shared trouble                    fault                      a probe is due
//!   active ◀───────────────▶ holding    any ─────────▶ rolled back ◀───────────────▶ probing ──▶ active
//!            a window without                                        a probe failed          enough passed
//! ```
//!
//! Every (phase × signal) pair is defined. Each standing has an epoch, which goes up whenever the version's right to traffic
//! changes. A request keeps the epoch under which it was assigned, and a result of another epoch decides nothing: calls that
//! began before a rollback end during the probing after it, and must not fail it. Stable is always in [`Phase::Active`].
//!
//! An operator may take a canary out by hand and resume it. A canary that an operator takes out is latched, also if it was out
//! already: whatever `recovery` says, it is not probed until an operator resumes it or the release changes.

pub mod ramp; // the position in a ramp, and the start of the next stage
pub mod standings; // the shared record of a release: phases of its versions, position of its ramp

use serde::{Deserialize, Serialize};

use crate::plan::guard::{Probe, Recovery};
use crate::time::{Micros, Millis, UnixMillis};

/// Time for which a probe may keep its place. If a worker dies with a probe in flight, the place is free again after this. Only
/// the longest streams take longer; a probe that does counts for nothing.
pub const LEASE: Millis = Millis(300_000);

/// Label of an operator's orders.
pub const OPERATOR: &str = "operator";

/// The reason of a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Label of the limit, of the comparison, or `operator`.
    pub label: String,
    /// The reason in words, with its numbers.
    pub text: String,
    /// Time since which it holds, for deadlines.
    pub since: Micros,
    /// The same time, for people.
    pub wall: UnixMillis,
}

impl Cause {
    /// Returns whether an operator is the author.
    pub fn by_operator(&self) -> bool {
        self.label == OPERATOR
    }
}

/// A probe in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its id, drawn at random.
    pub id: u64,
    /// Time at which its place is free again.
    pub until: Micros,
}

/// The phase of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The canary gets its share.
    Active,
    /// The canary gets its share, but a limit is broken by which stable is no better. No stage ends.
    Holding(Cause),
    /// The canary gets nothing, except by rules with `keep`.
    RolledBack {
        /// The reason of the rollback.
        cause: Cause,
        /// Rounds of probing that have failed since. Each doubles the wait.
        failed_rounds: u32,
        /// Time at which probing begins; `None` under `recovery: hold`.
        probe_at: Option<Micros>,
    },
    /// The canary gets single requests of its share, which show whether it has recovered.
    Probing {
        /// The reason of the rollback.
        cause: Cause,
        /// Rounds of probing that have failed since.
        failed_rounds: u32,
        /// Probes that have passed in this round.
        passed: u32,
        /// Probes in flight.
        leases: Vec<Lease>,
    },
}

impl Phase {
    /// Returns the phase in which a version that was rolled back for `cause` is tried again.
    fn probing(cause: &Cause, failed_rounds: u32) -> Phase {
        Phase::Probing { cause: cause.clone(), failed_rounds, passed: 0, leases: Vec::new() }
    }

    /// Returns the phase without its contents.
    pub const fn kind(&self) -> PhaseKind {
        match self {
            Phase::Active => PhaseKind::Active,
            Phase::Holding(_) => PhaseKind::Holding,
            Phase::RolledBack { .. } => PhaseKind::RolledBack,
            Phase::Probing { .. } => PhaseKind::Probing,
        }
    }

    /// Returns the value of the phase gauge: 0 active, 1 holding, 2 probing, 3 rolled back.
    pub const fn gauge(&self) -> u64 {
        match self {
            Phase::Active => 0,
            Phase::Holding(_) => 1,
            Phase::Probing { .. } => 2,
            Phase::RolledBack { .. } => 3,
        }
    }

    /// Returns the reason why the canary is not active.
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
    /// Returns the name in status, events and logs.
    pub const fn name(self) -> &'static str {
        match self {
            PhaseKind::Active => "active",
            PhaseKind::Holding => "holding",
            PhaseKind::RolledBack => "rolled_back",
            PhaseKind::Probing => "probing",
        }
    }
}

/// An event that may move a canary to another phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Verdict: the canary is at fault.
    Fail(Cause),
    /// Verdict in observe mode: the canary is at fault.
    WouldFail(Cause),
    /// Verdict: stable has the same trouble.
    Shared(Cause),
    /// Verdict in observe mode: stable has the same trouble.
    WouldHold(Cause),
    /// Verdict: no limit is broken within `window`.
    Pass {
        /// Time of the verdict.
        now: Micros,
        /// Length of the guard's window.
        window: Millis,
    },
    /// The time is this.
    Time(Micros),
    /// A request of its share asks to be a probe.
    Ask(Lease, Micros),
    /// The probe with this id is over.
    Probed(u64, ProbeOutcome),
    /// An operator takes the canary out.
    Latch(Cause),
    /// An operator resumes the canary.
    Resume(Cause),
}

/// The outcome of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The version served it well.
    Passed,
    /// The version served it badly.
    Failed(Cause),
    /// It says nothing about the version.
    Inconclusive,
}

/// The rules of a transition: the deployment's recovery, and random bits for the jitter.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Recovery, from the plan.
    pub recovery: Recovery,
    /// 64 random bits.
    pub random: u64,
}

/// The standing of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Goes up whenever the right to traffic changes.
    pub epoch: u32,
    /// The phase.
    pub phase: Phase,
    /// Set in observe mode when a rollback that was not made has been reported in this epoch.
    pub observed: bool,
    /// Set in observe mode when a hold that was not made has been reported in this epoch.
    pub observed_hold: bool,
}

impl Standing {
    /// The standing of a new version.
    pub const NEW: Standing =
        Standing { epoch: 0, phase: Phase::Active, observed: false, observed_hold: false };

    /// Returns the standing after a signal; `None` if the signal changes nothing.
    pub fn on(&self, signal: &Signal, rules: Rules) -> Option<Standing> {
        match (&self.phase, signal) {
            (Phase::Active | Phase::Holding(_), Signal::Fail(cause)) => {
                Some(self.rolled_back(cause, 0, rules))
            }
            (Phase::Active | Phase::Holding(_), Signal::WouldFail(_)) => {
                (!self.observed).then(|| Standing { observed: true, ..self.clone() })
            }
            // A hold that began before the mode was changed needs no report.
            (Phase::Active, Signal::WouldHold(_)) => {
                (!self.observed_hold).then(|| Standing { observed_hold: true, ..self.clone() })
            }
            (Phase::Active, Signal::Shared(cause)) => Some(self.within(Phase::Holding(cause.clone()))),
            // A hold lasts a whole window at least. Otherwise the phase would flicker at the edge of a limit.
            (Phase::Holding(cause), Signal::Pass { now, window })
                if now.since(cause.since) >= window.span() =>
            {
                Some(self.within(Phase::Active))
            }
            (Phase::RolledBack { cause, failed_rounds, probe_at }, Signal::Time(now))
                if !cause.by_operator() =>
            {
                let Recovery::Probe(probe) = rules.recovery else { return None };
                // Rolled back under `hold`, which was changed since: the same as under `probe`.
                let due = probe_at.unwrap_or_else(|| cause.since.plus(probe.after));
                (*now >= due).then(|| self.next(Phase::probing(cause, *failed_rounds)))
            }
            (Phase::Probing { cause, failed_rounds, .. }, Signal::Time(_)) => match rules.recovery {
                Recovery::Probe(_) => None,
                Recovery::Hold => Some(self.rolled_back(cause, *failed_rounds, rules)),
            },
            (
                Phase::Probing { failed_rounds, .. },
                Signal::Fail(cause) | Signal::Probed(_, ProbeOutcome::Failed(cause)),
            ) => Some(self.rolled_back(cause, failed_rounds.saturating_add(1), rules)),
            (Phase::Active | Phase::Holding(_) | Phase::Probing { .. }, Signal::Latch(cause)) => {
                Some(self.latched(cause))
            }
            // Already rolled back: latch it, but keep the epoch, because its share does not change.
            (Phase::RolledBack { cause: held, .. }, Signal::Latch(cause)) if !held.by_operator() => {
                let text = [&cause.text, "; it was out: ", &held.text].concat();
                let cause = Cause { label: cause.label.clone(), text, ..held.clone() };
                Some(Standing { epoch: self.epoch, ..self.latched(&cause) })
            }
            (Phase::Holding(_) | Phase::RolledBack { .. } | Phase::Probing { .. }, Signal::Resume(_)) => {
                Some(self.next(Phase::Active))
            }
            (Phase::Probing { .. }, Signal::Ask(lease, now)) => self.lease(*lease, *now, rules),
            (Phase::Probing { .. }, Signal::Probed(id, outcome)) => {
                self.return_lease(*id, *outcome == ProbeOutcome::Passed, rules)
            }
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

    /// Returns this standing in another phase with the same right to traffic.
    fn within(&self, phase: Phase) -> Standing {
        Standing { phase, ..self.clone() }
    }

    /// Returns the next epoch, in a phase with another right to traffic.
    fn next(&self, phase: Phase) -> Standing {
        Standing { epoch: self.epoch.saturating_add(1), phase, ..Standing::NEW }
    }

    fn rolled_back(&self, cause: &Cause, failed_rounds: u32, rules: Rules) -> Standing {
        let probe_at = match rules.recovery {
            Recovery::Hold => None,
            Recovery::Probe(probe) => Some(cause.since.plus(probe_delay(probe, failed_rounds, rules.random))),
        };
        self.next(Phase::RolledBack { cause: cause.clone(), failed_rounds, probe_at })
    }

    /// Returns a rollback that only an operator ends.
    fn latched(&self, cause: &Cause) -> Standing {
        self.next(Phase::RolledBack { cause: cause.clone(), failed_rounds: 0, probe_at: None })
    }

    /// Gives a request a place as a probe if one is free.
    fn lease(&self, lease: Lease, now: Micros, rules: Rules) -> Option<Standing> {
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

    /// Ends a probe that has not failed. A probe that has lost its place before counts for nothing.
    fn return_lease(&self, id: u64, has_passed: bool, rules: Rules) -> Option<Standing> {
        let Phase::Probing { cause, failed_rounds, passed, leases } = &self.phase else { return None };
        if !leases.iter().any(|lease| lease.id == id) {
            return None;
        }
        let passed = passed.saturating_add(u32::from(has_passed));
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

/// Returns the wait before probing. Each failed round doubles it, up to `max_after`. Then it is shortened by up to a fifth at
/// random, so that many Envoys that have rolled back together do not probe together.
fn probe_delay(probe: Probe, failed_rounds: u32, random: u64) -> Millis {
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
            Signal::Probed(7, ProbeOutcome::Passed),
            Signal::Probed(7, ProbeOutcome::Inconclusive),
            Signal::Probed(7, ProbeOutcome::Failed(cause(9))),
            Signal::Probed(8, ProbeOutcome::Passed),
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
        let observed = active.on(&Signal::WouldFail(cause(0)), with_probes()).unwrap();
        assert_eq!(
            (observed.epoch, observed.on(&Signal::WouldFail(cause(0)), with_probes())),
            (4, None),
            "once"
        );
        let observed = observed.on(&Signal::WouldHold(cause(0)), with_probes()).unwrap();
        assert_eq!(
            (observed.epoch, observed.on(&Signal::WouldHold(cause(0)), with_probes())),
            (4, None),
            "once"
        );
        let last = standing(probing(2, &[(7, 99)]))
            .on(&Signal::Probed(7, ProbeOutcome::Passed), with_probes())
            .unwrap();
        assert_eq!((last.epoch, last.phase), (5, Phase::Active));
    }

    #[test]
    fn an_operator_latches_a_rollback_in_the_same_epoch_and_resumes_in_another() {
        let failed = standing(out(2, Some(0)));
        let held = failed.on(&Signal::Latch(by_hand(9)), with_probes()).unwrap();
        let reason = Cause { text: "looks wrong; it was out: 10 of 41 failed".to_owned(), ..by_hand(0) };
        let phase = Phase::RolledBack { cause: reason, failed_rounds: 0, probe_at: None };
        assert_eq!(
            held,
            Standing { epoch: 4, phase, ..Standing::NEW },
            "the time of the rollback, and both reasons"
        );
        let back = held.on(&Signal::Resume(by_hand(9)), with_probes()).unwrap();
        assert_eq!((back.epoch, back.phase), (5, Phase::Active));
        let probing = standing(probing(0, &[(7, 99)]));
        assert_eq!(probing.on(&Signal::Latch(by_hand(9)), with_probes()).unwrap().epoch, 5);
    }

    #[test]
    fn no_more_probes_are_leased_than_allowed_and_expired_ones_are_returned() {
        let ask = |id, now| Signal::Ask(Lease { id, until: Micros(now + 100) }, Micros(now));
        let one = standing(probing(0, &[])).on(&ask(1, 0), with_probes()).unwrap();
        let two = one.on(&ask(2, 50), with_probes()).unwrap();
        assert_eq!(two.on(&ask(3, 99), with_probes()), None, "two are in flight");
        let three = two.on(&ask(3, 100), with_probes()).unwrap();
        assert_eq!(
            three.phase,
            probing(0, &[(2, 150), (3, 200)]),
            "the first place was free at its deadline"
        );
        assert_eq!(
            three.on(&Signal::Probed(1, ProbeOutcome::Passed), with_probes()),
            None,
            "and counts for nothing"
        );
        assert_eq!(three.epoch, 4, "probing goes on");
    }

    #[test]
    fn every_end_of_a_probe_frees_its_place() {
        for (outcome, passed) in [(ProbeOutcome::Passed, 1), (ProbeOutcome::Inconclusive, 0)] {
            let next = standing(probing(0, &[(7, 99)])).on(&Signal::Probed(7, outcome), with_probes());
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
            s = s.on(&Signal::Probed(1, ProbeOutcome::Failed(cause(0))), with_probes()).unwrap();
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn jitter_shortens_the_wait_by_a_fifth_at_most() {
        for random in 0..1000 {
            let waited = probe_delay(PROBE, 0, random).0;
            assert!((24_000..=30_000).contains(&waited), "{waited}");
        }
        assert_eq!(
            probe_delay(PROBE, u32::MAX, u64::MAX).0.max(480_000),
            probe_delay(PROBE, u32::MAX, u64::MAX).0
        );
    }
}
