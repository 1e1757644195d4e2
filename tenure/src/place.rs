//! One task's place in the line of its process: how it waits there, what it is given, and how it leaves.
//!
//! What a task is given is an offer: the turn to ask the store, or the hold of the one before. It takes it when it is
//! polled next. A future that nobody polls keeps neither: after a patience the turn goes on to the next in line, and a
//! hold is released. When such a task is polled at last, it stands in line again, ahead of all who came after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::client::Client;
use crate::env::Moment;
use crate::error::Error;
use crate::hold::{Fence, Hold, HoldState};
use crate::key::Key;
use crate::line::{Answer, Asker, Behind, FAIR, Turn};
use crate::lock::Spec;
use crate::proto::Claim;

/// A task's place in a line; whoever is behind it moves up when it goes.
pub(crate) struct Place {
    client: Arc<Client>,
    spec: Arc<Spec>,
    serial: u64,
    stand: Stand,
}

pub(crate) enum Stand {
    Front,
    /// It tries, and takes no place in the store's queue.
    Beside,
    Behind {
        ahead: u32,
        turn: oneshot::Receiver<Turn>,
    },
    /// Passed on, with what it held.
    Gone,
}

impl Place {
    pub(crate) fn new(client: &Arc<Client>, spec: &Arc<Spec>, serial: u64, stand: Stand) -> Self {
        Self { client: client.clone(), spec: spec.clone(), serial, stand }
    }

    /// How many stand before it, of those who do not ask the store yet; `None`: it may ask.
    pub(crate) fn ahead(&self) -> Option<u32> {
        match &self.stand {
            Stand::Behind { ahead, .. } => Some(*ahead),
            Stand::Front | Stand::Beside | Stand::Gone => None,
        }
    }

    /// For how long its place in the store's queue is to last.
    pub(crate) fn patience(&self) -> Duration {
        if matches!(self.stand, Stand::Beside) { Duration::ZERO } else { self.spec.options.patience }
    }

    /// Waits for its turn. A hold that comes with it is kept from now on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn turn(&mut self) -> Turn {
        while let Stand::Behind { turn, .. } = &mut self.stand {
            let turn = turn.await.unwrap_or(Turn::Ask);
            let (lines, now) = (&self.client.core.lines, self.client.core.env.now());
            let taken = match &turn {
                Turn::Ask => lines.take_turn(&self.spec.key, self.serial, now),
                Turn::Hold(hold) => self.client.keeper.accept(hold).then_some(Stand::Front),
            };
            if let Some(stand) = taken {
                self.stand = stand;
                return turn;
            }
            // It came too late.
            self.stand = lines.rejoin(&self.spec, self.serial, now);
        }
        Turn::Ask
    }

    /// Takes note of what it holds. Where others may hold beside it, it leaves the line, and the next one asks.
    pub(crate) fn won(mut self, hold: &Arc<Hold>) -> Option<Self> {
        let is_alone = self.spec.claim == Claim::EXCLUSIVE;
        let answer = hold.contact().map_or(Answer::Pushed, |contact| Answer::Held { waiting: contact.waiting });
        let mut all = self.client.core.lines.all();
        if is_alone {
            if let Some(line) = all.at_front(&self.spec.key, self.serial) {
                (line.hold, line.failing) = (Some(hold.clone()), None);
            }
        } else {
            if let Some(line) = all.by_key.get_mut(&self.spec.key) {
                line.heard(self.spec.claim, answer);
            }
            all.leave(&self.spec.key, self.serial, hold.since);
            self.stand = Stand::Gone;
        }
        drop(all);
        is_alone.then_some(self)
    }

    /// Takes note of how the store answers it, which asks again then: those behind have to know.
    pub(crate) fn asked(&self, now: Moment, failure: Option<&Error>, again_at: Moment) {
        let mut all = self.client.core.lines.all();
        let Some(line) = all.by_key.get_mut(&self.spec.key) else { return };
        let Some(asker) = line.asker(self.serial) else { return };
        asker.asks_at(again_at);
        let since = line.failing.as_ref().map_or(now, |failing| failing.0);
        line.heard(self.spec.claim, Answer::Busy);
        line.failing = failure.map(|error| Box::new((since, error.clone())));
    }

    /// Stands in line where it stood, as what it tried is busy; at the front by now, it has only to ask again.
    pub(crate) fn step_back(&mut self) {
        let now = self.client.core.env.now();
        let mut all = self.client.core.lines.all();
        if let Some(line) = all.by_key.get_mut(&self.spec.key) {
            line.heard(self.spec.claim, Answer::Busy);
        }
        self.stand = Stand::Front;
        if all.at_front(&self.spec.key, self.serial).is_none() {
            all.leave(&self.spec.key, self.serial, now);
            self.stand = all.stand(&self.spec, self.serial, now);
        }
    }

    /// Passes the hold to the next in line, if that may be done without the store: then it is over for the present one.
    pub(crate) fn hand_on(&mut self, hold: &Hold) -> Option<Fence> {
        let now = self.client.core.env.now();
        let mut all = self.client.core.lines.all();
        let line = all.at_front(&self.spec.key, self.serial)?;
        line.behind.retain(|behind| !behind.turn.is_closed());
        let fence = later_fence(hold, now)?;
        let front = &line.front.spec;
        let is_alike = |next: &&Behind| next.spec.claim == front.claim && next.spec.is_like(front);
        let next = line.behind.front().filter(is_alike)?;
        let accept_by = now + next.spec.options.patience;
        let successor = self.client.keeper.hand_on(hold, fence, now, accept_by)?;
        let Behind { serial, spec, turn } = line.behind.pop_front()?;
        (line.front, line.hold) = (Asker::new(serial, spec, now), Some(successor.clone()));
        self.stand = Stand::Gone;
        if let Err(Turn::Hold(hold)) = turn.send(Turn::Hold(successor)) {
            // It went away in this very moment.
            self.client.keeper.give_back(&hold);
            all.advance(&self.spec.key, now);
        }
        Some(fence)
    }

    fn leave(&self) {
        let now = self.client.core.env.now();
        self.client.core.lines.all().leave(self.key(), self.serial, now);
    }

    fn key(&self) -> &Key {
        &self.spec.key
    }
}

/// The token for whoever takes the hold over without the store; `None` where that may not be.
fn later_fence(hold: &Hold, now: Moment) -> Option<Fence> {
    // A degraded hold is not handed on: the next one asks whether the store is back.
    let contact = hold.contact().filter(|_| hold.fence > Fence::NONE)?;
    let fence = hold.fence.get() + 1;
    let fair = contact.waiting == 0 && now - contact.at <= FAIR;
    let certain = hold.state() == HoldState::Held && now < hold.deadline() && !hold.may_be_committed_under();
    (fair && certain && fence <= contact.clock(now)).then_some(Fence(fence))
}

impl Drop for Place {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stand, Stand::Gone) {
            Stand::Gone => {}
            Stand::Front | Stand::Beside => self.leave(),
            Stand::Behind { mut turn, .. } => {
                // From here on nothing more is sent; what was sent already is ours to pass on.
                turn.close();
                if let Ok(Turn::Hold(hold)) = turn.try_recv() {
                    if self.hand_on(&hold).is_some() {
                        return;
                    }
                    self.client.keeper.give_back(&hold);
                }
                self.leave();
            }
        }
    }
}
