//! One rule, two executions: the Lua twin answers, pushes and stores what the Rust rule does.
//!
//! Random operations run against a real server, whose script has its clock line replaced by the test's clock, and against
//! [`Record::apply`]. After every call the answers, the pushed grants, the stored records and the keys' expiries must be
//! equal. The rule is deterministic, so a whole history goes out in one pipeline and is compared afterwards.
//!
//! A failure prints the seed. `TENURE_SEED` repeats a run and `TENURE_OPS` makes it longer or shorter.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::{Cmd, Connection, ConnectionLike, Value};
use tenure::proto::{Acquire, At, Claim, ClaimId, Grant, Inbox, Micros, Op, Owner, Record, Release, Renew, Reply};
use tenure::store::redis_script as script;

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

/// What one call must come to.
struct Expected {
    now: Micros,
    ops: Vec<(usize, Op)>,
    replies: Vec<Reply>,
    records: Vec<(usize, Record)>,
}

/// How a history is drawn.
struct Shape {
    ids: u128,
    limit: u32,
    ttl: Micros,
    patience: Micros,
    memory: Micros,
    step: Micros,
    owned: f64,
}

impl Twins {
    fn new(seed: u64) -> Self {
        let redis = testkit::Redis::start();
        let client = redis::Client::open(redis.url()).unwrap();
        let mut server = client.get_connection().unwrap();
        let mut pushes = client.get_connection().unwrap();
        pushes.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for channel in ["one", "two", "end"] {
            pushes.send_packed_command(&redis::cmd("SUBSCRIBE").arg(channel).get_packed_command()).unwrap();
            pushes.recv_response().unwrap();
        }
        assert_eq!(script::APPLY.source.matches(CLOCK[0]).count(), 1, "the script has one clock line");
        let source = script::APPLY.source.replacen(CLOCK[0], CLOCK[1], 1);
        let sha = redis::cmd("SCRIPT").arg("LOAD").arg(source).query(&mut server).unwrap();
        let _: String = redis::cmd("SCRIPT").arg("LOAD").arg(script::READ.source).query(&mut server).unwrap();
        // Ahead of the server's clock, so that no key goes before its time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3_600);
        let (rng, seen) = (StdRng::seed_from_u64(seed), BTreeMap::new());
        Self { rng, server, pushes, sha, now: now.as_micros() as u64, ops: 0, histories: 0, seen, _redis: redis }
    }

    /// Draws some hundred calls, sends them, and compares.
    fn live_through_a_history(&mut self) {
        self.histories += 1;
        let shape = self.shape();
        let mut records: Vec<Record> = vec![Record::default(); self.rng.random_range(1..=3)];
        let mut calls: Vec<Expected> = Vec::new();
        let (mut packed, mut grants) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.random_range(50..500) {
            self.now += self.step(&shape);
            let many = if self.rng.random_bool(0.7) { 1 } else { self.rng.random_range(2..=5) };
            let inbox = Inbox::from(["", "one", "two"][self.rng.random_range(0..3)]);
            let mut call = Expected { now: self.now, ops: vec![], replies: vec![], records: vec![] };
            for _ in 0..many {
                let lock = self.rng.random_range(0..records.len());
                let op = match calls.last().and_then(|call| call.ops.first()) {
                    Some((again, op)) if *again == lock && self.rng.random_bool(0.05) => op.clone(),
                    _ => self.op(&records[lock], &shape),
                };
                let before = records[lock].holders.len() + records[lock].queue.len() + records[lock].buried.len();
                let (reply, pushed) = records[lock].apply(&op, At { now: self.now, inbox: &inbox });
                self.note(before, &records[lock], &reply);
                grants.extend(pushed.into_iter().filter(|grant| !grant.inbox.is_empty()));
                call.ops.push((lock, op));
                call.replies.push(reply);
            }
            let touched: BTreeSet<usize> = call.ops.iter().map(|(lock, _)| *lock).collect();
            call.records = touched.into_iter().map(|lock| (lock, records[lock].clone())).collect();
            self.pack(&call, &inbox, &mut packed);
            calls.push(call);
        }
        self.ops += calls.iter().map(|call| call.ops.len() as u64).sum::<u64>();
        self.compare(&calls, &packed, &grants);
    }

