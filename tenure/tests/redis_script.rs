//! What the scripts leave on the server: nothing without an expiry, nothing once that has passed, and what is not theirs as
//! it was.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Connection, ConnectionLike, Value};
use tenure::ErrorKind;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release, Renew, Was};
use tenure::store::redis_script::{self as script, Call};
use testkit::Redis;

/// The fence memory of these tests.
const MEMORY: Duration = Duration::from_millis(200);

fn connect(redis: &Redis) -> Connection {
    let mut server = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    for source in [script::APPLY.source, script::KEEP.source, script::READ.source] {
        redis::cmd("SCRIPT").arg("LOAD").arg(source).exec(&mut server).unwrap();
    }
    server
}

fn acquire(id: u128, claim: Claim, ttl: u64, patience: u64) -> Op {
    let (ttl, patience) = (Duration::from_millis(ttl), Duration::from_millis(patience));
    let meta = Bytes::from_static(b"somebody");
    Op::Acquire(Acquire {
        id: ClaimId::new(id),
        claim,
        ttl,
        patience,
        owner: None,
        max: 1,
        memory: MEMORY,
        meta,
        fence: 0,
    })
}

fn release(id: u128) -> Op {
    Op::Release(Release { id: ClaimId::new(id), bury: Duration::ZERO, fence: 0 })
}

fn apply(server: &mut Connection, key: &str, op: &Op) -> Outcome {
    script::reply(op, ask(server, &[(key, op)]).remove(0)).unwrap().outcome
}

fn ask(server: &mut Connection, ops: &[(&str, &Op)]) -> Vec<Value> {
    let calls: Vec<_> = ops.iter().map(|(key, op)| Call::new(key.as_bytes(), op, "")).collect();
    // Unlike `req_command`, this passes a server's error on as a value.
    let values = server.req_packed_commands(&script::command(&calls).get_packed_command(), 0, 1).unwrap();
    script::replies(ops.len(), values.into_iter().next().unwrap()).unwrap()
}

/// Milliseconds left for every key there is.
fn ttls(server: &mut Connection) -> BTreeMap<String, i64> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(server).unwrap();
    keys.into_iter().map(|key| (key.clone(), redis::cmd("PTTL").arg(key).query(server).unwrap())).collect()
}

#[test]
fn every_key_expires_and_nothing_is_left_after_the_memory() {
    let redis = Redis::start();
    let mut server = connect(&redis);
    let ops = [
        ("held", acquire(1, Claim::EXCLUSIVE, 500, 0)),
        ("renewed", acquire(1, Claim::EXCLUSIVE, 100, 0)),
        ("renewed", Op::Renew(Renew { id: ClaimId::new(1), ttl: Duration::from_millis(500), fence: 0 })),
        ("released", acquire(1, Claim::EXCLUSIVE, 10_000, 0)),
        ("released", release(1)),
        ("awaited", acquire(1, Claim::EXCLUSIVE, 200, 0)),
        ("awaited", acquire(2, Claim::EXCLUSIVE, 200, 500)),
        ("buried", Op::Release(Release { id: ClaimId::new(1), bury: Duration::from_millis(500), fence: 0 })),
    ];
    let crowds = (0..100).flat_map(|id| {
        let readers = ("readers", acquire(id, Claim::SHARED, 500, 0));
        [
            readers,
            ("writers", acquire(id, Claim::EXCLUSIVE, 500, 500)),
            ("empty", acquire(id, Claim::SHARED, 10_000, 0)),
        ]
    });
    let emptied = (0..100).map(|id| ("empty", release(id)));
    let mut ttls = BTreeMap::new();
    for (key, op) in ops.into_iter().chain(crowds).chain(emptied) {
        apply(&mut server, key, &op);
        ttls.insert(key, redis::cmd("PTTL").arg(key).query::<i64>(&mut server).unwrap());
    }
    assert_eq!(ttls.len(), 8);
    for (key, ttl) in &ttls {
        let memory = MEMORY.as_millis() as i64;
        // Where somebody is in, the key stays for up to its memory and a second longer: `short.lua`.
        let most = if ["released", "empty"].contains(key) { memory } else { 500 + memory + memory + 1_000 };
        assert!((0..=most + 1).contains(ttl), "{key} has {ttl} ms left, which should be at most {most}");
    }
    let deadline = Instant::now() + Duration::from_millis(1_901);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(self::ttls(&mut server), BTreeMap::new());
}

