//! One rule, two executions: the Lua twin answers, pushes and stores what the Rust rule does.
//!
//! Random operations run against a real server, whose script has its clock line replaced by the test's clock, and against
//! [`Record::apply`]. After every call the answers, the pushed grants, the stored records and the keys' expiries must be
//! equal. The rule is deterministic, so a whole history goes out in one pipeline and is compared afterwards.
//!
//! A failure prints the seed. `TENURE_SEED` repeats a run and `TENURE_OPS` makes it longer or shorter.
//!
//! Bugs that were planted in the Lua, one at a time, and found:
//!
//! * sweep: who ends now survives; only an unused lock is forgotten soon;
//! * alarm: kept over a sweep; not set by a claim;
//! * let in: one head at most; not after the answer; `since` stays that of the place;
//! * fence: the last one again; a larger claim of an owner's shares its token; in short, the clock alone;
//! * an owner's weight: the sum of its claims; leaving takes all of a claim's;
//! * tickets: the front counts from the back; a gap behind the head is overlooked; `ahead` counts from one;
//! * expires: a renewal in short leaves it; the key's is rounded down; a crowd's key keeps its old one;
//! * conversion: who grows loses the places; who shrinks is written as far as it was read;
//! * crowd: who left stays in the hash; more fields in one call than Lua can pass on;
//! * pushes: who asks is told too; a refresh leaves the old inbox;
//! * a hand-over keeps the token, overlooks the owner's other claims, or buries nothing;
//! * graves are not lengthened; a try in short takes a stranger for the owner itself; the second operation on a key in one
//!   call sees the record as it was before the first.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::{Arg, Cmd, Connection, ConnectionLike, Value};
use tenure::proto::{
    Acquire, At, Claim, ClaimId, Grant, HandOver, Inbox, Micros, Op, Outcome, Owner, Record, Release, Renew, Reply,
};
use tenure::store::redis_script as script;

mod draw;

#[test]
fn the_twin_answers_pushes_and_stores_what_the_rule_does() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("TENURE_SEED").unwrap_or_else(rand::random);
    let ops = number("TENURE_OPS").unwrap_or(100_000);
    println!("TENURE_SEED={seed} TENURE_OPS={ops}");
    let mut twins = Twins::new(seed);
    while twins.ops < ops {
        twins.live_through_a_history();
    }
    println!("{:?}", twins.seen);
    let rare = ["Deadlock", "Full", "Mismatch", "Buried", "handed over", "grown", "shrunk", "crowd"];
    let unseen: Vec<_> = rare.iter().filter(|what| !twins.seen.contains_key(**what)).collect();
    assert!(ops < 100_000 || unseen.is_empty(), "too tame: never saw {unseen:?}");
}

#[test]
fn a_crowd_of_thousands_that_dies_at_once_is_swept_by_one_operation() {
    let mut twins = Twins::new(0);
    let (mut history, inbox) = (History::new(1), Inbox::from("one"));
    let acquire = |id: u128| Acquire {
        id: ClaimId::new(id),
        claim: if id == 1 { Claim::EXCLUSIVE } else { Claim::SHARED },
        ttl: Duration::from_secs(100),
        patience: Duration::from_secs(if id < 5 { 50 } else { 1 }),
        owner: Some(Owner::new(format!("owner {}", id % 1_000))),
        max: 100,
        memory: Duration::from_secs(60),
        meta: Bytes::new(),
        fence: 0,
    };
    for id in 0..4_500 {
        history.call(twins.now, &inbox, [(0, Op::Acquire(acquire(id)))]);
    }
    assert!(history.records[0].queue.len() > 4_400);
    history.call(
        twins.now + 2_000_000,
        &inbox,
        [(0, Op::Renew(Renew { id: ClaimId::new(0), ttl: Duration::ZERO, fence: 0 }))],
    );
    assert_eq!(history.records[0].queue.len(), 4);
    // To compare the record after each of these would take long, and the last two tell.
    history.calls.iter_mut().rev().skip(2).for_each(|call| call.records.clear());
    twins.compare(history);
}

/// The line of the script that the test replaces, and what with: the last argument is the time.
const CLOCK: [&str; 2] = ["\nlocal time = call('TIME')\n", "\nlocal time = { 0, ARGV[#ARGV] }\n"];

struct Twins {
    rng: StdRng,
    server: Connection,
    pushes: Connection,
    sha: String,
    now: Micros,
    ops: u64,
    histories: u64,
    seen: BTreeMap<String, u64>,
    _redis: testkit::Redis,
}

