//! What is told of a fenced commit: its span, its figures, and an event.

use std::sync::Arc;

use tracing::Span;

use super::commit::Transaction;
use super::outcome::{Outcome, Reason};
use super::txid::Txid;
use crate::client::Core;
use crate::env::Moment;
use crate::error::ErrorKind;
use crate::event::What;
use crate::trace;

/// How a commit ended, in few words, whatever may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Committed,
    /// For one of [`WHYS`].
    RolledBack(&'static str),
    /// For one of [`DOUBTS`].
    Unknown(&'static str),
}

/// Why commits are rolled back.
#[cfg(feature = "metrics")]
pub(crate) const WHYS: [&str; 6] = ["lost", "unexpected", "refused", "resolved", "late", "store"];
/// Why it is not known.
#[cfg(feature = "metrics")]
pub(crate) const DOUBTS: [&str; 2] = ["no_reply", "cancelled"];

impl Ending {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Committed => Self::Committed,
            Outcome::Unknown(_) => Self::Unknown("no_reply"),
            Outcome::RolledBack(reason) => Self::RolledBack(match reason {
                Reason::NotHeld { .. } | Reason::Outdated { .. } => "lost",
                Reason::Unexpected { .. } => "unexpected",
                Reason::WrongType { .. } | Reason::NoNumber { .. } | Reason::Denied { .. } => "refused",
                Reason::Resolved => "resolved",
                Reason::TooLate => "late",
                Reason::Failed(error) if error.kind() == ErrorKind::Invalid => "refused",
                Reason::Failed(_) => "store",
            }),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack(_) => "rolled_back",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What went wrong, if anything did: that something was not as expected is no error.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::RolledBack(why @ ("lost" | "refused" | "store")) | Self::Unknown(why) => Some(why),
            Self::Committed | Self::RolledBack(_) => None,
        }
    }
}

/// A commit that is under way. Where its future is dropped, so is this, and tells that.
#[derive(Debug)]
pub(super) struct UnderWay {
    core: Arc<Core>,
    txid: Txid,
    since: Moment,
    pub(super) span: Span,
    is_told: bool,
}

impl UnderWay {
    pub(super) fn begin(tx: &Transaction) -> Self {
        let (core, span) = (tx.client.core.clone(), trace::commit(&tx.txid, tx.holds.len(), tx.steps.len()));
        Self { since: core.env.now(), core, txid: tx.txid.clone(), span, is_told: false }
    }

    pub(super) fn ended(mut self, outcome: &Outcome) {
        self.tell(Ending::of(outcome), outcome);
    }

    fn tell(&mut self, ending: Ending, outcome: &Outcome) {
        self.is_told = true;
        let took = self.core.env.now() - self.since;
        self.core.meters.commit_ended(ending, took);
        trace::settled(&self.span, ending.word(), ending.error());
        self.core.tell_in(&self.span, self.txid.lock(), || {
            let txid = self.txid.clone();
            match outcome {
                Outcome::Committed => What::Committed { txid, took },
                Outcome::RolledBack(reason) => What::RolledBack { txid, took, why: reason.to_string() },
                Outcome::Unknown(_) => What::CommitUnknown { txid, took },
            }
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(Ending::Unknown("cancelled"), &Outcome::Unknown(self.txid.clone()));
        }
    }
}
