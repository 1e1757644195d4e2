//! Looking at a quorum: a lock as most nodes have it, and the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use super::claims::{Base, base};
use super::members::{View, is_reserved};
use super::node::Weight;
use super::{Inner, Quorum, unavailable};
use crate::error::Result;
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::vote::Electorate;
use crate::proto::{Claim, ClaimId, Entry, Record};
use crate::store::{Seen, Store};

/// How long one that failed lately is waited for where the others are enough.
const MOMENT: Duration = Duration::from_millis(5);

/// How one node of a quorum stands, as this client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// The name under which it is a member.
    pub name: String,
    /// Whether it answers now.
    pub up: bool,
    /// Why it does not, where it does not.
    pub error: Option<String>,
    /// Whether it has a vote: not before it has kept its memory for the longest ttl.
    pub votes: bool,
}

impl Quorum {
    /// Asks each node whether it is there.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn status(&self) -> Vec<NodeStatus> {
        let wall = self.0.env.wall();
        join_all(self.0.view().nodes().into_iter().map(|node| async move {
            let node = self.0.node(node);
            let answer = node.query(&self.0.env, self.0.node_timeout, node.store.ping()).await;
            let votes = node.vote(wall, self.0.longest, Duration::ZERO) > Weight::None;
            let error = answer.err().map(|error| error.to_string());
            NodeStatus { name: node.name.to_string(), up: error.is_none(), error, votes }
        }))
        .await
    }

    /// How many rounds of voting this client took part in, and how many of them decided nothing though nobody held the
    /// lock.
    pub fn rounds(&self) -> (u64, u64) {
        (self.0.rounds.load(Relaxed), self.0.collisions.load(Relaxed))
    }
}

impl Inner {
    /// How each member fares, as far as this client has learned.
    pub(super) fn health(&self) -> Vec<NodeHealth> {
        let nodes = self.view().nodes();
        let holds = self.claims().count(&nodes);
        nodes.into_iter().zip(holds).map(|(node, holds)| self.node(node).health(holds)).collect()
    }

    /// Asks all of them; the answers of those that gave one, which are enough to carry a vote. One that failed lately is
    /// waited for no more than a moment where the others are enough.
    pub(super) async fn ask_all<T, F>(
        &self,
        who: &Electorate,
        query: impl Fn(Arc<dyn Store>) -> F,
    ) -> Result<Vec<(usize, T)>>
    where
        F: Future<Output = Result<T>>,
    {
        let asked = who.nodes().into_iter().map(|node| {
            let member = self.node(node);
            let query = query(member.store.clone());
            async move { (node, member.query(&self.env, self.node_timeout, query).await) }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut waited_for: BTreeSet<usize> =
            who.nodes().into_iter().filter(|node| self.node(*node).is_well()).collect();
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        let is_carried =
            |answers: &[(usize, T)]| who.is_carried_by(|node| answers.iter().any(|(other, _)| *other == node));
        loop {
            let is_enough = waited_for.is_empty() && is_carried(&answers);
            let limit = if is_enough { MOMENT } else { 2 * self.node_timeout };
            let Some(Some((node, answer))) = self.env.timeout(limit, asked.next()).await else { break };
            waited_for.remove(&node);
            match answer {
                Ok(answer) => answers.push((node, answer)),
                Err(error) => errors.push(error.to_string()),
            }
        }
        answers.sort_by_key(|(node, _)| *node);
        match is_carried(&answers) {
            true => Ok(answers),
            false => Err(unavailable(format!("too few nodes of the quorum answered: {}", errors.join("; ")))),
        }
    }

    /// The record as the nodes that answer have it: those who are in at enough of them, and everyone who waits anywhere.
    pub(super) async fn read(&self, key: &Key) -> Result<Seen> {
        let seen = self
            .ask_all(&self.electorate(&self.view(), key, Claim::ALL), |store| async move { store.read(key).await })
            .await?;
        let mut now: Vec<u64> = seen.iter().map(|(_, seen)| seen.now).collect();
        now.sort_unstable();
        let mut record = Record::default();
        let mut holders: BTreeMap<Base, (Entry, Vec<usize>)> = BTreeMap::new();
        let mut queue: BTreeMap<Base, Entry> = BTreeMap::new();
        for (node, Seen { record: one, .. }) in &seen {
            record.fence = record.fence.max(one.fence);
            record.expires = record.expires.max(one.expires);
            if !one.is_empty() {
                record.limit = one.limit;
            }
            for entry in &one.holders {
                holders.entry(base(entry.id)).or_insert_with(|| (entry.clone(), Vec::new())).1.push(*node);
            }
            for entry in &one.queue {
                queue.entry(base(entry.id)).or_insert_with(|| entry.clone());
            }
        }
        let who = self.electorate(&self.view(), key, if record.limit == 0 { Claim::ALL } else { record.limit });
        // Those who did not answer may have it as well.
        let answered: Vec<usize> = seen.iter().map(|(node, _)| *node).collect();
        let is_in = |nodes: &[usize]| who.is_carried_by(|node| nodes.contains(&node) || !answered.contains(&node));
        for (id, (entry, nodes)) in holders {
            // Who is in at one node alone is on the way.
            if is_in(&nodes) {
                queue.remove(&id);
                record.holders.push(entry);
            } else {
                queue.entry(id).or_insert(Entry { fence: 0, ..entry });
            }
        }
        record.holders.sort_by_key(|entry| (entry.since, entry.fence));
        record.queue = queue.into_values().collect();
        record.queue.sort_by_key(|entry| (entry.since, entry.ticket));
        Ok(Seen { record, now: now[now.len() / 2] })
    }

    /// Where a claim of that id stands, under which ids and in which records, as the nodes tell.
    pub(super) async fn find(&self, key: &Key, id: ClaimId) -> Result<Vec<(usize, Entry, Record)>> {
        let seen = self
            .ask_all(&self.electorate(&self.view(), key, Claim::ALL), |store| async move { store.read(key).await })
            .await?;
        let all = seen.into_iter().flat_map(|(node, Seen { record, .. })| {
            let entry = record.holders.iter().chain(&record.queue).find(|entry| base(entry.id) == base(id)).cloned();
            entry.map(|entry| (node, entry, record))
        });
        Ok(all.collect())
    }

    /// Whether a change since the members were last read would be known to those who answered: so many of them as carry a vote
    /// have forgotten nothing since then, or nobody is missing.
    pub(super) fn may_know(&self, view: &View, who: &Electorate, seen: &[(usize, Seen)]) -> bool {
        let Some(read_at) = view.read_at else { return true };
        let age = self.env.now() - read_at;
        let answer = |node: usize| seen.iter().find(|(other, _)| *other == node).map(|(_, seen)| seen.now);
        // By their clocks, of whatever rate.
        let has_kept =
            |node: usize, now: u64| self.node(node).vote(now, age + age / 100, Duration::ZERO) > Weight::None;
        who.is_carried_by(|node| answer(node).is_some_and(|now| has_kept(node, now)))
            || who.nodes().into_iter().all(|node| answer(node).is_some())
    }

    pub(super) async fn scan(&self) -> Result<Vec<Key>> {
        let names = self.ask_all(&self.everybody(&self.view()), |store| async move { store.scan().await }).await?;
        let names: BTreeSet<Key> =
            names.into_iter().flat_map(|(_, names)| names).filter(|name| !is_reserved(name)).collect();
        Ok(names.into_iter().collect())
    }

    pub(super) async fn ping(&self) -> Result<()> {
        self.ask_all(&self.everybody(&self.view()), |store| async move { store.ping().await }).await.map(drop)
    }
}
