//! Readers, permits and writers of one process in line for the same lock, under a paused clock.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use common::{Chaos, Fault, client, crowd, ms, run_ready, two_clients};
use tenure::proto::Op;
use tenure::{ErrorKind, Guard, Lock, Locks};
use tokio::task::JoinHandle;
use tokio::time::Instant;

type Wait = Pin<Box<dyn Future<Output = tenure::Result<Guard>> + Send>>;

fn reader(locks: &Locks) -> Lock {
    locks.read("a").build().unwrap()
}

fn writer(locks: &Locks) -> Lock {
    locks.write("a").build().unwrap()
}

fn permits(locks: &Locks, permits: u32, limit: u32) -> Lock {
    locks.semaphore("a", limit).permits(permits).build().unwrap()
}

fn waiter(lock: &Lock) -> JoinHandle<tenure::Result<Guard>> {
    tokio::spawn(lock.lock().into_future())
}

/// A wait that is polled once.
async fn forgotten(lock: &Lock) -> Wait {
    let mut wait = Box::pin(lock.lock().into_future());
    assert!(futures_util::poll!(wait.as_mut()).is_pending());
    wait
}

/// What a wait comes to that is not to last.
async fn soon(waiter: JoinHandle<tenure::Result<Guard>>) -> Guard {
    tokio::time::timeout(ms(50), waiter).await.expect("its turn comes").unwrap().unwrap()
}

async fn all(waiters: impl IntoIterator<Item = JoinHandle<tenure::Result<Guard>>>) -> Vec<Guard> {
    let mut guards = Vec::new();
    for waiter in waiters {
        guards.push(soon(waiter).await);
    }
    guards
}

