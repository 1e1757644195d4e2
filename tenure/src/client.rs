//! What the parts of one client share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Degradation, Teller, What};
use crate::hold::{Fence, Hold, Loss};
use crate::keeper::Keeper;
use crate::key::Key;
use crate::line::Lines;
use crate::metrics::Counters;
use crate::options::Options;
use crate::proto::{Op, Reply};
use crate::store::Store;

/// What the clones of a client, its locks and its guards share.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) core: Arc<Core>,
    pub(crate) keeper: Keeper,
    pub(crate) options: Options,
    pub(crate) prefix: String,
    pub(crate) closed: AtomicBool,
}

impl Client {
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.load(Acquire) {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Closed, "this client was closed: open another")),
        }
    }
}

/// A client's store, its environment, and whom it tells.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) env: Env,
    pub(crate) teller: Teller,
    pub(crate) counters: Counters,
    pub(crate) lines: Lines,
}

impl Core {
    /// One operation, with a limit on how long its reply may take.
    pub(crate) async fn apply(&self, key: &Key, op: &Op, limit: Duration) -> Result<Reply> {
        self.env.timeout(limit, self.store.apply(key, op)).await.unwrap_or_else(|| Err(no_reply(limit)))
    }

    /// Many, with a limit on how long the last reply may take.
    pub(crate) async fn apply_many(&self, ops: &[(Key, Op)], limit: Duration) -> Vec<Result<Reply>> {
        let replies = self.env.timeout(limit, self.store.apply_many(ops)).await;
        replies.unwrap_or_else(|| ops.iter().map(|_| Err(no_reply(limit))).collect())
    }

    pub(crate) fn tell(&self, name: &Key, what: impl FnOnce() -> What) {
        self.teller.tell(name, what);
    }

    /// Declares a hold lost, unless it is over already.
    pub(crate) fn lose(&self, hold: &Hold, loss: Loss) {
        if hold.lose(loss) {
            self.counters.lost.fetch_add(1, Relaxed);
            self.counters.hold.record(self.env.now() - hold.since);
            self.tell(&hold.key, || What::Lost { fence: hold.fence, loss });
            self.lines.lost(hold);
        }
    }

    /// Takes note of a claim that ended in something less than its lock.
    pub(crate) fn degraded(&self, key: &Key, to: Degradation, error: Option<&Error>) {
        self.counters.degraded.fetch_add(1, Relaxed);
        self.tell(key, || What::Degraded { to, error: error.map(ToString::to_string) });
    }

    /// Takes note that a hold was handed on to another task of this process.
    pub(crate) fn handed_on(&self, key: &Key, held: Duration, fence: Fence) {
        self.counters.handed_on.fetch_add(1, Relaxed);
        self.tell(key, || What::HandedOn { held, fence });
    }

    /// Takes note that a hold was released.
    pub(crate) fn released(&self, key: &Key, held: Duration, was_ours: bool) {
        self.counters.released.fetch_add(1, Relaxed);
        self.tell(key, || What::Released { held, was_ours });
    }
}

fn no_reply(limit: Duration) -> Error {
    Error::new(
        ErrorKind::NoReply,
        format!("the store did not answer within {limit:?}; it may have done what was asked"),
    )
}
