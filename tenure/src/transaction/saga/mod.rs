//! Sagas: work in steps, each with a compensation that undoes it, under a held lock.
//!
//! Some work cannot be one transaction: a card is charged by one service, a parcel sent by another. A saga does it
//! step by step. When a step fails for good, those that were begun are undone, the latest first. What is done and
//! what is to be undone is written to a [journal](super::journal) before it happens; so when the process dies,
//! whoever holds the lock next [resumes](Saga::resume) the saga, on whichever machine.
//!
//! ```
//! use std::sync::Arc;
//! use tenure::transaction::journal::Memory;
//! use tenure::transaction::{Call, Failure, Saga, SagaState};
//!
//! struct Shop; // connections, clients, whatever the steps need
//!
//! async fn reserve(call: Call<Shop>) -> Result<u32, Failure> {
//!     let item: String = call.input()?;
//!     println!("reserving {item} once, whoever asks again with {}, under {}", call.key(), call.fence());
//!     Ok(17)
//! }
//!
//! async fn release(call: Call<Shop>) -> Result<(), Failure> {
//!     match call.outcome::<u32>()? {
//!         Some(shelf) => println!("back onto shelf {shelf}"),
//!         None => println!("back, if {} came through", call.action_key()),
//!     }
//!     Ok(())
//! }
//!
//! async fn charge(_: Call<Shop>) -> Result<(), Failure> {
//!     Err(Failure::fatal("the card was declined"))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tenure::Result<()> {
//! # let locks = tenure::open("memory:").await?;
//! let order = Saga::builder("order")
//!     .step("reserve", reserve, release)
//!     .step("charge", charge, |_| async { Ok(()) })
//!     .build(Shop, Arc::new(Memory::new()))?;
//!
//! let guard = locks.mutex("order-42").build()?.lock().await?;
//! // What an earlier holder left unfinished comes first.
//! order.resume_all(&guard).await?;
//! let status = order.run("42", &"a lamp", &guard).await?;
//! assert_eq!(status.state(), SagaState::Compensated);
//! assert_eq!(status.to_string(), "order/42 is compensated, as charge failed: the card was declined");
//! # guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! * Before an action runs, its step is written down as begun, and with that its compensation is due.
//! * Each action and each compensation that is due is carried out *at least once*, with the same
//!   [idempotency key](Call::key) each time: after a retry, after a crash, on another machine.
//! * Compensations run in reverse order, one after the other, also the one of the step that failed: what a failed
//!   action did is not known.
//! * Nothing is begun once the hold is no longer certain, and what is under way is dropped at its next await point.
//!   What an earlier holder writes late changes nothing. What it *does* late, the service has to refuse by the
//!   [fence](Call::fence).
//! * A compensation that fails for good leaves the saga *stuck*: written down, told as
//!   [`What::SagaStuck`](crate::What::SagaStuck), and tried again by [`retry`](Saga::retry).
//!
//! A saga isolates nothing: others see what the first step did before the last one fails. The lock keeps out those
//! who take it, and a saga that is stuck, or whose process died, does not keep the lock; so begin with
//! [`resume_all`](Saga::resume_all) whenever you hold it. Take a lock that one holder has at a time, not a permit or
//! a reader's share, and run one saga of an id at a time: a second run takes the record away from the first.

mod build;
mod call;
mod drive;
mod page;
mod record;
mod status;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tracing::Instrument;

pub use self::build::SagaBuilder;
pub use self::call::{Call, Failure};
pub use self::record::{Cause, SagaState, StepState};
pub use self::status::{SagaStatus, StepStatus};

use self::build::{Definition, ID_MAX};
use self::page::{LISTING, Page, entry_id, insist};
use self::record::Record;
use crate::error::{Error, ErrorKind, Result};
use crate::event::What;
use crate::guard::Guard;
use crate::options::invalid;
use crate::trace;
use crate::transaction::journal::lock_of;

/// A saga's definition: its steps, their context, and the journal. It is cheap to clone.
pub struct Saga<C>(Arc<Definition<C>>);

