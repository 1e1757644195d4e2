//! Keys spread over many stores, each key at the one that its name prefers.
//!
//! It is a quorum of one for each key: the members' preference is by rendezvous hashing, so that of `n` stores, adding one moves
//! `1/(n + 1)` of the keys, to it alone, and removing one moves its keys alone. While the members change, a key that moves
//! needs both its old and its new store, as any quorum does; a hold is taken in by the new one with its next renewal.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Quorum, QuorumBuilder, Rule};
use crate::env::Env;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::health::NodeHealth;
use crate::key::Key;
use crate::options::invalid;
use crate::proto::{ClaimId, Op, Reply};
use crate::store::{Seen, Store, Traits, Watch};
use crate::transaction::{Settle, Verdict};

/// A store that spreads keys over stores, each perhaps a [`Quorum`]. Clones share it.
///
/// ```
/// # fn main() -> tenure::Result<()> {
/// # fn redis(_: &str) -> Arc<dyn tenure::store::Store> { Arc::new(tenure::store::Memory::new()) }
/// use std::sync::Arc;
/// use tenure::store::Ring;
///
/// let ring = Ring::builder().node("a", 1, redis("redis://a")).node("b", 2, redis("redis://b")).build()?;
/// let locks = tenure::Locks::new(ring);
/// # Ok(())
/// # }
/// ```
///
/// By URL: `ring://[user[:password]@]host[:port],host[:port],…[/database][?option=value&…]`, `rings://…` for TLS, or
/// `ring:?node=URL&node=URL` for stores of any kind; the options are those of a [`Quorum`] but `votes`, and `weights=1,2,…` in the
/// order of the nodes.
///
/// A key has the guarantees of its store; a dead store takes its keys along, and the others go on as long as most stores answer,
/// for who the members are is read from a majority. Tokens are minted by the store, and by a vote of
/// both while a key moves.
#[derive(Clone, Debug)]
pub struct Ring(Quorum);

/// The stores and the options of a [`Ring`].
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is made before `build`"]
pub struct RingBuilder {
    quorum: QuorumBuilder,
    weights: Vec<u32>,
}

impl Ring {
    /// A ring of stores that are yet to be named.
    pub fn builder() -> RingBuilder {
        RingBuilder::default()
    }

    /// The same as a quorum, whose members can be looked at and changed while locks are held.
    pub fn quorum(&self) -> &Quorum {
        &self.0
    }

    /// The name of the store that has that key, and of the one that will have it where it is just moving.
    pub fn homes(&self, key: &Key) -> Vec<String> {
        let inner = &self.0.0;
        let nodes = inner.electorate(&inner.view(), key, crate::proto::Claim::ALL).nodes();
        nodes.into_iter().map(|node| inner.node(node).name.to_string()).collect()
    }
}

impl RingBuilder {
    #[cfg(feature = "redis")]
    pub(super) fn of(opener: super::members::Opener) -> Self {
        Self { quorum: QuorumBuilder::default().opener_of(opener), weights: Vec::new() }
    }

    /// One more store, and how large a share of the keys it is to have against the others: 1 to 1,000. All clients must
    /// give it the same name and weight.
    pub fn node(mut self, name: impl Into<Arc<str>>, weight: u32, store: Arc<dyn Store>) -> Self {
        self.quorum = self.quorum.node(name, store);
        self.weights.push(weight);
        self
    }

    /// As [`QuorumBuilder::node_timeout`].
    pub fn node_timeout(mut self, limit: Duration) -> Self {
        self.quorum = self.quorum.node_timeout(limit);
        self
    }

    /// As [`QuorumBuilder::longest_ttl`].
    pub fn longest_ttl(mut self, longest: Duration) -> Self {
        self.quorum = self.quorum.longest_ttl(longest);
        self
    }

    /// As [`QuorumBuilder::token_memory`].
    pub fn token_memory(mut self, memory: Duration) -> Self {
        self.quorum = self.quorum.token_memory(memory);
        self
    }

    /// As [`QuorumBuilder::view_lease`].
    pub fn view_lease(mut self, lease: Duration) -> Self {
        self.quorum = self.quorum.view_lease(lease);
        self
    }

    /// As [`QuorumBuilder::opener`].
    pub fn opener<O, F>(mut self, open: O) -> Self
    where
        O: Fn(String) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Arc<dyn Store>>> + Send + 'static,
    {
        self.quorum = self.quorum.opener(open);
        self
    }

    /// Where time and randomness come from: the system by default.
    pub fn env(mut self, env: Env) -> Self {
        self.quorum = self.quorum.env(env);
        self
    }

    /// The ring.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] without a store, with two of one name, or for an option that cannot be meant.
    pub fn build(self) -> Result<Ring> {
        if let Some(weight) = self.weights.iter().find(|weight| !(1..=1_000).contains(*weight)) {
            return Err(invalid(format!("a weight of {weight} will not do: give 1 to 1000")));
        }
        self.quorum.build_as(|_| Ok(Rule::Ring), &self.weights).map(Ring)
    }
}

#[async_trait]
impl Store for Ring {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        self.0.apply(key, op).await
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        self.0.apply_many(ops).await
    }

    async fn settle(&self, settle: &Settle) -> Result<Verdict> {
        self.0.settle(settle).await
    }

    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        self.0.watch(key, id)
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
        self.0.nodes()
    }

    fn traits(&self) -> Traits {
        self.0.traits()
    }
}