fn watches(store: &Chaos, n: usize) -> bool {
    format!("{:?}", store.memory).contains(&format!("waiting: {n}"))
}

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
async fn a_front_that_goes_passes_its_turn_on_wherever_it_was() {
    // It is dropped after `k` polls, and what it waits for ends before the poll `r`, so that it meets it at each of its await points.
    for semaphore in [false, true] {
        for r in 0..12 {
            for k in 0..14 {
                let (locks, store) = client();
                store.yields(2);
                let (held, lock) = match semaphore {
                    false => (writer(&locks), reader(&locks)),
                    true => (permits(&locks, 2, 2), permits(&locks, 1, 2)),
                };
                let mut held = Some(held.lock().await.unwrap());
                let mut behind = Vec::new();
                {
                    let mut leaving = pin!(lock.lock().into_future());
                    for poll in 0..k {
                        if poll == r {
                            drop(held.take());
                        }
                        let polled = std::future::poll_fn(|context| Poll::Ready(leaving.as_mut().poll(context))).await;
                        if behind.is_empty() {
                            behind.extend([waiter(&lock), waiter(&lock)]);
                        }
                        tokio::task::yield_now().await;
                        if polled.is_ready() {
                            break;
                        }
                    }
                    drop(held.take());
                }
                drop(all(behind).await);
                tokio::time::sleep(ms(20)).await;
                assert!(crowd(&store, "a").await == (0, 0) && watches(&store, 0), "{semaphore} {r} {k}: {store:?}");
                assert!(writer(&locks).try_lock().await.unwrap().is_some() || semaphore, "nobody is in line any more");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_those_who_ask_side_by_side_goes_and_leaves_nothing() {
    for writes in [false, true] {
        for k in 0..14 {
            let (ours, theirs, store) = two_clients();
            store.yields(2);
            let held = if writes { Some(writer(&theirs).lock().await.unwrap()) } else { None };
            let lock = reader(&ours);
            let first = waiter(&lock);
            tokio::task::yield_now().await;
            {
                let mut leaving = pin!(lock.lock().into_future());
                for _ in 0..k {
                    _ = futures_util::poll!(leaving.as_mut()).is_ready();
                    tokio::task::yield_now().await;
                    if first.is_finished() {
                        break;
                    }
                }
            }
            let behind = waiter(&lock);
            drop(held);
            drop(all([first, behind]).await);
            tokio::time::sleep(ms(20)).await;
            assert!(crowd(&store, "a").await == (0, 0) && watches(&store, 0), "{writes} {k}: {store:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_line_is_a_timeout_of_a_reader_too() {
    let (ours, theirs, store) = two_clients();
    let _guard = writer(&theirs).lock().await.unwrap();
    let lock = reader(&ours);
    let start = Instant::now();
    let waiters: Vec<_> = (0..200).map(|_| tokio::spawn(lock.lock().timeout(ms(7_000)).into_future())).collect();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert_eq!(start.elapsed(), ms(7_000));
    tokio::time::sleep(ms(20)).await;
    assert!(crowd(&store, "a").await == (1, 0) && watches(&store, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_takes_goes_on_to_the_next_reader() {
    let (locks, _store) = client();
    let guard = writer(&locks).lock().await.unwrap();
    let _unseen = forgotten(&reader(&locks)).await;
    let _likewise = forgotten(&reader(&locks)).await;
    let behind = waiter(&reader(&locks));
    run_ready().await;
    drop(guard);
    drop(soon(behind).await);
    let start = Instant::now();
    // A writer waits for those before it, and no longer than for their patience.
    drop(tokio::time::timeout(ms(20_000), waiter(&writer(&locks))).await.expect("its turn comes").unwrap().unwrap());
    assert!(start.elapsed() <= ms(9_100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_is_not_polled_any_more_is_passed_over() {
    let (ours, theirs, store) = two_clients();
    let guard = writer(&theirs).lock().await.unwrap();
    let lock = reader(&ours);
    let mut front = Box::pin(lock.lock().into_future());
    assert!(tokio::time::timeout(ms(10), front.as_mut()).await.is_err());
    assert_eq!(crowd(&store, "a").await, (1, 1), "it has its place, and is not looked at from here on");
    let behind = waiter(&lock);
    tokio::time::sleep(ms(10)).await;
    drop(guard);
    let start = Instant::now();
    let passed = tokio::time::timeout(ms(20_000), behind).await.expect("its turn comes").unwrap().unwrap();
    assert!(start.elapsed() <= ms(12_000), "{:?}", start.elapsed());
    let front = tokio::time::timeout(ms(10), front).await.expect("it may share yet").unwrap();
    assert!(front.is_held() && passed.is_held());
    drop((front, passed));
    tokio::time::sleep(ms(10)).await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
    assert!(writer(&ours).try_lock().await.unwrap().is_some(), "nobody is in line any more");
}

#[tokio::test(start_paused = true)]
async fn when_the_store_fails_the_readers_in_line_are_told_and_few_ask() {
    let (locks, store) = client();
    let lock = reader(&locks);
    store.fault(Fault::Refuse);
    let start = Instant::now();
    let bounded: Vec<_> = (0..200).map(|_| tokio::spawn(lock.lock().timeout(ms(5_000)).into_future())).collect();
    tokio::time::sleep(ms(2_100)).await;
    assert_eq!(lock.try_lock().await.unwrap_err().kind(), ErrorKind::Unavailable);
    for waiter in bounded {
        let error = waiter.await.unwrap().unwrap_err();
        assert!(error.is_timeout() && std::error::Error::source(&error).is_some(), "not busy, but: {error}");
    }
    let unbounded: Vec<_> = (0..200).map(|_| waiter(&lock)).collect();
    for waiter in unbounded {
        assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // The ttl, and not once more for each.
    assert!(start.elapsed() < ms(5_000 + 33_000), "{:?}", start.elapsed());
    store.fault(Fault::None);
    drop(all((0..200).map(|_| waiter(&lock)).collect::<Vec<_>>()).await);
}

#[tokio::test(start_paused = true)]
async fn replies_that_were_lost_are_answered_by_asking_again_side_by_side() {
    let (locks, store) = client();
    let lock = reader(&locks);
    store.fault(Fault::LoseReply);
    let waiters: Vec<_> = (0..100).map(|_| waiter(&lock)).collect();
    tokio::time::sleep(ms(3)).await;
    store.fault(Fault::None);
    let guards = all(waiters).await;
    assert_eq!(crowd(&store, "a").await, (100, 0), "each of them once");
    drop(guards);
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

#[tokio::test(start_paused = true)]
async fn a_push_that_was_lost_costs_a_reader_in_line_a_third_of_the_patience() {
    let (ours, theirs, store) = two_clients();
    let guard = writer(&theirs).lock().await.unwrap();
    store.mute();
    let waiters = [waiter(&reader(&ours)), waiter(&reader(&ours))];
    tokio::time::sleep(ms(10)).await;
    guard.release().await.unwrap();
    let start = Instant::now();
    for waiter in waiters {
        drop(waiter.await.unwrap().unwrap());
    }
    assert!(start.elapsed() <= ms(1_001), "for both together: {:?}", start.elapsed());
}
