//! What the engine has to tell the world: transitions, and what was dropped.

use super::Transition;
use crate::shared::dropped::Drops;

/// What the adapter should tell the world after a call.
#[derive(Debug, Default, PartialEq)]
pub struct Notes {
    /// To log, and to count where they are rollbacks.
    pub transitions: Vec<Transition>,
    /// To count.
    pub dropped: Drops,
}