    fn key(&self, lock: usize) -> String {
        format!("twin:{{{}.{lock}}}", self.histories)
    }

    fn pack(&self, call: &Expected, inbox: &str, packed: &mut Vec<u8>) {
        let keys: Vec<String> = call.ops.iter().map(|(lock, _)| self.key(*lock)).collect();
        let pairs: Vec<(&[u8], &Op)> = keys.iter().zip(&call.ops).map(|(key, (_, op))| (key.as_bytes(), op)).collect();
        let command = script::batch(&pairs, inbox);
        let mut apply = Cmd::new();
        for (i, arg) in command.args_iter().enumerate() {
            match arg {
                redis::Arg::Simple(_) if i == 1 => apply.arg(&self.sha),
                redis::Arg::Simple(arg) => apply.arg(arg),
                _ => unreachable!("no cursor"),
            };
        }
        packed.extend(apply.arg(call.now).get_packed_command());
        for (lock, _) in &call.records {
            packed.extend(script::read_command(self.key(*lock).as_bytes()).get_packed_command());
            packed.extend(redis::cmd("PEXPIRETIME").arg(self.key(*lock)).get_packed_command());
        }
    }

    fn compare(&mut self, calls: &[Expected], packed: &[u8], grants: &[Grant]) {
        let count = calls.iter().map(|call| 1 + 2 * call.records.len()).sum();
        let mut values = self.server.req_packed_commands(packed, 0, count).unwrap().into_iter();
        let mut before: BTreeMap<usize, Record> = BTreeMap::new();
        for call in calls {
            let context = || format!("at {} of {:?}\nfrom {before:#?}", call.now, call.ops);
            let ops: Vec<&Op> = call.ops.iter().map(|(_, op)| op).collect();
            let value = values.next().unwrap();
            for ((reply, expected), op) in script::replies(&ops, value.clone()).into_iter().zip(&call.replies).zip(ops)
            {
                let reply = reply.unwrap_or_else(|error| panic!("{error}: {value:?} {}", context()));
                assert_eq!(reply, *expected, "the reply to {op:?} {}", context());
            }
            for (lock, expected) in &call.records {
                let (mut record, _) = script::stored(values.next().unwrap()).unwrap();
                let there = expected.expires > call.now;
                if record.expires <= call.now {
                    record = Record::default();
                }
                let expected = if there { sorted(expected.clone()) } else { Record::default() };
                assert_eq!(sorted(record), expected, "the record {lock} {}", context());
                let expires = values.next().unwrap();
                if there {
                    let expected = Value::Int(expected.expires.div_ceil(1_000) as i64);
                    assert_eq!(expires, expected, "the expiry of {lock} {}", context());
                }
            }
            before.extend(call.records.iter().cloned());
        }
        redis::cmd("PUBLISH").arg("end").arg("").exec(&mut self.server).unwrap();
        let mut pushed = std::iter::from_fn(|| self.push());
        for expected in grants {
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
}

fn sorted(mut record: Record) -> Record {
    record.holders.sort_by_key(|entry| (entry.fence, entry.since, entry.id));
    record.buried.sort_by_key(|grave| grave.id);
    record
}

// -- what is drawn ---------------------------------------------------------------------------------------------------

impl Twins {
    fn shape(&mut self) -> Shape {
        let rng = &mut self.rng;
        let mut of = |choices: &[u64]| choices[rng.random_range(0..choices.len())];
        let (second, memory) = (1_000_000, of(&[0, 1_000, 1_000_000, 60_000_000]));
        let ids = of(&[2, 5, 12, 40, 300]).into();
        let limit = [u64::from(Claim::ALL), 1, 3, 50];
        Shape {
            ids,
            limit: of(&limit) as u32,
            ttl: of(&[second / 100, second, 30 * second]),
            patience: of(&[second / 100, second, 30 * second]),
            memory,
            step: of(&[10, 1_000, 100_000, 2 * second]),
            owned: [0.0, 0.3, 0.9][rng.random_range(0..3)],
        }
    }

    fn step(&mut self, shape: &Shape) -> Micros {
        match self.rng.random_range(0..100) {
            0..10 => 0,
            99 => self.rng.random_range(0..shape.step * 100),
            _ => self.rng.random_range(0..shape.step),
        }
    }

    fn op(&mut self, record: &Record, shape: &Shape) -> Op {
        let known: Vec<ClaimId> = match self.rng.random_range(0..10) {
            0..3 => record.holders.iter().map(|entry| entry.id).collect(),
            3 => record.queue.iter().map(|entry| entry.id).collect(),
            4 => record.queue.iter().take(1).map(|entry| entry.id).collect(),
            5 => record.buried.iter().map(|grave| grave.id).collect(),
            _ => Vec::new(),
        };
        let rng = &mut self.rng;
        let id = if known.is_empty() {
            ClaimId::new(rng.random_range(0..shape.ids))
        } else {
            known[rng.random_range(0..known.len())]
        };
        match rng.random_range(0..100) {
            0..60 => Op::Acquire(self.acquire(id, shape)),
            60..75 => Op::Renew(Renew { id, ttl: self.span(shape.ttl) }),
            _ => {
                let bury = if rng.random_bool(0.2) { rng.random_range(0..=shape.ttl) } else { 0 };
                Op::Release(Release { id, bury: Duration::from_micros(bury) })
            }
        }
    }

    fn acquire(&mut self, id: ClaimId, shape: &Shape) -> Acquire {
        let (ttl, memory) = (self.span(shape.ttl), self.span(shape.memory));
        let patience = if self.rng.random_bool(0.3) { Duration::ZERO } else { self.span(shape.patience) };
        let rng = &mut self.rng;
        // Most ids ask for the same each time, as clients do.
        let mut own = StdRng::seed_from_u64(u64::from(id.as_bytes()[15]));
        let draw = if rng.random_bool(0.9) { &mut own } else { &mut *rng };
        let limit = if draw.random_bool(0.01) { draw.random_range(1..5) } else { shape.limit };
        let permits = if draw.random_bool(0.3) { limit } else { draw.random_range(1..=limit.min(3)) };
        let owner = draw.random_bool(shape.owned).then(|| Owner::new(["", "ann", "bob"][draw.random_range(0..3)]));
        let meta: Vec<u8> = (0..draw.random_range(0..40)).map(|_| draw.random()).collect();
        let max = if rng.random_bool(0.1) { rng.random_range(0..3) } else { rng.random_range(1..30) };
        let claim = Claim::new(permits, limit).unwrap();
        Acquire { id, claim, ttl, patience, owner, max, memory, meta: Bytes::from(meta) }
    }

    fn span(&mut self, most: Micros) -> Duration {
        let least = if self.rng.random_bool(0.1) { 0 } else { most / 2 };
        Duration::from_micros(self.rng.random_range(least..=most))
    }

    /// Counts what was seen, so that a run can be judged by more than being green.
    fn note(&mut self, before: usize, record: &Record, reply: &Reply) {
        let after = record.holders.len() + record.queue.len() + record.buried.len();
        let mut count = |what: String| *self.seen.entry(what).or_default() += 1;
        let outcome = format!("{:?}", reply.outcome);
        count(outcome.split(['{', '(']).next().unwrap_or_default().trim().to_owned());
        if let tenure::proto::Outcome::Refused(why) = reply.outcome {
            count(format!("{why:?}").split(' ').next().unwrap_or_default().to_owned());
        }
        if before <= 8 && after > 8 {
            count("grown".into());
        }
        if before > 4 && after <= 4 {
            count("shrunk".into());
        }
        if after > 100 {
            count("crowd".into());
        }
    }
}
