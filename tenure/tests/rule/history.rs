//! Random histories of one lock: a few clients that ask, come back, give up, die, and whose messages arrive late and twice.
//!
//! A history is data, so that a failing one shrinks. [`History::play`] carries it out and shows each [`Turn`] of it. Before
//! each operation somebody looks (releases a claim that nobody ever made), so that what time alone does to the lock, the
//! dead leaving and heads being let in, is a turn of its own, and every other turn starts among the living.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tenure::proto::{
    Acquire, At, Claim, ClaimId, Entry, Grant, Inbox, Micros, Op, Outcome, Owner, Record, Release, Renew, Reply,
};

/// How far the clock goes back, in the histories where it does. Every lock in them is remembered for longer than that.
pub const BACK: Micros = 20_000;

/// All times are in microseconds, and of the order of a few thousand.
#[derive(Clone, Debug)]
pub struct History {
    kind: Kind,
    memory: Micros,
    clients: Vec<Client>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Mutex,
    ReadWrite,
    Semaphore(u32),
}

/// Somebody who claims the same thing over and over, under a new id each time.
#[derive(Clone)]
struct Client {
    owner: Option<&'static str>,
    size: u32,
    /// Takes the lock for another, with another limit.
    strays: bool,
    ttl: Micros,
    patience: Micros,
    max: u32,
}

/// What happens, how much later than what happened before, and which of three processes sends it.
#[derive(Clone)]
struct Step {
    later: i64,
    process: usize,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    /// Asks for what the client claims; under a new id if it left or died.
    Ask(Who),
    /// The same without waiting.
    Try(Who),
    Renew(Who),
    Leave(Who),
    /// Leaves, not sure of what is still under way.
    Bury(Who),
    /// Forgets its claim without a word.
    Die(Who),
    /// All clients ask at once, for themselves or for all there is.
    Rush(bool),
    /// The message of that many operations ago arrives again.
    Again(usize),
}

/// The client of that number, for itself or, under another id, for all there is.
type Who = (usize, bool);

pub fn histories(backwards: bool) -> impl Strategy<Value = History> {
    let semaphore = (2..=5_u32).prop_map(Kind::Semaphore);
    let kind = prop_oneof![2 => Just(Kind::Mutex), 4 => Just(Kind::ReadWrite), 3 => semaphore];
    let (memory, back) = if backwards { (BACK + 1..100_000, -(BACK as i64)) } else { (0..100_000, 0) };
    (kind, memory, vec(client(), 2..7), vec(step(back), 1..120)).prop_map(|(kind, memory, clients, steps)| History {
        kind,
        memory,
        clients,
        steps,
    })
}

fn client() -> impl Strategy<Value = Client> {
    let owner = prop_oneof![3 => Just(None), 5 => Just(Some("ann")), 5 => Just(Some("ben")), 1 => Just(Some("cho"))];
    let strays = prop_oneof![50 => Just(false), 1 => Just(true)];
    let lease = || prop_oneof![1..20_000_u64, 1..400_000_u64];
    (owner, 0..10_u32, strays, lease(), lease(), prop_oneof![1 => 1..4_u32, 2 => Just(20)])
        .prop_map(|(owner, size, strays, ttl, patience, max)| Client { owner, size, strays, ttl, patience, max })
}

fn step(back: i64) -> impl Strategy<Value = Step> {
    let later = prop_oneof![20 => Just(0), 10 => Just(1), 40 => 0..4_000_i64, 5 => back..60_000, 1 => 0..900_000_i64];
    let who = || prop_oneof![4 => (0..6_usize).prop_map(|n| (n, false)), 1 => (0..6_usize).prop_map(|n| (n, true))];
    let act = prop_oneof![
        9 => who().prop_map(Act::Ask),
        1 => who().prop_map(Act::Try),
        2 => who().prop_map(Act::Renew),
        6 => who().prop_map(Act::Leave),
        2 => who().prop_map(Act::Bury),
        1 => who().prop_map(Act::Die),
        1 => any::<bool>().prop_map(Act::Rush),
        2 => (0..12_usize).prop_map(Act::Again),
    ];
    (later, 0..3_usize, act).prop_map(|(later, process, act)| Step { later, process, act })
}

