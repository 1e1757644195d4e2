//! Messages that come when all is over, and holders who lose the lock in the middle.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tenure::Locks;
use tenure::transaction::coordinator::Outcome;
use tokio::sync::Notify;

use crate::arena::{Client, SERVERS};
use crate::crash::{settled, transfer};
use crate::point::{Act, CALLS, Hook};

/// Keeps one call under way.
#[derive(Debug, Default)]
struct Keeping {
    call: String,
    kept: Mutex<Kept>,
    is_kept: Notify,
}

#[derive(Default)]
struct Kept(Option<BoxFuture<'static, ()>>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

#[async_trait]
impl Hook for Keeping {
    async fn before(&self, call: &str) -> Act {
        if call == self.call { Act::Keep } else { Act::Go }
    }

    async fn after(&self, _: &str) {}

    fn keep(&self, call: BoxFuture<'static, ()>) {
        self.kept.lock().unwrap().0 = Some(call);
        self.is_kept.notify_one();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The call is the last that its sender did. It arrives when the transaction was recovered, once right then, and for
/// good when the next holder's has come and gone.
pub fn a_message(call: &str) {
    for is_later in [false, true] {
        let bank = SERVERS.bank(&format!("late-{call}-{is_later}"), 2);
        let call = call.to_owned();
        runtime().block_on(async {
            let hook = Arc::new(Keeping { call: call.clone(), ..Keeping::default() });
            let (first, next) = tokio::join!(Client::open(&bank, Some(hook.clone())), Client::open(&bank, None));
            {
                let guard = first.only_lock().lock().await.unwrap();
                let tx = first.put(first.coordinator.begin(&guard), &transfer("t1"));
                tokio::select! {
                    outcome = tx.commit() => panic!("it ended without {call}: {outcome:?}"),
                    () = hook.is_kept.notified() => {}
                }
            }
            let late = hook.kept.lock().unwrap().0.take().unwrap();
            let guard = next.only_lock().lock().await.unwrap();
            let recovered = next.coordinator.recover(&guard).await.unwrap();
            assert!(recovered.is_complete(), "{call}: {recovered:?}");
            // The decision was under way, and was not there.
            let is_decided = CALLS.iter().position(|name| *name == call).unwrap() > 3;
            let mut expected = if is_decided { vec!["t1"] } else { vec![] };
            let t2 = async |expected: &mut Vec<&str>| {
                let tx = next.put(next.coordinator.begin(&guard), &transfer("t2")).commit().await.unwrap();
                assert!(tx.is_committed(), "{call}: {tx:?}");
                expected.push("t2");
            };
            if is_later {
                t2(&mut expected).await;
                late.await;
            } else {
                late.await;
                // What it began is undecided, and is seen by whoever looks.
                next.coordinator.recover(&guard).await.unwrap();
                t2(&mut expected).await;
            }
            drop(guard);
            let guard = next.only_lock().lock().await.unwrap();
            assert!(next.coordinator.recover(&guard).await.unwrap().is_complete(), "{call}");
            settled(&next, &expected, &call).await;
        });
    }
}

/// Takes the lock away at a point, and lets another one work under it before the first goes on.
struct Robbing {
    point: String,
    next: Client,
    done: Mutex<bool>,
}

impl std::fmt::Debug for Robbing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Robbing").field("point", &self.point).finish_non_exhaustive()
    }
}

impl Robbing {
    async fn look(&self, point: String) {
        if point != self.point || std::mem::replace(&mut *self.done.lock().unwrap(), true) {
            return;
        }
        let Self { next, .. } = self;
        rob(&next.locks, &format!("{}/bank", next.bank.name)).await;
        let guard = next.only_lock().lock().await.unwrap();
        let recovered = next.coordinator.recover(&guard).await.unwrap();
        assert!(recovered.is_complete(), "{point}: {recovered:?}");
        let tx = next.put(next.coordinator.begin(&guard), &transfer("t2")).commit().await.unwrap();
        assert!(tx.is_committed(), "{point}: {tx:?}");
        drop(guard);
    }
}

async fn rob(locks: &Locks, name: &str) {
    locks.break_lock(name).await.unwrap();
}

#[async_trait]
impl Hook for Robbing {
    async fn before(&self, call: &str) -> Act {
        self.look(format!("before {call}")).await;
        Act::Go
    }

    async fn after(&self, call: &str) {
        self.look(format!("after {call}")).await;
    }

    fn keep(&self, _: BoxFuture<'static, ()>) {}
}

/// The lock is lost at that point, and another holder has done a transaction before the first one goes on.
pub fn the_lock(point: &str) {
    let bank = SERVERS.bank(&format!("lost-{}", point.replace(' ', "-")), 2);
    runtime().block_on(async {
        let next = Client::open(&bank, None).await;
        let hook = Robbing { point: point.to_owned(), next, done: Mutex::new(false) };
        let first = Client::open(&bank, Some(Arc::new(hook))).await;
        let guard = first.only_lock().lock().await.unwrap();
        let outcome = first.put(first.coordinator.begin(&guard), &transfer("t1")).commit().await.unwrap();
        drop(guard);
        let guard = first.only_lock().lock().await.unwrap();
        // What comes of it without a hook.
        let after = Client::open(&bank, None).await;
        assert!(after.coordinator.recover(&guard).await.unwrap().is_complete(), "{point}");
        let expected: &[&str] = match outcome {
            Outcome::Committed { .. } => &["t1", "t2"],
            Outcome::RolledBack { .. } => &["t2"],
            other => panic!("{point}: {other:?}"),
        };
        settled(&after, expected, point).await;
    });
}
