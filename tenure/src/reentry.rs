//! Re-entry without the store: an owner that certainly holds a lock through this client enters again by sharing the hold.
//!
//! ```text
//!   owner, first time ──▶ store ──▶ hold ◀── guard
//!   owner, again ───────────────────▶  ▲ ◀── guard      the last of them releases
//! ```
//!
//! The rule says the same at the store: an owner's further claim shares its fence and waits for nobody. Here the claims of
//! one process become one, so what is shared is the whole hold: its time, its renewals, and its loss, which all guards are
//! told. Whoever asks for more than is held, or for other terms, makes a claim of its own at the store.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use crate::env::Moment;
use crate::hold::{Hold, HoldState};
use crate::key::Key;
use crate::lock::Spec;
use crate::proto::Owner;
use crate::sync::{Mutex, MutexGuard};

/// The holds of a client that may be shared: of an owner each, on a lock.
#[derive(Debug, Default)]
pub(crate) struct Reentries(Mutex<HashMap<(Key, Owner), Shared>>);

#[derive(Debug)]
struct Shared {
    spec: Arc<Spec>,
    hold: Arc<Hold>,
    guards: u32,
}

/// What became of a wish to enter again.
pub(crate) enum Reentry {
    /// There is nothing to share.
    None,
    /// The owner has as many guards of it as it may have.
    Full,
    /// The hold, shared with one more.
    Shared(Arc<Hold>),
}

impl Reentries {
    /// Shares the owner's hold with one more guard, if that is certain and as good as what is asked for.
    pub(crate) fn enter(&self, spec: &Spec, now: Moment) -> Reentry {
        let Some(owner) = &spec.owner else { return Reentry::None };
        let mut all = self.all();
        let Some(shared) = all.get_mut(&(spec.key.clone(), owner.clone())) else { return Reentry::None };
        let certain = shared.hold.state() == HoldState::Held && now < shared.hold.deadline();
        let (theirs, ours) = (shared.spec.claim, spec.claim);
        let covered = theirs.limit() == ours.limit() && theirs.permits() >= ours.permits();
        let alike = shared.spec.is_like(spec) && spec.options.max_hold.is_none();
        match certain && covered && alike {
            false => Reentry::None,
            true if shared.guards >= spec.max => Reentry::Full,
            true => {
                shared.guards += 1;
                Reentry::Shared(shared.hold.clone())
            }
        }
    }

    /// Whether the owner certainly holds that lock.
    pub(crate) fn is_in(&self, spec: &Spec, now: Moment) -> bool {
        let Some(owner) = &spec.owner else { return false };
        let all = self.all();
        let shared = all.get(&(spec.key.clone(), owner.clone()));
        shared.is_some_and(|shared| !shared.hold.is_over() && now < shared.hold.deadline())
    }

    /// Offers a hold that the store granted to an owner for sharing, unless another one is offered.
    pub(crate) fn offer(&self, spec: &Arc<Spec>, hold: &Arc<Hold>) {
        let Some(owner) = &spec.owner else { return };
        let mut all = self.all();
        let place = (spec.key.clone(), owner.clone());
        if all.get(&place).is_none_or(|other| other.hold.is_over()) {
            all.insert(place, Shared { spec: spec.clone(), hold: hold.clone(), guards: 1 });
        }
    }

    /// Whether the guard that goes is the hold's last.
    pub(crate) fn leave(&self, hold: &Hold) -> bool {
        let Some(owner) = &hold.owner else { return true };
        let mut all = self.all();
        let place = (hold.key.clone(), owner.clone());
        let Some(shared) = all.get_mut(&place).filter(|shared| shared.hold.serial == hold.serial) else { return true };
        shared.guards -= 1;
        let is_last = shared.guards == 0;
        if is_last {
            all.remove(&place);
        }
        is_last
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(Key, Owner), Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, loom))]
mod model;
