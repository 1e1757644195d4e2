//! What a task in line is given and does not take, as its future is not polled any more; under a paused clock.
//!
//! Bugs that were planted, one at a time, and found: an offer lasts for as long as its hold would; the turn to ask is never
//! taken back, or a hold is and the line not told; the release is forgotten; who was passed over believes that it holds, or
//! that it is its turn; it joins again at the end; an overdue renewal is forgotten; a hold is taken after its deadline; a
//! task that goes keeps what it was given; the heir of a claim that is gone is not told.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use common::{Chaos, another, client, ms, run_ready, two_clients};
use tenure::env::Env;
use tenure::proto::Op;
use tenure::{Fence, Guard, Lock, Locks, Loss};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A hold passes on as an offer where some time has passed, and the turn to ask where none has.
const HOLD: u64 = 1;
const TURN: u64 = 0;

type Wait = Pin<Box<dyn Future<Output = tenure::Result<Guard>> + Send>>;

/// Renewed each two seconds, and a place lasts for three.
fn mutex(locks: &Locks) -> Lock {
    locks.mutex("a").ttl(ms(6_000)).build().unwrap()
}

fn waiter(lock: &Lock) -> JoinHandle<tenure::Result<Guard>> {
    tokio::spawn(lock.lock().into_future())
}

/// What a wait comes to that is not to last.
async fn soon(wait: impl IntoFuture<Output = Result<tenure::Result<Guard>, tokio::task::JoinError>>) -> Guard {
    tokio::time::timeout(ms(60_000), wait.into_future()).await.expect("its turn comes").unwrap().unwrap()
}

/// A wait that is polled once.
async fn forgotten(lock: &Lock) -> Wait {
    let mut wait = Box::pin(lock.lock().into_future());
    assert!(futures_util::poll!(wait.as_mut()).is_pending());
    wait
}

/// A wait that is given something, and not polled since.
async fn given(lock: &Lock, after: u64) -> Wait {
    let guard = lock.lock().await.unwrap();
    let wait = forgotten(lock).await;
    tokio::time::sleep(ms(after)).await;
    drop(guard);
    wait
}

fn renewals(store: &Chaos) -> usize {
    store.take_ops().iter().filter(|op| matches!(op, Op::Renew(_))).count()
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_given_to_a_future_nobody_polls_is_released_after_a_patience() {
    let (ours, theirs, store) = two_clients();
    let lock = mutex(&ours);
    let wait = given(&lock, HOLD).await;
    let start = Instant::now();
    store.take_ops();
    let guard = mutex(&theirs).lock().await.unwrap();
    assert!(start.elapsed() >= ms(2_900) && start.elapsed() <= ms(3_100), "{:?}", start.elapsed());
    assert_eq!(renewals(&store), 0, "nobody renews what nobody took");
    let health = ours.health();
    assert_eq!(health[0].holds, 0);
    drop(guard);
    let guard = wait.await.unwrap();
    assert!(guard.is_held() && guard.fence() > Fence::NONE, "it may have it yet");
    drop(guard);
    run_ready().await;
    let metrics = ours.metrics();
    assert_eq!((metrics.acquired, metrics.handed_on, metrics.released, metrics.lost), (2, 1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_was_passed_over_stands_ahead_of_those_who_came_later() {
    for given_is in [HOLD, TURN] {
        let (locks, _store) = client();
        let lock = mutex(&locks);
        let first = lock.lock().await.unwrap();
        let (one, two) = (forgotten(&lock).await, forgotten(&lock).await);
        let behind = waiter(&lock);
        tokio::time::sleep(ms(given_is)).await;
        drop(first);
        let start = Instant::now();
        let guard = soon(behind).await;
        assert!(start.elapsed() <= ms(9_100), "{:?}", start.elapsed());
        let late = waiter(&lock);
        run_ready().await;
        // In the order in which they came, not in that in which they are polled.
        let two = tokio::spawn(two);
        run_ready().await;
        let one = tokio::spawn(one);
        run_ready().await;
        let mut last = guard.fence();
        drop(guard);
        for next in [one, two, late] {
            let guard = soon(next).await;
            assert!(guard.fence() > last && guard.is_held());
            last = guard.fence();
            tokio::time::sleep(ms(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_goes_on_to_the_next() {
    for given_is in [HOLD, TURN] {
        let (locks, _store) = client();
        let lock = mutex(&locks);
        let _wait = given(&lock, given_is).await;
        let start = Instant::now();
        let guard = soon(waiter(&lock)).await;
        assert!(start.elapsed() <= ms(3_100), "{:?}", start.elapsed());
        assert!(guard.is_held());
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_taken_late_is_renewed_as_any_other() {
    let (locks, store) = client();
    let wait = given(&mutex(&locks), HOLD).await;
    store.take_ops();
    tokio::time::sleep(ms(2_900)).await;
    let guard = wait.await.unwrap();
    assert_eq!(store.take_ops(), [], "without the store");
    assert!(guard.is_held() && guard.remaining() <= ms(3_100));
    run_ready().await;
    assert!(guard.remaining() > ms(5_800), "it was overdue: {:?}", guard.remaining());
    tokio::time::sleep(ms(60_000)).await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn who_was_passed_over_and_goes_takes_nothing_along() {
    for given_is in [HOLD, TURN] {
        let (locks, store) = client();
        let lock = mutex(&locks);
        let wait = given(&lock, given_is).await;
        let guard = lock.lock().await.unwrap();
        drop(wait);
        let behind = forgotten(&lock).await;
        tokio::time::sleep(ms(10_000)).await;
        assert!(guard.is_held());
        assert!(guard.release().await.unwrap(), "it was still ours");
        drop(behind);
        tokio::time::sleep(ms(10)).await;
        assert_eq!(common::crowd(&store, "a").await, (0, 0));
        assert!(lock.try_lock().await.unwrap().is_some(), "nobody is in line any more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_whose_taker_goes_is_released_at_once() {
    let (locks, store) = client();
    drop(given(&mutex(&locks), HOLD).await);
    tokio::time::sleep(ms(10)).await;
    assert_eq!(common::crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_expires_before_it_is_taken_is_not_taken() {
    let (locks, _store) = client();
    let lock = locks.mutex("a").ttl(ms(1_000)).build().unwrap();
    let wait = given(&lock, HOLD).await;
    // The task at work on the agenda does not run before the wait is polled.
    let start = Instant::now();
    tokio::time::advance(ms(2_000)).await;
    let guard = wait.await.unwrap();
    assert!(guard.remaining() > ms(900), "a hold of its own: {:?} after {:?}", guard.remaining(), start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_finds_a_claim_gone_tells_whoever_has_it_by_now() {
    let env = Env::simulated(7);
    let store = Chaos::new(env.clone());
    let locks = another(&store, &env);
    let lock = locks.mutex("a").watchdog_interval(ms(50)).build().unwrap();
    let guard = lock.lock().await.unwrap();
    let next = waiter(&lock);
    store.delay(ms(30));
    tokio::time::sleep(ms(60)).await;
    // The renewal of fifty is on its way.
    let at_once = Locks::builder(Arc::new(store.memory.clone())).env(env).build().unwrap();
    assert_eq!(at_once.break_lock("a").await.unwrap().len(), 1);
    tokio::time::sleep(ms(5)).await;
    let start = Instant::now();
    drop(guard);
    let next = next.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), ms(0), "it was handed on");
    assert_eq!(next.lost().await, Loss::Gone);
    assert!(start.elapsed() < ms(30), "not by a renewal of its own: {:?}", start.elapsed());
}
