//! The keys of one pool: which of them may be used, and what puts them out of use and back.
//!
//! A key is taken out by what is its own fault only: a 429 ([`KeyOutcome::Limited`]), a refusal ([`KeyOutcome::Rejected`]), or a run of bad
//! outcomes while other keys of the pool do well ([`KeyOutcome::Failed`]; when all of them fail it is the provider, and
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

use crate::outcome::blame::KeyOutcome;
use crate::plan::pool::{Cooldown, KeyPool, StreakLimit};
use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Micros, Millis, Span};

/// Most keys that a record may hold: those of a pool, and as many that an older plan knows.
const KEYS: usize = 512;
/// A trial that has not reported after this is given up: its worker may have died.
const TRIAL: Millis = Millis(60_000);
/// A worker may go on using a key for so long after it went out: its copy of the record is up to 10 ms old, and the record is
/// written a moment after the time that stands in it.
const STALE_COPY: Millis = Millis(20);
/// What those who ask meanwhile are told to wait for a trial under way. It mostly brings the key back with its headers, within a
/// second or two, and who comes too early is told the same again; its end may be a minute away.
const TRIAL_RETRY_AFTER: Millis = Millis(2_000);
/// An entry is confirmed when it was not for this long.
const CONFIRM_AFTER: Span = Span::from_millis(500);
/// An entry that was not confirmed for this long is of a key that nobody has: six times over, so that workers that
/// are only busy forget nothing.
const LIFE: Span = Span::from_secs(3);
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
struct Streak {
    /// How many.
    count: u32,
    /// When the first was noticed, or when the key came back with them.
    since: Micros,
}

impl Streak {
    const NONE: Streak = Streak { count: 0, since: Micros(0) };

    fn extended(self, now: Micros) -> Streak {
        let since = if self.count == 0 { now } else { self.since };
        Streak { count: self.count.saturating_add(1), since }
    }
}

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
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
    failed: Streak,
    /// Broken streams in a row.
    broken: Streak,
    /// When the trial under way is given up.
    trial_until: Micros,
}

impl Health {
    /// Of a key whose secret is not there: nobody tries it.
    pub const WITHOUT_VALUE: Health = Health {
        status: Status::Disabled,
        since: Micros(0),
        until: Micros(u64::MAX),
        doubled: 0,
        rejected: 0,
        failed: Streak::NONE,
        broken: Streak::NONE,
        trial_until: Micros(0),
    };

    /// Whether the key may be used by anybody.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// When it is worth asking for the key again, as far as is known.
    pub fn returns_at(&self, now: Micros) -> Micros {
        self.until.max(self.trial_until.min(now.plus(TRIAL_RETRY_AFTER)))
    }

    /// When the run began that this failure makes long enough to take an active key out, if others work.
    pub fn streak_at_limit(&self, outcome: KeyOutcome, now: Micros, pool: &KeyPool) -> Option<Micros> {
        let run = match outcome {
            KeyOutcome::Failed => self.failed.extended(now),
            KeyOutcome::Broke => self.broken.extended(now),
            _ => return None,
        };
        (run.count >= pool.failing.failures).then_some(run.since)
    }

    /// The same, with the run that this failure is of ended: a success came between that another worker has seen.
    pub fn without_streak(self, outcome: KeyOutcome) -> Health {
        match outcome {
            KeyOutcome::Failed => Health { failed: Streak::NONE, ..self },
            KeyOutcome::Broke => Health { broken: Streak::NONE, ..self },
            _ => self,
        }
    }

    /// Whether there may be anything to change after this: what the usual answer says of a healthy key is not worth a read.
    pub fn is_changed_by(&self, outcome: KeyOutcome) -> bool {
        match outcome {
            KeyOutcome::Completed => *self != Health::default(),
            KeyOutcome::Accepted => !self.is_active() || self.rejected > 0 || self.failed.count > 0,
            KeyOutcome::Inconclusive => !self.is_active(),
            KeyOutcome::Limited(_) | KeyOutcome::Rejected | KeyOutcome::Failed | KeyOutcome::Broke => true,
        }
    }

    /// Whether a trial is due and none is under way.
    pub fn trial_due(&self, now: Micros) -> bool {
        !self.is_active() && now >= self.until && now >= self.trial_until
    }

