//! The persisted steps of a transaction: a journal and participants that have something happen before or after one of them.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tenure::Result;
use tenure::transaction::Participant;
use tenure::transaction::journal::{Durable, Entry, Journal, Keep, Written};
use tenure::transaction::participant::{Ack, Branch, Share, Vote};

/// The calls of a transaction that commits, in their order; those of one line at once.
#[rustfmt::skip]
pub const CALLS: [&str; 9] = [
    "begin",
    "prepare-redis", "prepare-postgres",
    "decide",
    "commit-redis", "commit-postgres",
    "done",
    "forget-redis", "forget-postgres",
];

/// All points: before and after each.
#[rustfmt::skip]
pub const ALL: [&str; 18] = [
    "before begin", "after begin",
    "before prepare-redis", "after prepare-redis", "before prepare-postgres", "after prepare-postgres",
    "before decide", "after decide",
    "before commit-redis", "after commit-redis", "before commit-postgres", "after commit-postgres",
    "before done", "after done",
    "before forget-redis", "after forget-redis", "before forget-postgres", "after forget-postgres",
];

/// Whether a transaction that stops there is decided, and will happen.
pub fn is_decided(point: &str) -> bool {
    let (when, call) = point.split_once(' ').unwrap();
    let place = CALLS.iter().position(|name| *name == call).unwrap();
    place > 3 || (place == 3 && when == "after")
}

/// What becomes of a call.
pub enum Act {
    Go,
    /// It is under way, and its sender will never know.
    Keep,
}

/// What happens at the points.
#[async_trait]
pub trait Hook: Debug + Send + Sync + 'static {
    async fn before(&self, call: &str) -> Act;
    async fn after(&self, call: &str);
    /// A call that is under way.
    fn keep(&self, call: BoxFuture<'static, ()>);
}

/// A journal or a participant with a hook.
#[derive(Clone, Debug)]
pub struct Hooked<T> {
    pub inner: T,
    pub hook: Arc<dyn Hook>,
}

impl<T: Clone + Send + Sync + 'static> Hooked<T> {
    async fn call<R, F>(&self, name: &str, call: impl FnOnce(T) -> F + Send) -> R
    where
        F: Future<Output = R> + Send + 'static,
        R: Send + 'static,
    {
        match self.hook.before(name).await {
            Act::Go => {}
            Act::Keep => {
                let call = call(self.inner.clone());
                self.hook.keep(Box::pin(async move { drop(call.await) }));
                return std::future::pending().await;
            }
        }
        let answer = call(self.inner.clone()).await;
        self.hook.after(name).await;
        answer
    }
}

#[async_trait]
impl<J: Journal + Clone> Journal for Hooked<J> {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        self.inner.load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        let record: serde_json::Value = serde_json::from_slice(value).unwrap();
        let name = match record["state"].as_str().unwrap() {
            "preparing" => "begin",
            "committed" | "aborted" => "decide",
            _ => "done",
        };
        let (id, value) = (id.to_owned(), value.to_vec());
        self.call(name, move |inner| async move { inner.write(&id, expected, &value, keep).await }).await
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.inner.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        self.inner.list().await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        self.inner.unsettled().await
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

impl<J: Durable + Clone> Durable for Hooked<J> {}

#[async_trait]
impl<P: Participant + Clone> Participant for Hooked<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    async fn prepare(&self, branch: &Branch, work: &[u8]) -> Result<Vote> {
        let (branch, work) = (branch.clone(), work.to_vec());
        let name = format!("prepare-{}", self.name());
        self.call(&name, move |inner| async move { inner.prepare(&branch, &work).await }).await
    }

    async fn commit(&self, branch: &Branch) -> Result<Ack> {
        let (branch, name) = (branch.clone(), format!("commit-{}", self.name()));
        self.call(&name, move |inner| async move { inner.commit(&branch).await }).await
    }

    async fn rollback(&self, branch: &Branch) -> Result<Ack> {
        let (branch, name) = (branch.clone(), format!("rollback-{}", self.name()));
        self.call(&name, move |inner| async move { inner.rollback(&branch).await }).await
    }

    async fn forget(&self, branch: &Branch) -> Result<()> {
        let (branch, name) = (branch.clone(), format!("forget-{}", self.name()));
        self.call(&name, move |inner| async move { inner.forget(&branch).await }).await
    }

    async fn list(&self, lock: Option<&str>) -> Result<Vec<Share>> {
        self.inner.list(lock).await
    }
}
