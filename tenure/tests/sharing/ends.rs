//! Readers and permits in line that go, or are not polled, and a store that fails them.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;

use tenure::{ErrorKind, Guard, Lock, What};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::common::{Fault, client, crowd, ms, run_ready, two_clients};
use crate::{all, permits, reader, soon, waiter, watches, writer};

type Wait = Pin<Box<dyn Future<Output = tenure::Result<Guard>> + Send>>;

/// A wait that is polled once.
async fn forgotten(lock: &Lock) -> Wait {
    let mut wait = Box::pin(lock.lock().into_future());
    assert!(futures_util::poll!(wait.as_mut()).is_pending());
    wait
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
async fn those_who_gave_up_are_no_longer_ahead_of_anybody() {
    let (locks, _store) = client();
    let _held = writer(&locks).lock().await.unwrap();
    let leaving: Vec<_> = (0..50).map(|_| waiter(&reader(&locks))).collect();
    run_ready().await;
    leaving.iter().for_each(JoinHandle::abort);
    run_ready().await;
    let mut events = locks.events();
    let _waiting = waiter(&reader(&locks));
    assert_eq!(events.recv().await.unwrap().what, What::Waiting { ahead: 0 });
}

/// An outage ends with any answer, also with one to a try beside the front: what fails a minute later is another outage.
#[tokio::test(start_paused = true)]
async fn an_outage_that_ended_for_a_try_is_no_part_of_the_next() {
    let (ours, theirs, store) = two_clients();
    let held = writer(&theirs).lock().await.unwrap();
    let lock = reader(&ours);
    // An answer takes a while, so that both ask.
    store.yields(2);
    store.fault(Fault::Refuse);
    let waiters = [waiter(&lock), waiter(&lock)];
    run_ready().await;
    store.fault(Fault::None);
    tokio::time::sleep(ms(60_000)).await;
    assert_eq!(crowd(&store, "a").await, (1, 1), "one has a place, the other was told that it is busy");
    store.refuse_acquires(true);
    drop(held);
    tokio::time::sleep(ms(1_000)).await;
    store.refuse_acquires(false);
    for waiter in waiters {
        let waited = tokio::time::timeout(ms(5_000), waiter).await.expect("its turn comes").unwrap();
        drop(waited.expect("a second of failures is no reason to give up"));
    }
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

#[tokio::test(start_paused = true)]
async fn another_kind_of_lock_is_told_at_once_whoever_stands_in_line() {
    let (locks, _store) = client();
    let [mutex, three] = [writer(&locks), permits(&locks, 3, 3)];
    for (first, other) in [(&mutex, &three), (&three, &mutex), (&three, &permits(&locks, 1, 4))] {
        let held = first.lock().await.unwrap();
        let waits = waiter(first);
        run_ready().await;
        assert_eq!(other.try_lock().await.unwrap_err().kind(), ErrorKind::Mismatch);
        assert_eq!(soon_refused(other).await, ErrorKind::Mismatch);
        drop(held);
        soon(waits).await.release().await.unwrap();
    }
}

/// Why a wait fails that is not to last.
async fn soon_refused(lock: &Lock) -> ErrorKind {
    tokio::time::timeout(ms(50), lock.lock().into_future()).await.expect("it is told").unwrap_err().kind()
}
