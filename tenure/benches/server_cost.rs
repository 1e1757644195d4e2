//! What the scripts cost the server: its CPU time per operation, the operations pipelined.
//!
//! Every figure is a ratio of two costs that were measured in one run, taking turns, medians of fifteen.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Connection, ConnectionLike};
use tenure::proto::{Acquire, Claim, ClaimId, Op, Release, Renew};
use tenure::store::redis_script::{self as script, Call};
use testkit::Redis;
use testkit::bench::{Limit, figure, median};

const INBOX: &str = "tenure:inbox:0123456789abcdef";
const LOCKS: u128 = 200;
const RUNS: usize = 15;
/// How many commands a run sends at least.
const COMMANDS: usize = 8_000;
const BARE_RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

fn main() {
    let mut server = Server::start();
    let bare = bare_pairs();
    let pairs = Work::new("a pair", vec![], LOCKS, (0..LOCKS).flat_map(|i| [one(i, try_once(i)), one(i, release(i))]));
    server.compare("server CPU of a pair on a free lock, one operation to a call", &pairs, &bare);
    let rows = || (0..LOCKS).step_by(script::BATCH).map(|first| first..first + script::BATCH as u128);
    let batches =
        rows().flat_map(|row| [many(row.clone().map(|i| (i, try_once(i)))), many(row.map(|i| (i, release(i))))]);
    server.compare(
        "server CPU of a pair on a free lock, 50 to a call",
        &Work::new("a pair", vec![], LOCKS, batches),
        &bare,
    );
    let held: Vec<Cmd> = (0..LOCKS).map(|i| one(i, try_once(i))).collect();
    let tries = Work::new("a try", held.clone(), LOCKS, (0..LOCKS).map(|i| one(i, try_once(LOCKS + i))));
    server.compare("server CPU of a try on a held lock, against a bare pair", &tries, &bare);
    let renewals = Work::new("a renewal", held, LOCKS, (0..LOCKS).map(|i| one(i, renew(i))));
    server.compare("server CPU of a renewal, against a bare pair", &renewals, &bare);

    for (what, crowd) in [
        ("acquire and release beside readers", beside_readers as fn(u128) -> Work),
        ("renew beside readers", renew_beside_readers),
        ("queue up and leave behind waiters", behind_waiters),
        ("refresh a place among waiters", refresh_among_waiters),
        ("renew before waiters", renew_before_waiters),
        ("hand over, confirm and queue up again", hand_over),
    ] {
        server.compare(&format!("server CPU, {what}: 1,000 against 1"), &crowd(1_000), &crowd(1));
    }
}

// -- what is measured ----------------------------------------------------------------------------------------------------

/// Commands that leave the server as they found it, to be repeated at will.
struct Work {
    unit: &'static str,
    setup: Vec<Cmd>,
    units: f64,
    commands: Vec<u8>,
    count: usize,
}

impl Work {
    fn new(unit: &'static str, setup: Vec<Cmd>, units: u128, commands: impl IntoIterator<Item = Cmd>) -> Self {
        let packed: Vec<Vec<u8>> = commands.into_iter().map(|command| command.get_packed_command()).collect();
        Self { unit, setup, units: units as f64, count: packed.len(), commands: packed.concat() }
    }
}

/// What people write by hand.
fn bare_pairs() -> Work {
    let sha = sha1_smol::Sha1::from(BARE_RELEASE).digest().to_string();
    let pairs = (0..LOCKS).flat_map(|i| {
        let (mut acquire, mut release, key) = (redis::cmd("SET"), redis::cmd("EVALSHA"), format!("bare:{i}"));
        acquire.arg(&key).arg(id(i).as_bytes()).arg("NX").arg("PX").arg(30_000);
        release.arg(&sha).arg(1).arg(&key).arg(id(i).as_bytes());
        [acquire, release]
    });
    Work::new("a bare pair", vec![], LOCKS, pairs)
}

fn beside_readers(others: u128) -> Work {
    let pairs = (0..LOCKS).flat_map(|i| [one(0, read(i)), one(0, release(i))]);
    Work::new("a pair", readers(others), LOCKS, pairs)
}

fn renew_beside_readers(others: u128) -> Work {
    Work::new("a renewal", readers(others), LOCKS, (0..LOCKS).map(|i| one(0, renew(1_000_000 + i % others))))
}

fn behind_waiters(others: u128) -> Work {
    let pairs = (0..LOCKS).flat_map(|i| [one(0, queue_up(i)), one(0, release(i))]);
    Work::new("a pair", waiters(others), LOCKS, pairs)
}

fn refresh_among_waiters(others: u128) -> Work {
    let refreshes = (0..LOCKS).map(|i| one(0, queue_up(1_000_001 + i % others)));
    Work::new("a refresh", waiters(others), LOCKS, refreshes)
}

