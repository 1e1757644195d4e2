//! One task's place in the line of its process: how it waits there, what it is given, and how it leaves.
//!
//! What a task is given is an offer: the turn to ask the store, or the hold of the one before. It takes it when it is
//! polled next. A future that nobody polls keeps neither: after a patience the turn goes on to the next in line, and a
//! hold is released. When such a task is polled at last, it stands in line again, ahead of all who came after it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::client::Client;
use crate::env::Moment;
use crate::error::Error;
use crate::hold::{Fence, Hold, HoldState};
use crate::key::Key;
use crate::line::{Behind, FAIR, Turn};
use crate::lock::Spec;

/// A task's place in a line; whoever is behind it moves up when it goes.
pub(crate) struct Place {
    client: Arc<Client>,
    spec: Arc<Spec>,
    serial: u64,
    stand: Stand,
}

pub(crate) enum Stand {
    Front,
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

    /// How many stand before it, of those who do not ask the store yet; `None`: it is at the front.
    pub(crate) fn ahead(&self) -> Option<u32> {
        match &self.stand {
            Stand::Behind { ahead, .. } => Some(*ahead),
            Stand::Front | Stand::Gone => None,
        }
    }

    /// Waits for its turn. A hold that comes with it is kept from now on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn turn(&mut self) -> Turn {
        while let Stand::Behind { turn, .. } = &mut self.stand {
            let turn = turn.await.unwrap_or(Turn::Front);
            let taken = match &turn {
                Turn::Front => self.client.core.lines.take_turn(self.key(), self.serial),
                Turn::Hold(hold) => self.client.keeper.accept(hold),
            };
            if taken {
                self.stand = Stand::Front;
                return turn;
            }
            // It came too late.
            self.stand = self.client.core.lines.rejoin(&self.spec, self.serial);
        }
        Turn::Front
    }

    /// Takes note of what it holds.
    pub(crate) fn holds(&self, hold: &Arc<Hold>) {
        if let Some(line) = self.client.core.lines.all().at_front(self.key(), self.serial) {
            (line.hold, line.failing) = (Some(hold.clone()), None);
        }
    }

    /// Takes note of how the store answers it: those behind have to know.
    pub(crate) fn asked(&self, now: Moment, failure: Option<&Error>) {
        if let Some(line) = self.client.core.lines.all().at_front(self.key(), self.serial) {
            let since = line.failing.as_ref().map_or(now, |failing| failing.0);
            line.failing = failure.map(|error| Box::new((since, error.clone())));
        }
    }

    /// Passes the hold to the next in line, if that may be done without the store: then it is over for the present one.
    pub(crate) fn hand_on(&mut self, hold: &Hold) -> Option<Fence> {
        let now = self.client.core.env.now();
        let mut all = self.client.core.lines.all();
        let line = all.at_front(self.key(), self.serial)?;
        line.behind.retain(|behind| !behind.turn.is_closed());
        let fence = later_fence(hold, now)?;
        let next = line.behind.front().filter(|next| next.spec.is_like(&line.spec))?;
        let accept_by = now + next.spec.options.patience;
        let successor = self.client.keeper.hand_on(hold, fence, now, accept_by)?;
        let Behind { serial, spec, turn } = line.behind.pop_front()?;
        (line.front, line.spec, line.hold) = (serial, spec, Some(successor.clone()));
        self.stand = Stand::Gone;
        if let Err(Turn::Hold(hold)) = turn.send(Turn::Hold(successor)) {
            // It went away in this very moment.
            self.client.keeper.give_back(&hold);
            all.advance(&self.spec.key, now);
        }
        Some(fence)
    }

    fn leave_front(&self) {
        let now = self.client.core.env.now();
        let mut all = self.client.core.lines.all();
        if all.at_front(self.key(), self.serial).is_some() {
            all.advance(self.key(), now);
        }
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
            Stand::Front => self.leave_front(),
            Stand::Behind { mut turn, .. } => {
                // From here on nothing more is sent; what was sent already is ours to pass on.
                turn.close();
                match turn.try_recv() {
                    Ok(Turn::Front) => self.leave_front(),
                    Ok(Turn::Hold(hold)) => {
                        if self.hand_on(&hold).is_none() {
                            self.client.keeper.give_back(&hold);
                            self.leave_front();
                        }
                    }
                    Err(_) => {
                        if let Some(line) = self.client.core.lines.all().by_key.get_mut(self.key()) {
                            line.behind.retain(|behind| behind.serial != self.serial);
                        }
                    }
                }
            }
        }
    }
}
