//! Tasks of one process in line for the same mutex, under a paused clock; `sharing.rs` and `sharing_ends.rs` have those who share.
//!
//! Bugs that were planted, one at a time, and found: the fence stays as it was; it may be ahead of the store's clock; who
//! waits outside is overlooked; the store's word is never too old; a lost hold leaves the line waiting; who went away with
//! the turn in its hands keeps it; the successor waits for the renewal of the one before.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use common::{Chaos, Fault, client, crowd, ms, run_ready, two_clients};
use tenure::proto::Op;
use tenure::store::Store;
use tenure::{Fence, Guard, Key, Lock, Locks};
use tokio::task::JoinHandle;
use tokio::time::Instant;

fn mutex(locks: &Locks) -> Lock {
    locks.mutex("a").build().unwrap()
}

fn waiter(lock: &Lock) -> JoinHandle<tenure::Result<Guard>> {
    tokio::spawn(lock.lock().into_future())
}

async fn fence_of_record(store: &Chaos) -> Fence {
    Fence::new(store.read(&Key::new("a").unwrap()).await.unwrap().record.fence)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_tasks_are_one_place_in_the_stores_queue() {
    let (ours, theirs, store) = two_clients();
    let guard = mutex(&theirs).lock().await.unwrap();
    store.take_ops();
    let lock = mutex(&ours);
    let waiters: Vec<_> = (0..1_000).map(|_| waiter(&lock)).collect();
    tokio::time::sleep(ms(10_000)).await;
    assert_eq!(crowd(&store, "a").await, (1, 1));
    assert!(store.acquires() <= 11, "one asks now and then, not all: {}", store.acquires());
    assert!(format!("{:?}", store.memory).contains("waiting: 1"), "{store:?}");
    drop(guard);
    let mut last = Fence::NONE;
    for waiter in waiters {
        let guard = waiter.await.unwrap().unwrap();
        assert!(guard.fence() > last);
        last = guard.fence();
        tokio::time::sleep(ms(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_passes_from_task_to_task_without_the_store_and_under_later_fences() {
    let (locks, store) = client();
    let lock = mutex(&locks);
    let mut guard = lock.lock().await.unwrap();
    let waiters: Vec<_> = (0..50).map(|_| waiter(&lock)).collect();
    run_ready().await;
    store.take_ops();
    for waiter in waiters {
        tokio::time::sleep(ms(1)).await;
        let fence = guard.fence();
        assert!(guard.release().await.unwrap());
        guard = waiter.await.unwrap().unwrap();
        assert!(guard.fence() == Fence::new(fence.get() + 1) && guard.is_held());
    }
    assert_eq!(store.take_ops(), [], "the store was not asked");
    let last = guard.fence();
    assert!(guard.release().await.unwrap());
    assert_eq!((store.take_ops().len(), fence_of_record(&store).await), (1, last), "and was told in the end");
    let metrics = locks.metrics();
    assert_eq!((metrics.acquired, metrics.handed_on, metrics.released), (51, 50, 1));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_tells_the_store_the_newest_fence() {
    let (locks, store) = client();
    let lock = mutex(&locks);
    let guard = lock.lock().await.unwrap();
    let next = waiter(&lock);
    tokio::time::sleep(ms(1)).await;
    drop(guard);
    let next = next.await.unwrap().unwrap();
    tokio::time::sleep(ms(10_100)).await;
    assert!(next.is_held() && next.remaining() > ms(29_000), "the keeper goes on with it: {:?}", next.remaining());
    assert_eq!(fence_of_record(&store).await, next.fence());
}

#[tokio::test(start_paused = true)]
async fn no_fence_is_ahead_of_the_stores_clock() {
    let (locks, store) = client();
    let lock = mutex(&locks);
    let mut guard = lock.lock().await.unwrap();
    let waiters: Vec<_> = (0..10).map(|_| waiter(&lock)).collect();
    run_ready().await;
    for waiter in waiters {
        // No time passes, so a token that is one higher would be one of the future.
        guard.release().await.unwrap();
        guard = waiter.await.unwrap().unwrap();
        assert_eq!(guard.fence(), fence_of_record(&store).await, "the store has minted it");
    }
}

#[tokio::test(start_paused = true)]
async fn others_wait_no_longer_than_a_tenth_of_a_second_and_the_hold_under_way() {
    for hold in [1, 5, 30, 250] {
        let (ours, theirs, _store) = two_clients();
        let lock = mutex(&ours);
        for _ in 0..1_000 {
            let lock = lock.clone();
            tokio::spawn(async move {
                let guard = lock.lock().await.unwrap();
                tokio::time::sleep(ms(hold)).await;
                drop(guard);
            });
        }
        tokio::time::sleep(ms(3)).await;
        for _ in 0..5 {
            let start = Instant::now();
            let guard = mutex(&theirs).lock().await.unwrap();
            assert!(start.elapsed() <= ms(100 + 2 * hold), "{:?} at holds of {hold} ms", start.elapsed());
            drop(guard);
            tokio::time::sleep(ms(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_leaves_the_line_passes_its_turn_on() {
    // It is dropped after `k` polls, before the release, between it and its next poll, and after that.
    for release_at in 0..4 {
        for k in 0..5 {
            let (locks, store) = client();
            let lock = mutex(&locks);
            let guard = lock.lock().await.unwrap();
            tokio::time::sleep(ms(1)).await;
            let (mut guard, mut behind) = (Some(guard), None);
            {
                let mut leaving = pin!(lock.lock().into_future());
                for poll in 0..k {
                    if poll == release_at {
                        drop(guard.take());
                    }
                    let polled = std::future::poll_fn(|context| Poll::Ready(leaving.as_mut().poll(context))).await;
                    behind.get_or_insert_with(|| waiter(&lock));
                    run_ready().await;
                    if polled.is_ready() {
                        break;
                    }
                }
                drop(guard.take());
            }
            let behind = behind.unwrap_or_else(|| waiter(&lock));
            let got = tokio::time::timeout(ms(50), behind).await.expect("its turn comes").unwrap().unwrap();
            assert!(got.is_held(), "{release_at} {k}");
            drop(got);
            tokio::time::sleep(ms(10)).await;
            assert_eq!(crowd(&store, "a").await, (0, 0), "{release_at} {k}");
            assert!(lock.try_lock().await.unwrap().is_some(), "nobody is in line any more");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_given_its_turn_and_never_looks_passes_it_on() {
    // Without time between, it is the turn to ask the store; with some, it is a hold.
    for pause in [ms(0), ms(1)] {
        let (locks, store) = client();
        let lock = mutex(&locks);
        let guard = lock.lock().await.unwrap();
        let mut unseen = Box::pin(lock.lock().into_future());
        assert!(futures_util::poll!(unseen.as_mut()).is_pending());
        let behind = waiter(&lock);
        tokio::time::sleep(pause).await;
        run_ready().await;
        store.take_ops();
        drop(guard);
        tokio::time::sleep(pause).await;
        drop(unseen);
        let guard = tokio::time::timeout(ms(100), behind).await.expect("its turn comes").unwrap().unwrap();
        assert!(guard.is_held());
        assert_eq!(store.acquires() == 0, !pause.is_zero(), "a hold goes from hand to hand, without the store");
    }
}

#[tokio::test(start_paused = true)]
async fn what_this_process_knows_is_not_asked() {
    let (ours, theirs, store) = two_clients();
    let guard = mutex(&ours).lock().await.unwrap();
    store.take_ops();
    assert!(mutex(&ours).is_locked().await.unwrap());
    assert!(mutex(&ours).try_lock().await.unwrap().is_none());
    assert_eq!((store.take_ops().len(), store.take_reads()), (0, 0));
    assert!(mutex(&theirs).try_lock().await.unwrap().is_none());
    assert_eq!(store.take_ops().len(), 1, "who does not know has to ask");
    assert!(mutex(&theirs).is_locked().await.unwrap());
    assert_eq!(store.take_reads(), 1, "the same");
    guard.release().await.unwrap();
    assert!(!mutex(&ours).is_locked().await.unwrap());
    assert_eq!(store.take_reads(), 1, "nobody of this process holds it");
    assert!(mutex(&ours).try_lock().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lost_hold_keeps_nobody_in_line() {
    let (locks, store) = client();
    let lock = locks.mutex("a").ttl(ms(1_000)).build().unwrap();
    let zombie = lock.lock().await.unwrap();
    let next = waiter(&lock);
    run_ready().await;
    store.fault(Fault::Refuse);
    zombie.lost().await;
    store.fault(Fault::None);
    let start = Instant::now();
    let guard = next.await.unwrap().unwrap();
    assert!(start.elapsed() <= ms(100), "as soon as the store lets it in: {:?}", start.elapsed());
    let fence = guard.fence();
    drop(zombie);
    run_ready().await;
    assert!(guard.is_held() && guard.fence() == fence, "its guard's end is nobody's concern");
    assert!(lock.try_lock().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_successor_does_not_rest_on_a_renewal_that_was_under_way() {
    let (locks, store) = client();
    let lock = locks.mutex("a").ttl(ms(9_000)).build().unwrap();
    let guard = lock.lock().await.unwrap();
    let next = waiter(&lock);
    // The renewal at six seconds hangs, shortly after the store was heard.
    tokio::time::sleep(ms(5_950)).await;
    guard.refresh().await.unwrap();
    store.fault(Fault::Hang);
    tokio::time::sleep(ms(60)).await;
    store.take_ops();
    drop(guard);
    let next = next.await.unwrap().unwrap();
    assert_eq!(store.take_ops(), [], "it was handed on");
    store.fault(Fault::None);
    tokio::time::sleep(ms(8_000)).await;
    assert!(next.is_held() && next.remaining() > ms(3_000), "{:?}", next.remaining());
}

#[tokio::test(start_paused = true)]
async fn others_that_the_store_knows_of_are_next() {
    let (ours, theirs, _store) = two_clients();
    let guard = mutex(&ours).lock().await.unwrap();
    let (foreign, own) = (waiter(&mutex(&theirs)), waiter(&mutex(&ours)));
    tokio::time::sleep(ms(1)).await;
    guard.refresh().await.unwrap();
    drop(guard);
    let foreign = tokio::time::timeout(ms(1_000), foreign).await.expect("it is next").unwrap().unwrap();
    assert!(!own.is_finished());
    drop(foreign);
    drop(own.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_others_ask_for_differently_goes_through_the_store() {
    let (locks, store) = client();
    let guard = mutex(&locks).lock().await.unwrap();
    let lock = locks.mutex("a").ttl(ms(5_000)).build().unwrap();
    let next = waiter(&lock);
    tokio::time::sleep(ms(1)).await;
    store.take_ops();
    drop(guard);
    let next = next.await.unwrap().unwrap();
    assert!(next.remaining() <= ms(5_000), "its own ttl: {:?}", next.remaining());
    assert!(matches!(store.take_ops()[..], [Op::Release(_), Op::Acquire(_)] | [Op::Acquire(_), Op::Release(_)]));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_line_is_a_timeout() {
    let (locks, store) = client();
    let lock = mutex(&locks);
    let _guard = lock.lock().await.unwrap();
    store.take_ops();
    let start = Instant::now();
    let error = lock.lock().timeout(ms(7_000)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (tenure::ErrorKind::Timeout, ms(7_000)));
    assert_eq!(store.acquires(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_nobody_renews_is_not_handed_to_who_wants_it_renewed() {
    let (locks, _store) = client();
    let guard = locks.mutex("a").watchdog(false).build().unwrap().lock().await.unwrap();
    let next = waiter(&mutex(&locks));
    tokio::time::sleep(ms(1)).await;
    drop(guard);
    let next = next.await.unwrap().unwrap();
    tokio::time::sleep(ms(100_000)).await;
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn when_the_store_fails_the_whole_line_is_told() {
    let (locks, store) = client();
    let lock = mutex(&locks);
    store.fault(Fault::Refuse);
    let start = Instant::now();
    let bounded: Vec<_> = (0..3).map(|_| tokio::spawn(lock.lock().timeout(ms(5_000)).into_future())).collect();
    let unbounded: Vec<_> = (0..5).map(|_| waiter(&lock)).collect();
    tokio::time::sleep(ms(2_100)).await;
    assert_eq!(lock.try_lock().await.unwrap_err().kind(), tenure::ErrorKind::Unavailable);
    for waiter in bounded {
        let error = waiter.await.unwrap().unwrap_err();
        assert!(error.is_timeout() && std::error::Error::source(&error).is_some(), "not busy, but: {error}");
    }
    for waiter in unbounded {
        assert_eq!(waiter.await.unwrap().unwrap_err().kind(), tenure::ErrorKind::Unavailable);
    }
    // The ttl, and not once more for each.
    assert!(start.elapsed() < ms(33_000), "{:?}", start.elapsed());
    store.fault(Fault::None);
    let guard = lock.try_lock().await.unwrap().expect("and nobody is in line any more");
    assert!(lock.try_lock().await.unwrap().is_none(), "it is busy now");
    drop(guard);
}
