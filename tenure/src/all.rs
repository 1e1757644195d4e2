//! Several locks at once: all or none.
//!
//! ```text
//!   try all, in one round trip ──▶ all held ──────────────────────────────────────▶ Guards
//!        ▲                    └──▶ some not: keep those before the first of these, in the order of names, give back
//!        │                         those behind it, and wait for it as one waits for a single lock
//!        └──────────────────────── then try the rest, from the first that was lost meanwhile
//! ```
//!
//! Everybody takes their locks in the one order of names and waits for one only while holding none behind it, so two who
//! want some of the same never wait for each other.
//!
//! A lock whose request failed is waited for as a busy one is: so the store is asked again, and the user's handler in the
//! end, as for a single lock.

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::bid::{Attempt, Stake};
use crate::client::Client;
use crate::degrade;
use crate::env::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Why;
use crate::guard::Guard;
use crate::guards::Guards;
use crate::lock::Lock;
use crate::locks::Locks;
use crate::options::invalid;

impl Locks {
    /// Takes all of the locks if all are free now, or none, in one round trip where the store can. `None`: at least one is
    /// busy.
    ///
    /// The longest of the locks' [`op_timeout`](crate::LockBuilder::op_timeout)s bounds both the try and giving back what
    /// was had; what cannot be given back by then is given back in the background.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// let accounts = [locks.mutex("account-1").build()?, locks.mutex("account-2").build()?];
    /// if let Some(guards) = locks.try_lock_all(&accounts).await? {
    ///     println!("fences {} and {}", guards[0].fence(), guards[1].fence());
    ///     guards.release().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a name is there twice, or a lock is another client's; else as [`Lock::try_lock`], for
    /// the first that failed: a [fallback](crate::LockBuilder::fallback) handler is asked for each that the store failed.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, whatever the store did is undone in the background.
    pub async fn try_lock_all(&self, locks: &[Lock]) -> Result<Option<Guards>> {
        let mut taking = Taking::new(&self.client, locks)?;
        let limit = locks.iter().map(|lock| lock.spec.options.op_timeout).max().unwrap_or_default();
        let until = self.client.core.env.now() + limit;
        let outcome = loop {
            let (n, error) = match taking.try_rest(until).await {
                Ok(None) => return Ok(Some(taking.guards())),
                Ok(Some((n, Some(error)))) => (n, error),
                Ok(Some((_, None))) => break Ok(None),
                Err(error) => break Err(error),
            };
            match degrade::tried(&taking.wanted[n].1.spec, &self.client, error).await {
                Ok(Some(guard)) => taking.held.push((n, guard)),
                Ok(None) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        taking.give_back(until).await;
        outcome
    }

    /// Waits until all of the locks are held; [`AcquiringAll::timeout`] bounds the wait.
    ///
    /// A hold that is lost while others are waited for, as one without a watchdog may be, is taken again. So with
    /// [`max_hold`](crate::LockBuilder::max_hold), which counts for each from when it was had, give time enough for all.
    ///
    /// # Errors
    ///
    /// As [`try_lock_all`](Self::try_lock_all), and [`ErrorKind::Timeout`] when the time is used up. A store that fails is
    /// asked again, and a fallback handler then, as [`Lock::lock`] does for each of the locks.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, everything is given up in the background.
    pub fn lock_all(&self, locks: &[Lock]) -> AcquiringAll {
        AcquiringAll::new(&self.client, locks.to_vec())
    }
}

/// A wait for several locks that has not begun: await it.
#[must_use = "nothing is asked for before it is awaited"]
pub struct AcquiringAll {
    client: Arc<Client>,
    locks: Vec<Lock>,
    timeout: Option<Duration>,
}

impl AcquiringAll {
    pub(crate) fn new(client: &Arc<Client>, locks: Vec<Lock>) -> Self {
        Self { client: client.clone(), locks, timeout: None }
    }

    /// Gives up after that time; without, it waits for as long as it takes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl fmt::Debug for AcquiringAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquiringAll").field("locks", &self.locks).field("timeout", &self.timeout).finish()
    }
}

impl IntoFuture for AcquiringAll {
    type Output = Result<Guards>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Guards>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let env = &self.client.core.env;
            let give_up = self.timeout.map_or(Moment(u64::MAX), |timeout| env.now() + timeout);
            let mut taking = Taking::new(&self.client, &self.locks)?;
            loop {
                let stopped = taking.try_rest(give_up).await?;
                // Dropping gives them back in the background: nobody waits for that.
                taking.surplus.clear();
                if taking.forget_lost() {
                    if env.now() >= give_up {
                        return Err(taking.timed_out());
                    }
                    continue;
                }
                let Some((n, _)) = stopped else { return Ok(taking.guards()) };
                let wait = taking.wanted[n].1.lock();
                let wait = match give_up {
                    Moment(u64::MAX) => wait,
                    _ => wait.timeout(give_up - env.now()),
                };
                taking.held.push((n, wait.await?));
                taking.forget_lost();
            }
        })
    }
}

