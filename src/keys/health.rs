//! The keys of one pool: which of them may be used, and what puts them out of use and back.
//!
//! A key is taken out by what is its own fault only: a 429 ([`Fault::Limited`]), a refusal ([`Fault::Rejected`]), or a run of bad
//! outcomes while other keys of the pool do well ([`Fault::Failing`]; when all of them fail it is the provider, and
//! burning the pool would make it worse). Every state ends by itself: at its deadline one request, the *trial*, is let
//! through; a good answer makes the key active as soon as it begins, for its stream may take minutes; its failure extends. A later deadline always wins; only a success brings a key
//! back earlier, and only the success of an attempt that began after the key went out: an answer that was under way when the
//! limit struck says nothing about it.
//!
//! Failures in a row are counted twice over, as those of a version are: answers in a row that failed (ended by a good answer's
//! headers), and streams in a row that broke (ended by a whole one; they all begin well). Either may reach the limit. Were there
//! only one run, ended by whole answers, fast failures would be weighed against only those good answers that are over, and a
//! healthy key whose streams take minutes would look broken in the first of them. Refusals in a row are a third run. In a row means
//! that nothing else came between: each outcome ends the runs of the others. What the caller did wrong is no outcome of the key: it
//! neither makes a run longer nor ends it, and as a trial it shows nothing, for some providers read the prompt before the key.
//!
//! The record in shared data names keys by fingerprint, never by position or value, and holds only those with something to
//! remember: that of a healthy pool is empty.
//!
//! State leaves with its key. No worker can tell by itself when that is, for others may be a configuration behind, or ahead of it in
//! a new VM. So whoever has a key confirms its entry twice a second, which is one write for all of them and none for a healthy pool,
//! and an entry that nobody has confirmed for three seconds is dropped by whoever looks next. A key that is away for a moment,
//! because its secret is being rotated, finds its state where it was.

use crate::outcome::blame::Fault;
use crate::plan::pool::KeyPool;
use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Micros, Millis};

/// Most keys that a record may hold: those of a pool, and as many that an older plan knows.
const KEYS: usize = 512;
/// A trial that has not reported after this is given up: its worker may have died.
const TRIAL: Millis = Millis(60_000);
/// A worker may go on using a key for so long after it went out: its copy of the record is up to 10 ms old, and the record is
/// written a moment after the time that stands in it.
const UNAWARE: Millis = Millis(20);
/// What those who ask meanwhile are told to wait for a trial under way. It mostly brings the key back with its headers, within a
/// second or two, and who comes too early is told the same again; its end may be a minute away.
const TRIAL_ANSWERS: Millis = Millis(2_000);
/// An entry is confirmed when it was not for this long, in microseconds.
const CONFIRM_AFTER: u64 = 500_000;
/// An entry that was not confirmed for this long, in microseconds, is of a key that nobody has: six times over, so that workers that
/// are only busy forget nothing.
const LIFE: u64 = 3_000_000;
/// A limit lasts at least this long, whatever the provider says: "0" would make every request a trial.
const SHORTEST: Millis = Millis(1000);

/// Status of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// In use.
    #[default]
    Active,
    /// The provider said 429.
    RateLimited,
    /// It failed several times in a row while others did not.
    CoolingDown,
    /// The provider refused it, or its secret is not there.
    Disabled,
}

impl Status {
    /// The name in status and events.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::RateLimited => "rate_limited",
            Status::CoolingDown => "cooling_down",
            Status::Disabled => "disabled",
        }
    }

    /// Value of the status gauge.
    pub const fn gauge(self) -> u64 {
        match self {
            Status::Active => 0,
            Status::RateLimited => 1,
            Status::CoolingDown => 2,
            Status::Disabled => 3,
        }
    }
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Run {
    /// How many.
    count: u32,
    /// When the first was noticed, or when the key came back with them.
    since: Micros,
}

impl Run {
    const NONE: Run = Run { count: 0, since: Micros(0) };

    fn longer(self, now: Micros) -> Run {
        let since = if self.count == 0 { now } else { self.since };
        Run { count: self.count.saturating_add(1), since }
    }
}

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its status.
    pub status: Status,
    /// When it was last put out of use. It may have come back since, if its last run of broken streams has not ended.
    pub since: Micros,
    /// When a trial is due, unless it is active.
    pub until: Micros,
    /// How often the cooldown has been doubled.
    doubled: u32,
    /// Refusals in a row.
    rejected: u32,
    /// Bad answers in a row.
    failed: Run,
    /// Broken streams in a row.
    broken: Run,
    /// When the trial under way is given up.
    trial_until: Micros,
}

