//! A fallback store while its primary is away: claims go to the secondary, never in silence, and no longer than the
//! primary is away. Under a paused clock.
//!
//! Bugs that were planted, one at a time, and found: a degraded hold with a fence; no event; no count; a grant of the
//! primary believed after the claim went on; what was left at the primary stays; a missing reply goes to the secondary; a
//! claim that both refused never tries the primary again; a degraded hold is handed on; a lease is handed over at the secondary.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::sync::Arc;

use common::{Chaos, Fault, crowd, ms, run_ready};
use tenure::env::Env;
use tenure::proto::{Op, Release};
use tenure::store::{Breaker, Fallback, Store};
use tenure::{Degradation, ErrorKind, Fence, HoldState, Key, Locks, What};
use tokio::time::{Instant, sleep};

/// A client of a fallback store, and the two stores behind it.
struct Two {
    locks: Locks,
    store: Fallback,
    first: Chaos,
    second: Chaos,
    env: Env,
}

fn two() -> Two {
    let env = Env::simulated(7);
    let (first, second) = (Chaos::new(env.clone()), Chaos::new(env.clone()));
    let store = Fallback::with_env(Arc::new(first.clone()), Arc::new(second.clone()), env.clone());
    let locks = Locks::builder(Arc::new(store.clone())).env(env.clone()).build().unwrap();
    Two { locks, store, first, second, env }
}

impl Two {
    /// A client that reaches the primary only, as another process would have it.
    fn neighbour(&self) -> Locks {
        common::another(&self.first, &self.env)
    }
}

async fn heard(events: &mut tenure::Events) -> Vec<What> {
    let mut heard = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(ms(0), events.recv()).await {
        heard.push(event.what);
    }
    heard
}

