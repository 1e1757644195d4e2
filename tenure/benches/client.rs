//! What a hold costs its client: a lock taken and released through the whole library, against a bare client that does
//! `SET NX PX` and a compare-and-delete by script; and the same scripts over the client crate's own connection.
//!
//! Each figure is the median of fifteen short runs in which the sides take turns, on one worker thread.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release};
use tenure::store::redis_script;
use tenure::{Guard, Lock, Locks};
use testkit::Redis as Server;
use testkit::bench::{Limit, Stopwatch, figure, median, resident_bytes};

const RUNS: usize = 15;

const DELETE_OWN: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

fn main() {
    let server = Server::start();
    // The scheduler that programs have by default, with one worker.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime can be built");
    let all = runtime.spawn(async move {
        let locks = tenure::open(&server.url()).await.expect("the server can be connected to");
        let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).expect("its address is a URL");
        let stock = client.get_multiplexed_async_connection().await.expect("the server can be connected to");
        latency(&server, &locks, &stock).await;
        throughput(&server, &locks, &stock).await;
        hand_over(&server.url()).await;
        memory(&locks).await;
    });
    runtime.block_on(all).expect("no task panics");
}

/// One pair of calls at a time.
async fn latency(server: &Server, locks: &Locks, stock: &MultiplexedConnection) {
    let [ours, bare] = compare(server, 1, 1_500, [&Side::Tenure(locks.clone()), &Side::Bare(stock.clone())]).await;
    at_most("latency of a free lock, 1 task", 1.15, ours.time, bare.time);
    at_most("server CPU of a free lock, 1 task", 2.0, ours.server, bare.server);
}

async fn throughput(server: &Server, locks: &Locks, stock: &MultiplexedConnection) {
    let sides = [&Side::Tenure(locks.clone()), &Side::SameScripts(stock.clone()), &Side::Bare(stock.clone())];
    let [ours, theirs, bare] = compare(server, 128, 200, sides).await;
    let absolutes = format!("{:.0} against {:.0} pairs/s", 1e6 / ours.time, 1e6 / theirs.time);
    figure("throughput of free locks, 128 tasks", theirs.time / ours.time, Limit::AtLeast(1.8), &absolutes);
    at_most("client CPU of free locks, 128 tasks", 0.4, ours.client, theirs.client);
    at_most("server CPU of free locks, 128 tasks", 2.0, ours.server, bare.server);
}

fn at_most(name: &str, limit: f64, ours: f64, theirs: f64) {
    figure(name, ours / theirs, Limit::AtMost(limit), &format!("{ours:.2} against {theirs:.2} µs a pair"));
}

/// Two clients pass one lock to and fro.
async fn hand_over(url: &str) {
    let clients = [tenure::open(url).await.expect("it opens"), tenure::open(url).await.expect("it opens")];
    let mut took = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let turns = 500;
        let tasks = clients.clone().map(|locks| {
            tokio::spawn(async move {
                let lock = locks.mutex("to and fro").build().expect("it is a name");
                for _ in 0..turns {
                    let guard = lock.lock().await.expect("the server answers");
                    guard.release().await.expect("the server answers");
                }
            })
        });
        for task in tasks {
            task.await.expect("no task panics");
        }
        took.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(2 * turns));
    }
    println!("a contended lock between two clients takes {:.1} µs for each turn", median(took));
}

/// What the process grows by for each lock that it holds.
async fn memory(locks: &Locks) {
    let (count, before) = (100_000, resident_bytes());
    let mut guards = Vec::with_capacity(count);
    for n in 0..count {
        let lock = locks.mutex(format!("held {n}")).build().expect("it is a name");
        guards.push(lock.lock().await.expect("the server answers"));
    }
    let each = (resident_bytes() - before) as f64 / count as f64;
    figure(
        "memory of a held lock, KiB",
        each / 1024.0,
        Limit::AtMost(1.0),
        &format!("{each:.0} bytes each of {count}"),
    );
    assert!(guards.iter().all(Guard::is_held));
}

