//! The requests in flight on this worker.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::rc::Rc;

use super::request::Request;
use crate::hash::Spread;
use crate::shared::cell::SharedCell;

/// The requests in flight on this worker: their number and, where there is a `keys` role, the requests by their ids, so that
/// attempts find them.
pub struct Requests {
    by_id: SharedCell<HashMap<u64, Rc<Request>, BuildHasherDefault<Spread>>>,
    next_id: Cell<u64>,
    /// Id of the request that was inserted last, until [`Requests::take_latest`].
    latest: Cell<Option<u64>>,
    in_flight: Rc<Cell<u64>>,
}

impl Requests {
    /// Makes an empty map. `first_id` is random, so that the ids of two VMs do not meet: an id outlives its VM in a request that is
    /// still under way when another VM takes over, and would then name another request.
    pub fn new(first_id: u64) -> Requests {
        Requests {
            by_id: SharedCell::default(),
            next_id: Cell::new(first_id),
            latest: Cell::new(None),
            in_flight: Rc::default(),
        }
    }

    /// Counts one more request as in flight, until the returned value is dropped.
    pub fn count_one(&self) -> InFlight {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        InFlight(Rc::clone(&self.in_flight))
    }

    /// Returns the number of requests in flight, whether or not their attempts can find them.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// Inserts a request, so that its attempts find it. Returns its id.
    pub fn insert(&self, request: &Rc<Request>) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        self.by_id.with_mut(|by_id| by_id.insert(id, Rc::clone(request)));
        self.latest.set(Some(id));
        id
    }

    /// Returns the id of the request that was inserted last, if it was not taken since: an attempt that begins now is probably
    /// the first one of this request.
    pub fn take_latest(&self) -> Option<u64> {
        self.latest.take()
    }

    /// Returns the request of this id, if it is in flight.
    pub fn get(&self, id: u64) -> Option<Rc<Request>> {
        self.by_id.with(|by_id| by_id.get(&id).cloned()).flatten()
    }

    /// Removes the request of this id.
    pub fn remove(&self, id: u64) {
        self.by_id.with_mut(|by_id| by_id.remove(&id));
    }
}

/// Keeps one request in the number of those in flight, until it is dropped.
pub struct InFlight(Rc<Cell<u64>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
