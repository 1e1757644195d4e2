//! What a commit of five writes under a held lock costs the server, against the same writes in `MULTI`/`EXEC`, which
//! looks at no lock, leaves no record and does the half of it where one of them fails.
//!
//! ```text
//! cargo bench -p tenure --all-features --bench transaction
//! ```
//!
//! The server's own CPU time is measured, taking turns, medians of many: once with a round trip for each, as a client has
//! it, and once with fifty in a write, which leaves the commands alone.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Connection, ConnectionLike, Pipeline};
use tenure::Key;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome};
use tenure::store::redis_script::{self as script, Call};
use tenure::store::{redis_commit as commit, redis_script};
use tenure::transaction::{Claimed, Commit, Settle, Step, Txid, Verb};
use testkit::Redis;
use testkit::bench::{Limit, figure, median};

const LOCKS: u128 = 200;
const RUNS: usize = 41;
/// How many go in a write where more than one does.
const TOGETHER: usize = 50;

fn main() {
    let mut server = Server::start();
    for (what, writes) in [("of five kinds", mixed as fn(u128) -> Vec<Step>), ("five SETs", sets)] {
        for (how, together) in [("a round trip each", 1), ("fifty in a write", TOGETHER)] {
            server.compare(&format!("server CPU of a commit, {what}, {how}, against MULTI/EXEC"), writes, together);
        }
    }
}

fn write(verb: Verb, key: String, args: &[&str]) -> Step {
    let args = args.iter().map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect();
    Step::Write { verb, key: key.into(), args }
}

fn mixed(i: u128) -> Vec<Step> {
    vec![
        write(Verb::Set, format!("state:{i}"), &["paid"]),
        write(Verb::IncrBy, format!("balance:{i}"), &["-100"]),
        write(Verb::HSet, format!("order:{i}"), &["paid", "100"]),
        write(Verb::Del, format!("reserved:{i}"), &[]),
        write(Verb::SAdd, format!("done:{i}"), &["order 7"]),
    ]
}

fn sets(i: u128) -> Vec<Step> {
    (0..5).map(|n| write(Verb::Set, format!("value {n} of {i}"), &["a value of some bytes"])).collect()
}

struct Server {
    redis: Redis,
    connection: Connection,
    /// Of each lock.
    fences: Vec<u64>,
    /// So many transactions were made so far.
    made: u128,
}

impl Server {
    fn start() -> Self {
        let redis = Redis::start();
        let client = redis::Client::open(redis.url()).expect("its address is a URL");
        let mut connection = client.get_connection().expect("the server can be connected to");
        for source in [redis_script::APPLY.source, commit::COMMIT.source] {
            redis::cmd("SCRIPT").arg("LOAD").arg(source).exec(&mut connection).expect("the script is one");
        }
        Self { redis, connection, fences: Vec::new(), made: 0 }
    }

    /// Prints what a commit costs in units of the same writes without a lock.
    fn compare(&mut self, name: &str, writes: fn(u128) -> Vec<Step>, together: usize) {
        let mut costs = Vec::with_capacity(RUNS);
        for run in 0..RUNS {
            if run % 10 == 0 {
                self.begin_anew();
            }
            let plain: Vec<Vec<u8>> = (0..LOCKS).map(|i| exec(&writes(i))).collect();
            let plain = self.cost(&plain, together, 7);
            let commits: Vec<Vec<u8>> = (0..LOCKS).map(|i| self.commit(i, writes(i))).collect();
            costs.push((self.cost(&commits, together, 1), plain));
        }
        let [ours, theirs] = [median(costs.iter().map(|cost| cost.0)), median(costs.iter().map(|cost| cost.1))];
        let ratio = median(costs.iter().map(|(ours, theirs)| ours / theirs));
        figure(name, ratio, Limit::AtMost(1.3), &format!("a commit {ours:.1} µs, MULTI/EXEC {theirs:.1} µs"));
    }

    fn begin_anew(&mut self) {
        redis::cmd("FLUSHALL").exec(&mut self.connection).expect("the server can be emptied");
        self.fences = (0..LOCKS).map(|i| self.acquire(i)).collect();
        // What each finds is there already, but the records.
        for steps in [mixed as fn(u128) -> Vec<Step>, sets] {
            let plain: Vec<Vec<u8>> = (0..LOCKS).map(|i| exec(&steps(i))).collect();
            self.cost(&plain, TOGETHER, 7);
        }
    }

    fn acquire(&mut self, i: u128) -> u64 {
        let op = Op::Acquire(Acquire {
            id: id(i),
            claim: Claim::EXCLUSIVE,
            ttl: Duration::from_secs(600),
            patience: Duration::ZERO,
            owner: None,
            max: 1,
            memory: Duration::from_secs(60),
            meta: Bytes::from(vec![b'm'; 100]),
            fence: 0,
        });
        let call = Call::new(format!("tenure:{{lock {i}}}").as_bytes(), &op, "tenure:inbox:0123456789abcdef");
        let value = self.connection.req_command(&script::command(&[call])).expect("the server answers");
        match script::reply(&op, value).expect("it is an answer").outcome {
            Outcome::Held { fence, .. } => fence,
            other => panic!("the lock is free: {other:?}"),
        }
    }

    fn commit(&mut self, i: u128, steps: Vec<Step>) -> Vec<u8> {
        let lock = Key::new(format!("lock {i}")).expect("it is a name");
        self.made += 1;
        let txid = Txid::new(lock.clone(), u64::MAX >> 12, self.made);
        let claims = vec![Claimed { lock, id: id(i), fence: self.fences[i as usize] }];
        let settle = Settle::Commit(Commit { txid, claims, steps, memory: Duration::from_secs(3600) });
        commit::command_for("tenure", &settle).expect("it can be carried out").get_packed_command()
    }

    /// Microseconds of the server's CPU for each of them.
    fn cost(&mut self, requests: &[Vec<u8>], together: usize, replies: usize) -> f64 {
        let writes: Vec<Vec<u8>> = requests.chunks(together).map(<[Vec<u8>]>::concat).collect();
        let before = self.redis.cpu_micros();
        for (write, requests) in writes.iter().zip(requests.chunks(together)) {
            let expected = replies * requests.len();
            let values = self.connection.req_packed_commands(write, 0, expected).expect("the server answers");
            assert_eq!(values.len(), expected);
            if replies == 1 {
                let committed = |value: &redis::Value| matches!(value, redis::Value::BulkString(word) if word == b"C");
                assert!(values.iter().all(committed), "{:?}", values[0]);
            }
        }
        (self.redis.cpu_micros() - before) as f64 / requests.len() as f64
    }
}

fn id(i: u128) -> ClaimId {
    ClaimId::new(0x0123_4567_89ab_cdef << 64 | i)
}

fn exec(steps: &[Step]) -> Vec<u8> {
    let mut commands = Pipeline::new();
    commands.cmd("MULTI");
    for step in steps {
        let Step::Write { verb, key, args } = step else { continue };
        let mut command = Cmd::new();
        command.arg(verb.name()).arg(&key[..]);
        args.iter().for_each(|arg| _ = command.arg(&arg[..]));
        commands.add_command(command);
    }
    commands.cmd("EXEC");
    commands.get_packed_pipeline()
}
