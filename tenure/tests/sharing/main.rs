//! Readers, permits and writers of one process in line for the same lock, under a paused clock: `order.rs` who is let in and
//! when, `ends.rs` what becomes of the line when some go, are not polled, or are failed by the store.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod order;

use common::{Chaos, ms};
use tenure::{Guard, Lock, Locks};
use tokio::task::JoinHandle;

fn reader(locks: &Locks) -> Lock {
    locks.read("a").build().unwrap()
}

fn writer(locks: &Locks) -> Lock {
    locks.write("a").build().unwrap()
}

fn permits(locks: &Locks, permits: u32, limit: u32) -> Lock {
    locks.semaphore("a", limit).permits(permits).build().unwrap()
}

fn waiter(lock: &Lock) -> JoinHandle<tenure::Result<Guard>> {
    tokio::spawn(lock.lock().into_future())
}

/// What a wait comes to that is not to last.
async fn soon(waiter: JoinHandle<tenure::Result<Guard>>) -> Guard {
    tokio::time::timeout(ms(50), waiter).await.expect("its turn comes").unwrap().unwrap()
}

async fn all(waiters: impl IntoIterator<Item = JoinHandle<tenure::Result<Guard>>>) -> Vec<Guard> {
    let mut guards = Vec::new();
    for waiter in waiters {
        guards.push(soon(waiter).await);
    }
    guards
}

fn watches(store: &Chaos, n: usize) -> bool {
    format!("{:?}", store.memory).contains(&format!("waiting: {n}"))
}
