//! A hold in the hands of its user: its token, until when it is certain, and how it ends.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{Instrument, Span};

use crate::client::{Client, Core};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::{Fence, Hold, HoldState, Loss};
use crate::info::{Meta, time};
use crate::key::Key;
use crate::place::Place;
use crate::proto::ClaimId;
use crate::renewal::Attempt;

/// A hold on a lock. It is renewed in the background for as long as the guard lives, unless the watchdog is off.
///
/// Dropping it hands the release to the background and returns at once; [`release`](Self::release) waits for it and says
/// whether the hold was still ours.
///
/// # The margin
///
/// The hold is taken to be over earlier than the store lets anybody else in: a hundredth of the ttl and 2 ms earlier,
/// counted from when the renewal was *sent*, while the store counts from when it carried it out. The clock is one that
/// goes on while the machine is suspended. So `is_held`, `lost` and `protect` tell the end in time, unless
///
/// * the store's clock runs faster than ours by more than the margin within one ttl, or is set forward;
/// * the store loses what it acknowledged, or somebody breaks the lock: that is learned at the next renewal;
/// * the process is paused between looking and acting. Only a resource that checks the [fence](Self::fence) is safe from
///   that.
///
/// # How it ends otherwise
///
/// | what happens | the hold |
/// | --- | --- |
/// | a panic while it is held | released, as the guard is dropped |
/// | the guard is dropped in another runtime, or outside any | released, by the runtime that renews it |
/// | all [`Locks`](crate::Locks) are dropped | goes on: the guard keeps what it needs |
/// | the guard is leaked, as by [`mem::forget`](std::mem::forget) | renewed for as long as its runtime runs, as nobody can tell it from one in use; [`max_hold`](crate::LockBuilder::max_hold) bounds that |
/// | the runtime ends | not renewed: told lost at its deadline, and free a little later. If the client is used in another runtime before, that takes its holds over |
/// | the process ends | free within its ttl |
///
/// The task that renews runs in the runtime in which the client was used first. One that is kept but no longer driven, as a
/// current-thread runtime outside `block_on`, renews and releases nothing.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard {
    pub(crate) hold: Arc<Hold>,
    pub(crate) client: Arc<Client>,
    pub(crate) standing: Standing,
    /// Its place in the line of this process.
    pub(crate) place: Option<Place>,
    /// It no longer counts among those that share the hold.
    pub(crate) left: bool,
    pub(crate) released: bool,
}

/// What a guard stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A hold on its lock; without a fence, one at the secondary of a fallback store.
    Lock,
    /// A hold on another lock, which the user's handler named.
    Another,
    /// Nothing.
    Unlocked,
}

/// What a holder knows about its hold without asking the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldInfo {
    /// Who holds it: the owner, where one was named, and otherwise `host:pid`.
    pub owner: String,
    /// The token.
    pub fence: Fence,
    /// How long it has been held.
    pub held_for: Duration,
    /// For how long it is certain.
    pub remaining: Duration,
    /// When that ends, on this machine's wall clock.
    pub deadline: SystemTime,
}

impl Guard {
    pub(crate) fn new(hold: Arc<Hold>, client: Arc<Client>, place: Option<Place>) -> Self {
        Self { hold, client, standing: Standing::Lock, place, left: false, released: false }
    }

    /// A guard that stands for no lock, of a hold that the keeper knows nothing of.
    pub(crate) fn unlocked(hold: Arc<Hold>, client: Arc<Client>) -> Self {
        Self { hold, client, standing: Standing::Unlocked, place: None, left: true, released: false }
    }

    /// The same hold, taken instead of another one.
    pub(crate) fn into_degraded(mut self) -> Self {
        if self.standing == Standing::Lock {
            self.standing = Standing::Another;
        }
        self
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.hold.key.as_str()
    }

    /// The token to pass with every write to what the lock protects.
    ///
    /// [`Fence::NONE`] where it is [degraded](Self::is_degraded).
    pub fn fence(&self) -> Fence {
        if self.standing == Standing::Lock { self.hold.fence } else { Fence::NONE }
    }

    /// Whether it is less than a hold on its lock, because the store failed: one at the secondary of a
    /// [`Fallback`](crate::store::Fallback), or what a [fallback](crate::LockBuilder::fallback) handler allowed.
    ///
    /// **Somebody else may hold the lock at the same time.** A resource that checks fences refuses what is done under
    /// it; where nothing checks, do only what may be done twice.
    ///
    /// One that stands for no lock at all counts as held, for [`max_hold`](crate::LockBuilder::max_hold) where that is
    /// set and otherwise without end, and its release says that nothing was held.
    pub fn is_degraded(&self) -> bool {
        self.fence() == Fence::NONE
    }

    /// Names this acquisition.
    pub fn id(&self) -> ClaimId {
        self.hold.id
    }

