//! One node, small enough to be copied into each state, that answers by the rule itself: for each operation it becomes
//! a [`Record`], and what the rule left of that is what it is afterwards.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tenure::proto::{Acquire, At, Claim, ClaimId, Entry, Grave, HandOver, NEVER, Op, Outcome, Record, Release, Renew};

/// The node's clock. It stands still, for tokens are proposed by clients, and a term passes when the model says so.
const NOW: u64 = 1;
/// How long a term is.
const TERM: Duration = Duration::from_secs(1);
/// For how long a grave is kept, and a token remembered: for ever.
const EVER: Duration = Duration::from_secs(1_000_000);

/// A claim's name here.
pub(crate) type Id = u8;

/// What a node knows of the one lock there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Node {
    /// The last token.
    pub(crate) fence: u8,
    pub(crate) holder: Option<Holder>,
    /// The ids that may not come back, a bit each.
    pub(crate) buried: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) id: Id,
    /// For how many terms it lasts.
    pub(crate) terms: u8,
    pub(crate) fence: u8,
}

/// What a client hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// The claim is in, under that token.
    In(u8),
    Out,
}

/// What a node can be asked, or what can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Acquire { id: Id, token: u8 },
    Renew { id: Id, terms: u8 },
    HandOver { id: Id, from: Id, token: u8, bury: bool },
    Release { id: Id, bury: bool },
    Expire,
}

impl Node {
    /// Asks for one term under that token; under none, the node mints one.
    pub(crate) fn acquire(&mut self, id: Id, token: u8) -> Answer {
        self.ask(Asked::Acquire { id, token })
    }

    pub(crate) fn renew(&mut self, id: Id, terms: u8) -> Answer {
        self.ask(Asked::Renew { id, terms })
    }

    /// The claim `from` becomes `id`, for one term and under that token.
    pub(crate) fn hand_over(&mut self, id: Id, from: Id, token: u8, bury: bool) -> Answer {
        self.ask(Asked::HandOver { id, from, token, bury })
    }

    pub(crate) fn release(&mut self, id: Id, bury: bool) {
        self.ask(Asked::Release { id, bury });
    }

    pub(crate) fn is_buried(&self, id: Id) -> bool {
        self.buried >> id & 1 == 1
    }

    /// Its holder's time has passed.
    pub(crate) fn expire(&mut self) {
        self.ask(Asked::Expire);
    }

    /// The rule's answers are kept: the same few are wanted for millions of states.
    fn ask(&mut self, asked: Asked) -> Answer {
        thread_local!(static KNOWN: RefCell<HashMap<(Node, Asked), (Node, Answer)>> = RefCell::default());
        let known = KNOWN.with_borrow_mut(|known| {
            *known.entry((*self, asked)).or_insert_with_key(|(node, asked)| node.after(*asked))
        });
        *self = known.0;
        known.1
    }

    fn after(&self, asked: Asked) -> (Self, Answer) {
        let id = |id: Id| ClaimId::new(id.into());
        let grave = |bury: bool| if bury { EVER } else { Duration::ZERO };
        let terms = self.holder.map_or(0, |holder| holder.terms);
        let (op, now) = match asked {
            Asked::Acquire { id: of, token } => {
                let claim = Acquire {
                    id: id(of),
                    claim: Claim::EXCLUSIVE,
                    ttl: TERM,
                    patience: Duration::ZERO,
                    owner: None,
                    max: 1,
                    memory: EVER,
                    meta: Bytes::new(),
                    fence: token.into(),
                };
                (Op::Acquire(claim), NOW)
            }
            Asked::Renew { id: of, terms } => {
                (Op::Renew(Renew { id: id(of), ttl: TERM * terms.into(), fence: 0 }), NOW)
            }
            Asked::HandOver { id: of, from, token, bury } => {
                let heir = HandOver {
                    id: id(of),
                    from: id(from),
                    bury: grave(bury),
                    ttl: TERM,
                    owner: None,
                    meta: Bytes::new(),
                    fence: token.into(),
                };
                (Op::HandOver(heir), NOW)
            }
            Asked::Release { id: of, bury } => (Op::Release(Release { id: id(of), bury: grave(bury), fence: 0 }), NOW),
            // Whatever is asked then, by anybody.
            Asked::Expire => {
                let nobody = Release { id: id(Id::MAX), bury: Duration::ZERO, fence: 0 };
                (Op::Release(nobody), NOW + micros(TERM) * u64::from(terms))
            }
        };
        let mut record = self.record();
        let (reply, _) = record.apply(&op, At { now, inbox: &"".into() });
        let answer = match reply.outcome {
            Outcome::Held { fence, .. } => Answer::In(fence as u8),
            _ => Answer::Out,
        };
        (Self::of(&record), answer)
    }

    fn record(&self) -> Record {
        let entry = |holder: Holder| Entry {
            id: ClaimId::new(holder.id.into()),
            owner: None,
            permits: Claim::ALL,
            since: NOW,
            until: NOW + micros(TERM) * u64::from(holder.terms),
            fence: holder.fence.into(),
            ticket: 0,
            inbox: "".into(),
            meta: Bytes::new(),
        };
        let grave = |id: Id| Grave { id: ClaimId::new(id.into()), until: NOW + micros(EVER) };
        Record {
            fence: self.fence.into(),
            limit: Claim::ALL,
            alarm: 0,
            memory: micros(EVER),
            expires: NEVER,
            holders: self.holder.map(entry).into_iter().collect(),
            buried: (0..8).filter(|id| self.is_buried(*id)).map(grave).collect(),
            ..Record::default()
        }
    }

    fn of(record: &Record) -> Self {
        assert!(record.holders.len() <= 1 && record.queue.is_empty(), "{record:?}");
        let id = |id: ClaimId| id.as_bytes()[15];
        let holder = |entry: &Entry| Holder {
            id: id(entry.id),
            terms: ((entry.until - NOW) / micros(TERM)) as u8,
            fence: entry.fence as u8,
        };
        Self {
            fence: record.fence as u8,
            holder: record.holders.first().map(holder),
            buried: record.buried.iter().fold(0, |all, grave| all | 1 << id(grave.id)),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
