//! What happens when the store fails an acquisition: the user's handler decides, and it is never silent.
//!
//! ```text
//!   the store failed, after all retries ─▶ handler(name, error) ─▶ Fail      the error
//!                                                              ├─▶ Unlocked  a guard that stands for no lock
//!                                                              └─▶ Lock      a lock of another client
//! ```
//!
//! A guard from either of the latter says that it is [degraded](Guard::is_degraded) and carries no fence, so that a
//! resource that checks fences refuses what is done under it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::bid::Bid;
use crate::client::Client;
use crate::env::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Degradation;
use crate::guard::Guard;
use crate::hold::{Fence, Granted, Hold};
use crate::lock::{Lock, Spec};
use crate::proto::ClaimId;

/// What to do when the store fails an acquisition: the answer of a [fallback](crate::LockBuilder::fallback) handler.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Instead {
    /// Fail with the error.
    Fail,
    /// Go on without a lock: nobody is excluded. The guard is degraded, carries no fence, and is never lost.
    Unlocked,
    /// Take this lock instead, within what is left of the time for waiting; at once, where [`Lock::try_lock`] failed.
    ///
    /// It excludes those who take it too, and nobody who still reaches the store. The guard is degraded and carries no
    /// fence, for the other store's tokens do not compare with this one's. It may have a fallback of its own.
    Lock(Lock),
}

/// The user's handler.
#[derive(Clone)]
pub(crate) struct Handler(pub(crate) Arc<Decide>);

type Decide = dyn Fn(&str, &Error) -> Instead + Send + Sync;

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

/// See [`Lock::try_lock`].
pub(crate) async fn try_lock(spec: &Arc<Spec>, client: &Arc<Client>) -> Result<Option<Guard>> {
    match Bid::new(spec.clone(), client.clone()).once().await {
        Err(error) => tried(spec, client, error).await,
        answer => answer,
    }
}

/// What there is instead of a lock that was tried for, and that the store failed.
pub(crate) async fn tried(spec: &Arc<Spec>, client: &Arc<Client>, error: Error) -> Result<Option<Guard>> {
    match instead(spec, &error) {
        Instead::Fail => Err(error),
        Instead::Unlocked => Ok(Some(unlocked(spec, client, &error))),
        Instead::Lock(other) => {
            let guard = Box::pin(other.try_lock()).await.map_err(|second| both_failed(&error, second))?;
            Ok(guard.map(|guard| elsewhere(spec, client, guard, &error)))
        }
    }
}

/// See [`Lock::lock`].
pub(crate) async fn lock(spec: &Arc<Spec>, client: &Arc<Client>, timeout: Option<Duration>) -> Result<Guard> {
    let begun = client.core.env.now();
    let error = match Bid::new(spec.clone(), client.clone()).wait(timeout).await {
        Err(error) => error,
        answer => return answer,
    };
    match instead(spec, &error) {
        Instead::Fail => Err(error),
        Instead::Unlocked => Ok(unlocked(spec, client, &error)),
        Instead::Lock(other) => {
            let left = timeout.map(|timeout| timeout.saturating_sub(client.core.env.now() - begun));
            let guard = match left {
                None => other.lock().await,
                Some(Duration::ZERO) => match Box::pin(other.try_lock()).await {
                    Ok(Some(guard)) => Ok(guard),
                    Ok(None) => return Err(error),
                    Err(second) => Err(second),
                },
                Some(left) => other.lock().timeout(left).await,
            };
            let guard = guard.map_err(|second| both_failed(&error, second))?;
            Ok(elsewhere(spec, client, guard, &error))
        }
    }
}

/// What the handler says, where there is one and the store is to blame: a busy lock or a refused claim is no failure.
fn instead(spec: &Spec, error: &Error) -> Instead {
    match &spec.options.fallback {
        Some(handler) if is_failure(error) => handler.0(spec.key.as_str(), error),
        _ => Instead::Fail,
    }
}

/// Whether the store is to blame.
pub(crate) fn is_failure(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Timeout => std::error::Error::source(error).is_some(),
        ErrorKind::Unavailable
        | ErrorKind::NoReply
        | ErrorKind::Denied
        | ErrorKind::Foreign
        | ErrorKind::Unsupported
        | ErrorKind::Corrupt => true,
        _ => false,
    }
}

fn unlocked(spec: &Arc<Spec>, client: &Arc<Client>, error: &Error) -> Guard {
    let core = &client.core;
    let (id, now) = (ClaimId::new(core.env.bits()), core.env.now());
    let granted = Granted { id, fence: Fence::NONE, now, deadline: Moment(u64::MAX), ambiguous: false, contact: None };
    core.degraded(spec, Degradation::Unlocked, Some(error));
    Guard::unlocked(Arc::new(Hold::new(spec, granted, 0)), client.clone())
}

fn elsewhere(spec: &Spec, client: &Client, guard: Guard, error: &Error) -> Guard {
    client.core.degraded(spec, Degradation::Lock, Some(error));
    guard.into_degraded()
}

fn both_failed(first: &Error, second: Error) -> Error {
    let message = format!("the lock could not be had ({first}), nor the one to take instead: {second}");
    Error::with_source(second.kind(), message, second)
}
