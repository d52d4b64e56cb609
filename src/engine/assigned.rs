//! The decision about one request.

use std::cell::Cell;
use std::rc::Rc;

use crate::route::Choice;

/// A decision and its circumstances. They decide how the request's outcomes are judged, however much time has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The decision.
    pub choice: Choice,
    /// Epoch of the chosen version.
    pub epoch: u32,
    /// Share of each version at that time, in basis points.
    pub shares: Rc<[u16]>,
    /// Stage of the ramp. Its guard defines errors.
    pub stage: Option<u32>,
    /// Id of its place as a probe, if it is one.
    pub lease: Option<u64>,
    /// Id of a canary's request, which may become evidence.
    pub request_id: Option<Rc<str>>,
    /// The parts of this request that were compared. One toss of the coin gives one sample, however often Envoy retries.
    pub compared: Cell<Compared>,
}

/// The parts of a request that were compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Set when a failure was.
    pub failed: bool,
    /// Set when a latency was.
    pub timed: bool,
}

impl Assigned {
    /// Makes a decision that forces a version. Its outcomes are not compared, for chance did not choose it. The epoch is 0;
    /// [`super::Binding::forced`] takes the version's present epoch.
    pub fn forced(version: usize) -> Assigned {
        let choice = Choice { version, forced: true, probe: false, identity: None };
        Assigned {
            choice,
            epoch: 0,
            shares: Rc::default(),
            stage: None,
            lease: None,
            request_id: None,
            compared: Cell::default(),
        }
    }
}