    /// After an attempt that began at `began`. `others_work`: some other key of the pool, itself in use, has done well what this
    /// one has failed at, in an attempt that began after this one's run (see [`Health::streak_at_limit`]).
    pub fn apply(
        self,
        outcome: KeyOutcome,
        began: Micros,
        now: Micros,
        others_work: bool,
        pool: &KeyPool,
    ) -> Health {
        // No trial, but begun before its worker could know that the key was out: it tells nothing new about the state, except that
        // a limit may be longer. Nor does it, should the key be back by now, say how it does since.
        let old = began < self.since.plus(STALE_COPY).min(self.until);
        let stale = !self.is_active() && old;
        match outcome {
            KeyOutcome::Completed | KeyOutcome::Accepted | KeyOutcome::Inconclusive if old => self,
            KeyOutcome::Failed | KeyOutcome::Broke if old && self.is_active() => self,
            KeyOutcome::Inconclusive => Health { trial_until: Micros(0), ..self },
            KeyOutcome::Completed => Health::default(),
            KeyOutcome::Accepted if self.broken.count == 0 => Health::default(),
            KeyOutcome::Accepted => {
                // That others worked before it came back shows nothing of what it does from now on.
                let since = if self.is_active() { self.broken.since } else { now };
                let broken = Streak { since, ..self.broken };
                Health { since: self.since, until: self.until.min(now), broken, ..Health::default() }
            }
            KeyOutcome::Limited(wait) => {
                let Cooldown { first, max } = pool.rate_limited;
                let doubled = if stale || self.status != Status::RateLimited {
                    self.doubled
                } else {
                    self.doubled.saturating_add(1)
                };
                let shift = 1u64.checked_shl(doubled.min(40)).unwrap_or(u64::MAX);
                let own = Millis(first.0.saturating_mul(shift).min(max.0));
                let wait = wait.map_or(own, |wait| Millis(wait.0.clamp(SHORTEST.0.min(max.0), max.0)));
                let ended = Health { rejected: 0, failed: Streak::NONE, broken: Streak::NONE, ..self };
                Health { doubled, ..ended.take_out(Status::RateLimited, wait, stale, now) }
            }
            KeyOutcome::Rejected => {
                let StreakLimit { failures, out_for } = pool.rejected;
                let rejected = self.rejected.saturating_add(1);
                let counted = Health { rejected, failed: Streak::NONE, broken: Streak::NONE, ..self };
                // A trial that is refused extends at once, whatever number of refusals the first time took.
                let out = counted.rejected >= failures || !self.is_active();
                if out { counted.take_out(Status::Disabled, out_for, stale, now) } else { counted }
            }
            KeyOutcome::Failed | KeyOutcome::Broke => {
                let span = pool.failing.out_for;
                let counted = match outcome {
                    KeyOutcome::Broke => Health { rejected: 0, broken: self.broken.extended(now), ..self },
                    _ => Health { rejected: 0, failed: self.failed.extended(now), ..self },
                };
                let over = others_work && self.streak_at_limit(outcome, now, pool).is_some();
                let out = over || (!self.is_active() && !stale);
                if out {
                    counted.take_out(self.status_after(Status::CoolingDown), span, stale, now)
                } else {
                    counted
                }
            }
        }
    }

    /// The same with the runs of that: what another key of its group has met is no outcome of this one.
    pub fn with_streaks_of(self, of: Health) -> Health {
        Health { rejected: of.rejected, failed: of.failed, broken: of.broken, ..self }
    }

    /// The same, out until then at least.
    pub fn out_until_at_least(self, until: Micros) -> Health {
        Health { until: self.until.max(until), ..self }
    }

    /// A trial begins.
    pub fn start_trial(self, now: Micros) -> Health {
        Health { trial_until: now.plus(TRIAL), ..self }
    }

    /// Out of use for `span`; a later deadline stays. A trial under way has failed, unless what failed is older than it.
    fn take_out(self, status: Status, span: Millis, stale: bool, now: Micros) -> Health {
        let (since, trial_until) = if stale { (self.since, self.trial_until) } else { (now, Micros(0)) };
        let until = now.plus(span).max(self.until);
        let status = if stale { self.status_after(status) } else { status };
        Health { status, since, until, trial_until, ..self }
    }

    /// A refusal outlasts everything else that a key is out for.
    fn status_after(&self, status: Status) -> Status {
        if self.status == Status::Disabled { Status::Disabled } else { status }
    }
}

/// The shared record: what is remembered, by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolHealth(pub Vec<Entry>);

/// What is remembered of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which key.
    pub fingerprint: u64,
    /// What.
    pub memory: Health,
    /// When somebody last had this key.
    confirmed: Micros,
}

impl PoolHealth {
    /// What is remembered of a key.
    pub fn get(&self, fingerprint: u64) -> Health {
        self.0.iter().find(|held| held.fingerprint == fingerprint).map(|held| held.memory).unwrap_or_default()
    }

    /// Replaces it; a memory of nothing is dropped.
    pub fn put(&mut self, fingerprint: u64, memory: Health, now: Micros) {
        self.0.retain(|held| held.fingerprint != fingerprint);
        if memory == Health::default() {
            return;
        }
        if self.0.len() >= KEYS {
            // Whoever would have come back first makes room.
            let first = self.0.iter().enumerate().min_by_key(|(_, held)| held.memory.until).map(|(at, _)| at);
            first.map(|at| self.0.swap_remove(at));
        }
        self.0.push(Entry { fingerprint, memory, confirmed: now });
    }

    /// Confirms, where that is due, what is of the keys that a worker `has`, and drops what is of keys that nobody has. What the
    /// worker `had` already when it last looked is not dropped, however long ago that was: the process may have stood still.
    pub fn confirm(&mut self, had: &[u64], has: &[u64], now: Micros) {
        let stays = |held: &Entry| {
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
        for Entry { fingerprint, memory: m, confirmed } in &self.0 {
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
    pub fn decode(bytes: Option<&[u8]>) -> Found<PoolHealth> {
        Found::read(bytes, read)
    }
}

fn read(bytes: &[u8]) -> Option<PoolHealth> {
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
        let mut run = || Some(Streak { count: r.small()?, since: Micros(r.number()?) });
        let (failed, broken) = (run()?, run()?);
        let memory = Health { status, since, until, doubled, rejected, failed, broken, trial_until };
        keys.push(Entry { fingerprint, memory, confirmed: Micros(r.number()?) });
    }
    r.end()?;
    Some(PoolHealth(keys))
}

#[cfg(test)]
mod tests;
