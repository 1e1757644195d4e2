//! Who of a line is let in, in which order, and what that costs the store.
//!
//! Bugs that were planted, one at a time, and found: who is let in does not leave the line; who tries beside the front takes
//! a place; that it is busy does not keep others from asking, where the test does not end.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tenure::proto::Op;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::common::{client, crowd, ms, run_ready, two_clients};
use crate::{all, permits, reader, soon, waiter, watches, writer};

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_behind_a_writer_are_one_place_and_one_watch_and_then_all_are_in() {
    let (ours, theirs, store) = two_clients();
    let guard = writer(&theirs).lock().await.unwrap();
    store.take_ops();
    let lock = reader(&ours);
    let waiters: Vec<_> = (0..1_000).map(|_| waiter(&lock)).collect();
    run_ready().await;
    assert!(crowd(&store, "a").await == (1, 1) && watches(&store, 1), "{store:?}");
    assert!(store.acquires() <= 64 + 1, "nor do all ask for it once: {}", store.acquires());
    store.take_ops();
    tokio::time::sleep(ms(10_000)).await;
    assert!(crowd(&store, "a").await == (1, 1) && watches(&store, 1), "{store:?}");
    assert!(store.acquires() <= 11, "one asks now and then, not all: {}", store.acquires());
    store.delay(ms(1));
    store.take_ops();
    let start = Instant::now();
    drop(guard);
    let guards = all(waiters).await;
    assert_eq!(crowd(&store, "a").await, (1_000, 0));
    assert!(start.elapsed() <= ms(25), "they ask side by side: {:?}", start.elapsed());
    assert!(store.acquires() <= 1_010, "and once each: {}", store.acquires());
    drop(guards);
}

#[tokio::test(start_paused = true)]
async fn a_writer_of_ones_own_lets_a_thousand_readers_in_as_well() {
    let (locks, store) = client();
    let guard = writer(&locks).lock().await.unwrap();
    let waiters: Vec<_> = (0..1_000).map(|_| waiter(&reader(&locks))).collect();
    run_ready().await;
    assert!(crowd(&store, "a").await == (1, 0) && watches(&store, 0), "the line is in memory alone: {store:?}");
    guard.release().await.unwrap();
    drop(all(waiters).await);
}

#[tokio::test(start_paused = true)]
async fn readers_that_nobody_is_in_the_way_of_need_one_round_trip_together() {
    let (locks, store) = client();
    store.delay(ms(10));
    let start = Instant::now();
    let lock = reader(&locks);
    let _first = lock.lock().await.unwrap();
    assert_eq!((start.elapsed(), store.acquires()), (ms(10), 1));
    let guards = all((0..64).map(|_| waiter(&lock)).collect::<Vec<_>>()).await;
    assert_eq!((start.elapsed(), store.acquires()), (ms(20), 65));
    let more = all((0..128).map(|_| waiter(&lock)).collect::<Vec<_>>()).await;
    assert_eq!((start.elapsed(), store.acquires()), (ms(40), 193), "64 at a time");
    drop((guards, more));
}

