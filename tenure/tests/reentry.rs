//! An owner enters again, under a paused clock.
//!
//! Bugs that were planted, one at a time, and found: the first guard to go releases; nobody counts; what is lost is
//! shared; a writer's wish shares a reader's hold; an owner is taken for another.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use common::{Fault, client, crowd, ms, run_ready, two_clients};
use tenure::{ErrorKind, LockBuilder};

#[tokio::test(start_paused = true)]
async fn entering_again_asks_nobody_and_the_last_to_go_releases() {
    // In every order of three.
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (locks, store) = client();
        let lock = locks.mutex("a").reentrant(3).build().unwrap();
        let first = lock.lock().await.unwrap();
        store.take_ops();
        let (second, third) = (lock.lock().await.unwrap(), lock.try_lock().await.unwrap().unwrap());
        assert_eq!((store.take_ops().len(), second.fence(), third.fence()), (0, first.fence(), first.fence()));
        let error = lock.lock().await.unwrap_err();
        assert_eq!((error.kind(), store.take_ops().len()), (ErrorKind::ReentryLimit, 0), "{error}");

        let mut guards = [Some(first), Some(second), Some(third)];
        for (n, i) in order.into_iter().enumerate() {
            assert_eq!(crowd(&store, "a").await, (1, 0));
            match n {
                1 => drop(guards[i].take()),
                _ => assert!(guards[i].take().unwrap().release().await.unwrap()),
            }
            run_ready().await;
        }
        assert_eq!((store.take_ops().len(), crowd(&store, "a").await), (1, (0, 0)), "{order:?}");
        let metrics = locks.metrics();
        assert_eq!((metrics.acquired, metrics.released), (3, 3));
        assert!(lock.try_lock().await.unwrap().is_some(), "and begins anew");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_is_one_in_all_of_its_locks_and_another_is_another() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.owner("ann").mutex("a").build().unwrap().lock().await.unwrap();
    store.take_ops();
    let again = ours.owner("ann").mutex("a").build().unwrap().try_lock().await.unwrap().expect("the same owner");
    let reading = ours.owner("ann").read("a").build().unwrap().try_lock().await.unwrap().expect("reads what it writes");
    assert_eq!(store.take_ops().len(), 0);
    assert!(ours.owner("bob").mutex("a").build().unwrap().try_lock().await.unwrap().is_none());
    assert!(ours.mutex("a").build().unwrap().try_lock().await.unwrap().is_none());
    let elsewhere = theirs.owner("ann").mutex("a").build().unwrap().try_lock().await.unwrap();
    assert_eq!(elsewhere.as_ref().expect("in any process").fence(), guard.fence());
    assert_eq!(crowd(&store, "a").await, (2, 0), "a claim for each process");
    drop((guard, again, reading));
    run_ready().await;
    assert_eq!(crowd(&store, "a").await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_more_than_is_held_asks_the_store() {
    let (ours, theirs, _store) = two_clients();
    let ann = ours.owner("ann");
    let (reader, writer) = (ann.read("a").build().unwrap(), ann.write("a").build().unwrap());
    let reading = reader.lock().await.unwrap();
    let other = theirs.read("a").build().unwrap().lock().await.unwrap();
    assert!(writer.try_lock().await.unwrap().is_none(), "somebody else reads");
    drop(other);
    run_ready().await;
    let writing = writer.try_lock().await.unwrap().expect("nobody else does");
    assert!(writing.fence() > reading.fence());
    drop(reading);
    run_ready().await;
    assert!(theirs.read("a").build().unwrap().try_lock().await.unwrap().is_none(), "it still writes");
}

#[tokio::test(start_paused = true)]
async fn all_who_share_a_hold_are_told_its_loss_and_nobody_joins_it_then() {
    let (locks, store) = client();
    let lock = locks.mutex("a").ttl(ms(1_000)).reentrant(2).build().unwrap();
    let (one, two) = (lock.lock().await.unwrap(), lock.lock().await.unwrap());
    store.fault(Fault::Refuse);
    tokio::join!(one.lost(), two.lost());
    assert!(!one.is_held() && !two.is_held());
    store.fault(Fault::None);
    tokio::time::sleep(ms(100)).await;
    let (new, more) = (lock.lock().await.unwrap(), lock.lock().await.unwrap());
    assert!(new.is_held() && new.fence() > one.fence() && more.fence() == new.fence());
    drop((one, two));
    run_ready().await;
    assert!(new.is_held() && crowd(&store, "a").await == (1, 0), "the end of the lost is nobody's concern");
    drop((new, more));
    run_ready().await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn refreshing_one_is_refreshing_all() {
    let (locks, _store) = client();
    let lock = locks.mutex("a").reentrant(2).build().unwrap();
    let (one, two) = (lock.lock().await.unwrap(), lock.lock().await.unwrap());
    tokio::time::sleep(ms(5_000)).await;
    two.refresh().await.unwrap();
    assert_eq!(one.remaining(), two.remaining());
    assert!(one.remaining() > ms(29_000));
}

#[tokio::test(start_paused = true)]
async fn a_lease_and_a_hold_without_a_watchdog_are_claims_of_their_own() {
    let (locks, store) = client();
    let builder = || locks.owner("ann").mutex("a").ttl(ms(10_000));
    let lock = builder().build().unwrap();
    let guard = lock.lock().await.unwrap();
    let lease = lock.lease(ms(10_000)).await.unwrap();
    let unwatched = builder().watchdog(false).build().unwrap().lock().await.unwrap();
    assert!(guard.is_held() && lease.is_held() && unwatched.is_held());
    assert_eq!(crowd(&store, "a").await, (3, 0));
    drop(guard);
    run_ready().await;
    assert_eq!(crowd(&store, "a").await, (2, 0), "the others' holds are there");
    drop(unwatched);
    assert!(lease.release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn releasing_a_share_of_what_was_lost_says_so() {
    let (ours, theirs, _store) = two_clients();
    let lock = ours.owner("ann").mutex("a").build().unwrap();
    let (one, two) = (lock.lock().await.unwrap(), lock.lock().await.unwrap());
    theirs.break_lock("a").await.unwrap();
    one.lost().await;
    assert!(!one.release().await.unwrap() && !two.release().await.unwrap());
}

/// Red with: an owner's hold that counts whoever asks; no look at the line, or at the owner's hold.
#[tokio::test(start_paused = true)]
async fn whether_it_is_held_is_asked_where_it_is_not_known_from_the_line_or_the_owner() {
    let (locks, store) = client();
    // The lock that asks, and how often it reads while the other one is held.
    let seen = async |asks: LockBuilder, holds: LockBuilder| {
        let (asks, guard) = (asks.build().unwrap(), holds.build().unwrap().lock().await.unwrap());
        store.take_reads();
        assert!(asks.is_locked().await.unwrap());
        let reads = store.take_reads();
        guard.release().await.unwrap();
        assert!(!asks.is_locked().await.unwrap());
        reads
    };
    let (mutex, of) = (|| locks.mutex("a"), |owner: &str| locks.owner(owner).mutex("a"));
    assert_eq!(seen(mutex(), locks.write("a")).await, 0, "in line");
    assert_eq!(seen(of("ann"), mutex()).await, 0, "whoever asks");
    assert_eq!(seen(of("ann"), of("ann")).await, 0, "the owner's");
    assert_eq!(seen(of("ann"), locks.owner("ann").read("a")).await, 0, "of any kind");
    assert_eq!(seen(of("bob"), of("ann")).await, 1, "another owner's");
    assert_eq!(seen(mutex(), of("ann")).await, 1);
    assert_eq!(seen(mutex(), locks.read("a")).await, 1);
    assert_eq!(seen(mutex(), mutex().local_hand_off(false)).await, 1);
    assert_eq!(seen(mutex(), mutex().retry(1, ms(10))).await, 1);
}

/// Red with: an owner's hold that counts beyond its time.
#[test]
fn an_owners_hold_that_nobody_keeps_any_more_is_no_hold_after_its_time() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (lock, guard) = first.block_on(async {
        let locks = tenure::open("memory:").await.unwrap();
        let lock = locks.owner("ann").mutex("a").ttl(ms(200)).build().unwrap();
        let guard = lock.lock().await.unwrap();
        (lock, guard)
    });
    // With it goes who would say that the hold is over.
    drop(first);
    while guard.is_held() {
        std::thread::sleep(ms(1));
    }
    // The store gives it up a little later: the margin.
    std::thread::sleep(ms(10));
    assert!(!runtime().block_on(lock.is_locked()).unwrap());
}
