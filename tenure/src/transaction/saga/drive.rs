//! From one write to the next: the loop that carries a saga out.
//!
//! ```text
//!   write: step begun ──▶ action ──▶ write: step done, next one begun ──▶ action ──▶ …
//! ```
//!
//! What is written says what may have happened, never less. So whoever reads it after a crash, at whichever point, does
//! what is under way once more and goes on from there.

use std::sync::Arc;

use super::build::{Definition, Policy};
use super::call::{Call, Failure};
use super::page::Page;
use super::record::{Next, Record};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::event::What;
use crate::guard::Guard;

/// Goes on until nothing is left to do.
///
/// # Errors
///
/// [`ErrorKind::Lost`] when the hold is, or when another run took the saga up; those of the journal.
pub(super) async fn drive<C>(saga: &Definition<C>, page: &mut Page<'_>, guard: &Guard) -> Result<()> {
    loop {
        // Where nothing has to be waited for, `protect` does not get to look.
        if !guard.is_held() {
            let message = format!("the lock {:?} is no longer held: its next holder can resume the saga", guard.name());
            return Err(Error::new(ErrorKind::Lost, message));
        }
        let record = &mut page.record;
        let (at, policy, attempt) = match record.next() {
            Next::Act(at) => {
                let acting = (saga.steps[at].action)(call(saga, record, at, guard));
                (at, &saga.act, acting.await.map(|output| record.done(at, output)))
            }
            Next::Undo(at) => {
                let undoing = (saga.steps[at].compensation)(call(saga, record, at, guard));
                (at, &saga.undo, undoing.await.map(|()| record.undone(at)))
            }
            Next::Rest => return Ok(()),
        };
        match attempt {
            Ok(()) => page.write().await?,
            Err(failure) => fail(saga, page, guard, at, policy, failure).await?,
        }
    }
}

/// Either another attempt is due, for which this waits, or there is none.
async fn fail<C>(
    saga: &Definition<C>,
    page: &mut Page<'_>,
    guard: &Guard,
    at: usize,
    policy: &Policy,
    failure: Failure,
) -> Result<()> {
    let (core, record) = (guard.core(), &mut page.record);
    let (id, step, error) = (&record.id, &record.steps[at].name, failure.to_string());
    // What was refused for its fence may be somebody else's by now, and is not to be undone then.
    if failure.lost
        && let Err(error) = guard.refresh().await
        && error.is_lost()
    {
        return Err(error);
    }
    let attempt = record.steps[at].attempts;
    let undo = matches!(record.next(), Next::Undo(_));
    let told = || {
        let (saga, step, error) = (format!("{}/{id}", saga.name), step.clone(), error.clone());
        What::SagaStepFailed { saga, step, undo, attempt, error }
    };
    core.tell(guard.key(), told);
    let delay = policy.delay(attempt, &core.env).filter(|_| !saga.is_fatal(&failure));
    match delay {
        Some(_) => record.again(at, error),
        None => record.give_up(error),
    }
    page.write().await?;
    core.env.sleep(delay.unwrap_or_default()).await;
    Ok(())
}

/// However few retries there are to be, so many attempts may be cut short before the step is given up.
const CUT_SHORT: u32 = 3;

impl<C> Definition<C> {
    /// Somebody takes it up. Where an attempt was under way its holder died or lost the lock in the middle of it, so
    /// that one has failed, and another one is due. An action may be what kills its process; so this is not for ever.
    pub(super) fn take_up(&self, record: &mut Record, env: &Env) {
        let (at, policy) = match record.next() {
            Next::Act(at) => (at, &self.act),
            Next::Undo(at) => (at, &self.undo),
            Next::Rest => return,
        };
        let attempts = record.steps[at].attempts;
        let error = format!("attempt {attempts} was cut short: its process died, or lost the lock");
        match policy.delay(attempts, env).is_none() && attempts >= CUT_SHORT {
            true => record.give_up(error),
            false => record.again(at, error),
        }
    }
}

fn call<C>(saga: &Definition<C>, record: &Record, at: usize, guard: &Guard) -> Call<C> {
    Call { context: saga.context.clone(), record: Arc::new(record.clone()), at, fence: guard.fence() }
}
