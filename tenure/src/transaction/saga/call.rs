//! What a saga's action or compensation is called with, and what it says when it fails.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::record::{Record, StepState, keys};
use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fence;

/// One attempt at an action or a compensation.
///
/// It may be the second for the same step, in another process and on another machine: pass [`key`](Self::key) to
/// whatever is called, so that it does nothing twice, and [`fence`](Self::fence), so that it refuses a holder that
/// came too late.
pub struct Call<C> {
    pub(super) context: Arc<C>,
    pub(super) record: Arc<Record>,
    pub(super) at: usize,
    pub(super) fence: Fence,
}

impl<C> Call<C> {
    /// What the saga was built with.
    pub fn context(&self) -> &C {
        &self.context
    }

    /// The saga's id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// The step's name.
    pub fn step(&self) -> &str {
        &self.record.steps[self.at].name
    }

    /// The token of the hold that it runs under.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Which attempt this is, from 1. One that a crash cut short counts.
    pub fn attempt(&self) -> u32 {
        self.record.steps[self.at].attempts
    }

    /// The idempotency key: `saga/id/step/do` for an action, `saga/id/step/undo` for a compensation. It is the same for
    /// each attempt, whoever makes it and wherever.
    pub fn key(&self) -> String {
        let [act, undo] = keys(&self.record.saga, &self.record.id, self.step());
        if self.is_undo() { undo } else { act }
    }

    /// The idempotency key of the action, in a compensation too. A service that is asked to undo one that it has not
    /// seen should remember the key, and refuse the action if it still comes: it may be late on its way.
    pub fn action_key(&self) -> String {
        let [act, _] = keys(&self.record.saga, &self.record.id, self.step());
        act
    }

    /// Whether this is a compensation.
    pub fn is_undo(&self) -> bool {
        self.record.steps[self.at].state == StepState::Undoing
    }

    /// What the saga was begun with.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is no such value.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T> {
        typed(&self.record.input, || format!("the input of saga {:?}", self.record.id))
    }

    /// What the action of an earlier step gave.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there is no such step, when it has given nothing yet, or no such value.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<T> {
        self.record.output(step)?.ok_or_else(|| {
            let message = format!("step {step:?} of saga {:?} has given nothing that is known", self.record.id);
            Error::new(ErrorKind::Invalid, message)
        })
    }

    /// What the action of this step gave, for its compensation. `None` where its outcome is unknown: it may have been
    /// carried out wholly, in part, or not at all, and the compensation has to cope with each.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is no such value.
    pub fn outcome<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.record.output(self.step())
    }
}

impl<C> fmt::Debug for Call<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Call");
        debug.field("key", &self.key()).field("fence", &self.fence).field("attempt", &self.attempt()).finish()
    }
}

impl Record {
    /// What the action of that step gave, where that is known.
    pub(super) fn output<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>> {
        let Some(found) = self.steps.iter().find(|other| other.name == step) else {
            let names: Vec<_> = self.steps.iter().map(|step| step.name.as_str()).collect();
            let message = format!("saga {:?} has no step {step:?}: its steps are {}", self.saga, names.join(", "));
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        let what = || format!("the output of step {step:?} of saga {:?}", self.id);
        found.output.as_ref().map(|output| typed(output, what)).transpose()
    }
}

fn typed<T: DeserializeOwned>(value: &Value, what: impl Fn() -> String) -> Result<T> {
    T::deserialize(value).map_err(|error| {
        Error::with_source(ErrorKind::Invalid, format!("{} is not of the type asked for: {error}", what()), error)
    })
}

/// Why an attempt at an action or a compensation failed, and whether another one may succeed.
///
/// Any error becomes one by `?`, and is tried again; one of a type that was named to
/// [`fatal_on`](super::SagaBuilder::fatal_on), or one made by [`fatal`](Self::fatal), is not.
pub struct Failure {
    pub(super) error: Box<dyn StdError + Send + Sync>,
    pub(super) fatal: bool,
    /// It says that a hold is over, perhaps the one that the saga runs under.
    pub(super) lost: bool,
}

impl Failure {
    /// One that another attempt will not mend: the saga is compensated, or stuck where it is a compensation's.
    pub fn fatal(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { error: error.into(), fatal: true, lost: false }
    }

    /// One that another attempt may mend.
    pub fn transient(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { error: error.into(), fatal: false, lost: false }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Failure {
    /// To be tried again; but what this crate calls invalid or unsupported stays so. Where it calls a hold lost, as a
    /// check of fences does, the lock's store is asked, and if the lock is lost indeed, the run ends there.
    fn from(error: E) -> Self {
        let ours = (&error as &(dyn StdError + 'static)).downcast_ref::<Error>().map(Error::kind);
        let fatal = matches!(ours, Some(ErrorKind::Invalid | ErrorKind::Unsupported));
        Self { error: Box::new(error), fatal, lost: ours == Some(ErrorKind::Lost) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure").field("error", &self.error).field("fatal", &self.fatal).finish()
    }
}