impl<C: Send + Sync + 'static> Saga<C> {
    /// A saga of that name: 1 to 64 bytes without slashes. It parts its records and keys from those of other sagas.
    pub fn builder(name: impl Into<String>) -> SagaBuilder<C> {
        SagaBuilder::new(name.into())
    }

    /// Carries out the saga `id`, 1 to 64 bytes, or goes on with it where it was begun before with the same input.
    /// One that has ended already is told as it ended, and nothing is done twice.
    ///
    /// It ends [completed](SagaState::Completed), [compensated](SagaState::Compensated) or [stuck](SagaState::Stuck).
    ///
    /// The id is for this work alone, once and for all: the idempotency keys are made of it. `input` is written to the
    /// journal as JSON, so keep secrets out of it.
    ///
    /// # Errors
    ///
    /// In each case the saga stays as it is written, and can be resumed.
    ///
    /// * [`ErrorKind::Lost`] when the lock is lost, or a later holder took the saga up;
    /// * [`ErrorKind::Mismatch`] when it was begun with another input, under another lock, or under another definition;
    /// * [`ErrorKind::Unavailable`] or [`ErrorKind::NoReply`] when the journal has failed for ten seconds;
    /// * [`ErrorKind::Invalid`] when the id will not do, or the input is no JSON;
    /// * [`ErrorKind::Unsupported`] when the guard has no fence.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, so is the attempt under way, at its await point. The saga stays as it is written;
    /// whoever resumes it makes that attempt again.
    pub async fn run(&self, id: &str, input: &impl Serialize, guard: &Guard) -> Result<SagaStatus> {
        let input = serde_json::to_value(input)
            .map_err(|error| invalid(format!("the input of saga {id:?} cannot be written as JSON: {error}")))?;
        self.go_on(id, Some(input), guard, |_| ()).await
    }

    /// Goes on with a saga that an earlier holder of the lock began, or this one.
    ///
    /// One that has ended is told as it ended, and one that is stuck as it is.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`ErrorKind::Missing`] when there is none of that id.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn resume(&self, id: &str, guard: &Guard) -> Result<SagaStatus> {
        self.go_on(id, None, guard, |_| ()).await
    }

    /// Goes on with all sagas of this name that were begun under this lock and have not ended, one after the other by id,
    /// except those that are stuck. Each is told with what became of it; one whose record cannot be read is left as it is, and
    /// told with that error, under each lock where its own is not known. Of the journal it reads what has not ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when the lock is lost; those of the journal when it cannot be listed.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn resume_all(&self, guard: &Guard) -> Result<Vec<(String, Result<SagaStatus>)>> {
        let core = guard.core();
        let entries = guard.protect(insist(&core, LISTING, || self.0.journal.unsettled())).await??;
        let (start, mut ended) = (entry_id(&self.0.name, ""), Vec::new());
        for entry in &entries {
            let Some(id) = entry.id.strip_prefix(&start) else { continue };
            if lock_of(entry).is_some_and(|lock| lock != guard.name()) {
                continue;
            }
            let result = match Record::read(&entry.value) {
                Ok(Record { state: SagaState::Running | SagaState::Compensating, .. }) => self.resume(id, guard).await,
                Ok(_) => continue,
                Err(error) => {
                    let what = || What::RecordUnreadable { id: entry.id.clone(), error: error.to_string() };
                    guard.core().tell(guard.key(), what);
                    Err(error)
                }
            };
            match result {
                Err(error) if !guard.is_held() => return Err(error),
                result => ended.push((id.to_owned(), result)),
            }
        }
        Ok(ended)
    }

    /// Tries the compensation again at which the saga is stuck, with the whole of its retries, and goes on from
    /// there. A saga that is not stuck is resumed.
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume).
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn retry(&self, id: &str, guard: &Guard) -> Result<SagaStatus> {
        self.go_on(id, None, guard, Record::unstick).await
    }

    /// How the saga of that id stands; `None` when there is none, or it ended longer ago than its record is kept.
    ///
    /// # Errors
    ///
    /// Those of the journal, and of [`SagaStatus::parse`].
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn status(&self, id: &str) -> Result<Option<SagaStatus>> {
        let found = self.0.journal.load(&entry_id(&self.0.name, id)).await?;
        found.map_or(Ok(None), |entry| SagaStatus::parse(&entry.value))
    }

    async fn go_on(
        &self,
        id: &str,
        input: Option<serde_json::Value>,
        guard: &Guard,
        change: impl Fn(&mut Record),
    ) -> Result<SagaStatus> {
        let n = id.len();
        if !(1..=ID_MAX).contains(&n) {
            return Err(invalid(format!("a saga's id of {n} bytes: give 1 to {ID_MAX}")));
        }
        if guard.is_degraded() {
            let message =
                format!("the hold on {:?} has no fence, so later holders cannot be told from it", guard.name());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let span = trace::saga(&self.0.name, id, guard);
        let going = async {
            let mut page = Page::take(&self.0, guard, id, input.as_ref(), change).await?;
            let was = page.was;
            drive::drive(&self.0, &mut page, guard).await?;
            let status = SagaStatus(page.record);
            match status.state() {
                state if was == Some(state) => {}
                SagaState::Stuck => guard.core().tell(guard.key(), || What::SagaStuck { status: status.to_string() }),
                SagaState::Compensated => {
                    guard.core().tell(guard.key(), || What::SagaCompensated { status: status.to_string() })
                }
                _ => {}
            }
            Ok(status)
        };
        let ended: Result<SagaStatus> = guard.protect(going).instrument(span.clone()).await.flatten();
        match &ended {
            Ok(status) if status.state() == SagaState::Stuck => trace::settled(&span, "stuck", Some("stuck")),
            Ok(status) => trace::settled(&span, &status.state().to_string(), None),
            Err(error) => trace::settled(&span, "failed", Some(&format!("{:?}", error.kind()))),
        }
        ended
    }
}

impl<C> Definition<C> {
    /// Whether this definition, under this hold, may go on with what that record says.
    fn check(&self, record: &Record, guard: &Guard) -> Result<()> {
        let Record { id, saga, version, steps, lock, fence, .. } = record;
        let (theirs, ours): (Vec<&str>, Vec<&str>) = (
            steps.iter().map(|step| step.name.as_str()).collect(),
            self.steps.iter().map(|step| step.name.as_str()).collect(),
        );
        if (*version, &theirs) != (self.version, &ours) {
            let (theirs, ours, own) = (theirs.join(", "), ours.join(", "), self.version);
            let message = format!(
                "saga {id:?} of {saga:?} was begun under version {version} ({theirs}), and this program has version \
                 {own} ({ours}): end it with a program of that version first"
            );
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        if lock != guard.name() {
            let message = format!("saga {id:?} runs under the lock {lock:?}, not {:?}: hold that one", guard.name());
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        if *fence > guard.fence() {
            let message = format!("saga {id:?} was taken up by a later holder of its lock, with fence {fence}");
            return Err(Error::new(ErrorKind::Lost, message));
        }
        Ok(())
    }
}

impl<C> Clone for Saga<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> fmt::Debug for Saga<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<_> = self.0.steps.iter().map(|step| &step.name).collect();
        let mut debug = f.debug_struct("Saga");
        debug.field("name", &self.0.name).field("version", &self.0.version).field("steps", &steps);
        debug.field("journal", &self.0.journal.location()).finish_non_exhaustive()
    }
}
