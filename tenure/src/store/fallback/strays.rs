//! What diverted claims may have left at the primary: a place, or a hold that nobody knows of. It is released there in
//! the background, until that is certain or it has ended by itself. What was under way in a runtime that ended is left for
//! the next one in which the store is used.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::{self, Env, Moment};
use crate::error::Error;
use crate::key::Key;
use crate::proto::{ClaimId, Op, Release};
use crate::store::Store;

/// How many releases go into one request.
const BATCH: usize = 100;
/// How long after a failure they are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long to wait for one reply.
const LIMIT: Duration = Duration::from_secs(2);

/// A claim to be released at the primary.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) key: Key,
    pub(super) id: ClaimId,
    /// For how long the id is to be refused: a request may still be under way.
    pub(super) bury: Duration,
    /// When it has ended by itself.
    pub(super) until: Moment,
}

#[derive(Debug)]
pub(super) struct Strays {
    primary: Arc<dyn Store>,
    env: Env,
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    strays: Vec<Stray>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Strays {
    pub(super) fn new(primary: Arc<dyn Store>, env: Env) -> Arc<Self> {
        Arc::new(Self { primary, env, left: Mutex::default() })
    }

    /// Releases it in the background. Outside of a runtime nothing is sent: it waits for the next use of the store in one,
    /// or ends by itself.
    pub(super) fn release(self: &Arc<Self>, stray: Stray) {
        self.left().strays.push(stray);
        self.see_that_they_go();
    }

    /// Starts the task where it does not run and there is something to do: its runtime may have ended.
    pub(super) fn see_that_they_go(self: &Arc<Self>) {
        let mut left = self.left();
        if !left.strays.is_empty() && left.task.as_ref().is_none_or(|task| task.is_finished()) {
            left.task = env::spawn(self.clone().run());
        }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        loop {
            let batch = {
                let mut left = self.left();
                let now = self.env.now();
                left.strays.retain(|stray| stray.until > now);
                if left.strays.is_empty() {
                    left.task = None;
                    return;
                }
                let n = left.strays.len().min(BATCH);
                left.strays.drain(..n).collect()
            };
            if !self.send(batch).await {
                self.env.sleep(self.env.jitter(RETRY)).await;
            }
        }
    }

    /// Whether the primary answered; what it did not answer is left for later.
    async fn send(&self, batch: Vec<Stray>) -> bool {
        let op = |stray: &Stray| Op::Release(Release { id: stray.id, bury: stray.bury, fence: 0 });
        let ops: Vec<_> = batch.iter().map(|stray| (stray.key.clone(), op(stray))).collect();
        let mut under_way = UnderWay { strays: self, batch };
        let replies = self.env.timeout(LIMIT, self.primary.apply_many(&ops)).await;
        let mut replies = replies.into_iter().flatten();
        // What is left in the batch goes back.
        under_way.batch.retain(|_| match replies.next() {
            Some(reply) => reply.as_ref().is_err_and(Error::is_transient),
            None => true,
        });
        under_way.batch.is_empty()
    }
}

/// Strays that were sent, and are left for later where no answer came.
struct UnderWay<'a> {
    strays: &'a Strays,
    batch: Vec<Stray>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.strays.left().strays.append(&mut self.batch);
    }
}
