//! A Redis server that takes part: each step is a script, which stages, carries out or drops a few commands.

use std::sync::LazyLock;

use async_trait::async_trait;
use redis::Value;

use super::redis_work::RedisWork;
use super::{Ack, Branch, Did, Participant, Refusal, Share, ShareState, Vote};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::Fence;
use crate::store::redis_commands::{Commands, Script};

static STEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis.lua")));

/// One Redis or Valkey server, 7.0 or newer, that does its share of a transaction. Its work is a [`RedisWork`].
///
/// Its shares are in a hash for each lock, `prefix:share:name:lock`, which goes a week after nobody can ask for anything in it
/// any more. The server has to write to disk before it answers (`appendonly yes`, `appendfsync always`) and must not
/// evict what never expires: what was prepared must not be forgotten. It is asked once, when it is connected.
///
/// A user needs the rights to `prefix:share:*` and to the keys of the work:
///
/// ```text
/// ACL SETUSER shares on >password ~tenure:share:* ~account:* +evalsha +script|load +scan +hget +hgetall +hset +hdel
///     +hincrby +persist +pexpire +type +get +set +del +incrby +decrby +sadd +rpush +ping +time +info +config|get
/// ```
///
/// Clones share one connection, which comes back by itself.
#[derive(Clone, Debug)]
pub struct RedisParticipant {
    name: String,
    server: Commands,
}

