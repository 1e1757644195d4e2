//! Several locks at once, under a paused clock.
//!
//! Bugs that were planted, one at a time, and found: the order of the list instead of that of the names; those behind the
//! busy one are kept; those before it are forgotten; a failure keeps what was had; the tries are not bounded by the time
//! for waiting; a failed try ends the wait; what is given back is waited for; a closed client takes the rest; the handler is
//! not asked; what was lost meanwhile is handed out.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::sync::Arc;

use common::{Chaos, Fault, client, crowd, ms, run_ready, two_clients};
use tenure::env::Env;
use tenure::proto::Op;
use tenure::{ErrorKind, Instead, Lock, Locks};
use tokio::time::{Instant, sleep};

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

#[tokio::test(start_paused = true)]
async fn the_time_for_waiting_bounds_the_tries_as_well() {
    let (ours, theirs, store) = two_clients();
    store.hang_on(|name| name == "b");
    let start = Instant::now();
    let error = ours.lock_all(&some(&ours, "ab")).timeout(ms(500)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(start.elapsed() <= ms(502), "{:?}", start.elapsed());

    // Also when it waited for another one first.
    store.hang_on(|_| false);
    let guard = theirs.mutex("a").build().unwrap().lock().await.unwrap();
    let start = Instant::now();
    let waiting = tokio::spawn(ours.lock_all(&some(&ours, "ab")).timeout(ms(500)).into_future());
    sleep(ms(200)).await;
    store.hang_on(|name| name == "b");
    guard.release().await.unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(start.elapsed() <= ms(502), "{:?}", start.elapsed());
    store.hang_on(|_| false);
    sleep(ms(10_000)).await;
    assert_eq!(held(&store, "ab").await, [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_again() {
    for fault in [Fault::Refuse, Fault::LoseReply, Fault::Hang] {
        let (ours, theirs, store) = two_clients();
        store.fault(fault);
        let waiting = tokio::spawn(ours.lock_all(&some(&ours, "cab")).into_future());
        sleep(ms(3_000)).await;
        store.fault(Fault::None);
        let guards = waiting.await.unwrap().unwrap();
        assert!(guards.are_held());
        assert_eq!(held(&store, "abc").await, [1, 1, 1], "{fault:?}");
        assert!(guards.release().await.unwrap());

        // It fails when the first was had.
        let guard = theirs.mutex("a").build().unwrap().lock().await.unwrap();
        let waiting = tokio::spawn(ours.lock_all(&some(&ours, "abc")).into_future());
        run_ready().await;
        guard.release().await.unwrap();
        store.fault(fault);
        sleep(ms(100)).await;
        store.fault(Fault::None);
        assert!(waiting.await.unwrap().unwrap().are_held(), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_too_long_ends_the_wait_as_for_a_single_lock() {
    for (fault, kind) in [(Fault::Refuse, ErrorKind::Unavailable), (Fault::Foreign, ErrorKind::Foreign)] {
        let (locks, store) = client();
        store.fault(fault);
        let start = Instant::now();
        let error = locks.lock_all(&some(&locks, "ab")).await.unwrap_err();
        let single = start.elapsed();
        let alone = locks.mutex("a").build().unwrap().lock().await.unwrap_err();
        assert_eq!((error.kind(), alone.kind()), (kind, kind));
        let difference = single.abs_diff(start.elapsed() - single);
        assert!(difference < ms(2_000), "{fault:?}: {single:?} and {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_is_given_back() {
    let (ours, theirs, store) = two_clients();
    let guard = theirs.mutex("b").build().unwrap().lock().await.unwrap();
    store.delay(ms(300));
    store.take_sends();
    let start = Instant::now();
    let waiting = tokio::spawn(ours.lock_all(&some(&ours, "abc")).into_future());
    sleep(ms(650)).await;
    let place = |op: &Op| matches!(op, Op::Acquire(acquire) if !acquire.patience.is_zero());
    let sends = store.take_sends();
    let send = sends.iter().find(|send| place(&send.ops[0])).expect("a place in the queue was asked for");
    assert_eq!((send.at - start, send.keys[0].as_str()), (ms(300), "b"), "right when the try was answered");
    assert_eq!(held(&store, "abc").await, [1, 1, 0], "and that behind it went back at the same time");
    drop((guard, waiting));

    // A try ends within the time limit of a request, whatever it has to give back.
    let (ours, theirs, store) = two_clients();
    let guard = theirs.mutex("b").build().unwrap().lock().await.unwrap();
    store.delay(ms(700));
    let wanted = ["a", "b", "c"].map(|name| ours.mutex(name).op_timeout(ms(1_000)).build().unwrap());
    let start = Instant::now();
    assert!(ours.try_lock_all(&wanted).await.unwrap().is_none());
    assert!(start.elapsed() <= ms(1_001), "{:?}", start.elapsed());
    sleep(ms(1_500)).await;
    assert_eq!(held(&store, "abc").await, [0, 1, 0]);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_closed_meanwhile_takes_no_more() {
    let (ours, theirs, store) = two_clients();
    let guard = theirs.mutex("a").build().unwrap().lock().await.unwrap();
    let waiting = tokio::spawn(ours.lock_all(&some(&ours, "abc")).into_future());
    run_ready().await;
    ours.close().await;
    guard.release().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    run_ready().await;
    assert_eq!(held(&store, "abc").await, [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_handler_is_asked_for_each_that_the_store_failed() {
    let env = Env::simulated(7);
    let store = Chaos::new(env.clone());
    let builder = Locks::builder(Arc::new(store.clone())).env(env.clone());
    let locks = builder.fallback(|_, _| Instead::Unlocked).build().unwrap();
    for fault in [Fault::Refuse, Fault::Foreign] {
        store.fault(fault);
        let guards = locks.try_lock_all(&some(&locks, "ab")).await.unwrap().expect("the handler lets both pass");
        assert!(guards.iter().all(|guard| guard.is_degraded() && guard.is_held()));
        assert!(!guards.release().await.unwrap(), "nothing was held");
        let guards = locks.lock_all(&some(&locks, "ab")).timeout(ms(500)).await.unwrap();
        assert!(guards.iter().all(|guard| guard.is_degraded()));
    }
    assert_eq!(locks.metrics().degraded, 8);

    // A lock that is busy is no failure, and neither is a claim that is turned away.
    store.fault(Fault::None);
    let other = common::another(&store, &env);
    let guard = other.mutex("b").build().unwrap().lock().await.unwrap();
    assert!(locks.try_lock_all(&some(&locks, "ab")).await.unwrap().is_none());
    assert!(locks.lock_all(&some(&locks, "ab")).timeout(ms(500)).await.unwrap_err().is_timeout());
    guard.release().await.unwrap();
    run_ready().await;
    let _semaphore = other.semaphore("b", 3).build().unwrap().lock().await.unwrap();
    assert_eq!(locks.lock_all(&some(&locks, "ab")).await.unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(locks.metrics().degraded, 8);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_while_another_is_waited_for_is_taken_again() {
    let (ours, theirs, store) = two_clients();
    let guard = theirs.mutex("b").build().unwrap().lock().await.unwrap();
    let wanted = ["a", "b"].map(|name| ours.mutex(name).ttl(ms(500)).watchdog(false).build().unwrap());
    let waiting = tokio::spawn(ours.lock_all(&wanted).into_future());
    sleep(ms(2_000)).await;
    guard.release().await.unwrap();
    let guards = waiting.await.unwrap().unwrap();
    assert!(guards.are_held() && guards[0].remaining() > ms(400), "{guards:?}");
    assert_eq!(held(&store, "ab").await, [1, 1]);
}
