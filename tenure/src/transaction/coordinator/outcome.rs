//! What becomes of a transaction, as its caller is told.

use std::fmt;

use super::record::Heuristic;
use crate::error::Error;
use crate::transaction::TransactionId;
use crate::transaction::participant::{Branch, Refusal};

/// What became of a transaction.
#[derive(Clone, Debug)]
#[must_use = "it may have been rolled back, or be unknown"]
pub enum Outcome {
    /// It happens. That is decided and on the journal's disk.
    Committed {
        /// The transaction.
        id: TransactionId,
        /// Who has not done it yet, as far as is known: recovery will see to it. Empty as a rule.
        pending: Vec<Pending>,
        /// Who has gone another way, and will not do it.
        heuristics: Vec<Heuristic>,
    },
    /// It does not happen.
    RolledBack {
        /// The transaction.
        id: TransactionId,
        /// Why.
        why: Reason,
        /// Who may still have something staged: recovery will see to it.
        pending: Vec<Pending>,
        /// Who has gone another way, and has done it.
        heuristics: Vec<Heuristic>,
    },
    /// The decision may have reached the journal, which did not answer in time. Recovery settles it, and
    /// [`resolve`](super::Coordinator::resolve) does so now and tells.
    Unknown {
        /// The transaction.
        id: TransactionId,
        /// What went wrong.
        error: Error,
    },
}

impl Outcome {
    /// Whether it is certain that it happens.
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed { .. })
    }

    /// The transaction.
    pub fn id(&self) -> TransactionId {
        match self {
            Self::Committed { id, .. } | Self::RolledBack { id, .. } | Self::Unknown { id, .. } => *id,
        }
    }
}

/// A participant that is not known to have done what was decided.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its name.
    pub participant: String,
    /// What it last said, or why it could not be asked.
    pub error: Error,
}

/// Why a transaction was rolled back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The hold was no longer certain when it came to deciding.
    Lost,
    /// A participant refused.
    Refused {
        /// Its name.
        participant: String,
        /// Why it did.
        refusal: Refusal,
    },
    /// A participant failed, or did not answer in time.
    Failed {
        /// Its name.
        participant: String,
        /// How.
        error: Error,
    },
    /// The journal failed before anything was decided.
    Journal(Error),
    /// Somebody else decided so, for the reason that the record has.
    Elsewhere(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("the hold was no longer certain"),
            Self::Refused { participant, refusal } => write!(f, "{participant} refused: {refusal}"),
            Self::Failed { participant, error } => write!(f, "{participant} failed: {error}"),
            Self::Journal(error) => write!(f, "the journal failed: {error}"),
            Self::Elsewhere(why) => f.write_str(why),
        }
    }
}

/// What a recovery came to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// What became of the transactions that were not done, the oldest first.
    pub outcomes: Vec<Outcome>,
    /// What is staged at a participant, by its name, and has no record in this journal: of a coordinator with another
    /// journal, or of a journal that was lost. It is left alone; where nobody knows of it,
    /// [`abandon`](super::Coordinator::abandon) rolls it back.
    pub orphans: Vec<(String, Branch)>,
    /// Participants that could not be asked what they have.
    pub away: Vec<Pending>,
    /// Records that cannot be read, by their ids, and why: damaged, or of a later version. What they are about is left as it
    /// is. Where the lock of one cannot be told, it is in the recovery of every lock.
    pub unreadable: Vec<(String, Error)>,
}

impl Recovered {
    /// Whether all is settled, everywhere.
    pub fn is_complete(&self) -> bool {
        let settled = |outcome: &Outcome| match outcome {
            Outcome::Committed { pending, .. } | Outcome::RolledBack { pending, .. } => pending.is_empty(),
            Outcome::Unknown { .. } => false,
        };
        let Self { outcomes, orphans, away, unreadable } = self;
        orphans.is_empty() && away.is_empty() && unreadable.is_empty() && outcomes.iter().all(settled)
    }
}