impl Memory {
    /// Of a key whose secret is not there: nobody tries it.
    pub const WITHOUT_VALUE: Memory = Memory {
        status: Status::Disabled,
        since: Micros(0),
        until: Micros(u64::MAX),
        doubled: 0,
        rejected: 0,
        failed: Run::NONE,
        broken: Run::NONE,
        trial_until: Micros(0),
    };

    /// Whether the key may be used by anybody.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// When it is worth asking for the key again, as far as is known.
    pub fn returns_at(&self, now: Micros) -> Micros {
        self.until.max(self.trial_until.min(now.plus(TRIAL_ANSWERS)))
    }

    /// When the run began that this failure makes long enough to take an active key out, if others work.
    pub fn run_over(&self, fault: Fault, now: Micros, pool: &KeyPool) -> Option<Micros> {
        let run = match fault {
            Fault::Failing => self.failed.longer(now),
            Fault::Broke => self.broken.longer(now),
            _ => return None,
        };
        (run.count >= pool.failing.0).then_some(run.since)
    }

    /// The same, with the run that this failure is of ended: a success came between that another worker has seen.
    pub fn without_run(self, fault: Fault) -> Memory {
        match fault {
            Fault::Failing => Memory { failed: Run::NONE, ..self },
            Fault::Broke => Memory { broken: Run::NONE, ..self },
            _ => self,
        }
    }

    /// Whether there may be anything to change after this: what the usual answer says of a healthy key is not worth a read.
    pub fn is_changed_by(&self, fault: Fault) -> bool {
        match fault {
            Fault::None => *self != Memory::default(),
            Fault::Accepted => !self.is_active() || self.rejected > 0 || self.failed.count > 0,
            Fault::Nothing => !self.is_active(),
            Fault::Limited(_) | Fault::Rejected | Fault::Failing | Fault::Broke => true,
        }
    }

    /// Whether a trial is due and none is under way.
    pub fn trial_due(&self, now: Micros) -> bool {
        !self.is_active() && now >= self.until && now >= self.trial_until
    }

    /// After an attempt that began at `began`. `others_work`: some other key of the pool, itself in use, has done well what this
    /// one has failed at, in an attempt that began after this one's run (see [`Memory::run_over`]).
    pub fn after(
        self,
        fault: Fault,
        began: Micros,
        now: Micros,
        others_work: bool,
        pool: &KeyPool,
    ) -> Memory {
        // No trial, but begun before its worker could know that the key was out: it tells nothing new about the state, except that
        // a limit may be longer. Nor does it, should the key be back by now, say how it does since.
        let old = began < self.since.plus(UNAWARE).min(self.until);
        let stale = !self.is_active() && old;
        match fault {
            Fault::None | Fault::Accepted | Fault::Nothing if old => self,
            Fault::Failing | Fault::Broke if old && self.is_active() => self,
            Fault::Nothing => Memory { trial_until: Micros(0), ..self },
            Fault::None => Memory::default(),
            Fault::Accepted if self.broken.count == 0 => Memory::default(),
            Fault::Accepted => {
                // That others worked before it came back shows nothing of what it does from now on.
                let since = if self.is_active() { self.broken.since } else { now };
                let broken = Run { since, ..self.broken };
                Memory { since: self.since, until: self.until.min(now), broken, ..Memory::default() }
            }
            Fault::Limited(wait) => {
                let (cooldown, max) = pool.rate_limited;
                let doubled = if stale || self.status != Status::RateLimited {
                    self.doubled
                } else {
                    self.doubled.saturating_add(1)
                };
                let shift = 1u64.checked_shl(doubled.min(40)).unwrap_or(u64::MAX);
                let own = Millis(cooldown.0.saturating_mul(shift).min(max.0));
                let wait = wait.map_or(own, |wait| Millis(wait.0.clamp(SHORTEST.0.min(max.0), max.0)));
                let ended = Memory { rejected: 0, failed: Run::NONE, broken: Run::NONE, ..self };
                Memory { doubled, ..ended.out(Status::RateLimited, wait, stale, now) }
            }
            Fault::Rejected => {
                let (after, span) = pool.rejected;
                let rejected = self.rejected.saturating_add(1);
                let counted = Memory { rejected, failed: Run::NONE, broken: Run::NONE, ..self };
                // A trial that is refused extends at once, whatever number of refusals the first time took.
                let out = counted.rejected >= after || !self.is_active();
                if out { counted.out(Status::Disabled, span, stale, now) } else { counted }
            }
            Fault::Failing | Fault::Broke => {
                let span = pool.failing.1;
                let counted = match fault {
                    Fault::Broke => Memory { rejected: 0, broken: self.broken.longer(now), ..self },
                    _ => Memory { rejected: 0, failed: self.failed.longer(now), ..self },
                };
                let over = others_work && self.run_over(fault, now, pool).is_some();
                let out = over || (!self.is_active() && !stale);
                if out { counted.out(self.worse(Status::CoolingDown), span, stale, now) } else { counted }
            }
        }
    }

