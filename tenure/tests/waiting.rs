//! From the wish to the hold, under a paused clock.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use common::{Fault, client, crowd, ms, run_ready, two_clients};
use tenure::ErrorKind;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn try_lock_never_waits_and_never_queues() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().try_lock().await.unwrap().expect("it is free");
    let start = Instant::now();
    assert!(theirs.mutex("a").build().unwrap().try_lock().await.unwrap().is_none());
    assert_eq!((start.elapsed(), crowd(&store, "a").await), (ms(0), (1, 0)));
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_release_hands_over_by_one_push_and_no_further_request() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let waiter = tokio::spawn(theirs.mutex("a").build().unwrap().lock().into_future());
    run_ready().await;
    store.take_ops();
    let (start, fence) = (Instant::now(), guard.fence());
    assert!(guard.release().await.unwrap());
    let next = waiter.await.unwrap().unwrap();
    assert!(next.fence() > fence);
    assert_eq!(start.elapsed(), ms(0));
    assert_eq!(store.take_ops().len(), 1, "the release, and no second request for the lock");
    assert!(next.remaining() < ms(3000), "it is certain for the time of its place: {:?}", next.remaining());
    tokio::time::sleep(ms(1500)).await;
    assert!(next.is_held() && next.remaining() > ms(25_000), "the keeper confirmed it: {:?}", next.remaining());
}

