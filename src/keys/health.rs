//! Health of a key: why it is out of use, and how it comes back.
//!
//! Only its own faults take a key out of use:
//!
//! | outcome of an attempt | the key is out of use |
//! |---|---|
//! | 429 ([`KeyOutcome::Limited`]) | at once |
//! | 401 or 403 ([`KeyOutcome::Rejected`]) | after `rejected.after` in a row |
//! | bad answer ([`KeyOutcome::Failed`]), broken stream ([`KeyOutcome::Broke`]) | after `failing.after` in a row, if other keys of the pool work |
//!
//! If all keys of a pool fail, the provider is at fault. To take its keys out of use would make an outage worse.
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
//! * Refusals. Any outcome but another refusal ends the streak.
//!
//! A refusal or a 429 also ends the streaks of bad answers and of broken streams; these two do not end each other. They are
//! separate for the sake of long streams. A single streak, ended by whole answers only, would count each bad answer at once, but
//! a good one not before its end: a healthy key with streams of several minutes would look broken in the first of them.
//!
//! Caller errors neither extend nor end a streak, and a trial that ends with one proves nothing: some providers read the prompt
//! before they look at the key.

mod record;

use serde::{Deserialize, Serialize};

pub use self::record::{Entry, PoolHealth};
use crate::outcome::blame::KeyOutcome;
use crate::plan::pool::{Cooldown, KeyPool, StreakLimit};
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
}

impl Status {
    /// Returns the name in status and events.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::RateLimited => "rate_limited",
            Status::CoolingDown => "cooling_down",
            Status::Disabled => "disabled",
        }
    }

    /// Returns the value of the status gauge.
    pub const fn gauge(self) -> u64 {
        match self {
            Status::Active => 0,
            Status::RateLimited => 1,
            Status::CoolingDown => 2,
            Status::Disabled => 3,
        }
    }

    /// Returns the status after a key that has this one goes out of use again with `next`: a refusal outlasts every other reason.
    const fn or_disabled(self, next: Status) -> Status {
        if matches!(self, Status::Disabled) { Status::Disabled } else { next }
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
        trial_until: Micros(0),
    };

    /// Returns whether any request may use the key.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// Returns whether a trial is due and none is under way.
    pub fn is_trial_due(&self, now: Micros) -> bool {
        !self.is_active() && now >= self.until && now >= self.trial_until
    }

    /// Returns the earliest time at which another request for the key makes sense.
    pub fn returns_at(&self, now: Micros) -> Micros {
        self.until.max(self.trial_until.min(now.plus(TRIAL_RETRY_AFTER)))
    }

    /// Returns whether `outcome` may change anything. The usual answer of a healthy key does not, and need not be applied.
    pub fn is_changed_by(&self, outcome: KeyOutcome) -> bool {
        match outcome {
            KeyOutcome::Completed => *self != Health::default(),
            KeyOutcome::Accepted => !self.is_active() || self.rejected > 0 || self.failed.count > 0,
            KeyOutcome::Inconclusive => !self.is_active(),
            KeyOutcome::Limited(_) | KeyOutcome::Rejected | KeyOutcome::Failed | KeyOutcome::Broke => true,
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
        Health { rejected: other.rejected, failed: other.failed, broken: other.broken, ..self }
    }

    /// Extends the time out of use to `until` at least.
    pub fn out_until_at_least(self, until: Micros) -> Health {
        Health { until: self.until.max(until), ..self }
    }

    /// Begins a trial.
    pub fn start_trial(self, now: Micros) -> Health {
        Health { trial_until: now.plus(TRIAL_EXPIRY), ..self }
    }

    /// Applies the outcome of an attempt. `others_work`: another key of the pool, itself active, has succeeded where this one
    /// failed, in an attempt that began after this one's streak (see [`Health::streak_at_limit`]).
    pub fn apply(self, seen: Observation, others_work: bool, pool: &KeyPool) -> Health {
        let Observation { outcome, began, now } = seen;
        // An attempt that began before its worker could know that the key was out of use is no trial. It says nothing new about
        // the state, except that a limit may be longer. If the key is active again, it says nothing about the time since then.
        let old = began < self.since.plus(STALE_COPY).min(self.until);
        let stale = !self.is_active() && old;
        match outcome {
            KeyOutcome::Completed | KeyOutcome::Accepted | KeyOutcome::Inconclusive if old => self,
            KeyOutcome::Failed | KeyOutcome::Broke if old && self.is_active() => self,
            KeyOutcome::Inconclusive => Health { trial_until: Micros(0), ..self },
            KeyOutcome::Completed => Health::default(),
            KeyOutcome::Accepted => self.accepted(now),
            KeyOutcome::Limited(wait) => self.limited(wait, pool.rate_limited, stale, now),
            KeyOutcome::Rejected => self.rejected(pool.rejected, stale, now),
            KeyOutcome::Failed | KeyOutcome::Broke => {
                let at_limit = others_work && self.streak_at_limit(outcome, now, pool).is_some();
                let extended = match outcome {
                    KeyOutcome::Broke => Health { rejected: 0, broken: self.broken.extended(now), ..self },
                    _ => Health { rejected: 0, failed: self.failed.extended(now), ..self },
                };
                let is_out = at_limit || (!self.is_active() && !stale);
                let status = self.status.or_disabled(Status::CoolingDown);
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
        let ended = Health { rejected: 0, failed: Streak::NONE, broken: Streak::NONE, ..self };
        Health { doublings, ..ended.take_out(Status::RateLimited, wait, stale, now) }
    }

    /// Applies a refusal.
    fn rejected(self, limit: StreakLimit, stale: bool, now: Micros) -> Health {
        let rejected = self.rejected.saturating_add(1);
        let extended = Health { rejected, failed: Streak::NONE, broken: Streak::NONE, ..self };
        // One refused trial extends the state, however long the streak had to be the first time.
        let is_out = rejected >= limit.failures || !self.is_active();
        if is_out { extended.take_out(Status::Disabled, limit.out_for, stale, now) } else { extended }
    }

    /// Takes the key out of use for `span`; a later deadline stays. Ends a trial under way, unless the failed attempt is older
    /// than the state (`stale`).
    fn take_out(self, status: Status, span: Millis, stale: bool, now: Micros) -> Health {
        let (since, trial_until) = if stale { (self.since, self.trial_until) } else { (now, Micros(0)) };
        let until = now.plus(span).max(self.until);
        let status = if stale { self.status.or_disabled(status) } else { status };
        Health { status, since, until, trial_until, ..self }
    }
}

#[cfg(test)]
mod tests;
