//! What is told of two-phase transactions: an event to the client whose hold they are under; where they are settled without a
//! hold, a line of the log.

use super::Outcome;
use super::record::Decision;
use crate::event::{Event, What};
use crate::guard::Guard;
use crate::key::Key;

/// Tells it under the hold, if that is on the lock of this name, or else logs it under the name.
pub(super) fn tell(guard: Option<&Guard>, name: &str, what: impl FnOnce() -> What) {
    match (guard.filter(|guard| guard.name() == name), Key::new(name)) {
        (Some(guard), _) => guard.core().tell(guard.key(), what),
        (None, Ok(name)) => Event { name, what: what() }.log(),
        (None, Err(_)) => {}
    }
}

impl Outcome {
    /// The event of it.
    pub(super) fn what(&self, recovered: bool) -> What {
        let (id, decision, why, pending) = match self {
            Self::Committed { id, pending, .. } => (*id, Decision::Commit, None, pending),
            Self::RolledBack { id, why, pending, .. } => (*id, Decision::RollBack, Some(why.to_string()), pending),
            Self::Unknown { id, error } => return What::TransactionUnknown { id: *id, error: error.to_string() },
        };
        let pending = pending.iter().map(|pending| pending.participant.clone()).collect();
        What::TransactionDecided { id, decision, why, pending, recovered }
    }

    /// How it ended, in a word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Committed { .. } => "committed",
            Self::RolledBack { .. } => "rolled_back",
            Self::Unknown { .. } => "unknown",
        }
    }
}