/// Who takes and releases.
enum Side {
    Tenure(Locks),
    Bare(MultiplexedConnection),
    SameScripts(MultiplexedConnection),
}

type Pairs = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Side {
    /// One task's work: a lock of its own, so many times.
    fn work(&self, task: u32, pairs: u32) -> Pairs {
        match self {
            Side::Tenure(locks) => {
                Box::pin(tenure_pairs(locks.mutex(name(task)).build().expect("it is a name"), pairs))
            }
            Side::Bare(stock) => Box::pin(bare_pairs(stock.clone(), task, pairs)),
            Side::SameScripts(stock) => Box::pin(script_pairs(stock.clone(), task, pairs)),
        }
    }
}

fn name(task: u32) -> String {
    format!("lock {task}")
}

async fn tenure_pairs(lock: Lock, pairs: u32) {
    for _ in 0..pairs {
        let guard = lock.lock().await.expect("the server answers");
        assert!(guard.release().await.expect("the server answers"));
    }
}

async fn bare_pairs(mut stock: MultiplexedConnection, task: u32, pairs: u32) {
    let load = redis::cmd("SCRIPT").arg("LOAD").arg(DELETE_OWN).take();
    let sha: String = load.query_async(&mut stock).await.expect("it loads");
    let key = format!("bare:{}", name(task));
    for pair in 0..pairs {
        let id = ClaimId::new(u128::from(task) << 64 | u128::from(pair)).to_string();
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(&id).arg("NX").arg("PX").arg(30_000);
        let _: () = set.query_async(&mut stock).await.expect("the server answers");
        let mut delete_own = redis::cmd("EVALSHA");
        delete_own.arg(&sha).arg(1).arg(&key).arg(&id);
        let deleted: u32 = delete_own.query_async(&mut stock).await.expect("the server answers");
        assert_eq!(deleted, 1);
    }
}

async fn script_pairs(mut stock: MultiplexedConnection, task: u32, pairs: u32) {
    let key = format!("tenure:{{{}}}", name(task));
    for pair in 0..pairs {
        let id = ClaimId::new(u128::from(task) << 64 | u128::from(pair));
        let release = Op::Release(Release { id, bury: Duration::ZERO, fence: 0 });
        for op in [acquire(id), release] {
            let command = redis_script::command(&[redis_script::Call::new(key.as_bytes(), &op, "")]);
            let value = stock.send_packed_command(&command).await.expect("the server answers");
            let outcome = redis_script::reply(&op, value).expect("as a script does").outcome;
            assert!(matches!(outcome, Outcome::Held { .. } | Outcome::Gone { .. }), "{outcome:?}");
        }
    }
}

fn acquire(id: ClaimId) -> Op {
    Op::Acquire(Acquire {
        id,
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(30),
        patience: Duration::from_secs(3),
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        meta: r#"{"host":"a-machine","pid":12345,"purpose":"benchmark"}"#.into(),
        fence: 0,
    })
}

/// What a pair takes, in microseconds: of time, of the client's CPU, of the server's.
struct Pair {
    time: f64,
    client: f64,
    server: f64,
}

/// What a pair costs each side, as the median of runs that take turns.
async fn compare<const N: usize>(server: &Server, tasks: u32, pairs: u32, sides: [&Side; N]) -> [Pair; N] {
    let mut costs = [const { Vec::new() }; N];
    let all = f64::from(tasks) * f64::from(pairs);
    for _ in 0..RUNS {
        for (side, costs) in sides.iter().zip(&mut costs) {
            let (stopwatch, server_before) = (Stopwatch::start(), server.cpu_micros());
            let tasks: Vec<_> = (0..tasks).map(|task| tokio::spawn(side.work(task, pairs))).collect();
            for task in tasks {
                task.await.expect("no task panics");
            }
            let cost = stopwatch.stop();
            costs.push([cost.time, cost.cpu, (server.cpu_micros() - server_before) as f64].map(|micros| micros / all));
        }
    }
    costs.map(|costs| {
        let [time, client, server] = [0, 1, 2].map(|i| median(costs.iter().map(|cost| cost[i])));
        Pair { time, client, server }
    })
}