#[tokio::test(start_paused = true)]
async fn of_a_crowd_never_more_are_in_than_there_are_permits_and_one_has_a_place() {
    let (locks, store) = client();
    store.delay(ms(1));
    let lock = permits(&locks, 1, 4);
    let (within, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..1_000)
        .map(|n| {
            let (lock, within, most, order) = (lock.clone(), within.clone(), most.clone(), order.clone());
            tokio::spawn(async move {
                let guard = lock.lock().await.unwrap();
                order.lock().unwrap().push(n);
                most.fetch_max(within.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::time::sleep(ms(10)).await;
                within.fetch_sub(1, SeqCst);
                guard.release().await.unwrap();
            })
        })
        .collect();
    let start = Instant::now();
    while tasks.iter().any(|task| !task.is_finished()) {
        let (holders, places) = crowd(&store, "a").await;
        assert!(holders <= 4 && places <= 1 && (watches(&store, 0) || watches(&store, 1)), "{holders} {places}");
        tokio::time::sleep(ms(1)).await;
    }
    assert_eq!(most.load(SeqCst), 4);
    assert!(order.lock().unwrap().iter().copied().eq(0..1_000), "in the order in which they came");
    // 250 turns of the hold and its release.
    assert!(start.elapsed() <= ms(250 * 13), "{:?}", start.elapsed());
    assert!(store.acquires() <= 1_900, "nor do many ask in vain: {}", store.acquires());
}

#[tokio::test(start_paused = true)]
async fn who_tried_and_was_told_that_it_is_busy_asks_again_in_its_turn_and_not_at_once() {
    let (locks, store) = client();
    store.delay(ms(10));
    let lock = permits(&locks, 1, 4);
    let waiters: Vec<_> = (0..100).map(|_| waiter(&lock)).collect();
    tokio::time::sleep(ms(500)).await;
    assert_eq!((waiters.iter().filter(|waiter| waiter.is_finished()).count(), crowd(&store, "a").await), (4, (4, 1)));
    assert!(store.acquires() <= 64 + 6, "{} requests", store.acquires());
    waiters.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn permits_that_come_free_together_are_asked_for_by_more_and_more_at_once() {
    let (ours, theirs, store) = two_clients();
    let held = permits(&theirs, 64, 64).lock().await.unwrap();
    store.delay(ms(10));
    let lock = permits(&ours, 1, 64);
    let waiters: Vec<_> = (0..64).map(|_| waiter(&lock)).collect();
    tokio::time::sleep(ms(100)).await;
    assert_eq!(crowd(&store, "a").await, (1, 1));
    store.take_ops();
    let start = Instant::now();
    drop(held);
    let mut guards = Vec::new();
    for waiter in waiters {
        guards.push(tokio::time::timeout(ms(1_000), waiter).await.expect("there is room").unwrap().unwrap());
    }
    // 1 + 2 + … + 11 are 66.
    assert!(start.elapsed() <= ms(150), "{:?}", start.elapsed());
    assert!(store.acquires() <= 64 + 11, "{}", store.acquires());
}

#[tokio::test(start_paused = true)]
async fn who_tries_while_others_of_the_process_are_told_to_wait_asks_nobody() {
    let (ours, theirs, store) = two_clients();
    let held = writer(&theirs).lock().await.unwrap();
    let waiting = waiter(&reader(&ours));
    run_ready().await;
    store.take_ops();
    assert!(reader(&ours).try_lock().await.unwrap().is_none());
    assert_eq!(store.take_ops(), []);
    drop(held);
    drop(soon(waiting).await);
}

#[tokio::test(start_paused = true)]
async fn readers_and_writers_of_one_process_keep_their_order() {
    let (locks, store) = client();
    let order = Arc::new(Mutex::new(Vec::new()));
    let first = writer(&locks).lock().await.unwrap();
    let kinds = ["r", "r", "w", "r", "w", "w", "r", "r", "r"];
    let tasks = kinds.iter().enumerate().map(|(n, kind)| {
        let lock = if *kind == "r" { reader(&locks) } else { writer(&locks) };
        let order = order.clone();
        tokio::spawn(async move {
            let guard = lock.lock().await.unwrap();
            let start = Instant::now();
            tokio::time::sleep(ms(10)).await;
            drop(guard);
            order.lock().unwrap().push((start, n));
        })
    });
    let tasks: Vec<_> = tasks.collect();
    run_ready().await;
    let start = Instant::now();
    drop(first);
    for task in tasks {
        task.await.unwrap();
    }
    let mut order = order.lock().unwrap().clone();
    order.sort();
    let order: Vec<_> = order.iter().map(|(at, n)| ((*at - start).as_millis() / 10, *n)).collect();
    // Those of a turn hold together.
    assert_eq!(order, [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (5, 7), (5, 8)]);
    tokio::time::sleep(ms(10)).await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_writer_behind_readers_that_hold_asks_at_once_and_newcomers_stand_behind_it() {
    let (locks, store) = client();
    let readers = [reader(&locks).lock().await.unwrap(), reader(&locks).lock().await.unwrap()];
    let writing = waiter(&writer(&locks));
    run_ready().await;
    assert_eq!(crowd(&store, "a").await, (2, 1), "it has its place");
    let reading = waiter(&reader(&locks));
    run_ready().await;
    store.take_ops();
    assert!(reader(&locks).try_lock().await.unwrap().is_none(), "who tries stands behind those who wait");
    assert_eq!(store.take_ops(), [], "which this process knows");
    drop(readers);
    let written = soon(writing).await;
    assert!(!reading.is_finished());
    drop(written);
    drop(soon(reading).await);
}

#[tokio::test(start_paused = true)]
async fn who_tries_does_not_stand_behind_those_who_hold_or_ask() {
    let (locks, store) = client();
    for lock in [reader(&locks), permits(&locks, 1, 200)] {
        let held = lock.lock().await.unwrap();
        drop(lock.try_lock().await.unwrap().expect("it shares"));
        store.delay(ms(10));
        let asking: Vec<_> = (0..100).map(|_| waiter(&lock)).collect();
        tokio::time::sleep(ms(1)).await;
        drop(lock.try_lock().await.unwrap().expect("those who ask are not known to wait"));
        store.delay(ms(0));
        drop((held, all(asking).await));
        tokio::time::sleep(ms(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_tries_stands_behind_a_writer_that_waits_for_those_who_ask() {
    let (locks, store) = client();
    store.delay(ms(10));
    let reading = waiter(&reader(&locks));
    run_ready().await;
    let writing = waiter(&writer(&locks));
    run_ready().await;
    assert!(reader(&locks).try_lock().await.unwrap().is_none());
    drop(soon(reading).await);
    drop(soon(writing).await);
}

#[tokio::test(start_paused = true)]
async fn a_larger_claim_is_not_overtaken_by_smaller_ones_behind_it() {
    let (locks, store) = client();
    store.delay(ms(1));
    let held = permits(&locks, 2, 4).lock().await.unwrap();
    // All that ask meanwhile do so at the same moment, and would have room.
    let waiters = [1, 3, 1, 1].map(|n| waiter(&permits(&locks, n, 4)));
    tokio::time::sleep(ms(100)).await;
    assert_eq!(waiters.each_ref().map(JoinHandle::is_finished), [true, false, false, false]);
    assert_eq!(crowd(&store, "a").await, (2, 1));
    drop(held);
    for waiter in waiters {
        drop(soon(waiter).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_handed_on_to_a_writer_and_not_to_a_reader() {
    let (locks, store) = client();
    let first = writer(&locks).lock().await.unwrap();
    let (second, third) = (waiter(&writer(&locks)), waiter(&reader(&locks)));
    tokio::time::sleep(ms(1)).await;
    store.take_ops();
    drop(first);
    let second = soon(second).await;
    assert_eq!(store.take_ops(), []);
    tokio::time::sleep(ms(1)).await;
    drop(second);
    let third = soon(third).await;
    assert!(matches!(store.take_ops()[..], [Op::Release(_), Op::Acquire(_)] | [Op::Acquire(_), Op::Release(_), ..]));
    drop(third);
}
