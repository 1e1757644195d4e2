//! Random histories of one lock: a few clients that ask, come back, give up, die, and whose messages arrive late and
//! twice.
//!
//! A history is data, so that a failing one shrinks. [`History::play`] carries it out and shows each [`Turn`] of it.
//! Before each operation somebody looks (releases a claim that nobody ever made), so that what time alone does to the
//! lock, the dead leaving and heads being let in, is a turn of its own, and every other turn starts among the living.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tenure::proto::{Acquire, At, Claim, ClaimId, HandOver, Inbox, Micros, Op, Owner, Record, Release, Renew, Reply};

use crate::turn::{Past, Turn, living};

/// How far the clock goes back, in the histories where it does. Every lock in them is remembered for longer than that.
pub(crate) const BACK: Micros = 20_000;

/// All times are in microseconds, and of the order of a few thousand.
#[derive(Clone, Debug)]
pub(crate) struct History {
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
    /// The first hands its claim over to the second, and buries it or not.
    HandOver(Who, Who, bool),
    /// Forgets its claim without a word.
    Die(Who),
    /// All clients ask at once, for themselves or for all there is.
    Rush(bool),
    /// Everybody asks again for what it has asked for.
    Remind,
    /// The message of that many operations ago arrives again.
    Again(usize),
}

/// The client of that number, for itself or, under another id, for all there is.
type Who = (usize, bool);

pub(crate) fn histories(backwards: bool) -> impl Strategy<Value = History> {
    let semaphore = (2..=5_u32).prop_map(Kind::Semaphore);
    let kind = prop_oneof![2 => Just(Kind::Mutex), 4 => Just(Kind::ReadWrite), 3 => semaphore];
    let memory =
        if backwards { prop_oneof![Just(BACK + 1), BACK + 1..100_000] } else { prop_oneof![Just(1), 1..100_000] };
    (kind, memory, vec(client(), 2..7), vec(step(backwards), 1..120))
        .prop_map(|(kind, memory, clients, steps)| History { kind, memory, clients, steps })
}

fn client() -> impl Strategy<Value = Client> {
    let owner = prop_oneof![3 => Just(None), 5 => Just(Some("ann")), 5 => Just(Some("ben")), 1 => Just(Some("cho"))];
    let strays = prop_oneof![50 => Just(false), 1 => Just(true)];
    let lease = || prop_oneof![1..20_000_u64, millis(1..400)];
    (owner, 0..10_u32, strays, lease(), lease(), prop_oneof![1 => 1..4_u32, 2 => Just(20)])
        .prop_map(|(owner, size, strays, ttl, patience, max)| Client { owner, size, strays, ttl, patience, max })
}

fn step(backwards: bool) -> impl Strategy<Value = Step> {
    let back = if backwards { 20 } else { 0 };
    let later = prop_oneof![
        20 => Just(0),
        4 => Just(1),
        40 => millis(0..5),
        5 => 0..60_000_u64,
        1 => millis(0..900),
    ]
    .prop_map(|later| later as i64);
    let later = prop_oneof![70 => later, back => -(BACK as i64)..0];
    let who = || prop_oneof![4 => (0..6_usize).prop_map(|n| (n, false)), 1 => (0..6_usize).prop_map(|n| (n, true))];
    let act = prop_oneof![
        9 => who().prop_map(Act::Ask),
        1 => who().prop_map(Act::Try),
        2 => who().prop_map(Act::Renew),
        6 => who().prop_map(Act::Leave),
        2 => who().prop_map(Act::Bury),
        3 => (who(), who(), any::<bool>()).prop_map(|(from, to, bury)| Act::HandOver(from, to, bury)),
        1 => who().prop_map(Act::Die),
        2 => any::<bool>().prop_map(Act::Rush),
        2 => Just(Act::Remind),
        2 => (0..12_usize).prop_map(Act::Again),
    ];
    (later, 0..3_usize, act).prop_map(|(later, process, act)| Step { later, process, act })
}

/// Round numbers, so that one time is often another.
fn millis(range: Range<u64>) -> impl Strategy<Value = Micros> {
    range.prop_map(|millis| millis * 1_000)
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

impl History {
    /// Shows every turn to `check` until that finds something wrong.
    pub(crate) fn play(&self, mut check: impl FnMut(&Turn<'_>) -> Result<(), String>) -> Result<(), String> {
        let look = Op::Release(Release { id: ClaimId::new(0), bury: Duration::ZERO, fence: 0 });
        let (mut record, mut now) = (Record::default(), 1_000_000);
        let mut past = Past { latest: now, memory: self.memory, ..Past::default() };
        let mut post = Post::default();
        for step in &self.steps {
            now = now.saturating_add_signed(step.later).max(past.latest - BACK);
            let inbox = &Inbox::from(format!("process {}", step.process));
            let ops = post.send(self, step);
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
    ids: BTreeMap<Who, ClaimId>,
    named: u128,
    sent: Vec<Op>,
}

impl Post {
    fn send(&mut self, history: &History, step: &Step) -> Vec<Op> {
        let acts = match step.act {
            Act::Rush(all) => (0..history.clients.len()).map(|n| Act::Ask((n, all))).collect(),
            Act::Remind => self.ids.keys().map(|who| Act::Ask(*who)).collect(),
            _ => vec![step.act.clone()],
        };
        let ops: Vec<_> = acts.iter().filter_map(|act| self.word(history, step.process, act)).collect();
        self.sent.extend_from_slice(&ops);
        ops
    }

    fn word(&mut self, history: &History, process: usize, act: &Act) -> Option<Op> {
        let who = |(n, all): Who| (n % history.clients.len(), all);
        let client = |(n, _): Who| &history.clients[n % history.clients.len()];
        // Each process is in more of a hurry than the one before.
        let span = |micros: Micros| Duration::from_micros(micros.div_ceil(1 + process as u64));
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
                    ttl: span(ttl),
                    patience: if matches!(act, Act::Try(_)) { Duration::ZERO } else { span(patience) },
                    owner: owner.map(Owner::new),
                    max,
                    memory: Duration::from_micros(history.memory),
                    meta: Bytes::from(vec![n.0 as u8]),
                    fence: 0,
                })
            }
            Act::Renew(n) => Op::Renew(Renew { id: *self.ids.get(&who(n))?, ttl: span(client(n).ttl), fence: 0 }),
            Act::Leave(n) => Op::Release(Release { id: self.ids.remove(&who(n))?, bury: Duration::ZERO, fence: 0 }),
            Act::Bury(n) => Op::Release(Release { id: self.ids.remove(&who(n))?, bury: span(client(n).ttl), fence: 0 }),
            // Whoever strays asks for another lock than its heir's.
            Act::HandOver(a, b, bury) if client(a).strays == client(b).strays => {
                let from = self.ids.remove(&who(a))?;
                self.named += 1;
                let (id, ttl) = (ClaimId::new(self.named), span(client(b).ttl));
                self.ids.insert(who(b), id);
                let bury = if bury { span(client(a).ttl) } else { Duration::ZERO };
                let (owner, meta) = (client(b).owner.map(Owner::new), Bytes::from(vec![b.0 as u8]));
                Op::HandOver(HandOver { id, from, bury, ttl, owner, meta, fence: 0 })
            }
            Act::HandOver(..) => return None,
            Act::Die(n) => {
                self.ids.remove(&who(n));
                return None;
            }
            Act::Rush(_) | Act::Remind => return None,
            Act::Again(back) => self.sent.iter().rev().nth(back)?.clone(),
        })
    }
}