    /// The same with the runs of that: what another key of its group has met is no outcome of this one.
    pub fn with_runs_of(self, of: Memory) -> Memory {
        Memory { rejected: of.rejected, failed: of.failed, broken: of.broken, ..self }
    }

    /// The same, out until then at least.
    pub fn not_before(self, until: Micros) -> Memory {
        Memory { until: self.until.max(until), ..self }
    }

    /// A trial begins.
    pub fn tried(self, now: Micros) -> Memory {
        Memory { trial_until: now.plus(TRIAL), ..self }
    }

    /// Out of use for `span`; a later deadline stays. A trial under way has failed, unless what failed is older than it.
    fn out(self, status: Status, span: Millis, stale: bool, now: Micros) -> Memory {
        let (since, trial_until) = if stale { (self.since, self.trial_until) } else { (now, Micros(0)) };
        let until = now.plus(span).max(self.until);
        let status = if stale { self.worse(status) } else { status };
        Memory { status, since, until, trial_until, ..self }
    }

    /// A refusal outlasts everything else that a key is out for.
    fn worse(&self, status: Status) -> Status {
        if self.status == Status::Disabled { Status::Disabled } else { status }
    }
}

/// The shared record: what is remembered, by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring(pub Vec<Held>);

/// What is remembered of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which key.
    pub fingerprint: u64,
    /// What.
    pub memory: Memory,
    /// When somebody last had this key.
    confirmed: Micros,
}

impl Keyring {
    /// What is remembered of a key.
    pub fn get(&self, fingerprint: u64) -> Memory {
        self.0.iter().find(|held| held.fingerprint == fingerprint).map(|held| held.memory).unwrap_or_default()
    }

    /// Replaces it; a memory of nothing is dropped.
    pub fn put(&mut self, fingerprint: u64, memory: Memory, now: Micros) {
        self.0.retain(|held| held.fingerprint != fingerprint);
        if memory == Memory::default() {
            return;
        }
        if self.0.len() >= KEYS {
            // Whoever would have come back first makes room.
            let first = self.0.iter().enumerate().min_by_key(|(_, held)| held.memory.until).map(|(at, _)| at);
            first.map(|at| self.0.swap_remove(at));
        }
        self.0.push(Held { fingerprint, memory, confirmed: now });
    }

    /// Confirms, where that is due, what is of the keys that a worker `has`, and drops what is of keys that nobody has. What the
    /// worker `had` already when it last looked is not dropped, however long ago that was: the process may have stood still.
    pub fn confirm(&mut self, had: &[u64], has: &[u64], now: Micros) {
        let stays = |held: &Held| {
            let known = has.contains(&held.fingerprint) && had.contains(&held.fingerprint);
            known || now.since(held.confirmed) < LIFE
        };
        self.0.retain(stays);
        for held in self.0.iter_mut().filter(|held| has.contains(&held.fingerprint)) {
            if now.since(held.confirmed) >= CONFIRM_AFTER {
                held.confirmed = now;
            }
        }
    }

    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::try_from(self.0.len()).unwrap_or(0));
        for Held { fingerprint, memory: m, confirmed } in &self.0 {
            let runs = [m.failed, m.broken].map(|run| [u64::from(run.count), run.since.0]);
            for number in [*fingerprint, m.status.gauge(), m.since.0, m.until.0, m.trial_until.0]
                .into_iter()
                .chain([u64::from(m.doubled), u64::from(m.rejected)])
                .chain(runs.into_iter().flatten())
                .chain([confirmed.0])
            {
                w.number(number);
            }
        }
        w.finish()
    }

    /// From bytes; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Keyring> {
        Found::read(bytes, read)
    }
}

