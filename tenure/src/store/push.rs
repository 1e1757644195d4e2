//! How a grant finds the task that waits for it.
//!
//! ```text
//!   another process's release ──▶ store ──push──▶ this process's inbox ──▶ Hub ──▶ the one Watch of that claim
//! ```
//!
//! A push is a courtesy. It may be missing, late or for nothing; a waiting client asks again in time either way.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use crate::proto::{ClaimId, Grant};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{AtomicWaker, Mutex, MutexGuard};

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
pub struct Hub(Arc<Mutex<HashMap<ClaimId, Arc<Slot>>>>);

/// What a claim has been told and has not heard yet: a grant, or that something changed, or nothing.
#[derive(Debug, Default)]
struct Slot {
    told: AtomicU64,
    waker: AtomicWaker,
}

const NOTHING: u64 = 0;
/// No fence: they are below 2^53.
const CHANGED: u64 = u64::MAX;

impl Hub {
    /// A hub that nobody waits at.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a claim, for as long as the watch lives.
    pub fn watch(&self, id: ClaimId) -> Watch {
        let slot = Arc::<Slot>::default();
        self.waiting().insert(id, slot.clone());
        Watch(Ears::One(Place { id, hub: self.clone(), slot }))
    }

    /// Passes a grant on to its claim, if that is waiting here.
    pub fn deliver(&self, grant: &Grant) {
        if let Some(slot) = self.waiting().get(&grant.id) {
            // An exchange as everywhere: loom would let others overlook a mere store.
            slot.told.swap(grant.fence, Ordering::AcqRel);
            slot.waker.wake();
        }
    }

    /// Tells a claim that something may have changed for it: where a push may have been missed, and for stores whose grants
    /// count only once they were asked for.
    pub fn wake(&self, id: ClaimId) {
        if let Some(slot) = self.waiting().get(&id) {
            slot.wake();
        }
    }

    /// Wakes everyone: pushes may have been missed.
    pub fn wake_all(&self) {
        self.waiting().values().for_each(|slot| slot.wake());
    }

    /// Whether a claim waits here.
    pub fn is_waiting(&self, id: ClaimId) -> bool {
        self.waiting().contains_key(&id)
    }

    /// How many claims wait here.
    pub fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Whether nobody waits here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<ClaimId, Arc<Slot>>> {
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
pub struct Watch(Ears);

#[derive(Debug)]
enum Ears {
    One(Place),
    Two(Box<Beside>),
    All(Box<Several>),
}

/// The stores among which a claim is, and how to listen at them.
struct Several {
    listen: Box<dyn Fn() -> Vec<Watch> + Send + Sync>,
    watches: Vec<Watch>,
    turn: u64,
    told: Arc<Told>,
}

/// What those who listen for a claim at several stores and those who ask for it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The token of a grant that was heard of; zero: of none.
    pub(crate) fence: AtomicU64,
    /// Goes on when the claim goes by another id somewhere, so that one has to listen anew.
    pub(crate) turn: AtomicU64,
}

impl fmt::Debug for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Several").field("watches", &self.watches).field("told", &self.told).finish_non_exhaustive()
    }
}

impl Several {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Push> {
        let turn = self.told.turn.load(Ordering::Acquire);
        if turn != self.turn {
            // A grant may have come meanwhile.
            (self.turn, self.watches) = (turn, (self.listen)());
            return Poll::Ready(Push::Changed);
        }
        let mut pushes = self.watches.iter_mut().map(|watch| watch.poll_next(context));
        let Some(Poll::Ready(push)) = pushes.find(Poll::is_ready) else { return Poll::Pending };
        if let Push::Granted(fence) = push {
            self.told.fence.store(fence, Ordering::Release);
        }
        Poll::Ready(Push::Changed)
    }
}

/// Two stores, and whether the claim went to the second.
#[derive(Debug)]
struct Beside {
    first: Watch,
    second: Watch,
    went: Arc<AtomicBool>,
}

/// A claim's place in its hub.
#[derive(Debug)]
struct Place {
    id: ClaimId,
    hub: Hub,
    slot: Arc<Slot>,
}

impl Watch {
    /// The next push. Spurious and missing ones are allowed, so a caller sets a timer beside it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Push {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Listens at a second store too, to which the claim may go. A grant of the first counts until it `went` there;
    /// one of the second only says that it is worth asking.
    pub(crate) fn beside(self, second: Watch, went: Arc<AtomicBool>) -> Self {
        Self(Ears::Two(Box::new(Beside { first: self, second, went })))
    }

    /// Listens at several stores, among which the claim is. None of them decides, so a grant only says that it is worth
    /// asking; `told` keeps its fence.
    pub(crate) fn at_all(listen: impl Fn() -> Vec<Self> + Send + Sync + 'static, told: Arc<Told>) -> Self {
        let turn = told.turn.load(Ordering::Acquire);
        let watches = listen();
        Self(Ears::All(Box::new(Several { listen: Box::new(listen), watches, turn, told })))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Push> {
        match &mut self.0 {
            Ears::One(place) => place.slot.poll(context),
            Ears::All(all) => all.poll_next(context),
            Ears::Two(both) => match both.first.poll_next(context) {
                Poll::Ready(push) if !both.went.load(Ordering::Acquire) => Poll::Ready(push),
                Poll::Ready(_) => Poll::Ready(Push::Changed),
                Poll::Pending => both.second.poll_next(context).map(|_| Push::Changed),
            },
        }
    }
}

impl Slot {
    fn wake(&self) {
        // A grant that was not heard yet says more.
        let _ = self.told.compare_exchange(NOTHING, CHANGED, Ordering::AcqRel, Ordering::Relaxed);
        self.waker.wake();
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Push> {
        self.waker.register(context.waker());
        match self.told.swap(NOTHING, Ordering::AcqRel) {
            NOTHING => Poll::Pending,
            CHANGED => Poll::Ready(Push::Changed),
            fence => Poll::Ready(Push::Granted(fence)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.waiting().remove(&self.id);
    }
}

#[cfg(all(test, loom))]
mod model;
