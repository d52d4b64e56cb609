//! Health of a key: why it is out of use, and how it comes back.
//!
//! Only its own faults take a key out of use:
//!
//! | outcome of an attempt | the key is out of use |
//! |---|---|
//! | 429 with evidence ([`KeyOutcome::Limited`]) | at once |
//! | 401 or 403, and another key did well on the same request ([`KeyOutcome::Rejected`]) | after `rejected.after` in a row |
//! | 402, likewise ([`KeyOutcome::Exhausted`]) | at once |
//! | a refusal, or a 429 without evidence, that nothing proves ([`KeyOutcome::Unproven`]) | after five in a row; see [`Doubt`] |
//! | bad answer ([`KeyOutcome::Failed`]), broken stream ([`KeyOutcome::Broke`]) | after `failing.after` in a row, if other keys of the pool work |
//!
//! If all keys of a pool fail, the provider is at fault. To take its keys out of use would make an outage worse. So the last active
//! key of a pool stays in use whatever it is refused: it becomes *suspect*. A suspect key is used where no active key is left, and
//! once a second it is tried before the others. A good answer makes it active again.
//!
//! # The way back
//!
//! Each state ends by itself. After its deadline one request, the *trial*, carries the key. A good answer makes the key active as
//! soon as it begins, because its stream may take minutes. A trial that fails extends the state. A later deadline replaces an
//! earlier one. Only a success ends a state before its deadline, and only a success of an attempt that began after the key went
//! out of use: an answer already under way when a limit struck says nothing about that limit.
//!
//! # Streaks
//!
//! A streak is a series of failures with no other outcome between them. Each key has three:
//!
//! * Bad answers. A good answer ends the streak with its headers.
//! * Broken streams. A whole answer ends the streak. Every broken stream began with good headers, so headers end nothing here.
//! * Proven refusals. Any outcome but another refusal ends the streak.
//!
//! A proven refusal or a 429 with evidence also ends the streaks of bad answers and of broken streams; these two do not end each other. They are
//! separate for the sake of long streams. A single streak, ended by whole answers only, would count each bad answer at once, but
//! a good one not before its end: a healthy key with streams of several minutes would look broken in the first of them.
//!
//! Caller errors neither extend nor end a streak, and a trial that ends with one proves nothing: some providers read the prompt
//! before they look at the key.

mod doubt;
mod record;

use serde::{Deserialize, Serialize};

pub use self::doubt::Doubt;
pub use self::record::{Entry, PoolHealth};
use crate::outcome::blame::{KeyOutcome, Unproven};
use crate::plan::pool::{Cooldown, KeyPool, Refusal};
use crate::time::{Micros, Millis, Span};

/// Time after which a trial without a report is given up: its worker may have died.
const TRIAL_EXPIRY: Span = Span::from_secs(60);
/// Time for which a worker may go on using a key that is out of use. Its copy of the record is up to 10 ms old, and the record is
/// written a moment after the time that it states.
const STALE_COPY: Span = Span::from_millis(20);
/// `Retry-After` for clients that ask while a trial is under way. Mostly its headers bring the key back within a second or two, and
/// a client that comes too early gets the same answer again. The trial's expiry may be a minute away.
const TRIAL_RETRY_AFTER: Span = Span::from_secs(2);
/// Shortest rate limit, also where the provider asks for less: with "0" each request would be a trial.
const SHORTEST_LIMIT: Millis = Millis(1000);
/// Time between two trials of a suspect key, and before the first repetition of a trial that was refused without a proof.
const SUSPECT_TRIAL_AFTER: Millis = Millis(1000);

/// Status of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In use.
    #[default]
    Active,
    /// Out of use after a 429.
    RateLimited,
    /// Out of use after several failures in a row while other keys worked.
    CoolingDown,
    /// Refused by the provider, or without its secret.
    Disabled,
    /// Refused, but in use: no other key of the pool is active.
    Suspect,
    /// Out of money or quota.
    Exhausted,
}

