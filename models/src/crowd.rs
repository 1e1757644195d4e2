//! A node that several claims are in at, or wait at, and that answers by the rule itself, as `node.rs` does for one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tenure::proto::{Acquire, At, Claim, ClaimId, Entry, NEVER, Op, Outcome, Record, Release};

use crate::node::Id;

/// How many may be in, and how many may wait.
const MOST: usize = 3;
/// The node's clock stands still: that a claim's time has passed is an event, and what it does is a release.
const NOW: u64 = 1;
const TERM: Duration = Duration::from_secs(1);

/// What a node knows of the one lock there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Crowd {
    /// The last token.
    pub(crate) fence: u8,
    /// Who is in, and under which tokens.
    holders: [Option<(Id, u8)>; MOST],
    queue: [Option<Id>; MOST],
}

/// What a client hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// The claim is in, under that token.
    In(u8),
    /// It stands in the queue.
    Waits,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Acquire { id: Id, token: u8, waits: bool },
    Release { id: Id },
}

impl Crowd {
    /// Asks for one permit out of `limit` under that token; under none, the node mints one.
    pub(crate) fn acquire(&mut self, limit: u32, id: Id, token: u8, waits: bool) -> Answer {
        self.ask(limit, Asked::Acquire { id, token, waits })
    }

    /// By its client's will, or because its time has passed.
    pub(crate) fn release(&mut self, limit: u32, id: Id) {
        self.ask(limit, Asked::Release { id });
    }

    /// The token under which a claim is in.
    pub(crate) fn token(&self, id: Id) -> Option<u8> {
        self.holders.iter().flatten().find(|(other, _)| *other == id).map(|(_, token)| *token)
    }

    /// Everyone who is in or waits.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> {
        let holders = self.holders.into_iter().flatten().map(|(id, _)| id);
        holders.chain(self.queue.into_iter().flatten())
    }

    /// The rule's answers are kept: the same few are wanted for millions of states.
    fn ask(&mut self, limit: u32, asked: Asked) -> Answer {
        type Known = HashMap<(Crowd, u32, Asked), (Crowd, Answer)>;
        thread_local!(static KNOWN: RefCell<Known> = RefCell::default());
        let known = KNOWN.with_borrow_mut(|known| {
            *known.entry((*self, limit, asked)).or_insert_with_key(|(node, limit, asked)| node.after(*limit, *asked))
        });
        *self = known.0;
        known.1
    }

    fn after(&self, limit: u32, asked: Asked) -> (Self, Answer) {
        let claim = Claim::new(1, limit).expect("one permit is in any limit");
        let op = match asked {
            Asked::Acquire { id, token, waits } => Op::Acquire(Acquire {
                id: ClaimId::new(id.into()),
                claim: if limit == 1 { Claim::EXCLUSIVE } else { claim },
                ttl: TERM,
                patience: if waits { TERM } else { Duration::ZERO },
                owner: None,
                max: 1,
                memory: TERM,
                meta: Bytes::new(),
                fence: token.into(),
            }),
            Asked::Release { id } => {
                Op::Release(Release { id: ClaimId::new(id.into()), bury: Duration::ZERO, fence: 0 })
            }
        };
        let mut record = self.record(limit);
        let (reply, _) = record.apply(&op, At { now: NOW, inbox: &"".into() });
        let answer = match (reply.outcome, asked) {
            (Outcome::Held { fence, .. }, _) => Answer::In(fence as u8),
            (Outcome::Busy { .. }, Asked::Acquire { waits: true, .. }) => Answer::Waits,
            _ => Answer::Out,
        };
        (Self::of(&record), answer)
    }

    fn record(&self, limit: u32) -> Record {
        let permits = if limit == 1 { Claim::ALL } else { 1 };
        let entry = |(place, (id, fence)): (usize, (Id, u8))| Entry {
            id: ClaimId::new(id.into()),
            owner: None,
            permits,
            since: NOW,
            until: NOW + TERM.as_micros() as u64,
            fence: fence.into(),
            ticket: place as i64,
            inbox: "".into(),
            meta: Bytes::new(),
        };
        Record {
            fence: self.fence.into(),
            limit: if limit == 1 { Claim::ALL } else { limit },
            expires: NEVER,
            holders: self.holders.into_iter().flatten().enumerate().map(entry).collect(),
            queue: self.queue.into_iter().flatten().map(|id| (id, 0)).enumerate().map(entry).collect(),
            ticket: MOST as i64,
            ..Record::default()
        }
    }

    fn of(record: &Record) -> Self {
        assert!(record.holders.len() <= MOST && record.queue.len() <= MOST, "{record:?}");
        let id = |entry: &Entry| entry.id.as_bytes()[15];
        let mut crowd = Self { fence: record.fence as u8, ..Self::default() };
        for (slot, entry) in crowd.holders.iter_mut().zip(&record.holders) {
            *slot = Some((id(entry), entry.fence as u8));
        }
        for (slot, entry) in crowd.queue.iter_mut().zip(&record.queue) {
            *slot = Some(id(entry));
        }
        // In which order they came in makes no difference to anybody.
        crowd.holders.sort_unstable();
        crowd
    }
}
