//! A hold stays as it is while its guard is there, and goes when it goes.

use std::cell::Cell;
use std::rc::Rc;

use tenure::{Guard, Guards};

use super::*;

#[tokio::test(start_paused = true)]
async fn release() {
    for fault in FAULTS {
        let call = async |_: &Locks, guard: Guard| drop(guard.release().await);
        at_every_point(fault, hold, call, nothing_is_left).await;
    }
}

#[tokio::test(start_paused = true)]
async fn releasing_all() {
    for fault in FAULTS {
        let call = async |_: &Locks, guards: Guards| drop(guards.release().await);
        at_every_point(fault, hold_all, call, neither_is_left).await;
    }
}

async fn hold_all(locks: &Locks) -> Guards {
    locks.lock_all(&two_locks(locks)).await.unwrap()
}

/// A guard that outlives the call which is cancelled.
struct Kept<T>(Cell<Option<Rc<T>>>);

impl<T> Kept<T> {
    fn keep(&self, guard: T) -> Rc<T> {
        let guard = Rc::new(guard);
        self.0.set(Some(guard.clone()));
        guard
    }

    fn take(&self) -> Rc<T> {
        self.0.take().expect("it was kept")
    }
}

#[tokio::test(start_paused = true)]
async fn refresh_leaves_the_hold_as_it_is() {
    for fault in FAULTS {
        let kept = Kept(Cell::new(None));
        let begin = async |locks: &Locks| kept.keep(hold(locks).await);
        let call = async |_: &Locks, guard: Rc<Guard>| drop(guard.refresh().await);
        let check = async |locks: &Locks, store: &Chaos| {
            let guard = kept.take();
            assert!(guard.is_held());
            assert_eq!(crowd(store, "a").await, (1, 0));
            // It is renewed on, past the ttl.
            tokio::time::sleep(ms(40_000)).await;
            assert!(guard.is_held());
            drop(guard);
            nothing_is_left(locks, store).await;
        };
        at_every_point(fault, begin, call, check).await;
    }
}

/// Work with await points, which tells whether it is there.
async fn work(alive: Rc<()>) {
    for _ in 0..6 {
        tokio::task::yield_now().await;
    }
    drop(alive);
}

#[tokio::test(start_paused = true)]
async fn protect_drops_its_work_and_leaves_the_hold_as_it_is() {
    let (kept, alive) = (Kept(Cell::new(None)), Rc::new(()));
    let begin = async |locks: &Locks| kept.keep(hold(locks).await);
    let call = async |_: &Locks, guard: Rc<Guard>| guard.protect(work(alive.clone())).await.unwrap();
    let check = async |locks: &Locks, store: &Chaos| {
        let guard = kept.take();
        assert_eq!(Rc::strong_count(&alive), 1, "the work was dropped");
        assert!(guard.is_held());
        drop(guard);
        nothing_is_left(locks, store).await;
    };
    at_every_point(Fault::None, begin, call, check).await;
}

#[tokio::test(start_paused = true)]
async fn protect_of_all_drops_its_work_and_leaves_the_holds_as_they_are() {
    let (kept, alive) = (Kept(Cell::new(None)), Rc::new(()));
    let begin = async |locks: &Locks| kept.keep(hold_all(locks).await);
    let call = async |_: &Locks, guards: Rc<Guards>| guards.protect(work(alive.clone())).await.unwrap();
    let check = async |locks: &Locks, store: &Chaos| {
        let guards = kept.take();
        assert_eq!(Rc::strong_count(&alive), 1, "the work was dropped");
        assert!(guards.are_held());
        drop(guards);
        neither_is_left(locks, store).await;
    };
    at_every_point(Fault::None, begin, call, check).await;
}

/// The loss comes while it is awaited, and after it was.
#[tokio::test(start_paused = true)]
async fn lost_tells_who_asks_again() {
    let kept = Kept(Cell::new(None));
    let begin = async |locks: &Locks| kept.keep(hold(locks).await);
    let call = async |locks: &Locks, guard: Rc<Guard>| {
        let ends = async {
            locks.break_lock("a").await.unwrap();
            assert!(guard.refresh().await.unwrap_err().is_lost());
        };
        tokio::join!(guard.lost(), ends);
    };
    let check = async |locks: &Locks, store: &Chaos| {
        let guard = kept.take();
        locks.break_lock("a").await.unwrap();
        assert!(guard.refresh().await.unwrap_err().is_lost());
        tokio::time::timeout(ms(1), guard.lost()).await.expect("it is lost");
        drop(guard);
        nothing_is_left(locks, store).await;
    };
    at_every_point(Fault::None, begin, call, check).await;
}

#[tokio::test(start_paused = true)]
async fn lost_of_all_tells_who_asks_again() {
    // So short that a renewal soon tells that one is broken.
    let ttl = ms(60);
    let kept = Kept(Cell::new(None));
    let begin = async |locks: &Locks| {
        let both = ["a", "b"].map(|name| locks.mutex(name).ttl(ttl).build().unwrap());
        kept.keep(locks.lock_all(&both).await.unwrap())
    };
    let call = async |locks: &Locks, guards: Rc<Guards>| {
        tokio::join!(guards.lost(), async { locks.break_lock("b").await.unwrap() });
    };
    let check = async |locks: &Locks, store: &Chaos| {
        let guards = kept.take();
        locks.break_lock("b").await.unwrap();
        tokio::time::timeout(ttl, guards.lost()).await.expect("one is lost");
        drop(guards);
        neither_is_left(locks, store).await;
    };
    at_every_point_in_time(Fault::None, begin, call, check).await;
}

#[tokio::test(start_paused = true)]
async fn close_goes_on_releasing() {
    let let_go = async |locks: &Locks| drop(hold(locks).await);
    let close = async |locks: &Locks, ()| locks.close().await;
    at_every_point(Fault::None, let_go, close, nothing_is_left).await;
    // What gets no reply is released again and again, until its time has passed.
    let let_go = async |locks: &Locks| {
        let short = locks.mutex("a").ttl(ms(50)).op_timeout(ms(10)).build().unwrap();
        drop(short.lock().await.unwrap());
    };
    let check = async |locks: &Locks, store: &Chaos| {
        tokio::time::sleep(ms(100)).await;
        nothing_is_left(locks, store).await;
    };
    at_every_point_in_time(Fault::LoseReply, let_go, close, check).await;
}

/// Some of the holders may be out; asked again, all are.
#[tokio::test(start_paused = true)]
async fn break_lock_takes_it_from_some_and_then_from_the_others() {
    for fault in FAULTS {
        let (kept, out) = (Kept(Cell::new(None)), Cell::new(0));
        let begin = async |locks: &Locks| {
            let lock = locks.semaphore("a", 2).build().unwrap();
            kept.keep([lock.lock().await.unwrap(), lock.lock().await.unwrap()]);
        };
        let call = async |locks: &Locks, ()| drop(locks.break_lock("a").await);
        let check = async |locks: &Locks, store: &Chaos| {
            settle().await;
            let (holders, waiters) = crowd(store, "a").await;
            assert!((out.get()..=2).contains(&(2 - holders)) && waiters == 0, "{holders} in, {} were out", out.get());
            out.set(2 - holders);
            assert_eq!(locks.break_lock("a").await.unwrap().len(), holders);
            assert_eq!(crowd(store, "a").await, (0, 0));
            drop(kept.take());
            nothing_is_left(locks, store).await;
        };
        at_every_point(fault, begin, call, check).await;
        assert_eq!(out.get(), if fault == Fault::None { 2 } else { 1 }, "one without a reply ends it");
    }
}