impl RedisParticipant {
    /// The participant `name`, of 1 to 64 letters, digits, `-`, `_` and `.`, on the server at `url`: `redis://`, `rediss://` or
    /// `redis+unix://` with the options of [`store::Redis`](crate::store::Redis), of which `prefix` counts here too.
    ///
    /// # Errors
    ///
    /// Those of [`store::Redis::connect`](crate::store::Redis::connect); [`ErrorKind::Unsupported`] for Sentinel and
    /// Cluster, and for a server that may forget.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn connect(name: impl Into<String>, url: &str) -> Result<Self> {
        let name = name.into();
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_fine) {
            let message = format!("{name:?} cannot name a Redis participant: give 1 to 64 of A-Z a-z 0-9 - _ .");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let server = Commands::connect(url, "a participant").await?;
        server.require_durable("what was prepared").await?;
        Ok(Self { name, server })
    }

    async fn step(&self, step: &str, branch: &Branch, work: &[u8]) -> Result<(String, Option<String>)> {
        let what = format!("to {step} the transaction {} at {}", branch.id, self.name);
        let key = self.start() + &branch.lock;
        let (id, fence) = (branch.id.to_string(), branch.fence.to_string());
        let args = [step.as_bytes(), id.as_bytes(), fence.as_bytes(), work];
        let value = self.server.run(&what, &STEP, &[key.as_bytes()], &args).await?;
        let answer: Vec<String> = redis::from_redis_value(value).map_err(|_| self.server.unreadable(&what))?;
        let mut words = answer.into_iter();
        match words.next() {
            Some(word) => Ok((word, words.next())),
            None => Err(self.server.unreadable(&what)),
        }
    }

    async fn settle(&self, step: &str, branch: &Branch) -> Result<Ack> {
        let (word, rest) = self.step(step, branch, b"").await?;
        match (word.as_str(), rest.as_deref()) {
            ("done", _) => Ok(Ack::Done),
            ("heuristic", Some("commit")) => Ok(Ack::Heuristic(Did::Commit)),
            ("heuristic", Some("roll-back")) => Ok(Ack::Heuristic(Did::RollBack)),
            ("heuristic", Some("lose")) => Ok(Ack::Heuristic(Did::Lose)),
            ("unable", Some(why)) => {
                let message = format!(
                    "{} on {} cannot {step} what was prepared for {}, for somebody has changed it meanwhile: {why}",
                    self.name,
                    self.server.server(),
                    branch.id
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
            _ => Err(self.server.unreadable(step)),
        }
    }

    /// What the keys of all its shares begin with.
    fn start(&self) -> String {
        format!("{}:share:{}:", self.server.prefix(), self.name)
    }

    async fn of_lock(&self, key: &[u8], lock: &str) -> Result<Vec<Share>> {
        let what = "listing the shares";
        let answer: Value = self.server.ask(what, redis::cmd("HGETALL").arg(key)).await?;
        let fields: Vec<(String, Vec<u8>)> =
            redis::from_redis_value(answer).map_err(|_| self.server.unreadable(what))?;
        let share = |(id, value): &(String, Vec<u8>)| {
            let text = String::from_utf8_lossy(value.get(2..)?).into_owned();
            let fence = text.split(' ').next()?.parse().ok()?;
            let state = match value.first()? {
                b's' => ShareState::Staged,
                b'c' => ShareState::Committed,
                _ => ShareState::RolledBack,
            };
            let is_open = value.get(1) == Some(&b'0');
            let branch = Branch { id: id.parse().ok()?, lock: lock.to_owned(), fence: Fence::new(fence) };
            is_open.then_some(Share { branch, state })
        };
        Ok(fields.iter().filter(|(field, _)| field != "fence" && field != "open").filter_map(share).collect())
    }
}

#[async_trait]
impl Participant for RedisParticipant {
    fn name(&self) -> &str {
        &self.name
    }

    fn location(&self) -> String {
        self.server.url().to_owned()
    }

    async fn prepare(&self, branch: &Branch, work: &[u8]) -> Result<Vote> {
        let unable = |why: String| Ok(Vote::Refused(Refusal::Unable(why)));
        // As the script expects it, whatever was given.
        let work = match serde_json::from_slice::<RedisWork>(work) {
            Ok(work) => match work.fault() {
                Some(why) => return unable(why),
                None => Vec::from(work),
            },
            Err(error) => return unable(format!("the work for {:?} is no RedisWork: {error}", self.name)),
        };
        let (word, rest) = self.step("prepare", branch, &work).await?;
        match (word.as_str(), rest) {
            ("prepared", _) => Ok(Vote::Prepared),
            ("rolled-back", _) => Ok(Vote::Refused(Refusal::RolledBack)),
            ("stale", Some(newest)) => {
                let newest = newest.parse().map_err(|_| self.server.unreadable("prepare"))?;
                Ok(Vote::Refused(Refusal::Stale { newest: Fence::new(newest) }))
            }
            ("in-doubt", Some(id)) => Ok(Vote::Refused(Refusal::InDoubt { id: id.parse()? })),
            ("unable", Some(why)) => unable(why),
            _ => Err(self.server.unreadable("prepare")),
        }
    }

    async fn commit(&self, branch: &Branch) -> Result<Ack> {
        self.settle("commit", branch).await
    }

    async fn rollback(&self, branch: &Branch) -> Result<Ack> {
        self.settle("rollback", branch).await
    }

    async fn forget(&self, branch: &Branch) -> Result<()> {
        self.step("forget", branch, b"").await.map(drop)
    }

    async fn list(&self, lock: Option<&str>) -> Result<Vec<Share>> {
        let what = "listing the shares";
        let start = self.start();
        if let Some(lock) = lock {
            let mut found = self.of_lock((start + lock).as_bytes(), lock).await?;
            found.sort_by_key(|share| (share.branch.fence, share.branch.id));
            return Ok(found);
        }
        let (mut found, mut cursor) = (Vec::new(), b"0".to_vec());
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(format!("{start}*")).arg("COUNT").arg(1_000);
            let page = self.server.ask(what, &command).await?;
            let (next, keys): (Vec<u8>, Vec<Vec<u8>>) =
                redis::from_redis_value(page).map_err(|_| self.server.unreadable(what))?;
            for key in keys {
                let text = String::from_utf8_lossy(&key).into_owned();
                if let Some(lock) = text.strip_prefix(&start) {
                    found.extend(self.of_lock(&key, lock).await?);
                }
            }
            if next == b"0" {
                break;
            }
            cursor = next;
        }
        found.sort_by_key(|share| (share.branch.fence, share.branch.id));
        // SCAN may tell of a key twice.
        found.dedup();
        Ok(found)
    }
}
