//! Changing the members while locks are held.
//!
//! ```text
//!   read the members ──▶ write (old and new) ──▶ wait: a view lease, a longest ttl and the tokens' memory ──▶ write (new)
//! ```
//!
//! The first write is in force once a majority of the old and of the new members has it. From then on nobody who reads the
//! members goes by the old ones alone; after a view lease nobody does at all, and after another longest ttl no hold is
//! left that was granted by them alone and not taken in by both; and after that they have forgotten the tokens of those
//! holds, which the new members never knew. Then the new ones are enough.
//!
//! Whoever changes holds a lock of the quorum's own meanwhile, so there are never two changes at once; and who began before
//! another one, and was held up beyond the end of that lock, is refused by the registers, which promised so to the later
//! one before that read them. A change that stopped anywhere is
//! [finished](Quorum::finish_change) or [undone](Quorum::undo_change) by anybody.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::members::{Member, Membership, View, change_lock};
use super::node::Weight;
use super::{Inner, Quorum, unavailable};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::locks::Locks;
use crate::options::invalid;

/// Who the members of a quorum or a ring are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Members {
    /// Rises with each change; zero if there was none.
    pub epoch: u64,
    /// The members, by name; while a change is under way, those before it.
    pub members: Vec<String>,
    /// The members after the change that is under way, if there is one.
    pub becoming: Option<Vec<String>>,
}

/// How far a change of members has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeStep {
    /// A new member has not kept its memory for long enough to vote.
    NewMember {
        /// Its name.
        name: String,
        /// For how long it is waited.
        wait_ms: u64,
    },
    /// Both the old and the new members have to agree from now on, for that long.
    Joint {
        /// For how long.
        wait_ms: u64,
    },
    /// The new members are enough.
    Done,
}

