//! What becomes of a hold when its guard is leaked, dropped in odd places, or outlives its runtime, and when its holder
//! panics.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Chaos, Fault, client, crowd, ms, run_ready};
use tenure::env::Env;
use tenure::proto::Op;
use tenure::store::Fallback;
use tenure::{Guard, Locks, Loss};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn a_leaked_guard_is_renewed_until_max_hold() {
    let (locks, store) = client();
    for (name, limit) in [("a", ms(60_000)), ("b", ms(10_000))] {
        let lock = locks.mutex(name).ttl(ms(1_000)).max_hold(limit).build().unwrap();
        std::mem::forget(lock.lock().await.unwrap());
    }
    drop(locks);
    sleep(ms(9_900)).await;
    assert_eq!((crowd(&store, "a").await, crowd(&store, "b").await), ((1, 0), (1, 0)));
    sleep(ms(200)).await;
    assert_eq!((crowd(&store, "a").await, crowd(&store, "b").await), ((1, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_holding_releases() {
    let (locks, store) = client();
    let lock = locks.mutex("a").build().unwrap();
    let holder = tokio::spawn(async move {
        let _guard = lock.lock().await.unwrap();
        panic!("this is the panic that the test is about");
    });
    assert!(holder.await.unwrap_err().is_panic());
    run_ready().await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_guard_outlives_every_client_and_lock() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(300)).build().unwrap().lock().await.unwrap();
    drop(locks);
    sleep(ms(10_000)).await;
    assert!(guard.is_held() && crowd(&store, "a").await == (1, 0));
    let mut lost = std::pin::pin!(guard.lost());
    assert!(timeout(ms(1), &mut lost).await.is_err());
    drop(guard);
    run_ready().await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
    assert!(timeout(ms(60_000), lost).await.is_err(), "what was released is never lost");
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A client in real time: clocks cannot be paused across runtimes.
fn real_client() -> (Locks, Chaos) {
    let store = Chaos::new(Env::system());
    (common::another(&store, &Env::system()), store)
}

fn hold(runtime: &Runtime, locks: &Locks, ttl: Duration) -> Guard {
    let lock = locks.mutex("a").ttl(ttl).build().unwrap();
    runtime.block_on(lock.lock().into_future()).unwrap()
}

/// Waits until nobody holds the lock.
async fn free(store: &Chaos) {
    let limit = Instant::now() + ms(5_000);
    while crowd(store, "a").await != (0, 0) {
        assert!(Instant::now() < limit, "it is still held");
        sleep(ms(2)).await;
    }
}

#[test]
fn a_guard_dropped_in_another_runtime_or_in_none_is_released_by_its_own() {
    let (locks, store) = real_client();
    let (its_own, other) = (runtime(), runtime());
    let guard = hold(&its_own, &locks, ms(60_000));
    other.block_on(async { drop(guard) });
    its_own.block_on(free(&store));
    let guard = hold(&its_own, &locks, ms(60_000));
    drop(guard);
    its_own.block_on(free(&store));
    let guard = hold(&its_own, &locks, ms(60_000));
    std::thread::spawn(move || drop(guard)).join().unwrap();
    its_own.block_on(free(&store));
}

#[test]
fn a_hold_whose_runtime_ended_is_told_lost_in_time_and_is_free_soon_after() {
    let (locks, store) = real_client();
    let (its_own, other) = (runtime(), runtime());
    let guard = hold(&its_own, &locks, ms(400));
    drop(its_own);
    assert!(guard.is_held());
    other.block_on(async {
        assert_eq!(timeout(ms(2_000), guard.lost()).await, Ok(Loss::Expired));
        assert!(!guard.is_held());
        free(&store).await;
    });
    assert_eq!(locks.metrics().lost, 1);
}

#[test]
fn another_runtime_in_which_the_client_is_used_takes_its_holds_over() {
    let (locks, store) = real_client();
    let first = runtime();
    let guard = hold(&first, &locks, ms(900));
    // A renewal is under way when the runtime ends, and never comes back.
    store.fault(Fault::Hang);
    let asked = || store.take_sends().iter().any(common::Send::is_renewal);
    first.block_on(async {
        while !asked() {
            sleep(ms(1)).await;
        }
    });
    drop(first);
    store.fault(Fault::None);
    let second = runtime();
    second.block_on(async {
        drop(locks.mutex("b").build().unwrap().lock().await.unwrap());
        let is_lost = timeout(ms(2_000), guard.lost()).await;
        assert!(is_lost.is_err() && guard.is_held(), "{is_lost:?}");
    });
}

#[test]
fn readers_in_line_whose_runtime_ended_keep_nobody_waiting() {
    let (locks, store) = real_client();
    let (its_own, other) = (runtime(), runtime());
    let held = other.block_on(common::another(&store, &Env::system()).write("a").build().unwrap().lock().into_future());
    let lock = locks.read("a").build().unwrap();
    for _ in 0..100 {
        its_own.spawn(lock.lock().into_future());
    }
    other.block_on(async {
        let limit = Instant::now() + ms(5_000);
        while crowd(&store, "a").await != (1, 1) {
            assert!(Instant::now() < limit, "none of them has a place");
            sleep(ms(2)).await;
        }
    });
    let behind = other.spawn(lock.lock().into_future());
    drop(its_own);
    other.block_on(async {
        drop(held.unwrap());
        drop(timeout(ms(5_000), behind).await.expect("its turn comes").unwrap().unwrap());
        drop(
            timeout(ms(5_000), locks.write("a").build().unwrap().lock())
                .await
                .expect("nobody is left in line")
                .unwrap(),
        );
        free(&store).await;
    });
}

#[test]
fn a_release_that_was_under_way_in_a_runtime_that_ended_is_not_forgotten() {
    let (locks, store) = real_client();
    let first = runtime();
    let guard = hold(&first, &locks, ms(60_000));
    store.fault(Fault::Hang);
    store.take_sends();
    drop(guard);
    first.block_on(async {
        while store.take_sends().is_empty() {
            sleep(ms(1)).await;
        }
    });
    drop(first);
    store.fault(Fault::None);
    runtime().block_on(async {
        timeout(ms(5_000), locks.close()).await.expect("it is released, and so close ends");
        assert_eq!(crowd(&store, "a").await, (0, 0));
    });
}

#[test]
fn what_a_diverted_claim_left_is_released_by_the_next_runtime_when_the_first_ended() {
    let (first, second) = (Chaos::new(Env::system()), Chaos::new(Env::system()));
    let store = Fallback::new(Arc::new(first.clone()), Arc::new(second.clone()));
    let locks = Locks::new(store);
    let its_own = runtime();
    // The primary grants it without a reply, and is away when it is asked again: the grant is a stray there.
    first.fault(Fault::LoseReply);
    let lock = locks.mutex("a").ttl(ms(60_000)).build().unwrap();
    let waiting = its_own.spawn(lock.lock().into_future());
    let releasing = || first.take_sends().iter().any(|send| matches!(send.ops[0], Op::Release(_)));
    let guard = its_own.block_on(async {
        while crowd(&first, "a").await == (0, 0) {
            sleep(ms(1)).await;
        }
        first.fault(Fault::Refuse);
        let guard = waiting.await.unwrap().unwrap();
        // Its release is under way when the runtime ends.
        first.fault(Fault::Hang);
        while !releasing() {
            sleep(ms(1)).await;
        }
        // It may have been refused before the store fell silent; it is tried again after a second at the most.
        while !releasing() {
            sleep(ms(1)).await;
        }
        guard
    });
    drop(its_own);
    first.fault(Fault::None);
    runtime().block_on(async {
        // Any use will do.
        drop(locks.mutex("b").build().unwrap().lock().await.unwrap());
        free(&first).await;
    });
    drop(guard);
}
