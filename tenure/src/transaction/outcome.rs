//! What came of a transaction.

use std::fmt;

use bytes::Bytes;

use super::txid::Txid;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

/// What came of a transaction.
#[derive(Clone, Debug)]
#[must_use = "a transaction that was not committed is nobody else's concern"]
pub enum Outcome {
    /// All of it was written.
    Committed,
    /// Nothing of it was written, nor ever will be.
    RolledBack(Reason),
    /// No reply came: all of it was written, or nothing. [`Locks::resolve`](crate::Locks::resolve) settles it.
    Unknown(Txid),
}

/// Why nothing of a transaction was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The lock was no longer held: it expired, was released or broken.
    NotHeld {
        /// Which.
        lock: Key,
    },
    /// The lock was granted to another one since, under a later fence.
    Outdated {
        /// Which.
        lock: Key,
    },
    /// What lies under a key is not what was expected.
    Unexpected {
        /// Which.
        key: Bytes,
    },
    /// What lies under a key is of another type than the command works on.
    WrongType {
        /// Which.
        key: Bytes,
    },
    /// What lies under a key is no whole number, or would not be one of 64 bits any more.
    NoNumber {
        /// Which.
        key: Bytes,
    },
    /// The store does not let this user run a command of it.
    Denied {
        /// The command's name.
        command: String,
        /// Its key.
        key: Bytes,
    },
    /// It was resolved before it was committed.
    Resolved,
    /// It was to be committed later than its outcomes are kept for after its beginning.
    TooLate,
    /// The store did not take it, or it cannot be meant; the error says why.
    Failed(Error),
}

impl Outcome {
    /// Whether all of it was written.
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed)
    }

    /// The outcome as a result, for `?`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoReply`] where it is unknown; the message has the transaction's name. Where it was rolled back:
    /// [`ErrorKind::Lost`] for want of the lock, the error of a store that failed, and else [`ErrorKind::RolledBack`].
    pub fn committed(self) -> Result<()> {
        match self {
            Self::Committed => Ok(()),
            Self::RolledBack(Reason::Failed(error)) => Err(error),
            Self::RolledBack(reason) => {
                let kind = match reason {
                    Reason::NotHeld { .. } | Reason::Outdated { .. } => ErrorKind::Lost,
                    _ => ErrorKind::RolledBack,
                };
                Err(Error::new(kind, format!("the transaction was rolled back: {reason}")))
            }
            Self::Unknown(txid) => {
                let message = format!("whether the transaction {txid} was committed is not known: resolve it");
                Err(Error::new(ErrorKind::NoReply, message))
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed => f.write_str("committed"),
            Self::RolledBack(reason) => write!(f, "rolled back: {reason}"),
            Self::Unknown(txid) => write!(f, "unknown: resolve {txid}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHeld { lock } => write!(f, "the lock {lock:?} was no longer held"),
            Self::Outdated { lock } => write!(f, "the lock {lock:?} was granted to another one since"),
            Self::Unexpected { key } => write!(f, "what lies under {:?} is not what was expected", Shown(key)),
            Self::WrongType { key } => {
                write!(f, "what lies under {:?} is of another type than the command works on", Shown(key))
            }
            Self::NoNumber { key } => {
                write!(f, "what lies under {:?} is no whole number, or would be one of more than 64 bits", Shown(key))
            }
            Self::Denied { command, key } => {
                write!(f, "the store does not let this user run {command} on {:?}", Shown(key))
            }
            Self::Resolved => f.write_str("it was resolved before it was committed"),
            Self::TooLate => f.write_str("it came later than its outcome would be kept for: see outcome_memory"),
            Self::Failed(error) => fmt::Display::fmt(error, f),
        }
    }
}

/// The beginning of a key, as text where it is.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.0[..self.0.len().min(80)]);
        write!(f, "\"{}{}\"", start.escape_debug(), if self.0.len() > 80 { "…" } else { "" })
    }
}
