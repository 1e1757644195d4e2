//! Transactions under a lock.
//!
//! What has to happen as a whole or not at all, though clients and servers fail in the middle:
//!
//! * in one Redis, a *fenced commit*: see below;
//! * in several places, a [`Coordinator`] has its [participants](Participant) do something together, or not at all: two
//!   phases, and a decision that is written once in a [journal];
//! * in one's own database, [`sql`] has it refuse transactions under a token that is too old;
//! * in a service of one's own, a [`FenceGate`] refuses them;
//! * where the parts cannot wait for each other, a [`Saga`]: steps, each with a compensation that undoes it.
//!
//! # Fenced commit
//!
//! A lock cannot undo what others have seen. What it can do is decide who writes, and for that the write and the check of
//! the lock have to be one step. That is the *fenced commit*:
//!
//! ```text
//!   begin ──▶ holds the lock(s) ──▶ stage writes, in memory ──▶ commit: one atomic step in the store
//!                                        │                        still the holder, under this fence?
//!                                        │                        all that was expected is so?
//!                                        │                        then all writes, and the record: txid → outcome
//!                                        └── rollback, or drop: nothing was written
//! ```
//!
//! ```no_run
//! # async fn example() -> tenure::Result<()> {
//! let locks = tenure::open("redis://localhost").await?;
//! let mut tx = locks.mutex("account-42").build()?.begin_transaction().begin().await?;
//! tx.incr("balance:42", -100).rpush("ledger:42", "paid 100 for order 7").del("reserved:42");
//! tx.commit().await.committed()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What comes of it
//!
//! [`Transaction::commit`] ends in one of three ways, and [`Outcome`] says which: all was written, nothing was, or no reply
//! came and it is not known. An unknown one is settled by its [`Txid`], from anywhere: [`Locks::resolve`](crate::Locks::resolve)
//! says what became of it, and where nothing has yet, leaves a tombstone, so that nothing ever will.
//!
//! # Where it is to be had
//!
//! In one Redis, behind Sentinel, and on a cluster, where locks and keys have to be in one slot: the writes are to be in
//! the same store as the lock. A quorum and a ring have no one store, and refuse. [`Traits::transaction`] tells.
//!
//! [`Traits::transaction`]: crate::store::Traits::transaction

mod begin;
mod commit;
pub mod coordinator;
mod gate;
mod id;
pub mod journal;
#[cfg(feature = "redis")]
mod needs;
mod outcome;
pub mod participant;
#[cfg(feature = "postgres")]
mod postgres;
mod resolve;
mod saga;
mod settle;
pub mod sql;
mod stage;
mod step;
mod told;
mod txid;

pub use begin::BeginTransaction;
pub use commit::Transaction;
#[doc(inline)]
pub use coordinator::Coordinator;
pub use gate::{Admitted, FenceGate, GateSnapshot};
pub use id::TransactionId;
#[cfg(feature = "redis")]
pub(crate) use needs::{Need, needs};
#[cfg(feature = "redis")]
pub(crate) use outcome::Shown;
pub use outcome::{Outcome, Reason};
#[doc(inline)]
pub use participant::Participant;
pub use saga::{Call, Cause, Failure, Saga, SagaBuilder, SagaState, SagaStatus, StepState, StepStatus};
pub(crate) use settle::refused;
pub use settle::{Claimed, Commit, Settle, Verdict};
pub use step::{Step, Verb};
pub(crate) use told::Ending;
#[cfg(feature = "metrics")]
pub(crate) use told::{DOUBTS, WHYS};
pub use txid::{InvalidTxid, Txid};

/// Its examples are tried, too.
#[cfg(all(doctest, feature = "tokio-postgres"))]
#[doc = include_str!("../../../docs/transactions.md")]
struct Transactions;
