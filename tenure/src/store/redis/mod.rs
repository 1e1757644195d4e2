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
use crate::key::Key;
use crate::proto::{ClaimId, Op, Outcome, Reply};

mod collector;
mod connect;
mod errors;
pub(crate) mod inspect;
mod keys;
mod record;
mod run;
pub mod script;
mod transport;
mod url;

use collector::Collector;
use keys::Keys;
use script::Call;
use transport::Link;

/// A store on one Redis or Valkey server, 7.0 or newer.
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
/// `redis://[user[:password]@]host[:port][/database]`, `rediss://…` for TLS, and
/// `redis+unix:///path?db=1&user=…&password=…` for a socket. Options come after a `?`:
///
/// | option | meaning | without it |
/// | --- | --- | --- |
/// | `prefix` | what all keys begin with: 1 to 64 of `A-Z a-z 0-9 - _ . : /` | `tenure` |
/// | `connect_timeout` | how long one attempt to connect may take, as `500ms` or `2s` | `2s` |
/// | `response_timeout` | how long a reply may take; a connection that says nothing for as long is replaced | `1500ms` |
/// | `ca` | a PEM file with the certificates to trust instead of the public ones; `rediss` only | |
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
///     +scan +ping +time +mget +set +del +type +pexpireat +hget +hmget +hgetall +hset +hdel
/// ```
///
/// # What to know
///
/// A reply that was acknowledged is in the memory of one server. What survives the server's crash is what its
/// persistence kept, and a replica that takes over may lack the last writes.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    server: String,
    keys: Keys,
    hub: Hub,
    inbox: Arc<str>,
    collector: Collector<Link>,
}

impl Redis {
    /// Connects to the server, and makes sure that it is one that will do.
    ///
    /// It takes no longer than `connect_timeout` and `response_timeout` together. Once connected, the store comes back
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
        let url::Place::One(addr) = &config.place else {
            return Err(Error::new(ErrorKind::Unsupported, format!("{}: not yet", config.server)));
        };
        let client = connect::client(&config, config.target(addr.clone(), &config.login)?)?;
        let server = config.server.clone();
        let inbox: Arc<str> = keys.inbox(env.bits()).into();
        let link = Link::open(config, client, env, hub.clone(), inbox.clone()).await?;
        connect::probe(&link, &server, &keys, &inbox).await?;
        let collector = Collector::new(link, connect::scripts());
        Ok(Self(Arc::new(Inner { server, keys, hub, inbox, collector })))
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

    /// Sends a command that only reads.
    async fn ask(&self, command: &redis::Cmd) -> Result<Value> {
        let value = self.0.collector.command(command).await;
        value.map_err(|error| errors::of_reading(&self.0.server, error))
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

    fn watch(&self, _key: &Key, id: ClaimId) -> Watch {
        self.0.hub.watch(id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let value = self.ask(&script::read_command(self.0.keys.encode(key).as_bytes())).await?;
        self.decode(key, value, script::record)
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        let (mut keys, mut cursor) = (BTreeSet::new(), b"0".to_vec());
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(self.0.keys.pattern()).arg("COUNT").arg(1_000);
            let page = errors::check(&self.0.server, || "listing the locks".into(), self.ask(&command).await?)?;
            let (next, places): (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(page).map_err(|error| {
                Error::with_source(ErrorKind::Corrupt, format!("Redis at {}: no page of keys", self.0.server), error)
            })?;
            keys.extend(places.iter().filter_map(|place| self.0.keys.decode(place)));
            if next == b"0" {
                return Ok(keys.into_iter().collect());
            }
            cursor = next;
        }
    }

    async fn ping(&self) -> Result<()> {
        let value = self.ask(&redis::cmd("PING")).await?;
        errors::check(&self.0.server, || "asking whether it answers".into(), value).map(drop)
    }

    fn traits(&self) -> Traits {
        let kept_since = self.0.collector.transport().kept_since();
        Traits { kind: "redis", queue: true, fence: true, push: true, durable: false, stale_reads: false, kept_since }
    }
}
