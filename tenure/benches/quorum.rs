//! What a quorum costs: a free lock over five healthy nodes, and over three of which one is dead, against the same over one
//! node; how many rounds contenders need; and that a silent node costs its time once.
//!
//! The nodes write to disk before they answer, in memory that looks like a disk, so that they vote from the start. All
//! sides take turns in one run.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::time::{Duration, Instant};

use tenure::store::Quorum;
use tenure::{Lock, Locks};
use testkit::Redis;
use testkit::bench::{Limit, figure, median};

const RUNS: usize = 15;
const PAIRS: usize = 200;

fn main() {
    let mut nodes: Vec<Redis> = (0..5).map(|_| Redis::start_durable()).collect();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        latency(&mut nodes).await;
        contention(&nodes).await;
        silence(&nodes).await;
    });
}

fn url(nodes: &[Redis]) -> String {
    let hosts: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    format!("redlock://{}", hosts.join(","))
}

async fn open(url: &str) -> Locks {
    tenure::open(url).await.expect("the servers can be connected to")
}

fn mutex(locks: &Locks, name: &str) -> Lock {
    locks.mutex(name).build().expect("it is a name")
}

/// The times of so many acquisitions and releases, in microseconds.
async fn pairs(lock: &Lock) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..PAIRS {
        let start = Instant::now();
        let guard = lock.lock().await.expect("the servers answer");
        times.push(start.elapsed().as_secs_f64() * 1e6);
        guard.release().await.expect("the servers answer");
    }
    times
}

async fn latency(nodes: &mut [Redis]) {
    let one = mutex(&open(&nodes[0].url()).await, "alone");
    let five = mutex(&open(&url(nodes)).await, "of five");
    let three = mutex(&open(&url(&nodes[2..])).await, "of three");
    three.lock().await.expect("the servers answer").release().await.expect("the servers answer");
    let (mut of_one, mut of_five, mut of_three) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        of_one.extend(pairs(&one).await);
        of_five.extend(pairs(&five).await);
    }
    let [one_p50, five_p50] = [&of_one, &of_five].map(|times| median(times.iter().copied()));
    figure(
        "latency of a free lock over five nodes, p50, against one",
        five_p50 / one_p50,
        Limit::AtMost(1.6),
        &format!("{five_p50:.0} against {one_p50:.0} µs"),
    );
    let mut again = Vec::new();
    nodes[4].kill();
    // What finds it dead for the first time is no measure of what follows.
    pairs(&three).await;
    for _ in 0..RUNS {
        again.extend(pairs(&one).await);
        of_three.extend(pairs(&three).await);
    }
    let [one_p50, three_p50] = [&again, &of_three].map(|times| median(times.iter().copied()));
    figure(
        "latency of a free lock over three nodes, one dead, p50, against one",
        three_p50 / one_p50,
        Limit::AtMost(1.6),
        &format!("{three_p50:.0} against {one_p50:.0} µs"),
    );
    nodes[4].restart();
}

/// Eight clients that want the same lock all the time.
async fn contention(nodes: &[Redis]) {
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Quorum::connect(&url(nodes)).await.expect("the servers answer"));
    }
    let until = Instant::now() + Duration::from_secs(5);
    let tasks = clients.iter().map(|quorum| {
        let lock = mutex(&Locks::new(quorum.clone()), "contended");
        tokio::spawn(async move {
            let mut turns = 0_u32;
            while Instant::now() < until {
                lock.lock().await.expect("the servers answer").release().await.expect("the servers answer");
                turns += 1;
            }
            turns
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut shares = Vec::new();
    for task in tasks {
        shares.push(task.await.expect("no task panics"));
    }
    let (rounds, collisions) =
        clients.iter().map(Quorum::rounds).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let turns: u32 = shares.iter().sum();
    println!(
        "eight clients: {turns} turns in 5 s, shares {shares:?}; rounds for each {:.2}, lost to others {:.2}",
        rounds as f64 / f64::from(turns),
        collisions as f64 / f64::from(turns)
    );
}

/// What the first acquisition after a node fell silent takes, and those after it.
async fn silence(nodes: &[Redis]) {
    let lock = mutex(&open(&url(nodes)).await, "beside a silent one");
    pairs(&lock).await;
    nodes[3].pause();
    let start = Instant::now();
    let guard = lock.lock().await.expect("four answer");
    let first = start.elapsed();
    guard.release().await.expect("four answer");
    let after = median(pairs(&lock).await);
    nodes[3].resume();
    println!("a node falls silent: {first:?} for the first acquisition, {after:.0} µs for those after it, p50");
}
