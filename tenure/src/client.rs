//! What the parts of one client share.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use tracing::Span;

use crate::env::{Env, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Degradation, Teller, What};
use crate::health::{Turn, Vitals};
use crate::hold::{Fence, Hold, Loss};
use crate::info::LockInfo;
use crate::keeper::Keeper;
use crate::key::Key;
use crate::line::Lines;
use crate::lock::Spec;
use crate::meter::{Meter, Meters};
use crate::options::Options;
use crate::proto::{Op, Reply};
use crate::reentry::Reentries;
use crate::store::Store;
use crate::transaction::{Settle, Verdict};

/// What the clones of a client, its locks and its guards share.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) core: Arc<Core>,
    pub(crate) keeper: Keeper,
    pub(crate) options: Arc<Options>,
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
    pub(crate) meters: Meters,
    pub(crate) lines: Lines,
    pub(crate) reentries: Reentries,
    pub(crate) vitals: Vitals,
    /// The store's members as they were last told.
    pub(crate) members: AtomicU64,
}

impl Core {
    /// One operation, with a limit on how long its reply may take.
    pub(crate) async fn apply(&self, key: &Key, op: &Op, limit: Duration) -> Result<Reply> {
        let sent = self.env.now();
        let reply = self.env.timeout(limit, self.store.apply(key, op)).await;
        let reply = reply.unwrap_or_else(|| Err(no_reply(limit)));
        self.note(sent, reply.as_ref().err());
        reply
    }

    /// Many, with a limit on how long the last reply may take.
    pub(crate) async fn apply_many(&self, ops: &[(Key, Op)], limit: Duration) -> Vec<Result<Reply>> {
        let sent = self.env.now();
        let replies = self.env.timeout(limit, self.store.apply_many(ops)).await;
        let replies = replies.unwrap_or_else(|| ops.iter().map(|_| Err(no_reply(limit))).collect());
        let failed = replies.iter().all(|reply| reply.as_ref().is_err_and(of_the_node));
        self.note(sent, replies.first().and_then(|reply| reply.as_ref().err()).filter(|_| failed));
        replies
    }

    /// One question about a transaction, with a limit on how long its answer may take.
    pub(crate) async fn settle(&self, settle: &Settle, limit: Duration) -> Result<Verdict> {
        let sent = self.env.now();
        let verdict = self.env.timeout(limit, self.store.settle(settle)).await;
        let verdict = verdict.unwrap_or_else(|| Err(no_reply(limit)));
        self.note(sent, verdict.as_ref().err());
        verdict
    }

    /// Takes note of how the node answered to what was sent then.
    fn note(&self, sent: Moment, error: Option<&Error>) {
        let now = self.env.now();
        let error = error.filter(|error| of_the_node(error));
        let turn = match error {
            None => self.vitals.answered(sent, now),
            Some(error) => self.vitals.failed(sent, now, error.is_ambiguous()),
        };
        #[cfg(feature = "metrics")]
        if self.meters.are_nodes_due(now) || turn.is_some() {
            let nodes = self.store.nodes();
            let alone = || vec![self.vitals.health(self.node().to_owned(), 0, None)];
            self.meters.nodes(&if nodes.is_empty() { alone() } else { nodes });
        }
        self.see_members();
        let Some(turn) = turn else { return };
        let Ok(node) = Key::new(self.node()) else { return };
        self.tell(&node, || match (turn, error) {
            (Turn::Down, Some(error)) => What::NodeDown { error: error.to_string() },
            _ => What::NodeUp,
        });
    }

    /// Tells of members that changed, which a store finds out while it is used.
    fn see_members(&self) {
        let traits = self.store.traits();
        // It only rises, so of answers that come at once each change is told by one, and none is told backwards.
        let is_later = |known: u64| traits.members > known;
        if !(is_later(self.members.load(Relaxed)) && is_later(self.members.fetch_max(traits.members, Relaxed))) {
            return;
        }
        let Ok(store) = Key::new(traits.kind) else { return };
        let names = || self.store.nodes().into_iter().map(|node| node.node).collect();
        self.tell(&store, || What::MembersChanged { members: names() });
    }

    /// What the store's one node is called.
    pub(crate) fn node(&self) -> &'static str {
        self.store.traits().kind
    }

    /// How a lock stands, with a limit on how long the answer may take.
    pub(crate) async fn info(&self, key: &Key, limit: Duration) -> Result<LockInfo> {
        let seen = self.env.timeout(limit, self.store.read(key)).await.unwrap_or_else(|| Err(silent(limit)))?;
        Ok(LockInfo::new(key, seen, self.store.traits().stale_reads))
    }

    /// The names of the locks, with a limit on how long the answer may take, be it ten times that of one operation: there
    /// may be many.
    pub(crate) async fn scan(&self, limit: Duration) -> Result<Vec<Key>> {
        self.env.timeout(10 * limit, self.store.scan()).await.unwrap_or_else(|| Err(silent(10 * limit)))
    }

    pub(crate) fn tell(&self, name: &Key, what: impl FnOnce() -> What) {
        self.tell_in(&Span::none(), name, what);
    }

    /// The same in that span, or in the present one where it is none.
    pub(crate) fn tell_in(&self, span: &Span, name: &Key, what: impl FnOnce() -> What) {
        if !self.teller.tell(name, span, what) {
            self.meters.event_dropped();
        }
    }

    /// Takes note that a hold was lost.
    pub(crate) fn lost(&self, hold: &Hold, loss: Loss) {
        let now = self.env.now();
        hold.meter.lost(loss);
        hold.meter.held_for(now - hold.since);
        let trace = hold.end_trace();
        let span = trace.as_ref().map_or(Span::none(), |trace| trace.span.clone());
        self.tell_in(&span, &hold.key, || What::Lost { fence: hold.fence, loss });
        if let Some(trace) = trace {
            trace.lost(loss);
        }
        self.lines.over(hold, now);
    }

    /// Takes note of a claim that ended in something less than its lock.
    pub(crate) fn degraded(&self, spec: &Spec, to: Degradation, error: Option<&Error>) {
        spec.meter.degraded(to);
        self.tell(&spec.key, || What::Degraded { to, error: error.map(ToString::to_string) });
    }

    /// Takes note that a hold was handed on to another task of this process.
    pub(crate) fn handed_on(&self, hold: &Hold, held: Duration, fence: Fence) {
        hold.meter.handed_on();
        self.tell_in(&hold.span(), &hold.key, || What::HandedOn { held, fence });
        hold.end_trace();
    }

    /// Takes note that a hold was released.
    pub(crate) fn released(&self, key: &Key, meter: &Meter, held: Duration, was_ours: bool) {
        meter.released();
        self.tell(key, || What::Released { held, was_ours });
    }
}

/// Whether the error says that the node does not serve us, not that it did not like what was asked.
fn of_the_node(error: &Error) -> bool {
    error.is_transient() || error.kind() == ErrorKind::Denied
}

fn silent(limit: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the store did not answer within {limit:?}"))
}

fn no_reply(limit: Duration) -> Error {
    Error::new(
        ErrorKind::NoReply,
        format!("the store did not answer within {limit:?}; it may have done what was asked"),
    )
}
