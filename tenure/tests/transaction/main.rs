//! The fenced commit against real servers: all or nothing, only for who holds, decided once, and known afterwards.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod against;
mod blocking;
mod commit;
mod lost;
mod random;
mod replies;
mod told;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::store::{Redis, Store};
use tenure::transaction::{Outcome, Reason};
use tenure::{ErrorKind, Key, Lock, Locks};
use testkit::{Proxy, cancelled_after};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn client(url: &str) -> Locks {
    Locks::new(within(Redis::connect(url)).await.unwrap())
}

/// A server, and a client of it.
async fn site() -> (testkit::Redis, Locks) {
    let server = testkit::Redis::start();
    let locks = client(&server.url()).await;
    (server, locks)
}

/// A server, and a client that reaches it through a proxy.
async fn behind_proxy() -> (testkit::Redis, Proxy, Locks) {
    let server = testkit::Redis::start();
    let proxy = Proxy::to(server.port());
    let locks = client(&proxy.url()).await;
    (server, proxy, locks)
}

fn mutex(locks: &Locks, name: &str) -> Lock {
    locks.mutex(name).build().unwrap()
}

/// The future's output, which must come in time.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it comes in time")
}

/// Asks until it is so, for ten seconds.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came about that {what}");
        tokio::time::sleep(ms(5)).await;
    }
}

/// What a string is, as the server answers; empty where there is none.
fn get(server: &testkit::Redis, key: &str) -> String {
    text(&server.command(&["GET", key]))
}

/// The text of a bulk reply.
fn text(reply: &str) -> String {
    if reply.starts_with("$-1") || reply.starts_with('_') {
        return String::new();
    }
    reply.trim_end().lines().nth(1).unwrap_or(reply).to_owned()
}

fn exists(server: &testkit::Redis, key: &str) -> bool {
    server.command(&["EXISTS", key]).contains('1')
}

/// How often scripts were called.
fn calls(server: &testkit::Redis) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

async fn is_free(store: &dyn Store, name: &str) -> bool {
    let record = store.read(&Key::new(name).unwrap()).await.unwrap().record;
    record.holders.is_empty() && record.queue.is_empty()
}

/// Polls it once, which must not be the end of it.
async fn begins_to_wait<F: Future>(mut future: std::pin::Pin<&mut F>) {
    std::future::poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

/// The reason, which it must have been rolled back for.
#[track_caller]
fn reason(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::RolledBack(reason) => reason,
        other => panic!("it should have been rolled back, and is {other}"),
    }
}

/// The error that it failed with.
#[track_caller]
fn failure(outcome: Outcome) -> tenure::Error {
    match reason(outcome) {
        Reason::Failed(error) => error,
        other => panic!("{other}"),
    }
}
