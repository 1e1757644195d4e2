//! The check of tokens itself, for a service of one's own.
//!
//! ```
//! use tenure::Fence;
//! use tenure::transaction::FenceGate;
//!
//! let gate = FenceGate::new(10_000);
//! let mut balance = 100;
//! // The holder with token 8 writes, and whoever had the lock before it comes too late.
//! gate.admit("account-7", Fence::new(8), |_| balance -= 10)?;
//! let late = gate.admit("account-7", Fence::new(7), |_| balance -= 10);
//! assert!(late.is_err_and(|error| error.is_lost()));
//! assert_eq!(balance, 90);
//! # Ok::<(), tenure::Error>(())
//! ```
//!
//! # The check and the write are one step
//!
//! A write that follows a check at some later time may be overtaken: an older holder passes the check and stands still,
//! a newer one passes it and writes, and then the older one writes after all. So [`admit`](FenceGate::admit) carries
//! the write out while the gate is closed to everyone else: it is for what is quick and does not wait, as putting a
//! value into a map, or a request into the one queue that writes are carried out from. What is written in a database
//! has its check [there](crate::transaction::sql).
//!
//! # What is remembered
//!
//! The newest token of as many resources as the gate's capacity says, those that were written to last. Of what it has
//! forgotten it keeps one number, the *floor*: the newest token among all that was forgotten. For a resource that it
//! does not know, a token has to be at least as new as that. So
//!
//! * an older token is never let in because something was forgotten;
//! * one that is in order is refused only when its resource is not among those written to last, and its hold is older
//!   than one that was forgotten since. That takes as many other resources as the capacity, so let the capacity be
//!   larger than the number of resources in use during the longest hold.
//!
//! This rests on tokens of different locks being comparable, which those of one store are: they are its clock's
//! microseconds. Tokens that are counted from 1 for each lock by another system are safe here as well, and refused more
//! often once something is forgotten.
//!
//! # A restart
//!
//! A gate that begins anew knows nothing, and would let in what its predecessor refused. There are two ways:
//!
//! * write each token that [rose](Admitted::rose) to where the service keeps its data, before the write itself, and
//!   tell them to the new gate by [`learn`](FenceGate::learn); a [`snapshot`](FenceGate::snapshot) keeps that log
//!   short;
//! * or begin with a floor of *now*, by [`raise_floor`](FenceGate::raise_floor): every hold from before the restart is
//!   refused, and its holder takes the lock again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::hold::Fence;
use crate::sync::{Mutex, MutexGuard};

#[cfg(all(test, loom))]
mod model;

/// Lets in who has a token at least as new as the newest it has seen for the resource. It may be shared by threads.
pub struct FenceGate {
    state: Mutex<State>,
    capacity: usize,
}

/// What a gate says of what it let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Admitted {
    /// Whether the token is newer than what was known of the resource, if anything was: what has to be kept for after a
    /// restart.
    pub rose: bool,
}

/// What a gate knows, to be stored and restored. It can be serialised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSnapshot {
    /// The newest token among all that was forgotten.
    pub floor: Fence,
    /// The newest token of each resource, the one that was written to last at the end.
    pub newest: Vec<(String, Fence)>,
}

/// Every resource has one turn, and the turns are in the order of the last writes.
struct State {
    floor: Fence,
    newest: HashMap<Arc<str>, (Fence, u64)>,
    turns: BTreeMap<u64, Arc<str>>,
    next: u64,
}

/// The longest name of a resource, in bytes.
const RESOURCE_MAX: usize = 1024;

impl FenceGate {
    /// A gate that has seen nothing and remembers that many resources, at least one. Each takes some 150 bytes and its
    /// name.
    pub fn new(capacity: usize) -> Self {
        Self { state: Mutex::new(State::new()), capacity: capacity.max(1) }
    }

    /// A gate that knows what another one knew.
    pub fn restore(capacity: usize, snapshot: &GateSnapshot) -> Self {
        let gate = Self::new(capacity);
        let mut state = gate.state();
        for (resource, fence) in &snapshot.newest {
            state.note(resource, *fence, gate.capacity);
        }
        state.raise_floor(snapshot.floor);
        drop(state);
        gate
    }

