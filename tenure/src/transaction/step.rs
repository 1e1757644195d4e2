//! What a transaction is made of: commands on keys, and what it expects of them.

use std::fmt;

use bytes::Bytes;

use super::outcome::Shown;

/// One step of a transaction, as it was staged.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A command that writes.
    Write {
        /// Which.
        verb: Verb,
        /// The key.
        key: Bytes,
        /// What comes behind the key in the command.
        args: Vec<Bytes>,
    },
    /// What lies under a key before the transaction writes anything.
    Expect {
        /// The key.
        key: Bytes,
        /// The value of a string; `None`: nothing lies there.
        value: Option<Bytes>,
    },
}

impl Step {
    /// The key that it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Write { key, .. } | Self::Expect { key, .. } => key,
        }
    }

    /// How many bytes it has.
    #[cfg(feature = "redis")]
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Write { key, args, .. } => key.len() + args.iter().map(Bytes::len).sum::<usize>(),
            Self::Expect { key, value } => key.len() + value.as_ref().map_or(0, Bytes::len),
        }
    }
}

/// Without its values, which are nobody's but the user's.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { verb, key, .. } => write!(f, "{} {:?}", verb.name(), Shown(key)),
            Self::Expect { key, .. } => write!(f, "EXPECT {:?}", Shown(key)),
        }
    }
}

/// The commands that a transaction may have. Each either cannot fail, or its failure can be foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verb {
    /// Puts a string there, whatever there was.
    Set,
    /// Removes whatever there is.
    Del,
    /// Adds to a whole number.
    IncrBy,
    /// Puts fields into a hash.
    HSet,
    /// Removes fields of a hash.
    HDel,
    /// Puts items before the first of a list.
    LPush,
    /// Puts items behind the last of a list.
    RPush,
    /// Puts members into a set.
    SAdd,
    /// Removes members of a set.
    SRem,
    /// Puts members with scores into a sorted set.
    ZAdd,
    /// Has a key expire.
    PExpire,
}

impl Verb {
    /// The command's name in Redis.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Del => "DEL",
            Self::IncrBy => "INCRBY",
            Self::HSet => "HSET",
            Self::HDel => "HDEL",
            Self::LPush => "LPUSH",
            Self::RPush => "RPUSH",
            Self::SAdd => "SADD",
            Self::SRem => "SREM",
            Self::ZAdd => "ZADD",
            Self::PExpire => "PEXPIRE",
        }
    }

    /// The type of what it works on, as `TYPE` tells it; `None` where it takes any, or is a string's.
    pub(super) fn kind(self) -> Option<&'static str> {
        match self {
            Self::HSet | Self::HDel => Some("hash"),
            Self::LPush | Self::RPush => Some("list"),
            Self::SAdd | Self::SRem => Some("set"),
            Self::ZAdd => Some("zset"),
            Self::Set | Self::Del | Self::IncrBy | Self::PExpire => None,
        }
    }
}