impl Client {
    fn claim(&self, kind: Kind, all: bool) -> Claim {
        let limit = if let Kind::Semaphore(limit) = kind { limit } else { Claim::ALL };
        let permits = match kind {
            _ if self.strays => return Claim::new(1, 7).expect("within the limit"),
            _ if all => limit,
            Kind::Mutex => limit,
            // The small ones are in the majority, or hardly anybody would be in beside another.
            _ if self.size < 8 => 1,
            Kind::ReadWrite => limit,
            Kind::Semaphore(_) => self.size % limit + 1,
        };
        Claim::new(permits, limit).expect("within the limit")
    }
}

// A line each, however the history is printed.

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, size, strays, ttl, patience, max } = self;
        write!(f, "owner {owner:?}, size {size}, strays {strays}, ttl {ttl}, patience {patience}, max {max}")
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { later, process, act } = self;
        write!(f, "{later} later, process {process}: {act:?}")
    }
}

/// One operation, and all there is to see of it.
#[derive(Debug)]
pub struct Turn<'a> {
    pub op: &'a Op,
    /// Whether it is a look, and nobody's operation,
    pub is_look: bool,
    /// before this one.
    pub next: &'a Op,
    pub now: Micros,
    pub inbox: &'a Inbox,
    /// The record as the operation found it.
    pub found: &'a Record,
    /// The same without the dead.
    pub before: &'a Record,
    pub after: &'a Record,
    pub outcome: Outcome,
    pub grants: &'a [Grant],
    /// What is known from the turns before this one.
    pub past: &'a Past,
}

/// What an observer remembers of a history.
#[derive(Debug, Default)]
pub struct Past {
    /// The latest time.
    pub latest: Micros,
    /// The latest time that anybody's claim or grave was to last.
    pub until: Micros,
    /// The last fence.
    pub fence: u64,
    /// The last fence since the lock was last forgotten.
    pub remembered: u64,
    /// For how long the lock is to be remembered, as its users say.
    pub memory: Micros,
    /// The limit that each claim was made with.
    pub limits: HashMap<ClaimId, u32>,
    /// From where each claim was last asked for.
    pub inboxes: HashMap<ClaimId, Inbox>,
    /// Until when each id may not come back.
    pub buried: HashMap<ClaimId, Micros>,
    /// The claims that were told to wait when their owner was in, which it has been ever since.
    pub insiders: HashSet<ClaimId>,
}

impl History {
    /// Shows every turn to `check` until that finds something wrong.
    pub fn play(&self, mut check: impl FnMut(&Turn<'_>) -> Result<(), String>) -> Result<(), String> {
        let look = Op::Release(Release { id: ClaimId::new(0), bury: Duration::ZERO });
        let (mut record, mut now) = (Record::default(), 1_000_000);
        let mut past = Past { latest: now, memory: self.memory, ..Past::default() };
        let mut post = Post::default();
        for step in &self.steps {
            now = now.saturating_add_signed(step.later).max(past.latest - BACK);
            let inbox = &Inbox::from(format!("process {}", step.process));
            let ops = post.send(self, &step.act);
            for (op, next, is_look) in ops.iter().flat_map(|op| [(&look, op, true), (op, op, false)]) {
                let found = &record.clone();
                let before = &living(found, now);
                past.hear(op, now, inbox, found);
                let (Reply { outcome, .. }, grants) = record.apply(op, At { now, inbox });
                let (after, grants, past_now) = (&record, &grants, &past);
                let turn =
                    Turn { op, is_look, next, now, inbox, found, before, after, outcome, grants, past: past_now };
                check(&turn).map_err(|wrong| format!("{wrong}\nin this {turn:#?}"))?;
                past.see(op, outcome, now, &record);
            }
        }
        Ok(())
    }
}

/// What the clients call their claims, and every message they sent.
#[derive(Default)]
struct Post {
    ids: HashMap<Who, ClaimId>,
    named: u128,
    sent: Vec<Op>,
}

impl Post {
    fn send(&mut self, history: &History, act: &Act) -> Vec<Op> {
        let acts = match *act {
            Act::Rush(all) => (0..history.clients.len()).map(|n| Act::Ask((n, all))).collect(),
            _ => vec![act.clone()],
        };
        let ops: Vec<_> = acts.iter().filter_map(|act| self.word(history, act)).collect();
        self.sent.extend_from_slice(&ops);
        ops
    }

