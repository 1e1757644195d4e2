//! How a saga stands, for whoever looks: its caller, or a page that shows all of them.

use std::fmt;
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::record::{Cause, KIND, Record, SagaState, StepState};
use crate::error::Result;
use crate::fence::Fence;
use crate::info::time;

/// How a saga stands, as its record in the journal says.
#[derive(Clone)]
#[must_use = "a saga that was carried out may have been compensated, or be stuck: see `state`"]
pub struct SagaStatus(pub(super) Record);

/// How one step of it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepStatus {
    /// The step's name.
    pub name: String,
    /// How it stands.
    pub state: StepState,
    /// How many attempts were begun, at its action or at its compensation, whichever came last.
    pub attempts: u32,
    /// What the last attempt said that failed.
    pub error: Option<String>,
}

impl SagaStatus {
    /// What an entry of a journal says; `None` where it is no saga's.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when it is damaged, [`Unsupported`](crate::ErrorKind::Unsupported) when a
    /// later version wrote it.
    pub fn parse(value: &[u8]) -> Result<Option<Self>> {
        #[derive(serde::Deserialize)]
        struct Head {
            kind: String,
        }
        match serde_json::from_slice::<Head>(value) {
            Ok(head) if head.kind == KIND => Record::read(value).map(Self).map(Some),
            _ => Ok(None),
        }
    }

    /// The saga's name.
    pub fn saga(&self) -> &str {
        &self.0.saga
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The version of the definition that it was begun under.
    pub fn version(&self) -> u32 {
        self.0.version
    }

    /// The name of the lock that it runs under.
    pub fn lock(&self) -> &str {
        &self.0.lock
    }

    /// The token of the latest holder that took it up.
    pub fn fence(&self) -> Fence {
        self.0.fence
    }

    /// How it stands.
    pub fn state(&self) -> SagaState {
        self.0.state
    }

    /// Whether all its actions were carried out.
    pub fn is_completed(&self) -> bool {
        self.state() == SagaState::Completed
    }

    /// Whether nothing will ever change about it again: it has completed, or all was undone.
    pub fn is_settled(&self) -> bool {
        self.0.is_settled()
    }

    /// Why it is compensated, where it is.
    pub fn cause(&self) -> Option<&Cause> {
        self.0.cause.as_ref()
    }

    /// Its steps in order.
    pub fn steps(&self) -> Vec<StepStatus> {
        let view = |step: &super::record::Step| StepStatus {
            name: step.name.clone(),
            state: step.state,
            attempts: step.attempts,
            error: step.error.clone(),
        };
        self.0.steps.iter().map(view).collect()
    }

    /// What the action of that step gave; `None` where that is not known.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) when there is no such step, or it is no such value.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>> {
        self.0.output(step)
    }

    /// When it was begun, on the clock of who began it.
    pub fn since(&self) -> SystemTime {
        time(self.0.since)
    }

    /// When it was last written, on the clock of who wrote it.
    pub fn updated(&self) -> SystemTime {
        time(self.0.updated)
    }
}

impl fmt::Display for SagaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Stuck => "stuck",
        })
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        })
    }
}

/// In one line: `order/42 is stuck at charge after 13 attempts: no such account`.
impl fmt::Display for SagaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { saga, id, state, steps, .. } = &self.0;
        write!(f, "{saga}/{id} is {state}")?;
        let under_way = steps.iter().find(|step| matches!(step.state, StepState::Begun | StepState::Undoing));
        if let Some(step) = under_way {
            let plural = if step.attempts == 1 { "" } else { "s" };
            write!(f, " at {} after {} attempt{plural}", step.name, step.attempts)?;
            if let Some(error) = &step.error {
                write!(f, ": {error}")?;
            }
        } else if let Some(Cause { step, error }) = &self.0.cause {
            write!(f, ", as {step} failed: {error}")?;
        }
        Ok(())
    }
}

/// Without input and outputs, which may be nobody else's business.
impl fmt::Debug for SagaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SagaStatus");
        debug.field("saga", &self.saga()).field("id", &self.id()).field("state", &self.state());
        debug.field("fence", &self.fence()).field("cause", &self.cause()).field("steps", &self.steps()).finish()
    }
}
