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
use crate::error::{Error, Result};
use crate::event::What;
use crate::hold::{Granted, Hold, Loss, certain_until};
use crate::lock::Spec;
use crate::proto::{Op, Outcome, Release, Renew, Reply, Was};

/// How many operations go into one `apply_many`: enough to spare the store, few enough not to hold it up.
const BATCH: usize = 100;
/// How long after a failure it is tried again, at first; it doubles, up to `RETRY_MOST`.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    agenda: Mutex<Agenda>,
    changed: Notify,
    idle: Notify,
}

impl Keeper {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            shared: Arc::new(Shared {
                core,
                agenda: Mutex::new(Agenda::new()),
                changed: Notify::new(),
                idle: Notify::new(),
            }),
        }
    }

    /// Keeps a hold from now on.
    pub(crate) fn hold(&self, lock: &Spec, granted: Granted) -> Arc<Hold> {
        let now = granted.now;
        let mut agenda = self.shared.agenda();
        agenda.serial += 1;
        let hold = Arc::new(Hold::new(lock, granted, agenda.serial));
        // A hold that begins with a place's time, not with a whole ttl, is confirmed before a third of that has passed.
        let left = hold.deadline() - now;
        let due = hold.interval.map_or(hold.deadline(), |interval| now + interval.min(left / 3));
        self.shared.enter(agenda, due, Item::Hold(hold.clone()));
        hold
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
        let now = self.shared.core.env.now();
        self.part(Parting {
            key: hold.key.clone(),
            id: hold.id,
            bury: hold.bury(),
            // A renewal that was given up may have arrived all the same.
            give_up: now + hold.ttl + hold.op_timeout,
            op_timeout: hold.op_timeout,
            since: Some(hold.since),
            attempts: 0,
        });
    }

    /// Releases a claim in the background, again until that is certain or the claim has ended by itself.
    pub(crate) fn part(&self, parting: Parting) {
        let mut agenda = self.shared.agenda();
        agenda.partings += 1;
        let now = self.shared.core.env.now();
        self.shared.enter(agenda, now, Item::Part(parting));
    }

    /// Declares a hold lost.
    pub(crate) fn lose(&self, hold: &Hold, loss: Loss) {
        self.shared.agenda().remove(hold);
        self.shared.core.lose(hold, loss);
    }

    /// Waits until all releases are certain.
    pub(crate) async fn settle(&self) {
        loop {
            let idle = self.shared.idle.notified();
            if self.shared.agenda().partings == 0 {
                return;
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
    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item on the agenda, and sees that the task runs and looks at it in time.
    fn enter(self: &Arc<Self>, mut agenda: MutexGuard<'_, Agenda>, due: Moment, item: Item) {
        agenda.insert(due, item);
        let running = agenda.task.as_ref().is_some_and(|task| !task.is_finished());
        if !running {
            agenda.task = env::spawn(self.clone().run());
        } else if due < agenda.wakes_at {
            agenda.wakes_at = due;
            self.changed.notify_one();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut under_way: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        loop {
            let round = self.agenda().take_due(self.core.env.now());
            for hold in round.lost {
                self.core.lose(&hold, Loss::Expired);
            }
            for holds in [round.suspect, round.calm] {
                for batch in holds.chunks(BATCH) {
                    under_way.push(Box::pin(self.renew(batch.to_vec())));
                }
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

    async fn renew(&self, batch: Vec<Arc<Hold>>) {
        let sent = self.core.env.now();
        let ops: Vec<_> =
            batch.iter().map(|hold| (hold.key.clone(), Op::Renew(Renew { id: hold.id, ttl: hold.ttl }))).collect();
        // Three attempts fit into what remains to the one that has least.
        let limit =
            batch.iter().map(|hold| hold.op_timeout.min((hold.deadline() - sent) / 3)).min().unwrap_or_default();
        let replies = self.core.apply_many(&ops, limit).await;
        for (hold, reply) in batch.into_iter().zip(replies) {
            self.renewed(hold, sent, reply);
        }
    }

    fn renewed(&self, hold: Arc<Hold>, sent: Moment, reply: Result<Reply>) {
        let now = self.core.env.now();
        let mut agenda = self.agenda();
        if hold.is_over() {
            return;
        }
        match reply.map(|reply| reply.outcome) {
            Ok(Outcome::Held { .. }) if hold.extend(certain_until(sent, hold.ttl), now) => {
                agenda.remove(&hold);
                let interval = hold.interval.unwrap_or(hold.ttl);
                agenda.insert(sent + interval, Item::Hold(hold.clone()));
                drop(agenda);
                self.core.counters.renewals.fetch_add(1, Relaxed);
                self.core.tell(&hold.key, || What::Renewed { remaining: hold.deadline() - now });
            }
            Ok(Outcome::Held { .. }) => {}
            Ok(_) => {
                agenda.remove(&hold);
                drop(agenda);
                self.core.lose(&hold, Loss::Gone);
            }
            Err(error) => {
                agenda.remove(&hold);
                let left = hold.deadline() - now;
                let retry = now + self.core.env.jitter((left / 4).clamp(RETRY_FIRST / 4, RETRY_MOST));
                agenda.insert(retry.min(hold.deadline()), Item::Hold(hold.clone()));
                drop(agenda);
                if hold.suspect() {
                    let remaining = hold.deadline() - now;
                    self.core.tell(&hold.key, || What::Suspect { remaining, error: error.to_string() });
                }
            }
        }
    }

    async fn part(&self, batch: Vec<Parting>) {
        let op = |parting: &Parting| Op::Release(Release { id: parting.id, bury: parting.bury });
        let ops: Vec<_> = batch.iter().map(|parting| (parting.key.clone(), op(parting))).collect();
        let limit = batch.iter().map(|parting| parting.op_timeout).max().unwrap_or_default();
        let replies = self.core.apply_many(&ops, limit).await;
        for (parting, reply) in batch.into_iter().zip(replies) {
            self.parted(parting, reply);
        }
    }

    fn parted(&self, mut parting: Parting, reply: Result<Reply>) {
        let now = self.core.env.now();
        if reply.as_ref().is_err_and(Error::is_transient) && now < parting.give_up {
            let delay = (RETRY_FIRST * 2_u32.pow(parting.attempts.min(8))).min(RETRY_MOST);
            parting.attempts += 1;
            self.agenda().insert(now + self.core.env.jitter(delay), Item::Part(parting));
            return;
        }
        let was_ours = reply.is_ok_and(|reply| reply.outcome == Outcome::Gone { was: Was::Holding });
        if let Some(since) = parting.since {
            self.core.released(&parting.key, now - since, was_ours);
        }
        let mut agenda = self.agenda();
        agenda.partings -= 1;
        if agenda.partings == 0 {
            self.idle.notify_waiters();
        }
    }
}
