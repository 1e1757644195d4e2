//! A lease that was not had leaves nothing, and one that was had is there to its end: nothing releases it by itself.

use std::cell::Cell;
use std::rc::Rc;

use tenure::{Fence, Key, Lease};

use super::*;

const TERM: std::time::Duration = std::time::Duration::from_millis(60_000);
/// What goes without a reply is asked for again, until this is over.
const LIMIT: std::time::Duration = std::time::Duration::from_millis(40);

async fn take(locks: &Locks) -> Lease {
    mutex(locks).lease(TERM).await.unwrap()
}

async fn is_there(_: &Locks, store: &Chaos) {
    assert_eq!(crowd(store, "a").await, (1, 0));
}

/// The fences of those who are in.
async fn holders(store: &Chaos) -> Vec<Fence> {
    let record = store.read(&Key::new("a").unwrap()).await.unwrap().record;
    record.holders.iter().map(|holder| Fence::new(holder.fence)).collect()
}

#[tokio::test(start_paused = true)]
async fn try_lease_and_lease() {
    let got = Cell::new(false);
    let try_lease = async |locks: &Locks, ()| {
        got.set(mutex(locks).try_lease(TERM).await.is_ok_and(|lease| lease.is_some()));
    };
    let lease = async |locks: &Locks, ()| got.set(mutex(locks).lease(TERM).timeout(LIMIT).await.is_ok());
    let check = async |_: &Locks, store: &Chaos| {
        tokio::time::sleep(ms(1_000)).await;
        assert_eq!(crowd(store, "a").await, (usize::from(got.get()), 0));
    };
    for fault in FAULTS {
        at_every_point(fault, nothing, try_lease, check).await;
        assert_eq!(got.replace(false), fault == Fault::None);
    }
    at_every_point(Fault::None, nothing, lease, check).await;
    assert!(got.replace(false));
    at_every_point_in_time(Fault::LoseReply, nothing, lease, nothing_comes_back).await;
    assert!(!got.get());
}

#[tokio::test(start_paused = true)]
async fn refresh_and_resume() {
    for fault in FAULTS {
        at_every_point(fault, take, async |_, mut lease| drop(lease.refresh().await), is_there).await;
        let resume = async |locks: &Locks, lease: Lease| drop(locks.resume(lease.ticket().clone()).await);
        at_every_point(fault, take, resume, is_there).await;
    }
}

/// It may be released; asked again, it is.
#[tokio::test(start_paused = true)]
async fn release() {
    for fault in FAULTS {
        let (kept, ended) = (Cell::new(None), Cell::new(false));
        let begin = async |locks: &Locks| {
            let lease = Rc::new(take(locks).await);
            kept.set(Some(lease.clone()));
            lease
        };
        let call = async |_: &Locks, lease: Rc<Lease>| {
            assert_eq!(lease.release().await.ok(), (fault == Fault::None).then_some(true));
            ended.set(true);
        };
        let left = [Cell::new(0), Cell::new(0)];
        let check = async |_: &Locks, store: &Chaos| {
            settle().await;
            let (holders, waiters) = crowd(store, "a").await;
            assert!(waiters == 0 && (holders == 0 || !ended.get()), "{holders} in");
            left[holders].update(|n| n + 1);
            let lease = kept.take().unwrap();
            assert_eq!(lease.release().await.unwrap(), holders == 1, "asked again");
            assert_eq!(crowd(store, "a").await, (0, 0));
        };
        at_every_point(fault, begin, call, check).await;
        assert!(left.iter().all(|n| n.get() > 1), "dropped before it was released, and after: {left:?}");
    }
}

/// What may have been handed over is released, and what comes late is not: the lock is the former owner's, or nobody's.
#[tokio::test(start_paused = true)]
async fn hand_over_to() {
    for fault in FAULTS {
        let (former, heir) = (Cell::new(None), Cell::new(None));
        let begin = async |locks: &Locks| {
            let lease = take(locks).await;
            former.set(Some(lease.fence()));
            lease
        };
        let call = async |_: &Locks, lease: Lease| heir.set(lease.hand_over_to("somebody else").await.ok());
        let (before, after) = (Cell::new(0), Cell::new(0));
        let check = async |_: &Locks, store: &Chaos| {
            settle().await;
            let late = store.take_sends();
            let late = late.iter().flat_map(|send| &send.ops).filter(|op| matches!(op, Op::HandOver(_)));
            let is_had = heir.take();
            for op in late.filter(|_| is_had.is_none()) {
                store.memory.apply(&Key::new("a").unwrap(), op).await.unwrap();
            }
            let in_now = holders(store).await;
            match is_had {
                Some(lease) => assert_eq!(in_now, [lease.fence()]),
                None if in_now.is_empty() => after.update(|n| n + 1),
                None => {
                    assert_eq!(in_now, [former.get().unwrap()]);
                    before.update(|n| n + 1);
                }
            }
        };
        at_every_point_in_time(fault, begin, call, check).await;
        assert!(
            before.get() > 1 && after.get() > 1,
            "dropped before it was handed over, and after: {before:?}, {after:?}"
        );
    }
}