impl Quorum {
    /// Who the members are, as they tell it.
    ///
    /// # Errors
    ///
    /// When a majority of those known cannot be asked.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn members(&self) -> Result<Members> {
        let view = self.0.read_view(Duration::ZERO).await?;
        let names = |group: &Vec<Member>| group.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
        let mut groups = view.membership.groups.iter().map(names);
        let members = groups.next().unwrap_or_default();
        Ok(Members { epoch: view.membership.epoch, members, becoming: groups.next() })
    }

    /// Makes one more node a member; see [`change_members`](Self::change_members).
    ///
    /// # Errors
    ///
    /// As [`change_members`](Self::change_members), and [`ErrorKind::Invalid`] where it is one already.
    ///
    /// # Cancel safety
    ///
    /// As [`change_members`](Self::change_members).
    pub async fn add(&self, name: &str) -> Result<()> {
        let mut members = self.present(None).await?;
        if members.iter().any(|member| member.name == name) {
            return Err(invalid(format!("{name:?} is a member already")));
        }
        members.push(Member { name: name.to_owned(), weight: 1 });
        self.change_to(members, |_| ()).await
    }

    /// Makes a node a member no more; see [`change_members`](Self::change_members).
    ///
    /// # Errors
    ///
    /// As [`change_members`](Self::change_members), and [`ErrorKind::Invalid`] where it is none, or the last one.
    ///
    /// # Cancel safety
    ///
    /// As [`change_members`](Self::change_members).
    pub async fn remove(&self, name: &str) -> Result<()> {
        let mut members = self.present(Some(name)).await?;
        members.retain(|member| member.name != name);
        self.change_to(members, |_| ()).await
    }

    /// Puts one node in the place of another; see [`change_members`](Self::change_members).
    ///
    /// # Errors
    ///
    /// As [`change_members`](Self::change_members), and [`ErrorKind::Invalid`] where `old` is none.
    ///
    /// # Cancel safety
    ///
    /// As [`change_members`](Self::change_members).
    pub async fn replace(&self, old: &str, new: &str) -> Result<()> {
        let mut members = self.present(Some(old)).await?;
        members.iter_mut().filter(|member| member.name == old).for_each(|member| member.name = new.to_owned());
        self.change_to(members, |_| ()).await
    }

    /// Gives the quorum those members instead of the present ones, while locks are held: none is lost by it.
    ///
    /// It takes a view lease, a longest ttl and a token memory, 130 s by default, in which both the old and the new members have to agree. A
    /// new member that has just been started must first have kept its memory for a longest ttl.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] where another change is under way or was interrupted, or a majority of old or new members
    /// does not answer; [`ErrorKind::Lost`] where the changer lost its own lock. The members that are in force then are
    /// told by [`members`](Self::members).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the change may be under way: [`finish_change`](Self::finish_change) or
    /// [`undo_change`](Self::undo_change) ends it. Locks go on meanwhile.
    pub async fn change_members(&self, names: &[&str], told: impl Fn(ChangeStep) + Send + Sync) -> Result<()> {
        let present = self.0.read_view(Duration::ZERO).await?;
        let weight = |name: &str| {
            let known = present.membership.groups.iter().flatten().find(|member| member.name == name);
            known.map_or(1, |member| member.weight)
        };
        let members = names.iter().map(|name| Member { name: (*name).to_owned(), weight: weight(name) });
        self.change_to(members.collect(), told).await
    }

    /// Finishes a change that was interrupted; does nothing where none is under way.
    ///
    /// # Errors
    ///
    /// As [`change_members`](Self::change_members).
    ///
    /// # Cancel safety
    ///
    /// As [`change_members`](Self::change_members).
    pub async fn finish_change(&self, told: impl Fn(ChangeStep) + Send + Sync) -> Result<()> {
        self.settle(1, told).await
    }

    /// Undoes a change that was interrupted; does nothing where none is under way.
    ///
    /// # Errors
    ///
    /// As [`change_members`](Self::change_members).
    ///
    /// # Cancel safety
    ///
    /// As [`change_members`](Self::change_members).
    pub async fn undo_change(&self, told: impl Fn(ChangeStep) + Send + Sync) -> Result<()> {
        self.settle(0, told).await
    }

    async fn present(&self, needed: Option<&str>) -> Result<Vec<Member>> {
        let view = self.0.read_view(Duration::ZERO).await?;
        let members = view.membership.groups.last().cloned().unwrap_or_default();
        match needed.filter(|name| members.iter().all(|member| member.name != *name)) {
            Some(name) => Err(invalid(format!("{name:?} is no member: they are {}", view.membership))),
            None => Ok(members),
        }
    }

    pub(super) async fn change_to(&self, members: Vec<Member>, told: impl Fn(ChangeStep) + Send + Sync) -> Result<()> {
        if members.is_empty() {
            return Err(invalid("a quorum needs members: the last one cannot be removed"));
        }
        let guard = self.lock_change().await?;
        let view = self.0.read_view(Duration::ZERO).await?;
        if view.membership.is_joint() {
            let message = format!("a change of members was interrupted, {}: finish or undo it", view.membership);
            return Err(unavailable(message));
        }
        let present = view.membership.groups[0].clone();
        if present == members {
            return guard.release().await.map(|_| ());
        }
        self.0.wait_for_new(&members, &told).await?;
        let joint = self.0.begun(&view, vec![present, members.clone()]).await?;
        self.carry_out(guard, joint, members, told).await
    }

    async fn settle(&self, group: usize, told: impl Fn(ChangeStep) + Send + Sync) -> Result<()> {
        let guard = self.lock_change().await?;
        let view = self.0.read_view(Duration::ZERO).await?;
        if !view.membership.is_joint() {
            return guard.release().await.map(|_| ());
        }
        let members = view.membership.groups[group].clone();
        let joint = self.0.begun(&view, view.membership.groups.clone()).await?;
        self.carry_out(guard, joint, members, told).await
    }

    /// Writes the joint membership, waits, and writes the final one.
    async fn carry_out(
        &self,
        guard: Guard,
        joint: Membership,
        members: Vec<Member>,
        told: impl Fn(ChangeStep) + Send + Sync,
    ) -> Result<()> {
        let inner = &self.0;
        let last = Membership { epoch: joint.epoch + 4, groups: vec![members] };
        let both = inner.view_of(joint.clone()).await?;
        let begun = inner.env.now();
        inner.write_registers(&joint, &both).await?;
        inner.follow(joint, Some(begun)).await?;
        // A hundredth more than it has to be, for clocks that run at different rates.
        let wait = (inner.view_lease + inner.longest + inner.token_memory).mul_f64(1.02) + inner.node_timeout;
        told(ChangeStep::Joint { wait_ms: wait.as_millis() as u64 });
        tokio::select! {
            biased;
            loss = guard.lost() => {
                let message = format!("the lock on changes of members was lost ({loss}): finish or undo the change");
                return Err(Error::new(ErrorKind::Lost, message));
            }
            () = inner.env.sleep(wait) => {}
        }
        let (after, begun) = (inner.view_of(last.clone()).await?, inner.env.now());
        inner.write_registers(&last, &after).await?;
        // Those who are members no more tell it to whoever still asks them.
        if let Err(error) = inner.write_registers(&last, &both).await {
            tracing::debug!(%error, "not every former member was told");
        }
        inner.follow(last, Some(begun)).await?;
        told(ChangeStep::Done);
        guard.release().await.map(|_| ())
    }

    async fn lock_change(&self) -> Result<Guard> {
        let ttl = Duration::from_secs(30).min(self.0.longest);
        let locks = Locks::builder(Arc::new(self.clone())).env(self.0.env.clone()).build()?;
        let lock = locks.mutex(change_lock()).ttl(ttl).purpose("a change of members").build()?;
        lock.try_lock().await?.ok_or_else(|| unavailable("another change of members is under way: wait for its end"))
    }
}

