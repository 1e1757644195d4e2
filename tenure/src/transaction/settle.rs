//! What a store is asked about a transaction, and what it answers.
//!
//! ```text
//!              ┌── Commit ───▶ committed        all was written
//!   undecided ─┤          └──▶ rolled back      something stood against it
//!              └── Resolve ──▶ rolled back      a tombstone, which no commit gets past
//! ```
//!
//! What is decided is kept for a time and never decided again: whoever asks the same again gets the same answer. So a reply
//! that got lost is answered by asking again, as for a lock.

use std::time::Duration;

use super::outcome::Reason;
use super::step::Step;
use super::txid::Txid;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::proto::ClaimId;

/// What a store is asked; see [`Store::settle`](crate::store::Store::settle).
#[derive(Clone, Debug, PartialEq)]
pub enum Settle {
    /// To carry out the transaction, all or nothing, unless it is decided.
    Commit(Commit),
    /// To roll it back, unless it is decided.
    Resolve(Txid),
}

/// A transaction to be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// Its name.
    pub txid: Txid,
    /// The claims that have to be in, at least one.
    pub claims: Vec<Claimed>,
    /// What is expected, which is looked at first, and what is written, in order.
    pub steps: Vec<Step>,
    /// For how long the outcome is kept.
    pub memory: Duration,
}

/// A claim that has to be in for a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The lock's name.
    pub lock: Key,
    /// Names the acquisition.
    pub id: ClaimId,
    /// Its newest token. Where it was handed on without asking the store, that learns it by this.
    pub fence: u64,
}

/// What a store answers to a [`Settle`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It was carried out, now or before.
    Committed,
    /// It was not, and never will be.
    RolledBack(Reason),
    /// No commit of it can be carried out any more, and whatever was decided is not known any more.
    Forgotten,
}

/// Why a store of that kind has no transactions, and what has.
pub(crate) fn refused(kind: &str) -> Error {
    let (why, way_out) = match kind {
        "redlock" => (
            "a quorum is no one place in which a check and a write could be one step",
            "take the lock in the store that has the data, or have the resource check the fence",
        ),
        "ring" => (
            "a ring spreads its keys over many stores, and a check and a write have to be one step in one",
            "open the store that has the data by its own URL",
        ),
        "memory" => ("it holds no data but locks", "the tasks of one process can share a value under the guard"),
        "sqlite" => (
            "it holds no data but locks",
            "check the fence in your own transaction, on the connection that writes the data",
        ),
        _ => ("it holds no data but locks", "use a Redis store, or have the resource check the fence"),
    };
    Error::new(ErrorKind::Unsupported, format!("a {kind} store has no transactions: {why}; {way_out}"))
}
