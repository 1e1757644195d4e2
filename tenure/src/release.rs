//! How a guard ends: its hold is left to its owner's other guards, handed on to the next task in line, or released.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use crate::error::Result;
use crate::event::What;
use crate::guard::{Guard, Standing};
use crate::hold::Hold;
use crate::proto::{Op, Outcome, Release, Reply, Was};
use crate::trace::{self, Trace};

impl Guard {
    /// Releases the hold, and says whether it was still ours.
    ///
    /// Where other tasks of this process wait, it may pass to the next of them instead, without asking the store. Where its
    /// owner entered again, the last of the guards releases it, in whatever order they go.
    ///
    /// # Errors
    ///
    /// When the store did not answer. The release goes on in the background, until it is certain or the hold has expired.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the release goes on in the background.
    pub async fn release(mut self) -> Result<bool> {
        let was_ours = self.is_locked() && self.is_held();
        let Some((op, trace)) = self.begin_release() else { return Ok(was_ours) };
        let span = trace::release(&self.hold, trace.as_deref(), self.held_for());
        let reply = {
            let mut reply = pin!(self.client.core.apply(&self.hold.key, &op, self.hold.op_timeout));
            poll_fn(|context| span.in_scope(|| reply.as_mut().poll(context))).await
        };
        self.end_release(reply)
    }

    /// The operation that releases, and what keeps the hold's span open; `None` where there is nothing left to do.
    pub(crate) fn begin_release(&mut self) -> Option<(Op, Option<Box<Trace>>)> {
        if !self.is_locked() || !self.leave() || self.hand_on() {
            return None;
        }
        let trace = self.client.keeper.retire(&self.hold);
        // Whoever is next in this process asks while the release is under way.
        self.place = None;
        let op = Op::Release(Release { id: self.hold.id, bury: self.hold.bury(), fence: self.hold.fence.get() });
        Some((op, trace))
    }

    /// Whether the hold was still ours, by the answer to its release.
    pub(crate) fn end_release(&mut self, reply: Result<Reply>) -> Result<bool> {
        let was_ours = reply?.outcome == Outcome::Gone { was: Was::Holding };
        self.released = true;
        if self.hold.loss().is_none() {
            self.client.core.released(&self.hold.key, &self.hold.meter, self.held_for(), was_ours);
        }
        Ok(was_ours)
    }

    /// Leaves the hold to its owner's other guards in this process; false where there are some.
    fn leave(&mut self) -> bool {
        if std::mem::replace(&mut self.left, true) || self.client.core.reentries.leave(&self.hold) {
            return true;
        }
        self.released = true;
        if self.hold.loss().is_none() {
            self.client.core.released(&self.hold.key, &self.hold.meter, self.held_for(), true);
        }
        false
    }

    /// Passes the hold to the next task of this process, where that may be.
    fn hand_on(&mut self) -> bool {
        let fence = self.place.as_mut().and_then(|place| place.hand_on(&self.hold));
        if let Some(fence) = fence {
            self.released = true;
            self.client.core.handed_on(&self.hold, self.held_for(), fence);
        }
        fence.is_some()
    }

    /// The hold, which nobody keeps from now on: it is neither renewed nor released.
    pub(crate) fn into_hold(mut self) -> Arc<Hold> {
        self.leave();
        self.client.keeper.retire(&self.hold);
        self.released = true;
        self.hold.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.standing == Standing::Unlocked {
            let held = self.held_for();
            self.hold.end();
            self.client.core.tell(&self.hold.key, || What::Released { held, was_ours: false });
        } else if !self.released && self.leave() && !self.hand_on() {
            self.client.keeper.release(&self.hold);
        }
    }
}