impl Inner {
    /// The membership with which a change of that one begins. Its epoch is fixed before anything is written: whoever changes
    /// the members later has a later one, and the registers refuse this one then.
    async fn begun(self: &Arc<Self>, view: &View, groups: Vec<Vec<Member>>) -> Result<Membership> {
        let nodes = self.view_of(Membership { epoch: 0, groups: groups.clone() }).await?.nodes();
        let joint = Membership { epoch: self.next_epoch(view.membership.epoch, nodes).await?, groups };
        self.promise(&joint, &self.view_of(joint.clone()).await?).await?;
        // What was written before the promise is there to be read now.
        match self.read_view(Duration::ZERO).await?.membership == view.membership {
            true => Ok(joint),
            false => Err(unavailable("somebody else has just changed the members: look at them, and try again")),
        }
    }

    async fn view_of(&self, membership: Membership) -> Result<View> {
        let groups = self.numbers(&membership).await?;
        Ok(View { membership, groups, read_at: None })
    }

    /// Waits until the new members have kept their memory for long enough to vote, and so would not stand in the way.
    async fn wait_for_new(&self, members: &[Member], told: &(impl Fn(ChangeStep) + Send + Sync)) -> Result<()> {
        let groups = self.numbers(&Membership { epoch: 0, groups: vec![members.to_vec()] }).await?;
        for number in groups.into_iter().flatten() {
            let node = self.node(number);
            node.query(&self.env, self.node_timeout, node.store.ping()).await?;
            let mut is_told = false;
            while node.vote(self.env.wall(), self.longest, Duration::ZERO) == Weight::None {
                let kept = self.env.wall().saturating_sub(node.store.traits().kept_since);
                let left = self.longest.saturating_sub(Duration::from_micros(kept));
                if !std::mem::replace(&mut is_told, true) {
                    told(ChangeStep::NewMember { name: node.name.to_string(), wait_ms: left.as_millis() as u64 });
                }
                self.env.sleep(left.clamp(Duration::from_millis(1), Duration::from_secs(1))).await;
            }
        }
        Ok(())
    }
}
