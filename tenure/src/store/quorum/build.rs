//! From nodes, or a URL, to a quorum.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use super::members::{Member, Membership, Opener, View};
use super::node::Node;
use super::{Inner, Quorum, Rule};
use crate::env::Env;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::options::{invalid, within};
use crate::store::Store;

/// The nodes and the options of a [`Quorum`].
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct QuorumBuilder {
    nodes: Vec<(Arc<str>, Arc<dyn Store>)>,
    votes: Option<usize>,
    node_timeout: Duration,
    longest_ttl: Duration,
    token_memory: Duration,
    view_lease: Duration,
    opener: Option<Opener>,
    env: Env,
}

impl fmt::Debug for QuorumBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuorumBuilder").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// The longest ttl that any client may ask for, where nothing else is said.
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(60);

impl Default for QuorumBuilder {
    fn default() -> Self {
        let (node_timeout, longest_ttl) = (Duration::from_millis(250), LONGEST_TTL);
        let view_lease = Duration::from_secs(10);
        let token_memory = Duration::from_secs(60);
        Self {
            nodes: Vec::new(),
            votes: None,
            node_timeout,
            longest_ttl,
            token_memory,
            view_lease,
            opener: None,
            env: Env::system(),
        }
    }
}

impl QuorumBuilder {
    /// One more node. All clients must give it the same name, and no two nodes may share what they store.
    pub fn node(mut self, name: impl Into<Arc<str>>, store: Arc<dyn Store>) -> Self {
        self.nodes.push((name.into(), store));
        self
    }

    /// How many nodes must agree: a majority by default, and no less.
    pub fn votes(mut self, votes: usize) -> Self {
        self.votes = Some(votes);
        self
    }

    /// How long one node's answer is awaited: 250 ms by default, 1 ms to 10 min.
    pub fn node_timeout(mut self, limit: Duration) -> Self {
        self.node_timeout = limit;
        self
    }

    /// The longest ttl that any client may ask for, the same at each: 60 s by default, 1 ms to 24 h. A node that lost its
    /// memory has no vote for as long.
    pub fn longest_ttl(mut self, longest: Duration) -> Self {
        self.longest_ttl = longest;
        self
    }

    /// The longest [`fence_memory`](crate::LocksBuilder::fence_memory) that any client asks for, the same at each: 60 s by
    /// default, at most 24 h. Tokens are remembered for no longer once their lock is free, and a change of the members takes so
    /// much longer.
    pub fn token_memory(mut self, memory: Duration) -> Self {
        self.token_memory = memory;
        self
    }

    /// For how long a client goes by the members that it read, the same at each: 10 s by default, 1 ms to 1 h. A change of
    /// the members takes so long, a longest ttl and a token memory.
    pub fn view_lease(mut self, lease: Duration) -> Self {
        self.view_lease = lease;
        self
    }

    /// How to reach a node by its name, when one becomes a member that this client was not told of.
    pub fn opener<O, F>(mut self, open: O) -> Self
    where
        O: Fn(String) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Arc<dyn Store>>> + Send + 'static,
    {
        self.opener = Some(Arc::new(move |name| Box::pin(open(name.to_owned()))));
        self
    }

    /// Where time and randomness come from: the system by default.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// The quorum.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] without a node, with two of one name, or for an option that cannot be meant: it says which,
    /// and what would do.
    pub fn build(self) -> Result<Quorum> {
        let least = self.votes;
        let rule = |n: usize| {
            let majority = n / 2 + 1;
            let votes = least.unwrap_or(majority);
            if !(majority..=n).contains(&votes) {
                let why = if votes < majority { ": two holders could have so many each" } else { "" };
                return Err(invalid(format!("{votes} votes of {n} nodes will not do{why}; give {majority} to {n}")));
            }
            Ok(Rule::Votes(votes))
        };
        self.build_as(rule, &[])
    }

    #[cfg(feature = "redis")]
    pub(super) fn opener_of(mut self, opener: Opener) -> Self {
        self.opener = Some(opener);
        self
    }

    /// The members decide by that rule, and have those weights or else 1 each.
    pub(super) fn build_as(self, rule: impl FnOnce(usize) -> Result<Rule>, weights: &[u32]) -> Result<Quorum> {
        let Self { nodes, votes: _, node_timeout, longest_ttl, token_memory, view_lease, opener, env } = self;
        let n = nodes.len();
        if n == 0 {
            return Err(invalid("a quorum needs nodes: give three or five"));
        }
        for (i, (name, _)) in nodes.iter().enumerate() {
            if nodes[..i].iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("two nodes of the quorum have the name {name:?}: it would vote twice")));
            }
        }
        let rule = rule(n)?;
        let millisecond = Duration::from_millis(1);
        within("node_timeout", node_timeout, (millisecond, Duration::from_secs(600)))?;
        within("longest_ttl", longest_ttl, (millisecond, Duration::from_secs(24 * 3600)))?;
        within("token_memory", token_memory, (Duration::ZERO, Duration::from_secs(24 * 3600)))?;
        within("view_lease", view_lease, (millisecond, Duration::from_secs(3600)))?;
        let weight = |i: usize| weights.get(i).copied().unwrap_or(1);
        let members = nodes.iter().enumerate();
        let members = members.map(|(i, (name, _))| Member { name: name.to_string(), weight: weight(i) }).collect();
        let membership = Membership { epoch: 0, groups: vec![members] };
        let view = View { membership, groups: vec![(0..n).collect()], read_at: None };
        let nodes = nodes.into_iter().enumerate();
        let nodes = nodes.map(|(i, (name, store))| Arc::new(Node::new(name, store, weight(i)))).collect();
        Ok(Quorum(Arc::new(Inner {
            env,
            nodes: RwLock::new(nodes),
            view: RwLock::new(Arc::new(view)),
            reading: tokio::sync::Mutex::new(()),
            opener,
            rule,
            view_lease,
            node_timeout,
            longest: longest_ttl,
            token_memory,
            claims: Mutex::default(),
            rounds: AtomicU64::new(0),
            collisions: AtomicU64::new(0),
        })))
    }
}
