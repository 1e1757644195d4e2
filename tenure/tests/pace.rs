//! How often a waiting client asks, under a paused clock: as the user's policy has it, and never as fast as the store
//! answers, whoever died ahead of it.
//!
//! Bugs that were planted, one at a time, and found: a delay of zero is taken as it is; a zero interval is accepted; every
//! delay is as the first; a push is not heard between two retries; the head asks each millisecond, or everybody does.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use common::{Chaos, client, crowd, ms, run_ready, two_clients};
use tenure::proto::{Acquire, Claim, ClaimId, Op};
use tenure::store::Store;
use tenure::{ErrorKind, Guard, Key, Locks};
use tokio::task::JoinHandle;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn retries_are_counted_and_spaced() {
    let (ours, theirs, store) = two_clients();
    let _guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    store.take_ops();
    let start = Instant::now();
    let error = theirs.mutex("a").retry(3, ms(200)).build().unwrap().lock().await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, ms(600)));
    assert_eq!(store.acquires(), 4, "one attempt and three retries");
}

/// When the store was asked for the lock, since `start`.
fn asked_at(store: &Chaos, start: Instant) -> Vec<u128> {
    let mut sends = store.take_sends();
    sends.retain(|send| matches!(send.ops[0], Op::Acquire(_)));
    sends.iter().map(|send| (send.at - start).as_millis()).collect()
}

#[tokio::test(start_paused = true)]
async fn each_delay_of_a_backoff_is_kept_and_each_wait_begins_with_the_first() {
    let (ours, theirs, store) = two_clients();
    let _guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let lock = theirs.mutex("a").backoff(|| [10, 40, 90].map(ms).into_iter()).build().unwrap();
    store.take_sends();
    for _ in 0..2 {
        let start = Instant::now();
        let error = lock.lock().await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, ms(140)));
        assert_eq!(asked_at(&store, start), [0, 10, 50, 140]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backoff_of_no_time_asks_once_in_a_millisecond() {
    let (ours, theirs, store) = two_clients();
    let _guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    store.take_sends();
    let start = Instant::now();
    let lock = theirs.mutex("a").backoff(|| std::iter::repeat_n(ms(0), 5)).build().unwrap();
    assert_eq!(lock.lock().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(asked_at(&store, start), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn retries_without_a_pause_are_refused() {
    let (locks, _store) = client();
    let error = locks.mutex("a").retry(3, ms(0)).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().starts_with("retry with an interval of zero"), "{error}");
    assert!(locks.mutex("a").retry(3, ms(0)).backoff(|| [ms(5)].into_iter()).build().is_ok(), "the last one counts");
}

#[tokio::test(start_paused = true)]
async fn between_two_retries_a_hand_over_is_taken_at_once() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let waiter = tokio::spawn(theirs.mutex("a").retry(3, ms(10_000)).build().unwrap().lock().into_future());
    tokio::time::sleep(ms(500)).await;
    store.take_ops();
    let start = Instant::now();
    guard.release().await.unwrap();
    let next = waiter.await.unwrap().unwrap();
    assert_eq!((start.elapsed(), store.acquires()), (ms(0), 0));
    assert!(next.is_held());
}

/// Claims the lock as a process does that dies before it asks for anything else.
async fn dies(store: &Chaos, id: u128, ttl: u64, patience: u64) {
    let acquire = Acquire {
        id: ClaimId::new(id << 8),
        claim: Claim::EXCLUSIVE,
        ttl: ms(ttl),
        patience: ms(patience),
        owner: None,
        max: 1,
        memory: ms(60_000),
        meta: Default::default(),
        fence: 0,
    };
    store.memory.apply(&Key::new("a").unwrap(), &Op::Acquire(acquire)).await.unwrap();
}

/// Waiters of one process, each with a place of its own in the store's queue, or all in one line.
fn waiters(locks: &Locks, n: usize, in_line: bool) -> Vec<JoinHandle<tenure::Result<Guard>>> {
    let lock = locks.mutex("a").local_hand_off(in_line).build().unwrap();
    (0..n).map(|_| tokio::spawn(lock.lock().into_future())).collect()
}

/// Each has a place of its own, or one for all: so many ask at each third of the patience, which is a second.
const PLACES: [(bool, usize); 2] = [(false, 5), (true, 1)];

#[tokio::test(start_paused = true)]
async fn behind_a_dead_holder_the_store_is_asked_once_in_a_third_of_the_patience() {
    for (in_line, places) in PLACES {
        let (locks, store) = client();
        dies(&store, 1, 30_000, 0).await;
        let start = Instant::now();
        let mut waiters = waiters(&locks, 5, in_line).into_iter();
        let first = waiters.next().unwrap().await.unwrap().unwrap();
        assert!((ms(30_000)..=ms(30_010)).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert!(store.acquires() <= 32 * places, "in line: {in_line}, asked {} times", store.acquires());
        first.release().await.unwrap();
        for waiter in waiters {
            waiter.await.unwrap().unwrap().release().await.unwrap();
        }
        assert_eq!(start.elapsed().as_secs(), 30, "and nobody else waited for anything");
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_dead_head_of_the_queue_the_store_is_asked_once_in_a_third_of_the_patience() {
    for (in_line, places) in PLACES {
        let (ours, theirs, store) = two_clients();
        let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
        dies(&store, 1, 30_000, 20_000).await;
        let start = Instant::now();
        let mut waiters = waiters(&theirs, 5, in_line).into_iter();
        run_ready().await;
        assert_eq!(crowd(&store, "a").await, (1, 1 + places));
        // It is let in, and does not know: its time is that of its place.
        tokio::time::sleep(ms(5_500)).await;
        guard.release().await.unwrap();
        let first = waiters.next().unwrap().await.unwrap().unwrap();
        assert!((ms(20_000)..=ms(20_010)).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert!(store.acquires() <= 23 * places + 1, "in line: {in_line}, asked {} times", store.acquires());
        first.release().await.unwrap();
        for waiter in waiters {
            waiter.await.unwrap().unwrap().release().await.unwrap();
        }
        assert_eq!(start.elapsed().as_secs(), 20, "and nobody else waited for anything");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_head_whose_place_ends_while_the_lock_is_held_costs_no_more() {
    for (in_line, places) in PLACES {
        let (ours, theirs, store) = two_clients();
        let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
        dies(&store, 1, 30_000, 3_000).await;
        store.take_ops();
        let mut waiters = waiters(&theirs, 5, in_line).into_iter();
        tokio::time::sleep(ms(20_500)).await;
        assert_eq!(crowd(&store, "a").await, (1, places), "the dead one has gone");
        assert!(store.acquires() <= 22 * places, "in line: {in_line}, asked {} times", store.acquires());
        let start = Instant::now();
        guard.release().await.unwrap();
        let first = waiters.next().unwrap().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), ms(0), "its release wakes the next");
        drop(first);
    }
}
