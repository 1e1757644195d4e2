//! What it takes to pass a contended lock on: how long, how many scripts, how evenly, and how much faster within a process.
//!
//! Time is compared with what waiting by pub/sub takes: a release that publishes, and a waiter that asks again when it is
//! woken. Both sides take turns in one run. The clients are of one process, each with a connection of its own.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tenure::{Lock, Locks};
use testkit::Redis;
use testkit::bench::{Limit, figure, median};
use tokio::sync::mpsc;

const RUNS: usize = 9;
const TURNS: usize = 200;

fn main() {
    let server = Redis::start();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        hand_over(&server).await;
        for waiters in [2, 32, 1_000] {
            scripts(&server, waiters).await;
        }
        shares(&server).await;
        within(&server).await;
    });
}

async fn open(server: &Redis) -> Locks {
    tenure::open(&server.url()).await.expect("the server can be connected to")
}

fn mutex(locks: &Locks, name: &str, local: bool) -> Lock {
    locks.mutex(name).local_hand_off(local).build().expect("it is a name")
}

/// From the beginning of a release to the other's having the lock.
async fn hand_over(server: &Redis) {
    let ours = [mutex(&open(server).await, "passed", true), mutex(&open(server).await, "passed", true)];
    let mut woken = [Woken::connect(server).await, Woken::connect(server).await];
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        for turn in 0..TURNS {
            let (one, other) = (&ours[turn % 2], ours[(turn + 1) % 2].clone());
            let guard = one.lock().await.expect("the server answers");
            let next = tokio::spawn(async move {
                let guard = other.lock().await.expect("the server answers");
                let at = Instant::now();
                guard.release().await.expect("the server answers");
                at
            });
            while one.info().await.expect("the server answers").waiters.is_empty() {}
            let start = Instant::now();
            guard.release().await.expect("the server answers");
            our_times.push((next.await.expect("no task panics") - start).as_secs_f64() * 1e6);
        }
        for _ in 0..TURNS {
            let [one, other] = &mut woken;
            one.lock().await;
            let waiting = Arc::new(AtomicU32::new(0));
            let next = async {
                other.lock_telling(&waiting).await;
                let at = Instant::now();
                other.release().await;
                at
            };
            let first = async {
                while waiting.load(Relaxed) == 0 {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                let start = Instant::now();
                one.release().await;
                start
            };
            let (at, start) = tokio::join!(next, first);
            their_times.push((at - start).as_secs_f64() * 1e6);
        }
    }
    let [ours, theirs] = [&our_times, &their_times].map(|times| median(times.iter().copied()));
    figure(
        "hand-over between two, p50, against wake and ask again",
        ours / theirs,
        Limit::AtMost(0.7),
        &format!("{ours:.0} against {theirs:.0} µs"),
    );
    our_times.sort_by(f64::total_cmp);
    println!("hand-over between two, p99: {:.0} µs", our_times[our_times.len() * 99 / 100]);
}

/// Scripts for each acquisition where so many wait at any time, half of them in each of two clients.
async fn scripts(server: &Redis, waiters: u32) {
    let clients = [open(server).await, open(server).await];
    let (turns, name) = ((3_000 / waiters).max(3), format!("crowded by {waiters}"));
    let before = operations(&clients);
    let calls_before = calls(server);
    let locks = (0..waiters).map(|n| mutex(&clients[n as usize % 2], &name, false));
    take_turns(locks.collect(), turns).await;
    let acquired = operations(&clients) - before;
    let each = (calls(server) - calls_before) as f64 / acquired as f64;
    figure(
        &format!("script calls for each acquisition, {waiters} waiters"),
        each,
        Limit::AtMost(2.2),
        &format!("{acquired} acquisitions"),
    );
}

fn operations(clients: &[Locks]) -> u64 {
    clients.iter().map(|locks| locks.metrics().acquired).sum()
}

fn calls(server: &Redis) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap_or("0,");
    line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number")
}