/// The short way of `short.lua`, also once the first term has passed, when the record's bound on the next expiry is behind
/// the clock: that is a third of all renewals.
#[test]
fn a_renewal_writes_three_numbers_in_whichever_term_it_comes() {
    let redis = Redis::start();
    let mut server = connect(&redis);
    let Outcome::Held { fence, .. } = apply(&mut server, "held", &acquire(1, Claim::EXCLUSIVE, 400, 0)) else {
        panic!("it is free")
    };
    let begun = Instant::now();
    let mut renewals = 0;
    while begun.elapsed() < Duration::from_millis(900) {
        std::thread::sleep(Duration::from_millis(25));
        let ttl = Duration::from_millis(400);
        let renewed = apply(&mut server, "held", &Op::Renew(Renew { id: ClaimId::new(1), ttl, fence }));
        assert!(matches!(renewed, Outcome::Held { fence: same, .. } if same == fence), "{renewed:?}");
        renewals += 1;
    }
    let stats = redis.command(&["INFO", "commandstats"]);
    let calls = |command: &str| stats.matches(&format!("cmdstat_{command}:calls={renewals},")).count();
    assert_eq!((calls("setrange"), stats.contains("cmdstat_set:calls=1,")), (1, true), "{renewals} renewals: {stats}");
    // The key's expiry lies at a multiple of 1.2 s, which was passed once at the most.
    let is_seldom = !stats.contains("cmdstat_pexpireat") || stats.contains("cmdstat_pexpireat:calls=1,");
    assert!(is_seldom, "{renewals} renewals: {stats}");
}

#[test]
fn without_a_memory_an_unused_lock_leaves_no_key() {
    let redis = Redis::start();
    let mut server = connect(&redis);
    let forgetful = |id| match acquire(id, Claim::SHARED, 10_000, 0) {
        Op::Acquire(acquire) => Op::Acquire(Acquire { memory: Duration::ZERO, ..acquire }),
        _ => unreachable!("it is an acquisition"),
    };
    for id in 0..10 {
        apply(&mut server, "a", &forgetful(id));
    }
    (0..10).for_each(|id| _ = apply(&mut server, "a", &release(id)));
    // A fence that is not behind the clock is remembered until it is.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !ttls(&mut server).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", ttls(&mut server));
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let redis = Redis::start();
    let mut server = connect(&redis);
    let foreign: [&[&str]; 8] = [
        &["SET", "key", ""],
        &["SET", "key", "somebody else's, and long enough to be a record of ours by its length"],
        &["SET", "key", "tenure\u{1}, of a version that is not known here any more, and as long as any record"],
        &[
            "SET",
            "key",
            "tenure3, of a version that is not known here yet, and as long as any record of this one would be",
        ],
        &["RPUSH", "key", "a", "list"],
        &["SADD", "key", "set"],
        &["HSET", "key", "field", "value"],
        &["HSET", "key", "h", "somebody else's, and long enough to be a header of ours by its length"],
    ];
    let ops = [
        acquire(1, Claim::EXCLUSIVE, 10_000, 10_000),
        release(1),
        Op::Renew(Renew { id: ClaimId::new(1), ttl: MEMORY, fence: 0 }),
    ];
    for command in foreign {
        redis::cmd("DEL").arg("key").exec(&mut server).unwrap();
        redis::cmd(command[0]).arg(&command[1..]).exec(&mut server).unwrap();
        let dump = |server: &mut Connection| redis::cmd("DUMP").arg("key").query::<Vec<u8>>(server).unwrap();
        let before = dump(&mut server);
        for op in &ops {
            // Others in the same call are not concerned.
            for calls in [&[("key", op)][..], &[("other", op), ("key", op), ("key", op)]] {
                for ((key, op), value) in calls.iter().zip(ask(&mut server, calls)) {
                    let kind = script::reply(op, value).map_err(|error| error.kind());
                    let expected = (*key == "key").then_some(ErrorKind::Foreign);
                    assert_eq!(kind.err(), expected, "{command:?} {op:?}");
                }
            }
        }
        let read = server.req_command(&script::read_command(b"key")).unwrap();
        assert_eq!(script::record(read).unwrap_err().kind(), ErrorKind::Foreign, "{command:?}");
        assert_eq!(dump(&mut server), before, "{command:?}");
    }
}

