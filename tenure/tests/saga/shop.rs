//! A small saga for tests of one promise each: an order that is paid for, by a service that fails as often as it is told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use tenure::transaction::{Call, Failure, Saga, SagaBuilder};
use tenure::{Guard, Locks};

/// What the steps count.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acted: AtomicU32,
    pub(crate) undone: AtomicU32,
    /// So many attempts at `pay` fail before one succeeds; and so many at undoing it.
    pub(crate) failing: AtomicU32,
    pub(crate) failing_undo: AtomicU32,
}

#[derive(Debug)]
pub(crate) struct Declined;

impl std::fmt::Display for Declined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("declined")
    }
}

impl std::error::Error for Declined {}

pub(crate) fn fails(left: &AtomicU32) -> bool {
    left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
}

pub(crate) async fn pay(call: Call<Counts>) -> Result<u32, Failure> {
    call.context().acted.fetch_add(1, SeqCst);
    if fails(&call.context().failing) { Err(io::Error::other("no answer").into()) } else { Ok(7) }
}

pub(crate) async fn refund(call: Call<Counts>) -> Result<(), Failure> {
    call.context().undone.fetch_add(1, SeqCst);
    if fails(&call.context().failing_undo) { Err(io::Error::other("no account").into()) } else { Ok(()) }
}

pub(crate) fn order() -> SagaBuilder<Counts> {
    Saga::builder("order").step("pay", pay, refund)
}

pub(crate) async fn refuse(_: Call<Counts>) -> Result<(), Failure> {
    Err(Failure::fatal("sold out"))
}

pub(crate) async fn nothing(_: Call<Counts>) -> Result<(), Failure> {
    Ok(())
}

pub(crate) async fn hold(locks: &Locks) -> Guard {
    locks.mutex("order-42").build().unwrap().lock().await.unwrap()
}

pub(crate) fn counts(failing: u32, failing_undo: u32) -> Arc<Counts> {
    Arc::new(Counts { failing: failing.into(), failing_undo: failing_undo.into(), ..Counts::default() })
}
