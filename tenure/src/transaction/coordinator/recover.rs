//! What others have left undone is settled: by the next holder of the lock, or by anybody.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::decide::Seen;
use super::record::{Decision, Record};
use super::told::tell;
use super::{Coordinator, Outcome, Pending, Reason, Recovered, records};
use crate::error::{Error, ErrorKind, Result};
use crate::event::What;
use crate::guard::Guard;
use crate::transaction::TransactionId;
use crate::transaction::journal::{Entry, lock_of};
use crate::transaction::participant::{Ack, Branch, ShareState};

impl Coordinator {
    /// Settles what earlier holders of this lock have left undone. To be called once with each hold, before what the lock
    /// protects is looked at.
    ///
    /// # Errors
    ///
    /// Where the journal cannot be read. What could not be settled, for participants are away, is in the answer.
    ///
    /// # Cancel safety
    ///
    /// What was settled is settled; call it again for the rest.
    pub async fn recover(&self, guard: &Guard) -> Result<Recovered> {
        let (lock, fence) = (guard.name(), guard.fence());
        self.recover_if(Some(guard), &|branch, _| branch.lock == lock && branch.fence < fence).await
    }

    /// Settles whatever was begun more than `age` ago, of any lock: for those who look after a deployment. A transaction that
    /// still goes on is rolled back by it, unless it is decided.
    ///
    /// # Errors
    ///
    /// As [`recover`](Self::recover).
    ///
    /// # Cancel safety
    ///
    /// As [`recover`](Self::recover).
    pub async fn recover_older(&self, age: std::time::Duration) -> Result<Recovered> {
        let before = self.env.wall().saturating_sub(crate::proto::micros(age));
        self.recover_if(None, &|_, record| record.is_none_or(|record| record.since <= before)).await
    }

