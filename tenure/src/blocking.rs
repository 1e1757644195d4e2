//! The same locks for code without async: each call waits on the calling thread.
//!
//! A client has one background thread of its own, which renews and releases; it ends with the client and its guards.
//!
//! ```
//! # fn main() -> tenure::Result<()> {
//! let locks = tenure::blocking::open("memory:")?;
//! let lock = locks.lock(|locks| locks.mutex("nightly-report"))?;
//! let guard = lock.lock(None)?;
//! println!("ours, with fence {}", guard.fence());
//! assert!(guard.release()?);
//! # Ok(())
//! # }
//! ```
//!
//! Sagas and two-phase transactions are for async code alone; fenced commits are here, too.
//!
//! None of this may be called from async code: it would hold up its thread, and tokio panics.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, ErrorKind, Result};
mod transaction;

pub use transaction::Transaction;

use crate::{Events, Fence, HoldInfo, HoldState, LockBuilder, LockInfo, Loss, Metrics, NodeHealth, Ticket};

/// A client of the store at `url`; see [`crate::open`].
///
/// # Errors
///
/// As [`crate::open`], and when no thread can be started.
pub fn open(url: &str) -> Result<Locks> {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("tenure").enable_all().build();
    let runtime = runtime.map_err(|error| {
        Error::with_source(ErrorKind::Unavailable, "the background thread cannot be started", error)
    })?;
    let locks = runtime.block_on(crate::open(url))?;
    Ok(Locks { runtime: Arc::new(runtime), locks })
}

/// A client; see [`crate::Locks`].
#[derive(Clone, Debug)]
pub struct Locks {
    runtime: Arc<Runtime>,
    locks: crate::Locks,
}

impl Locks {
    /// The lock that `describe` asks the client for, with all options of [`LockBuilder`].
    ///
    /// # Errors
    ///
    /// As [`LockBuilder::build`].
    pub fn lock(&self, describe: impl FnOnce(&crate::Locks) -> LockBuilder) -> Result<Lock> {
        Ok(Lock { runtime: self.runtime.clone(), lock: describe(&self.locks).build()? })
    }

    /// The locks that somebody holds or awaits; see [`crate::Locks::list`].
    ///
    /// # Errors
    ///
    /// As [`crate::Locks::list`].
    pub fn list(&self) -> Result<Vec<LockInfo>> {
        self.runtime.block_on(self.locks.list())
    }

    /// The lease that the ticket is for; see [`crate::Locks::resume`].
    ///
    /// # Errors
    ///
    /// As [`crate::Locks::resume`].
    pub fn resume(&self, ticket: Ticket) -> Result<Lease> {
        let lease = self.runtime.block_on(self.locks.resume(ticket))?;
        Ok(Lease { lease, runtime: self.runtime.clone() })
    }

    /// What happens from now on; see [`crate::Locks::events`].
    pub fn events(&self) -> Events {
        self.locks.events()
    }

    /// The client's figures so far; see [`crate::Locks::metrics`].
    pub fn metrics(&self) -> Metrics {
        self.locks.metrics()
    }

    /// How the nodes of the store fare; see [`crate::Locks::health`].
    pub fn health(&self) -> Vec<NodeHealth> {
        self.locks.health()
    }

    /// Ends the client; see [`crate::Locks::close`].
    pub fn close(&self) {
        self.runtime.block_on(self.locks.close());
    }
}

/// A lock; see [`crate::Lock`].
#[derive(Clone, Debug)]
pub struct Lock {
    runtime: Arc<Runtime>,
    lock: crate::Lock,
}

impl Lock {
    /// Takes the lock if it is free; see [`crate::Lock::try_lock`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::try_lock`].
    pub fn try_lock(&self) -> Result<Option<Guard>> {
        let guard = self.runtime.block_on(self.lock.try_lock())?;
        Ok(guard.map(|guard| self.guard(guard)))
    }

    /// Waits until the lock is granted, for `timeout` at the most; see [`crate::Lock::lock`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::lock`].
    pub fn lock(&self, timeout: Option<Duration>) -> Result<Guard> {
        let acquiring = self.lock.lock();
        let acquiring = match timeout {
            Some(timeout) => acquiring.timeout(timeout),
            None => acquiring,
        };
        let guard = self.runtime.block_on(acquiring.into_future())?;
        Ok(self.guard(guard))
    }

    /// Waits for a lease, for `timeout` at the most; see [`crate::Lock::lease`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::lease`].
    pub fn lease(&self, term: Duration, timeout: Option<Duration>) -> Result<Lease> {
        let leasing = timeout.into_iter().fold(self.lock.lease(term), crate::Leasing::timeout);
        let lease = self.runtime.block_on(leasing.into_future())?;
        Ok(Lease { lease, runtime: self.runtime.clone() })
    }

