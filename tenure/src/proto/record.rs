//! The rule. A claim of `permits` out of `limit` enters when it fits beside everyone in and everyone ahead.
//!
//! ```text
//!   holders (in)          queue (waiting, oldest first)
//!   ┌──────────┐          ┌─────┬─────┬─────┐
//!   │ r   r  r │   <───   │  w  │  r  │  r  │
//!   └──────────┘          └─────┴─────┴─────┘
//! ```
//!
//! Each operation does three things in this order, and `store/redis/apply.lua` does the same three, section by section:
//!
//! 1. *sweep*: drop whoever's time has passed, holder or waiting, wherever in the queue;
//! 2. *let in*: move the heads that now fit from the queue to the holders, and say whom to tell;
//! 3. *answer* the operation itself, in `answer.rs`.
//!
//! After step 2 the head does not fit, so nobody behind it does either: a newcomer enters only where the queue is
//! empty. The one exception is an owner that is in already. It does not stand behind the queue, for it would wait for
//! those who wait for it; if what it asks for does not fit yet (a reader that wants to write), its place is the front.
//! A place that was taken before its owner was in moves up when it asks again.
//!
//! Claims of one owner do not exclude each other, so they count together as the largest of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Micros;
use super::entry::{Entry, Grave, NEVER};
use super::op::{Grant, Inbox, Op, Owner, Reply};

/// One lock. The default is a lock that nobody has used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The last fence that was minted.
    pub fence: u64,
    /// Out of how many permits the present claims are; of no meaning while there are none.
    pub limit: u32,
    /// The number of the last place given at the back of the queue.
    pub ticket: i64,
    /// Nobody's time passes before this: until then there is nothing to sweep. A lower bound, exact after a sweep.
    pub alarm: Micros,
    /// How long the lock is remembered once it is empty, in microseconds.
    pub memory: Micros,
    /// When the store may forget the whole record. Everyone's time in it has passed by then, and so has the last fence,
    /// which is ahead of a clock that went back: the next one is later though nothing tells of the last.
    pub expires: Micros,
    /// Who is in, in the order of grants.
    pub holders: Vec<Entry>,
    /// Who waits, the head first.
    pub queue: Vec<Entry>,
    /// Ids that were released while a request for them was still under way.
    pub buried: Vec<Grave>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            fence: 0,
            limit: 0,
            ticket: 0,
            alarm: NEVER,
            memory: 0,
            expires: 0,
            holders: Vec::new(),
            queue: Vec::new(),
            buried: Vec::new(),
        }
    }
}

/// When and for whom an operation is carried out.
#[derive(Clone, Debug)]
pub struct At<'a> {
    /// The store's clock.
    pub now: Micros,
    /// Where the process that asks can be told of a grant.
    pub inbox: &'a Inbox,
}

impl Record {
    /// Carries out `op`, and says whom to tell that they were let in by it.
    ///
    /// The record is changed in place; where the answer changed nothing it compares equal to what it was.
    pub fn apply(&mut self, op: &Op, at: At<'_>) -> (Reply, Vec<Grant>) {
        let now = at.now;
        self.sweep(now);
        let mut grants = self.let_in(now);
        let outcome = self.answer(op, at);
        // Leaving makes room for the next, and a claim that has just left needs no telling.
        grants.retain(|grant| grant.id != op.id() && self.holders.iter().any(|holder| holder.id == grant.id));
        grants.extend(self.let_in(now));
        (Reply { outcome, now }, grants)
    }

    /// The record as it stands at `now`, with everyone gone whose time has passed. Nobody is let in by looking.
    pub fn seen_at(mut self, now: Micros) -> Self {
        self.sweep(now);
        self
    }

    /// Whether nobody is in and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty()
    }

    // -- 1. sweep ------------------------------------------------------------------------------------------------

    fn sweep(&mut self, now: Micros) {
        if self.expires <= now {
            *self = Self::default();
        }
        if now < self.alarm {
            return;
        }
        let in_use = !self.is_empty();
        self.holders.retain(|entry| entry.until > now);
        self.queue.retain(|entry| entry.until > now);
        self.buried.retain(|grave| grave.until > now);
        let times = self.holders.iter().chain(&self.queue).map(|entry| entry.until);
        self.alarm = times.chain(self.buried.iter().map(|grave| grave.until)).min().unwrap_or(NEVER);
        if in_use {
            self.forget_soon_if_empty(now);
        }
    }

    // -- 2. let in -----------------------------------------------------------------------------------------------

    fn let_in(&mut self, now: Micros) -> Vec<Grant> {
        let mut grants = Vec::new();
        while let Some(head) = self.queue.first() {
            if !self.fits(head.owner.as_ref(), head.permits) {
                break;
            }
            let head = self.queue.remove(0);
            let (id, inbox) = (head.id, head.inbox.clone());
            let fence = self.enter(Entry { since: now, ..head }, now);
            grants.push(Grant { id, fence, inbox });
        }
        grants
    }

    /// Whether a claim fits beside everyone in. Callers see to everyone ahead.
    pub(super) fn fits(&self, owner: Option<&Owner>, permits: u32) -> bool {
        self.weight_of_others(owner) + u64::from(permits) <= u64::from(self.limit)
    }

    /// What is taken by everyone else: each owner counts as its largest claim.
    fn weight_of_others(&self, owner: Option<&Owner>) -> u64 {
        let mut strangers = 0;
        let mut largest: BTreeMap<&Owner, u64> = BTreeMap::new();
        for entry in self.holders.iter().filter(|entry| !entry.is_of(owner)) {
            let permits = u64::from(entry.permits);
            match &entry.owner {
                None => strangers += permits,
                Some(other) => {
                    let most = largest.entry(other).or_default();
                    *most = permits.max(*most);
                }
            }
        }
        strangers + largest.values().sum::<u64>()
    }

    /// Puts a claim among the holders, under a token of its own, not before `least`, or of its owner's where it asks for
    /// nothing new.
    pub(super) fn enter(&mut self, entry: Entry, least: u64) -> u64 {
        let shared = self.holders_of(entry.owner.as_ref()).any(|other| other.permits >= entry.permits);
        let fence = if shared {
            self.holders_of(entry.owner.as_ref()).map(|other| other.fence).max().unwrap_or_default()
        } else {
            self.mint(least)
        };
        self.expect(entry.until);
        self.holders.push(Entry { fence, ..entry });
        fence
    }

    /// A token later than any so far, and not before `least`.
    pub(super) fn mint(&mut self, least: u64) -> u64 {
        self.fence = (self.fence + 1).max(least);
        self.fence
    }

    pub(super) fn holders_of<'a>(&'a self, owner: Option<&'a Owner>) -> impl Iterator<Item = &'a Entry> {
        self.holders.iter().filter(move |entry| entry.is_of(owner))
    }

    // -- when to look again ------------------------------------------------------------------------------------------

    /// Notes that a claim's time passes at `until`.
    pub(super) fn expect(&mut self, until: Micros) {
        self.alarm = self.alarm.min(until);
        self.expires = self.expires.max(self.remembered_after(until));
    }

    pub(super) fn forget_soon_if_empty(&mut self, now: Micros) {
        if self.is_empty() {
            let graves = self.buried.iter().map(|grave| grave.until).max().unwrap_or(0);
            self.expires = graves.max(self.remembered_after(now));
        }
    }

    /// Until when the last fence is remembered if the lock is last used at `last`.
    fn remembered_after(&self, last: Micros) -> Micros {
        last.max(self.fence + 1) + self.memory
    }
}
