//! The locks and atomics whose interplay is checked by a model: those of the standard library, or with `--cfg loom` those
//! of [loom](https://docs.rs/loom), which runs a test once for each way in which its threads may take turns and see
//! each other's writes.
//!
//! The models are the files named `model.rs`, and `cargo xtask test` runs them. They run the real code. What comes from
//! tokio in it, its channels and notifications, is one indivisible step to loom: it is modelled where it is written. An `Arc` is the standard library's in either case, for nothing here rests on a count of references.

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(not(loom))]
pub(crate) use {futures_util::task::AtomicWaker, tokio::sync::Notify};

/// A waker that can be exchanged and woken at the same time, as the one of `futures_util`, each in one step.
#[cfg(loom)]
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<std::task::Waker>>);

#[cfg(loom)]
impl AtomicWaker {
    /// Wakes this one from now on.
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        *self.0.lock().unwrap() = Some(waker.clone());
    }

    /// Wakes whoever registered last, once.
    pub(crate) fn wake(&self) {
        let waker = self.0.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The notification of tokio. Loom does not see that who asks for it later sees what was done before it; so it is told.
#[cfg(loom)]
#[derive(Debug, Default)]
pub(crate) struct Notify {
    inner: tokio::sync::Notify,
    order: atomic::AtomicUsize,
}

#[cfg(loom)]
impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.order.fetch_add(0, atomic::Ordering::SeqCst);
        self.inner.notified()
    }

    pub(crate) fn notify_one(&self) {
        self.order.fetch_add(1, atomic::Ordering::SeqCst);
        self.inner.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        self.order.fetch_add(1, atomic::Ordering::SeqCst);
        self.inner.notify_waiters();
    }
}

/// Checks every order of at most three preemptions: what can go wrong at all goes wrong with fewer, nearly always.
#[cfg(all(test, loom))]
pub(crate) fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}
