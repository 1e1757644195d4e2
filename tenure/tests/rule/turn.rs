//! What an observer of a history sees and remembers, and how it counts.

use std::collections::{HashMap, HashSet};

use tenure::proto::{
    Acquire, ClaimId, Entry, Grant, HandOver, Inbox, Micros, Op, Outcome, Owner, Record, Refusal, Release, Was,
};

/// One operation, and all there is to see of it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) op: &'a Op,
    /// Whether it is a look, and nobody's operation,
    pub(crate) is_look: bool,
    /// before this one.
    pub(crate) next: &'a Op,
    pub(crate) now: Micros,
    pub(crate) inbox: &'a Inbox,
    /// The record as the operation found it.
    pub(crate) found: &'a Record,
    /// The same without the dead.
    pub(crate) before: &'a Record,
    pub(crate) after: &'a Record,
    pub(crate) outcome: Outcome,
    pub(crate) grants: &'a [Grant],
    /// What is known from the turns before this one.
    pub(crate) past: &'a Past,
}

/// What an observer remembers of a history.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The latest time.
    pub(crate) latest: Micros,
    /// The latest time that anybody's claim or grave was to last.
    pub(crate) until: Micros,
    /// The last fence.
    pub(crate) fence: u64,
    /// The last fence since the lock was last forgotten.
    pub(crate) remembered: u64,
    /// For how long the lock is to be remembered, as its users say.
    pub(crate) memory: Micros,
    /// The limit that each claim was made with.
    pub(crate) limits: HashMap<ClaimId, u32>,
    /// From where each claim was last asked for.
    pub(crate) inboxes: HashMap<ClaimId, Inbox>,
    /// Until when each id may not come back.
    pub(crate) buried: HashMap<ClaimId, Micros>,
    /// The claims that were told to wait when their owner was in, which it has been ever since.
    pub(crate) insiders: HashSet<ClaimId>,
    /// The claim that is in, and that this very operation is to hand over to one that is not.
    pub(crate) follows: Option<ClaimId>,
}

impl Past {
    pub(crate) fn hear(&mut self, op: &Op, now: Micros, inbox: &Inbox, found: &Record) {
        if found.expires <= now {
            self.remembered = 0;
        }
        self.latest = self.latest.max(now);
        self.buried.retain(|_, until| *until > now);
        if let Op::Acquire(acquire) = op {
            self.limits.insert(acquire.id, acquire.claim.limit());
            self.inboxes.insert(acquire.id, inbox.clone());
        }
        self.follows = None;
        if let Op::HandOver(HandOver { id, from, .. }) = op {
            if let Some(limit) = self.limits.get(from) {
                self.limits.insert(*id, *limit);
            }
            let is_in = |id: &ClaimId| found.holders.iter().any(|holder| holder.id == *id);
            self.follows = (is_in(from) && !is_in(id)).then_some(*from);
        }
    }

    pub(crate) fn see(&mut self, op: &Op, outcome: Outcome, now: Micros, after: &Record) {
        let entries = after.holders.iter().chain(&after.queue).map(|entry| entry.until);
        let untils = entries.chain(after.buried.iter().map(|grave| grave.until));
        self.until = untils.max().unwrap_or(0).max(self.until);
        self.remembered = after.holders.iter().map(|holder| holder.fence).max().unwrap_or(0).max(self.remembered);
        self.fence = self.fence.max(self.remembered);
        if let Op::Release(Release { id, bury, .. }) = op
            && !bury.is_zero()
        {
            let until = self.buried.entry(*id).or_default();
            *until = (now + bury.as_micros() as Micros).max(*until);
        }
        if let (Op::HandOver(HandOver { from, bury, .. }), Outcome::Held { .. }) = (op, outcome)
            && self.follows.is_some()
            && !bury.is_zero()
        {
            self.buried.insert(*from, now + bury.as_micros() as Micros);
        }
        if let (Op::Acquire(_), Outcome::Busy { .. }) = (op, outcome) {
            self.insiders.insert(op.id());
        }
        self.insiders.retain(|id| after.queue.iter().any(|place| place.id == *id && is_in(after, &place.owner)));
    }
}

