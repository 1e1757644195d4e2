//! What is written down of a saga, and how it changes: values without I/O.
//!
//! ```text
//!   the saga    running ──▶ completed                      a step    pending ──▶ begun ──▶ done
//!                  │                                                               │        │
//!                  ▼                                                               ▼        ▼
//!             compensating ──▶ compensated                                         undoing ──▶ undone
//!                  │   ▲
//!                  ▼   │ by hand
//!                 stuck
//! ```
//!
//! *Begun* is written before the step's action runs. It stands for both: the action may have been carried out, and
//! its compensation is due should the saga fail. So there is no moment at which an action has happened and nothing is
//! written that would undo it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fence;
use crate::proto::Micros;

/// The kind that a saga's record says it is.
pub(super) const KIND: &str = "saga";
/// The format of the record, which readers refuse to guess at.
const FORMAT: u32 = 1;

/// How a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SagaState {
    /// Its actions are under way, or will go on with the next holder of its lock.
    Running,
    /// An action failed for good. What was begun is being undone, the latest first.
    Compensating,
    /// All actions were carried out.
    Completed,
    /// All that was begun has been undone.
    Compensated,
    /// A compensation failed for good. Somebody has to look at it, and then to [retry](super::Saga::retry).
    Stuck,
}

/// How one step of a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StepState {
    /// Its action was not begun.
    Pending,
    /// Its action may have been carried out, wholly or in part.
    Begun,
    /// Its action was carried out.
    Done,
    /// Its compensation may have been carried out.
    Undoing,
    /// Its compensation was carried out.
    Undone,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) kind: String,
    pub(super) format: u32,
    /// The definition: its name, its version, and its steps in order.
    pub(super) saga: String,
    pub(super) version: u32,
    pub(super) steps: Vec<Step>,
    pub(super) id: String,
    /// The lock it runs under, and the token of the latest holder that took it up.
    pub(super) lock: String,
    pub(super) fence: Fence,
    /// Names the run that wrote it, and counts its writes: by these a writer knows its own again.
    pub(super) run: String,
    pub(super) writes: u64,
    pub(super) state: SagaState,
    pub(super) input: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<Cause>,
    /// When it was begun and last written, on its writers' clocks.
    pub(super) since: Micros,
    pub(super) updated: Micros,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) state: StepState,
    /// How many attempts were begun, at the action or at the compensation, whichever is under way.
    pub(super) attempts: u32,
    /// What the last attempt said that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<Value>,
}

/// Why a saga is compensated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cause {
    /// The step whose action failed.
    pub step: String,
    /// What it said.
    pub error: String,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The action of that step.
    Act(usize),
    /// The compensation of that step.
    Undo(usize),
    /// Nothing.
    Rest,
}

impl Record {
    /// A saga whose first action is about to run.
    pub(super) fn new(saga: &str, version: u32, steps: &[&str], id: &str, input: Value) -> Self {
        let step = |name: &&str| Step {
            name: (*name).to_owned(),
            state: StepState::Pending,
            attempts: 0,
            error: None,
            output: None,
        };
        let mut record = Self {
            kind: KIND.to_owned(),
            format: FORMAT,
            saga: saga.to_owned(),
            version,
            steps: steps.iter().map(step).collect(),
            id: id.to_owned(),
            lock: String::new(),
            fence: Fence::NONE,
            run: String::new(),
            writes: 0,
            state: SagaState::Running,
            input,
            cause: None,
            since: 0,
            updated: 0,
        };
        record.begin(0);
        record
    }

    /// The record that those bytes are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when they are none, [`ErrorKind::Unsupported`] when a later format wrote them.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
            format: u32,
        }
        let corrupt = |error: serde_json::Error| {
            Error::with_source(ErrorKind::Corrupt, format!("the record is no saga's: {error}"), error)
        };
        let head: Head = serde_json::from_slice(bytes).map_err(corrupt)?;
        if head.kind != KIND {
            return Err(Error::new(ErrorKind::Corrupt, format!("the record is a {:?}, no saga", head.kind)));
        }
        if head.format != FORMAT {
            let message =
                format!("the saga was written in format {}, and this program reads {FORMAT}: upgrade it", head.format);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        serde_json::from_slice(bytes).map_err(corrupt)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text, numbers and JSON values can be written as JSON")
    }

    /// Whether nothing will ever change about it again.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state, SagaState::Completed | SagaState::Compensated)
    }

    pub(super) fn next(&self) -> Next {
        match self.state {
            SagaState::Running => self.in_state(StepState::Begun).map_or(Next::Rest, Next::Act),
            SagaState::Compensating => self.in_state(StepState::Undoing).map_or(Next::Rest, Next::Undo),
            SagaState::Completed | SagaState::Compensated | SagaState::Stuck => Next::Rest,
        }
    }

    /// There is never more than one step that is under way.
    fn in_state(&self, state: StepState) -> Option<usize> {
        self.steps.iter().position(|step| step.state == state)
    }

    /// The action of step `at` was carried out; the next one is begun with the same write.
    pub(super) fn done(&mut self, at: usize, output: Value) {
        let step = &mut self.steps[at];
        (step.state, step.output, step.error) = (StepState::Done, Some(output), None);
        match at + 1 < self.steps.len() {
            true => self.begin(at + 1),
            false => self.state = SagaState::Completed,
        }
    }

    fn begin(&mut self, at: usize) {
        (self.steps[at].state, self.steps[at].attempts) = (StepState::Begun, 1);
    }

    /// An attempt at step `at` failed, and another one follows.
    pub(super) fn again(&mut self, at: usize, error: String) {
        let step = &mut self.steps[at];
        (step.attempts, step.error) = (step.attempts.saturating_add(1), Some(error));
    }

    /// What is under way failed for good. Whether a failed action did something is unknown, so it is undone, too; after
    /// a failed compensation only somebody can help.
    pub(super) fn give_up(&mut self, error: String) {
        match self.next() {
            Next::Act(at) => {
                self.cause = Some(Cause { step: self.steps[at].name.clone(), error });
                self.state = SagaState::Compensating;
                self.undo(at);
            }
            Next::Undo(at) => {
                self.steps[at].error = Some(error);
                self.state = SagaState::Stuck;
            }
            Next::Rest => {}
        }
    }

    /// The compensation of step `at` was carried out; the one before it is begun with the same write.
    pub(super) fn undone(&mut self, at: usize) {
        (self.steps[at].state, self.steps[at].error) = (StepState::Undone, None);
        match at.checked_sub(1) {
            Some(before) => self.undo(before),
            None => self.state = SagaState::Compensated,
        }
    }

    fn undo(&mut self, at: usize) {
        let step = &mut self.steps[at];
        (step.state, step.attempts, step.error) = (StepState::Undoing, 1, None);
    }

    /// The compensation that failed for good is to be tried again.
    pub(super) fn unstick(&mut self) {
        if let (SagaState::Stuck, Some(at)) = (self.state, self.in_state(StepState::Undoing)) {
            self.state = SagaState::Compensating;
            self.undo(at);
        }
    }
}

/// The idempotency keys of a step: of its action, and of its compensation. They are made of names alone, so they are
/// the same for each attempt, on whichever machine. Neither a saga's nor a step's name has a slash in it, so no two
/// are alike.
pub(super) fn keys(saga: &str, id: &str, step: &str) -> [String; 2] {
    ["do", "undo"].map(|direction| format!("{saga}/{id}/{step}/{direction}"))
}