/// How much the most and the least served of 32 clients differ.
async fn shares(server: &Redis) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let lock = mutex(&open(server).await, "shared out", true);
        tasks.push(tokio::spawn(async move {
            let mut turns = 0_u32;
            while Instant::now() < deadline {
                lock.lock().await.expect("the server answers").release().await.expect("the server answers");
                turns += 1;
            }
            turns
        }));
    }
    let mut turns = Vec::new();
    for task in tasks {
        turns.push(task.await.expect("no task panics"));
    }
    let (least, most) = (turns.iter().min().expect("some"), turns.iter().max().expect("some"));
    let apart = f64::from(most - least) / f64::from(*most);
    figure("shares of 32 contenders, apart by", apart, Limit::AtMost(0.05), &format!("{least} to {most} turns"));
}

/// Hand-overs between tasks of one process, against hand-overs between two clients.
async fn within(server: &Redis) {
    let one = open(server).await;
    let two = [open(server).await, open(server).await];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let locks: Vec<_> = (0..2).map(|_| mutex(&one, &format!("within {run}"), true)).collect();
        ours.push(rate(locks, 20_000).await);
        let locks: Vec<_> = two.iter().map(|locks| mutex(locks, &format!("between {run}"), true)).collect();
        theirs.push(rate(locks, 500).await);
    }
    let [ours, theirs] = [median(ours), median(theirs)];
    figure(
        "hand-overs within a process, against between two",
        ours / theirs,
        Limit::AtLeast(30.0),
        &format!("{ours:.0} against {theirs:.0} a second"),
    );
}

/// A task for each of the locks takes and releases it so many times.
async fn take_turns(locks: Vec<Lock>, turns: u32) {
    let task = |lock: Lock| {
        tokio::spawn(async move {
            for _ in 0..turns {
                lock.lock().await.expect("the server answers").release().await.expect("the server answers");
            }
        })
    };
    for task in locks.into_iter().map(task).collect::<Vec<_>>() {
        task.await.expect("no task panics");
    }
}

async fn rate(locks: Vec<Lock>, turns: u32) -> f64 {
    let start = Instant::now();
    let count = locks.len() as u32;
    take_turns(locks, turns).await;
    f64::from(turns * count) / start.elapsed().as_secs_f64()
}

// -- waiting by pub/sub ----------------------------------------------------------------------------------------------

const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) \
                       redis.call('PUBLISH', 'freed', '') return 1 end return 0";

/// A client that takes `SET NX PX`, and when that fails asks again at each message that the lock is free.
struct Woken {
    connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<redis::PushInfo>,
    id: String,
    /// What the server knows the script by that releases.
    release: String,
}

impl Woken {
    async fn connect(server: &Redis) -> Self {
        let (sender, pushes) = mpsc::unbounded_channel();
        let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).expect("its address is a URL");
        let config = redis::AsyncConnectionConfig::new().set_push_sender(sender);
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&config).await.expect("the server can be connected to");
        connection.subscribe("freed").await.expect("it can be subscribed to");
        let id = format!("{:p}", &pushes);
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(RELEASE).take();
        let release = load.query_async(&mut connection).await.expect("the script is one");
        Self { connection, pushes, id, release }
    }

    async fn lock(&mut self) {
        self.lock_telling(&AtomicU32::new(0)).await;
    }

    async fn lock_telling(&mut self, waiting: &AtomicU32) {
        loop {
            let options = redis::SetOptions::default()
                .conditional_set(redis::ExistenceCheck::NX)
                .with_expiration(redis::SetExpiry::PX(30_000));
            let set: Option<String> =
                self.connection.set_options("woken", &self.id, options).await.expect("the server answers");
            if set.is_some() {
                return;
            }
            waiting.fetch_add(1, Relaxed);
            while self.pushes.recv().await.expect("it is connected").kind != redis::PushKind::Message {}
        }
    }

    async fn release(&mut self) {
        let call = redis::cmd("EVALSHA").arg(&self.release).arg(1).arg("woken").arg(&self.id).take();
        let released: u32 = call.query_async(&mut self.connection).await.expect("the server answers");
        assert_eq!(released, 1);
        // What it published reaches it, too.
        while self.pushes.try_recv().is_ok() {}
    }
}
