//! What the user's handler decides when the store failed an acquisition: to fail, to go on unlocked, or to take another
//! lock. Under a paused clock.
//!
//! Bugs that were planted, one at a time, and found: no event; no count; the handler is asked when the lock is busy, or the
//! claim refused; another lock keeps its own fence, or is released at the wrong store.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use common::{Chaos, Fault, crowd, ms, run_ready};
use tenure::env::Env;
use tenure::{Degradation, ErrorKind, Fence, HoldState, Instead, Locks, LocksBuilder, What};
use tokio::time::{Instant, sleep};

async fn heard(events: &mut tenure::Events) -> Vec<What> {
    let mut heard = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(ms(0), events.recv()).await {
        heard.push(event.what);
    }
    heard
}

/// A client whose handler decides so, with what it was asked.
fn with_handler(instead: impl Fn() -> Instead + Send + Sync + 'static) -> (Locks, Chaos, Arc<AtomicUsize>) {
    let env = Env::simulated(7);
    let (store, asked) = (Chaos::new(env.clone()), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let builder: LocksBuilder = Locks::builder(Arc::new(store.clone())).env(env).fallback(move |name, error| {
        assert!(name == "a" && !error.to_string().is_empty());
        count.fetch_add(1, SeqCst);
        instead()
    });
    (builder.build().unwrap(), store, asked)
}

#[tokio::test(start_paused = true)]
async fn an_unlocked_guard_holds_nothing_renews_nothing_and_says_so() {
    let (locks, store, asked) = with_handler(|| Instead::Unlocked);
    let mut events = locks.events();
    store.fault(Fault::Refuse);
    let guard = locks.mutex("a").ttl(ms(3_000)).build().unwrap().try_lock().await.unwrap().unwrap();
    assert_eq!((guard.is_degraded(), guard.fence(), guard.is_held()), (true, Fence::NONE, true));
    assert_eq!((guard.name(), guard.remaining(), asked.load(SeqCst)), ("a", ms(3_000), 1));
    store.fault(Fault::None);
    sleep(ms(60_000)).await;
    assert_eq!(guard.protect(async { 7 }).await.unwrap(), 7);
    guard.refresh().await.unwrap();
    assert_eq!((guard.state(), guard.info().remaining), (HoldState::Held, ms(3_000)));
    assert!(!guard.release().await.unwrap(), "nothing was held");
    assert_eq!(store.take_ops(), []);
    let told = heard(&mut events).await;
    let error = Some("the test refuses".to_owned());
    assert!(matches!(told[0], What::NotAcquired { .. }), "{told:?}");
    assert_eq!(told[1], What::Degraded { to: Degradation::Unlocked, error });
    assert_eq!(told[2..], [What::Released { held: ms(60_000), was_ours: false }]);
    let metrics = locks.metrics();
    assert_eq!((metrics.degraded, metrics.acquired, metrics.failed, metrics.released), (1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_handler_is_asked_after_the_retries_and_only_where_the_store_failed() {
    let (locks, store, asked) = with_handler(|| Instead::Unlocked);
    let lock = locks.mutex("a").build().unwrap();
    let guard = lock.lock().await.unwrap();
    assert!(lock.try_lock().await.unwrap().is_none(), "busy is an answer");
    assert!(lock.lock().timeout(ms(100)).await.unwrap_err().is_timeout());
    assert_eq!(asked.load(SeqCst), 0);
    let error = locks.semaphore("a", 3).build().unwrap().try_lock().await.unwrap_err();
    assert_eq!((error.kind(), asked.load(SeqCst)), (ErrorKind::Mismatch, 0), "a refusal is an answer");
    guard.release().await.unwrap();

    store.fault(Fault::Refuse);
    let start = Instant::now();
    let guard = lock.lock().timeout(ms(3_000)).await.unwrap();
    assert_eq!((start.elapsed(), guard.is_degraded(), asked.load(SeqCst)), (ms(3_000), true, 1));
    let start = Instant::now();
    let guard = locks.mutex("a").retry(3, ms(10)).build().unwrap().lock().await.unwrap();
    assert!(guard.is_degraded() && start.elapsed() <= ms(31), "{:?}", start.elapsed());

    store.fault(Fault::None);
    assert!(!lock.lock().await.unwrap().is_degraded(), "the store is back, and the next one is whole");
}

#[tokio::test(start_paused = true)]
async fn without_a_handler_or_where_it_says_so_the_error_is_the_stores() {
    let (locks, store, asked) = with_handler(|| Instead::Fail);
    store.fault(Fault::Refuse);
    let error = locks.mutex("a").build().unwrap().try_lock().await.unwrap_err();
    assert_eq!((error.to_string().as_str(), asked.load(SeqCst)), ("the test refuses", 1));
    let (locks, store) = common::client();
    store.fault(Fault::Refuse);
    assert_eq!(locks.mutex("a").build().unwrap().try_lock().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(locks.metrics().degraded, 0);
}

#[tokio::test(start_paused = true)]
async fn among_several_locks_one_that_is_held_elsewhere_is_released_there() {
    let (here, there) = common::client();
    let (other, back) = (here.mutex("spare").build().unwrap(), Arc::new(std::sync::OnceLock::<Chaos>::new()));
    let away = back.clone();
    let (locks, store, asked) = with_handler(move || {
        away.get().unwrap().fault(Fault::None);
        Instead::Lock(other.clone())
    });
    back.set(store.clone()).unwrap();
    let busy = locks.owner("somebody").mutex("a").build().unwrap().lock().await.unwrap();
    let both = ["a", "b"].map(|name| locks.mutex(name).retry(3, ms(10)).build().unwrap());
    let waiter = tokio::spawn(locks.lock_all(&both).into_future());
    run_ready().await;
    store.fault(Fault::Refuse);
    let guards = waiter.await.unwrap().unwrap();
    assert_eq!((guards[0].is_degraded(), guards[1].is_degraded(), asked.load(SeqCst)), (true, false, 1));
    assert_eq!((crowd(&there, "spare").await, crowd(&store, "b").await), ((1, 0), (1, 0)));
    assert!(guards.release().await.unwrap());
    assert_eq!((crowd(&there, "spare").await, crowd(&store, "b").await), ((0, 0), (0, 0)));
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn another_lock_is_held_renewed_and_released_without_a_fence() {
    let (here, there) = common::client();
    let other = here.mutex("spare").ttl(ms(3_000)).build().unwrap();
    let (locks, store, _) = with_handler(move || Instead::Lock(other.clone()));
    let mut events = locks.events();
    store.fault(Fault::Refuse);
    let lock = locks.mutex("a").build().unwrap();
    let guard = lock.try_lock().await.unwrap().unwrap();
    assert_eq!((guard.is_degraded(), guard.fence(), guard.name()), (true, Fence::NONE, "spare"));
    sleep(ms(10_000)).await;
    assert!(guard.is_held());
    assert_eq!(crowd(&there, "spare").await, (1, 0));
    assert!(lock.try_lock().await.unwrap().is_none(), "the other lock excludes");
    let busy = lock.lock().timeout(ms(500)).await.unwrap_err();
    assert!(busy.is_timeout() && busy.to_string().contains("the test refuses"), "{busy}");
    assert!(guard.release().await.unwrap());
    assert_eq!(crowd(&there, "spare").await, (0, 0));
    let degraded = |what: &What| matches!(what, What::Degraded { to: Degradation::Lock, error: Some(_) });
    assert_eq!(heard(&mut events).await.iter().filter(|what| degraded(what)).count(), 1);
    assert_eq!(locks.metrics().degraded, 1);
    there.fault(Fault::Refuse);
    let error = lock.try_lock().await.unwrap_err().to_string();
    assert!(error.starts_with("the lock could not be had (the test refuses), nor the one to take instead:"), "{error}");
}
