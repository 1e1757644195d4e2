//! What the journal has of a two-phase transaction: JSON, of the kind `two-phase`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::proto::Micros;
use crate::transaction::journal::Entry;
use crate::transaction::participant::{Branch, Did};

/// What these records are called, among others in the same journal.
pub const KIND: &str = "two-phase";
/// The version of what is in them.
const FORMAT: u32 = 1;

/// What the journal has of a two-phase transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    kind: String,
    format: u32,
    /// The transaction, the lock, the token.
    #[serde(flatten)]
    pub branch: Branch,
    /// When it was begun: microseconds since 1970, by the clock of who began it.
    pub since: Micros,
    /// How far it is.
    pub state: State,
    /// Why it was rolled back, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who takes part.
    pub participants: Vec<Party>,
    /// Who went another way than was decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heuristics: Vec<Heuristic>,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum State {
    /// Nothing is decided: whoever finds it after its coordinator has died decides to roll back.
    Preparing,
    /// It is decided that it happens; not all participants are known to have done it.
    Committed,
    /// It is decided that it does not; not all participants are known to have dropped it.
    Aborted,
    /// It has happened, everywhere.
    DoneCommitted,
    /// It has not happened, anywhere.
    DoneAborted,
}

/// A participant, as the record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its name.
    pub name: String,
    /// Where it is, without a password.
    pub location: String,
}

/// A participant went another way than was decided. Nothing mends that by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heuristic {
    /// Its name.
    pub participant: String,
    /// What was decided.
    pub decided: Decision,
    /// What it did.
    pub did: Did,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// That it happens.
    Commit,
    /// That it does not.
    RollBack,
}

impl State {
    /// What was decided, where something was.
    pub fn decision(self) -> Option<Decision> {
        match self {
            Self::Preparing => None,
            Self::Committed | Self::DoneCommitted => Some(Decision::Commit),
            Self::Aborted | Self::DoneAborted => Some(Decision::RollBack),
        }
    }

    /// Whether all participants have acknowledged.
    pub fn is_done(self) -> bool {
        matches!(self, Self::DoneCommitted | Self::DoneAborted)
    }
}

impl Decision {
    pub(super) fn state(self) -> State {
        match self {
            Self::Commit => State::Committed,
            Self::RollBack => State::Aborted,
        }
    }

    pub(super) fn done(self) -> State {
        match self {
            Self::Commit => State::DoneCommitted,
            Self::RollBack => State::DoneAborted,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "committed",
            Self::RollBack => "rolled back",
        })
    }
}

impl Record {
    pub(super) fn new(branch: Branch, since: Micros, participants: Vec<Party>) -> Self {
        let (kind, format, state) = (KIND.to_owned(), FORMAT, State::Preparing);
        Self { kind, format, branch, since, state, why: None, participants, heuristics: Vec::new() }
    }

    /// The record in an entry; `None` where it is of another kind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] where it cannot be read, [`ErrorKind::Unsupported`] where a later version wrote it.
    pub fn read(entry: &Entry) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
            #[serde(default)]
            format: u32,
        }
        let damaged = |error| {
            let message = format!("the journal's record {:?} cannot be read", entry.id);
            Error::with_source(ErrorKind::Corrupt, message, error)
        };
        let head: Head = serde_json::from_slice(&entry.value).map_err(damaged)?;
        match head {
            Head { kind, .. } if kind != KIND => Ok(None),
            Head { format: FORMAT, .. } => serde_json::from_slice(&entry.value).map(Some).map_err(damaged),
            Head { format, .. } => {
                let message = format!(
                    "the journal's record {:?} is of format {format}, and this is format {FORMAT}: use a later version",
                    entry.id
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and numbers can be written")
    }
}
