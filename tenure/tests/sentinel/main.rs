//! A store behind Sentinels: whom it believes, and how it goes on when the master changes.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod asking;
mod committing;
mod failover;
mod handing;
mod splitting;

use std::future::Future;
use std::time::{Duration, Instant};

use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release};
use tenure::store::{Redis, Store};
use tenure::{Error, Fence, Key, Locks, Result};

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// A mutex's claim that does not wait.
fn attempt(id: u128) -> Op {
    Op::Acquire(Acquire {
        id: ClaimId::new(id),
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(60),
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        fence: 0,
        meta: Default::default(),
    })
}

fn release(id: u128) -> Op {
    Op::Release(Release { id: ClaimId::new(id), bury: Duration::ZERO, fence: 0 })
}

/// The future's output, which must come in time.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("nothing within {limit:?}"))
}

async fn connect(url: &str) -> Redis {
    within(Duration::from_secs(10), Redis::connect(url)).await.unwrap_or_else(|error| panic!("{url}: {error:?}"))
}

/// The same where a failover may be under way: the Sentinels do not agree then.
async fn connect_in_time(url: &str) -> Redis {
    let start = Instant::now();
    loop {
        match within(Duration::from_secs(10), Redis::connect(url)).await {
            Ok(store) => return store,
            Err(error) => {
                assert!(error.is_transient() && start.elapsed() < Duration::from_secs(20), "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn refusal(url: &str) -> Error {
    within(Duration::from_secs(10), Redis::connect(url)).await.expect_err(url)
}

/// The token of a claim that the store lets in.
async fn fence(store: &Redis, name: &str, id: u128) -> Result<u64> {
    let reply = within(Duration::from_secs(60), store.apply(&key(name), &attempt(id))).await?;
    match reply.outcome {
        Outcome::Held { fence, .. } => Ok(fence),
        other => panic!("{name} is not free: {other:?}"),
    }
}

/// The same, again while the store is away.
async fn fence_in_time(store: &Redis, name: &str, id: u128) -> u64 {
    let start = Instant::now();
    loop {
        match fence(store, name, id).await {
            Ok(fence) => return fence,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                assert!(start.elapsed() < Duration::from_secs(20), "{error:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Takes and releases a lock, however long that takes.
async fn cycle(locks: &Locks, name: &str) -> Fence {
    let lock = locks.mutex(name).ttl(Duration::from_secs(5)).build().unwrap();
    let guard = lock.lock().timeout(Duration::from_secs(30)).await.unwrap();
    let fence = guard.fence();
    let _ = guard.release().await;
    fence
}
