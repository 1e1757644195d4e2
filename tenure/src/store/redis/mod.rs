//! Redis and Valkey: the rule runs inside the server, as a script, in one round trip.
//!
//! ```text
//!   apply ──▶ script.rs: the op as EVALSHA ──▶ collector.rs: gathered ──▶ transport.rs: one connection ──▶ server
//!   watch ◀── Hub ◀─────────────────────────── pushed grant, on the same connection ◀──────────────────── PUBLISH
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use redis::Value;

use super::{Hub, Seen, Store, Traits, Watch};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{ClaimId, Op, Outcome, Reply};
use crate::transaction::{Settle, Verdict};

mod cluster;
mod collector;
pub(crate) mod commands;
pub mod commit;
mod connect;
mod errors;
pub(crate) mod inspect;
mod keys;
mod record;
mod run;
pub mod script;
mod scripts;
mod sentinel;
mod slots;
mod target;
mod transport;
mod url;

pub use cluster::RedisCluster;
use collector::Collector;
use collector::acknowledge::Acknowledged;
use keys::Keys;
use script::{Call, Dialect};
use sentinel::Sentinels;
use target::Target;
use transport::Link;

/// A store on one Redis or Valkey server, 7.0 or newer, or on the master that Sentinels name.
///
/// ```no_run
/// # async fn example() -> tenure::Result<()> {
/// let store = tenure::store::Redis::connect("redis://user:password@localhost:6379/0?prefix=shop").await?;
/// # Ok(())
/// # }
/// ```
///
/// # URLs
///
/// ```text
/// redis://[user[:password]@]host[:port][/database]                                 rediss://… over TLS
/// redis+unix:///path?db=1&user=…&password=…
/// redis-sentinel://[user[:password]@]sentinel[:port],sentinel,…/master[/database]  rediss-sentinel://… over TLS
/// ```
///
/// Options come after a `?`:
///
/// | option | meaning | without it |
/// | --- | --- | --- |
/// | `prefix` | what all keys begin with: 1 to 64 of `A-Z a-z 0-9 - _ . : /` | `tenure` |
/// | `connect_timeout` | how long one attempt to connect may take, as `500ms` or `2s`; with Sentinels, asking each of them and connecting | `2s` |
/// | `response_timeout` | how long a reply may take; a connection that says nothing for as long is replaced | `1500ms` |
/// | `replicas` | how many replicas have to acknowledge a grant, 0 to 32 | `0` |
/// | `read` | `replica`: what is only looked at comes from a replica; with Sentinels only | `master` |
/// | `sentinel_user`, `sentinel_password` | the login at the Sentinels, which is not the one at the data | none |
/// | `ca` | a PEM file with the certificates to trust instead of the public ones; with TLS only | |
///
/// # Sentinels
///
/// Name them all. The master is the one that a majority of those named agrees on; it is asked for at each attempt to
/// connect, and left as soon as a Sentinel tells of another one, or the server refuses to write. With `rediss-sentinel` the
/// Sentinels speak TLS, too, under the same authority, and have to announce addresses that the certificates are for.
///
/// # Replicas
///
/// A master that dies takes along what no replica had. With `replicas=k` a grant counts only once k replicas acknowledged it,
/// within half of `response_timeout` and at most 500 ms. One that fewer acknowledged is given back and told as
/// [`Unavailable`](ErrorKind::Unavailable), with their number; a renewal that fewer acknowledged fails, and the hold is in
/// doubt. Set `min-replicas-to-write` at the servers as well, so that a master without replicas refuses at once.
///
/// With `read=replica`, [`read`](Store::read) and [`scan`](Store::scan) ask a replica, by its clock, which may lag; where none is
/// fit, the master.
///
/// # Keys
///
/// A lock's record lies under `prefix:{name}`, with braces, control characters and `%` percent-encoded in the name, and
/// always with an expiry. Grants are published to `prefix:inbox:…`, a channel of each client's own.
///
/// # Rights
///
/// A user that may do this and no more is enough, where `tenure` is the prefix:
///
/// ```text
/// ACL SETUSER locks on >password ~tenure:* &tenure:inbox:* +evalsha +evalsha_ro +script|load +publish +subscribe
///     +scan +ping +time +mget +set +setrange +del +type +pexpireat +hget +hmget +hgetall +hset +hdel
/// ```
///
/// `replicas=k` wants `+wait` besides. At the Sentinels this much is enough:
///
/// ```text
/// ACL SETUSER watcher on >password &+switch-master +subscribe +sentinel|get-master-addr-by-name +sentinel|master
///     +sentinel|replicas
/// ```
///
/// # What to know
///
/// A reply that was acknowledged is in the memory of one server, and of `replicas=k` more. What survives the server's crash is
/// what its persistence kept, and a replica that takes over may lack the last writes: `docs/guarantees.md` has what follows.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    server: String,
    keys: Keys,
    hub: Hub,
    inbox: Arc<str>,
    collector: Collector<Link>,
    /// Where what is only looked at comes from, where that is elsewhere.
    replica: Option<Collector<Link>>,
}

