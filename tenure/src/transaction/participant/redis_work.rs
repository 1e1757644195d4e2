//! Work for a participant that is a Redis server: commands of a few kinds, each of which either can be carried out or is
//! known beforehand not to be.

use serde::{Deserialize, Serialize};

/// What a Redis participant has to do in a transaction: commands for each of its three steps.
///
/// **Reserve rather than check**, as with an [`SqlWork`](super::SqlWork): what the commit needs is taken at `reserve`.
///
/// ```
/// use tenure::transaction::participant::{RedisOp, RedisWork};
///
/// let debit = RedisWork::new()
///     .reserve(RedisOp::Take { key: "account:17".into(), by: 2_500 })
///     .rollback(RedisOp::Add { key: "account:17".into(), by: 2_500 });
/// let credit = RedisWork::new().commit(RedisOp::Add { key: "account:23".into(), by: 2_500 });
/// ```
///
/// All commands of a step are checked before the first is carried out: the types of the keys, that numbers are whole and
/// stay below 2^53, and that there is enough to take. Those of `commit` are checked at prepare, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct RedisWork {
    #[serde(default)]
    pub(super) reserve: Vec<RedisOp>,
    #[serde(default)]
    pub(super) commit: Vec<RedisOp>,
    #[serde(default)]
    pub(super) rollback: Vec<RedisOp>,
}

/// A command. Keys and values are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RedisOp {
    /// `DECRBY`, if as much is there: otherwise the step fails.
    Take {
        /// The key of a whole number; 0 where there is none.
        key: String,
        /// How much: 0 or more.
        by: i64,
    },
    /// `INCRBY`.
    Add {
        /// The key of a whole number; 0 where there is none.
        key: String,
        /// How much.
        by: i64,
    },
    /// `SET`.
    Set {
        /// The key.
        key: String,
        /// What is to be there.
        value: String,
    },
    /// `DEL`.
    Del {
        /// The key.
        key: String,
    },
    /// `HSET`.
    HashSet {
        /// The key of a hash.
        key: String,
        /// Its field.
        field: String,
        /// What is to be there.
        value: String,
    },
    /// `SADD`.
    SetAdd {
        /// The key of a set.
        key: String,
        /// What is to be in it.
        member: String,
    },
    /// `RPUSH`.
    Push {
        /// The key of a list.
        key: String,
        /// What is to stand at its end.
        value: String,
    },
}

impl RedisWork {
    /// Nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    /// To be done at prepare: it takes what the commit needs.
    pub fn reserve(mut self, op: RedisOp) -> Self {
        self.reserve.push(op);
        self
    }

    /// To be done at commit.
    pub fn commit(mut self, op: RedisOp) -> Self {
        self.commit.push(op);
        self
    }

    /// To be done where a prepared transaction is rolled back: it gives back what was reserved.
    pub fn rollback(mut self, op: RedisOp) -> Self {
        self.rollback.push(op);
        self
    }

    /// What cannot be meant, if anything.
    #[cfg(feature = "redis")]
    pub(super) fn fault(&self) -> Option<String> {
        const MOST: i64 = 1 << 53;
        let mut all = self.reserve.iter().chain(&self.commit).chain(&self.rollback);
        all.find_map(|op| match op {
            RedisOp::Take { key, by } if !(0..MOST).contains(by) => {
                Some(format!("{by} cannot be taken from {key:?}: give 0 to 2^53"))
            }
            RedisOp::Add { key, by } if !(-MOST..MOST).contains(by) => {
                Some(format!("{by} cannot be added to {key:?}: give -2^53 to 2^53"))
            }
            _ => None,
        })
    }
}

impl From<RedisWork> for Vec<u8> {
    fn from(work: RedisWork) -> Self {
        serde_json::to_vec(&work).expect("text and numbers can be written")
    }
}
