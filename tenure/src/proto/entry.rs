//! What a lock's [`Record`](super::Record) is made of: the claims that are in or wait, and the ids that may not come
//! back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Micros;
use super::op::{ClaimId, Inbox, Owner};

/// Later than any time: the largest whole number below which a double holds every one.
pub const NEVER: Micros = (1 << 53) - 1;

/// One claim that is in or waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Names the acquisition.
    pub id: ClaimId,
    /// Whose it is; `None` is nobody else's.
    pub owner: Option<Owner>,
    /// How many permits it claims.
    pub permits: u32,
    /// When it was let in, or took its place.
    pub since: Micros,
    /// When its time passes.
    pub until: Micros,
    /// Its token; zero while it waits.
    pub fence: u64,
    /// The number of its place; kept, but of no meaning, once it is in.
    pub ticket: i64,
    /// Where to tell that it was let in.
    pub inbox: Inbox,
    /// What others may read about it.
    pub meta: Bytes,
}

impl Entry {
    /// Whether it belongs to that owner; never without one.
    pub(super) fn is_of(&self, owner: Option<&Owner>) -> bool {
        owner.is_some() && self.owner.as_ref() == owner
    }
}

/// An id that may not come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// The id.
    pub id: ClaimId,
    /// Until when it is refused.
    pub until: Micros,
}
