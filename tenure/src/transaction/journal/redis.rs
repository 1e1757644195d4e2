//! A journal on a Redis or Valkey server: a key for each entry, changed by a script.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use async_trait::async_trait;
use redis::Value;

use super::{Durable, Entry, Journal, Keep, Written, check};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::store::redis_commands::{Commands, Script};

static CHANGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis.lua")));

/// A journal on one Redis or Valkey server, 7.0 or newer, under `prefix:journal:{id}`.
///
/// It is as lasting as the server: with the usual settings a crash may lose the last second, and a replica that takes over
/// the last writes. That will do for a saga whose steps may be done twice; for decisions, [`durable`](Self::durable)
/// makes sure that the server keeps what it acknowledged.
///
/// A user that may do this and no more is enough, where `tenure` is the prefix:
///
/// ```text
/// ACL SETUSER transactions on >password ~tenure:journal:* +evalsha +script|load +scan +hmget +hget +hset +del
///     +sadd +srem +sismember +smembers +persist +pexpire +ping +time +info +config|get
/// ```
///
/// Clones share one connection, which comes back by itself.
#[derive(Clone, Debug)]
pub struct RedisJournal(Commands);

/// A [`RedisJournal`] on a server that writes to disk before it answers, and evicts nothing.
#[derive(Clone, Debug)]
pub struct DurableRedis(RedisJournal);

impl RedisJournal {
    /// The journal on the server at `url`: `redis://`, `rediss://` or `redis+unix://` with the options of
    /// [`store::Redis`](crate::store::Redis), of which `prefix` counts here too.
    ///
    /// # Errors
    ///
    /// Those of [`store::Redis::connect`](crate::store::Redis::connect); [`ErrorKind::Unsupported`] for Sentinel and
    /// Cluster.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn connect(url: &str) -> Result<Self> {
        Commands::connect(url, "a journal").await.map(Self)
    }

    /// Makes sure that the server keeps whatever it acknowledged: `appendonly yes`, `appendfsync always`, and no
    /// `maxmemory-policy` that evicts keys which never expire.
    ///
    /// It is asked once, here. Somebody who changes the settings while the server runs breaks the promise unseen; so does
    /// losing the disk. A replica that is made a master may lack the last writes: give the server an address that does
    /// not move to one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where a setting is another, with what to set; [`ErrorKind::Denied`] where this user may not
    /// ask; otherwise as any command.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn durable(self) -> Result<DurableRedis> {
        self.0.require_durable("a decision").await?;
        Ok(DurableRedis(self))
    }

    /// The key of the set of those that are kept until they are forgotten.
    fn open(&self) -> String {
        format!("{}:journal:open", self.0.prefix())
    }

    fn key(&self, id: &str) -> Vec<u8> {
        format!("{}:journal:{{{id}}}", self.0.prefix()).into_bytes()
    }

    async fn change(&self, id: &str, args: &[&[u8]]) -> Result<u64> {
        let what = format!("the journal's record {id:?}");
        let args = [&[id.as_bytes()], args].concat();
        let value = self.0.run(&what, &CHANGE, &[&self.key(id), self.open().as_bytes()], &args).await?;
        redis::from_redis_value(value).map_err(|_| self.0.unreadable(&what))
    }

    async fn read(&self, id: &str, key: &[u8]) -> Result<Option<Entry>> {
        let what = format!("the journal's record {id:?}");
        let answer = self.0.ask(&what, redis::cmd("HMGET").arg(key).arg("v").arg("d")).await?;
        let (version, value): (Option<u64>, Option<Vec<u8>>) =
            redis::from_redis_value(answer).map_err(|_| self.0.unreadable(&what))?;
        Ok(version.zip(value).map(|(version, value)| Entry { id: id.to_owned(), version, value }))
    }
}

#[async_trait]
impl Journal for RedisJournal {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        self.read(id, &self.key(id)).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        check(id, value)?;
        let expected = expected.map(|version| version.to_string()).unwrap_or_default();
        let keep = match keep {
            Keep::UntilForgotten => String::new(),
            Keep::For(time) => time.as_millis().max(1).to_string(),
        };
        match self.change(id, &[expected.as_bytes(), value, keep.as_bytes()]).await? {
            0 => Ok(Written::Conflict),
            version => Ok(Written::Done(version)),
        }
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        Ok(self.change(id, &[expected.to_string().as_bytes()]).await? != 0)
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        let what = "listing the journal";
        let start = format!("{}:journal:{{", self.0.prefix());
        let (mut found, mut cursor) = (BTreeMap::new(), b"0".to_vec());
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(format!("{start}*}}")).arg("COUNT").arg(1_000);
            let page: Value = self.0.ask(what, &command).await?;
            let (next, keys): (Vec<u8>, Vec<Vec<u8>>) =
                redis::from_redis_value(page).map_err(|_| self.0.unreadable(what))?;
            for key in keys {
                let text = String::from_utf8_lossy(&key);
                let Some(id) = text.strip_prefix(&start).and_then(|rest| rest.strip_suffix('}')) else { continue };
                if let Some(entry) = self.read(id, &key).await? {
                    found.insert(id.to_owned(), entry);
                }
            }
            if next == b"0" {
                return Ok(found.into_values().collect());
            }
            cursor = next;
        }
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        let what = "listing the journal";
        let answer = self.0.ask(what, redis::cmd("SMEMBERS").arg(self.open())).await?;
        let mut ids: Vec<String> = redis::from_redis_value(answer).map_err(|_| self.0.unreadable(what))?;
        ids.sort_unstable();
        let mut found = Vec::new();
        for id in ids {
            found.extend(self.read(&id, &self.key(&id)).await?);
        }
        Ok(found)
    }

    fn location(&self) -> String {
        format!("Redis at {}", self.0.server())
    }
}

#[async_trait]
impl Journal for DurableRedis {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        self.0.load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        self.0.write(id, expected, value, keep).await
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.0.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        self.0.list().await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        self.0.unsettled().await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

impl Durable for DurableRedis {}
