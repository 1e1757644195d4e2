//! One transaction, from its first record to its last.

use std::fmt;

use futures_util::future::{BoxFuture, join_all};
use tracing::Instrument;

use super::record::{Decision, Party, Record};
use super::told::tell;
use super::{Coordinator, Outcome, Reason};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::trace;
use crate::transaction::TransactionId;
use crate::transaction::participant::{Branch, Refusal, Vote};

/// A transaction that is being put together. Made by [`Coordinator::begin`]; dropping it does nothing.
#[must_use = "nothing happens until it is committed"]
pub struct Transaction<'a> {
    coordinator: &'a Coordinator,
    guard: &'a Guard,
    id: TransactionId,
    work: Vec<(String, Vec<u8>)>,
}

/// Without the work: what is paid, and to whom, is nobody's but the user's.
impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.work.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Transaction").field("id", &self.id).field("participants", &names).finish_non_exhaustive()
    }
}

impl<'a> Transaction<'a> {
    pub(super) fn new(coordinator: &'a Coordinator, guard: &'a Guard) -> Self {
        Self { coordinator, guard, id: coordinator.new_id(), work: Vec::new() }
    }

    /// What it is called, to [resolve](Coordinator::resolve) it by where the process does not live to see its end.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// Gives a participant something to do, in its own terms.
    pub fn work(mut self, participant: &str, work: impl Into<Vec<u8>>) -> Self {
        self.work.push((participant.to_owned(), work.into()));
        self
    }

    /// Has all participants do their work, or none of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] where a participant is not known or given work twice, [`ErrorKind::Unsupported`] under a hold
    /// that is [degraded](Guard::is_degraded): nothing was done. What goes wrong later is in the [`Outcome`].
    ///
    /// # Cancel safety
    ///
    /// Where the future is dropped the transaction stands still, committed or not, as if the process had died:
    /// [`resolve`](Coordinator::resolve) it by its [id](Self::id), or leave it to recovery.
    pub async fn commit(self) -> Result<Outcome> {
        let names: Vec<&str> = self.work.iter().map(|(name, _)| name.as_str()).collect();
        self.coordinator.check(&names)?;
        if self.guard.is_degraded() {
            let message = format!(
                "the hold on {:?} is degraded and has no token: a transaction under it could not be told from a later one",
                self.guard.name()
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (guard, span) = (self.guard, trace::transaction(self.id, self.guard, self.work.len()));
        let outcome = self.run().instrument(span.clone()).await;
        trace::settled(&span, outcome.word(), matches!(outcome, Outcome::Unknown { .. }).then_some("unknown"));
        span.in_scope(|| tell(Some(guard), guard.name(), || outcome.what(false)));
        Ok(outcome)
    }

    async fn run(self) -> Outcome {
        let Self { coordinator, guard, id, .. } = self;
        let rolled_back = |why| Outcome::RolledBack { id, why, pending: Vec::new(), heuristics: Vec::new() };
        if !guard.is_held() {
            return rolled_back(Reason::Lost);
        }
        let branch = Branch { id, lock: guard.name().to_owned(), fence: guard.fence() };
        let party = |(name, _): &(String, _)| {
            let location = coordinator.named(name).map(|participant| participant.location()).unwrap_or_default();
            Party { name: name.clone(), location }
        };
        let record = Record::new(branch.clone(), coordinator.env.wall(), self.work.iter().map(party).collect());
        let version = match coordinator.write_first(&record).await {
            Ok(version) => version,
            // Nobody has prepared. If the record comes late, recovery aborts it.
            Err(error) => return rolled_back(Reason::Journal(error)),
        };
        // What is under way then is refused when it arrives.
        let refused = tokio::select! {
            biased;
            _ = guard.lost() => Some(Reason::Lost),
            refused = self.prepare(&branch) => refused,
        };
        let wanted = || match &refused {
            Some(why) => (Decision::RollBack, Some(why.clone())),
            None if !guard.is_held() => (Decision::RollBack, Some(Reason::Lost)),
            None => (Decision::Commit, None),
        };
        match coordinator.decide(record, version, wanted).await {
            Ok(Some(decided)) => {
                let mut outcome = coordinator.drive(decided).await;
                if let Outcome::RolledBack { why, .. } = &mut outcome {
                    let ours = refused.clone().unwrap_or(Reason::Lost);
                    // In the words of the record: it was decided here, and more is known of it.
                    if ours.to_string() == why.to_string() {
                        *why = ours;
                    }
                }
                outcome
            }
            Ok(None) => rolled_back(Reason::Elsewhere("recovered by somebody else, some time ago".to_owned())),
            // The write may have arrived.
            Err(error) if error.is_ambiguous() => Outcome::Unknown { id, error },
            // It certainly did not, and whatever finds the record aborts it.
            Err(error) => rolled_back(Reason::Journal(error)),
        }
    }

    /// Has all prepare at once; why it cannot be committed, if so.
    async fn prepare(&self, branch: &Branch) -> Option<Reason> {
        let mut all: Vec<BoxFuture<'_, _>> = Vec::new();
        for (name, work) in &self.work {
            all.push(Box::pin(self.prepare_one(name, branch, work)));
        }
        join_all(all).await.into_iter().find_map(|one| one.err())
    }

    async fn prepare_one(&self, name: &str, branch: &Branch, work: &[u8]) -> Result<(), Reason> {
        let Self { coordinator, .. } = self;
        let participant = coordinator.named(name).expect("it was looked for before");
        let mut recovered = false;
        loop {
            let within = coordinator.prepare_timeout;
            match coordinator.retry(within, || participant.prepare(branch, work)).await {
                Ok(Vote::Prepared) => return Ok(()),
                // Something of an earlier hold: the journal knows what has to become of it.
                Ok(Vote::Refused(Refusal::InDoubt { id })) if !recovered => {
                    recovered = true;
                    let settled = coordinator.settle(id, Some(self.guard)).await;
                    tracing::info!(%id, ?settled, participant = name, "settled before a later transaction");
                }
                Ok(Vote::Refused(refusal)) => {
                    return Err(Reason::Refused { participant: name.to_owned(), refusal });
                }
                Err(error) => return Err(Reason::Failed { participant: name.to_owned(), error }),
            }
        }
    }
}