    /// What is known about the hold without asking the store.
    pub fn info(&self) -> HoldInfo {
        let here = || {
            let Meta { host, pid, .. } = Meta::here(None);
            format!("{host}:{pid}")
        };
        let remaining = self.remaining();
        HoldInfo {
            owner: self.hold.owner.as_ref().map_or_else(here, |owner| owner.as_str().to_owned()),
            fence: self.fence(),
            held_for: self.held_for(),
            remaining,
            deadline: time(self.client.core.env.wall()) + remaining,
        }
    }

    /// Whether it is certainly still held. Asks nobody; false from the local deadline on, which lies before the store's.
    pub fn is_held(&self) -> bool {
        self.hold.state() != HoldState::Lost && !self.remaining().is_zero()
    }

    /// How the hold stands.
    pub fn state(&self) -> HoldState {
        if self.is_held() { self.hold.state() } else { HoldState::Lost }
    }

    /// For how long the hold is certain if no further renewal comes through; zero when it is lost.
    pub fn remaining(&self) -> Duration {
        match self.hold.loss() {
            Some(_) => Duration::ZERO,
            None => {
                let left = self.hold.deadline() - self.client.core.env.now();
                if self.standing == Standing::Unlocked { left.min(self.hold.ttl) } else { left }
            }
        }
    }

    /// Completes when the hold is lost: at its local deadline at the latest, which lies before the store's. Never
    /// completes once the hold was released. Await it within a tokio runtime, of which it needs a timer.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped. It may outlive the guard.
    pub fn lost(&self) -> impl Future<Output = Loss> + Send + use<> {
        self.client.keeper.lost(&self.hold)
    }

    /// Runs `work` for as long as the hold is certain, in the hold's [span](Self::span) where it is called from where the
    /// lock was acquired.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// let guard = locks.mutex("invoice-42").build()?.lock().await?;
    /// let paid = guard.protect(async { 42 }).await?;
    /// assert_eq!(paid, 42);
    /// locks.break_lock("invoice-42").await?;
    /// assert!(guard.refresh().await.is_err_and(|error| error.is_lost()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when the hold is lost first; the work is dropped at its next await point then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the work.
    pub async fn protect<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let span = self.hold.span_of_work();
        tokio::select! {
            biased;
            loss = self.lost() => Err(self.lost_error(loss)),
            output = work.instrument(span) => Ok(output),
        }
    }

    /// Renews the hold now for a whole ttl from now. It works with the watchdog off, too; with it on, the next renewal is
    /// counted from this one. A hold in doubt is certain again after it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when it is over; another kind when the store did not answer. Then the hold is as certain as
    /// before but in doubt, and the watchdog, where it is on, tries again soon.
    ///
    /// # Cancel safety
    ///
    /// A renewal that was sent may still be carried out.
    pub async fn refresh(&self) -> Result<()> {
        if self.standing == Standing::Unlocked {
            return Ok(());
        }
        let (hold, core, keeper) = (&self.hold, &self.client.core, &self.client.keeper);
        if !self.is_held() {
            return Err(self.lost_error(hold.loss().unwrap_or(hold.loss_by_time())));
        }
        let attempt = Attempt::new(hold, core.env.now());
        let reply = core.apply(&hold.key, &attempt.op(hold), hold.op_timeout).await;
        let failure = reply.as_ref().err().cloned();
        keeper.refreshed(hold, attempt, reply);
        match failure {
            _ if !self.is_held() => Err(self.lost_error(hold.loss().unwrap_or(hold.loss_by_time()))),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The span of the hold, for work of one's own: `tenure.hold`, within the span in which the lock was acquired. Disabled
    /// where nobody follows spans of the level `DEBUG`, and once the hold is over.
    pub fn span(&self) -> Span {
        self.hold.span()
    }

    /// Whether there is a lock that it stands for.
    pub(crate) fn is_locked(&self) -> bool {
        self.standing != Standing::Unlocked
    }

    /// Whether its hold is on a lock of another client.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.standing == Standing::Another
    }

    pub(crate) fn core(&self) -> Arc<Core> {
        self.client.core.clone()
    }

    pub(crate) fn key(&self) -> &Key {
        &self.hold.key
    }

    pub(crate) fn op_timeout(&self) -> Duration {
        self.hold.op_timeout
    }

    pub(crate) fn held_for(&self) -> Duration {
        self.client.core.env.now() - self.hold.since
    }

    fn lost_error(&self, loss: Loss) -> Error {
        Error::new(ErrorKind::Lost, format!("the lock {:?} is no longer held: {loss}", self.hold.key))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Guard");
        debug.field("name", &self.name()).field("fence", &self.fence().get()).field("state", &self.state());
        debug.field("remaining", &self.remaining()).finish()
    }
}
