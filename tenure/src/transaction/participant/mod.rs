//! Those who take part in a transaction: each stages its share, and then does it or drops it, as the coordinator decides.
//!
//! ```text
//!               prepare                        commit
//!   (nothing) ───────────▶ staged, reserved ────────────▶ committed ─┐
//!       │                        │ rollback                          │ forget, and the token moves on
//!       │ rollback               ▼                                   ▼
//!       └──────────────────▶ rolled back: a tombstone ───────────▶ (nothing)
//! ```
//!
//! Each call is one atomic, durable step at the participant, and may come late, twice, or not at all.

use std::fmt::{self, Debug};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::TransactionId;
use crate::error::Result;
use crate::hold::Fence;

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod redis_work;
mod work;

#[cfg(feature = "postgres")]
pub use self::postgres::PostgresParticipant;
#[cfg(feature = "redis")]
pub use self::redis::RedisParticipant;
pub use redis_work::{RedisOp, RedisWork};
pub use work::{Param, SqlWork, Statement};

/// Somebody who takes part in two-phase transactions: a database, a folder, a service.
///
/// # Contract
///
/// Each method is one step: it happens as a whole, is on the disk before it is answered, and does the same again when it is
/// asked again. An error says that nothing is known: it may have happened, or yet happen.
///
/// A participant keeps for each lock the newest token that it has seen, and for each transaction what was staged, or what
/// became of it. [`conformance::participant`](crate::conformance) (feature `conformance`) tries all of this.
///
/// **`prepare`** looks, in this order, and refuses where it says so:
///
/// 1. the transaction is staged or committed already: prepared;
/// 2. it was rolled back: [`Refusal::RolledBack`], so that a prepare that comes late leaves nothing;
/// 3. a newer token was seen for the lock: [`Refusal::Stale`];
/// 4. something is staged for the lock under an older token: [`Refusal::InDoubt`], until that is settled: who holds the
///    lock now must not work on what somebody before has half done;
/// 5. the work itself cannot be done: [`Refusal::Unable`].
///
/// Otherwise it keeps the token, stages the work and **reserves** what it needs, so that nothing can keep the commit from
/// happening: it takes the money out of the account, say, and not just looks whether it is there. What was settled under
/// older tokens for the lock and is [to be forgotten](Self::forget) goes now.
///
/// **`commit`** does what was staged. **`rollback`** drops it and gives back what was reserved; where nothing is staged it
/// leaves a tombstone, unless the lock has seen a newer token, by which a late prepare is refused anyway.
///
/// # Cancel safety
///
/// For every method: who drops its future knows as much as after an error, which is nothing. The step happens as a whole,
/// then or later, or never will, and is asked for again until it is answered; nobody else's is harmed. A transaction that
/// is given up so is settled by recovery.
#[async_trait]
pub trait Participant: Debug + Send + Sync + 'static {
    /// What it is called in the records of transactions; not twice in one coordinator.
    fn name(&self) -> &str;

    /// Where it is, as messages name it: without a password. What recovery by command finds it by.
    fn location(&self) -> String;

    /// Stages the work.
    async fn prepare(&self, branch: &Branch, work: &[u8]) -> Result<Vote>;

    /// Does what was staged.
    async fn commit(&self, branch: &Branch) -> Result<Ack>;

    /// Drops what was staged, and whatever prepare may yet come.
    async fn rollback(&self, branch: &Branch) -> Result<Ack>;

    /// Nobody will ask about this transaction any more: what became of it may go, once the lock has seen a newer token.
    /// Does nothing to what is staged.
    async fn forget(&self, branch: &Branch) -> Result<()>;

    /// What is staged, and what became of transactions that are not to be forgotten yet, under that lock or under any; the
    /// oldest token first.
    async fn list(&self, lock: Option<&str>) -> Result<Vec<Share>>;
}

/// A transaction, as a participant has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The transaction.
    pub id: TransactionId,
    /// The lock under which it is done.
    pub lock: String,
    /// The token of the hold.
    pub fence: Fence,
}

/// What a participant says to a prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vote {
    /// It will commit whenever it is told to, and can.
    Prepared,
    /// It will not, and nothing is staged.
    Refused(Refusal),
}

/// Why a participant does not prepare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// It has seen a newer token for the lock: the hold is over.
    Stale {
        /// That token.
        newest: Fence,
    },
    /// The transaction was rolled back already.
    RolledBack,
    /// A transaction of an earlier hold is staged and not settled: recovery settles it.
    InDoubt {
        /// That transaction.
        id: TransactionId,
    },
    /// The work cannot be done: why.
    Unable(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { newest } => write!(f, "it has seen the newer token {newest} for the lock"),
            Self::RolledBack => f.write_str("the transaction was rolled back there already"),
            Self::InDoubt { id } => {
                write!(f, "the transaction {id} of an earlier hold is not settled there: recover it")
            }
            Self::Unable(why) => f.write_str(why),
        }
    }
}

/// What a participant says to a commit or a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It is so, now or already.
    Done,
    /// It is not, and cannot be any more: somebody had it go another way.
    Heuristic(Did),
}

/// What a participant did without being told to, or against what was decided: by an operator's hand, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Did {
    /// It committed.
    Commit,
    /// It rolled back.
    RollBack,
    /// What was staged is gone, and it does not know how.
    Lose,
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "committed",
            Self::RollBack => "rolled back",
            Self::Lose => "lost what was staged",
        })
    }
}

/// What a participant has of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The transaction.
    pub branch: Branch,
    /// How it stands.
    pub state: ShareState,
}

/// How a participant's share of a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareState {
    /// Staged: it waits for the decision.
    Staged,
    /// Committed.
    Committed,
    /// Rolled back.
    RolledBack,
}
