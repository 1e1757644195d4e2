//! Event sinks: code of one's own that is told everything that happens to a client's locks.
//!
//! ```text
//!   a task, the keeper ──▶ queue, 16,384 events ──▶ the client's sink thread ──▶ sink, sink, sink
//!                            │ full: dropped, and counted
//! ```
//!
//! Whoever tells an event only puts it into a queue, so a sink that is slow, that blocks or that panics holds nobody up. A
//! thread of its own tells the sinks, one event after the other, in the order in which they happened; it starts with a
//! client that has sinks, and ends with it. It looks into the queue every 10 ms while there is something to tell, so that
//! it is not woken for each event.

use std::fmt;
use std::mem::{replace, take};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tracing::Level;

use crate::env::{self, Env};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, What};
use crate::sync::{Condvar, Mutex, MutexGuard, Notify};

/// What is told every event of a client: set it with [`LocksBuilder::sink`](crate::LocksBuilder::sink).
///
/// A closure is one. It is called on a thread of the client's own, for one event at a time, about 10 ms after it happened.
/// It may take its time, up to 16,384 events of it; what comes beyond is dropped and counted as
/// [`Metrics::events_dropped`](crate::Metrics::events_dropped). A panic in it is caught, and the next event told.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tenure::Result<()> {
/// use std::sync::Arc;
/// use tenure::store::Memory;
/// use tenure::{Event, Locks, What};
///
/// let page = |event: &Event| {
///     if let What::Lost { fence, .. } = event.what {
///         eprintln!("{} was lost under {fence}", event.name);
///     }
/// };
/// let locks = Locks::builder(Arc::new(Memory::new())).sink(page).build()?;
/// # locks.mutex("a").build()?.lock().await?.release().await?;
/// # Ok(())
/// # }
/// ```
pub trait Sink: Send + Sync + 'static {
    /// Takes note of it.
    fn event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Sink for F {
    fn event(&self, event: &Event) {
        self(event);
    }
}

/// A sink that logs every event through `tracing`, under the target `tenure::event`, with its parts as fields.
///
/// Without it, the client logs what needs a look as warnings and the rest for debugging, under the target `tenure`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Sink for Log {
    fn event(&self, Event { name, what }: &Event) {
        let (event, name) = (what.name(), name.as_str());
        macro_rules! log {
            ($($field:tt)*) => { tracing::info!(target: "tenure::event", event, name, $($field)*) };
        }
        match what {
            What::Waiting { ahead } => log!(ahead),
            What::Acquired { fence, waited, pushed } => log!(fence = fence.get(), ?waited, pushed),
            What::NotAcquired { waited, why } => log!(?waited, ?why),
            What::Renewed { remaining } => log!(?remaining),
            What::Suspect { remaining, error } => log!(?remaining, error),
            What::Lost { fence, loss } => log!(fence = fence.get(), ?loss),
            What::Degraded { to, error } => log!(?to, error),
            What::HandedOn { held, fence } => log!(fence = fence.get(), ?held),
            What::Released { held, was_ours } => log!(?held, was_ours),
            What::Committed { txid, took } => log!(%txid, ?took),
            What::RolledBack { txid, took, why } => log!(%txid, ?took, why),
            What::CommitUnknown { txid, took } => log!(%txid, ?took),
            What::TransactionDecided { id, decision, why, pending, recovered } => {
                log!(%id, %decision, why, ?pending, recovered)
            }
            What::TransactionUnknown { id, error } => log!(%id, error),
            What::RecordUnreadable { id, error } => log!(id, error),
            What::SagaStepFailed { saga, step, undo, attempt, error } => log!(saga, step, undo, attempt, error),
            What::SagaCompensated { status } | What::SagaStuck { status } => log!(status),
            What::NodeDown { error } => log!(error),
            What::NodeUp => tracing::event!(target: "tenure::event", Level::INFO, event, name),
            What::MembersChanged { members } => log!(?members),
        }
    }
}

/// A sink that sends every event into a bounded channel, for a thread that folds them.
///
/// In async code [`Locks::events`](crate::Locks::events) does the same without a sink.
#[derive(Clone, Debug)]
pub struct Channel {
    sender: SyncSender<Event>,
    dropped: Arc<AtomicU64>,
}

/// Where the events of a [`Channel`] come out. As an iterator it waits, and ends when the client is gone and its runtime has
/// seen to what it left: iterate on a thread of your own, not in a task.
#[derive(Debug)]
pub struct ChannelEvents {
    receiver: Receiver<Event>,
    dropped: Arc<AtomicU64>,
}

