//! A hold that passes from task to task of one process, as the keeper sees it.
//!
//! ```text
//!   held ──hand_on──▶ on offer ──accept──▶ held, renewed when it would have been
//!                        └── not taken in time ──▶ released; the next in line asks the store
//! ```
//!
//! On offer, a hold is not renewed: the future that it was given to may never be polled again. The agenda has it as an
//! offer. Either the task takes that off, or the keeper does when it is due, and then the task comes too late.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tracing::Span;

use crate::agenda::{Item, Offer};
use crate::env::Moment;
use crate::hold::{Fence, Hold, Loss};
use crate::keeper::{Keeper, Shared};

impl Keeper {
    /// Offers a hold to the next task of this process until `accept_by`, and ends it for the present one; `None` where
    /// it was lost already.
    pub(crate) fn hand_on(&self, hold: &Hold, fence: Fence, now: Moment, accept_by: Moment) -> Option<Arc<Hold>> {
        let mut agenda = self.shared.agenda();
        agenda.remove(hold);
        if !hold.end() {
            return None;
        }
        agenda.serial += 1;
        let next = Arc::new(hold.successor(fence, now, agenda.serial));
        // The answer to a renewal that is under way belongs to the one that ended.
        let due = Moment(hold.due.load(Relaxed));
        let renew_at = if due < hold.deadline() { due } else { now };
        let offer = Offer { hold: next.clone(), renew_at };
        self.shared.enter(agenda, accept_by.min(next.deadline()), Item::Offer(offer.into()));
        hold.meter.held_for(now - hold.since);
        Some(next)
    }

    /// Keeps a hold that was on offer from now on; false where that comes too late.
    pub(crate) fn accept(&self, hold: &Hold) -> bool {
        let mut agenda = self.shared.agenda();
        let Some(Offer { hold, renew_at }) = agenda.take_offer(hold) else { return false };
        if self.shared.core.env.now() < hold.deadline() {
            self.shared.enter(agenda, renew_at, Item::Hold(hold));
            return true;
        }
        drop(agenda);
        self.shared.lose_by_time(&hold);
        false
    }

    /// Releases a hold in the background that was on offer to a task which has gone.
    pub(crate) fn give_back(&self, hold: &Hold) {
        self.shared.agenda().remove(hold);
        if hold.end() {
            self.shared.release(hold, Span::none(), None);
        }
    }
}

impl Shared {
    /// Releases a hold that nobody took, and lets the next in line ask.
    pub(crate) fn take_back(self: &Arc<Self>, hold: &Hold) {
        if hold.end() {
            self.release(hold, Span::none(), None);
            self.core.lines.over(hold, self.core.env.now());
        }
    }

    /// Declares the claim of a hold lost which the store no longer has. Where it was handed on meanwhile, that is the loss
    /// of whoever has it now: a hold is either handed on before this, and found, or not at all.
    pub(crate) fn gone(self: &Arc<Self>, hold: &Arc<Hold>) {
        let lost = self.core.lines.with_heir(hold, |heir| {
            let mut agenda = self.agenda();
            agenda.remove(heir);
            heir.lose(Loss::Gone).then(|| heir.clone())
        });
        if let Some(hold) = lost {
            self.core.lost(&hold, Loss::Gone);
        }
    }
}