impl Redis {
    /// Connects to the server, and makes sure that it is one that will do.
    ///
    /// It takes no longer than `connect_timeout` and `response_timeout` together, and the former twice where Sentinels are
    /// asked. While they are in the middle of a failover it fails as [`Unavailable`](ErrorKind::Unavailable). Once connected, the store comes back
    /// by itself whenever the connection is lost; in the meantime operations fail as
    /// [`Unavailable`](ErrorKind::Unavailable), within some two seconds.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a URL that cannot be meant, [`Unavailable`](ErrorKind::Unavailable) where
    /// there is no server or it cannot serve now, [`Denied`](ErrorKind::Denied) for a wrong user or password or one
    /// without the rights, [`Unsupported`](ErrorKind::Unsupported) for a server older than 7.0.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind when the future is dropped.
    pub async fn connect(url: &str) -> Result<Self> {
        let config = url::Config::parse(url)?;
        let (env, hub, keys) = (Env::system(), Hub::new(), Keys::new(&config.prefix));
        let server = config.server.clone();
        let sentinels = Sentinels::new(&config, env.clone())?;
        let target = match &sentinels {
            Some(sentinels) => Target::Master(sentinels.clone()),
            None => Target::Fixed(connect::one(&config)?.into()),
        };
        let replica = sentinels.filter(|_| config.read_replica).map(|sentinels| {
            let link = Link::new(config.clone(), Target::Replica(sentinels), env.clone(), Hub::new(), "".into());
            Collector::new(link, Dialect::Server, connect::scripts(Dialect::Server), None)
        });
        let inbox: Arc<str> = keys.inbox(env.bits()).into();
        let acknowledged = Acknowledged::by(config.replicas, config.response_timeout);
        let link = Link::new(config, target, env, hub.clone(), inbox.clone());
        link.open().await?;
        connect::probe(
            Dialect::Server,
            &link,
            &server,
            &keys,
            &inbox,
            if acknowledged.is_some() { &["WAIT 0 1"] } else { &[] },
        )
        .await?;
        let collector = Collector::new(link, Dialect::Server, connect::scripts(Dialect::Server), acknowledged);
        Ok(Self(Arc::new(Inner { server, keys, hub, inbox, collector, replica })))
    }

    /// Where what is only looked at comes from.
    fn reads(&self) -> &Collector<Link> {
        self.0.replica.as_ref().unwrap_or(&self.0.collector)
    }

    fn call(&self, key: &Key, op: &Op) -> Call {
        Call::new(self.0.keys.encode(key).as_bytes(), op, &self.0.inbox)
    }

    fn reply(&self, key: &Key, op: &Op, value: Result<Value>) -> Result<Reply> {
        let reply = self.decode(key, value?, |value| script::reply(op, value))?;
        let queues = matches!(op, Op::Acquire(acquire) if !acquire.patience.is_zero());
        if queues && matches!(reply.outcome, Outcome::Busy { .. }) {
            self.0.collector.transport().listen();
        }
        Ok(reply)
    }

    fn decode<T>(&self, key: &Key, value: Value, decoder: impl FnOnce(Value) -> Result<T>) -> Result<T> {
        let (server, what) = (&self.0.server, || format!("lock {key:?}"));
        decoder(errors::check(server, what, value)?).map_err(|error| errors::unreadable(server, &what(), &error))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("server", &self.0.server).field("hub", &self.0.hub).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Redis {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        let value = self.0.collector.call(self.call(key, op)).await;
        self.reply(key, op, value)
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        let calls: Vec<_> = ops.iter().map(|(key, op)| self.call(key, op)).collect();
        let values = self.0.collector.call_many(&calls).await;
        ops.iter().zip(values).map(|((key, op), value)| self.reply(key, op, value)).collect()
    }

    async fn settle(&self, settle: &Settle) -> Result<Verdict> {
        let Inner { server, keys, collector, .. } = &*self.0;
        let (command, _) = commit::command(keys, settle, collector.is_acknowledged())?;
        let value = errors::check(server, || commit::name(settle), collector.settle(command).await?)?;
        commit::verdict(keys, value).map_err(|error| errors::unreadable(server, &commit::name(settle), &error))
    }

    fn watch(&self, _key: &Key, id: ClaimId) -> Watch {
        self.0.hub.watch(id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let command = script::read_command(self.0.keys.encode(key).as_bytes());
        let value = ask(self.reads(), &self.0.server, &command).await?;
        self.decode(key, value, script::record)
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        let keys = scan(self.reads(), &self.0.server, &self.0.keys).await?;
        Ok(keys.into_iter().collect())
    }

    async fn ping(&self) -> Result<()> {
        let value = ask(&self.0.collector, &self.0.server, &redis::cmd("PING")).await?;
        errors::check(&self.0.server, || "asking whether it answers".into(), value).map(drop)
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        let kept_since = self.0.collector.transport().kept_since();
        let stale_reads = self.0.replica.is_some();
        Traits {
            kind: "redis",
            queue: true,
            fence: true,
            push: true,
            durable: false,
            transaction: true,
            stale_reads,
            kept_since,
            members: 0,
        }
    }
}

/// Sends a command that only reads.
async fn ask(collector: &Collector<Link>, server: &str, command: &redis::Cmd) -> Result<Value> {
    collector.command(command).await.map_err(|error| errors::of_reading(server, error))
}

/// The names of the locks that have a record on one server.
async fn scan(collector: &Collector<Link>, server: &str, keys: &Keys) -> Result<BTreeSet<Key>> {
    let (mut found, mut cursor) = (BTreeSet::new(), b"0".to_vec());
    loop {
        let mut command = redis::cmd("SCAN");
        command.arg(&cursor).arg("MATCH").arg(keys.pattern()).arg("COUNT").arg(1_000);
        let page = errors::check(server, || "listing the locks".into(), ask(collector, server, &command).await?)?;
        let (next, places): (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(page).map_err(|error| {
            Error::with_source(ErrorKind::Corrupt, format!("Redis at {server}: no page of keys"), error)
        })?;
        found.extend(places.iter().filter_map(|place| keys.decode(place)));
        if next == b"0" {
            return Ok(found);
        }
        cursor = next;
    }
}