impl Channel {
    /// A channel that has room for so many events. What comes while it is full is dropped and counted.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # use std::sync::Arc;
    /// # use tenure::{Locks, sink::Channel, store::Memory};
    /// let (channel, events) = Channel::bounded(1_000);
    /// let locks = Locks::builder(Arc::new(Memory::new())).sink(channel).build()?;
    /// locks.mutex("invoice-42").build()?.lock().await?.release().await?;
    /// locks.close().await;
    /// while let Some(event) = events.try_next() {
    ///     println!("{event}");
    /// }
    /// assert_eq!(events.dropped(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bounded(room: usize) -> (Self, ChannelEvents) {
        let (sender, receiver) = sync_channel(room);
        let dropped = Arc::new(AtomicU64::new(0));
        (Self { sender, dropped: dropped.clone() }, ChannelEvents { receiver, dropped })
    }
}

impl Sink for Channel {
    fn event(&self, event: &Event) {
        if self.sender.try_send(event.clone()).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl ChannelEvents {
    /// How many events there was no room for.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// The next event, if there is one now.
    pub fn try_next(&self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }
}

impl Iterator for ChannelEvents {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.receiver.recv().ok()
    }
}

/// How many events wait to be told at the most.
const ROOM: usize = 16_384;
/// How long the thread lets events gather.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a client that is closed waits for its sinks.
const FAREWELL: Duration = Duration::from_secs(1);

/// The sinks of a client, in the order in which they are told.
pub(crate) type Sinks = Vec<Arc<dyn Sink>>;

/// From whoever tells an event to the sinks.
pub(crate) struct Post {
    queue: Mutex<Queue>,
    filled: Condvar,
    told: Notify,
}

#[derive(Default)]
struct Queue {
    events: Vec<Event>,
    /// The thread waits to be woken.
    asleep: bool,
    /// The thread is telling what it has taken.
    telling: bool,
    closed: bool,
}

impl Post {
    /// Starts the thread; `None` where there are no sinks.
    pub(crate) fn start(sinks: Sinks, env: &Env) -> Result<Option<Arc<Self>>> {
        if sinks.is_empty() {
            return Ok(None);
        }
        let post = Arc::new(Self::new());
        let (theirs, env) = (post.clone(), env.clone());
        env::spawn_thread("tenure-sinks", move || theirs.run(&sinks, &env)).map_err(|error| {
            Error::with_source(
                ErrorKind::Unavailable,
                format!("no thread for the sinks can be started: {error}"),
                error,
            )
        })?;
        Ok(Some(post))
    }

    fn new() -> Self {
        Self { queue: Mutex::default(), filled: Condvar::new(), told: Notify::new() }
    }

    /// Has an event told; false where there is no room for it.
    pub(crate) fn send(&self, event: Event) -> bool {
        let mut queue = self.queue();
        if queue.events.len() >= ROOM {
            return false;
        }
        queue.events.push(event);
        let wake = replace(&mut queue.asleep, false);
        drop(queue);
        if wake {
            self.filled.notify_one();
        }
        true
    }

    /// Waits until all that was sent is told, for a second at the most.
    pub(crate) async fn settle(&self, env: &Env) {
        let told = async {
            loop {
                let told = self.told.notified();
                let is_idle = {
                    let queue = self.queue();
                    queue.events.is_empty() && !queue.telling
                };
                if is_idle {
                    return;
                }
                told.await;
            }
        };
        let _ = env.timeout(FAREWELL, told).await;
    }

    /// Ends the thread when all is told.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.filled.notify_one();
    }

    fn run(&self, sinks: &Sinks, env: &Env) {
        let mut panicked = vec![false; sinks.len()];
        while let Some(events) = self.next() {
            for event in &events {
                for (sink, panicked) in sinks.iter().zip(&mut panicked) {
                    // A sink that panics may be in disorder; that is its own affair.
                    let outcome = catch_unwind(AssertUnwindSafe(|| sink.event(event)));
                    if outcome.is_err() && !replace(panicked, true) {
                        tracing::warn!(target: "tenure", "a sink panicked; it is told the next events all the same");
                    }
                }
            }
            self.queue().telling = false;
            self.told.notify_waiters();
            env.pause(PAUSE);
        }
    }

    /// What there is to tell; `None` when there never will be.
    fn next(&self) -> Option<Vec<Event>> {
        let mut queue = self.queue();
        while queue.events.is_empty() {
            if queue.closed {
                return None;
            }
            queue.asleep = true;
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.telling = true;
        Some(take(&mut queue.events))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod model;
