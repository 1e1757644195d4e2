//! The queue in which calls of many tasks wait for the one that carries them all.
//!
//! ```text
//!   call ──┐          ┌── Load::take ──▶ carried together, answered one by one
//!   call ──┼─▶ queue ─┤
//!   call ──┘          └── dropped ─────▶ given back; whoever came behind the first asks again, in its own runtime
//!    │
//!    └─ the first has it carried: it is given the Load
//! ```
//!
//! The Load is its carrier's: in a runtime that lives and is not driven it stands, and calls behind it run into their time
//! limits, as renewals do whose keeper is there.
//!
//! It knows nothing of what is carried or where to, so that `model.rs` can check it.

use std::sync::{Arc, PoisonError};

use tokio::sync::oneshot;

use crate::sync::{Mutex, MutexGuard};

/// Calls `C` that wait, to be answered by `R`.
pub(super) struct Gather<C, R>(Mutex<Vec<Waiting<C, R>>>);

/// A call, and who waits for its answer.
pub(super) struct Waiting<C, R> {
    pub(super) call: C,
    pub(super) reply: Answer<C, R>,
}

/// Where the answer to a call goes; the call itself comes back where it was not sent.
pub(super) struct Answer<C, R>(oneshot::Sender<Result<R, Box<C>>>);

/// Why there is no answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Its carrier was gone before it was taken.
    Unsent,
    /// Its carrier had taken it.
    Sent,
}

impl<C, R> Default for Gather<C, R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C, R> Gather<C, R> {
    /// Whether nobody waits to be carried.
    pub(super) fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    /// Has a call carried, together with whatever else waits then. Where it is the first, `carry` has to see to that:
    /// in a task of its own, for the future of a caller may not be polled, or be dropped.
    pub(super) async fn call(self: &Arc<Self>, mut call: C, carry: impl Fn(Load<C, R>)) -> Result<R, Dropped> {
        loop {
            let (reply, answer) = oneshot::channel();
            let is_first = {
                let mut queue = self.queue();
                queue.push(Waiting { call, reply: Answer(reply) });
                queue.len() == 1
            };
            if is_first {
                carry(Load { gather: self.clone(), is_due: true });
            }
            match answer.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(unsent)) if !is_first => call = *unsent,
                Ok(Err(_)) => return Err(Dropped::Unsent),
                Err(_) => return Err(Dropped::Sent),
            }
        }
    }

    fn take(&self) -> Vec<Waiting<C, R>> {
        std::mem::take(&mut *self.queue())
    }

    fn queue(&self) -> MutexGuard<'_, Vec<Waiting<C, R>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to carry what waits.
pub(super) struct Load<C, R> {
    gather: Arc<Gather<C, R>>,
    /// Whether it still waits.
    is_due: bool,
}

impl<C, R> Load<C, R> {
    /// All that wait now, of whoever is still there.
    pub(super) fn take(mut self) -> Vec<Waiting<C, R>> {
        self.is_due = false;
        let mut waiting = self.gather.take();
        waiting.retain(|one| !one.reply.0.is_closed());
        waiting
    }
}

impl<C, R> Drop for Load<C, R> {
    /// The runtime may end before the queue is taken, or there may be none.
    fn drop(&mut self) {
        if self.is_due {
            for Waiting { call, reply } in self.gather.take() {
                let _ = reply.0.send(Err(Box::new(call)));
            }
        }
    }
}

impl<C, R> Answer<C, R> {
    /// Answers the call, if its caller is still there.
    pub(super) fn send(self, answer: R) {
        let _ = self.0.send(Ok(answer));
    }
}

#[cfg(all(test, loom))]
mod model;