impl Turn<'_> {
    /// Whether that claim has been handed over by it.
    pub(crate) fn hands_over(&self, id: ClaimId) -> bool {
        matches!(self.outcome, Outcome::Held { .. }) && self.past.follows == Some(id)
    }

    /// Whether that claim entered in the place of another.
    pub(crate) fn is_heir(&self, id: ClaimId) -> bool {
        id == self.op.id() && self.past.follows.is_some()
    }
}

/// The record without those whose time has passed.
pub(crate) fn living(record: &Record, now: Micros) -> Record {
    let mut record = record.clone();
    let living = |entry: &Entry| entry.until > now;
    record.holders.retain(living);
    record.queue.retain(living);
    record.buried.retain(|grave| grave.until > now);
    record
}

/// Whether that owner has a claim in.
pub(crate) fn is_in(record: &Record, owner: &Option<Owner>) -> bool {
    owner.is_some() && record.holders.iter().any(|holder| holder.owner == *owner)
}

/// Whether that claim is in, and its owner has others.
pub(crate) fn is_shared(record: &Record, id: ClaimId) -> bool {
    let all = || record.holders.iter().chain(&record.queue);
    let old = record.holders.iter().find(|entry| entry.id == id);
    old.is_some_and(|old| all().any(|other| other.id != id && same_owner(other, &old.owner)))
}

/// Whoever is in after the turn and was not before, in the order of grants, each with those who were in at that moment.
pub(crate) fn entrants<'a>(turn: &Turn<'a>) -> impl Iterator<Item = (&'a Entry, &'a [Entry])> + use<'a> {
    let stayed =
        turn.before.holders.iter().filter(|entry| turn.after.holders.iter().any(|now| now.id == entry.id)).count();
    let holders = &turn.after.holders;
    (stayed..holders.len()).map(move |n| (&holders[n], &holders[..n]))
}

/// Who stands ahead of that claim; of a newcomer, everyone who waits.
pub(crate) fn ahead(record: &Record, id: ClaimId) -> impl Iterator<Item = &Entry> {
    record.queue.iter().take_while(move |place| place.id != id)
}

pub(crate) fn untils(record: &Record) -> impl Iterator<Item = u64> {
    let entries = record.holders.iter().chain(&record.queue).map(|entry| entry.until);
    entries.chain(record.buried.iter().map(|grave| grave.until))
}

pub(crate) fn is_empty(record: &Record) -> bool {
    record.holders.is_empty() && record.queue.is_empty()
}

pub(crate) fn same_owner(entry: &Entry, owner: &Option<Owner>) -> bool {
    owner.is_some() && entry.owner == *owner
}

pub(crate) fn fits_claim(record: &Record, asked: &Acquire) -> bool {
    fits(record, &asked.owner, asked.claim.permits()) || is_empty(record)
}

/// Whether the limit would still hold with that claim in.
pub(crate) fn fits(record: &Record, owner: &Option<Owner>, permits: u32) -> bool {
    let others: Vec<_> = record.holders.iter().filter(|holder| !same_owner(holder, owner)).cloned().collect();
    let own = record.holders.iter().filter(|holder| same_owner(holder, owner)).map(|holder| holder.permits);
    weight(&others) + u64::from(own.max().unwrap_or(0).max(permits)) <= u64::from(record.limit)
}

/// How many permits the holders have together: each owner as many as the largest of its claims.
pub(crate) fn weight(holders: &[Entry]) -> u64 {
    let counts = |n: &usize| {
        let outweighs = |m: usize, other: &Entry| {
            same_owner(other, &holders[*n].owner) && (other.permits, m) > (holders[*n].permits, *n)
        };
        !holders.iter().enumerate().any(|(m, other)| outweighs(m, other))
    };
    (0..holders.len()).filter(counts).map(|n| u64::from(holders[n].permits)).sum()
}

/// The answers that a history should come upon; see `every_answer_comes_up`.
pub(crate) fn name_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Held { .. } => "held",
        Outcome::Busy { .. } => "busy",
        Outcome::Gone { was: Was::Holding } => "was holding",
        Outcome::Gone { was: Was::Waiting } => "was waiting",
        Outcome::Gone { was: Was::Unknown } => "was unknown",
        Outcome::Refused(Refusal::Mismatch { .. }) => "mismatch",
        Outcome::Refused(Refusal::Deadlock) => "deadlock",
        Outcome::Refused(Refusal::Full) => "full",
        Outcome::Refused(Refusal::Buried) => "buried",
    }
}
