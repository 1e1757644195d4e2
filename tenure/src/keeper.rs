//! The one background task of a client: it renews holds, declares losses, and releases what was dropped.
//!
//! ```text
//!   agenda, by time                       every round: what is due, gathered
//!   ┌──────────────────────────────┐      ┌─ renew, calm    ─┐
//!   │ 12.1 s  renew a              │      │  renew, suspect  │ ──▶ apply_many, each with a time limit of its own,
//!   │ 12.1 s  renew b              │ ───▶ │  release         │     none waits for another
//!   │ 12.3 s  c is lost by now     │      └──────────────────┘
//!   └──────────────────────────────┘
//! ```
//!
//! Nothing is spawned per lock, and the task is not even woken for a new hold whose first renewal lies behind
//! one that is expected already. It starts with the first hold and ends when its client and all guards are gone and what
//! they left is released; where its runtime ended first, the next hold starts it anew in its own.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tracing::{Instrument, Span};

use crate::agenda::{Agenda, Item, Kept, Over, Parting, Round};
use crate::client::Core;
use crate::env::{self, Moment};
use crate::error::Result;
use crate::hold::{Granted, Hold, Loss};
use crate::lock::Spec;
use crate::proto::Reply;
use crate::renewal::{Attempt, batches};
use crate::sync::{Mutex, MutexGuard, Notify};
use crate::trace::{self, Trace};

/// How many operations go into one `apply_many`: enough to spare the store, few enough not to hold it up.
pub(crate) const BATCH: usize = 100;
/// How many operations are under way at the same time. More would only queue up at the store, where nothing can overtake
/// them, and where their waiting would be taken for the store's slowness: a hundred thousand renewals at once, after a
/// pause say, would time each other out.
const WINDOW: usize = 1_000;
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    agenda: Mutex<Agenda>,
    changed: Notify,
    pub(crate) idle: Notify,
    /// How many operations are under way, less those that are overdue.
    under_way: AtomicUsize,
}

