//! Redis Cluster: each lock on the shard that has its slot, by the same script, and grants pushed within that shard.
//!
//! ```text
//!   apply ──▶ slot of the key ──map──▶ node ──▶ collector ──▶ connection ──▶ master
//!     ▲                          ▲              MOVED, ASK, not now            │
//!     │                          └── route.rs ◀───────────────────────────────┤
//!     └── answer ◀─────────────────────────────────────────────────────────────┘
//!   watch ◀── Hub ◀── inboxes.rs ◀── a connection for pushes ◀── SPUBLISH ◀── the same master
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::keys::Keys;
use super::script::{Call, Dialect, command_in};
use super::slots::slot_of;
use super::url::{Config, Place};
use super::{commit, connect, errors, script};
use crate::env::{Env, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{ClaimId, Op, Outcome, Reply};
use crate::store::{Hub, Seen, Store, Traits, Watch};
use crate::transaction::{Settle, Verdict};

mod batch;
mod inboxes;
mod node;
mod route;
mod topology;

use inboxes::{Ears, Inboxes};
use node::Node;
use topology::Topology;

/// A store on a Redis or Valkey cluster, 7.0 or newer.
///
/// ```no_run
/// # async fn example() -> tenure::Result<()> {
/// let store = tenure::store::RedisCluster::connect("redis-cluster://user:password@a:7000,b:7000,c:7000").await?;
/// # Ok(())
/// # }
/// ```
///
/// # URLs
///
/// `redis-cluster://[user[:password]@]host[:port],host[:port],…`, and `rediss-cluster://…` for TLS. The hosts are some of
/// the cluster's nodes, of which one has to answer; the others are learned from it. User, password and options, which are
/// those of [`Redis`](super::Redis) but for `replicas`, count for every node. With `read=replica`, what is only looked at
/// comes from a replica of the slot's master, or from the master where none answers. There is no database but the first.
///
/// # Keys
///
/// A lock's record lies under `prefix:{name}`, so that the name decides the slot; see [`Redis`](super::Redis).
///
/// # Where slots move and nodes fail
///
/// A slot may move to another node while its locks are held and waited for. A node that fails is followed by its replica,
/// which may lack the last writes: see the guarantees. Operations are never sent twice where the first time may have been
/// carried out; what certainly was not is tried again for about a second, and then fails as
/// [`Unavailable`](ErrorKind::Unavailable).
///
/// # Rights
///
/// Those of [`Redis`](super::Redis), with other channels and some more:
///
/// ```text
/// ACL SETUSER locks on >password ~tenure:* &tenure:inbox:* +evalsha +evalsha_ro +script|load +spublish +ssubscribe
///     +sunsubscribe +asking +cluster|slots +cluster|info +scan +ping +time +mget +set +setrange +del +type +pexpireat +hget
///     +hmget +hgetall +hset +hdel
/// ```
///
/// and `+readonly` with `read=replica`.
#[derive(Clone)]
pub struct RedisCluster(Arc<Inner>);

struct Inner {
    env: Env,
    /// The cluster, as messages name it.
    server: String,
    keys: Keys,
    hub: Hub,
    topology: Arc<Topology>,
    inboxes: Arc<Inboxes>,
    /// Whether what is only looked at comes from replicas.
    reads_replicas: bool,
    /// When a slot was last seen to have another master, on the nodes' clock, and as which change.
    changed: (AtomicU64, AtomicU64),
}

/// How long an operation is tried again that was certainly not carried out.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a replica may take before its master is asked.
const REPLICAS_PATIENCE: Duration = Duration::from_millis(500);

impl RedisCluster {
    /// Learns the cluster's map from the first node that tells it, and makes sure that its masters will do.
    ///
    /// A master that cannot be reached is no obstacle as long as one can.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a URL that cannot be meant, [`Unavailable`](ErrorKind::Unavailable) where no
    /// node can be reached, [`Denied`](ErrorKind::Denied) for a wrong user or password or one without the rights,
    /// [`Unsupported`](ErrorKind::Unsupported) for servers that are no cluster, or older than 7.0.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind when the future is dropped.
    pub async fn connect(url: &str) -> Result<Self> {
        let config = Config::parse(url)?;
        let Place::Cluster { seeds } = &config.place else {
            let message = format!("{} is no cluster: give redis-cluster://host,host,host", config.server);
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        if config.replicas > 0 {
            let message = "the option replicas is not there for a cluster yet: leave it out, and see the guarantees";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (env, hub, keys) = (Env::system(), Hub::new(), Keys::new(&config.prefix));
        let (server, seeds, reads_replicas) = (config.server.clone(), seeds.clone(), config.read_replica);
        let inboxes = Arc::new_cyclic(|inboxes: &std::sync::Weak<Inboxes>| {
            let (inboxes, its_env) = (inboxes.clone(), env.clone());
            let make = move |address: &_| {
                let ears = Ears { inboxes: inboxes.clone(), node: Clone::clone(address) };
                Node::new(&config, address, &its_env, Arc::new(ears))
            };
            let topology = Arc::new(Topology::new(env.clone(), seeds, reads_replicas, Box::new(make)));
            Inboxes::new(env.clone(), keys.clone(), hub.clone(), topology)
        });
        let topology = inboxes.topology().clone();
        topology.learn().await?;
        let store = Self(Arc::new(Inner {
            env,
            server,
            keys,
            hub,
            topology,
            inboxes,
            reads_replicas,
            changed: Default::default(),
        }));
        store.probe().await?;
        Ok(store)
    }

    async fn probe(&self) -> Result<()> {
        let inner = &self.0;
        let inbox = inner.inboxes.channel(&Key::new("rights")?);
        let masters = inner.topology.masters();
        let also: &[&str] = if inner.reads_replicas { &["READONLY"] } else { &[] };
        let probed = masters.iter().map(async |node| {
            let transport = node.collector.transport();
            connect::probe(Dialect::Shard, transport, &node.name, &inner.keys, &inbox, also).await
        });
        let probed = join_all(probed).await;
        let is_away = |error: &Error| error.is_transient();
        let any = probed.iter().any(Result::is_ok);
        match probed.into_iter().filter_map(Result::err).find(|error| !any || !is_away(error)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn call(&self, key: &Key, op: &Op) -> Call {
        let queues = matches!(op, Op::Acquire(acquire) if !acquire.patience.is_zero());
        let inbox = if queues { self.0.inboxes.channel(key) } else { String::new() };
        Call::new(self.0.keys.encode(key).as_bytes(), op, &inbox)
    }

    fn reply(&self, key: &Key, op: &Op, sent: Moment, value: Result<Value>) -> Result<Reply> {
        let reply = self.decode(key, value?, |value| script::reply(op, value))?;
        let ((when, which), changes) = (&self.0.changed, self.0.topology.changes());
        if which.load(Relaxed) != changes {
            // The reply may be older than the change.
            let late = self.0.env.now() - sent;
            when.fetch_max(reply.now + late.as_micros() as u64, Relaxed);
            which.store(changes, Relaxed);
        }
        if let (Op::Acquire(acquire), Outcome::Busy { .. }) = (op, &reply.outcome)
            && !acquire.patience.is_zero()
        {
            self.0.inboxes.listen(key, acquire.id, sent);
        }
        Ok(reply)
    }

    fn decode<T>(&self, key: &Key, value: Value, decoder: impl FnOnce(Value) -> Result<T>) -> Result<T> {
        let (server, what) = (&self.0.server, || format!("lock {key:?}"));
        decoder(errors::check(server, what, value)?).map_err(|error| errors::unreadable(server, &what(), &error))
    }

    /// Has one command carried out by the master of a slot; `first` is how it is sent the first time.
    async fn command(
        &self,
        slot: u16,
        first: impl AsyncFnOnce(&Node) -> Result<Value>,
        again: impl Fn() -> Cmd,
    ) -> Result<Value> {
        let inner = &self.0;
        let node = match inner.topology.owner(slot) {
            Some(node) => node,
            None => self.find(slot).await?,
        };
        let sent = inner.env.now();
        let value = first(&node).await;
        if value.is_ok() {
            node.took(inner.env.now() - sent);
        }
        route::settle((&inner.env, &inner.topology), slot, (node, value), again, PATIENCE).await
    }

    /// What a replica of the slot's master has, if it is to be asked and says something.
    async fn read_at_replica(&self, key: &Key, slot: u16, command: &Cmd) -> Option<Seen> {
        let replica = self.replica(&*self.0.topology.owner(slot)?)?;
        let read = replica.collector.command_behind("READONLY", command);
        let value = self.0.env.timeout(REPLICAS_PATIENCE, read).await?.ok()?;
        self.decode(key, value, script::record).ok()
    }

    fn replica(&self, master: &Node) -> Option<Arc<Node>> {
        let replica = self.0.reads_replicas.then(|| self.0.topology.replica(&master.address))?;
        if replica.is_none() {
            // A cluster does not tell of a replica before that has something.
            self.0.topology.refresh();
        }
        replica
    }

    /// The master of a slot that nobody was known to have.
    async fn find(&self, slot: u16) -> Result<Arc<Node>> {
        let inner = &self.0;
        let mut refreshed = inner.topology.refresh();
        inner.env.timeout(PATIENCE, refreshed.changed()).await;
        inner.topology.owner(slot).ok_or_else(|| batch::nobody(slot))
    }
}

impl fmt::Debug for RedisCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCluster").field("server", &self.0.server).field("hub", &self.0.hub).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for RedisCluster {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        let (call, sent) = (self.call(key, op), self.0.env.now());
        let slot = slot_of(call.key());
        let again = || command_in(Dialect::Shard, &[self.call(key, op)]);
        let value = self.command(slot, async |node| node.collector.call(call).await, again).await;
        self.reply(key, op, sent, value)
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        let sent = self.0.env.now();
        let calls = ops.iter().map(|(key, op)| self.call(key, op)).collect();
        let values = batch::call_many(&self.0.env, &self.0.topology, calls).await;
        ops.iter().zip(values).map(|((key, op), value)| self.reply(key, op, sent, value)).collect()
    }

    async fn settle(&self, settle: &Settle) -> Result<Verdict> {
        let Inner { server, keys, .. } = &*self.0;
        let (command, all) = commit::command(keys, settle, false)?;
        let slot = commit::one_slot(&all)?;
        let first = async |node: &Node| node.collector.command(&command).await;
        let value = self.command(slot, first, || command.clone()).await?;
        let value = errors::check(server, || commit::name(settle), value)?;
        commit::verdict(keys, value).map_err(|error| errors::unreadable(server, &commit::name(settle), &error))
    }

    fn watch(&self, _key: &Key, id: ClaimId) -> Watch {
        self.0.hub.watch(id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let place = self.0.keys.encode(key);
        let command = script::read_command(place.as_bytes());
        if let Some(seen) = self.read_at_replica(key, slot_of(place.as_bytes()), &command).await {
            return Ok(seen);
        }
        let first = async |node: &Node| node.collector.command(&command).await;
        let value = self.command(slot_of(place.as_bytes()), first, || command.clone()).await;
        let value = value.map_err(|error| errors::of_reading(&self.0.server, error))?;
        self.decode(key, value, script::record)
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        let masters = self.0.topology.masters();
        let scanned = masters.iter().map(async |master| {
            if let Some(replica) = self.replica(master)
                && let Ok(keys) = super::scan(&replica.collector, &replica.name, &self.0.keys).await
            {
                return Ok(keys);
            }
            super::scan(&master.collector, &master.name, &self.0.keys).await
        });
        let mut all = BTreeSet::new();
        for keys in join_all(scanned).await {
            all.extend(keys?);
        }
        Ok(all.into_iter().collect())
    }

    async fn ping(&self) -> Result<()> {
        let masters = self.0.topology.masters();
        let answers = masters.iter().map(async |node| {
            let value = super::ask(&node.collector, &node.name, &redis::cmd("PING")).await?;
            errors::check(&node.name, || "asking whether it answers".into(), value).map(drop)
        });
        let answers: Result<()> = join_all(answers).await.into_iter().collect();
        if answers.is_err() {
            self.0.topology.refresh();
        }
        answers
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        let masters = self.0.topology.masters();
        let kept_since = masters.iter().map(|node| node.collector.transport().kept_since()).max().unwrap_or(0);
        // What a slot's new master lacks nobody knows.
        let kept_since = kept_since.max(self.0.changed.0.load(Relaxed));
        let (kind, stale_reads) = ("redis-cluster", self.0.reads_replicas);
        Traits {
            kind,
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