    fn word(&mut self, history: &History, act: &Act) -> Option<Op> {
        let who = |(n, all): Who| (n % history.clients.len(), all);
        let client = |(n, _): Who| &history.clients[n % history.clients.len()];
        Some(match *act {
            Act::Ask(n) | Act::Try(n) => {
                let id = *self.ids.entry(who(n)).or_insert_with(|| {
                    self.named += 1;
                    ClaimId::new(self.named)
                });
                let Client { owner, ttl, patience, max, .. } = *client(n);
                Op::Acquire(Acquire {
                    id,
                    claim: client(n).claim(history.kind, n.1),
                    ttl: Duration::from_micros(ttl),
                    patience: Duration::from_micros(if matches!(act, Act::Try(_)) { 0 } else { patience }),
                    owner: owner.map(Owner::new),
                    max,
                    memory: Duration::from_micros(history.memory),
                    meta: Bytes::from(vec![n.0 as u8]),
                })
            }
            Act::Renew(n) => {
                Op::Renew(Renew { id: *self.ids.get(&who(n))?, ttl: Duration::from_micros(client(n).ttl) })
            }
            Act::Leave(n) => Op::Release(Release { id: self.ids.remove(&who(n))?, bury: Duration::ZERO }),
            Act::Bury(n) => {
                Op::Release(Release { id: self.ids.remove(&who(n))?, bury: Duration::from_micros(client(n).ttl) })
            }
            Act::Die(n) => {
                self.ids.remove(&who(n));
                return None;
            }
            Act::Rush(_) => return None,
            Act::Again(back) => self.sent.iter().rev().nth(back)?.clone(),
        })
    }
}

impl Past {
    fn hear(&mut self, op: &Op, now: Micros, inbox: &Inbox, found: &Record) {
        if found.expires <= now {
            self.remembered = 0;
        }
        self.latest = self.latest.max(now);
        self.buried.retain(|_, until| *until > now);
        if let Op::Acquire(acquire) = op {
            self.limits.insert(acquire.id, acquire.claim.limit());
            self.inboxes.insert(acquire.id, inbox.clone());
        }
    }

    fn see(&mut self, op: &Op, outcome: Outcome, now: Micros, after: &Record) {
        let entries = after.holders.iter().chain(&after.queue).map(|entry| entry.until);
        let untils = entries.chain(after.buried.iter().map(|grave| grave.until));
        self.until = untils.max().unwrap_or(0).max(self.until);
        self.remembered = after.holders.iter().map(|holder| holder.fence).max().unwrap_or(0).max(self.remembered);
        self.fence = self.fence.max(self.remembered);
        if let Op::Release(Release { id, bury }) = op
            && !bury.is_zero()
        {
            let until = self.buried.entry(*id).or_default();
            *until = (now + bury.as_micros() as Micros).max(*until);
        }
        if matches!(outcome, Outcome::Busy { .. }) {
            self.insiders.insert(op.id());
        }
        self.insiders.retain(|id| after.queue.iter().any(|place| place.id == *id && is_in(after, &place.owner)));
    }
}

/// The record without those whose time has passed.
pub fn living(record: &Record, now: Micros) -> Record {
    let mut record = record.clone();
    let living = |entry: &Entry| entry.until > now;
    record.holders.retain(living);
    record.queue.retain(living);
    record.buried.retain(|grave| grave.until > now);
    record
}

/// Whether that owner has a claim in.
pub fn is_in(record: &Record, owner: &Option<Owner>) -> bool {
    owner.is_some() && record.holders.iter().any(|holder| holder.owner == *owner)
}
