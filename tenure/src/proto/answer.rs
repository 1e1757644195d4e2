//! The third part of the rule: the answer to an operation, once the record was swept and the heads were let in.

use std::time::Duration;

use super::entry::{Entry, Grave};
use super::op::{Acquire, ClaimId, HandOver, Op, Outcome, Owner, Refusal, Release, Renew, Was};
use super::record::{At, Record};
use super::{Micros, micros};

/// How far a token may be ahead of the last one and of the clock: a second's worth of hand-overs, one each microsecond.
const SLACK: u64 = 1_000_000;

impl Record {
    /// Carries out the operation itself.
    pub(super) fn answer(&mut self, op: &Op, at: At<'_>) -> Outcome {
        match op {
            Op::Acquire(acquire) => self.acquire(acquire, at),
            Op::Renew(renew) => self.renew(renew, at.now),
            Op::Release(release) => self.release(release, at.now),
            Op::HandOver(hand_over) => self.hand_over(hand_over, at),
        }
    }

    fn acquire(&mut self, op: &Acquire, at: At<'_>) -> Outcome {
        let now = at.now;
        if self.is_buried(op.id) {
            return Outcome::Refused(Refusal::Buried);
        }
        if self.holders.iter().any(|entry| entry.id == op.id) {
            self.memory = micros(op.memory);
            self.propose(op.id, op.fence);
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
            let fence = self.enter(self.entry(op, &at, until, self.ticket), if op.fence > 0 { op.fence } else { now });
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
        self.bury(op.id, op.bury, now);
        if was != Was::Unknown {
            self.forget_soon_if_empty(now);
        }
        Outcome::Gone { was }
    }

    fn hand_over(&mut self, op: &HandOver, at: At<'_>) -> Outcome {
        let now = at.now;
        if self.is_buried(op.id) {
            return Outcome::Refused(Refusal::Buried);
        }
        if self.holders.iter().any(|entry| entry.id == op.id) {
            self.propose(op.id, op.fence);
            return self.extend(op.id, op.ttl, now);
        }
        let Some(n) = self.holders.iter().position(|entry| entry.id == op.from) else {
            return Outcome::Gone { was: Was::Unknown };
        };
        // Alone, it leaves as much room as the heir needs, and nobody is overtaken.
        if self.claims_of(self.holders[n].owner.as_ref()) > 1 {
            return self.busy(self.ticket + 1, now);
        }
        let old = self.holders.remove(n);
        self.queue.retain(|entry| entry.id != op.id);
        self.bury(op.from, op.bury, now);
        let fence = self.mint(if op.fence > 0 { op.fence } else { now });
        let (until, owner, inbox, meta) = (now + micros(op.ttl), op.owner.clone(), at.inbox.clone(), op.meta.clone());
        self.expect(until);
        self.holders.push(Entry { id: op.id, owner, since: now, until, fence, inbox, meta, ..old });
        Outcome::Held { fence, since: now, until, waiting: self.queue.len() as u32 }
    }

    // -- what the answers rest on ----------------------------------------------------------------------------------

    /// Takes over the token under which a holder was followed by another one without our knowledge. When it was minted it
    /// was not ahead of the clock, which may have been set back since; but each adds only one, so that one which is ahead of
    /// both by much was not minted by a client of ours.
    fn catch_up(&mut self, id: ClaimId, fence: u64, now: Micros) {
        let holder = self.holders.iter_mut().find(|entry| entry.id == id);
        if let Some(entry) = holder.filter(|_| fence > self.fence && fence <= now.max(self.fence + SLACK)) {
            (entry.fence, self.fence) = (fence, fence);
        }
    }

    /// A holder takes over a token that is later than the last.
    fn propose(&mut self, id: ClaimId, fence: u64) {
        let holder = self.holders.iter_mut().find(|entry| entry.id == id);
        if let Some(entry) = holder.filter(|_| fence > self.fence) {
            (entry.fence, self.fence) = (fence, fence);
        }
    }

    fn is_buried(&self, id: ClaimId) -> bool {
        self.buried.iter().any(|grave| grave.id == id)
    }

    /// Refuses the id for that long, or for as long as it is refused already.
    fn bury(&mut self, id: ClaimId, bury: Duration, now: Micros) {
        if bury.is_zero() {
            return;
        }
        let until = now + micros(bury);
        match self.buried.iter_mut().find(|grave| grave.id == id) {
            Some(grave) => grave.until = grave.until.max(until),
            None => self.buried.push(Grave { id, until }),
        }
        self.alarm = self.alarm.min(until);
        self.expires = self.expires.max(until);
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

    pub(crate) fn claims_of(&self, owner: Option<&Owner>) -> usize {
        self.holders.iter().chain(&self.queue).filter(|entry| entry.is_of(owner)).count()
    }

    fn is_in(&self, owner: Option<&Owner>) -> bool {
        self.holders_of(owner).next().is_some()
    }
}
