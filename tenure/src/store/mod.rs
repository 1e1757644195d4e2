//! Where records live.
//!
//! A [`Store`] carries out an [`Op`] on the record of a [`Key`] in one atomic step at its own clock. That is all a lock
//! rests on; waiting, holding and telling are the client's part and the same over every store.
//!
//! There are two ways to write one:
//!
//! * whatever can load a value and swap it if it is unchanged is a [`Register`], and [`Atomic`] makes a store of it: an
//!   afternoon's work, and `examples/register.rs` is one;
//! * whatever can run the rule next to its data implements [`Store`] itself, as the Redis store does with its Lua twin.
//!
//! `tenure::conformance` (feature `conformance`) holds every promise as a function to run against the result.
//!
//! Neither trait has a default method: what a wrapper forgets to pass on should not compile.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::Result;
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{Op, Record, Reply};
use crate::transaction::{Settle, Verdict};

mod atomic;
mod breaker;
mod fallback;
#[cfg(any(feature = "redis", all(test, loom)))]
mod gather;
mod memory;
mod push;
mod quorum;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "redis")]
pub(crate) use self::redis::commands as redis_commands;
#[cfg(feature = "redis")]
pub(crate) use self::redis::inspect;
#[cfg(feature = "redis")]
pub use self::redis::{Redis, RedisCluster};
pub use atomic::{Atomic, Loaded, Register, Step, step};
pub use breaker::{Breaker, BreakerBuilder, BreakerState};
pub use fallback::Fallback;
pub use memory::Memory;
pub(crate) use push::Told;
pub use push::{Hub, Push, Watch};
#[cfg(feature = "redis")]
pub(crate) use quorum::quorum_nodes;
pub use quorum::{ChangeStep, Members, NodeStatus, Quorum, QuorumBuilder, Ring, RingBuilder};
#[cfg(all(feature = "redis", feature = "conformance"))]
#[doc(hidden)]
pub use redis::{commit as redis_commit, script as redis_script};
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
#[cfg(feature = "sqlite")]
pub(crate) use sqlite::{sqlite_create, sqlite_explain, sqlite_options, sqlite_path};

/// Where records live, and what carries out operations on them.
///
/// # Contract
///
/// * `apply` is atomic and carried out at the store's own clock, in the order of some one history per key.
/// * An error of kind [`NoReply`](crate::ErrorKind::NoReply) says that the operation may have been, or may yet be,
///   carried out; any other error says that it never will be. A store never sends an operation twice by itself.
/// * A store sets no time limit on a reply beyond what its transport needs: the caller does, by dropping the future. A
///   dropped future is a missing reply.
/// * What it writes expires at [`Record::expires`], always.
///
/// # Cancel safety
///
/// For every method: who drops its future knows as much as after [`NoReply`](crate::ErrorKind::NoReply). Each operation in
/// it is carried out as a whole, then or later, or never will be; who asks again with the same id is told how things stand.
/// A store sees that nobody else is harmed: what others have under way on the same connection is answered as ever, and no
/// lock is left half written. `read`, `scan` and `ping` only look.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// Carries out one operation.
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply>;

    /// Carries out many, in one round trip per node where the store can. Each stands for itself: they are not atomic
    /// together, and the answers come in the order of the operations.
    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>>;

    /// Carries out a transaction, or settles that it never will be, in one atomic step; what was decided is the answer
    /// from then on, for as long as it is kept. Where the store has none, [`ErrorKind::Unsupported`] and why.
    ///
    /// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
    async fn settle(&self, settle: &Settle) -> Result<Verdict>;

    /// Listens for the grant of a claim. Cheap, and sends nothing yet; see [`Watch`].
    fn watch(&self, key: &Key, id: crate::proto::ClaimId) -> Watch;

    /// The record as it stands, with everyone gone whose time has passed, and the store's clock; may be stale where
    /// [`Traits::stale_reads`] says so.
    async fn read(&self, key: &Key) -> Result<Seen>;

    /// The names of the locks that have a record, sorted; those that nobody holds or awaits may be among them.
    async fn scan(&self) -> Result<Vec<Key>>;

    /// Whether the store answers at all.
    async fn ping(&self) -> Result<()>;

    /// How the nodes behind the store fare, where it is several, as far as this handle has learned; empty where it is one.
    fn nodes(&self) -> Vec<NodeHealth>;

    /// What the store can do.
    fn traits(&self) -> Traits;
}

/// What [`Store::read`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The record; the default one where there is none.
    pub record: Record,
    /// The store's clock at that moment.
    pub now: crate::proto::Micros,
}

/// What a store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// The store's kind, as in its URL's scheme.
    pub kind: &'static str,
    /// Claims can wait in a queue of the store's, and are let in in its order.
    pub queue: bool,
    /// Fences rise strictly over all holds of a lock.
    pub fence: bool,
    /// A grant is pushed to its claimant, or its claimant is woken to ask; without, the client asks again every few
    /// milliseconds.
    pub push: bool,
    /// What was acknowledged survives the store's crash.
    pub durable: bool,
    /// It holds data besides locks, and writes it in the same step in which it looks at a lock: see
    /// [`transaction`](crate::transaction).
    pub transaction: bool,
    /// `read` and `scan` may be served by a replica that lags.
    pub stale_reads: bool,
    /// Since when, on its own clock in microseconds, it has certainly kept all that it acknowledged; zero: always. Asked
    /// after an answer, it is never earlier than what holds for that answer: a quorum rests on that.
    pub kept_since: u64,
    /// A number that rises whenever the members change, of a store over others that can change them; else zero.
    pub members: u64,
}