    /// Carries out `write` if the token is at least as new as the newest that was let in for the resource, while nobody
    /// else gets in. It is called at most once, and must not use the gate.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Lost`]: the token is older, or is [`Fence::NONE`];
    /// * [`ErrorKind::Invalid`]: the resource's name is empty or has more than 1,024 bytes.
    pub fn admit<T>(&self, resource: &str, fence: Fence, write: impl FnOnce(Admitted) -> T) -> Result<T> {
        if fence == Fence::NONE {
            let message = format!("{resource:?} is not written without a token: the hold is degraded, or was made up");
            return Err(Error::new(ErrorKind::Lost, message));
        }
        if resource.is_empty() || resource.len() > RESOURCE_MAX {
            let message = format!("the resource's name has {} bytes: give it 1 to {RESOURCE_MAX}", resource.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut state = self.state();
        let known = state.newest.get(resource).map(|(newest, _)| *newest);
        if let Some(newest) = known.filter(|newest| fence < *newest) {
            let message = format!("{resource:?} has let in token {newest}, so {fence} is too old: take the lock again");
            return Err(Error::new(ErrorKind::Lost, message));
        }
        let floor = state.floor;
        if known.is_none() && fence < floor {
            let message = format!(
                "{resource:?} is not known, or not any more, and {fence} is older than {floor}, the newest token that was \
                 forgotten: take the lock again, and if that comes often, give the gate a larger capacity"
            );
            return Err(Error::new(ErrorKind::Lost, message));
        }
        state.note(resource, fence, self.capacity);
        Ok(write(Admitted { rose: known != Some(fence) }))
    }

    /// The same with nothing to carry out: for what is ordered after it by other means.
    ///
    /// # Errors
    ///
    /// As [`admit`](Self::admit).
    pub fn check(&self, resource: &str, fence: Fence) -> Result<Admitted> {
        self.admit(resource, fence, |admitted| admitted)
    }

    /// Takes in that a token was let in, here or elsewhere: older ones are refused from now on. It counts as a write.
    pub fn learn(&self, resource: &str, fence: Fence) {
        let mut state = self.state();
        // Of a resource that is not known, the floor knows more already.
        if state.newest.contains_key(resource) || fence >= state.floor {
            state.note(resource, fence, self.capacity);
        }
    }

    /// From now on a resource that is not known needs a token at least as new as this one. It never gets lower.
    pub fn raise_floor(&self, floor: Fence) {
        self.state().raise_floor(floor);
    }

    /// The newest token that was let in for a resource, unless there was none or it was forgotten.
    pub fn newest(&self, resource: &str) -> Option<Fence> {
        self.state().newest.get(resource).map(|(newest, _)| *newest)
    }

    /// All that it knows.
    pub fn snapshot(&self) -> GateSnapshot {
        let state = self.state();
        let newest = state.turns.values().map(|resource| (resource.to_string(), state.newest[resource].0));
        GateSnapshot { floor: state.floor, newest: newest.collect() }
    }

    /// Where a write panicked its token counts as let in, which is safe.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new() -> Self {
        Self { floor: Fence::NONE, newest: HashMap::new(), turns: BTreeMap::new(), next: 0 }
    }

    /// Gives the resource the last turn and a token that is no older than before, and forgets the first ones where
    /// there are too many.
    fn note(&mut self, resource: &str, fence: Fence, capacity: usize) {
        let turn = self.next;
        self.next += 1;
        let resource = match self.newest.get_mut(resource) {
            Some(known) => {
                let before = std::mem::replace(known, (fence.max(known.0), turn)).1;
                self.turns.remove(&before).expect("who is known has a turn")
            }
            None => {
                let resource: Arc<str> = resource.into();
                self.newest.insert(resource.clone(), (fence, turn));
                resource
            }
        };
        self.turns.insert(turn, resource);
        while self.turns.len() > capacity {
            let (_, resource) = self.turns.pop_first().expect("there are more than none");
            let (fence, _) = self.newest.remove(&resource).expect("who has a turn is known");
            self.raise_floor(fence);
        }
    }

    fn raise_floor(&mut self, floor: Fence) {
        self.floor = self.floor.max(floor);
    }
}

impl fmt::Debug for FenceGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let mut debug = f.debug_struct("FenceGate");
        debug.field("resources", &state.turns.len()).field("capacity", &self.capacity).field("floor", &state.floor);
        debug.finish()
    }
}
