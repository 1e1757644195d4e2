//! The store on a Redis Cluster of six real nodes, while slots move and nodes fail.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod committing;
mod connecting;
mod failing;
mod handing;
mod moving;
mod pushes;
mod secure;

use std::future::Future;
use std::time::{Duration, Instant};

use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release, Renew};
use tenure::store::{Push, RedisCluster, Store, Watch};
use tenure::{Error, Key};
use testkit::Cluster;
use tokio::sync::{Mutex, MutexGuard};

/// Six servers at a time are enough for a machine: more would be late to answer each other, and take that for a failure.
static TURN: Mutex<()> = Mutex::const_new(());

async fn cluster() -> (Cluster, MutexGuard<'static, ()>) {
    let turn = TURN.lock().await;
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    (cluster, turn)
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn claim(id: u128) -> Acquire {
    Acquire {
        id: ClaimId::new(id),
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(30),
        patience: Duration::from_secs(15),
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        fence: 0,
        meta: Default::default(),
    }
}

/// A mutex's claim that waits.
fn acquire(id: u128) -> Op {
    Op::Acquire(claim(id))
}

/// The same, but it does not queue.
fn attempt(id: u128) -> Op {
    Op::Acquire(Acquire { patience: Duration::ZERO, ..claim(id) })
}

fn renew(id: u128) -> Op {
    Op::Renew(Renew { id: ClaimId::new(id), ttl: Duration::from_secs(30), fence: 0 })
}

fn release(id: u128) -> Op {
    Op::Release(Release { id: ClaimId::new(id), bury: Duration::ZERO, fence: 0 })
}

fn is_held(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Held { .. })
}

/// The future's output, which must come in time.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("nothing within {limit:?}"))
}

/// Asks until it is so, for twenty seconds.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn connect(cluster: &Cluster) -> RedisCluster {
    within(Duration::from_secs(10), RedisCluster::connect(&cluster.url())).await.unwrap()
}

async fn refusal(url: &str) -> Error {
    within(Duration::from_secs(10), RedisCluster::connect(url)).await.expect_err(url)
}

/// One operation, which must be carried out.
async fn done(store: &impl Store, name: &str, op: Op) -> Outcome {
    within(Duration::from_secs(5), store.apply(&key(name), &op)).await.unwrap_or_else(|error| panic!("{error}")).outcome
}

async fn hold(store: &impl Store, name: &str, id: u128) {
    let outcome = done(store, name, acquire(id)).await;
    assert!(is_held(outcome), "{name}: {outcome:?}");
}

async fn granted(watch: &mut Watch) -> u64 {
    let grant = async {
        loop {
            if let Push::Granted(fence) = watch.next().await {
                return fence;
            }
        }
    };
    within(Duration::from_secs(10), grant).await
}

/// The channels of that lock that are subscribed to at a node.
fn channels(cluster: &Cluster, node: usize, name: &str) -> usize {
    let pattern = format!("tenure:inbox:{{{name}}}:*");
    let channels = cluster.nodes[node].try_command(&["PUBSUB", "SHARDCHANNELS", &pattern]).unwrap_or_default();
    channels.matches("tenure:inbox:").count()
}

/// Lets `waiter` stand in the queue behind `holder`, until its grant can reach it.
async fn queue(cluster: &Cluster, holder: &RedisCluster, waiter: &RedisCluster, name: &str, ids: [u128; 2]) -> Watch {
    hold(holder, name, ids[0]).await;
    let watch = waiter.watch(&key(name), ClaimId::new(ids[1]));
    let outcome = done(waiter, name, acquire(ids[1])).await;
    assert!(matches!(outcome, Outcome::Busy { ahead: 0, .. }), "{outcome:?}");
    until_subscribed(cluster, name).await;
    watch
}

/// Waits until the grant of a lock is listened for at the master of its slot.
async fn until_subscribed(cluster: &Cluster, name: &str) {
    let master = cluster.master_of(cluster.slot(&place(name)));
    until("the inbox is subscribed to", async || channels(cluster, master, name) == 1).await;
}

/// How often a node has been sent that command.
fn calls(cluster: &Cluster, node: usize, command: &str) -> u64 {
    let stats = cluster.nodes[node].command(&["INFO", "commandstats"]);
    let line =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_")?.strip_prefix(command)?.strip_prefix(":calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

/// Where the record of a lock lies.
fn place(name: &str) -> String {
    format!("tenure:{{{name}}}")
}

/// As many names whose locks lie in the slot of that one, without it.
fn neighbours(name: &str, count: usize) -> Vec<String> {
    let slot = crc16(name.as_bytes()) % 16_384;
    let names = (0..).map(|n: u64| n.to_string()).filter(|other| crc16(other.as_bytes()) % 16_384 == slot);
    names.filter(|other| other != name).take(count).collect()
}

/// The cluster's hash, bit by bit as the specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        let shift = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        (0..8).fold(crc ^ (u16::from(byte) << 8), shift)
    })
}