impl Keeper {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let agenda = Mutex::new(Agenda::new());
        Self {
            shared: Arc::new(Shared {
                core,
                agenda,
                changed: Notify::new(),
                idle: Notify::new(),
                under_way: AtomicUsize::new(0),
            }),
        }
    }

    /// Keeps a hold from now on.
    pub(crate) fn hold(&self, lock: &Spec, granted: Granted) -> Arc<Hold> {
        let (now, pulse) = (granted.now, self.shared.core.vitals.pulse());
        let mut agenda = self.shared.agenda();
        agenda.serial += 1;
        let hold = Arc::new(Hold::new(lock, granted, agenda.serial));
        // A hold that begins with a place's time, not with a whole ttl, is confirmed before a third of that has passed.
        let left = hold.deadline() - now;
        let due = hold.interval(pulse).map_or(hold.deadline(), |interval| now + interval.min(left / 3));
        self.shared.enter(agenda, due, Item::Hold(hold.clone()));
        hold
    }

    /// Stops keeping a hold, which its user ends; its span ends when what is returned does.
    pub(crate) fn retire(&self, hold: &Hold) -> Option<Box<Trace>> {
        let mut agenda = self.shared.agenda();
        agenda.remove(hold);
        if !hold.end() {
            return None;
        }
        drop(agenda);
        hold.meter.held_for(self.shared.core.env.now() - hold.since);
        hold.end_trace()
    }

    /// Releases a hold in the background.
    pub(crate) fn release(&self, hold: &Hold) {
        let span = self.retire(hold).map_or(Span::none(), |trace| trace.span);
        match hold.loss() {
            None => self.shared.release(hold, span, Some(Kept::by(hold))),
            // What lasted for as long as it may is being released already.
            Some(Loss::MaxHold) => {}
            // Its end was told when it was lost.
            Some(Loss::Expired | Loss::Gone) => self.shared.release(hold, Span::none(), None),
        }
    }

    /// Releases a claim in the background, again until that is certain or the claim has ended by itself.
    pub(crate) fn part(&self, parting: Parting) {
        self.shared.enter_parting(parting);
    }

    /// Takes note of how a renewal ended that its user asked for.
    pub(crate) fn refreshed(&self, hold: &Arc<Hold>, attempt: Attempt, reply: Result<Reply>) {
        self.shared.renewed(hold, attempt, reply);
    }

    /// Completes when the hold is lost, never when it was released. It sees to its own time: where the task's runtime
    /// has ended, there is nobody else to.
    pub(crate) fn lost(&self, hold: &Arc<Hold>) -> impl Future<Output = Loss> + Send + use<> {
        let (shared, hold) = (self.shared.clone(), hold.clone());
        async move {
            while !hold.is_ended() {
                let changed = hold.changed();
                if let Some(loss) = hold.loss() {
                    return loss;
                }
                match hold.deadline() - shared.core.env.now() {
                    Duration::ZERO => shared.lose_by_time(&hold),
                    left => _ = shared.core.env.timeout(left, changed).await,
                }
            }
            drop((shared, hold));
            std::future::pending().await
        }
    }

    /// How many holds there are, and the soonest of their deadlines.
    pub(crate) fn census(&self) -> (usize, Option<Moment>) {
        self.shared.agenda().census()
    }

    /// Waits until all releases are certain.
    pub(crate) async fn settle(&self) {
        loop {
            let idle = self.shared.idle.notified();
            {
                let mut agenda = self.shared.agenda();
                if agenda.partings == 0 {
                    return;
                }
                self.shared.see_that_it_runs(&mut agenda);
            }
            idle.await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.agenda().client_gone = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    pub(crate) fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item on the agenda, and sees that the task runs and looks at it in time.
    pub(crate) fn enter(self: &Arc<Self>, mut agenda: MutexGuard<'_, Agenda>, due: Moment, item: Item) {
        agenda.insert(due, item);
        if self.see_that_it_runs(&mut agenda) && due < agenda.wakes_at {
            agenda.wakes_at = due;
            self.changed.notify_one();
        }
    }

    /// Starts the task where it does not run, if there is a runtime; whether it ran already.
    fn see_that_it_runs(self: &Arc<Self>, agenda: &mut Agenda) -> bool {
        let running = agenda.task.as_ref().is_some_and(|task| !task.is_finished());
        if !running {
            agenda.resume(self.core.env.now());
            agenda.task = env::spawn(self.clone().run());
        }
        running
    }

    async fn run(self: Arc<Self>) {
        let mut under_way: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        loop {
            let Over { lost, untaken } = self.agenda().take_due(self.core.env.now());
            for hold in lost {
                self.lose_by_time(&hold);
            }
            for hold in untaken {
                self.take_back(&hold);
            }
            let room = WINDOW.saturating_sub(self.under_way.load(Relaxed));
            let Round { renewals, mut releases } = self.agenda().next(room);
            let pulse = self.core.vitals.pulse();
            for batch in batches(&renewals, pulse, self.core.env.now()) {
                let slot = Slot::take(&self, batch.len());
                let span = trace::renewal(batch.iter().map(|hold| &**hold));
                under_way.push(Box::pin(slot.during(self.renew(batch, pulse).instrument(span), pulse.silence)));
            }
            while !releases.is_empty() {
                let batch: Vec<_> = releases.drain(..releases.len().min(BATCH)).collect();
                let slot = Slot::take(&self, batch.len());
                let span = trace::parting(batch.iter().map(|parting| &parting.after));
                under_way.push(Box::pin(slot.during(self.part(batch).instrument(span), pulse.silence)));
            }
            let wakes_at = match self.rest(under_way.is_empty()) {
                Some(moment) => moment,
                None => return,
            };
            tokio::select! {
                biased;
                Some(()) = under_way.next() => {}
                () = self.changed.notified() => {}
                () = self.core.env.sleep_until(wakes_at) => {}
            }
        }
    }

    /// Until when there is nothing to do; `None` when there never will be.
    fn rest(&self, nothing_under_way: bool) -> Option<Moment> {
        let mut agenda = self.agenda();
        if agenda.client_gone && agenda.is_empty() && nothing_under_way {
            agenda.task = None;
            return None;
        }
        agenda.wakes_at = agenda.items.keys().next().map_or(Moment(u64::MAX), |(moment, _)| *moment);
        Some(agenda.wakes_at)
    }

    pub(crate) fn lose_by_time(self: &Arc<Self>, hold: &Hold) {
        self.lose(hold, hold.loss_by_time());
    }

    /// Declares a hold lost, and releases it where that is for us to do.
    pub(crate) fn lose(self: &Arc<Self>, hold: &Hold, loss: Loss) {
        let news = {
            let mut agenda = self.agenda();
            agenda.remove(hold);
            hold.lose(loss)
        };
        if news {
            self.core.lost(hold, loss);
            if loss == Loss::MaxHold {
                self.release(hold, Span::none(), None);
            }
        }
    }
}

/// Room that operations take for as long as they are under way: until the answer, or until the store has been silent for
/// some time, so that what hangs keeps nobody else from being sent. As with TCP's timer (RFC 6298, 5.3), any answer shows
/// that it is at work.
struct Slot<'a> {
    shared: &'a Shared,
    size: usize,
}

impl<'a> Slot<'a> {
    fn take(shared: &'a Shared, size: usize) -> Self {
        shared.under_way.fetch_add(size, Relaxed);
        Self { shared, size }
    }

    async fn during(self, work: impl Future<Output = ()>, silence: Duration) {
        let mut work = std::pin::pin!(work);
        let (shared, core) = (self.shared, &self.shared.core);
        let sent = core.env.now();
        loop {
            let left = (core.vitals.answered_at().max(sent) + silence) - core.env.now();
            if left.is_zero() {
                break;
            }
            if core.env.timeout(left, &mut work).await.is_some() {
                return;
            }
        }
        drop(self);
        shared.changed.notify_one();
        work.await;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.shared.under_way.fetch_sub(self.size, Relaxed);
    }
}

#[cfg(all(test, loom))]
mod model;
