//! What a breaker knows about its store: closed, open or half-open, and what changes that. It sends nothing itself.

use std::sync::PoisonError;
use std::time::Duration;

use super::BreakerState;
use crate::env::{Env, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::Op;
use crate::sync::{Mutex, MutexGuard};

/// The circuit, and its thresholds.
#[derive(Debug)]
pub(super) struct Circuit {
    pub(super) kind: &'static str,
    pub(super) failures: u32,
    pub(super) cool_down: Duration,
    pub(super) silence: Duration,
    pub(super) env: Env,
    pub(super) now: Mutex<Standing>,
}

/// How it stands.
#[derive(Debug, Default)]
pub(super) struct Standing {
    phase: Phase,
    /// The last failure, where it came as an error.
    last: Option<Error>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// So many failures in a row so far.
    Closed { failures: u32 },
    /// Open since and until.
    Open { since: Moment, until: Moment },
    /// A trial is under way; when there is no word of it by `until`, another one may go.
    Trial { since: Moment, until: Moment },
}

impl Default for Phase {
    fn default() -> Self {
        Phase::Closed { failures: 0 }
    }
}

/// Whether a request passes an open breaker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Always,
    AsTrial,
}

impl Pass {
    pub(super) fn of(op: &Op) -> Self {
        if matches!(op, Op::Acquire(_)) { Self::AsTrial } else { Self::Always }
    }
}

impl Circuit {
    /// How it stands, for whoever looks.
    pub(super) fn state(&self) -> BreakerState {
        let now = self.env.now();
        match self.standing().phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { until, .. } => BreakerState::Open { retry_in: until - now },
            Phase::Trial { .. } => BreakerState::HalfOpen,
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to send a request, or why not.
    pub(super) fn admit(&self, pass: Pass) -> Result<Request<'_>> {
        let sent = self.env.now();
        let mut standing = self.standing();
        let trial = match standing.phase {
            Phase::Closed { .. } => false,
            _ if pass == Pass::Always => false,
            Phase::Open { since, until } | Phase::Trial { since, until } if until <= sent => {
                standing.phase = Phase::Trial { since, until: sent + self.cool_down };
                true
            }
            Phase::Open { until, .. } => return Err(self.refusal(&standing, format!("in {:?}", until - sent))),
            Phase::Trial { .. } => {
                return Err(self.refusal(&standing, "when one that is on its way was answered".into()));
            }
        };
        Ok(Request { circuit: self, sent, trial, ended: false })
    }

    fn refusal(&self, standing: &Standing, when: String) -> Error {
        let (kind, n) = (self.kind, self.failures);
        let last = match &standing.last {
            Some(error) => format!("its last failure: {error}"),
            None => "it fell silent".to_owned(),
        };
        let message = format!(
            "the circuit breaker of the {kind} store is open after {n} failures in a row; nothing was sent, and the next \
             request passes {when}; {last}"
        );
        match &standing.last {
            Some(error) => Error::with_source(ErrorKind::Unavailable, message, error.clone()),
            None => Error::new(ErrorKind::Unavailable, message),
        }
    }

    /// The store answered what was sent at `sent`.
    fn answered(&self, sent: Moment) {
        let mut standing = self.standing();
        match standing.phase {
            Phase::Closed { failures: 0 } => return,
            Phase::Closed { .. } => {}
            // It was sent before the failures: it says nothing about what came after.
            Phase::Open { since, .. } | Phase::Trial { since, .. } if sent < since => return,
            Phase::Open { .. } | Phase::Trial { .. } => {
                let kind = self.kind;
                tracing::info!(target: "tenure", "the circuit breaker of the {kind} store closed: it answers again");
            }
        }
        *standing = Standing { phase: Phase::Closed { failures: 0 }, last: None };
    }

    fn failed(&self, trial: bool, error: Option<&Error>) {
        let now = self.env.now();
        let mut standing = self.standing();
        let open = match standing.phase {
            Phase::Closed { failures } if failures + 1 < self.failures => Phase::Closed { failures: failures + 1 },
            Phase::Closed { .. } => {
                let (kind, n) = (self.kind, self.failures);
                tracing::warn!(target: "tenure", "the circuit breaker of the {kind} store opened after {n} failures");
                Phase::Open { since: now, until: now + self.cool_down }
            }
            Phase::Trial { since, .. } if trial => Phase::Open { since, until: now + self.cool_down },
            phase => phase,
        };
        *standing = Standing { phase: open, last: error.cloned() };
    }

    /// Nothing is known of a trial that was cancelled: the next request may be one.
    fn trial_cancelled(&self) {
        let now = self.env.now();
        let mut standing = self.standing();
        if let Phase::Trial { since, .. } = standing.phase {
            standing.phase = Phase::Open { since, until: now };
        }
    }
}

/// A request on its way. Given up without an answer, it counts by how long that took.
pub(super) struct Request<'a> {
    circuit: &'a Circuit,
    sent: Moment,
    trial: bool,
    ended: bool,
}

impl Request<'_> {
    /// Takes note of what came of it.
    pub(super) fn end<T>(mut self, result: Result<T>) -> Result<T> {
        self.judge(result.as_ref().err());
        result
    }

    /// Takes note of what came of it: no error is an answer, and so is one that asking again cannot mend.
    pub(super) fn judge(&mut self, error: Option<&Error>) {
        self.ended = true;
        match error {
            Some(error) if error.is_transient() => self.circuit.failed(self.trial, Some(error)),
            _ => self.circuit.answered(self.sent),
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        match self.ended {
            true => {}
            false if self.circuit.env.now() - self.sent >= self.circuit.silence => {
                self.circuit.failed(self.trial, None)
            }
            false if self.trial => self.circuit.trial_cancelled(),
            false => {}
        }
    }
}

#[cfg(all(test, loom))]
mod model;
