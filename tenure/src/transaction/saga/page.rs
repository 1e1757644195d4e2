//! One saga's record in the journal, in the hands of one run.
//!
//! Each write says which version it has seen, and carries the fence of its holder. A later holder writes its own fence
//! first of all; the write of an earlier one, however late it comes, has then seen an older version and changes nothing.

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
/// How long it may have failed without a break before the run ends, which another one goes on with.
const OUTAGE: Duration = Duration::from_secs(10);
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
    /// It was stuck when it was taken up.
    pub(super) was_stuck: bool,
}

impl<'a> Page<'a> {
    /// Begins a saga, or takes up the one of that id: in either case with a write, after which no earlier holder and no
    /// earlier run can write any more. `change` is made to one that is there.
    pub(super) async fn take<C>(
        saga: &'a Definition<C>,
        guard: &Guard,
        id: &str,
        input: Option<Value>,
        change: impl FnOnce(&mut Record),
    ) -> Result<Self> {
        let (journal, core, entry) = (&*saga.journal, guard.core(), entry_id(&saga.name, id));
        let loaded = insist(&core, || journal.load(&entry)).await?;
        let (mut record, seen, was_stuck) = match (loaded, input) {
            (Some(found), input) => {
                let mut record = Record::read(&found.value)?;
                saga.check(&record, guard)?;
                if input.is_some_and(|input| input != record.input) {
                    let message = format!(
                        "saga {id:?} was begun with another input: give a new saga an id of its own, or resume this one"
                    );
                    return Err(Error::new(ErrorKind::Mismatch, message));
                }
                let was_stuck = record.state == SagaState::Stuck;
                saga.take_up(&mut record, &core.env);
                change(&mut record);
                (record, Some(found.version), was_stuck)
            }
            (None, Some(input)) => {
                let steps: Vec<&str> = saga.steps.iter().map(|step| step.name.as_str()).collect();
                let mut record = Record::new(&saga.name, saga.version, &steps, id, input);
                (record.lock, record.since) = (guard.name().to_owned(), core.env.wall());
                (record, None, false)
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
        (record.fence, record.run) = (guard.fence(), ClaimId::new(core.env.bits()).to_string());
        let mut page = Self { record, entry, seen, journal, keep: saga.keep, core, was_stuck };
        // What has ended for good stays as it is.
        if !page.record.is_settled() {
            page.write().await?;
        }
        Ok(page)
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
        let written = insist(&self.core, || journal.write(&self.entry, self.seen, &value, keep)).await?;
        if let Written::Done(version) = written {
            self.seen = Some(version);
            return Ok(());
        }
        let found = insist(&self.core, || journal.load(&self.entry)).await?;
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
pub(super) async fn insist<T, F>(core: &Core, ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (mut since, mut delay): (Option<Moment>, Duration) = (None, RETRY_FIRST);
    loop {
        let answer = core.env.timeout(ANSWER, ask()).await;
        let error = match answer.unwrap_or_else(|| Err(silent())) {
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

fn silent() -> Error {
    Error::new(
        ErrorKind::NoReply,
        format!("the journal did not answer within {ANSWER:?}; it may have done what was asked"),
    )
}
