//! Who the members are, as the nodes tell it.
//!
//! ```text
//!   epoch 0         epoch 8k                        epoch 8k + 4
//!   a b c    ──▶    (a b c) and (b c d)    ──▶      b c d
//!                   both must agree, for as long
//!                   as anybody may go by the last
//! ```
//!
//! Each node has a register, the lock record of a reserved name, in which a membership is an entry under its epoch as the
//! token: a node takes only an epoch that is later than its last. A client goes by a membership for no longer than the
//! *view lease* since it was read from so many of its members as carry a vote; then it reads again, and follows the latest
//! epoch it finds. So a client that missed a change catches up, and one that cannot stops.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};

use super::node::Node;
use super::{Inner, unavailable};
use crate::env::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::proto::vote::{Electorate, Group, votes_needed};
use crate::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release, Renew};
use crate::store::Store;

/// What makes the store of a node by its name.
pub(super) type Opener = Arc<dyn Fn(&str) -> BoxFuture<'static, Result<Arc<dyn Store>>> + Send + Sync>;

/// For how long a node remembers a membership that nobody reads; readers have it remembered anew.
const REMEMBERED: Duration = Duration::from_secs(60 * 86_400);

/// The names that belong to the quorum itself.
const RESERVED: &str = "\u{1}tenure/";

pub(super) fn is_reserved(name: &Key) -> bool {
    name.as_str().starts_with(RESERVED)
}

pub(super) fn register() -> Result<Key> {
    Key::new(format!("{RESERVED}members"))
}

/// The lock that whoever changes the membership holds.
pub(super) fn change_lock() -> String {
    format!("{RESERVED}change")
}

/// Who the members are, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    /// A multiple of eight while a change is under way, four more after it; zero if there was none.
    pub(super) epoch: u64,
    /// The members; while a change is under way, those before and those after it.
    pub(super) groups: Vec<Vec<Member>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) weight: u32,
}

/// A membership that this client goes by.
#[derive(Debug)]
pub(super) struct View {
    pub(super) membership: Membership,
    /// The numbers of its members.
    pub(super) groups: Vec<Vec<usize>>,
    /// When it was last asked for, with success.
    pub(super) read_at: Option<Moment>,
}

