//! Refusals of a key that no other key has proven, in a row.
//!
//! A refusal may be the request's fault: a flagged prompt, a header that fits another organisation. Where a request tries several keys,
//! another key that does well on it proves the refusal. Where it tries one key only, nothing on that request can, so the requests are
//! compared with each other: the key is at fault if five of them in a row were refused, of three different clients where so many are
//! about, while another key served.

use crate::time::Micros;

/// Refusals in a row that put a key in doubt.
const REFUSALS: u32 = 5;
/// Different clients that they must come from, where so many are about.
pub(super) const CLIENTS: usize = 3;

/// Hashes of different clients; 0 is a free place.
pub(super) type Clients = [u64; CLIENTS];

/// Unproven refusals of a key in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Time of the first one.
    pub(super) since: Micros,
    /// Time of the last one.
    pub(super) last: Micros,
    /// Requests that tried this key only.
    pub(super) alone: u32,
    /// Requests that tried other keys as well, which were refused too.
    pub(super) shared: u32,
    /// Clients that were refused.
    pub(super) refused: Clients,
    /// Clients that other keys have served since the first refusal.
    pub(super) served: Clients,
    /// Time at which another key first served one of them.
    pub(super) served_at: Micros,
    /// Time at which another key served last, as far as that was noted: once after each refusal is enough.
    pub(super) served_last: Micros,
}

impl Doubt {
    /// No refusals.
    pub(super) const NONE: Doubt = Doubt {
        since: Micros(0),
        last: Micros(0),
        alone: 0,
        shared: 0,
        refused: [0; CLIENTS],
        served: [0; CLIENTS],
        served_at: Micros(0),
        served_last: Micros(0),
    };

    /// Returns whether the last outcome of the key was such a refusal.
    pub fn is_open(&self) -> bool {
        self.alone > 0 || self.shared > 0
    }

    /// Returns whether another request should carry the key, to clear the doubt: another key has served since the last refusal.
    pub fn is_trial_wanted(&self) -> bool {
        self.is_open() && self.served_last >= self.last
    }

    /// Returns whether the key was refused at `time` or later.
    pub fn is_since(&self, time: Micros) -> bool {
        self.is_open() && self.last >= time
    }

    /// Adds a refusal. `alone`: the request tried no other key.
    pub(super) fn extended(self, alone: bool, client: u64, now: Micros) -> Doubt {
        let begun = if self.is_open() { self } else { Doubt { since: now, ..Doubt::NONE } };
        Doubt {
            last: now,
            alone: begun.alone.saturating_add(u32::from(alone)),
            shared: begun.shared.saturating_add(u32::from(!alone)),
            refused: with(begun.refused, client),
            ..begun
        }
    }

    /// Returns whether a good answer of another key, to a request of this client that began at `began`, adds something.
    pub fn is_changed_by_service(&self, client: u64, began: Micros) -> bool {
        let is_news = self.served_last < self.last || with(self.served, client) != self.served;
        self.is_open() && began >= self.since && is_news
    }

    /// Returns whether a good answer of another key may add something, whichever its client is.
    pub fn has_room(&self, began: Micros) -> bool {
        let has_room = self.served_last < self.last || self.served.contains(&0);
        self.is_open() && began >= self.since && has_room
    }

    /// Adds a client that another key has served.
    pub fn with_service(self, client: u64, began: Micros, now: Micros) -> Doubt {
        if !self.is_changed_by_service(client, began) {
            return self;
        }
        let served_at = if self.served_at == Micros(0) { now } else { self.served_at };
        Doubt { served: with(self.served, client), served_at, served_last: now, ..self }
    }

    /// Returns whether the key is at fault: enough requests that tried no other key were refused, and another key has served since. The
    /// last request began at `began`: after the other key had served, so that the end of an outage is no fault of a key.
    pub(super) fn is_fault(&self, began: Micros) -> bool {
        let another_served = self.served_at != Micros(0) && began >= self.served_at;
        self.alone >= REFUSALS && another_served && self.has_enough_clients()
    }

    /// Returns whether enough requests were refused for the last key of a pool to be suspect.
    pub fn is_suspicion(&self) -> bool {
        self.alone.saturating_add(self.shared) >= REFUSALS && self.has_enough_clients()
    }

    /// Returns whether the refused clients are different enough: three, or all that are about.
    fn has_enough_clients(&self) -> bool {
        let about = self.served.into_iter().filter(|client| *client != 0).fold(self.refused, with);
        count(self.refused) >= count(about)
    }
}

/// Adds a client, if there is room and it is new. A hash of 0 takes the place of 1.
fn with(clients: Clients, client: u64) -> Clients {
    let client = client.max(1);
    let mut changed = clients;
    if !clients.contains(&client)
        && let Some(free) = changed.iter_mut().find(|held| **held == 0)
    {
        *free = client;
    }
    changed
}

fn count(clients: Clients) -> usize {
    clients.into_iter().filter(|client| *client != 0).count()
}
