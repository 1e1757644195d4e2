//! Random commands over keys of random types: a commit is carried out exactly where each command could have been, and
//! leaves what `MULTI`/`EXEC` leaves; where not, nothing has changed.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use redis::{Connection, Value, cmd};
use tenure::transaction::{Step, Transaction};

use super::*;

const ROUNDS: u64 = 400;
const KEYS: [&str; 4] = ["k0", "k1", "k2", "{k}\r\n3"];
const TEXTS: [&str; 7] = ["a", "b", "7", "-3", "9223372036854775806", "007", ""];

#[tokio::test]
async fn a_commit_does_what_exec_does_or_nothing() {
    let server = testkit::Redis::start();
    let locks = client(&server.url()).await;
    let open = |database: &str| {
        let url = format!("{}/{database}", server.url());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    };
    // The data of the one and of the other.
    let (mut ours, mut theirs) = (open("0"), open("1"));
    let (mut committed, mut refused, mut careful) = (0, 0, 0);
    let first: u64 = std::env::var("TENURE_SEED").map_or(0, |seed| seed.parse().unwrap());
    for seed in first..first + ROUNDS {
        let random = &mut StdRng::seed_from_u64(seed);
        let guard = mutex(&locks, "a").lock().await.unwrap();
        for command in setup(random) {
            command.exec(&mut ours).unwrap();
            command.exec(&mut theirs).unwrap();
        }
        let before = dump(&mut ours);
        assert_eq!(before, dump(&mut theirs), "seed {seed}");
        let mut tx = guard.begin_transaction().begin().await.unwrap();
        (0..random.random_range(1..6)).for_each(|_| stage(random, &mut tx));
        let steps = tx.steps().to_vec();
        let expected = is_as_expected(&steps, &mut theirs) && exec(&steps, &mut theirs);
        let outcome = tx.commit().await;
        let after = dump(&mut ours);
        match &outcome {
            Outcome::Committed => {
                committed += 1;
                assert!(expected, "seed {seed}: {steps:?}");
                assert_eq!(after, dump(&mut theirs), "seed {seed}: {steps:?}");
            }
            Outcome::RolledBack(reason) => {
                assert_eq!(after, before, "seed {seed}: {reason}: {steps:?}");
                refused += 1;
                // An empty hash is gone, and could become a list; we do not look so far.
                let is_careful = matches!(reason, Reason::Failed(error) if error.kind() == ErrorKind::Invalid);
                careful += u32::from(expected && is_careful);
                assert!(!expected || is_careful, "seed {seed}: {reason}: {steps:?}");
            }
            Outcome::Unknown(_) => panic!("seed {seed}: {outcome}"),
        }
        cmd("DEL").arg(&KEYS).exec(&mut ours).unwrap();
        cmd("DEL").arg(&KEYS).exec(&mut theirs).unwrap();
        guard.release().await.unwrap();
    }
    assert!(committed > 60 && refused > 60 && careful < 20, "{committed} {refused} {careful}");
}

/// Something under some of the keys.
fn setup(random: &mut StdRng) -> Vec<redis::Cmd> {
    let mut commands = Vec::new();
    for key in KEYS {
        let text = TEXTS[random.random_range(0..TEXTS.len())];
        let command = match random.random_range(0..7) {
            0 => cmd("SET").arg(key).arg(text).take(),
            1 => cmd("SET").arg(key).arg(random.random_range(-9..9)).take(),
            2 => cmd("HSET").arg(key).arg("a").arg(text).take(),
            3 => cmd("RPUSH").arg(key).arg(text).take(),
            4 => cmd("SADD").arg(key).arg("a").arg(text).take(),
            5 => cmd("ZADD").arg(key).arg(1).arg(text).take(),
            _ => continue,
        };
        commands.push(command);
        if random.random_bool(0.3) {
            commands.push(cmd("PEXPIRE").arg(key).arg(600_000).take());
        }
    }
    commands
}

fn stage(random: &mut StdRng, tx: &mut Transaction) {
    let key = KEYS[random.random_range(0..KEYS.len())];
    let text = TEXTS[random.random_range(0..TEXTS.len())];
    let by = [1, -1, 5, i64::MAX, i64::MIN][random.random_range(0..5)];
    match random.random_range(0..16) {
        0 | 1 => tx.set(key, text),
        2 => tx.set_for(key, text, ms(500_000)),
        3 => tx.del(key),
        4 | 5 => tx.incr(key, by),
        6 => tx.hset(key, text, "v"),
        7 => tx.hdel(key, text),
        8 => tx.lpush(key, text),
        9 => tx.rpush(key, text),
        10 => tx.sadd(key, text),
        11 => tx.srem(key, text),
        12 => tx.zadd(key, f64::from(random.next_u32()) / 8.0, text),
        13 => tx.expire(key, ms(700_000)),
        14 => tx.expect(key, text),
        _ => tx.expect_absent(key),
    };
}

fn is_as_expected(steps: &[Step], connection: &mut Connection) -> bool {
    steps.iter().all(|step| match step {
        Step::Expect { key, value: Some(value) } => {
            let is: Result<Option<Vec<u8>>, _> = cmd("GET").arg(&key[..]).query(connection);
            is.is_ok_and(|is| is.as_deref() == Some(&value[..]))
        }
        Step::Expect { key, value: None } => cmd("EXISTS").arg(&key[..]).query::<u8>(connection).unwrap() == 0,
        _ => true,
    })
}

/// Runs the commands as one transaction of the server's own; whether none failed. Those that did not are carried out.
fn exec(steps: &[Step], connection: &mut Connection) -> bool {
    cmd("MULTI").exec(connection).unwrap();
    for step in steps {
        if let Step::Write { verb, key, args } = step {
            let mut command = cmd(verb.name());
            command.arg(&key[..]);
            args.iter().for_each(|arg| _ = command.arg(&arg[..]));
            command.exec(connection).unwrap();
        }
    }
    let packed = cmd("EXEC").get_packed_command();
    match redis::ConnectionLike::req_packed_command(connection, &packed) {
        Ok(Value::Array(values)) => !values.iter().any(|value| matches!(value, Value::ServerError(_))),
        other => panic!("{other:?}"),
    }
}

/// What lies under each key, and whether it expires.
fn dump(connection: &mut Connection) -> String {
    let mut text = String::new();
    for key in KEYS {
        let kind: String = cmd("TYPE").arg(key).query(connection).unwrap();
        let read = match kind.as_str() {
            "string" => cmd("GET").arg(key).take(),
            "hash" => cmd("HGETALL").arg(key).take(),
            "list" => cmd("LRANGE").arg(key).arg(0).arg(-1).take(),
            "set" => cmd("SMEMBERS").arg(key).take(),
            "zset" => cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES").take(),
            _ => continue,
        };
        let value: Value = read.query(connection).unwrap();
        let value = match value {
            Value::Array(values) if matches!(kind.as_str(), "set" | "hash") => {
                let step = if kind == "hash" { 2 } else { 1 };
                let mut items: Vec<String> = values.chunks(step).map(|item| format!("{item:?}")).collect();
                items.sort();
                format!("{items:?}")
            }
            value => format!("{value:?}"),
        };
        let ttl: i64 = cmd("PTTL").arg(key).query(connection).unwrap();
        // To the hundred seconds: those of the two are not of the same moment.
        writeln!(text, "{key:?} {kind} {value} {}", if ttl < 0 { ttl } else { (ttl + 50_000) / 100_000 }).unwrap();
    }
    text
}