impl Status {
    /// Returns the name in status and events.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::RateLimited => "rate_limited",
            Status::CoolingDown => "cooling_down",
            Status::Disabled => "disabled",
            Status::Suspect => "suspect",
            Status::Exhausted => "exhausted",
        }
    }

    /// Returns the value of the status gauge.
    pub const fn gauge(self) -> u64 {
        match self {
            Status::Active => 0,
            Status::RateLimited => 1,
            Status::CoolingDown => 2,
            Status::Disabled => 3,
            Status::Suspect => 4,
            Status::Exhausted => 5,
        }
    }

    /// Returns the status after a key that has this one goes out of use again with `next`: a refusal outlasts every other reason.
    const fn or_refused(self, next: Status) -> Status {
        if self.is_refused() { self } else { next }
    }

    /// Returns whether the provider refuses the key.
    pub const fn is_refused(self) -> bool {
        matches!(self, Status::Disabled | Status::Exhausted)
    }
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Streak {
    /// Number of failures.
    count: u32,
    /// Time of the first one, or time at which the key came back with them.
    since: Micros,
}

impl Streak {
    const NONE: Streak = Streak { count: 0, since: Micros(0) };

    /// Adds a failure.
    fn extended(self, now: Micros) -> Streak {
        let since = if self.count == 0 { now } else { self.since };
        Streak { count: self.count.saturating_add(1), since }
    }
}

/// Outcome of an attempt for its key, with its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Outcome for the key.
    pub outcome: KeyOutcome,
    /// Time at which the attempt began.
    pub began: Micros,
    /// Time at which the outcome is known.
    pub now: Micros,
    /// Hash of the client's identity; used for refusals without a proof.
    pub client: u64,
}

/// The other keys of the pool, as a fault of one key needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Others {
    /// One is active.
    pub active: bool,
    /// One is active, and its last outcome was no refusal that nothing proves.
    pub trusted: bool,
    /// An active one has succeeded where this one failed, in an attempt that began after this one's streak (see
    /// [`Health::streak_at_limit`]).
    pub work: bool,
}

/// Health of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Status.
    pub status: Status,
    /// Time at which the key last went out of use. It may be active again while its streak of broken streams lasts.
    pub since: Micros,
    /// Time at which a trial is due, unless the key is active.
    pub until: Micros,
    /// Number of times that the cooldown was doubled.
    doublings: u32,
    /// Refusals in a row.
    rejected: u32,
    /// Bad answers in a row.
    failed: Streak,
    /// Broken streams in a row.
    broken: Streak,
    /// Refusals in a row that nothing proves.
    pub doubt: Doubt,
    /// Time at which the trial under way is given up.
    trial_until: Micros,
}

impl Health {
    /// Health of a key without its secret: no trial is ever due.
    pub const WITHOUT_VALUE: Health = Health {
        status: Status::Disabled,
        since: Micros(0),
        until: Micros(u64::MAX),
        doublings: 0,
        rejected: 0,
        failed: Streak::NONE,
        broken: Streak::NONE,
        doubt: Doubt::NONE,
        trial_until: Micros(0),
    };

    /// Returns whether any request may use the key.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// Returns whether the key is suspect: in use only where no active key is left.
    pub fn is_suspect(&self) -> bool {
        self.status == Status::Suspect
    }

    /// Returns whether requests may use the key without a trial.
    pub fn is_in_use(&self) -> bool {
        self.is_active() || self.is_suspect()
    }

    /// Returns whether a trial is due and none is under way.
    pub fn is_trial_due(&self, now: Micros) -> bool {
        !self.is_active() && now >= self.until && now >= self.trial_until
    }

    /// Returns whether another request may carry the key to clear a doubt: one at a time.
    pub fn is_doubt_trial_due(&self, now: Micros) -> bool {
        self.is_active() && self.doubt.is_trial_wanted() && now >= self.trial_until
    }

    /// Returns the earliest time at which another request for the key makes sense.
    pub fn returns_at(&self, now: Micros) -> Micros {
        self.until.max(self.trial_until.min(now.plus(TRIAL_RETRY_AFTER)))
    }

    /// Returns whether `outcome` may change anything. The usual answer of a healthy key does not, and need not be applied.
    pub fn is_changed_by(&self, outcome: KeyOutcome) -> bool {
        match outcome {
            KeyOutcome::Completed => *self != Health::default(),
            KeyOutcome::Accepted => {
                !self.is_active() || self.rejected > 0 || self.failed.count > 0 || self.doubt.is_open()
            }
            KeyOutcome::Inconclusive => !self.is_active() || self.trial_until > Micros(0),
            _ => true,
        }
    }