/// Some calls on some locks, and what they must come to.
struct History {
    records: Vec<Record>,
    calls: Vec<Call>,
    grants: Vec<Grant>,
}

struct Call {
    now: Micros,
    inbox: Inbox,
    ops: Vec<(usize, Op)>,
    replies: Vec<Reply>,
    records: Vec<(usize, Record)>,
    /// What the server has forgotten by then.
    forgotten: Vec<usize>,
}

impl History {
    fn new(locks: usize) -> Self {
        Self { records: vec![Record::default(); locks], calls: Vec::new(), grants: Vec::new() }
    }

    fn call(&mut self, now: Micros, inbox: &Inbox, ops: impl IntoIterator<Item = (usize, Op)>) {
        let before = self.calls.last().map_or(now, |call| call.now);
        // What was over when the clock was set back is no more, though by that clock it would not be over yet.
        let over = |(_, record): &(usize, &mut Record)| now < before && record.expires <= before;
        let over = self.records.iter_mut().enumerate().filter(over);
        let forgotten = over.map(|(lock, record)| {
            *record = Record::default();
            lock
        });
        let forgotten = forgotten.collect();
        let (ops, mut replies): (Vec<_>, _) = (ops.into_iter().collect(), Vec::new());
        for (lock, op) in &ops {
            let (reply, grants) = self.records[*lock].apply(op, At { now, inbox });
            replies.push(reply);
            self.grants.extend(grants.into_iter().filter(|grant| !grant.inbox.is_empty()));
        }
        let touched: BTreeSet<usize> = ops.iter().map(|(lock, _)| *lock).collect();
        let records = touched.into_iter().map(|lock| (lock, self.records[lock].clone())).collect();
        self.calls.push(Call { now, inbox: inbox.clone(), ops, replies, records, forgotten });
    }
}

impl Twins {
    fn new(seed: u64) -> Self {
        let redis = testkit::Redis::start();
        let client = redis::Client::open(redis.url()).unwrap();
        let (mut server, mut pushes) = (client.get_connection().unwrap(), client.get_connection().unwrap());
        pushes.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for channel in ["one", "two", "end"] {
            pushes.send_packed_command(&redis::cmd("SUBSCRIBE").arg(channel).get_packed_command()).unwrap();
            pushes.recv_response().unwrap();
        }
        assert_eq!(script::APPLY.source.matches(CLOCK[0]).count(), 1, "the script has one clock line");
        let source = script::APPLY.source.replacen(CLOCK[0], CLOCK[1], 1);
        let sha = redis::cmd("SCRIPT").arg("LOAD").arg(source).query(&mut server).unwrap();
        redis::cmd("SCRIPT").arg("LOAD").arg(script::READ.source).exec(&mut server).unwrap();
        // Ahead of the server's clock, so that no key goes before its time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3_600);
        let (rng, seen) = (StdRng::seed_from_u64(seed), BTreeMap::new());
        Self { rng, server, pushes, sha, now: now.as_micros() as u64, ops: 0, histories: 0, seen, _redis: redis }
    }

    /// Draws some hundred calls, sends them, and compares.
    fn live_through_a_history(&mut self) {
        let shape = self.shape();
        let mut history = History::new(self.rng.random_range(1..=3));
        for _ in 0..self.rng.random_range(50..500) {
            self.now = self.next_time(&shape);
            let many = if self.rng.random_bool(0.7) { 1 } else { self.rng.random_range(2..=5) };
            let inbox = Inbox::from(["", "one", "two"][self.rng.random_range(0..3)]);
            let ops: Vec<_> = (0..many).map(|_| self.op(&history, &shape)).collect();
            let before: Vec<_> = history.records.iter().map(crowd).collect();
            history.call(self.now, &inbox, ops);
            self.note(&before, &history);
            self.ops += many;
        }
        self.compare(history);
    }

    fn key(&self, lock: usize) -> String {
        format!("twin:{{{}.{lock}}}", self.histories)
    }

