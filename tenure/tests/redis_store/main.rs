//! The Redis store against real servers, and against what happens to them.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod connecting;
mod faults;
mod handing;
mod holder;
mod pushes;
mod refusals;
mod replicas;

use std::future::Future;
use std::time::{Duration, Instant};

use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release};
use tenure::store::{Redis, Store};
use tenure::{Error, Key};

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// A mutex's claim that waits for five seconds.
fn acquire(id: u128) -> Op {
    Op::Acquire(claim(id))
}

/// The same, but it does not queue.
fn attempt(id: u128) -> Op {
    Op::Acquire(Acquire { patience: Duration::ZERO, ..claim(id) })
}

fn claim(id: u128) -> Acquire {
    Acquire {
        id: ClaimId::new(id),
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(30),
        patience: Duration::from_secs(5),
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        meta: Default::default(),
        fence: 0,
    }
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

/// Asks until it is so, for ten seconds.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
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

async fn connect(url: &str) -> Redis {
    within(Duration::from_secs(10), Redis::connect(url)).await.unwrap_or_else(|error| panic!("{}", told(&error)))
}

async fn refusal(url: &str) -> Error {
    within(Duration::from_secs(10), Redis::connect(url)).await.expect_err(url)
}

async fn hold(store: &impl Store, name: &str, id: u128) {
    let reply = within(Duration::from_secs(5), store.apply(&key(name), &acquire(id))).await.unwrap();
    assert!(is_held(reply.outcome), "{reply:?}");
}