    /// Returns the start of the streak that this failure extends, if it is long enough then to take an active key out of use.
    pub fn streak_at_limit(&self, outcome: KeyOutcome, now: Micros, pool: &KeyPool) -> Option<Micros> {
        let streak = match outcome {
            KeyOutcome::Failed => self.failed.extended(now),
            KeyOutcome::Broke => self.broken.extended(now),
            _ => return None,
        };
        (streak.count >= pool.failing.failures).then_some(streak.since)
    }

    /// Ends the streak that this failure would extend: another worker has seen a success since it began.
    pub fn without_streak(self, outcome: KeyOutcome) -> Health {
        match outcome {
            KeyOutcome::Failed => Health { failed: Streak::NONE, ..self },
            KeyOutcome::Broke => Health { broken: Streak::NONE, ..self },
            _ => self,
        }
    }

    /// Takes the streaks of `other`. A rate limit of its quota group is no outcome of the key itself.
    pub fn with_streaks_of(self, other: Health) -> Health {
        let Health { rejected, failed, broken, doubt, .. } = other;
        Health { rejected, failed, broken, doubt, ..self }
    }

    /// Extends the time out of use to `until` at least.
    pub fn out_until_at_least(self, until: Micros) -> Health {
        Health { until: self.until.max(until), ..self }
    }

    /// Begins a trial.
    pub fn start_trial(self, now: Micros) -> Health {
        Health { trial_until: now.plus(TRIAL_EXPIRY), ..self }
    }

    /// Applies the outcome of an attempt. `others`: the other keys of the pool.
    pub fn apply(self, seen: Observation, others: Others, pool: &KeyPool) -> Health {
        let Observation { outcome, began, now, .. } = seen;
        // An attempt that began before its worker could know that the key was out of use is no trial. It says nothing new about
        // the state, except that a limit may be longer. If the key is active again, it says nothing about the time since then.
        let old = !self.is_suspect() && began < self.since.plus(STALE_COPY).min(self.until);
        let stale = !self.is_active() && old;
        match outcome {
            KeyOutcome::Completed | KeyOutcome::Accepted | KeyOutcome::Inconclusive if old => self,
            KeyOutcome::Failed | KeyOutcome::Broke | KeyOutcome::Unproven(_) if old && self.is_active() => {
                self
            }
            KeyOutcome::Inconclusive => Health { trial_until: Micros(0), ..self },
            KeyOutcome::Completed => Health::default(),
            KeyOutcome::Accepted => self.accepted(now),
            KeyOutcome::Limited(wait) => self.limited(wait, pool.rate_limited, stale, now),
            KeyOutcome::Rejected => self.rejected(others, pool, stale, now),
            KeyOutcome::Exhausted => self.refused(Refusal::Exhausted, others, pool, stale, now),
            KeyOutcome::Unproven(unproven) => self.unproven(seen, unproven, others, pool),
            KeyOutcome::Failed | KeyOutcome::Broke => {
                let at_limit = others.work && self.streak_at_limit(outcome, now, pool).is_some();
                let extended = match outcome {
                    KeyOutcome::Broke => Health { rejected: 0, broken: self.broken.extended(now), ..self },
                    _ => Health { rejected: 0, failed: self.failed.extended(now), ..self },
                };
                let is_out = at_limit || (!self.is_in_use() && !stale);
                let status = self.status.or_refused(Status::CoolingDown);
                if is_out { extended.take_out(status, pool.failing.out_for, stale, now) } else { extended }
            }
        }
    }

    /// Applies good headers. A streak of broken streams stays: every broken stream began with good headers.
    fn accepted(self, now: Micros) -> Health {
        if self.broken.count == 0 {
            return Health::default();
        }
        // Successes of other keys from before this key came back say nothing about its next attempts, so its streak starts now.
        let since = if self.is_active() { self.broken.since } else { now };
        let broken = Streak { since, ..self.broken };
        Health { since: self.since, until: self.until.min(now), broken, ..Health::default() }
    }

    /// Applies a 429. `wait`: the wait that the provider asks for.
    fn limited(self, wait: Option<Millis>, cooldown: Cooldown, stale: bool, now: Micros) -> Health {
        let Cooldown { first, max } = cooldown;
        let failed_trial = !stale && self.status == Status::RateLimited;
        let doublings = self.doublings.saturating_add(u32::from(failed_trial));
        let factor = 1u64.checked_shl(doublings.min(40)).unwrap_or(u64::MAX);
        let own = Millis(first.0.saturating_mul(factor).min(max.0));
        let wait = wait.map_or(own, |wait| Millis(wait.0.clamp(SHORTEST_LIMIT.0.min(max.0), max.0)));
        let ended =
            Health { rejected: 0, failed: Streak::NONE, broken: Streak::NONE, doubt: Doubt::NONE, ..self };
        Health { doublings, ..ended.take_out(Status::RateLimited, wait, stale, now) }
    }

