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
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;

use crate::agenda::{Agenda, Item, Parting};
use crate::client::Core;
use crate::env::{self, Moment};
use crate::error::Result;
use crate::event::What;
use crate::health::Pulse;
use crate::hold::{Fence, Granted, Hold, Loss, Watchdog, certain_until};
use crate::line::Contact;
use crate::lock::Spec;
use crate::proto::{Op, Outcome, Renew, Reply};

/// How many operations go into one `apply_many`: enough to spare the store, few enough not to hold it up.
pub(crate) const BATCH: usize = 100;
/// How long after a failure a renewal is tried again: a quarter of what remains, within these.
const RETRY_LEAST: Duration = Duration::from_millis(5);
const RETRY_MOST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    agenda: Mutex<Agenda>,
    changed: Notify,
    pub(crate) idle: Notify,
}

impl Keeper {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let agenda = Mutex::new(Agenda::new());
        Self { shared: Arc::new(Shared { core, agenda, changed: Notify::new(), idle: Notify::new() }) }
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

    /// Keeps a hold for the next task of this process, from one that ends with this; `None` where it was lost already.
    pub(crate) fn hand_on(&self, hold: &Hold, fence: Fence, now: Moment) -> Option<Arc<Hold>> {
        let mut agenda = self.shared.agenda();
        agenda.remove(hold);
        if !hold.end() {
            return None;
        }
        agenda.serial += 1;
        let next = Arc::new(hold.successor(fence, now, agenda.serial));
        // The answer to a renewal that is under way belongs to the one that ended.
        let due = Moment(hold.due.load(Relaxed));
        let due = if due < hold.deadline() { due } else { now };
        self.shared.enter(agenda, due, Item::Hold(next.clone()));
        self.shared.core.counters.hold.record(now - hold.since);
        Some(next)
    }

    /// Stops keeping a hold, which its user ends.
    pub(crate) fn retire(&self, hold: &Hold) {
        let mut agenda = self.shared.agenda();
        agenda.remove(hold);
        if hold.end() {
            drop(agenda);
            self.shared.core.counters.hold.record(self.shared.core.env.now() - hold.since);
        }
    }

