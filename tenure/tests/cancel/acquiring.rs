//! From the wish to the hold: what was asked for is undone.

use std::time::Duration;

use tenure::Guard;

use super::common::two_clients;
use super::*;

/// What goes without a reply is asked for again, until this is over.
const LIMIT: Duration = Duration::from_millis(40);

#[tokio::test(start_paused = true)]
async fn try_lock() {
    let call = async |locks: &Locks, ()| drop(mutex(locks).try_lock().await);
    at_every_point(Fault::None, nothing, call, nothing_is_left).await;
    at_every_point(Fault::LoseReply, nothing, call, nothing_comes_back).await;
}

#[tokio::test(start_paused = true)]
async fn lock_of_a_free_one() {
    let call = async |locks: &Locks, ()| drop(mutex(locks).lock().timeout(LIMIT).await);
    at_every_point(Fault::None, nothing, call, nothing_is_left).await;
    at_every_point_in_time(Fault::LoseReply, nothing, call, nothing_comes_back).await;
}

/// One that was not sent twice, nor answered: only the release knows that it may come late.
#[tokio::test(start_paused = true)]
async fn a_claim_that_was_under_way_does_not_come_back() {
    for waits in [false, true] {
        let ended = std::cell::Cell::new(None);
        let call = async |locks: &Locks, ()| {
            let guard = match waits {
                false => mutex(locks).try_lock().await.unwrap(),
                true => mutex(locks).lock().await.ok(),
            };
            ended.set(guard);
        };
        let check = async |locks: &Locks, store: &Chaos| match ended.take() {
            // It was answered, and so it is not under way.
            Some(guard) => drop(guard),
            None => nothing_comes_back(locks, store).await,
        };
        at_every_point(Fault::None, nothing, call, check).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_and_the_grant_that_was_on_its_way_goes_to_the_next() {
    // The holder releases after `r` polls of the wait, so that the grant meets it at every one of its await points.
    for r in 1..12 {
        for k in r..16 {
            let (ours, theirs, store) = two_clients();
            let guard = hold(&ours).await;
            store.yields(2);
            let lock = mutex(&theirs);
            let mut wait = Box::pin(lock.lock().into_future());
            let mut held = poll_times(r, wait.as_mut()).await;
            let next = begin_to_wait(&ours).await;
            let release = tokio::spawn(guard.release());
            if held.is_none() {
                held = poll_times(k - r, wait.as_mut()).await;
            }
            drop(wait);
            drop(held);
            is_soon_let_in(next, &format!("r {r} k {k}")).await;
            release.await.unwrap().unwrap();
            nothing_is_left(&theirs, &store).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_lease_and_the_grant_that_was_on_its_way_goes_to_the_next() {
    let mut leased = [0, 0];
    for r in 1..12 {
        for k in r..16 {
            let (ours, theirs, store) = two_clients();
            let guard = hold(&ours).await;
            store.yields(2);
            let mut wait = Box::pin(mutex(&theirs).lease(ms(60_000)).into_future());
            let mut lease = poll_times(r, wait.as_mut()).await;
            let next = begin_to_wait(&ours).await;
            let release = tokio::spawn(guard.release());
            if lease.is_none() {
                lease = poll_times(k - r, wait.as_mut()).await;
            }
            drop(wait);
            leased[usize::from(lease.is_some())] += 1;
            // One that was had is there until somebody releases it.
            if let Some(lease) = lease {
                assert!(lease.unwrap().release().await.unwrap());
            }
            is_soon_let_in(next, &format!("r {r} k {k}")).await;
            release.await.unwrap().unwrap();
            nothing_is_left(&theirs, &store).await;
        }
    }
    assert!(leased.iter().all(|&n| n > 10), "with and without: {leased:?}");
}

async fn begin_to_wait(locks: &Locks) -> tokio::task::JoinHandle<tenure::Result<Guard>> {
    let next = tokio::spawn(mutex(locks).lock().into_future());
    run_ready().await;
    next
}

async fn is_soon_let_in(next: tokio::task::JoinHandle<tenure::Result<Guard>>, when: &str) {
    let start = tokio::time::Instant::now();
    next.await.unwrap().unwrap().release().await.unwrap();
    assert!(start.elapsed() < ms(100), "{when}: the next waited for {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn try_lock_all_and_lock_all() {
    let begin = async |locks: &Locks| two_locks(locks);
    let trying = async |locks: &Locks, all: [Lock; 2]| drop(locks.try_lock_all(&all).await);
    at_every_point(Fault::None, begin, trying, neither_is_left).await;
    at_every_point(Fault::LoseReply, begin, trying, neither_comes_back).await;
    let waiting = async |locks: &Locks, all: [Lock; 2]| drop(locks.lock_all(&all).timeout(LIMIT).await);
    at_every_point(Fault::None, begin, waiting, neither_is_left).await;
    at_every_point_in_time(Fault::LoseReply, begin, waiting, neither_comes_back).await;
}
