//! Redlock: a store over several stores, of which a majority decides.
//!
//! ```text
//!                 ┌──▶ a   in, under t
//!   Acquire(t) ───┼──▶ b   in, under t        a majority is in under one token: the claim is in
//!                 └──▶ c   (no answer)        c is told to let it go, or topped up with the next renewal
//! ```
//!
//! * **The token is a ballot.** The client proposes `t`, the wall clock or one more than any it has seen; a node lets a claim
//!   in under `t` only where `t` is later than its last, else under a later one, which is no vote for `t`. A majority for one
//!   `t` makes it the token. Two majorities meet in a node, which saw one of them first: so tokens rise, and none is given
//!   twice. The largest of the nodes' own counters would not do.
//! * **A common queue, as far as it goes.** All clients prefer the same node for a lock, its *home*, and wait in the queue
//!   there; a claim that is let in there asks the others. So claims that wait do not collide. The order is the home's,
//!   the decision the majority's, and where clients see different nodes fail, chance ends the tie.
//! * **What came late is let go.** A claim has an id of its own for each attempt at a node, and whatever may be there of an
//!   attempt that failed is released, buried where no answer came, and asked for until that is certain.
//! * **A node that lost its memory has no vote** for the longest ttl, for somebody may hold what it forgot; and for as long as
//!   tokens are remembered only under one that is later than what enough others remember.
//! * **A bare majority is topped up** with each renewal.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;

use self::claims::Claims;
use self::members::{Opener, View};
use self::node::{Node, Preference};
use super::{Seen, Store, Traits, Watch};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::vote::{Electorate, Group, votes_needed};
use crate::proto::{Claim, ClaimId, Op, Reply};
use crate::transaction::{Settle, Verdict, refused};

mod acquire;
mod build;
mod change;
mod claims;
mod hand_over;
mod keep;
#[cfg(feature = "redis")]
mod lazy;
mod look;
mod members;
mod node;
mod ring;
mod round;
mod tally;
#[cfg(feature = "redis")]
mod url;

pub use build::QuorumBuilder;
pub use change::{ChangeStep, Members};
pub use look::NodeStatus;
pub use ring::{Ring, RingBuilder};
#[cfg(feature = "redis")]
pub(crate) use url::quorum_nodes;

/// A store over several stores, of which a majority decides: Redlock. Clones share it.
///
/// ```
/// # fn main() -> tenure::Result<()> {
/// # fn redis(_: &str) -> Arc<dyn tenure::store::Store> { Arc::new(tenure::store::Memory::new()) }
/// use std::sync::Arc;
/// use tenure::store::Quorum;
///
/// let quorum = Quorum::builder()
///     .node("a", redis("redis://a"))
///     .node("b", redis("redis://b"))
///     .node("c", redis("redis://c"))
///     .build()?;
/// let locks = tenure::Locks::new(quorum);
/// # Ok(())
/// # }
/// ```
///
/// By URL: `redlock://[user[:password]@]host[:port],host[:port],…[/database][?option=value&…]`, where the options are those
/// of `redis://` and the ones below; `redlocks://…` for TLS; or `redlock:?node=URL&node=URL`, each URL percent-encoded, for
/// nodes of any kind, say each behind Sentinels of its own.
///
/// | option | meaning | without it |
/// | --- | --- | --- |
/// | `votes` | how many nodes must agree; no less than a majority | a majority |
/// | `node_timeout` | how long one node's answer is awaited | `250ms` |
/// | `view_lease` | for how long a client goes by the members that it read | `10s` |
/// | `token_memory` | the longest `fence_memory` that any client asks for | `60s` |
/// | `longest_ttl` | the longest ttl that any client may ask for, and so for how long a node that lost its memory has no vote | `60s` |
///
/// # Guarantees
///
/// At most one holds, as long as the clocks of client and nodes run at rates that differ by less than a hundredth, and no
/// node forgets what it acknowledged without a restart that shows. Fences rise strictly, whatever the clocks do, as long
/// as a majority of nodes keeps its memory and remembers the lock's last token: `token_memory` after the lock was last
/// used, at most, the clients' clocks have to do, and must not differ by more.
///
/// A node's user has to be allowed `INFO` and `CONFIG GET`, besides what [`Redis`](crate::store::Redis) asks for: where it is
/// not told for how long a server has run, a client counts from its own connection, and the node has no vote before a
/// longest ttl has passed.
///
/// A semaphore of `k` permits over `n` nodes needs `⌊n·k/(k+1)⌋ + 1` of them: four of five for two permits, all five from four
/// permits on.
///
/// Waiting goes by the queue of one node, and is fair as long as that one serves; it is no promise.
#[derive(Clone)]
pub struct Quorum(Arc<Inner>);