/// A release that shares its call with a record that somebody damaged would else be carried out, asked for again, and told
/// that there was nothing to release.
#[test]
fn a_record_that_was_cut_short_or_filled_with_anything_concerns_itself_alone() {
    let redis = Redis::start();
    let mut server = connect(&redis);
    let renewal = Op::Renew(Renew { id: ClaimId::new(1), ttl: MEMORY, fence: 1 });
    let [tries, waits] = [0, 10_000].map(|patience| acquire(1, Claim::EXCLUSIVE, 10_000, patience));
    let asks = [tries, waits, renewal, release(1)];
    for (count, filler, length) in damages() {
        let mut damaged = b"tenure2".to_vec();
        damaged.push(count);
        damaged.resize(length, filler);
        for (ask, is_crowd) in asks.iter().flat_map(|ask| [(ask, false), (ask, true)]) {
            redis::cmd("DEL").arg("damaged").exec(&mut server).unwrap();
            match is_crowd {
                false => redis::cmd("SET").arg("damaged").arg(&damaged).exec(&mut server).unwrap(),
                true => {
                    let own = [&b"e"[..], ClaimId::new(1).as_bytes()].concat();
                    let hash = redis::cmd("HSET")
                        .arg("damaged")
                        .arg("h")
                        .arg(&damaged)
                        .arg(own)
                        .arg(&damaged)
                        .exec(&mut server);
                    hash.unwrap();
                }
            }
            redis::cmd("PEXPIRE").arg("damaged").arg(60_000).exec(&mut server).unwrap();
            for (key, id) in [("before", 2), ("after", 3)] {
                apply(&mut server, key, &acquire(id, Claim::EXCLUSIVE, 10_000, 0));
            }
            let calls = [("before", &release(2)), ("damaged", ask), ("after", &release(3))];
            let replies = self::ask(&mut server, &calls);
            for (n, op) in [(0, calls[0].1), (2, calls[2].1)] {
                let outcome = script::reply(op, replies[n].clone()).map(|reply| reply.outcome);
                let what = format!("{count} {filler} {length} {is_crowd} {ask:?}: {replies:?}");
                assert_eq!(outcome.ok(), Some(Outcome::Gone { was: Was::Holding }), "{what}");
            }
        }
    }
}

/// How many entries it says there are, what it is filled with, and how long it is.
fn damages() -> impl Iterator<Item = (u8, u8, usize)> {
    let lengths = [8, 55, 56, 57, 104, 111, 112, 113, 114, 119, 120, 121, 200];
    let counts = [0, 1, 2, 255].into_iter().flat_map(|count| [(count, 0), (count, b'x')]);
    counts.flat_map(move |(count, filler)| lengths.map(|length| (count, filler, length)))
}

#[test]
fn what_is_read_is_what_holds_at_the_servers_clock() {
    let redis = Redis::start();
    let mut server = connect(&redis);
    for readers in [1, 3, 30] {
        let key = format!("{readers} readers");
        (0..readers).for_each(|id| _ = apply(&mut server, &key, &acquire(id, Claim::SHARED, 10_000, 0)));
        apply(&mut server, &key, &acquire(100, Claim::EXCLUSIVE, 10_000, 10_000));
        let seen = script::record(server.req_command(&script::read_command(key.as_bytes())).unwrap()).unwrap();
        assert_eq!((seen.record.holders.len(), seen.record.queue.len()), (readers as usize, 1));
        assert!(seen.record.holders.iter().all(|entry| entry.until > seen.now && entry.meta == "somebody"));
    }
    let nothing = server.req_command(&script::read_command(b"unused")).unwrap();
    assert!(matches!(&nothing, Value::Array(items) if items[2] == Value::Nil));
    assert!(script::record(nothing).unwrap().record.is_empty());
}
