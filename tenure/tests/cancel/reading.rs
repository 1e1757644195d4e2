//! Who only looks leaves nothing and takes nothing away; who listens misses nothing.

use std::cell::Cell;

use tenure::proto::{Acquire, Claim, ClaimId, Release};
use tenure::store::{Memory, Push};
use tenure::{Event, Events, Key, What};

use super::*;

/// Cancels what only looks, while somebody else is in; then all is as it was.
async fn looks(call: impl AsyncFn(&Locks)) {
    let kept = Cell::new(None);
    // The one who is in is the owner of another task: this process does not know by itself that the lock is held.
    let begin = async |locks: &Locks| {
        let lease = mutex(locks).lease(ms(60_000)).await.unwrap();
        kept.set(Some(lease));
    };
    let check = async |_: &Locks, store: &Chaos| {
        settle().await;
        assert_eq!(crowd(store, "a").await, (1, 0));
        let ops = store.take_ops();
        assert!(matches!(ops[..], [Op::Acquire(_)]), "nothing was sent but the claim before: {ops:?}");
        assert!(kept.take().unwrap().release().await.unwrap());
        assert!(format!("{:?}", store.memory).contains("waiting: 0"), "{store:?}");
    };
    at_every_point(Fault::None, begin, async |locks, ()| call(locks).await, check).await;
}

#[tokio::test(start_paused = true)]
async fn is_locked() {
    looks(async |locks| assert!(mutex(locks).is_locked().await.unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn info_of_a_lock_and_by_its_name() {
    looks(async |locks| assert_eq!(mutex(locks).info().await.unwrap().holders.len(), 1)).await;
    looks(async |locks| assert_eq!(locks.info("a").await.unwrap().holders.len(), 1)).await;
}

#[tokio::test(start_paused = true)]
async fn list() {
    looks(async |locks| assert_eq!(locks.list().await.unwrap().len(), 1)).await;
}

/// Comes and goes by so many turns, of which each tells two events.
async fn turns(locks: &Locks, n: usize) {
    for _ in 0..n {
        hold(locks).await.release().await.unwrap();
    }
}

/// The next event, of one who asks anew after each `k` polls.
async fn restless(k: usize, events: &mut Events, mut skipped: Option<&mut u64>) -> Event {
    for _ in 0..1_000 {
        let event = match &mut skipped {
            Some(skipped) => poll_times(k, events.recv_counting(skipped)).await,
            None => poll_times(k, events.recv()).await,
        };
        match event {
            Some(event) => return event.expect("the client lives"),
            None => tokio::task::yield_now().await,
        }
    }
    panic!("it was told, and nobody heard of it");
}

#[tokio::test(start_paused = true)]
async fn recv_and_recv_counting_lose_no_event() {
    for k in 1..8 {
        for counting in [false, true] {
            let (locks, store) = client();
            store.yields(2);
            let (mut events, mut skipped) = (locks.events(), 0);
            let task = tokio::spawn(async move { turns(&locks, 5).await });
            for turn in 0..5 {
                let [first, second] = [
                    restless(k, &mut events, counting.then_some(&mut skipped)).await.what,
                    restless(k, &mut events, counting.then_some(&mut skipped)).await.what,
                ];
                let is_turn = matches!((&first, &second), (What::Acquired { .. }, What::Released { .. }));
                assert!(is_turn, "k {k} turn {turn}: {first:?}, {second:?}");
            }
            assert_eq!(skipped, 0);
            task.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn recv_counting_that_was_dropped_counts_what_was_skipped_meanwhile() {
    let (locks, _store) = client();
    let (mut events, mut skipped) = (locks.events(), 0);
    assert!(poll_times(3, events.recv_counting(&mut skipped)).await.is_none());
    turns(&locks, 700).await;
    for _ in 0..1_024 {
        restless(1, &mut events, Some(&mut skipped)).await;
    }
    assert_eq!(skipped, 1_400 - 1_024);
    assert!(poll_times(3, events.recv_counting(&mut skipped)).await.is_none(), "and that was all");
}

fn claim(id: ClaimId, patience: u64) -> Op {
    Op::Acquire(Acquire {
        id,
        claim: Claim::EXCLUSIVE,
        ttl: ms(60_000),
        patience: ms(patience),
        owner: None,
        max: 1,
        memory: ms(60_000),
        meta: Default::default(),
        fence: 0,
    })
}

#[tokio::test(start_paused = true)]
async fn a_watch_loses_no_push() {
    let (key, first, second) = (Key::new("a").unwrap(), ClaimId::new(1 << 8), ClaimId::new(2 << 8));
    // The push comes before the first poll, and after each.
    for polls in 0..4 {
        let store = Memory::with_env(tenure::env::Env::simulated(7));
        store.apply(&key, &claim(first, 0)).await.unwrap();
        let mut watch = store.watch(&key, second);
        store.apply(&key, &claim(second, 60_000)).await.unwrap();
        {
            let mut next = Box::pin(watch.next());
            assert!(poll_times(polls, next.as_mut()).await.is_none());
            store.apply(&key, &Op::Release(Release { id: first, bury: ms(0), fence: 0 })).await.unwrap();
        }
        let push = poll_times(1, watch.next()).await.expect("it was kept");
        let fence = store.read(&key).await.unwrap().record.fence;
        assert!(matches!(push, Push::Granted(granted) if granted == fence), "{push:?} after {polls} polls");
        assert!(poll_times(3, watch.next()).await.is_none(), "and is told once");
        drop(watch);
        assert!(format!("{store:?}").contains("waiting: 0"), "{store:?}");
    }
}