    /// Whether anybody holds the lock now; see [`crate::Lock::is_locked`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::is_locked`].
    pub fn is_locked(&self) -> Result<bool> {
        self.runtime.block_on(self.lock.is_locked())
    }

    /// Who holds the lock, and who waits; see [`crate::Lock::info`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::info`].
    pub fn info(&self) -> Result<LockInfo> {
        self.runtime.block_on(self.lock.info())
    }

    fn guard(&self, guard: crate::Guard) -> Guard {
        Guard { guard, runtime: self.runtime.clone() }
    }
}

/// A hold; see [`crate::Guard`]. It is renewed by the background thread.
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard {
    guard: crate::Guard,
    runtime: Arc<Runtime>,
}

impl Guard {
    /// The lock's name.
    pub fn name(&self) -> &str {
        self.guard.name()
    }

    /// The token to pass with every write; see [`crate::Guard::fence`].
    pub fn fence(&self) -> Fence {
        self.guard.fence()
    }

    /// Whether it is less than a hold on its lock; see [`crate::Guard::is_degraded`].
    pub fn is_degraded(&self) -> bool {
        self.guard.is_degraded()
    }

    /// What is known about the hold without asking the store.
    pub fn info(&self) -> HoldInfo {
        self.guard.info()
    }

    /// Whether it is certainly still held: look before each step of the work. See [`crate::Guard::is_held`].
    pub fn is_held(&self) -> bool {
        self.guard.is_held()
    }

    /// How the hold stands.
    pub fn state(&self) -> HoldState {
        self.guard.state()
    }

    /// For how long the hold is certain if no further renewal comes through.
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Runs `tell` on the background thread when the hold is lost; see [`crate::Guard::lost`].
    pub fn on_lost(&self, tell: impl FnOnce(Loss) + Send + 'static) {
        let lost = self.guard.lost();
        self.runtime.spawn(async move { tell(lost.await) });
    }

    /// Renews the hold now; see [`crate::Guard::refresh`].
    ///
    /// # Errors
    ///
    /// As [`crate::Guard::refresh`].
    pub fn refresh(&self) -> Result<()> {
        self.runtime.block_on(self.guard.refresh())
    }

    /// Releases the hold, and says whether it was still ours; see [`crate::Guard::release`].
    ///
    /// # Errors
    ///
    /// As [`crate::Guard::release`].
    pub fn release(self) -> Result<bool> {
        self.runtime.block_on(self.guard.release())
    }
}

/// A lease; see [`crate::Lease`].
///
/// ```
/// # fn main() -> tenure::Result<()> {
/// use std::time::Duration;
///
/// let locks = tenure::blocking::open("memory:")?;
/// let lease = locks.lock(|locks| locks.mutex("upload-7"))?.lease(Duration::from_secs(3600), None)?;
/// let ticket = lease.ticket().clone();
/// drop(lease); // releases nothing
/// let guard = locks.resume(ticket)?.into_guard();
/// assert!(guard.release()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Lease {
    lease: crate::Lease,
    runtime: Arc<Runtime>,
}

impl Lease {
    /// The token to pass with every write; see [`crate::Lease::fence`].
    pub fn fence(&self) -> Fence {
        self.lease.fence()
    }

    /// What finds the lease again; see [`crate::Lease::ticket`].
    pub fn ticket(&self) -> &Ticket {
        self.lease.ticket()
    }

    /// For how long it is certain unless it is refreshed.
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// Begins a new term; see [`crate::Lease::refresh`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lease::refresh`].
    pub fn refresh(&mut self) -> Result<()> {
        self.runtime.block_on(self.lease.refresh())
    }

    /// Releases it, and says whether it was still there; see [`crate::Lease::release`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lease::release`].
    pub fn release(&self) -> Result<bool> {
        self.runtime.block_on(self.lease.release())
    }

    /// A lease for somebody else; see [`crate::Lease::hand_over`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lease::hand_over`].
    pub fn hand_over(self) -> Result<Self> {
        let Self { lease, runtime } = self;
        let lease = runtime.block_on(lease.hand_over())?;
        Ok(Self { lease, runtime })
    }

    /// A lease for the owner of that name; see [`crate::Lease::hand_over_to`].
    ///
    /// # Errors
    ///
    /// As [`crate::Lease::hand_over_to`].
    pub fn hand_over_to(self, owner: impl Into<Arc<str>>) -> Result<Self> {
        let Self { lease, runtime } = self;
        let lease = runtime.block_on(lease.hand_over_to(owner))?;
        Ok(Self { lease, runtime })
    }

    /// A guard of it, which the background thread renews; see [`crate::Lease::into_guard`].
    pub fn into_guard(self) -> Guard {
        let Self { lease, runtime } = self;
        let guard = {
            let _in_runtime = runtime.enter();
            lease.into_guard()
        };
        Guard { guard, runtime }
    }
}