#[tokio::test(start_paused = true)]
async fn while_the_primary_answers_nothing_is_degraded() {
    let two = two();
    let guard = two.locks.mutex("a").build().unwrap().lock().await.unwrap();
    assert!(!guard.is_degraded() && guard.fence() > Fence::NONE && !two.store.is_degraded());
    assert_eq!((crowd(&two.first, "a").await, crowd(&two.second, "a").await), ((1, 0), (0, 0)));
    assert_eq!(two.locks.metrics().degraded, 0);
    assert!(guard.release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_hold_from_the_secondary_says_so_carries_no_fence_and_is_told_and_counted() {
    let two = two();
    let mut events = two.locks.events();
    two.first.fault(Fault::Refuse);
    let guard = two.locks.mutex("a").build().unwrap().try_lock().await.unwrap().unwrap();
    assert_eq!((guard.is_degraded(), guard.fence(), guard.info().fence), (true, Fence::NONE, Fence::NONE));
    let told = heard(&mut events).await;
    let degraded = What::Degraded { to: Degradation::Store, error: None };
    assert_eq!(told, [What::Acquired { fence: Fence::NONE, waited: ms(0), pushed: false }, degraded]);
    assert_eq!(two.locks.metrics().degraded, 1);
    assert!(two.locks.metrics().to_string().contains("tenure_degraded_total 1\n"));
    assert!(two.store.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn a_claim_lives_to_its_end_where_it_was_granted() {
    let two = two();
    let before = two.locks.mutex("before").ttl(ms(3_000)).build().unwrap().lock().await.unwrap();
    two.first.fault(Fault::Refuse);
    let during = two.locks.mutex("during").ttl(ms(3_000)).build().unwrap().lock().await.unwrap();
    sleep(ms(1_500)).await;
    two.first.fault(Fault::None);
    sleep(ms(10_000)).await;
    assert_eq!((before.state(), during.state()), (HoldState::Held, HoldState::Held));
    assert_eq!((crowd(&two.first, "before").await, crowd(&two.second, "before").await), ((1, 0), (0, 0)));
    assert_eq!((crowd(&two.first, "during").await, crowd(&two.second, "during").await), ((0, 0), (1, 0)));
    during.refresh().await.unwrap();
    assert!(during.is_degraded() && !before.is_degraded());
    assert!(before.release().await.unwrap() && during.release().await.unwrap());
    assert_eq!((crowd(&two.first, "before").await, crowd(&two.second, "during").await), ((0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn the_next_claim_notices_that_the_primary_is_back() {
    let two = two();
    two.first.fault(Fault::Refuse);
    let lock = two.locks.mutex("a").build().unwrap();
    assert!(lock.lock().await.unwrap().is_degraded());
    two.first.fault(Fault::None);
    assert!(!lock.lock().await.unwrap().is_degraded());
    assert!(!two.store.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn holders_at_the_secondary_exclude_each_other_and_hand_over() {
    let two = two();
    two.first.fault(Fault::Refuse);
    let lock = two.locks.owner("one").mutex("a").build().unwrap();
    let guard = lock.lock().await.unwrap();
    let waiter = tokio::spawn(two.locks.owner("two").mutex("a").build().unwrap().lock().into_future());
    run_ready().await;
    assert_eq!(crowd(&two.second, "a").await, (1, 1));
    let start = Instant::now();
    guard.release().await.unwrap();
    let next = waiter.await.unwrap().unwrap();
    assert!(next.is_degraded() && next.fence() == Fence::NONE, "a pushed grant carries no fence either");
    assert_eq!(start.elapsed(), ms(0), "a push woke it");
}

#[tokio::test(start_paused = true)]
async fn a_degraded_hold_is_not_handed_on_within_the_process_so_the_next_task_finds_the_primary_back() {
    let two = two();
    let lock = two.locks.mutex("a").build().unwrap();
    two.first.fault(Fault::Refuse);
    let guard = lock.lock().await.unwrap();
    let next = tokio::spawn(lock.lock().into_future());
    let last = tokio::spawn(lock.lock().into_future());
    run_ready().await;
    guard.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert!(guard.is_degraded() && guard.fence() == Fence::NONE);
    two.first.fault(Fault::None);
    guard.release().await.unwrap();
    assert!(!last.await.unwrap().unwrap().is_degraded());
    assert_eq!(two.locks.metrics().degraded, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_again_and_never_sent_to_the_secondary() {
    let two = two();
    two.first.fault(Fault::LoseReply);
    let error = two.locks.mutex("a").build().unwrap().try_lock().await.unwrap_err();
    assert!(error.is_ambiguous());
    assert_eq!((two.locks.metrics().degraded, two.second.take_ops()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_a_diverted_claim_may_have_left_at_the_primary_is_released_there() {
    let two = two();
    // The primary grants it without a reply, and is away when it is asked again.
    two.first.fault(Fault::LoseReply);
    let waiter = tokio::spawn(two.locks.mutex("a").build().unwrap().lock().into_future());
    run_ready().await;
    assert_eq!(crowd(&two.first, "a").await, (1, 0));
    two.first.fault(Fault::Refuse);
    let guard = waiter.await.unwrap().unwrap();
    assert!(guard.is_degraded());
    two.first.fault(Fault::None);
    sleep(ms(2_100)).await;
    assert_eq!(crowd(&two.first, "a").await, (0, 0));
    assert!(two.neighbour().mutex("a").build().unwrap().try_lock().await.unwrap().is_some());
    assert!(guard.is_held() && guard.release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_grant_of_the_primary_does_not_count_once_the_claim_went_to_the_secondary() {
    let two = two();
    let (holder, lock) = (two.neighbour(), two.locks.mutex("a").build().unwrap());
    let guard = holder.mutex("a").build().unwrap().lock().await.unwrap();
    // It queues at the primary, which then goes away; at the secondary somebody is in.
    let waiter = tokio::spawn(lock.lock().into_future());
    run_ready().await;
    assert_eq!(crowd(&two.first, "a").await, (1, 1));
    let other = common::another(&two.second, &two.env).mutex("a").build().unwrap().lock().await.unwrap();
    two.first.fault(Fault::Refuse);
    sleep(ms(1_100)).await;
    assert_eq!(crowd(&two.second, "a").await, (1, 1));
    // The primary lets its place in before the stray release reaches it.
    let gone = Op::Release(Release { id: guard.id(), bury: ms(0), fence: 0 });
    two.first.memory.apply(&Key::new("a").unwrap(), &gone).await.unwrap();
    run_ready().await;
    assert!(!waiter.is_finished(), "that place was given up");
    other.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_degraded());
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_the_error_names_both_and_either_may_come_back() {
    for back in [0, 1] {
        let two = two();
        two.first.fault(Fault::Refuse);
        two.second.fault(Fault::Refuse);
        let lock = two.locks.mutex("a").build().unwrap();
        let error = lock.try_lock().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().starts_with("the primary store failed (the test refuses), and so did"), "{error}");
        let waiter = tokio::spawn(lock.lock().into_future());
        sleep(ms(500)).await;
        [&two.first, &two.second][back].fault(Fault::None);
        assert_eq!(waiter.await.unwrap().unwrap().is_degraded(), back == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_breaker_a_silent_primary_is_replaced_and_noticed_when_it_is_back() {
    let env = Env::simulated(7);
    let (first, second) = (Chaos::new(env.clone()), Chaos::new(env.clone()));
    let breaker = Breaker::builder(Arc::new(first.clone())).failures(2).cool_down(ms(1_000)).env(env.clone());
    let primary = Arc::new(breaker.build().unwrap());
    let store = Fallback::with_env(primary, Arc::new(second.clone()), env.clone());
    let locks = Locks::builder(Arc::new(store)).op_timeout(ms(500)).env(env).build().unwrap();
    let lock = locks.mutex("a").build().unwrap();
    first.fault(Fault::Hang);
    let start = Instant::now();
    let guard = lock.lock().await.unwrap();
    assert!(guard.is_degraded() && start.elapsed() < ms(1_100), "{:?}", start.elapsed());
    drop(guard);
    let start = Instant::now();
    drop(lock.lock().await.unwrap());
    assert_eq!(start.elapsed(), ms(0), "nobody waits for a store that is known to be silent");
    first.fault(Fault::None);
    sleep(ms(1_000)).await;
    assert!(!lock.lock().await.unwrap().is_degraded());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_handed_over_at_the_secondary_and_stays_as_it_was() {
    let two = two();
    let lease = two.locks.mutex("a").build().unwrap().lease(ms(30_000)).await.unwrap();
    let ticket = lease.ticket().clone();
    two.first.fault(Fault::Refuse);
    let error = lease.hand_over().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    two.first.fault(Fault::None);
    let lease = two.locks.resume(ticket).await.unwrap();
    assert!(lease.is_held() && lease.fence() > Fence::NONE);
    run_ready().await;
    assert_eq!((crowd(&two.first, "a").await, crowd(&two.second, "a").await), ((1, 0), (0, 0)));
}
