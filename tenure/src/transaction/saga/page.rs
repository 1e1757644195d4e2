//! One saga's record in the journal, in the hands of one run.
//!
//! Each write says which version it has seen, and carries the fence of its holder. A later holder writes its own
//! fence first of all; the write of an earlier one, however late it comes, has then seen an older version and changes
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::build::Definition;
use super::record::{Record, SagaState};
use crate::client::Core;
use crate::env::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::proto::ClaimId;
use crate::transaction::journal::{Entry, Journal, Keep, Written};

/// How long the journal may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The same for a list of all that is there.
pub(super) const LISTING: Duration = Duration::from_secs(60);
/// How long it may have failed without a break before the run ends, which another one goes on with.
const OUTAGE: Duration = Duration::from_secs(10);
/// How often it is taken up anew when something came in between.
const RETAKES: u32 = 5;
/// How long after a failure it is asked again, at first; it doubles, up to `RETRY_MOST`.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// The record's id in the journal.
pub(super) fn entry_id(saga: &str, id: &str) -> String {
    format!("saga:{saga}/{id}")
}

pub(super) struct Page<'a> {
    pub(super) record: Record,
    entry: String,
    /// The version that was seen last, if there is any.
    seen: Option<u64>,
    journal: &'a dyn Journal,
    keep: Duration,
    core: Arc<Core>,
    /// How it stood when it was taken up, where it was there.
    pub(super) was: Option<SagaState>,
}

impl<'a> Page<'a> {
    /// Begins a saga, or takes up the one of that id: in either case with a write, after which no earlier holder and no
    /// earlier run can write any more. `change` is made to one that is there.
    pub(super) async fn take<C>(
        saga: &'a Definition<C>,
        guard: &Guard,
        id: &str,
        input: Option<&Value>,
        change: impl Fn(&mut Record),
    ) -> Result<Self> {
        let mut retakes = 0;
        loop {
            let mut page = Self::open(saga, guard, id, input, &change).await?;
            // What has ended for good stays as it is.
            if page.record.is_settled() {
                return Ok(page);
            }
            let run = ClaimId::new(page.core.env.bits()).to_string();
            (page.record.fence, page.record.run) = (guard.fence(), run);
            match page.write().await {
                // A write of an earlier run was still on its way: it came in between. A later holder is found out above.
                Err(error) if error.is_lost() && retakes < RETAKES => retakes += 1,
                written => return written.map(|()| page),
            }
        }
    }

    /// What is there, as it is to be taken up; or what is to be there.
    async fn open<C>(
        saga: &'a Definition<C>,
        guard: &Guard,
        id: &str,
        input: Option<&Value>,
        change: impl Fn(&mut Record),
    ) -> Result<Self> {
        let (journal, core, entry) = (&*saga.journal, guard.core(), entry_id(&saga.name, id));
        let loaded = insist(&core, ANSWER, || journal.load(&entry)).await?;
        let (record, seen, was) = match (loaded, input) {
            (Some(found), input) => {
                let mut record = Record::read(&found.value)?;
                if !record.is_settled() {
                    saga.check(&record, guard)?;
                }
                if input.is_some_and(|input| *input != record.input) {
                    let message = format!(
                        "saga {id:?} was begun with another input: give a new saga an id of its own, or resume this one"
                    );
                    return Err(Error::new(ErrorKind::Mismatch, message));
                }
                let was = record.state;
                saga.take_up(&mut record, &core.env);
                change(&mut record);
                (record, Some(found.version), Some(was))
            }
            (None, Some(input)) => {
                let steps: Vec<&str> = saga.steps.iter().map(|step| step.name.as_str()).collect();
                let mut record = Record::new(&saga.name, saga.version, &steps, id, input.clone());
                (record.lock, record.since) = (guard.name().to_owned(), core.env.wall());
                (record, None, None)
            }
            (None, None) => {
                let message = format!(
                    "there is no saga {id:?} of {:?} in the journal ({}): it was never begun, or ended long ago",
                    saga.name,
                    journal.location()
                );
                return Err(Error::new(ErrorKind::Missing, message));
            }
        };
        Ok(Self { record, entry, seen, journal, keep: saga.keep, core, was })
    }

    /// Writes the record as it stands.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when another run has taken it up; those of the journal when it has failed for too long. Then
    /// it may have been written.
    pub(super) async fn write(&mut self) -> Result<()> {
        self.record.writes += 1;
        self.record.updated = self.core.env.wall();
        let keep = if self.record.is_settled() { Keep::For(self.keep) } else { Keep::UntilForgotten };
        let (value, journal) = (self.record.bytes(), self.journal);
        // A write whose reply was lost may be made again: of the two at most one finds what was seen.
        let written = insist(&self.core, ANSWER, || journal.write(&self.entry, self.seen, &value, keep)).await?;
        if let Written::Done(version) = written {
            self.seen = Some(version);
            return Ok(());
        }
        let found = insist(&self.core, ANSWER, || journal.load(&self.entry)).await?;
        self.seen = Some(self.ours(found)?);
        Ok(())
    }

    /// The version of what is there, if it is what was just written after all: its reply may have been lost.
    fn ours(&self, found: Option<Entry>) -> Result<u64> {
        let Record { id, run, writes, .. } = &self.record;
        let Some(found) = found else {
            let message = format!("the record of saga {id:?} was removed from the journal while the saga ran");
            return Err(Error::new(ErrorKind::Lost, message));
        };
        let there = Record::read(&found.value)?;
        if (&there.run, &there.writes) == (run, writes) {
            return Ok(found.version);
        }
        let who = if there.fence > self.record.fence { "a later holder of its lock" } else { "another run" };
        let message = format!("saga {id:?} was taken up by {who}, with fence {}: leave it to that one", there.fence);
        Err(Error::new(ErrorKind::Lost, message))
    }
}

/// Asks the journal until it answers, but not for ever.
pub(super) async fn insist<T, F>(core: &Core, limit: Duration, ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (mut since, mut delay): (Option<Moment>, Duration) = (None, RETRY_FIRST);
    loop {
        let answer = core.env.timeout(limit, ask()).await;
        let error = match answer.unwrap_or_else(|| Err(silent(limit))) {
            Err(error) if error.is_transient() => error,
            answer => return answer,
        };
        let now = core.env.now();
        if now - *since.get_or_insert(now) >= OUTAGE {
            return Err(error);
        }
        core.env.sleep(core.env.jitter(delay)).await;
        delay = (delay * 2).min(RETRY_MOST);
    }
}

fn silent(limit: Duration) -> Error {
    Error::new(
        ErrorKind::NoReply,
        format!("the journal did not answer within {limit:?}; it may have done what was asked"),
    )
}