fn read(bytes: &[u8]) -> Option<Keyring> {
    let mut r = Reader::new(bytes)?;
    let count = r.count(KEYS)?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let fingerprint = r.number()?;
        let status = match r.number()? {
            0 => Status::Active,
            1 => Status::RateLimited,
            2 => Status::CoolingDown,
            3 => Status::Disabled,
            _ => return None,
        };
        let (since, until, trial_until) = (Micros(r.number()?), Micros(r.number()?), Micros(r.number()?));
        let (doubled, rejected) = (r.small()?, r.small()?);
        let mut run = || Some(Run { count: r.small()?, since: Micros(r.number()?) });
        let (failed, broken) = (run()?, run()?);
        let memory = Memory { status, since, until, doubled, rejected, failed, broken, trial_until };
        keys.push(Held { fingerprint, memory, confirmed: Micros(r.number()?) });
    }
    r.end()?;
    Some(Keyring(keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pool;

    const SECOND: u64 = 1_000_000;

    fn s(seconds: u64) -> Micros {
        Micros(seconds * SECOND)
    }

    /// After a fault of an attempt that took no time, others doing well.
    fn fault(memory: Memory, fault: Fault, at: u64) -> Memory {
        memory.after(fault, s(at), s(at), true, &pool(&[("a", 1)]))
    }

    #[test]
    fn a_limit_without_a_header_doubles_with_every_failed_trial_up_to_its_bound() {
        let (mut m, mut at, mut waits) = (Memory::default(), 100, Vec::new());
        for _ in 0..6 {
            m = fault(m, Fault::Limited(None), at);
            assert_eq!(m.status, Status::RateLimited);
            waits.push(m.until.0 / SECOND - at);
            at = m.until.0 / SECOND;
        }
        assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
        assert_eq!(fault(m, Fault::None, at), Memory::default(), "a success forgets all");
    }

    #[test]
    fn a_header_is_followed_and_clamped() {
        for (asked, waited) in [(2, 2), (0, 1), (5, 5), (86_400, 600)] {
            let m = fault(Memory::default(), Fault::Limited(Some(Millis(asked * 1000))), 100);
            assert_eq!(m.until, s(100 + waited), "asked for {asked} s");
        }
    }

    #[test]
    fn a_burst_of_limits_in_flight_counts_once_and_a_later_deadline_wins() {
        let m = fault(Memory::default(), Fault::Limited(Some(Millis(30_000))), 100);
        let p = pool(&[("a", 1)]);
        let burst = m.after(Fault::Limited(None), s(99), s(101), true, &p);
        assert_eq!((burst.until, burst.since), (s(161), s(100)), "the header-less default is longer");
        let shorter = m.after(Fault::Limited(Some(Millis(2000))), s(99), s(101), true, &p);
        assert_eq!(shorter.until, s(130), "a shorter one does not shorten");
        let later = fault(fault(burst, Fault::Limited(None), 161), Fault::None, 400);
        assert_eq!(later, Memory::default());
    }

    #[test]
    fn a_worker_that_did_not_know_yet_fails_no_trial_and_lifts_nothing() {
        let (m, p) = (fault(Memory::default(), Fault::Limited(None), 100), pool(&[("a", 1)]));
        let (began, now) = (Micros(s(100).0 + 9_000), Micros(s(100).0 + 300_000));
        let burst = (0..20).fold(m, |m, _| m.after(Fault::Limited(None), began, now, true, &p));
        assert_eq!(burst.until, now.plus(Millis(60_000)), "the cooldown is not doubled");
        assert_eq!(m.after(Fault::None, began, now, true, &p), m);
        let trial = fault(burst.tried(burst.until), Fault::Limited(None), 161);
        assert_eq!(trial.until, s(161 + 120), "the first trial that fails doubles it, once");
    }

    #[test]
    fn an_answer_that_was_under_way_when_the_limit_struck_does_not_lift_it() {
        let m = fault(Memory::default(), Fault::Limited(None), 100);
        assert_eq!(m.after(Fault::None, s(99), s(105), true, &pool(&[("a", 1)])), m);
    }

    #[test]
    fn a_refused_key_is_disabled_and_tried_again_later() {
        let m = fault(Memory::default(), Fault::Rejected, 100);
        assert_eq!((m.status, m.until), (Status::Disabled, s(700)));
        assert!(!m.trial_due(s(699)) && m.trial_due(s(700)));
        let trying = m.tried(s(700));
        assert!(!trying.trial_due(s(701)), "one at a time");
        assert!(trying.trial_due(s(760)), "a trial that never reports is given up");
        let again = trying.after(Fault::Rejected, s(700), s(702), true, &pool(&[("a", 1)]));
        assert_eq!((again.status, again.until), (Status::Disabled, s(1302)));
    }

    #[test]
    fn a_key_cools_after_a_run_of_failures_only_while_others_work() {
        let p = pool(&[("a", 1), ("b", 1)]);
        let (mut alone, mut outage) = (Memory::default(), Memory::default());
        for n in 1..=7 {
            alone = alone.after(Fault::Failing, s(n), s(n), true, &p);
            outage = outage.after(Fault::Failing, s(n), s(n), false, &p);
            assert_eq!(alone.is_active(), n < 5, "after {n}");
        }
        assert!(outage.is_active(), "when all keys fail it is not the key");
    }

    #[test]
    fn bad_answers_in_a_row_end_with_a_good_one_and_broken_streams_with_a_whole_one() {
        let broken = |m: Memory, at| fault(fault(m, Fault::Accepted, at), Fault::Broke, at);
        let bad = |m: Memory, at| fault(m, Fault::Failing, at);
        let streams = (1..=4).fold(Memory::default(), broken);
        assert!(streams.is_active() && !broken(streams, 5).is_active(), "each has begun well and broken");
        assert_eq!(fault(streams, Fault::None, 5), Memory::default());
        let answers = (1..=4).fold(Memory::default(), bad);
        assert!(answers.is_active() && !bad(answers, 5).is_active());
        assert_eq!(fault(answers, Fault::Accepted, 5), Memory::default(), "its stream may take minutes");
        // Neither ends the other's run.
        assert!(!broken(bad(streams, 5), 6).is_active());
        assert!(streams.is_changed_by(Fault::None) && !streams.is_changed_by(Fault::Accepted));
        assert!(answers.is_changed_by(Fault::Accepted));
        let nothing = [Fault::None, Fault::Accepted, Fault::Nothing];
        assert!(!nothing.iter().any(|fault| Memory::default().is_changed_by(*fault)));
    }

    #[test]
    fn a_trial_brings_the_key_back_as_it_begins_and_takes_it_out_again_if_it_breaks() {
        let p = pool(&[("a", 1)]);
        let out = (1..=5).fold(Memory::default(), |m, at| fault(m, Fault::Broke, at));
        assert_eq!((out.status, out.until), (Status::CoolingDown, s(35)));
        let back = out.tried(s(35)).after(Fault::Accepted, s(35), s(36), true, &p);
        assert!(back.is_active());
        assert_eq!(back.run_over(Fault::Broke, s(40), &p), Some(s(36)), "others must work from then on");
        assert_eq!(back.after(Fault::None, s(35), s(300), true, &p), Memory::default());
        let again = back.after(Fault::Broke, s(35), s(40), true, &p);
        assert_eq!((again.status, again.until), (Status::CoolingDown, s(70)));
        assert!(back.after(Fault::Broke, s(35), s(40), false, &p).is_active(), "unless nobody else works");
        // What began before the key went out belongs to neither.
        for late in [Fault::Broke, Fault::Failing, Fault::None, Fault::Accepted] {
            assert_eq!(back.after(late, s(4), s(40), true, &p), back, "{late:?}");
        }
        let limited = fault(Memory::default(), Fault::Limited(None), 100).tried(s(160));
        assert_eq!(limited.after(Fault::Accepted, s(160), s(161), true, &p), Memory::default());
    }

    #[test]
    fn in_a_row_means_that_nothing_else_came_between() {
        use Fault::{Broke, Failing, Limited, Nothing, Rejected};
        let mut p = pool(&[("a", 1)]);
        (p.rejected.0, p.failing.0) = (2, 3);
        let after = |faults: &[Fault]| {
            let faults = faults.iter().zip(1..);
            faults.fold(Memory::default(), |m, (fault, at)| m.after(*fault, s(at), s(at), true, &p)).status
        };
        assert_eq!(after(&[Rejected, Rejected]), Status::Disabled);
        assert_eq!(after(&[Rejected, Nothing, Rejected]), Status::Disabled, "a bad prompt ends no run");
        assert_eq!(after(&[Failing, Failing, Nothing, Failing]), Status::CoolingDown);
        for between in [Failing, Broke, Fault::Accepted, Fault::None] {
            assert_eq!(after(&[Rejected, between, Rejected]), Status::Active, "{between:?}");
        }
        for run in [Failing, Broke] {
            assert_eq!(after(&[run, run, run]), Status::CoolingDown, "{run:?}");
            assert_eq!(after(&[run, run, Rejected, run]), Status::Active, "{run:?}");
        }
        let limited = [Failing, Failing, Limited(None)].iter().zip(1..);
        let limited = limited.fold(Memory::default(), |m, (f, at)| m.after(*f, s(at), s(at), true, &p));
        assert_eq!((limited.status, limited.failed), (Status::RateLimited, Run::NONE));
    }

    #[test]
    fn while_a_trial_is_under_way_the_wait_is_short() {
        let out = fault(Memory::default(), Fault::Limited(Some(Millis(5_000))), 100);
        assert_eq!(out.returns_at(s(101)), s(105));
        let trying = out.tried(s(105));
        assert_eq!(trying.returns_at(s(105)), s(107), "not a minute");
        assert_eq!(trying.returns_at(s(164)), s(165), "then it is given up");
        assert_eq!(trying.not_before(s(200)).returns_at(s(106)), s(200));
        assert_eq!(fault(trying, Fault::Limited(Some(Millis(9_000))), 106).returns_at(s(106)), s(115));
    }

    #[test]
    fn a_trial_whose_client_leaves_makes_room_for_another() {
        let p = pool(&[("a", 1)]);
        let trying = fault(Memory::default(), Fault::Limited(None), 100).tried(s(160));
        assert!(!trying.trial_due(s(161)));
        assert!(trying.after(Fault::Nothing, s(160), s(161), true, &p).trial_due(s(161)));
    }

    #[test]
    fn keys_that_were_rotated_away_make_room() {
        let mut ring = Keyring::default();
        for n in 0..2000u64 {
            ring.put(n, fault(Memory::default(), Fault::Rejected, 100 + n), s(5));
            assert!(!ring.get(n).is_active(), "key {n}");
        }
        assert!(ring.0.len() <= KEYS);
    }

    #[test]
    fn a_state_lasts_as_long_as_somebody_has_its_key() {
        let out = fault(Memory::default(), Fault::Rejected, 100);
        let mut ring = Keyring::default();
        ring.put(7, out, s(100));
        // Who has the key keeps it, also when everything stood still for a while.
        for at in [101, 102, 200] {
            ring.confirm(&[7, 8], &[7, 8], s(at));
            assert_eq!(ring.get(7), out);
        }
        // Away for a moment: it is not confirmed, and still there when it comes back.
        ring.confirm(&[7, 8], &[8], s(202));
        ring.confirm(&[8], &[7, 8], s(202));
        assert_eq!(ring.get(7), out);
        // Away for good: whoever looks next drops it, also who has the key anew.
        let mut again = ring.clone();
        ring.confirm(&[8], &[8], s(205));
        again.confirm(&[], &[7], s(205));
        assert_eq!((ring.0.len(), again.0.len()), (0, 0));
    }

    #[test]
    fn a_record_comes_back_from_its_bytes_and_forgets_healthy_keys() {
        let mut ring = Keyring::default();
        ring.put(7, fault(Memory::default(), Fault::Limited(None), 5), s(5));
        ring.put(9, fault(Memory::default(), Fault::Rejected, 5).tried(s(700)), s(5));
        ring.put(8, fault(fault(Memory::default(), Fault::Failing, 5), Fault::Broke, 6), s(5));
        assert!(matches!(Keyring::decode(Some(&ring.encode())), Found::Value(back) if back == ring));
        ring.put(7, Memory::default(), s(5));
        assert_eq!(ring.0.len(), 2);
        assert!(matches!(Keyring::decode(Some(&[1, 1])), Found::Undecodable));
    }
}
