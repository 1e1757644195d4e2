//! Staging: what a transaction is to write, and what it expects, gathered in memory.
//!
//! Nothing here fails. What cannot be meant is told when it is to be committed: a score that is no number, more than may be
//! in one transaction, commands of two types on one key.

use std::time::Duration;

use bytes::Bytes;

use super::commit::Transaction;
use super::step::{Step, Verb};

/// The most words that may follow a key in one command.
const WORDS: usize = 250;

/// Staging. Each of these takes keys and values as text or bytes, and gives the transaction back for the next one. They
/// are carried out in the order in which they were staged.
impl Transaction {
    /// Puts a value under a key, whatever was there. It stays until it is removed.
    pub fn set(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::Set, key, [value.into()])
    }

    /// Puts a value under a key, whatever was there, for that long: 1 ms to 100 years.
    pub fn set_for(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, ttl: Duration) -> &mut Self {
        self.write(Verb::Set, key, [value.into(), b"PX".to_vec(), millis(ttl)])
    }

    /// Removes what lies under a key, if anything does.
    pub fn del(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::Del, key, [])
    }

    /// Adds to the whole number under a key, which is 0 where nothing is; a negative one takes away.
    ///
    /// Where it is no whole number, or would be one of more than 64 bits, nothing is committed.
    pub fn incr(&mut self, key: impl Into<Vec<u8>>, by: i64) -> &mut Self {
        self.write(Verb::IncrBy, key, [by.to_string().into()])
    }

    /// Puts a value into a field of the hash under a key.
    pub fn hset(&mut self, key: impl Into<Vec<u8>>, field: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::HSet, key, [field.into(), value.into()])
    }

    /// Removes a field of the hash under a key, if it is there.
    pub fn hdel(&mut self, key: impl Into<Vec<u8>>, field: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::HDel, key, [field.into()])
    }

    /// Puts an item before the first of the list under a key.
    pub fn lpush(&mut self, key: impl Into<Vec<u8>>, item: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::LPush, key, [item.into()])
    }

    /// Puts an item behind the last of the list under a key.
    pub fn rpush(&mut self, key: impl Into<Vec<u8>>, item: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::RPush, key, [item.into()])
    }

    /// Puts a member into the set under a key.
    pub fn sadd(&mut self, key: impl Into<Vec<u8>>, member: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::SAdd, key, [member.into()])
    }

    /// Removes a member of the set under a key, if it is there.
    pub fn srem(&mut self, key: impl Into<Vec<u8>>, member: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::SRem, key, [member.into()])
    }

    /// Puts a member with a score into the sorted set under a key; the score of one that is there is changed.
    pub fn zadd(&mut self, key: impl Into<Vec<u8>>, score: f64, member: impl Into<Vec<u8>>) -> &mut Self {
        self.write(Verb::ZAdd, key, [score.to_string().into(), member.into()])
    }

    /// Has what lies under a key expire after that long: 1 ms to 100 years. Where nothing does, nothing happens.
    pub fn expire(&mut self, key: impl Into<Vec<u8>>, ttl: Duration) -> &mut Self {
        self.write(Verb::PExpire, key, [millis(ttl)])
    }

    /// Commits only if that string lies under the key when the commit comes, before it writes anything.
    pub fn expect(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        let (key, value) = (Bytes::from(key.into()), Some(value.into().into()));
        self.steps.push(Step::Expect { key, value });
        self
    }

    /// Commits only if nothing lies under the key when the commit comes, before it writes anything.
    pub fn expect_absent(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.steps.push(Step::Expect { key: Bytes::from(key.into()), value: None });
        self
    }

    fn write<const N: usize>(&mut self, verb: Verb, key: impl Into<Vec<u8>>, words: [Vec<u8>; N]) -> &mut Self {
        let (key, words) = (Bytes::from(key.into()), words.map(Bytes::from));
        // What is the same for the next item of the same collection is not said again.
        if let Some(Step::Write { verb: last, key: of, args }) = self.steps.last_mut()
            && verb.kind().is_some()
            && *last == verb
            && *of == key
            && args.len() + N <= WORDS
        {
            args.extend(words);
            return self;
        }
        self.steps.push(Step::Write { verb, key, args: words.into() });
        self
    }
}

/// As Redis wants it; nothing is shorter than a millisecond.
fn millis(ttl: Duration) -> Vec<u8> {
    let millis = ttl.as_millis() + u128::from(!ttl.subsec_nanos().is_multiple_of(1_000_000));
    millis.to_string().into()
}
