//! The client: it makes locks on one store, keeps what they hold, and tells how they fare.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::builder::LocksBuilder;
use crate::client::Client;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::Events;
use crate::health::NodeHealth;
use crate::info::{Holder, LockInfo};
use crate::key::Key;
use crate::lock::LockBuilder;
use crate::metrics::Metrics;
use crate::proto::{Claim, Op, Outcome, Owner, Release, Was};
use crate::store::Store;

/// A client of one store. It is cheap to clone, and its clones share one background task.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tenure::Result<()> {
/// let locks = tenure::open("memory:").await?;
/// let lock = locks.mutex("invoice-42").build()?;
/// let guard = lock.lock().await?;
/// println!("ours, with fence {}", guard.fence());
/// assert!(guard.release().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Locks {
    pub(crate) client: Arc<Client>,
    pub(crate) owner: Option<Owner>,
}

/// How many locks are read at the same time for a list.
const READS: usize = 64;

impl Locks {
    /// A client of that store, with the default options.
    pub fn new(store: impl Store) -> Self {
        Self::builder(Arc::new(store)).build().expect("the default options are valid")
    }

    /// A client of that store, with options of one's own as the defaults of its locks.
    pub fn builder(store: Arc<dyn Store>) -> LocksBuilder {
        LocksBuilder::new(store)
    }

    /// A lock that one holder has at a time.
    pub fn mutex(&self, name: impl Into<Arc<str>>) -> LockBuilder {
        self.lock(name, Claim::ALL, Claim::ALL)
    }

    /// The reading side of a reader-writer lock: readers share it, and exclude [writers](Self::write).
    pub fn read(&self, name: impl Into<Arc<str>>) -> LockBuilder {
        self.lock(name, 1, Claim::ALL)
    }

    /// The writing side of a reader-writer lock. It is the same claim as a [mutex](Self::mutex) of that name.
    pub fn write(&self, name: impl Into<Arc<str>>) -> LockBuilder {
        self.lock(name, Claim::ALL, Claim::ALL)
    }