    fn pack(&self, call: &Call, packed: &mut Vec<u8>) {
        for lock in &call.forgotten {
            packed.extend(redis::cmd("DEL").arg(self.key(*lock)).get_packed_command());
        }
        let one = |(lock, op): &(usize, Op)| script::Call::new(self.key(*lock).as_bytes(), op, &call.inbox);
        let calls: Vec<_> = call.ops.iter().map(one).collect();
        let mut apply = Cmd::new();
        for (i, arg) in script::command(&calls).args_iter().enumerate() {
            match arg {
                Arg::Simple(_) if i == 1 => apply.arg(&self.sha),
                Arg::Simple(arg) => apply.arg(arg),
                _ => unreachable!("no cursor"),
            };
        }
        packed.extend(apply.arg(call.now).get_packed_command());
        for (lock, _) in &call.records {
            packed.extend(script::read_command(self.key(*lock).as_bytes()).get_packed_command());
            packed.extend(redis::cmd("PEXPIRETIME").arg(self.key(*lock)).get_packed_command());
        }
    }

    fn compare(&mut self, history: History) {
        self.histories += 1;
        let mut packed = Vec::new();
        history.calls.iter().for_each(|call| self.pack(call, &mut packed));
        let count = history.calls.iter().map(|call| 1 + call.forgotten.len() + 2 * call.records.len()).sum();
        let mut values = self.server.req_packed_commands(&packed, 0, count).unwrap().into_iter();
        let mut before: BTreeMap<usize, &Record> = BTreeMap::new();
        for call in &history.calls {
            let context = || format!("at {} of {:?}\nfrom {before:#?}", call.now, call.ops);
            call.forgotten.iter().for_each(|_| drop(values.next()));
            let replies = script::replies(call.ops.len(), values.next().unwrap());
            let replies = replies.unwrap_or_else(|value| panic!("{value:?} {}", context()));
            for ((reply, expected), (_, op)) in replies.into_iter().zip(&call.replies).zip(&call.ops) {
                let reply = script::reply(op, reply).unwrap_or_else(|error| panic!("{error} {}", context()));
                assert_eq!(reply, *expected, "the reply to {op:?} {}", context());
            }
            for (lock, expected) in &call.records {
                let (record, _) = script::stored(values.next().unwrap()).unwrap();
                let expires = values.next().unwrap();
                if expected.expires > call.now {
                    assert_eq!(sorted(record), sorted(expected.clone()), "the record {lock} {}", context());
                    let step = expected.memory + 1_000_000;
                    let late = (expected.expires / step + 1) * step;
                    let end = if crowd(expected) == 0 { expected.expires } else { late };
                    assert_eq!(expires, Value::Int(end.div_ceil(1_000) as i64), "the expiry of {lock} {}", context());
                } else {
                    assert!(record.expires <= call.now, "the record {lock}, which is over, {}", context());
                }
            }
            before.extend(call.records.iter().map(|(lock, record)| (*lock, record)));
        }
        redis::cmd("PUBLISH").arg("end").arg("").exec(&mut self.server).unwrap();
        let mut pushed = std::iter::from_fn(|| self.push());
        for expected in &history.grants {
            assert_eq!(pushed.next().as_ref(), Some(expected));
        }
        assert_eq!(pushed.next(), None, "after the last grant");
    }

    /// The next grant, or `None` at the end.
    fn push(&mut self) -> Option<Grant> {
        let Value::Array(message) = self.pushes.recv_response().unwrap() else { panic!("a message is an array") };
        let [_, Value::BulkString(channel), Value::BulkString(payload)] = &message[..] else {
            panic!("a message has a channel and a payload")
        };
        let grant = script::grant(payload)?;
        Some(Grant { inbox: std::str::from_utf8(channel).unwrap().into(), ..grant })
    }

    /// Counts what was seen, so that a run can be judged by more than being green.
    fn note(&mut self, before: &[usize], history: &History) {
        let mut count = |what: &str| *self.seen.entry(what.to_owned()).or_default() += 1;
        for reply in &history.calls.last().unwrap().replies {
            match reply.outcome {
                Outcome::Refused(why) => count(format!("{why:?}").split(' ').next().unwrap_or_default()),
                outcome => count(format!("{outcome:?}").split(' ').next().unwrap_or_default()),
            }
        }
        if !history.grants.is_empty() {
            count("handed over");
        }
        for (before, after) in before.iter().zip(history.records.iter().map(crowd)) {
            match (before, after) {
                (..=4, 5..) => count("grown"),
                (3.., ..=2) => count("shrunk"),
                (_, 30..) => count("crowd"),
                _ => {}
            }
        }
    }
}

fn crowd(record: &Record) -> usize {
    record.holders.len() + record.queue.len() + record.buried.len()
}

fn sorted(mut record: Record) -> Record {
    record.holders.sort_by_key(|entry| (entry.fence, entry.since, entry.id));
    record.buried.sort_by_key(|grave| grave.id);
    record
}
