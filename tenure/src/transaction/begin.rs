//! How a transaction begins: it takes its locks, or rests on holds that are there already.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::commit::Transaction;
use super::settle::refused;
use super::txid::Txid;
use crate::all::AcquiringAll;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::guards::Guards;
use crate::hold::Hold;
use crate::lock::Lock;
use crate::locks::Locks;
use crate::options::{invalid, within};
use crate::proto::{Micros, micros};

/// For how long outcomes are kept where nothing else was said.
const MEMORY: Duration = Duration::from_secs(3600);
/// The shortest and the longest that may be said.
const MEMORIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));
/// A fence may be that far ahead of the store's clock, where a hold was handed on before that was set back.
const AHEAD: Micros = 2_000_000;

/// A transaction that has not begun: [`begin`](Self::begin) it.
#[must_use = "nothing is asked for before it is begun"]
pub struct BeginTransaction {
    client: Arc<Client>,
    under: Under,
    timeout: Option<Duration>,
    memory: Duration,
}

/// What a transaction is under.
enum Under {
    /// Locks, which it takes, and releases at its end.
    Locks(Vec<Lock>),
    /// Holds, which others release; and whether one of them is degraded.
    Holds(Vec<Arc<Hold>>, bool),
}

impl Lock {
    /// A transaction under this lock, which it takes when it begins and releases when it ends.
    ///
    /// ```no_run
    /// # async fn example() -> tenure::Result<()> {
    /// use std::time::Duration;
    ///
    /// let locks = tenure::open("redis://localhost").await?;
    /// let account = locks.mutex("account-42").build()?;
    /// let mut tx = account.begin_transaction().timeout(Duration::from_secs(5)).begin().await?;
    /// tx.expect("state:42", "open").incr("balance:42", -100);
    /// match tx.commit().await {
    ///     tenure::transaction::Outcome::Committed => println!("paid"),
    ///     outcome => println!("{outcome}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin_transaction(&self) -> BeginTransaction {
        BeginTransaction::new(&self.client, Under::Locks(vec![self.clone()]))
    }
}

impl Locks {
    /// A transaction under several locks, which it takes in the order of their names when it begins, as
    /// [`lock_all`](Self::lock_all) does, and releases when it ends. The commit is carried out only while all are held.
    pub fn begin_transaction(&self, locks: &[Lock]) -> BeginTransaction {
        BeginTransaction::new(&self.client, Under::Locks(locks.to_vec()))
    }
}

impl Guard {
    /// A transaction under this hold. It begins at once, and its end leaves the hold as it is; one after the other may be
    /// made under the same hold. What is to be committed after the guard went is rolled back.
    ///
    /// Guards of one owner that share a hold share it for this, too: each may commit.
    ///
    /// ```no_run
    /// # async fn example() -> tenure::Result<()> {
    /// # let locks = tenure::open("redis://localhost").await?;
    /// let guard = locks.mutex("account-42").build()?.lock().await?;
    /// let mut tx = guard.begin_transaction().begin().await?;
    /// tx.set("state:42", "closed");
    /// tx.commit().await.committed()?;
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin_transaction(&self) -> BeginTransaction {
        BeginTransaction::new(&self.client, Under::Holds(vec![self.hold.clone()], self.is_degraded()))
    }
}

impl Guards {
    /// A transaction under all of these holds, as [`Guard::begin_transaction`].
    ///
    /// # Panics
    ///
    /// Where there are none.
    pub fn begin_transaction(&self) -> BeginTransaction {
        let client = &self.first().expect("a transaction is under at least one lock").client;
        let holds = self.iter().map(|guard| guard.hold.clone()).collect();
        BeginTransaction::new(client, Under::Holds(holds, self.iter().any(Guard::is_degraded)))
    }
}

impl BeginTransaction {
    fn new(client: &Arc<Client>, under: Under) -> Self {
        Self { client: client.clone(), under, timeout: None, memory: MEMORY }
    }

    /// Gives up waiting for the locks after that time; without, it waits for as long as it takes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// For how long the outcome is kept: 1 h by default, 1 s to 30 days.
    ///
    /// The transaction has to be committed within that time from its beginning, and can be
    /// [resolved](Locks::resolve) for as long from its end. A record of some hundred bytes lies in the store meanwhile, and
    /// then goes by itself.
    pub fn outcome_memory(mut self, memory: Duration) -> Self {
        self.memory = memory;
        self
    }

    /// Begins: the lock is taken, or all of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the [store](crate::store::Traits::transaction) has no transactions,
    /// [`ErrorKind::Unavailable`] where less than the lock could be had (see [`Guard::is_degraded`]),
    /// [`ErrorKind::Invalid`] for an option that cannot be meant; else as [`Lock::lock`] and [`Locks::lock_all`].
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, what was taken is released in the background.
    pub async fn begin(self) -> Result<Transaction> {
        let Self { client, under, timeout, memory } = self;
        client.check_open()?;
        within("outcome_memory", memory, MEMORIES)?;
        let traits = client.core.store.traits();
        if !traits.transaction {
            return Err(refused(traits.kind));
        }
        let (guards, holds, degraded) = match under {
            Under::Holds(holds, degraded) => (None, holds, degraded),
            Under::Locks(locks) => {
                let guards = take(&client, locks, timeout).await?;
                let (holds, degraded) =
                    (guards.iter().map(|guard| guard.hold.clone()).collect(), guards.iter().any(Guard::is_degraded));
                (Some(guards), holds, degraded)
            }
        };
        if degraded {
            let message =
                "a transaction needs its lock, and less was to be had: the guard is degraded; try again later";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let mut holds: Vec<Arc<Hold>> = holds;
        holds.sort_by(|a, b| a.key.cmp(&b.key));
        let core = &client.core;
        let Some(first) = holds.first() else { return Err(invalid("a transaction is under at least one lock")) };
        // What the store's clock shows at least: a record lasts for the same time from later.
        let clock =
            first.contact().map_or(first.fence.get().saturating_sub(AHEAD), |contact| contact.clock(core.env.now()));
        let txid = Txid::new(first.key.clone(), clock + micros(memory), core.env.bits());
        Ok(Transaction { txid, client, holds, guards, steps: Vec::new(), memory })
    }
}

async fn take(client: &Arc<Client>, mut locks: Vec<Lock>, timeout: Option<Duration>) -> Result<Guards> {
    match (locks.pop(), locks.is_empty()) {
        (None, _) => Ok(Guards(Vec::new())),
        (Some(lock), true) => {
            let acquiring = timeout.into_iter().fold(lock.lock(), |acquiring, limit| acquiring.timeout(limit));
            Ok(Guards(vec![acquiring.await?]))
        }
        (Some(lock), false) => {
            locks.push(lock);
            let acquiring = AcquiringAll::new(client, locks);
            timeout.into_iter().fold(acquiring, AcquiringAll::timeout).await
        }
    }
}

impl fmt::Debug for BeginTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = match &self.under {
            Under::Locks(locks) => locks.iter().map(Lock::name).collect(),
            Under::Holds(holds, _) => holds.iter().map(|hold| hold.key.as_str()).collect(),
        };
        f.debug_struct("BeginTransaction")
            .field("locks", &names)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
