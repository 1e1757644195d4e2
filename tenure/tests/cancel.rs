//! Every asynchronous call is cancelled at every await point: it is polled k times and dropped, for each k until it ends.
//! Then nothing is left, neither in the store nor in the client: no hold, no place, no watch.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use common::{Chaos, Fault, client, crowd, ms, run_ready, two_clients};
use tenure::Locks;

/// Polls `future` up to `k` times; what it came to, if it did.
async fn poll_times<F: Future>(k: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..k {
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        match polled {
            Poll::Ready(output) => return Some(output),
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    None
}

async fn nothing_is_left(locks: &Locks, store: &Chaos) {
    for _ in 0..20 {
        run_ready().await;
        tokio::time::sleep(ms(1)).await;
    }
    assert_eq!(crowd(store, "a").await, (0, 0));
    assert!(format!("{:?}", store.memory).contains("waiting: 0"), "{store:?}");
    let metrics = locks.metrics();
    assert_eq!(metrics.acquired, metrics.released + metrics.lost, "{metrics:?}");
}

const FAULTS: [Fault; 2] = [Fault::None, Fault::LoseReply];

#[tokio::test(start_paused = true)]
async fn try_lock() {
    for fault in FAULTS {
        for k in 0.. {
            let (locks, store) = client();
            store.yields(2);
            store.fault(fault);
            let lock = locks.mutex("a").build().unwrap();
            let ended = poll_times(k, lock.try_lock()).await.map(drop).is_some();
            store.fault(Fault::None);
            nothing_is_left(&locks, &store).await;
            if ended {
                assert!(k > 4, "there were await points to cancel at");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lock_of_a_free_one() {
    for k in 0.. {
        let (locks, store) = client();
        store.yields(2);
        let lock = locks.mutex("a").build().unwrap();
        let ended = poll_times(k, lock.lock().into_future()).await.map(drop).is_some();
        nothing_is_left(&locks, &store).await;
        if ended {
            assert!(k > 4);
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_and_the_grant_that_was_on_its_way_goes_to_the_next() {
    // The holder releases after `r` polls of the wait, so that the grant meets it at every one of its await points.
    for r in 1..12 {
        for k in r..16 {
            let (ours, theirs, store) = two_clients();
            let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
            store.yields(2);
            let lock = theirs.mutex("a").build().unwrap();
            let next = ours.mutex("a").build().unwrap();
            let mut wait = Box::pin(lock.lock().into_future());
            let mut held = poll_times(r, wait.as_mut()).await;
            let next = tokio::spawn(next.lock().into_future());
            run_ready().await;
            let release = tokio::spawn(guard.release());
            if held.is_none() {
                held = poll_times(k - r, wait.as_mut()).await;
            }
            drop(wait);
            drop(held);
            let start = tokio::time::Instant::now();
            next.await.unwrap().unwrap().release().await.unwrap();
            assert!(start.elapsed() < ms(100), "r {r} k {k}: the next waited for {:?}", start.elapsed());
            release.await.unwrap().unwrap();
            nothing_is_left(&theirs, &store).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn release() {
    for fault in FAULTS {
        for k in 0.. {
            let (locks, store) = client();
            let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
            store.yields(2);
            store.fault(fault);
            let ended = poll_times(k, guard.release()).await.is_some();
            store.fault(Fault::None);
            nothing_is_left(&locks, &store).await;
            if ended {
                assert!(k > 4);
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refresh_lost_and_protect_leave_the_hold_as_it_is() {
    for k in 0..8 {
        let (locks, store) = client();
        let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
        store.yields(2);
        poll_times(k, guard.refresh()).await;
        poll_times(k, guard.lost()).await;
        poll_times(k, guard.protect(std::future::pending::<()>())).await;
        assert!(guard.is_held());
        assert_eq!(crowd(&store, "a").await, (1, 0));
        drop(guard);
        nothing_is_left(&locks, &store).await;
    }
}

#[tokio::test(start_paused = true)]
async fn close_goes_on_releasing() {
    for k in 0..8 {
        let (locks, store) = client();
        let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
        store.yields(2);
        drop(guard);
        poll_times(k, locks.close()).await;
        nothing_is_left(&locks, &store).await;
    }
}

/// Cancels at each await point, until the call gets to its end; whatever it came to is dropped.
async fn at_every_point<T>(
    fault: Fault,
    begin: impl AsyncFn(&Locks) -> T,
    call: impl AsyncFn(&Locks, T),
    check: impl AsyncFn(&Locks, &Chaos),
) {
    for k in 0.. {
        let (locks, store) = client();
        let begun = begin(&locks).await;
        store.yields(2);
        store.fault(fault);
        let ended = poll_times(k, call(&locks, begun)).await.is_some();
        store.fault(Fault::None);
        check(&locks, &store).await;
        if ended {
            assert!(k > 4, "there were await points to cancel at");
            break;
        }
    }
}

fn two_locks(locks: &Locks) -> [tenure::Lock; 2] {
    ["a", "b"].map(|name| locks.mutex(name).build().unwrap())
}

async fn neither_is_left(locks: &Locks, store: &Chaos) {
    nothing_is_left(locks, store).await;
    assert_eq!(crowd(store, "b").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn try_lock_all_and_lock_all() {
    for fault in FAULTS {
        let trying = async |locks: &Locks, all: [tenure::Lock; 2]| drop(locks.try_lock_all(&all).await);
        at_every_point(fault, async |locks| two_locks(locks), trying, neither_is_left).await;
    }
    let waiting = async |locks: &Locks, all: [tenure::Lock; 2]| drop(locks.lock_all(&all).await);
    at_every_point(Fault::None, async |locks| two_locks(locks), waiting, neither_is_left).await;
}

#[tokio::test(start_paused = true)]
async fn releasing_all() {
    for fault in FAULTS {
        let begin = async |locks: &Locks| locks.lock_all(&two_locks(locks)).await.unwrap();
        at_every_point(fault, begin, async |_, guards| drop(guards.release().await), neither_is_left).await;
    }
}

#[tokio::test(start_paused = true)]
async fn leases() {
    let term = ms(60_000);
    let take = async |locks: &Locks| locks.mutex("a").build().unwrap().lease(term).await.unwrap();
    // One that was not had leaves nothing, and one that was had is there to its end: nothing releases a lease by itself.
    for fault in FAULTS {
        let got = std::cell::Cell::new(false);
        let call = async |locks: &Locks, ()| {
            got.set(locks.mutex("a").build().unwrap().try_lease(term).await.is_ok_and(|lease| lease.is_some()));
        };
        let check = async |_: &Locks, store: &Chaos| {
            tokio::time::sleep(ms(1_000)).await;
            assert_eq!(crowd(store, "a").await, (usize::from(got.get()), 0), "{fault:?}");
        };
        at_every_point(fault, async |_| (), call, check).await;
    }
    let is_there = async |_: &Locks, store: &Chaos| assert_eq!(crowd(store, "a").await, (1, 0));
    at_every_point(Fault::None, take, async |_, mut lease| drop(lease.refresh().await), is_there).await;
    let resume = async |locks: &Locks, lease: tenure::Lease| drop(locks.resume(lease.ticket().clone()).await);
    at_every_point(Fault::None, take, resume, is_there).await;
    let sound = async |_: &Locks, store: &Chaos| assert!(crowd(store, "a").await.0 <= 1);
    at_every_point(Fault::None, take, async |_, lease| drop(lease.release().await), sound).await;
}
