//! A lock to tell stories with. A letter is a claim; a picture of the lock has those who are in before the bar and
//! those who wait, head first, behind it. Time passes in whole seconds.

use std::time::Duration;

use bytes::Bytes;
use tenure::proto::{
    Acquire, At, Claim, ClaimId, Entry, HandOver, Inbox, Micros, Op, Outcome, Owner, Record, Release, Renew, Was,
};

pub(crate) const SECOND: Micros = 1_000_000;
pub(crate) const START: Micros = 1_000 * SECOND;

/// The fence of what is let in at the start, or so many seconds after it.
pub(crate) const fn at(seconds: u64) -> u64 {
    START + seconds * SECOND
}

#[derive(Clone)]
pub(crate) struct Lock {
    pub(crate) record: Record,
    pub(crate) now: Micros,
    /// Everyone who was told of a grant.
    pub(crate) told: String,
}

impl Lock {
    pub(crate) fn new() -> Self {
        Self { record: Record::default(), now: START, told: String::new() }
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Outcome {
        let (reply, grants) = self.record.apply(op, At { now: self.now, inbox: &Inbox::from("here") });
        self.told.extend(grants.iter().map(|grant| letter(grant.id)));
        reply.outcome
    }

    pub(crate) fn ask(&mut self, claim: &Acquire) -> Outcome {
        self.apply(&Op::Acquire(claim.clone()))
    }

    /// Asks for what must be granted, and returns its fence.
    pub(crate) fn enter(&mut self, claim: &Acquire) -> u64 {
        match self.ask(claim) {
            Outcome::Held { fence, .. } => fence,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for what must wait, and returns how many are told to be ahead.
    pub(crate) fn wait(&mut self, claim: &Acquire) -> u32 {
        match self.ask(claim) {
            Outcome::Busy { ahead, .. } => ahead,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn renew(&mut self, name: char) -> Outcome {
        self.apply(&Op::Renew(Renew { id: id(name), ttl: Duration::from_secs(10), fence: 0 }))
    }

    pub(crate) fn release(&mut self, name: char) -> Was {
        self.bury(name, 0)
    }

    pub(crate) fn bury(&mut self, name: char, seconds: u64) -> Was {
        match self.apply(&Op::Release(Release { id: id(name), bury: Duration::from_secs(seconds), fence: 0 })) {
            Outcome::Gone { was } => was,
            other => panic!("{other:?}"),
        }
    }

    /// The claim `from` becomes `to`, which is that owner's, for twenty seconds; the old id is refused for five.
    pub(crate) fn hand_over(&mut self, from: char, to: char, owner: &str) -> Outcome {
        let (bury, ttl) = (Duration::from_secs(5), Duration::from_secs(20));
        let (owner, meta) = (Some(Owner::new(owner)), Bytes::from_static(b"heir"));
        self.apply(&Op::HandOver(HandOver { id: id(to), from: id(from), bury, ttl, owner, meta, fence: 0 }))
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
    }

    pub(crate) fn picture(&self) -> String {
        let letters = |entries: &[Entry]| entries.iter().map(|entry| letter(entry.id)).collect::<String>();
        format!("{}|{}", letters(&self.record.holders), letters(&self.record.queue))
    }
}

pub(crate) fn id(name: char) -> ClaimId {
    ClaimId::new(u128::from(name))
}

pub(crate) fn letter(id: ClaimId) -> char {
    char::from(id.as_bytes()[15])
}

/// A claim that lasts ten seconds and waits for three at a time.
pub(crate) fn claim(name: char, claim: Claim) -> Acquire {
    Acquire {
        id: id(name),
        claim,
        ttl: Duration::from_secs(10),
        patience: Duration::from_secs(3),
        owner: None,
        max: 16,
        memory: Duration::from_secs(60),
        meta: Bytes::new(),
        fence: 0,
    }
}

pub(crate) fn mutex(name: char) -> Acquire {
    claim(name, Claim::EXCLUSIVE)
}

pub(crate) fn writer(name: char) -> Acquire {
    claim(name, Claim::EXCLUSIVE)
}

pub(crate) fn reader(name: char) -> Acquire {
    claim(name, Claim::SHARED)
}

/// So many permits of a semaphore of three.
pub(crate) fn permits(name: char, permits: u32) -> Acquire {
    claim(name, Claim::new(permits, 3).expect("at most three"))
}

pub(crate) fn of(owner: &str, claim: Acquire) -> Acquire {
    Acquire { owner: Some(Owner::new(owner)), ..claim }
}
