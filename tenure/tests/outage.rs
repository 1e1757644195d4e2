//! What a client does while a real Redis is killed, and when it is back.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::store::{Breaker, BreakerState, Fallback, Memory, Redis, Store};
use tenure::{Degradation, Fence, Guard, Instead, Lock, Locks, What};

/// Asks until it is so, for ten seconds.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn take(lock: &Lock) -> Guard {
    within(lock.lock().into_future()).await.unwrap()
}

/// The future's output, which must come in time.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("nothing hangs")
}

async fn connect(server: &testkit::Redis) -> Arc<dyn Store> {
    Arc::new(Redis::connect(&server.url()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_behind_a_breaker_carries_on_while_redis_is_dead_and_returns_to_it() {
    let mut server = testkit::Redis::start();
    let breaker = Breaker::builder(connect(&server).await).failures(3).cool_down(Duration::from_millis(200));
    let breaker = breaker.build().unwrap();
    let store = Fallback::new(Arc::new(breaker.clone()), Arc::new(Memory::new()));
    let locks = Locks::builder(Arc::new(store.clone())).op_timeout(Duration::from_millis(500)).build().unwrap();
    let mut events = locks.events();
    let lock = locks.mutex("a").build().unwrap();
    let whole = take(&lock).await;
    let fence = whole.fence();
    assert!(!whole.is_degraded());
    whole.release().await.unwrap();

    server.kill();
    let degraded = take(&lock).await;
    assert_eq!((degraded.is_degraded(), degraded.fence()), (true, Fence::NONE));
    assert!(lock.try_lock().await.unwrap().is_none(), "within this process it excludes");
    degraded.release().await.unwrap();
    // Once the breaker is open, a claim costs nobody a wait for Redis.
    until("the breaker is open", async || {
        drop(lock.try_lock().await);
        breaker.state() != BreakerState::Closed
    })
    .await;

    server.restart();
    until("a claim is whole again", async || {
        let guard = take(&lock).await;
        let whole = !guard.is_degraded();
        guard.release().await.unwrap();
        whole
    })
    .await;
    assert_eq!((breaker.state(), store.is_degraded()), (BreakerState::Closed, false));
    let guard = take(&lock).await;
    assert!(guard.fence() > fence, "the server forgot, and its clock did not");

    let counted = locks.metrics().degraded;
    drop(guard);
    locks.close().await;
    drop((lock, locks));
    let mut told = 0;
    while let Some(event) = within(events.recv()).await {
        told += u64::from(matches!(event.what, What::Degraded { to: Degradation::Store, .. }));
    }
    assert!(counted >= 1 && told == counted, "{told} told, {counted} counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_behind_a_breaker_gets_the_lock_when_redis_is_back() {
    let mut server = testkit::Redis::start();
    let breaker = Breaker::builder(connect(&server).await).failures(2).cool_down(Duration::from_millis(200));
    let breaker = breaker.build().unwrap();
    let locks = Locks::builder(Arc::new(breaker.clone())).op_timeout(Duration::from_millis(500)).build().unwrap();
    server.kill();
    let lock = locks.mutex("a").build().unwrap();
    let waiter = tokio::spawn(async move { take(&lock).await });
    until("the breaker is open", async || breaker.state() != BreakerState::Closed).await;
    server.restart();
    let guard = waiter.await.unwrap();
    assert!(guard.fence() > Fence::NONE && !guard.is_degraded());
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_lets_work_go_on_while_redis_is_dead() {
    let mut server = testkit::Redis::start();
    let options = Locks::builder(connect(&server).await).op_timeout(Duration::from_millis(300));
    let locks = options.fallback(|_, _| Instead::Unlocked).build().unwrap();
    let lock = locks.mutex("a").retry(2, Duration::from_millis(10)).build().unwrap();
    server.kill();
    let guard = take(&lock).await;
    assert_eq!((guard.is_degraded(), guard.fence(), guard.protect(async { 7 }).await.unwrap()), (true, Fence::NONE, 7));
    assert!(!guard.release().await.unwrap());
    server.restart();
    until("a claim is whole again", async || !take(&lock).await.is_degraded()).await;
}
