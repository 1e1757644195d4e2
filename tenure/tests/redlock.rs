//! A quorum of real servers that stop, die, forget and refuse.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::store::{Quorum, Store};
use tenure::{Error, Guard, Lock, Locks, Result};
use testkit::{Redis, SentinelGroup};

/// Servers that write to disk before they answer, and so vote from the start.
fn durable(n: usize) -> Vec<Redis> {
    (0..n).map(|_| Redis::start_durable()).collect()
}

fn url(servers: &[Redis], options: &str) -> String {
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    format!("redlock://{}?{options}", hosts.join(","))
}

/// One that is silent is told from one that is slow, also on a busy machine.
const PATIENT: &str = "node_timeout=500ms";

async fn client(servers: &[Redis], options: &str) -> Locks {
    within(20, tenure::open(&url(servers, options))).await.expect("the servers answer")
}

fn mutex(locks: &Locks, name: &str) -> Lock {
    locks.mutex(name).ttl(Duration::from_secs(5)).patience(Duration::from_secs(2)).build().unwrap()
}

async fn within<T>(secs: u64, future: impl IntoFuture<Output = T>) -> T {
    let limit = Duration::from_secs(secs);
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("nothing within {limit:?}"))
}

/// Tries until it works, for that many seconds.
async fn soon<T, F: Future<Output = Result<Option<T>>>>(secs: u64, mut attempt: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        let got = attempt().await;
        if let Ok(Some(value)) = got {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(secs), "not within {secs} s: {:?}", got.err());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that an error tells, with its causes.
fn told(error: &Error) -> String {
    use std::error::Error as _;
    let mut told = format!("{error} | {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        told += &format!(" | {cause} | {cause:?}");
        source = cause.source();
    }
    told
}

/// How many of the servers have a holder.
async fn holders(servers: &[Redis], name: &str) -> usize {
    let mut holders = 0;
    for server in servers {
        let store = tenure::store::Redis::connect(&server.url()).await.unwrap();
        holders += store.read(&tenure::Key::new(name).unwrap()).await.unwrap().record.holders.len();
    }
    holders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_and_two_of_five_may_stop_and_a_hold_stays() {
    let servers = durable(5);
    let (locks, other) = (client(&servers, PATIENT).await, client(&servers, PATIENT).await);
    let held = within(5, mutex(&locks, "held").lock()).await.unwrap();
    for stopped in &servers[..2] {
        stopped.pause();
        let fence = held.fence();
        for i in 0..5 {
            let guard = soon(5, async || mutex(&locks, &format!("lock {i}")).try_lock().await).await;
            within(5, guard.release()).await.unwrap();
        }
        assert!(other.mutex("held").ttl(Duration::from_secs(5)).build().unwrap().try_lock().await.unwrap().is_none());
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(held.is_held() && held.fence() == fence, "longer than a ttl");
    }
    servers[..2].iter().for_each(Redis::resume);
    let fence = held.fence();
    assert!(within(10, held.release()).await.unwrap());
    let next = soon(10, async || mutex(&other, "held").try_lock().await).await;
    assert!(next.fence() > fence);
    within(10, next.release()).await.unwrap();
    // What was left at those that had stopped goes, too.
    soon(10, async || Ok((holders(&servers, "held").await == 0).then_some(()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_killed_and_a_majority_gone_is_a_clear_error_in_time() {
    let mut servers = durable(3);
    let locks = client(&servers, PATIENT).await;
    let held = within(5, mutex(&locks, "held").lock()).await.unwrap();
    servers[0].kill();
    let guard = soon(5, async || mutex(&locks, "other").try_lock().await).await;
    within(5, guard.release()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(held.is_held());

    servers[1].kill();
    let start = Instant::now();
    let error = within(5, mutex(&locks, "another").try_lock()).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let text = error.to_string();
    assert!(error.is_transient() && text.contains(&format!("127.0.0.1:{}", servers[0].port())), "{text}");
    within(10, held.lost()).await;

    // With what they had written they vote at once.
    servers[0].restart();
    servers[1].restart();
    let again = soon(10, async || mutex(&locks, "held").try_lock().await).await;
    assert!(again.fence() > held.fence());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_to_disk_is_held_after_a_restart_of_all() {
    let mut servers = durable(3);
    let (locks, other) = (client(&servers, PATIENT).await, client(&servers, PATIENT).await);
    let lock = locks.mutex("held").ttl(Duration::from_secs(20)).build().unwrap();
    let held = within(5, lock.lock()).await.unwrap();
    servers.iter_mut().for_each(Redis::restart);
    let busy = soon(10, async || match mutex(&other, "held").try_lock().await {
        Ok(None) => Ok(Some(())),
        Ok(Some(_)) => panic!("it was forgotten"),
        Err(error) => Err(error),
    });
    busy.await;
    assert!(held.is_held());
    soon(10, async || held.refresh().await.map(Some)).await;
}

/// A node that keeps nothing has no vote for the longest ttl after its start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgot_has_no_vote_for_the_longest_ttl() {
    let mut servers: Vec<Redis> = (0..3).map(|_| Redis::start()).collect();
    let options = "node_timeout=500ms&longest_ttl=4s";
    let lock = |locks: &Locks| {
        let lock = locks.mutex("a").ttl(Duration::from_secs(4)).fence_memory(Duration::from_millis(100));
        lock.watchdog(false).build().unwrap()
    };
    let locks = client(&servers, options).await;
    let error = within(5, lock(&locks).try_lock()).await.unwrap_err();
    assert!(error.to_string().contains("longest ttl"), "they were just started: {error}");
    soon(10, async || lock(&locks).try_lock().await).await.release().await.unwrap();

    // The holder's majority is the first two, of which one forgets.
    servers[2].pause();
    let held = soon(10, async || lock(&locks).try_lock().await).await;
    servers[2].resume();
    servers[1].restart();
    servers[0].pause();
    // One that knew them before, and one that has only just come.
    let newcomer = client(&servers[1..], options).await;
    drop(newcomer);
    let second = soon(20, async || lock(&locks).try_lock().await).await;
    assert!(!held.is_held(), "{:?} too early", held.remaining());
    assert!(second.fence() > held.fence());
    servers[0].resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_at_the_start_comes_later() {
    let mut servers = durable(3);
    servers[2].kill();
    let locks = client(&servers, PATIENT).await;
    let held = within(10, mutex(&locks, "a").lock()).await.unwrap();
    servers[2].restart();
    soon(15, async || Ok((holders(&servers, "a").await == 3).then_some(()))).await;
    within(5, held.release()).await.unwrap();

    servers[1].kill();
    servers[2].kill();
    let error = within(20, tenure::open(&url(&servers, PATIENT))).await.map(drop).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("too few nodes answer"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_no_password_is() {
    let servers: Vec<Redis> = ["s3cret", "s3cret", "other"]
        .map(|word| Redis::start_with(&["--requirepass", word, "--appendonly", "yes", "--appendfsync", "always"]))
        .into();
    let plain = url(&servers, PATIENT);
    let error =
        within(20, tenure::open(&plain.replace("redlock://", "redlock://:s3cret@"))).await.map(drop).unwrap_err();
    assert!(!error.is_transient(), "{}", told(&error));
    assert!(!told(&error).contains("s3cret"), "{}", told(&error));
    assert!(told(&error).contains(&servers[2].port().to_string()), "it says which: {}", told(&error));

    let right = url(&servers[..2], PATIENT).replace("redlock://", "redlock://:s3cret@");
    let quorum = within(20, Quorum::connect(&right)).await.unwrap();
    assert!(!format!("{quorum:?}").contains("s3cret"));
    let nodes = format!("{:?}", quorum.status().await);
    assert!(nodes.contains("127.0.0.1") && !nodes.contains("s3cret"), "{nodes}");
    let locks = Locks::new(quorum);
    let held = within(5, mutex(&locks, "a").lock()).await.unwrap();
    assert!(!format!("{locks:?} {held:?}").contains("s3cret"));
    within(5, held.release()).await.unwrap();
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_several_kinds_make_a_quorum() {
    let mut servers = durable(2);
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", folder.path().join("locks.db").display());
    let nodes = [servers[0].url(), servers[1].url(), file];
    let encoded: Vec<String> =
        nodes.iter().map(|node| format!("node={}", node.replace(':', "%3A").replace('/', "%2F"))).collect();
    let url = format!("redlock:?{}&{PATIENT}", encoded.join("&"));
    let (one, two) = (within(10, tenure::open(&url)).await.unwrap(), within(10, tenure::open(&url)).await.unwrap());
    let held = within(5, mutex(&one, "a").lock()).await.unwrap();
    assert!(mutex(&two, "a").try_lock().await.unwrap().is_none());
    servers[0].kill();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(held.is_held());
    let fence = held.fence();
    within(5, held.release()).await.unwrap();
    assert!(soon(5, async || mutex(&two, "a").try_lock().await).await.fence() > fence);
}

/// A node may fail over by itself: its failover loses nothing, though it forgets, for the others remember.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_sentinels_fails_over_while_a_hold_lasts() {
    let (servers, mut group) = (durable(2), SentinelGroup::start());
    let nodes = [servers[0].url(), servers[1].url(), group.url()];
    let encoded: Vec<String> =
        nodes.iter().map(|node| format!("node={}", node.replace(':', "%3A").replace('/', "%2F"))).collect();
    // What is behind the Sentinels has no vote before it has run for a longest ttl.
    let url = format!("redlock:?{}&{PATIENT}&longest_ttl=5s", encoded.join("&"));
    let locks = within(10, tenure::open(&url)).await.unwrap();
    let held = within(5, mutex(&locks, "a").lock()).await.unwrap();
    let old = group.master();
    group.nodes[old].kill();
    tokio::task::block_in_place(|| group.master_after(old));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(held.is_held());
    let fence = held.fence();
    assert!(within(5, held.release()).await.unwrap());
    let next = within(5, mutex(&locks, "a").lock()).await.unwrap();
    assert!(next.fence() > fence);
    within(5, next.release()).await.unwrap();
}

/// The hold goes back and forth by pushes from the home: far more often than by asking again in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_client_is_handed_the_lock_by_a_push() {
    let servers = durable(5);
    let clients = [client(&servers, PATIENT).await, client(&servers, PATIENT).await];
    let start = Instant::now();
    let take = |locks: Locks| {
        tokio::spawn(async move {
            let mut fences = Vec::new();
            for _ in 0..50 {
                let guard: Guard = within(30, mutex(&locks, "a").lock()).await.unwrap();
                fences.push(guard.fence());
                tokio::time::sleep(Duration::from_millis(2)).await;
                within(5, guard.release()).await.unwrap();
            }
            fences
        })
    };
    let tasks = clients.map(take);
    let mut all = Vec::new();
    for task in tasks {
        let fences = task.await.unwrap();
        assert!(fences.is_sorted());
        all.extend(fences);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 100, "none is given twice");
    println!("100 hand-overs in {:?}", start.elapsed());
    // A patience of 2 s is refreshed after 700 ms: that long it would take each time without a push.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// Many, on all nodes and with one that stops and goes on: never two at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_two_at_a_time_while_servers_stop_and_go_on() {
    let servers = durable(5);
    let inside = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (locks, inside, over) = (client(&servers, "node_timeout=100ms").await, inside.clone(), over.clone());
        tasks.push(tokio::spawn(async move {
            let mut had = 0;
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                let Ok(guard) = mutex(&locks, "a").lock().timeout(Duration::from_secs(20)).await else { continue };
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two are in");
                tokio::time::sleep(Duration::from_millis(3)).await;
                assert!(guard.is_held());
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                let _ = guard.release().await;
                had += 1;
            }
            had
        }));
    }
    for stopped in [0, 3, 1, 4] {
        servers[stopped].pause();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        servers[stopped].resume();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut had = Vec::new();
    for task in tasks {
        had.push(within(60, task).await.unwrap());
    }
    println!("shares {had:?}");
    assert!(had.iter().all(|had| *had > 0), "{had:?}");
}
