//! Several locks at once: all or none.
//!
//! ```text
//!   try all, in one round trip ──▶ all held ──────────────────────────────────────▶ Guards
//!        ▲                    └──▶ some busy: keep those before the first busy one, in the order of names,
//!        │                         give back those behind it, and wait for it
//!        └──────────────────────── then try the rest
//! ```
//!
//! Everybody takes their locks in the one order of names and waits for one only while holding none behind it, so two who
//! want some of the same never wait for each other.

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};

use crate::bid::{Attempt, Stake};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Why;
use crate::guard::Guard;
use crate::hold::Loss;
use crate::line::Lines;
use crate::lock::Lock;
use crate::locks::Locks;
use crate::options::invalid;

impl Locks {
    /// Takes all of the locks if all are free now, or none, in one round trip where the store can. `None`: at least one is
    /// busy.
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
    /// the first that failed. Nothing is held then.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, whatever the store did is undone in the background.
    pub async fn try_lock_all(&self, locks: &[Lock]) -> Result<Option<Guards>> {
        let mut taking = Taking::new(&self.client, locks)?;
        let busy = taking.try_rest().await?;
        let guards = taking.guards();
        match busy {
            None => Ok(Some(guards)),
            Some(_) => {
                guards.give_back().await;
                Ok(None)
            }
        }
    }

    /// Waits until all of the locks are held; [`AcquiringAll::timeout`] bounds the wait.
    ///
    /// # Errors
    ///
    /// As [`try_lock_all`](Self::try_lock_all), and [`ErrorKind::Timeout`] when the time is used up.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, everything is given up in the background.
    pub fn lock_all(&self, locks: &[Lock]) -> AcquiringAll {
        AcquiringAll { client: self.client.clone(), locks: locks.to_vec(), timeout: None }
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
            let give_up = self.timeout.map(|timeout| env.now() + timeout);
            let mut taking = Taking::new(&self.client, &self.locks)?;
            while let Some(busy) = taking.try_rest().await? {
                let wait = taking.wanted[busy].1.lock();
                let wait = match give_up {
                    Some(give_up) => wait.timeout(give_up - env.now()),
                    None => wait,
                };
                taking.held.push((busy, wait.await?));
            }
            Ok(taking.guards())
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
}

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
        Ok(Self { client: client.clone(), wanted, held: Vec::new() })
    }

    /// Tries all that are not held yet. The first that is busy: those before it are held, and none behind it.
    async fn try_rest(&mut self) -> Result<Option<usize>> {
        let first = self.held.len();
        let (mut bids, mut in_line) = (Vec::with_capacity(self.wanted.len() - first), None);
        for (i, (_, lock)) in self.wanted.iter().enumerate().skip(first) {
            let mut bid = lock.bid();
            if bid.stands_in_line() {
                bid.place = Lines::try_join(&self.client, &bid.spec);
                if bid.place.is_none() {
                    bid.end(Why::Busy);
                    in_line = Some(i);
                    break;
                }
            }
            bids.push(bid);
        }
        let ops: Vec<_> = bids.iter_mut().map(|bid| (bid.spec.key.clone(), bid.request(Duration::ZERO))).collect();
        let limit = bids.iter().map(|bid| bid.spec.options.op_timeout).max().unwrap_or_default();
        let replies = match ops.is_empty() {
            true => Vec::new(),
            false => self.client.core.apply_many(&ops, limit).await,
        };

        let (mut busy, mut failed, mut surplus) = (None, None, Vec::new());
        for (i, (mut bid, reply)) in bids.into_iter().zip(replies).enumerate() {
            match bid.hear(Duration::ZERO, reply) {
                Ok(Attempt::Held(fence, deadline, contact)) => {
                    let guard = bid.granted(fence, deadline, Some(contact));
                    match busy.is_none() && failed.is_none() {
                        true => self.held.push((first + i, guard)),
                        false => surplus.push(guard),
                    }
                }
                Ok(Attempt::Busy { .. }) => {
                    bid.stake = Stake::None;
                    bid.end(Why::Busy);
                    busy.get_or_insert(first + i);
                }
                Ok(Attempt::Failed(error)) => _ = failed.get_or_insert(bid.fail(error)),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        if let Some(error) = failed {
            surplus.extend(self.held.drain(..).map(|(_, guard)| guard));
            Guards(surplus).give_back().await;
            return Err(error);
        }
        Guards(surplus).give_back().await;
        Ok(busy.or(in_line))
    }

    /// The guards, in the order of the list.
    fn guards(&mut self) -> Guards {
        let mut guards: Vec<_> = self.held.drain(..).map(|(i, guard)| (self.wanted[i].0, guard)).collect();
        guards.sort_by_key(|(place, _)| *place);
        Guards(guards.into_iter().map(|(_, guard)| guard).collect())
    }
}

/// The holds on several locks, in the order in which these were given.
#[derive(Debug)]
#[must_use = "the locks are released when the guards are dropped"]
pub struct Guards(Vec<Guard>);

impl Guards {
    /// Whether all are certainly still held.
    pub fn are_held(&self) -> bool {
        self.0.iter().all(Guard::is_held)
    }

    /// Completes when the first of them is lost. Never completes where there is none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn lost(&self) -> Loss {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.0.iter().map(|guard| Box::pin(guard.lost()))).await.0
    }

    /// Runs `work` for as long as all are certain.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when one is lost first; the work is dropped at its next await point then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the work.
    pub async fn protect<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            loss = self.lost() => Err(Error::new(ErrorKind::Lost, format!("one of the locks is no longer held: {loss}"))),
            output = work => Ok(output),
        }
    }

    /// Releases all, in one round trip where the store can, and says whether all were still ours.
    ///
    /// # Errors
    ///
    /// The first, when the store did not answer for one. Its release goes on in the background.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the releases go on in the background.
    pub async fn release(mut self) -> Result<bool> {
        let mut ours = Ok(self.0.iter().all(Guard::is_locked));
        // What a fallback handler took of another client is released there.
        let elsewhere: Vec<_> = self.0.extract_if(.., |guard| guard.is_elsewhere()).collect();
        for released in join_all(elsewhere.into_iter().map(Guard::release)).await {
            match released {
                Ok(was_ours) => ours = ours.map(|all| all && was_ours),
                Err(error) => ours = ours.and(Err(error)),
            }
        }
        let mut ops = Vec::with_capacity(self.0.len());
        // What may pass to others in line does not come along.
        self.0.retain_mut(|guard| {
            let was_ours = guard.is_held();
            match guard.begin_release() {
                Some(op) => ops.push((guard.key().clone(), op)),
                None => {
                    if let Ok(all) = &mut ours {
                        *all &= was_ours;
                    }
                    return false;
                }
            }
            true
        });
        let limit = self.0.iter().map(Guard::op_timeout).max().unwrap_or_default();
        let Some(core) = self.0.first().map(Guard::core) else { return ours };
        let replies = core.apply_many(&ops, limit).await;
        for (guard, reply) in self.0.iter_mut().zip(replies) {
            match guard.end_release(reply) {
                Ok(was_ours) => ours = ours.map(|all| all && was_ours),
                Err(error) => ours = ours.and(Err(error)),
            }
        }
        ours
    }

    /// The guards one by one.
    pub fn into_vec(self) -> Vec<Guard> {
        self.0
    }

    async fn give_back(self) {
        // What is not certain is released in the background.
        let _ = self.release().await;
    }
}

impl std::ops::Deref for Guards {
    type Target = [Guard];

    fn deref(&self) -> &[Guard] {
        &self.0
    }
}