fn renew_before_waiters(others: u128) -> Work {
    Work::new("a renewal", waiters(others), LOCKS, (0..LOCKS).map(|_| one(0, renew(1_000_000))))
}

/// Each of the crowd holds once, and stands where it stood before.
fn hand_over(others: u128) -> Work {
    let all = others + 1;
    let round = (0..all).flat_map(|i| {
        let (holder, next) = (1_000_000 + i, 1_000_000 + (i + 1) % all);
        [one(0, release(holder)), one(0, queue_up(next)), one(0, queue_up(holder))]
    });
    Work::new("a hand-over", waiters(others), all, round)
}

fn readers(count: u128) -> Vec<Cmd> {
    (0..count).map(|i| one(0, read(1_000_000 + i))).collect()
}

/// One that holds, and so many behind it.
fn waiters(count: u128) -> Vec<Cmd> {
    (0..=count).map(|i| one(0, queue_up(1_000_000 + i))).collect()
}

// -- operations ------------------------------------------------------------------------------------------------------------

fn id(i: u128) -> ClaimId {
    ClaimId::new(0x0123_4567_89ab_cdef << 64 | i)
}

fn acquire(i: u128, claim: Claim, patience: u64) -> Op {
    Op::Acquire(Acquire {
        id: id(i),
        claim,
        ttl: Duration::from_secs(600),
        patience: Duration::from_secs(patience),
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        meta: Bytes::from(vec![b'm'; 100]),
        fence: 0,
    })
}

fn try_once(i: u128) -> Op {
    acquire(i, Claim::EXCLUSIVE, 0)
}

fn queue_up(i: u128) -> Op {
    acquire(i, Claim::EXCLUSIVE, 600)
}

fn read(i: u128) -> Op {
    acquire(i, Claim::SHARED, 600)
}

fn renew(i: u128) -> Op {
    Op::Renew(Renew { id: id(i), ttl: Duration::from_secs(600), fence: 0 })
}

fn release(i: u128) -> Op {
    Op::Release(Release { id: id(i), bury: Duration::ZERO, fence: 0 })
}

fn one(lock: u128, op: Op) -> Cmd {
    many([(lock, op)])
}

fn many(ops: impl IntoIterator<Item = (u128, Op)>) -> Cmd {
    let call = |(lock, op): (u128, Op)| Call::new(format!("tenure:{{lock {lock}}}").as_bytes(), &op, INBOX);
    script::command(&ops.into_iter().map(call).collect::<Vec<_>>())
}

// -- the server ------------------------------------------------------------------------------------------------------------

struct Server {
    redis: Redis,
    connection: Connection,
}

impl Server {
    fn start() -> Self {
        let redis = Redis::start();
        let client = redis::Client::open(redis.url()).expect("its address is a URL");
        let mut connection = client.get_connection().expect("the server can be connected to");
        for source in [script::APPLY.source, script::KEEP.source, BARE_RELEASE] {
            redis::cmd("SCRIPT").arg("LOAD").arg(source).exec(&mut connection).expect("the script is one");
        }
        Self { redis, connection }
    }

    /// Prints what a unit of the one costs in units of the other.
    fn compare(&mut self, name: &str, ours: &Work, theirs: &Work) {
        let costs: Vec<(f64, f64)> = (0..RUNS).map(|_| (self.cost(ours), self.cost(theirs))).collect();
        let [ours_cost, theirs_cost] =
            [median(costs.iter().map(|cost| cost.0)), median(costs.iter().map(|cost| cost.1))];
        let absolutes = format!("{} {ours_cost:.2} µs, {} {theirs_cost:.2} µs", ours.unit, theirs.unit);
        figure(name, ours_cost / theirs_cost, Limit::AtMost(2.0), &absolutes);
    }

    /// Microseconds of the server's CPU for each unit of the work.
    fn cost(&mut self, work: &Work) -> f64 {
        redis::cmd("FLUSHALL").exec(&mut self.connection).expect("the server can be emptied");
        let setup: Vec<Vec<u8>> = work.setup.iter().map(Cmd::get_packed_command).collect();
        self.send(&setup.concat(), setup.len());
        self.send(&work.commands, work.count);
        let times = COMMANDS.div_ceil(work.count);
        let before = self.redis.cpu_micros();
        (0..times).for_each(|_| self.send(&work.commands, work.count));
        (self.redis.cpu_micros() - before) as f64 / (times as f64 * work.units)
    }

    fn send(&mut self, packed: &[u8], count: usize) {
        if count == 0 {
            return;
        }
        let values = self.connection.req_packed_commands(packed, 0, count).expect("the server answers");
        assert_eq!(values.len(), count);
    }
}
