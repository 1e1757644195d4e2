//! Every asynchronous call is cancelled at every await point: it is polled k times and dropped, for each k until it ends.
//! Then nothing is left, neither in the store nor in the client: no hold, no place, no watch. Or what its documentation
//! promises, where that is something else.
//!
//! Transactions and members are dropped in the same way in `transaction/replies.rs` and `quorum/dropping.rs`.
//!
//! Bugs that were planted, one at a time, and found: what was under way is released without a grave, or only where a reply
//! was lost; a place is not given up; an heir is left in; work outlives its protection; of several losses the first guard's
//! counts; a dropped renewal releases; a release is tried for ever; who looks takes the lock; listeners begin anew at each
//! call; what is decided is nobody's to drive; an abandonment is everybody's.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod acquiring;
#[path = "../common/mod.rs"]
mod common;
mod coordinator;
mod holding;
mod leases;
mod reading;

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use common::{Chaos, Fault, client, crowd, ms, run_ready};
use tenure::proto::Op;
use tenure::store::Store;
use tenure::{Lock, Locks};

/// Polls `future` up to `k` times; what it came to, if it did.
async fn poll_times<F: Future>(k: usize, future: F) -> Option<F::Output> {
    poll_every(Pause::Yield, k, future).await
}

/// What passes between two polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// No time: what the call waits for is done by other tasks.
    Yield,
    /// A millisecond, so that a call which waits for a time gets to its end.
    Time,
}

async fn poll_every<F: Future>(pause: Pause, k: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..k {
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        match (polled, pause) {
            (Poll::Ready(output), _) => return Some(output),
            (Poll::Pending, Pause::Yield) => tokio::task::yield_now().await,
            (Poll::Pending, Pause::Time) => tokio::time::sleep(ms(1)).await,
        }
    }
    None
}

const FAULTS: [Fault; 2] = [Fault::None, Fault::LoseReply];

/// Cancels at each await point, until the call gets to its end; whatever it came to is dropped.
async fn at_every_point<T>(
    fault: Fault,
    begin: impl AsyncFn(&Locks) -> T,
    call: impl AsyncFn(&Locks, T),
    check: impl AsyncFn(&Locks, &Chaos),
) {
    at_each_point(fault, Pause::Yield, begin, call, check).await;
}

/// The same for a call that goes on after a time.
async fn at_every_point_in_time<T>(
    fault: Fault,
    begin: impl AsyncFn(&Locks) -> T,
    call: impl AsyncFn(&Locks, T),
    check: impl AsyncFn(&Locks, &Chaos),
) {
    at_each_point(fault, Pause::Time, begin, call, check).await;
}

async fn at_each_point<T>(
    fault: Fault,
    pause: Pause,
    begin: impl AsyncFn(&Locks) -> T,
    call: impl AsyncFn(&Locks, T),
    check: impl AsyncFn(&Locks, &Chaos),
) {
    for k in 0.. {
        let (locks, store) = client();
        let begun = begin(&locks).await;
        store.yields(2);
        store.fault(fault);
        let ended = poll_every(pause, k, call(&locks, begun)).await.is_some();
        store.fault(Fault::None);
        check(&locks, &store).await;
        if ended {
            assert!(k > 4, "there were await points to cancel at");
            break;
        }
        assert!(k < 1_000, "it gets to its end");
    }
}

async fn nothing(_: &Locks) {}

fn mutex(locks: &Locks) -> Lock {
    locks.mutex("a").build().unwrap()
}

async fn hold(locks: &Locks) -> tenure::Guard {
    mutex(locks).lock().await.unwrap()
}

/// Lets what was dropped be released.
async fn settle() {
    for _ in 0..20 {
        run_ready().await;
        tokio::time::sleep(ms(1)).await;
    }
}

async fn nothing_is_left(locks: &Locks, store: &Chaos) {
    settle().await;
    assert_eq!(crowd(store, "a").await, (0, 0));
    assert!(format!("{:?}", store.memory).contains("waiting: 0"), "{store:?}");
    let metrics = locks.metrics();
    assert_eq!(metrics.acquired, metrics.released + metrics.lost, "{metrics:?}");
}

/// And what was sent without a reply brings nothing back when it comes late.
async fn nothing_comes_back(locks: &Locks, store: &Chaos) {
    nothing_is_left(locks, store).await;
    for send in store.take_sends() {
        for (key, op) in send.keys.iter().zip(&send.ops).filter(|(_, op)| matches!(op, Op::Acquire(_))) {
            store.memory.apply(key, op).await.unwrap();
            assert_eq!(crowd(store, key.as_str()).await, (0, 0), "{op:?}");
        }
    }
}

fn two_locks(locks: &Locks) -> [Lock; 2] {
    ["a", "b"].map(|name| locks.mutex(name).build().unwrap())
}

async fn neither_is_left(locks: &Locks, store: &Chaos) {
    nothing_is_left(locks, store).await;
    assert_eq!(crowd(store, "b").await, (0, 0));
}

async fn neither_comes_back(locks: &Locks, store: &Chaos) {
    neither_is_left(locks, store).await;
    nothing_comes_back(locks, store).await;
}
