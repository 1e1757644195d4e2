//! What happens to the locks of a client, as one kind of value. Metrics, logs, callbacks and pages each fold it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tracing::Span;

use crate::hold::{Fence, Loss};
use crate::key::Key;
use crate::sink::Post;
use crate::transaction::coordinator::Decision;
use crate::transaction::{TransactionId, Txid};

mod line;

/// Something that happened to a lock of this client, or to a node of its store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The lock's name; for [`What::NodeDown`] and [`What::NodeUp`] the node's, as in
    /// [`NodeHealth::node`](crate::NodeHealth::node).
    pub name: Key,
    /// What happened to it.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The lock was busy, and a claim took a place in its queue.
    Waiting {
        /// At most this many stand before it.
        ahead: u32,
    },
    /// A claim was let in.
    Acquired {
        /// Its token.
        fence: Fence,
        /// How long it took from the call.
        waited: Duration,
        /// It was let in by another one's leaving, and told by a push.
        pushed: bool,
    },
    /// A claim ended without a hold: busy, timed out, refused, failed or cancelled.
    NotAcquired {
        /// How long it took from the call.
        waited: Duration,
        /// Why.
        why: Why,
    },
    /// The hold was renewed.
    Renewed {
        /// For how long it is certain now.
        remaining: Duration,
    },
    /// A renewal failed. The hold is still certain, and renewing is tried again.
    Suspect {
        /// For how long it is still certain.
        remaining: Duration,
        /// What went wrong.
        error: String,
    },
    /// The hold is over although its guard lives. Whatever it protects has to stop.
    Lost {
        /// Its token.
        fence: Fence,
        /// How it was lost.
        loss: Loss,
    },
    /// A claim ended in something less than its lock: another one, or none. Two may be at work now.
    Degraded {
        /// In what.
        to: Degradation,
        /// Why; `None` where the store itself fell back, which logs why.
        error: Option<String>,
    },
    /// The hold was passed to the next task of this process without asking the store, when its guard went.
    HandedOn {
        /// How long it was held.
        held: Duration,
        /// The token of the next one.
        fence: Fence,
    },
    /// The hold was released, and had not been lost before.
    Released {
        /// How long it was held.
        held: Duration,
        /// Whether it was still ours.
        was_ours: bool,
    },
    /// A fenced commit under this lock, the first of its locks, was carried out.
    Committed {
        /// Its name.
        txid: Txid,
        /// How long it took from the call.
        took: Duration,
    },
    /// A fenced commit wrote nothing, nor ever will.
    RolledBack {
        /// Its name.
        txid: Txid,
        /// How long it took from the call.
        took: Duration,
        /// Why.
        why: String,
    },
    /// A fenced commit got no reply, or its future was dropped: all of it was written, or nothing.
    CommitUnknown {
        /// Its name, to [resolve](crate::Locks::resolve) it by.
        txid: Txid,
        /// How long it took from the call.
        took: Duration,
    },
    /// A [two-phase](crate::transaction::Coordinator) transaction under this lock was decided.
    TransactionDecided {
        /// Its name.
        id: TransactionId,
        /// What was decided.
        decision: Decision,
        /// Why it was rolled back, if it was.
        why: Option<String>,
        /// The participants that do not know it yet.
        pending: Vec<String>,
        /// It was found as somebody had left it.
        recovered: bool,
    },
    /// Of a two-phase transaction it is not known whether it was decided.
    TransactionUnknown {
        /// Its name.
        id: TransactionId,
        /// What went wrong.
        error: String,
    },
    /// A journal's record was found that cannot be read: what it is about is left as it is.
    RecordUnreadable {
        /// Its name in the journal.
        id: String,
        /// Why.
        error: String,
    },
    /// An attempt at a step of a [saga](crate::transaction::Saga) under this lock failed.
    SagaStepFailed {
        /// The saga's name and id: `order/42`.
        saga: String,
        /// The step's name.
        step: String,
        /// It was an attempt to undo it.
        undo: bool,
        /// Which attempt it was, from 1.
        attempt: u32,
        /// What it said.
        error: String,
    },
    /// All that a saga had done was undone.
    SagaCompensated {
        /// How the saga stands, in a line: `order/42 is compensated, as charge failed: the card was declined`.
        status: String,
    },
    /// A compensation of a [saga](crate::transaction::Saga) under this lock failed for good. What it was to undo stands
    /// until somebody [retries](crate::transaction::Saga::retry).
    SagaStuck {
        /// How the saga stands, in a line: `order/42 is stuck at charge after 13 attempts: no such account`.
        status: String,
    },
    /// A node of the store failed three times in a row. Holds that it keeps are in doubt once their own renewals fail.
    NodeDown {
        /// What went wrong the last time.
        error: String,
    },
    /// A node that was down answers again.
    NodeUp,
    /// The store goes by other members than before, or was found to. A change is told twice: when the old and the new members
    /// begin to decide together, and when the new ones do alone.
    MembersChanged {
        /// Who they are now, as in [`NodeHealth::node`](crate::NodeHealth::node).
        members: Vec<String>,
    },
}