impl View {
    /// Every member, once.
    pub(super) fn nodes(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.groups.iter().flatten().copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

impl Membership {
    /// Whether a change is under way.
    pub(super) fn is_joint(&self) -> bool {
        self.groups.len() > 1
    }

    /// Under which id the entry lies in a register.
    fn id(&self) -> ClaimId {
        entry_id(self.epoch)
    }

    /// What puts it into a register.
    fn entry(&self) -> Result<Acquire> {
        let meta = serde_json::to_vec(self).map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
        Ok(Acquire {
            id: self.id(),
            claim: Claim::SHARED,
            ttl: REMEMBERED,
            patience: Duration::ZERO,
            owner: None,
            max: 1,
            memory: Duration::from_secs(60),
            meta: Bytes::from(meta),
            fence: self.epoch,
        })
    }
}

fn entry_id(epoch: u64) -> ClaimId {
    ClaimId::new(u128::from(epoch) << 8)
}

/// Whose registers tell who the members are: a majority, of both groups while there are two.
fn council(view: &View) -> Electorate {
    let group =
        |members: &Vec<usize>| Group { members: members.clone(), votes: votes_needed(members.len(), Claim::ALL) };
    Electorate(view.groups.iter().map(group).collect())
}

impl Inner {
    /// The members, certain for now.
    pub(super) async fn fresh_view(self: &Arc<Self>) -> Result<Arc<View>> {
        let view = self.view();
        let age = |view: &View| view.read_at.map(|at| self.env.now() - at);
        match age(&view) {
            Some(age) if age < self.view_lease / 2 => Ok(view),
            Some(age) if age < self.view_lease => {
                // In time, so that nobody has to wait for it.
                if let Ok(reading) = self.reading.try_lock() {
                    drop(reading);
                    let inner = self.clone();
                    crate::env::spawn(async move { _ = inner.read_view(inner.view_lease / 2).await });
                }
                Ok(view)
            }
            _ => self.read_view(self.view_lease).await,
        }
    }

    /// Asks the members who they are, unless somebody has done so less than `age` ago.
    pub(super) async fn read_view(self: &Arc<Self>, age: Duration) -> Result<Arc<View>> {
        let _reading = self.reading.lock().await;
        let view = self.view();
        if view.read_at.is_some_and(|at| self.env.now() - at < age) {
            return Ok(view);
        }
        loop {
            let (before, asked_at) = (self.view(), self.env.now());
            let latest = self.read_registers(&before).await?;
            match latest.filter(|latest| latest.epoch > before.membership.epoch) {
                // Its members have to be asked, too.
                Some(later) => self.follow(later, None).await?,
                None => return self.follow(before.membership.clone(), Some(asked_at)).await.map(|()| self.view()),
            }
        }
    }

    /// The latest membership in the registers of so many members as carry a vote.
    async fn read_registers(self: &Arc<Self>, view: &View) -> Result<Option<Membership>> {
        let key = &register()?;
        let who = council(view);
        let seen = self.ask_all(&who, |store| async move { store.read(key).await }).await?;
        let knows = self.may_know(view, &who, &seen);
        let mut latest: Option<Membership> = None;
        let counters: Vec<(usize, u64)> = seen.iter().map(|(node, seen)| (*node, seen.record.fence)).collect();
        for (node, seen) in seen {
            for entry in seen.record.holders {
                let Ok(membership) = serde_json::from_slice::<Membership>(&entry.meta) else { continue };
                if membership.epoch != entry.fence || membership.id() != entry.id {
                    continue;
                }
                let half = REMEMBERED.as_micros() as u64 / 2;
                if entry.until < seen.now + half {
                    let renewal = Op::Renew(Renew { id: entry.id, ttl: REMEMBERED, fence: 0 });
                    let _ = self.node(node).ask(&self.env, self.node_timeout, key, &renewal).await;
                }
                if latest.as_ref().is_none_or(|latest| membership.epoch > latest.epoch) {
                    latest = Some(membership);
                }
            }
        }
        if !knows && latest.as_ref().is_none_or(|latest| latest.epoch <= view.membership.epoch) {
            let message = "too few members have kept their memory since this client last asked who the members are, so a change \
                           may have been forgotten: start those that are away, or the client anew with the members in its URL";
            return Err(unavailable(message));
        }
        if let Some(latest) = &latest {
            // Those that were away, or forgot it.
            let entry = Op::Acquire(latest.entry()?);
            let behind = counters.into_iter().filter(|(_, counter)| *counter < latest.epoch);
            let mut told = self.send(key, behind.map(|(node, _)| (node, entry.clone())));
            crate::env::spawn(async move { while told.next().await.is_some() {} });
        }
        Ok(latest)
    }

    /// The epoch of a change that begins: a multiple of eight, with room before it, later than any that this client or one of
    /// those nodes has seen, and not before the clock.
    pub(super) async fn next_epoch(&self, seen: u64, nodes: impl IntoIterator<Item = usize>) -> Result<u64> {
        let key = &register()?;
        let counters = nodes.into_iter().map(|node| async move {
            let node = self.node(node);
            let seen = node.query(&self.env, self.node_timeout, node.store.read(key)).await;
            seen.map_or(0, |seen| seen.record.fence)
        });
        let seen = join_all(counters).await.into_iter().fold(seen, u64::max);
        Ok(((seen + 16) & !7).max(self.env.wall().min(1 << 52) & !7))
    }

    /// Has the registers promise to take no epoch from before the one that begins: whoever began earlier, and was held up, is
    /// refused from now on. An entry of no membership does it, for refusing is all that a register can.
    ///
    /// A write that a register refuses puts it one epoch on; epochs are so far apart that this is in nobody's way.
    pub(super) async fn promise(self: &Arc<Self>, begins: &Membership, view: &View) -> Result<()> {
        let (key, number) = (register()?, begins.epoch - 1);
        let entry = Acquire {
            id: entry_id(number),
            ttl: Duration::from_secs(1),
            meta: Bytes::new(),
            fence: number,
            ..begins.entry()?
        };
        let who = council(view);
        let mut asked = self.send(&key, who.nodes().into_iter().map(|node| (node, Op::Acquire(entry.clone()))));
        let mut promised = Vec::new();
        while let Some((node, _, reply)) = asked.next().await {
            if let Ok(Outcome::Held { fence, .. }) = reply.map(|reply| reply.outcome) {
                self.let_go(&key, vec![(node, Release { id: entry.id, bury: Duration::ZERO, fence: 0 })]);
                promised.extend((fence == number).then_some(node));
            }
        }
        match who.is_carried_by(|node| promised.contains(&node)) {
            true => Ok(()),
            false => Err(unavailable("somebody else changes the members, or too few of them answer: try again")),
        }
    }

    /// Goes by that membership from now on, if it is not earlier than the present one.
    pub(super) async fn follow(&self, membership: Membership, read_at: Option<Moment>) -> Result<()> {
        let groups = self.numbers(&membership).await?;
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if membership.epoch >= view.membership.epoch {
            if membership.epoch > view.membership.epoch {
                tracing::info!(epoch = membership.epoch, joint = membership.is_joint(), "the members have changed");
            }
            *view = Arc::new(View { membership, groups, read_at });
        }
        Ok(())
    }

    /// The numbers of all members.
    pub(super) async fn numbers(&self, membership: &Membership) -> Result<Vec<Vec<usize>>> {
        let mut groups = Vec::new();
        for members in &membership.groups {
            let mut group = Vec::new();
            for member in members {
                group.push(self.number(member).await?);
            }
            groups.push(group);
        }
        Ok(groups)
    }

    /// The number of a member; its store is opened if this client has not seen it before.
    async fn number(&self, member: &Member) -> Result<usize> {
        let known = |nodes: &[Arc<Node>]| {
            nodes.iter().position(|node| *node.name == *member.name && node.weight == member.weight)
        };
        if let Some(number) = known(&self.nodes.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(number);
        }
        let Some(opener) = &self.opener else {
            let message = format!(
                "{:?} has become a member, and this client has no way to reach it: give the builder an opener",
                member.name
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let store = opener(&member.name).await?;
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        Ok(known(&nodes).unwrap_or_else(|| {
            nodes.push(Arc::new(Node::new(member.name.as_str().into(), store, member.weight)));
            nodes.len() - 1
        }))
    }

    /// One more than the highest number of a node.
    pub(super) fn width(&self) -> usize {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Writes a membership to the registers of its members. It is in force once so many have taken it as carry a vote.
    pub(super) async fn write_registers(self: &Arc<Self>, membership: &Membership, view: &View) -> Result<()> {
        let key = register()?;
        let entry = membership.entry()?;
        let who = council(view);
        let mut asked = self.send(&key, who.nodes().into_iter().map(|node| (node, Op::Acquire(entry.clone()))));
        let (mut taken, mut errors) = (Vec::new(), Vec::new());
        while let Some((node, _, reply)) = asked.next().await {
            match reply.map(|reply| reply.outcome) {
                Ok(Outcome::Held { fence, .. }) if fence == membership.epoch => taken.push(node),
                Ok(Outcome::Held { fence, .. }) => {
                    self.let_go(&key, vec![(node, Release { id: entry.id, bury: Duration::ZERO, fence: 0 })]);
                    errors.push(format!("{}: has a later epoch, {}", self.node(node).name, fence - 1));
                }
                Ok(_) => errors.push(format!("{}: refused", self.node(node).name)),
                Err(error) => errors.push(error.to_string()),
            }
        }
        if !who.is_carried_by(|node| taken.contains(&node)) {
            return Err(unavailable(format!("too few nodes took the new members: {}", errors.join("; "))));
        }
        // What was before it has served.
        for node in taken {
            let Ok(seen) = self.node(node).store.read(&key).await else { continue };
            let before = seen.record.holders.into_iter().filter(|entry| entry.fence < membership.epoch);
            let releases = before.map(|entry| (node, Release { id: entry.id, bury: Duration::ZERO, fence: 0 }));
            self.let_go(&key, releases.collect());
        }
        Ok(())
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group =
            |members: &Vec<Member>| members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        let groups: Vec<String> = self.groups.iter().map(group).collect();
        write!(f, "{} (epoch {})", groups.join(" → "), self.epoch)
    }
}