    /// A semaphore of `limit` permits, of which [`LockBuilder::permits`] says how many are claimed: one by default.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// let encoders = locks.semaphore("encoders", 4).permits(3).build()?;
    /// let guard = encoders.lock().await?;
    /// assert!(encoders.try_lock().await?.is_none(), "one permit is left, and three are wanted");
    /// assert!(locks.semaphore("encoders", 4).build()?.try_lock().await?.is_some());
    /// # guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, name: impl Into<Arc<str>>, limit: u32) -> LockBuilder {
        self.lock(name, 1, limit)
    }

    fn lock(&self, name: impl Into<Arc<str>>, permits: u32, limit: u32) -> LockBuilder {
        let (client, owner) = (self.client.clone(), self.owner.clone());
        LockBuilder { client, name: name.into(), permits, limit, owner, options: self.client.options.clone() }
    }

    /// The same client on behalf of an owner. Claims of one owner do not exclude each other, in whatever process they
    /// are made, up to the bound that [`LockBuilder::reentrant`] sets: 16 by default.
    #[must_use]
    pub fn owner(&self, id: impl Into<Arc<str>>) -> Self {
        Self { client: self.client.clone(), owner: Some(Owner::new(id)) }
    }

    /// The locks that somebody holds or awaits, by name.
    ///
    /// # Errors
    ///
    /// When the store does not answer, or one of the records cannot be read.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn list(&self) -> Result<Vec<LockInfo>> {
        let keys = self.client.core.scan(self.client.options.op_timeout).await?;
        let infos = stream::iter(keys).map(|key| self.read_key(key)).buffered(READS);
        infos.try_filter(|info| std::future::ready(info.is_locked() || !info.waiters.is_empty())).try_collect().await
    }

    /// How the lock of that name stands.
    ///
    /// # Errors
    ///
    /// When the name is empty or too long, or the store does not answer.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn info(&self, name: &str) -> Result<LockInfo> {
        self.read_key(Key::new(name)?).await
    }

    pub(crate) async fn read_key(&self, key: Key) -> Result<LockInfo> {
        self.client.core.info(&key, self.client.options.op_timeout).await
    }

    /// Takes the lock of that name away from whoever is in at this moment, and says who that was. The next in line is
    /// let in.
    ///
    /// The former holders learn of it at their next renewal, not before: what they protect may still go on until then,
    /// and only a resource that checks fences is safe from it. Where the store reads from a replica
    /// ([`Traits::stale_reads`](crate::store::Traits::stale_reads)), somebody who got in a moment ago may be missed.
    ///
    /// # Errors
    ///
    /// When the store does not answer; some of the holders may be out then.
    ///
    /// # Cancel safety
    ///
    /// Some of the holders may be out.
    pub async fn break_lock(&self, name: &str) -> Result<Vec<Holder>> {
        let key = Key::new(name)?;
        let mut broken = Vec::new();
        let LockInfo { holders, read_at, .. } = self.read_key(key.clone()).await?;
        for holder in holders {
            // Its renewals, and requests of its that are under way, may come until its time has passed.
            let bury = holder.until.duration_since(read_at).unwrap_or_default();
            let op = Op::Release(Release { id: holder.id, bury, fence: 0 });
            let reply = self.client.core.apply(&key, &op, self.client.options.op_timeout).await?;
            if reply.outcome == (Outcome::Gone { was: Was::Holding }) {
                broken.push(holder);
            }
        }
        Ok(broken)
    }

    /// What happens to the locks of this client from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// let mut events = locks.events();
    /// let guard = locks.mutex("invoice-42").build()?.lock().await?;
    /// let event = events.recv().await.expect("the client lives");
    /// assert!(matches!(event.what, tenure::What::Acquired { fence, .. } if fence == guard.fence()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> Events {
        self.client.core.teller.listen()
    }

    /// The client's figures so far.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// locks.mutex("invoice-42").build()?.lock().await?.release().await?;
    /// let metrics = locks.metrics();
    /// assert_eq!((metrics.acquired, metrics.released), (1, 1));
    /// println!("{metrics}"); // in Prometheus' text format
    /// # Ok(())
    /// # }
    /// ```
    pub fn metrics(&self) -> Metrics {
        self.client.core.meters.counters.snapshot(&self.client.prefix)
    }

    /// The client's figures so far, which begin at zero again: each is in one of two such snapshots, never in both. How
    /// many hold and wait now is not counted anew.
    ///
    /// It is for one reader that folds what happened since it last looked. Where several read, or Prometheus does, use
    /// [`metrics`](Self::metrics), which only rises.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// let guard = locks.mutex("invoice-42").build()?.lock().await?;
    /// assert_eq!(locks.take_metrics().acquired, 1);
    /// let anew = locks.metrics();
    /// assert_eq!((anew.acquired, anew.held), (0, 1));
    /// # guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_metrics(&self) -> Metrics {
        self.client.core.meters.counters.take(&self.client.prefix)
    }

    /// How the nodes of the store fare, as far as this client has learned from what it asked them: one for each node.
    ///
    /// It asks nobody. It looks once at every hold.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// let locks = tenure::open("memory:").await?;
    /// let _guard = locks.mutex("invoice-42").build()?.lock().await?;
    /// for node in locks.health() {
    ///     println!("{} answers in {:?} and keeps {} holds", node.node, node.latency, node.holds);
    ///     assert!(node.up && node.holds == 1);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn health(&self) -> Vec<NodeHealth> {
        let core = &self.client.core;
        let (holds, soonest) = self.client.keeper.census();
        let now = core.env.now();
        let soonest = soonest.map(|deadline| deadline - now);
        let mut nodes = core.store.nodes();
        // Each hold has one deadline, wherever it is kept.
        nodes.iter_mut().filter(|node| node.holds > 0).for_each(|node| node.soonest_deadline = soonest);
        if nodes.is_empty() {
            nodes.push(core.vitals.health(core.node().to_owned(), holds, soonest));
        }
        nodes
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.client.core.store
    }

    /// Ends the client: nothing more can be acquired through it or its clones, and this waits until everything that was
    /// dropped is released, or has expired. Who waits for a lock already is turned away when it is next woken, or asks
    /// again.
    ///
    /// [Sinks](LocksBuilder::sink) are waited for, too, for a second at the most.
    ///
    /// Call it at the end of `main`: a runtime that ends right after a guard was dropped leaves its hold to expire.
    /// Guards that are still alive stay held, and are released when they go.
    ///
    /// # Cancel safety
    ///
    /// The client is closed; releases go on in the background.
    pub async fn close(&self) {
        self.client.closed.store(true, Ordering::Release);
        self.client.keeper.settle().await;
        let core = &self.client.core;
        if let Some(sinks) = core.teller.sinks() {
            sinks.settle(&core.env).await;
        }
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("store", self.store()).field("owner", &self.owner).finish_non_exhaustive()
    }
}
