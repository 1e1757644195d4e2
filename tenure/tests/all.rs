//! Several locks at once, under a paused clock.
//!
//! Bugs that were planted, one at a time, and found: the order of the list instead of that of the names; those behind the
//! busy one are kept; those before it are forgotten; a failure keeps what was had.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use common::{Chaos, Fault, client, crowd, ms, run_ready, two_clients};
use tenure::{ErrorKind, Lock, Locks};
use tokio::time::Instant;

fn some(locks: &Locks, names: &str) -> Vec<Lock> {
    names.chars().map(|name| locks.mutex(name.to_string()).build().unwrap()).collect()
}

/// How many hold each.
async fn held(store: &Chaos, names: &str) -> Vec<usize> {
    let mut counts = Vec::new();
    for name in names.chars() {
        counts.push(crowd(store, &name.to_string()).await.0);
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn all_are_taken_and_released_in_one_round_trip_each() {
    let (locks, store) = client();
    let guards = locks.try_lock_all(&some(&locks, "cab")).await.unwrap().expect("all are free");
    assert_eq!(store.take_sends().len(), 1);
    assert!(guards.are_held());
    assert_eq!(guards.iter().map(|guard| guard.name()).collect::<Vec<_>>(), ["c", "a", "b"], "as they were given");
    assert!(guards.release().await.unwrap());
    assert_eq!((store.take_sends().len(), held(&store, "abc").await), (1, vec![0, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn where_one_is_busy_none_is_taken() {
    let (ours, theirs, store) = two_clients();
    for busy in ["a", "b", "c"] {
        let guard = theirs.mutex(busy).build().unwrap().lock().await.unwrap();
        assert!(ours.try_lock_all(&some(&ours, "abc")).await.unwrap().is_none());
        assert_eq!(held(&store, "abc").await.iter().sum::<usize>(), 1, "at once, not in the background");
        assert!(guard.release().await.unwrap());
    }
    // Also where this process holds it itself.
    let guard = ours.mutex("b").build().unwrap().lock().await.unwrap();
    assert!(ours.try_lock_all(&some(&ours, "abc")).await.unwrap().is_none());
    assert_eq!(held(&store, "abc").await, [0, 1, 0]);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn waiting_keeps_those_before_the_busy_one_and_none_behind_it() {
    let (ours, theirs, store) = two_clients();
    for busy in [&ours, &theirs] {
        let guard = busy.mutex("b").build().unwrap().lock().await.unwrap();
        let waiting = tokio::spawn(ours.lock_all(&some(&ours, "dcba")).into_future());
        tokio::time::sleep(ms(1)).await;
        assert_eq!(held(&store, "abcd").await, [1, 1, 0, 0]);
        guard.release().await.unwrap();
        let guards = waiting.await.unwrap().unwrap();
        assert_eq!(held(&store, "abcd").await, [1, 1, 1, 1]);
        assert!(guards.release().await.unwrap());
        assert_eq!(held(&store, "abcd").await, [0, 0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_some_of_the_same_never_waits_for_ever() {
    let (ours, theirs, store) = two_clients();
    let mut tasks = Vec::new();
    for (n, names) in ["abc", "cba", "bd", "dab", "ca", "dc"].into_iter().cycle().take(60).enumerate() {
        let locks = if n % 2 == 0 { &ours } else { &theirs };
        let (locks, wanted) = (locks.clone(), some(locks, names));
        tasks.push(tokio::spawn(async move {
            let guards = locks.lock_all(&wanted).await.unwrap();
            tokio::time::sleep(ms(7)).await;
            guards.release().await.unwrap();
        }));
    }
    let all = futures_util::future::join_all(tasks);
    tokio::time::timeout(ms(60 * 7 + 3_000), all).await.expect("each gets its turn");
    assert_eq!(held(&store, "abcd").await, [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_or_a_failure_leaves_nothing() {
    let (ours, theirs, store) = two_clients();
    let guard = theirs.mutex("c").build().unwrap().lock().await.unwrap();
    let start = Instant::now();
    let error = ours.lock_all(&some(&ours, "abcd")).timeout(ms(500)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, ms(500)));
    tokio::time::sleep(ms(10)).await;
    assert_eq!(held(&store, "abcd").await, [0, 0, 1, 0]);
    drop(guard);
    run_ready().await;
    for fault in [Fault::Refuse, Fault::LoseReply] {
        store.fault(fault);
        assert!(ours.try_lock_all(&some(&ours, "abcd")).await.is_err());
        store.fault(Fault::None);
        tokio::time::sleep(ms(2_000)).await;
        assert_eq!(held(&store, "abcd").await, [0, 0, 0, 0], "{fault:?}");
    }
    let semaphore = theirs.semaphore("b", 3).build().unwrap().lock().await.unwrap();
    let error = ours.try_lock_all(&some(&ours, "abcd")).await.unwrap_err();
    assert_eq!((error.kind(), held(&store, "acd").await), (ErrorKind::Mismatch, vec![0, 0, 0]));
    drop(semaphore);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_for_all_leaves_nothing() {
    for k in 0..12 {
        let (ours, theirs, store) = two_clients();
        store.yields(2);
        let guard = theirs.mutex("b").build().unwrap().lock().await.unwrap();
        {
            let wanted = some(&ours, "abc");
            let mut waiting = std::pin::pin!(ours.lock_all(&wanted).into_future());
            for _ in 0..k {
                assert!(futures_util::poll!(waiting.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(ms(100)).await;
        assert_eq!((held(&store, "abc").await, crowd(&store, "b").await), (vec![0, 1, 0], (1, 0)), "after {k} polls");
        drop(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_loss_ends_the_work() {
    let (ours, theirs, _store) = two_clients();
    let guards = ours.lock_all(&some(&ours, "ab")).await.unwrap();
    theirs.break_lock("b").await.unwrap();
    let error = guards.protect(std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(!guards.are_held() && guards[0].is_held());
    assert!(!guards.release().await.unwrap(), "one was no longer ours");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_meant_is_refused_by_name() {
    let (ours, theirs, _store) = two_clients();
    let error = ours.try_lock_all(&some(&ours, "aba")).await.unwrap_err();
    assert!(error.to_string().contains("\"a\" is in the list twice"), "{error}");
    let error = ours.try_lock_all(&some(&theirs, "a")).await.unwrap_err();
    assert!(error.to_string().contains("another client's"), "{error}");
    assert!(ours.try_lock_all(&[]).await.unwrap().expect("all of none").is_empty());
}