    /// Applies a proven refusal.
    fn rejected(self, others: Others, pool: &KeyPool, stale: bool, now: Micros) -> Health {
        let rejected = self.rejected.saturating_add(1);
        let extended = Health { rejected, failed: Streak::NONE, broken: Streak::NONE, ..self };
        // One refused trial extends the state, however long the streak had to be the first time.
        let is_out = rejected >= pool.rejected.failures || !self.is_active();
        if is_out { extended.refused(Refusal::Rejected, others, pool, stale, now) } else { extended }
    }

    /// Takes a key out that is at fault for a refusal, unless it is the last one in use.
    fn refused(self, refusal: Refusal, others: Others, pool: &KeyPool, stale: bool, now: Micros) -> Health {
        if self.is_in_use() && !others.active {
            return self.suspected(now);
        }
        let ended = Health { failed: Streak::NONE, broken: Streak::NONE, doubt: Doubt::NONE, ..self };
        match refusal {
            Refusal::Rejected => ended.take_out(Status::Disabled, pool.rejected.out_for, stale, now),
            Refusal::Exhausted => ended.take_out(Status::Exhausted, pool.exhausted_for, stale, now),
            Refusal::Limited => ended.limited(None, pool.rate_limited, stale, now),
        }
    }

    /// Makes the key suspect. The next trial is a second away.
    pub fn suspected(self, now: Micros) -> Health {
        let until = now.plus(SUSPECT_TRIAL_AFTER).max(self.until);
        let since = if self.is_suspect() { self.since } else { now };
        Health { status: Status::Suspect, since, until, trial_until: Micros(0), ..self }
    }

    /// Applies a refusal that nothing proves.
    fn unproven(self, seen: Observation, unproven: Unproven, others: Others, pool: &KeyPool) -> Health {
        let Observation { began, now, client, .. } = seen;
        if !self.is_in_use() {
            let stale = began < self.since.plus(STALE_COPY).min(self.until);
            return if stale { self } else { self.refused_trial(unproven.refusal, pool, now) };
        }
        let doubt = self.doubt.extended(unproven.alone, client, now);
        let doubted = Health { doubt, trial_until: Micros(0), ..self };
        if others.trusted && unproven.alone && doubt.is_fault(began) {
            doubted.refused(unproven.refusal, others, pool, false, now)
        } else if self.is_suspect() {
            doubted.suspected(now)
        } else {
            doubted
        }
    }

    /// Extends the state of a key that is out of use after a trial that was refused without a proof. One request may be the reason,
    /// so the next trial is only a second away; the wait doubles each time.
    fn refused_trial(self, refusal: Refusal, pool: &KeyPool, now: Micros) -> Health {
        if refusal == Refusal::Limited && self.status == Status::RateLimited {
            return self.limited(None, pool.rate_limited, false, now);
        }
        let factor = 1u64.checked_shl(self.doublings.min(40)).unwrap_or(u64::MAX);
        let longest = if refusal == Refusal::Exhausted { pool.exhausted_for } else { pool.rejected.out_for };
        let wait = Millis(SUSPECT_TRIAL_AFTER.0.saturating_mul(factor).min(longest.0));
        let doublings = self.doublings.saturating_add(1);
        let until = now.plus(wait).max(self.until);
        Health { doublings, since: now, until, trial_until: Micros(0), ..self }
    }

    /// Takes the key out of use for `span`; a later deadline stays. Ends a trial under way, unless the failed attempt is older
    /// than the state (`stale`).
    fn take_out(self, status: Status, span: Millis, stale: bool, now: Micros) -> Health {
        let (since, trial_until) = if stale { (self.since, self.trial_until) } else { (now, Micros(0)) };
        let until = now.plus(span).max(self.until);
        let status = if stale { self.status.or_refused(status) } else { status };
        Health { status, since, until, trial_until, ..self }
    }
}

#[cfg(test)]
mod tests;