    async fn recover_if(
        &self,
        guard: Option<&Guard>,
        concerns: &(dyn Fn(&Branch, Option<&Record>) -> bool + Sync),
    ) -> Result<Recovered> {
        let (mut recovered, lock) = (Recovered::default(), guard.map(Guard::name));
        // First those who take part, and then the journal: what was staged before has had its record before.
        let mut lists: Vec<BoxFuture<'_, _>> = Vec::new();
        for participant in &self.participants {
            lists.push(Box::pin(self.limited(participant.list(lock))));
        }
        let shares = join_all(lists).await;
        let entries = self.retry(self.settle_timeout, || self.journal.unsettled()).await?;
        let (records, unreadable) = records(&entries);
        let may_be_of = |entry: &Entry| lock.zip(lock_of(entry)).is_none_or(|(lock, theirs)| lock == theirs);
        let told = unreadable.into_iter().filter(|(entry, _)| may_be_of(entry));
        recovered.unreadable.extend(told.map(|(entry, error)| (entry.id.clone(), error)));
        let is_undone = |record: &&Record| !record.state.is_done() && concerns(&record.branch, Some(record));
        for record in records.iter().filter(is_undone) {
            match self.settle(record.branch.id, guard).await {
                // Somebody else has settled it meanwhile, and its record is gone.
                Err(error) if error.kind() == ErrorKind::Missing => {}
                outcome => recovered.outcomes.push(outcome?),
            }
        }
        for (participant, shares) in self.participants.iter().zip(shares) {
            let name = participant.name().to_owned();
            let shares = match shares {
                Ok(shares) => shares,
                Err(error) => {
                    recovered.away.push(Pending { participant: name, error });
                    continue;
                }
            };
            for share in shares {
                let seen = match self.retry(self.settle_timeout, || self.find(share.branch.id).boxed()).await {
                    Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                        let id = share.branch.id.to_string();
                        if concerns(&share.branch, None) && !recovered.unreadable.iter().any(|(known, _)| *known == id)
                        {
                            recovered.unreadable.push((id, error));
                        }
                        continue;
                    }
                    seen => seen?,
                };
                let record = seen.as_ref().map(|seen| &seen.record);
                if !concerns(&share.branch, record) {
                    continue;
                }
                match share.state {
                    ShareState::Staged if record.is_none() => recovered.orphans.push((name.clone(), share.branch)),
                    ShareState::Staged => {
                        if let Err(error) = self.tell_again(&name, &share.branch, record).await {
                            recovered.away.push(Pending { participant: name.clone(), error });
                        }
                    }
                    // It was not told to forget, for whoever was to tell it died. What has no record here may be another
                    // journal's, whose recovery will ask what became of it.
                    _ if record.is_some_and(|record| record.state.is_done()) => {
                        let _ = self.limited(participant.forget(&share.branch)).await;
                    }
                    _ => {}
                }
            }
        }
        for (id, error) in &recovered.unreadable {
            tell(guard, lock.unwrap_or(id), || What::RecordUnreadable { id: id.clone(), error: error.to_string() });
        }
        Ok(recovered)
    }

    /// Tells a participant once more that has something staged of what is done, as one whose data was restored from a copy.
    /// What is not done was settled before.
    async fn tell_again(&self, name: &str, branch: &Branch, record: Option<&Record>) -> Result<()> {
        let Some(record) = record.filter(|record| record.state.is_done()) else { return Ok(()) };
        let party = record.participants.iter().find(|party| party.name == name);
        match (party, record.state.decision()) {
            (Some(party), Some(decision)) => self.tell(party, branch, decision).await.map(drop),
            _ => Ok(()),
        }
    }

    /// What became of a transaction: it is settled now, if it was not. One that nobody has decided on is rolled back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Missing`] where the journal has nothing of it: it was never begun, or done longer ago than the
    /// [retention](Self::retention). Otherwise where the journal cannot be read or written.
    ///
    /// # Cancel safety
    ///
    /// It may be settled or not; call it again.
    pub async fn resolve(&self, id: TransactionId) -> Result<Outcome> {
        match self.settle(id, None).await? {
            Outcome::Unknown { error, .. } => Err(error),
            outcome => Ok(outcome),
        }
    }

    /// Settles it, and tells that under the hold, where there is one.
    pub(super) async fn settle(&self, id: TransactionId, guard: Option<&Guard>) -> Result<Outcome> {
        let Some(Seen { record, version }) = self.retry(self.settle_timeout, || self.find(id).boxed()).await? else {
            let message = format!(
                "{} has no record of the transaction {id}: it was never begun, or done a long time ago",
                self.journal.location()
            );
            return Err(Error::new(ErrorKind::Missing, message));
        };
        let lock = record.branch.lock.clone();
        let outcome = self.settle_seen(Seen { record, version }).await?;
        tell(guard, &lock, || outcome.what(true));
        Ok(outcome)
    }

    async fn settle_seen(&self, seen: Seen) -> Result<Outcome> {
        if seen.record.state.decision().is_some() {
            return Ok(self.drive(seen).await);
        }
        let Seen { record, version } = seen;
        let id = record.branch.id;
        let why = || Reason::Elsewhere("it was found undecided, and recovered".to_owned());
        match self.decide(record, version, || (Decision::RollBack, Some(why()))).await {
            Ok(Some(decided)) => Ok(self.drive(decided).await),
            Ok(None) => {
                Err(Error::new(ErrorKind::Missing, format!("the record of the transaction {id} has gone meanwhile")))
            }
            Err(error) => Ok(Outcome::Unknown { id, error }),
        }
    }

    /// Rolls back, at one participant, what is staged there and has no record: see [`Recovered::orphans`].
    ///
    /// **Only where the journal that it was begun in is lost for good**: in another journal it may be committed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] where this journal has a record of it: recover it instead. Otherwise that of the participant.
    ///
    /// # Cancel safety
    ///
    /// It may be rolled back or not; call it again.
    pub async fn abandon(&self, participant: &str, branch: &Branch) -> Result<Ack> {
        let invalid = |message| Error::new(ErrorKind::Invalid, message);
        if self.limited(self.find(branch.id)).await?.is_some() {
            return Err(invalid(format!("the journal has a record of {}: recover it", branch.id)));
        }
        let known = self.named(participant);
        let known = known.ok_or_else(|| invalid(format!("there is no participant {participant:?} here")))?;
        self.limited(known.rollback(branch)).await
    }

    /// Removes the record of a transaction that is done, before its time: one with heuristics that somebody has looked at.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] where it is not done, [`ErrorKind::Missing`] where there is none, otherwise the journal's.
    ///
    /// # Cancel safety
    ///
    /// It may be removed or not; call it again.
    pub async fn remove(&self, id: TransactionId) -> Result<()> {
        match self.limited(self.find(id)).await? {
            None => Err(Error::new(ErrorKind::Missing, format!("there is no record of the transaction {id}"))),
            Some(seen) if !seen.record.state.is_done() => {
                let message = format!("the transaction {id} is not done everywhere: recover it first");
                Err(Error::new(ErrorKind::Invalid, message))
            }
            Some(seen) => self.limited(self.journal.forget(&id.to_string(), seen.version)).await.map(drop),
        }
    }
}