/// Some locks on their way, in the order of their names.
struct Taking {
    client: Arc<Client>,
    /// Where each stood in the list, and the lock.
    wanted: Vec<(usize, Lock)>,
    /// The first so many of those wanted.
    held: Vec<(usize, Guard)>,
    /// What was had behind one that was not.
    surplus: Vec<Guard>,
}

/// The first lock that could not be had, and how the store failed, if it did.
type Stopped = (usize, Option<Error>);

impl Taking {
    fn new(client: &Arc<Client>, locks: &[Lock]) -> Result<Self> {
        client.check_open()?;
        let mut names = BTreeSet::new();
        for lock in locks {
            if !names.insert(lock.name()) {
                return Err(invalid(format!("the lock {:?} is in the list twice: give each once", lock.name())));
            }
            if !lock.is_of(client) {
                return Err(invalid(format!("the lock {:?} is another client's: make it by this one", lock.name())));
            }
        }
        let mut wanted: Vec<_> = locks.iter().cloned().enumerate().collect();
        wanted.sort_by(|(_, a), (_, b)| a.name().cmp(b.name()));
        Ok(Self { client: client.clone(), wanted, held: Vec::new(), surplus: Vec::new() })
    }

    /// Tries all that are not held yet, for no longer than the longest of their time limits, nor beyond `give_up`. Where
    /// one could not be had, those before it are held, and those behind it that were had are in surplus.
    ///
    /// # Errors
    ///
    /// When a claim was turned away: asking again would not help.
    async fn try_rest(&mut self, give_up: Moment) -> Result<Option<Stopped>> {
        let first = self.held.len();
        if first == self.wanted.len() {
            return Ok(None);
        }
        self.client.check_open()?;
        let (mut bids, mut in_line) = (Vec::with_capacity(self.wanted.len() - first), None);
        for (n, (_, lock)) in self.wanted.iter().enumerate().skip(first) {
            let mut bid = lock.bid();
            match bid.try_line() {
                Ok(true) => bids.push(bid),
                Ok(false) => in_line = Some((n, None)),
                Err(error) => in_line = Some((n, Some(error))),
            }
            if in_line.is_some() {
                break;
            }
        }
        let ops: Vec<_> = bids.iter_mut().map(|bid| (bid.spec.key.clone(), bid.request(Duration::ZERO))).collect();
        let limit = bids.iter().map(|bid| bid.spec.options.op_timeout).max().unwrap_or_default();
        let limit = limit.min((give_up - self.client.core.env.now()).max(Duration::from_millis(1)));
        let replies = match ops.is_empty() {
            true => Vec::new(),
            false => self.client.core.apply_many(&ops, limit).await,
        };

        let (mut stopped, mut refused) = (None, None);
        for (n, (mut bid, reply)) in (first..).zip(bids.into_iter().zip(replies)) {
            match bid.hear(Duration::ZERO, reply) {
                Ok(Attempt::Held(fence, deadline, contact)) => {
                    let guard = bid.granted(fence, deadline, Some(contact));
                    match stopped.is_none() && refused.is_none() {
                        true => self.held.push((n, guard)),
                        false => self.surplus.push(guard),
                    }
                }
                Ok(Attempt::Busy { .. }) => {
                    bid.stake = Stake::None;
                    bid.end(Why::Busy);
                    stopped.get_or_insert((n, None));
                }
                Ok(Attempt::Failed(error)) => _ = stopped.get_or_insert((n, Some(bid.fail(error)))),
                Err(error) if degrade::is_failure(&error) => _ = stopped.get_or_insert((n, Some(error))),
                Err(error) => _ = refused.get_or_insert(error),
            }
        }
        match refused {
            Some(error) => Err(error),
            None => Ok(stopped.or(in_line)),
        }
    }

    /// Drops what was lost meanwhile with all behind it, for that has to be taken after it; whether there was any.
    fn forget_lost(&mut self) -> bool {
        let certain = self.held.iter().take_while(|(_, guard)| guard.is_held()).count();
        let any = certain < self.held.len();
        self.held.truncate(certain);
        any
    }

    fn timed_out(&self) -> Error {
        let names: Vec<_> = self.wanted.iter().map(|(_, lock)| lock.name()).collect();
        let message = format!("the locks {names:?} could not all be held at the same time within the time for waiting");
        Error::new(ErrorKind::Timeout, message)
    }

    /// Gives back whatever was had, and what is not certain by then in the background.
    async fn give_back(self, until: Moment) {
        let env = &self.client.core.env;
        let guards = self.held.into_iter().map(|(_, guard)| guard).chain(self.surplus).collect();
        let _ = env.timeout(until - env.now(), Guards(guards).release()).await;
    }

    /// The guards, in the order of the list.
    fn guards(mut self) -> Guards {
        let mut guards: Vec<_> = self.held.drain(..).map(|(n, guard)| (self.wanted[n].0, guard)).collect();
        guards.sort_by_key(|(place, _)| *place);
        Guards(guards.into_iter().map(|(_, guard)| guard).collect())
    }
}