impl What {
    /// What happened, in a word: `waiting`, `acquired`, `not_acquired`, `renewed`, `suspect`, `lost`, `degraded`,
    /// `handed_on`, `released`, `committed`, `rolled_back`, `commit_unknown`, `transaction_decided`, `transaction_unknown`,
    /// `record_unreadable`, `saga_step_failed`, `saga_compensated`, `saga_stuck`, `node_down`, `node_up` or `members_changed`.
    pub fn name(&self) -> &'static str {
        match self {
            What::Waiting { .. } => "waiting",
            What::Acquired { .. } => "acquired",
            What::NotAcquired { .. } => "not_acquired",
            What::Renewed { .. } => "renewed",
            What::Suspect { .. } => "suspect",
            What::Lost { .. } => "lost",
            What::Degraded { .. } => "degraded",
            What::HandedOn { .. } => "handed_on",
            What::Released { .. } => "released",
            What::Committed { .. } => "committed",
            What::RolledBack { .. } => "rolled_back",
            What::CommitUnknown { .. } => "commit_unknown",
            What::TransactionDecided { .. } => "transaction_decided",
            What::TransactionUnknown { .. } => "transaction_unknown",
            What::RecordUnreadable { .. } => "record_unreadable",
            What::SagaStepFailed { .. } => "saga_step_failed",
            What::SagaCompensated { .. } => "saga_compensated",
            What::SagaStuck { .. } => "saga_stuck",
            What::NodeDown { .. } => "node_down",
            What::NodeUp => "node_up",
            What::MembersChanged { .. } => "members_changed",
        }
    }
}

/// What a claim ended in when its store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Degradation {
    /// A hold that a [`Fallback`](crate::store::Fallback) granted at its secondary store.
    Store,
    /// A hold on the lock that the [fallback](crate::LockBuilder::fallback) handler named.
    Lock,
    /// No hold at all, as the handler said.
    Unlocked,
}

impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Degradation::Store => "held at the secondary store",
            Degradation::Lock => "another lock is held instead",
            Degradation::Unlocked => "going on unlocked",
        })
    }
}

/// Why a claim ended without a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// It did not want to wait.
    Busy,
    /// The time or the retries that it had for waiting were used up.
    TimedOut,
    /// The future was dropped.
    Cancelled,
    /// An error, of that kind.
    Failed(crate::ErrorKind),
}

/// The events of a client, from the moment this was asked for.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` when the client and all its guards are gone.
    ///
    /// A reader that falls more than 1,024 events behind skips the oldest; `skipped` is told how many those were.
    ///
    /// # Cancel safety
    ///
    /// No event is lost when the future is dropped.
    pub async fn recv_counting(&mut self, skipped: &mut u64) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(n)) => *skipped += n,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next event; `None` when the client and all its guards are gone. A reader that falls more than 1,024 events
    /// behind skips the oldest.
    ///
    /// # Cancel safety
    ///
    /// No event is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        self.recv_counting(&mut 0).await
    }
}

/// Where events are told.
#[derive(Debug)]
pub(crate) struct Teller {
    listeners: broadcast::Sender<Event>,
    sinks: Option<Arc<Post>>,
}

impl Teller {
    pub(crate) fn new(sinks: Option<Arc<Post>>) -> Self {
        Self { listeners: broadcast::Sender::new(1024), sinks }
    }

    pub(crate) fn listen(&self) -> Events {
        Events(self.listeners.subscribe())
    }

    pub(crate) fn sinks(&self) -> Option<&Post> {
        self.sinks.as_deref()
    }

    /// Tells it to the log, to the sinks and to whoever listens; nothing is built where nobody does. What is logged lies in
    /// that span, where there is one. False where the sinks had no room for it.
    pub(crate) fn tell(&self, name: &Key, span: &Span, what: impl FnOnce() -> What) -> bool {
        let (heard, logged) = (self.listeners.receiver_count() > 0, is_logged());
        if !heard && !logged && self.sinks.is_none() {
            return true;
        }
        let event = Event { name: name.clone(), what: what() };
        if logged {
            span.in_scope(|| event.log());
        }
        if heard {
            let _ = self.listeners.send(event.clone());
        }
        self.sinks.as_ref().is_none_or(|sinks| sinks.send(event))
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(sinks) = &self.sinks {
            sinks.close();
        }
    }
}

/// Whether anything may be logged at all.
fn is_logged() -> bool {
    tracing::enabled!(target: "tenure", tracing::Level::WARN)
}
