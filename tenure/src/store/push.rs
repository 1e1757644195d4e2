//! How a grant finds the task that waits for it.
//!
//! ```text
//!   another process's release ──▶ store ──push──▶ this process's inbox ──▶ Hub ──▶ the one Watch of that claim
//! ```
//!
//! A push is a courtesy. It may be missing, late or for nothing; a waiting client asks again in time either way.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::proto::{ClaimId, Grant};

/// What a [`Watch`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// The claim was let in, under this fence, until its place's deadline.
    Granted(u64),
    /// Something may have changed: it is worth asking.
    Changed,
}

/// The claims of one process that wait at one store, and the way to each. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<HashMap<ClaimId, mpsc::UnboundedSender<Push>>>>);

impl Hub {
    /// A hub that nobody waits at.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a claim, for as long as the watch lives.
    pub fn watch(&self, id: ClaimId) -> Watch {
        let (sender, pushes) = mpsc::unbounded_channel();
        self.waiting().insert(id, sender);
        Watch { id, hub: self.clone(), pushes }
    }

    /// Passes a grant on to its claim, if that is waiting here.
    pub fn deliver(&self, grant: &Grant) {
        if let Some(sender) = self.waiting().get(&grant.id) {
            // The watch may be going away at this moment; its owner then releases the claim.
            let _ = sender.send(Push::Granted(grant.fence));
        }
    }

    /// Wakes everyone: pushes may have been missed.
    pub fn wake_all(&self) {
        for sender in self.waiting().values() {
            let _ = sender.send(Push::Changed);
        }
    }

    /// How many claims wait here.
    pub fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Whether nobody waits here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<ClaimId, mpsc::UnboundedSender<Push>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("waiting", &self.len()).finish()
    }
}

/// Listens for one claim's grant, from before the claim is sent until it is dropped.
#[derive(Debug)]
pub struct Watch {
    id: ClaimId,
    hub: Hub,
    pushes: mpsc::UnboundedReceiver<Push>,
}

impl Watch {
    /// The next push. Spurious and missing ones are allowed, so a caller sets a timer beside it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Push {
        match self.pushes.recv().await {
            Some(push) => push,
            // The hub keeps a sender for as long as this watch is registered.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.waiting().remove(&self.id);
    }
}