    /// Releases a hold in the background.
    pub(crate) fn release(&self, hold: &Hold) {
        self.retire(hold);
        match hold.loss() {
            None => self.shared.release(hold, Some(hold.since)),
            // What lasted for as long as it may is being released already.
            Some(Loss::MaxHold) => {}
            // Its end was told when it was lost.
            Some(Loss::Expired | Loss::Gone) => self.shared.release(hold, None),
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

/// One attempt to renew a hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    sent: Moment,
    /// What was asked for.
    lease: Duration,
    /// Until when the hold was certain before.
    before: Moment,
}

impl Attempt {
    pub(crate) fn new(hold: &Hold, sent: Moment) -> Self {
        Self { sent, lease: hold.lease_from(sent), before: hold.deadline() }
    }

    pub(crate) fn op(self, hold: &Hold) -> Op {
        Op::Renew(Renew { id: hold.id, ttl: self.lease, fence: hold.fence.get() })
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
            let round = self.agenda().take_due(self.core.env.now());
            for hold in round.lost {
                self.lose_by_time(&hold);
            }
            let pulse = self.core.vitals.pulse();
            for batch in batches(&round.renewals, pulse, self.core.env.now()) {
                under_way.push(Box::pin(self.renew(batch, pulse)));
            }
            let mut partings = round.partings;
            while !partings.is_empty() {
                let rest = partings.split_off(partings.len().min(BATCH));
                under_way.push(Box::pin(self.part(std::mem::replace(&mut partings, rest))));
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
        if agenda.client_gone && agenda.items.is_empty() && nothing_under_way {
            agenda.task = None;
            return None;
        }
        agenda.wakes_at = agenda.items.keys().next().map_or(Moment(u64::MAX), |(moment, _)| *moment);
        Some(agenda.wakes_at)
    }

    async fn renew(self: &Arc<Self>, batch: Vec<Arc<Hold>>, pulse: Pulse) {
        let sent = self.core.env.now();
        let limit = batch.iter().map(|hold| limit(hold, pulse, sent)).min().unwrap_or_default();
        let attempts: Vec<_> = batch.into_iter().map(|hold| (Attempt::new(&hold, sent), hold)).collect();
        if let [(attempt, hold)] = &attempts[..] {
            // A store may gather what comes apart; what comes together it answers together.
            let reply = self.core.apply(&hold.key, &attempt.op(hold), limit).await;
            return self.renewed(hold, *attempt, reply);
        }
        let ops: Vec<_> = attempts.iter().map(|(attempt, hold)| (hold.key.clone(), attempt.op(hold))).collect();
        let replies = self.core.apply_many(&ops, limit).await;
        for ((attempt, hold), reply) in attempts.iter().zip(replies) {
            self.renewed(hold, *attempt, reply);
        }
    }

    fn renewed(self: &Arc<Self>, hold: &Arc<Hold>, attempt: Attempt, reply: Result<Reply>) {
        let now = self.core.env.now();
        let mut agenda = self.agenda();
        if hold.is_over() {
            return;
        }
        if let Ok(Reply { outcome: Outcome::Held { waiting, .. }, now: clock }) = reply {
            hold.heard(Contact { now: clock, at: now, waiting });
        }
        match reply.map(|reply| reply.outcome) {
            Ok(Outcome::Held { .. }) if hold.extend(certain_until(attempt.sent, attempt.lease), now) => {
                agenda.remove(hold);
                let interval = hold.interval(self.core.vitals.pulse());
                let due = interval.map_or(hold.deadline(), |interval| attempt.sent + interval);
                self.enter(agenda, due, Item::Hold(hold.clone()));
                self.core.counters.renewals.fetch_add(1, Relaxed);
                self.core.tell(&hold.key, || What::Renewed { remaining: hold.deadline() - now });
            }
            Ok(Outcome::Held { .. }) => {}
            Ok(_) => {
                drop(agenda);
                self.lose(hold, Loss::Gone);
            }
            // Another renewal came through meanwhile, so that this one is no news.
            Err(_) if hold.deadline() > attempt.before => {}
            Err(error) => {
                let left = hold.deadline() - now;
                if hold.watchdog != Watchdog::Off {
                    agenda.remove(hold);
                    let retry = now + self.core.env.jitter((left / 4).clamp(RETRY_LEAST, RETRY_MOST));
                    let retry = retry.min(hold.deadline());
                    self.enter(agenda, retry, Item::Hold(hold.clone()));
                } else {
                    drop(agenda);
                }
                if hold.suspect() {
                    self.core.tell(&hold.key, || What::Suspect { remaining: left, error: error.to_string() });
                }
            }
        }
    }

    fn lose_by_time(self: &Arc<Self>, hold: &Hold) {
        self.lose(hold, hold.loss_by_time());
    }

    /// Declares a hold lost, and releases it where that is for us to do.
    fn lose(self: &Arc<Self>, hold: &Hold, loss: Loss) {
        self.agenda().remove(hold);
        if self.core.lose(hold, loss) && loss == Loss::MaxHold {
            self.release(hold, None);
        }
    }
}

fn limit(hold: &Hold, pulse: Pulse, now: Moment) -> Duration {
    pulse.limit(hold.deadline() - now, hold.failures(), hold.op_timeout)
}

/// What is sent together, and shares a time limit: a hundred at the most, none of which may wait for twice as long as
/// another. A renewal that failed is tried again with ten at the most, and then alone, for it may be the fault of one of
/// them, or of one of several nodes that the store has.
fn batches(holds: &[Arc<Hold>], pulse: Pulse, now: Moment) -> Vec<Vec<Arc<Hold>>> {
    let mut batches: Vec<Vec<Arc<Hold>>> = Vec::new();
    let (mut size, mut longest) = (0, Duration::ZERO);
    for hold in holds {
        let most = [BATCH, 10, 1][usize::from(hold.failures().min(2))];
        let limit = limit(hold, pulse, now);
        match batches.last_mut() {
            Some(batch) if most == size && batch.len() < size && limit <= longest => batch.push(hold.clone()),
            _ => {
                (size, longest) = (most, 2 * limit);
                batches.push(vec![hold.clone()]);
            }
        }
    }
    batches
}