#[tokio::test(start_paused = true)]
async fn a_lost_push_costs_at_most_a_third_of_the_patience() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    store.mute();
    let waiter = tokio::spawn(theirs.mutex("a").build().unwrap().lock().into_future());
    tokio::time::sleep(ms(10)).await;
    guard.release().await.unwrap();
    let start = Instant::now();
    let _next = waiter.await.unwrap().unwrap();
    assert!(start.elapsed() <= ms(1000), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_push_that_was_overtaken_by_a_later_answer_is_not_believed() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    tokio::time::sleep(ms(10)).await;
    store.mute();
    store.take_ops();
    let waiter = tokio::spawn(theirs.mutex("a").build().unwrap().lock().into_future());
    run_ready().await;
    let id = store.take_ops()[0].id();
    // As if the claim had been let in, had expired, and had asked again before the push came.
    store.push(id, guard.fence().get() + 1);
    tokio::time::sleep(ms(100)).await;
    assert!(!waiter.is_finished() && guard.is_held());
    store.push(id, guard.fence().get() + 200_000);
    let _next = tokio::time::timeout(ms(1), waiter).await.expect("one from after it is").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_next_holds_as_soon_as_a_dead_holders_time_has_passed() {
    let (ours, theirs, _store) = two_clients();
    let lock = ours.mutex("a").ttl(ms(5_000)).watchdog(false).build().unwrap();
    let dead = lock.lock().await.unwrap();
    let start = Instant::now();
    let next = theirs.mutex("a").build().unwrap().lock().await.unwrap();
    assert!((ms(5_000)..=ms(5_010)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(next.fence() > dead.fence());
    assert!(!dead.is_held());
    assert!(!dead.release().await.unwrap(), "it was no longer ours");
    assert!(next.release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_its_timeout_and_leaves_no_place() {
    let (ours, theirs, store) = two_clients();
    let _guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let start = Instant::now();
    let error = theirs.mutex("a").build().unwrap().lock().timeout(ms(4_321)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, ms(4_321)));
    assert_eq!(error.to_string(), "the lock \"a\" was busy for all of 4.321s");
    theirs.close().await;
    assert_eq!(crowd(&store, "a").await, (1, 0));
    let metrics = theirs.metrics();
    assert_eq!((metrics.acquired, metrics.failed, metrics.timeouts), (0, 1, 1));
}

/// Fifty waiters of two processes by turns, and in which order they were let in.
async fn order_of_fifty(local_hand_off: bool) -> Vec<usize> {
    let (ours, theirs, _store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for n in 0..50 {
        let locks = if n % 2 == 0 { &ours } else { &theirs };
        let (lock, order) = (locks.mutex("a").local_hand_off(local_hand_off).build().unwrap(), order.clone());
        waiters.push(tokio::spawn(async move {
            let guard = lock.lock().await.unwrap();
            order.lock().unwrap().push((n, guard.fence()));
            tokio::time::sleep(ms(10)).await;
            guard.release().await.unwrap();
        }));
        run_ready().await;
    }
    guard.release().await.unwrap();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert!(order.windows(2).all(|pair| pair[0].1 < pair[1].1), "fences rise: {order:?}");
    order.iter().map(|(n, _)| *n).collect()
}

#[tokio::test(start_paused = true)]
async fn each_on_its_own_waiters_are_served_in_the_order_in_which_they_came() {
    let order = order_of_fifty(false).await;
    assert!(order.iter().copied().eq(0..50), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn in_line_waiters_are_served_in_their_processs_order_and_processes_take_turns() {
    let order = order_of_fifty(true).await;
    for side in [0, 1] {
        let of_one: Vec<_> = order.iter().copied().filter(|n| n % 2 == side).collect();
        assert!(of_one.iter().copied().eq((side..50).step_by(2)), "{order:?}");
    }
    assert!(order.windows(2).all(|pair| pair[0] % 2 != pair[1] % 2), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn readers_share_and_a_waiting_writer_is_not_overtaken() {
    let (ours, theirs, _store) = two_clients();
    let first = ours.read("a").build().unwrap().lock().await.unwrap();
    let second = theirs.read("a").build().unwrap().try_lock().await.unwrap().expect("readers share");
    let writer = tokio::spawn(theirs.write("a").build().unwrap().lock().into_future());
    run_ready().await;
    assert!(ours.read("a").build().unwrap().try_lock().await.unwrap().is_none(), "the writer stands before it");
    first.release().await.unwrap();
    second.release().await.unwrap();
    let writer = writer.await.unwrap().unwrap();
    assert!(ours.read("a").build().unwrap().try_lock().await.unwrap().is_none());
    writer.release().await.unwrap();
    assert!(ours.read("a").build().unwrap().try_lock().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_semaphore_lets_in_as_many_as_it_has_permits() {
    let (locks, _store) = client();
    let two_of_three = locks.semaphore("a", 3).permits(2).build().unwrap();
    let one_of_three = locks.semaphore("a", 3).build().unwrap();
    let two = two_of_three.try_lock().await.unwrap().expect("two of three");
    let one = one_of_three.try_lock().await.unwrap().expect("and one");
    assert!(one_of_three.try_lock().await.unwrap().is_none());
    drop((one, two));
    let error = locks.semaphore("a", 3).permits(4).build().unwrap_err();
    assert!(error.to_string().contains("4 permits out of 3"), "{error}");
    let other = locks.semaphore("b", 3).build().unwrap().lock().await.unwrap();
    let error = locks.mutex("b").build().unwrap().try_lock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn an_owner_enters_again_up_to_its_bound_and_a_stranger_does_not() {
    let (ours, theirs, _store) = two_clients();
    let lock = ours.mutex("a").reentrant(2).build().unwrap();
    let (outer, inner) = (lock.lock().await.unwrap(), lock.lock().await.unwrap());
    assert_eq!(outer.fence(), inner.fence());
    assert_eq!(lock.try_lock().await.unwrap_err().kind(), ErrorKind::ReentryLimit);
    assert!(theirs.mutex("a").reentrant(2).build().unwrap().try_lock().await.unwrap().is_none());
    outer.release().await.unwrap();
    assert!(theirs.mutex("a").build().unwrap().try_lock().await.unwrap().is_none(), "the inner one is still in");
    inner.release().await.unwrap();
    let here = ours.owner("job-42").mutex("a").build().unwrap().lock().await.unwrap();
    let there = theirs.owner("job-42").mutex("a").build().unwrap().lock().await.unwrap();
    assert_eq!(here.info().owner, there.info().owner);
}

#[tokio::test(start_paused = true)]
async fn two_readers_that_upgrade_do_not_wait_for_each_other_for_ever() {
    let (ours, theirs, _store) = two_clients();
    let (ours, theirs) = (ours.owner("a"), theirs.owner("b"));
    let ours_read = ours.read("a").build().unwrap().lock().await.unwrap();
    let theirs_read = theirs.read("a").build().unwrap().lock().await.unwrap();
    let upgrade = tokio::spawn(ours.write("a").build().unwrap().lock().into_future());
    run_ready().await;
    let error = theirs.write("a").build().unwrap().lock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadlock);
    theirs_read.release().await.unwrap();
    let upgraded = upgrade.await.unwrap().unwrap();
    assert!(upgraded.fence() > ours_read.fence(), "an upgrade is a grant of its own");
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_answered_by_asking_again_under_the_same_id() {
    let (locks, store) = client();
    store.fault(Fault::LoseReply);
    let waiter = tokio::spawn(locks.mutex("a").build().unwrap().lock().into_future());
    tokio::time::sleep(ms(5)).await;
    store.fault(Fault::None);
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(crowd(&store, "a").await, (1, 0));
    let ids: std::collections::HashSet<_> = store.take_ops().iter().map(tenure::proto::Op::id).collect();
    assert_eq!(ids.len(), 1);
    // A late duplicate of the lost request must not bring the claim back after its release.
    guard.release().await.unwrap();
    let release = store.take_ops().pop().unwrap();
    assert!(matches!(release, tenure::proto::Op::Release(release) if release.bury >= ms(30_000)));
}

#[tokio::test(start_paused = true)]
async fn try_lock_without_a_reply_leaves_nothing() {
    let (locks, store) = client();
    store.fault(Fault::LoseReply);
    let error = locks.mutex("a").build().unwrap().try_lock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoReply);
    store.fault(Fault::None);
    locks.close().await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_again_and_given_up_in_the_end() {
    let (locks, store) = client();
    let lock = locks.mutex("a").ttl(ms(5_000)).build().unwrap();
    store.fault(Fault::Refuse);
    let start = Instant::now();
    let error = lock.lock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!((ms(10_000)..ms(12_000)).contains(&start.elapsed()), "{:?}", start.elapsed());
    let error = lock.lock().timeout(ms(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("the test refuses"), "{error}");
    let waiter = tokio::spawn(lock.lock().into_future());
    tokio::time::sleep(ms(2_000)).await;
    store.fault(Fault::None);
    assert!(waiter.await.unwrap().is_ok(), "a short outage is waited through");
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_costs_no_more_than_its_timeout() {
    let (locks, store) = client();
    store.fault(Fault::Hang);
    let start = Instant::now();
    let error = locks.mutex("a").op_timeout(ms(250)).build().unwrap().try_lock().await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::NoReply, ms(250)));
    let error = locks.mutex("a").build().unwrap().lock().timeout(ms(700)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, ms(950)));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_failed_in_one_way_after_the_other_leaves_nothing() {
    let lasting = [Fault::LoseReply, Fault::Refuse, Fault::None];
    for first in lasting {
        for second in lasting {
            let (locks, store) = client();
            let lock = locks.mutex("a").ttl(ms(60_000)).build().unwrap();
            store.fault(first);
            let waiting = tokio::spawn(lock.lock().timeout(ms(500)).into_future());
            run_ready().await;
            store.fault(second);
            let _ = waiting.await.unwrap();
            store.fault(Fault::None);
            tokio::time::sleep(ms(2_000)).await;
            assert_eq!(crowd(&store, "a").await, (0, 0), "after {first:?} and {second:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_watchdog_a_hold_that_was_handed_over_lasts_for_its_ttl() {
    let (ours, theirs, _store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let waiter = tokio::spawn(theirs.mutex("a").watchdog(false).build().unwrap().lock().into_future());
    run_ready().await;
    drop(guard);
    let next = waiter.await.unwrap().unwrap();
    assert!(next.remaining() > ms(29_000), "{:?}", next.remaining());
    tokio::time::sleep(ms(29_000)).await;
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_the_client_is_closed_is_turned_away() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let waiters: Vec<_> =
        (0..3).map(|_| tokio::spawn(theirs.mutex("a").build().unwrap().lock().into_future())).collect();
    run_ready().await;
    theirs.close().await;
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }
    assert!(guard.is_held());
    tokio::time::sleep(ms(10)).await;
    assert_eq!(crowd(&store, "a").await, (1, 0));
}