struct Inner {
    env: Env,
    /// All nodes that were ever a member; their numbers stay.
    nodes: RwLock<Vec<Arc<Node>>>,
    /// Who are members now, as far as this client knows.
    view: RwLock<Arc<View>>,
    /// Only one reads anew who are members.
    reading: tokio::sync::Mutex<()>,
    /// Makes the store of a member that this client was not told of.
    opener: Option<Opener>,
    rule: Rule,
    node_timeout: Duration,
    view_lease: Duration,
    longest: Duration,
    token_memory: Duration,
    claims: Mutex<Claims>,
    /// How many rounds of voting there were, and how many ended without a decision though nobody held the lock.
    rounds: AtomicU64,
    collisions: AtomicU64,
}

impl Quorum {
    /// A quorum over nodes that are yet to be named.
    pub fn builder() -> QuorumBuilder {
        QuorumBuilder::default()
    }
}

/// Who decides about a lock.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// So many of the members, and more where the lock's limit asks for it.
    Votes(usize),
    /// The one member that the lock's name prefers.
    Ring,
}

impl Inner {
    fn node(&self, node: usize) -> Arc<Node> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)[node].clone()
    }

    fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who decides on a claim of that lock.
    fn electorate(&self, view: &View, key: &Key, limit: u32) -> Electorate {
        let group = |members: &Vec<usize>| match self.rule {
            Rule::Votes(least) => {
                let votes = votes_needed(members.len(), limit).max(least.min(members.len()));
                Group { members: members.clone(), votes }
            }
            Rule::Ring => {
                let prefers = |node: &usize| Preference::of(key.as_str(), &self.node(*node));
                Group { members: members.iter().copied().max_by_key(prefers).into_iter().collect(), votes: 1 }
            }
        };
        Electorate(view.groups.iter().map(group).collect())
    }

    /// Whose answers are enough to know all names.
    fn everybody(&self, view: &View) -> Electorate {
        let group = |members: &Vec<usize>| match self.rule {
            Rule::Votes(_) => Group { members: members.clone(), votes: votes_needed(members.len(), Claim::ALL) },
            Rule::Ring => Group { members: members.clone(), votes: members.len() },
        };
        Electorate(view.groups.iter().map(group).collect())
    }
}

impl fmt::Debug for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<Arc<Node>> = self.0.view().nodes().into_iter().map(|node| self.0.node(node)).collect();
        f.debug_struct("Quorum").field("rule", &self.0.rule).field("nodes", &nodes).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Quorum {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        match op {
            Op::Acquire(op) => self.0.acquire(key, op).await,
            Op::Renew(op) => self.0.renew(key, op).await,
            Op::Release(op) => self.0.release(key, op).await,
            Op::HandOver(op) => self.0.hand_over(key, op).await,
        }
    }

    /// Each node gathers what is asked of it at the same moment. Operations on one key come one after the other.
    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        let mut by_key: HashMap<&Key, Vec<usize>> = HashMap::new();
        ops.iter().enumerate().for_each(|(i, (key, _))| by_key.entry(key).or_default().push(i));
        let one_key = async |places: Vec<usize>| {
            let mut replies = Vec::with_capacity(places.len());
            for i in places {
                replies.push((i, self.apply(&ops[i].0, &ops[i].1).await));
            }
            replies
        };
        let mut groups: Vec<Vec<usize>> = by_key.into_values().collect();
        // Not in the order of a hash map.
        groups.sort_unstable();
        let mut replies: Vec<_> = join_all(groups.into_iter().map(one_key)).await.into_iter().flatten().collect();
        replies.sort_by_key(|(i, _)| *i);
        replies.into_iter().map(|(_, reply)| reply).collect()
    }

    async fn settle(&self, _settle: &Settle) -> Result<Verdict> {
        Err(refused(self.traits().kind))
    }

    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        let told = self.0.claims().of(id, self.0.env.now(), Duration::ZERO).told.clone();
        let (inner, key) = (self.0.clone(), key.clone());
        let listen = move || {
            let nodes = inner.electorate(&inner.view(), &key, Claim::ALL).nodes();
            let ids: Vec<(usize, ClaimId)> = {
                let mut claims = inner.claims();
                let claim = claims.of(id, inner.env.now(), Duration::ZERO);
                nodes.into_iter().map(|node| (node, claim.listen(node))).collect()
            };
            ids.into_iter().map(|(node, id)| inner.node(node).store.watch(&key, id)).collect()
        };
        Watch::at_all(listen, told)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        self.0.read(key).await
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        self.0.scan().await
    }

    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        self.0.health()
    }

    fn traits(&self) -> Traits {
        let nodes = self.0.view().nodes();
        let all: Vec<Traits> = nodes.into_iter().map(|node| self.0.node(node).store.traits()).collect();
        Traits {
            kind: if matches!(self.0.rule, Rule::Ring) { "ring" } else { "redlock" },
            queue: false,
            fence: true,
            push: all.iter().all(|one| one.push),
            durable: all.iter().all(|one| one.durable),
            transaction: false,
            stale_reads: all.iter().any(|one| one.stale_reads),
            kept_since: 0,
            members: self.0.view().membership.epoch,
        }
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}
