//! The journal's part: the first record, and the decision, each by compare-and-set and settled for certain.

use super::record::{Decision, Record};
use super::{Coordinator, FIRST_PAUSE, LONGEST_PAUSE, Reason};
use crate::error::Result;
use crate::transaction::TransactionId;
use crate::transaction::journal::{Keep, Written};

/// A record as the journal has it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) record: Record,
    pub(super) version: u64,
}

impl Coordinator {
    /// Writes the first record of a transaction; its version.
    ///
    /// # Errors
    ///
    /// Where the journal did not answer in time, or refused: the record may be there or come yet.
    pub(super) async fn write_first(&self, record: &Record) -> Result<u64> {
        let (id, value) = (record.branch.id.to_string(), record.write());
        let write = || self.journal.write(&id, None, &value, Keep::UntilForgotten);
        match self.retry(self.settle_timeout, write).await? {
            Written::Done(version) => Ok(version),
            // An attempt before, which was not answered. Whoever may have seen it has decided by another version.
            Written::Conflict => Ok(1),
        }
    }

    /// Writes what is wanted, unless something is decided already; then that is the decision. `None` where the record is
    /// gone and nothing of ours was under way: somebody else has had it rolled back, some time ago.
    ///
    /// # Errors
    ///
    /// Where the journal refused or did not answer in time: ambiguous exactly if the decision may be there, or come yet.
    pub(super) async fn decide(
        &self,
        record: Record,
        version: u64,
        wanted: impl Fn() -> (Decision, Option<Reason>),
    ) -> Result<Option<Seen>> {
        let (id, deadline) = (record.branch.id, self.env.now() + self.settle_timeout);
        let (mut seen, mut pause, mut doubt) = (Seen { record, version }, FIRST_PAUSE, None);
        loop {
            let (decision, why) = wanted();
            let mut decided = seen.record.clone();
            (decided.state, decided.why) = (decision.state(), why.map(|why| why.to_string()));
            let failure = match self.replace(&seen, &decided, Keep::UntilForgotten).await {
                Ok(Written::Done(version)) => return Ok(Some(Seen { record: decided, version })),
                Ok(Written::Conflict) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = failure.as_ref().filter(|error| error.is_ambiguous()) {
                doubt = Some(error.clone());
            }
            let failure = match (failure, &doubt) {
                (Some(error), None) => error,
                // Ask what is there now.
                _ => match self.limited(self.find(id)).await {
                    Ok(Some(there)) if there.record.state.decision().is_some() => return Ok(Some(there)),
                    // Done and gone meanwhile, perhaps by what we wrote: nobody knows any more.
                    Ok(None) => return doubt.map_or(Ok(None), Err),
                    Ok(Some(there)) => {
                        seen = there;
                        doubt.clone().unwrap_or_else(|| conflict(id))
                    }
                    Err(error) => error,
                },
            };
            let wait = self.env.jitter(pause);
            if !failure.is_transient() || self.env.now() + wait >= deadline {
                return Err(doubt.unwrap_or(failure));
            }
            self.env.sleep(wait).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Writes `next` over what was seen.
    pub(super) async fn replace(&self, seen: &Seen, next: &Record, keep: Keep) -> Result<Written> {
        let (id, value) = (next.branch.id.to_string(), next.write());
        self.limited(self.journal.write(&id, Some(seen.version), &value, keep)).await
    }

    /// What the journal has of a transaction.
    pub(super) async fn find(&self, id: TransactionId) -> Result<Option<Seen>> {
        let Some(entry) = self.journal.load(&id.to_string()).await? else { return Ok(None) };
        let record = Record::read(&entry)?;
        Ok(record.map(|record| Seen { record, version: entry.version }))
    }
}

fn conflict(id: TransactionId) -> crate::Error {
    let message = format!("others keep changing the record of {id} and do not decide");
    crate::Error::new(crate::ErrorKind::Unavailable, message)
}
