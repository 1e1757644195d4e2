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
//! 3. *answer* the operation itself.
//!
//! After step 2 the head does not fit, so nobody behind it does either: a newcomer enters only where the queue is
//! empty. The one exception is an owner that is in already. It does not stand behind the queue, for it would wait for
//! those who wait for it; if what it asks for does not fit yet (a reader that wants to write), its place is the front.
//! A place that was taken before its owner was in moves up when it asks again.
//!
//! Claims of one owner do not exclude each other, so they count together as the largest of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Grave, NEVER};
use super::op::{Acquire, ClaimId, Grant, Inbox, Op, Outcome, Owner, Refusal, Release, Renew, Reply, Was};
use super::{Micros, micros};

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
        let outcome = match op {
            Op::Acquire(acquire) => self.acquire(acquire, at),
            Op::Renew(renew) => self.renew(renew, now),
            Op::Release(release) => self.release(release, now),
        };
        // Leaving makes room for the next, and a claim that has just left needs no telling.
        grants.retain(|grant| grant.id != op.id());
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
    fn fits(&self, owner: Option<&Owner>, permits: u32) -> bool {
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

    /// Puts a claim among the holders, under a token of its own, or of its owner's where it asks for nothing new.
    fn enter(&mut self, entry: Entry, now: Micros) -> u64 {
        let shared = self.holders_of(entry.owner.as_ref()).any(|other| other.permits >= entry.permits);
        let fence = if shared {
            self.holders_of(entry.owner.as_ref()).map(|other| other.fence).max().unwrap_or_default()
        } else {
            self.fence = (self.fence + 1).max(now);
            self.fence
        };
        self.expect(entry.until);
        self.holders.push(Entry { fence, ..entry });
        fence
    }

    fn holders_of<'a>(&'a self, owner: Option<&'a Owner>) -> impl Iterator<Item = &'a Entry> {
        self.holders.iter().filter(move |entry| entry.is_of(owner))
    }

    // -- 3. answer -----------------------------------------------------------------------------------------------

    fn acquire(&mut self, op: &Acquire, at: At<'_>) -> Outcome {
        let now = at.now;
        if self.buried.iter().any(|grave| grave.id == op.id) {
            return Outcome::Refused(Refusal::Buried);
        }
        if self.holders.iter().any(|entry| entry.id == op.id) {
            self.memory = micros(op.memory);
            return self.extend(op.id, op.ttl, now);
        }
        if !self.is_empty() && self.limit != op.claim.limit() {
            return Outcome::Refused(Refusal::Mismatch { limit: self.limit });
        }
        let place = self.queue.iter().position(|entry| entry.id == op.id);
        let owner = op.owner.as_ref();
        if place.is_none() && self.claims_of(owner) >= op.max as usize && owner.is_some() {
            return Outcome::Refused(Refusal::Full);
        }

        let is_in = self.is_in(owner);
        if self.is_empty() {
            self.limit = op.claim.limit();
        }
        if (is_in || self.queue.is_empty()) && self.fits(owner, op.claim.permits()) {
            self.memory = micros(op.memory);
            if let Some(place) = place {
                self.queue.remove(place);
            }
            let until = now + micros(op.ttl);
            let fence = self.enter(self.entry(op, &at, until, self.ticket), now);
            return Outcome::Held { fence, since: now, until, waiting: self.queue.len() as u32 };
        }
        self.wait(op, &at, place, is_in)
    }

    fn wait(&mut self, op: &Acquire, at: &At<'_>, place: Option<usize>, is_in: bool) -> Outcome {
        let now = at.now;
        let another_inside = |head: &Entry| head.owner != op.owner && self.is_in(head.owner.as_ref());
        if is_in && self.queue.first().is_some_and(another_inside) {
            if let Some(place) = place {
                self.queue.remove(place);
            }
            return Outcome::Refused(Refusal::Deadlock);
        }
        if op.patience.is_zero() {
            let ticket = place.map_or(self.ticket + 1, |place| self.queue.remove(place).ticket);
            return self.busy(ticket, now);
        }
        self.memory = micros(op.memory);
        let until = now + micros(op.patience);
        self.expect(until);
        let ticket = match place {
            Some(place) if !is_in || self.queue[0].owner == op.owner => {
                let entry = &mut self.queue[place];
                entry.until = entry.until.max(until);
                entry.inbox = at.inbox.clone();
                entry.ticket
            }
            _ => {
                // An owner that is in stands at the front, everyone else at the back.
                let old = place.map(|place| self.queue.remove(place));
                let (since, until) = old.map_or((now, until), |old| (old.since, old.until.max(until)));
                let front = is_in.then(|| self.queue.first().map(|head| head.ticket - 1)).flatten();
                let ticket = front.unwrap_or(self.ticket + 1);
                self.ticket = self.ticket.max(ticket);
                let entry = Entry { since, ..self.entry(op, at, until, ticket) };
                self.queue.insert(if front.is_some() { 0 } else { self.queue.len() }, entry);
                ticket
            }
        };
        self.busy(ticket, now)
    }

    fn renew(&mut self, op: &Renew, now: Micros) -> Outcome {
        self.catch_up(op.id, op.fence, now);
        if self.holders.iter().any(|entry| entry.id == op.id) {
            return self.extend(op.id, op.ttl, now);
        }
        let waits = self.queue.iter().any(|entry| entry.id == op.id);
        Outcome::Gone { was: if waits { Was::Waiting } else { Was::Unknown } }
    }

    fn release(&mut self, op: &Release, now: Micros) -> Outcome {
        self.catch_up(op.id, op.fence, now);
        let (holders, queue) = (self.holders.len(), self.queue.len());
        self.holders.retain(|entry| entry.id != op.id);
        self.queue.retain(|entry| entry.id != op.id);
        let was = match () {
            () if self.holders.len() < holders => Was::Holding,
            () if self.queue.len() < queue => Was::Waiting,
            () => Was::Unknown,
        };
        if !op.bury.is_zero() {
            let until = now + micros(op.bury);
            match self.buried.iter_mut().find(|grave| grave.id == op.id) {
                Some(grave) => grave.until = grave.until.max(until),
                None => self.buried.push(Grave { id: op.id, until }),
            }
            self.alarm = self.alarm.min(until);
            self.expires = self.expires.max(until);
        }
        if was != Was::Unknown {
            self.forget_soon_if_empty(now);
        }
        Outcome::Gone { was }
    }

    // -- what the answers rest on ----------------------------------------------------------------------------------

    /// Takes over the token under which a holder was followed by another one without our knowledge. It is never ahead of
    /// the clock, so one that is was not minted by a client of ours.
    fn catch_up(&mut self, id: ClaimId, fence: u64, now: Micros) {
        let holder = self.holders.iter_mut().find(|entry| entry.id == id);
        if let Some(entry) = holder.filter(|_| fence > self.fence && fence <= now) {
            (entry.fence, self.fence) = (fence, fence);
        }
    }

    fn extend(&mut self, id: ClaimId, ttl: Duration, now: Micros) -> Outcome {
        let waiting = self.queue.len() as u32;
        let Some(entry) = self.holders.iter_mut().find(|entry| entry.id == id) else {
            return Outcome::Gone { was: Was::Unknown };
        };
        entry.until = entry.until.max(now + micros(ttl));
        let (fence, since, until) = (entry.fence, entry.since, entry.until);
        self.expect(until);
        Outcome::Held { fence, since, until, waiting }
    }

    fn busy(&self, ticket: i64, now: Micros) -> Outcome {
        let ahead = self.queue.first().map_or(0, |head| (ticket - head.ticket).max(0));
        Outcome::Busy { ahead: ahead as u32, retry_in: Duration::from_micros(self.alarm.saturating_sub(now)) }
    }

    fn entry(&self, op: &Acquire, at: &At<'_>, until: Micros, ticket: i64) -> Entry {
        Entry {
            id: op.id,
            owner: op.owner.clone(),
            permits: op.claim.permits(),
            since: at.now,
            until,
            fence: 0,
            ticket,
            inbox: at.inbox.clone(),
            meta: op.meta.clone(),
        }
    }

    fn claims_of(&self, owner: Option<&Owner>) -> usize {
        self.holders.iter().chain(&self.queue).filter(|entry| entry.is_of(owner)).count()
    }

    fn is_in(&self, owner: Option<&Owner>) -> bool {
        self.holders_of(owner).next().is_some()
    }

    /// Notes that a claim's time passes at `until`.
    fn expect(&mut self, until: Micros) {
        self.alarm = self.alarm.min(until);
        self.expires = self.expires.max(self.remembered_after(until));
    }

    fn forget_soon_if_empty(&mut self, now: Micros) {
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
