//! A transaction that has begun, and how it ends.
//!
//! ```text
//!   commit ──▶ still held, as far as we know? ── no ──▶ rolled back, nothing was sent
//!                │ yes
//!                ▼
//!              the store, one step ──▶ its verdict ──▶ the outcome
//!                ▲         └── no reply: the same again, for some time; what was decided, it answers
//!                └─────────┘                  └──▶ unknown
//! ```
//!
//! While it is not known whether a commit may still come, its hold is not handed on within the process: the store learns of
//! every end of the hold, so that the commit comes before that, or is refused.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use tracing::Instrument;

use super::outcome::{Outcome, Reason};
use super::resolve::ask;
use super::settle::{Claimed, Commit, Settle, Verdict};
use super::step::Step;
use super::told::UnderWay;
use super::txid::Txid;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::guards::Guards;
use crate::hold::{Hold, Loss};

/// A transaction that has begun: its locks are held, and it gathers what to write.
///
/// Dropping it rolls it back: what was staged is forgotten, and the locks that it took are released in the background.
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction {
    pub(super) txid: Txid,
    pub(super) client: Arc<Client>,
    /// In the order of their locks' names.
    pub(super) holds: Vec<Arc<Hold>>,
    /// The guards of the locks that it took itself.
    pub(super) guards: Option<Guards>,
    pub(super) steps: Vec<Step>,
    pub(super) memory: Duration,
}

impl Transaction {
    /// Its name. Keep it where the outcome will have to be known whatever happens: [`Locks::resolve`](crate::Locks::resolve)
    /// tells.
    pub fn id(&self) -> &Txid {
        &self.txid
    }

    /// What is staged so far, in order; further fields, items and members of one collection are part of the same step.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether all its locks are certainly still held. Asks nobody.
    pub fn is_held(&self) -> bool {
        self.lost_lock().is_none()
    }

    /// Runs `work` for as long as its locks are certainly held: reading what is to be changed, say.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when one is lost first; the work is dropped at its next await point then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the work.
    pub async fn protect<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let lost = select_all(self.holds.iter().map(|hold| Box::pin(self.client.keeper.lost(hold))));
        tokio::select! {
            biased;
            (loss, ..) = lost => {
                Err(Error::new(ErrorKind::Lost, format!("a lock of the transaction is no longer held: {loss}")))
            }
            output = work => Ok(output),
        }
    }

    /// Commits: in one step of the store, if all its locks are still held under their fences and all is as expected, all
    /// is written, and else nothing is. It takes one round trip.
    ///
    /// Where no reply comes, the store is asked again under the same name, for up to three times the locks'
    /// [`op_timeout`](crate::LockBuilder::op_timeout); it carries it out at most once. After that the outcome is
    /// [`Unknown`](Outcome::Unknown).
    ///
    /// The locks that the transaction took are released in the background, whatever the outcome, or passed to the next
    /// task of this process. To keep them, take the lock first and begin the transaction on its [guard](crate::Guard).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the commit may have been carried out, or may yet be before the lock is released. The
    /// locks are released in the background, and [`Locks::resolve`](crate::Locks::resolve) tells the outcome.
    pub async fn commit(self) -> Outcome {
        let under_way = UnderWay::begin(&self);
        let outcome = self.carry_out().instrument(under_way.span.clone()).await;
        under_way.ended(&outcome);
        outcome
    }

    /// Forgets what was staged, releases the locks that the transaction took, and says whether all were still ours.
    ///
    /// # Errors
    ///
    /// As [`Guards::release`].
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the releases go on in the background.
    pub async fn rollback(self) -> Result<bool> {
        match self.guards {
            Some(guards) => guards.release().await,
            None => Ok(self.lost_lock().is_none()),
        }
    }

    async fn carry_out(mut self) -> Outcome {
        if let Some(hold) = self.lost_lock() {
            return Outcome::RolledBack(Reason::NotHeld { lock: hold.key.clone() });
        }
        // Before it is known that all are held still, and so before any of them can be handed on.
        let core = self.client.core.clone();
        for (n, hold) in self.holds.iter().enumerate() {
            if !core.lines.begin_commit(hold) {
                self.holds[..=n].iter().for_each(|hold| hold.end_commit());
                return Outcome::RolledBack(Reason::NotHeld { lock: hold.key.clone() });
            }
        }
        let claimed = |hold: &Arc<Hold>| Claimed { lock: hold.key.clone(), id: hold.id, fence: hold.fence.get() };
        let claims = self.holds.iter().map(claimed).collect();
        let steps = std::mem::take(&mut self.steps);
        let settle = Settle::Commit(Commit { txid: self.txid.clone(), claims, steps, memory: self.memory });
        let limit = self.holds.iter().map(|hold| hold.op_timeout).max().unwrap_or_default();
        let answer = ask(&core, &settle, limit).await;
        if !answer.as_ref().is_err_and(is_uncertain) {
            self.holds.iter().for_each(|hold| hold.end_commit());
        }
        match answer {
            Ok(Verdict::Committed) => Outcome::Committed,
            Ok(Verdict::RolledBack(reason)) => {
                self.heed(&reason);
                Outcome::RolledBack(reason)
            }
            Ok(Verdict::Forgotten) => Outcome::RolledBack(Reason::TooLate),
            Err(error) if is_uncertain(&error) => Outcome::Unknown(self.txid),
            Err(error) => Outcome::RolledBack(Reason::Failed(error)),
        }
    }

    /// The first of its holds that is not certain.
    fn lost_lock(&self) -> Option<&Arc<Hold>> {
        let now = self.client.core.env.now();
        self.holds.iter().find(|hold| hold.is_over() || now >= hold.deadline())
    }

    /// Declares lost what the store says is lost.
    fn heed(&self, reason: &Reason) {
        let keeper = &self.client.keeper.shared;
        match reason {
            Reason::NotHeld { lock } => {
                self.holds.iter().filter(|hold| hold.key == *lock).for_each(|hold| keeper.gone(hold));
            }
            Reason::Outdated { lock } => {
                self.holds.iter().filter(|hold| hold.key == *lock).for_each(|hold| keeper.lose(hold, Loss::Gone));
            }
            _ => {}
        }
    }
}

/// Whether the error leaves open what was written.
fn is_uncertain(error: &Error) -> bool {
    error.is_ambiguous() || error.kind() == ErrorKind::Corrupt
}

/// Without the values, which are nobody's but the user's.
impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Transaction");
        debug.field("id", &self.txid).field("steps", &self.steps.len()).field("held", &self.is_held()).finish()
    }
}
