//! The fenced commit for code without async: as [`crate::transaction::Transaction`], and what asks the store waits.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::{Guard, Lock, Locks};
use crate::error::Result;
use crate::transaction::{BeginTransaction, Outcome, Txid};

impl Lock {
    /// Takes the lock and begins a transaction under it; see [`crate::Lock::begin_transaction`]. `describe` sets its options.
    ///
    /// ```no_run
    /// # fn main() -> tenure::Result<()> {
    /// use std::time::Duration;
    ///
    /// let locks = tenure::blocking::open("redis://localhost")?;
    /// let account = locks.lock(|locks| locks.mutex("account-42"))?;
    /// let mut tx = account.begin_transaction(|begin| begin.timeout(Duration::from_secs(5)))?;
    /// tx.expect("state:42", "open").incr("balance:42", -100);
    /// tx.commit().committed()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`BeginTransaction::begin`].
    pub fn begin_transaction(
        &self,
        describe: impl FnOnce(BeginTransaction) -> BeginTransaction,
    ) -> Result<Transaction> {
        begin(&self.runtime, describe(self.lock.begin_transaction()))
    }
}

impl Locks {
    /// Takes several locks and begins a transaction under all of them; see [`crate::Locks::begin_transaction`].
    ///
    /// # Errors
    ///
    /// As [`BeginTransaction::begin`].
    pub fn begin_transaction(
        &self,
        locks: &[Lock],
        describe: impl FnOnce(BeginTransaction) -> BeginTransaction,
    ) -> Result<Transaction> {
        let locks: Vec<_> = locks.iter().map(|lock| lock.lock.clone()).collect();
        begin(&self.runtime, describe(self.locks.begin_transaction(&locks)))
    }

    /// Settles a transaction for good, and says how; see [`crate::Locks::resolve`].
    ///
    /// # Errors
    ///
    /// As [`crate::Locks::resolve`].
    pub fn resolve(&self, txid: &Txid) -> Result<Outcome> {
        self.runtime.block_on(self.locks.resolve(txid))
    }
}

impl Guard {
    /// Begins a transaction under this hold, which its end leaves as it is; see [`crate::Guard::begin_transaction`].
    ///
    /// # Errors
    ///
    /// As [`BeginTransaction::begin`].
    pub fn begin_transaction(
        &self,
        describe: impl FnOnce(BeginTransaction) -> BeginTransaction,
    ) -> Result<Transaction> {
        begin(&self.runtime, describe(self.guard.begin_transaction()))
    }
}

fn begin(runtime: &Arc<Runtime>, begin: BeginTransaction) -> Result<Transaction> {
    let tx = runtime.block_on(begin.begin())?;
    Ok(Transaction { tx, runtime: runtime.clone() })
}

/// A transaction that has begun; see [`crate::transaction::Transaction`], whose name, staging and looks it has.
///
/// Dropping it rolls it back.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction {
    tx: crate::transaction::Transaction,
    runtime: Arc<Runtime>,
}

impl Transaction {
    /// Commits; see [`crate::transaction::Transaction::commit`].
    pub fn commit(self) -> Outcome {
        self.runtime.block_on(self.tx.commit())
    }

    /// Forgets what was staged, releases the locks that the transaction took, and says whether all were still ours; see
    /// [`crate::transaction::Transaction::rollback`].
    ///
    /// # Errors
    ///
    /// As [`crate::transaction::Transaction::rollback`].
    pub fn rollback(self) -> Result<bool> {
        self.runtime.block_on(self.tx.rollback())
    }
}

impl Deref for Transaction {
    type Target = crate::transaction::Transaction;

    fn deref(&self) -> &Self::Target {
        &self.tx
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.tx
    }
}
