//! The tasks of one process that want the same lock stand in a line of their own.
//!
//! ```text
//!                    ┌────────────── hold, handed on ──────────────┐
//!                    ▼                                             │
//!   task, task, task ──▶ front ──▶ one claim in the store's queue ──▶ guard
//!                    └─▶ beside ─▶ tries, which take no place there ─▶ guard of a reader, or of permits
//! ```
//!
//! Only the task at the front asks the store for a place, so a thousand tasks are one place in its queue, one watch and one
//! timer. The others are served in the order in which they came.
//!
//! Who wants the lock for itself is at the front for as long as it holds. A reader, or a claim of permits, leaves when it is
//! let in, and the next one asks. As long as nobody is known to wait, up to 64 of these ask side by side, and none
//! beside one that is larger: those beside the front only try, and who is told that it is busy stands in line again, where
//! it stood. From then on the front asks alone, until the store lets somebody in at once. So the order is that of the
//! store's answers among those who asked side by side at the moment at which the lock became busy, and else kept.
//!
//! A hold that is released while others stand in line may pass to the next one without the store: the claim stays, its
//! fence rises by one. Three conditions make that safe and fair:
//!
//! * the store's last answer, not older than [`FAIR`], knew of nobody waiting outside this process. So others wait for at
//!   most that long and the hold under way;
//! * the fence stays behind the store's clock, as far as that is known from the last answer and the time since. Whatever
//!   the store grants later has a fence of at least its clock, and so a later one; the next renewal or release tells the
//!   store as well;
//! * the hold is certain, no commit under it may still come, and the next one asks for the same: all of the lock, time,
//!   metadata, watchdog.
//!
//! What a task is given in line it has to take within its patience: it may be a future that nobody polls any more. One that
//! asks and then is not polled is passed over likewise, and goes on asking apart from the line when it is.
//!
//! An owner stands in no line: it may be in already and must not stand behind those who wait for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::client::Client;
use crate::env::Moment;
use crate::error::Error;
use crate::hold::Hold;
use crate::key::Key;
use crate::lock::Spec;
use crate::place::{Place, Stand};
use crate::proto::Micros;
use crate::sync::{Mutex, MutexGuard};

pub(crate) use turns::{Answer, Asker, Behind, Line};

/// For how long after its last answer the store is not asked whether others wait.
pub(crate) const FAIR: Duration = Duration::from_millis(100);

/// The lines of one client.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<All>);

#[derive(Debug, Default)]
pub(crate) struct All {
    pub(crate) by_key: HashMap<Key, Line>,
    serial: u64,
}

/// What whoever stood in line is given.
#[derive(Debug)]
pub(crate) enum Turn {
    /// To ask the store.
    Ask,
    /// The hold of the one before.
    Hold(Arc<Hold>),
}

/// What the store last said about a hold's lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    /// Its clock.
    pub(crate) now: Micros,
    /// When that was heard.
    pub(crate) at: Moment,
    /// How many claims stood in its queue.
    pub(crate) waiting: u32,
}

impl Contact {
    /// What the store's clock shows at least.
    pub(crate) fn clock(&self, now: Moment) -> Micros {
        // Less a hundredth of the time since, as two clocks may drift apart.
        let since = now - self.at;
        self.now + (since - since / 100).as_micros() as Micros
    }
}

impl Lines {
    /// Whether such claims stand in line.
    pub(crate) fn are_for(spec: &Spec) -> bool {
        spec.owner.is_none() && spec.options.backoff.is_none() && spec.options.local_hand_off
    }

    /// Whether those in line take the lock for one of another kind, by its limit. The store tells who is wrong, at once.
    pub(crate) fn disagree(&self, spec: &Spec) -> bool {
        self.all().by_key.get(&spec.key).is_some_and(|line| line.front.spec.claim.limit() != spec.claim.limit())
    }

    /// Takes a place: at the front where nobody is there.
    pub(crate) fn join(client: &Arc<Client>, spec: &Arc<Spec>) -> Place {
        let now = client.core.env.now();
        let mut all = client.core.lines.all();
        all.expire(&spec.key, now);
        let (serial, stand) = all.join(spec, now);
        drop(all);
        Place::new(client, spec, serial, stand)
    }

    /// Takes a place again, for one that was passed over: ahead of all who came after it.
    pub(crate) fn rejoin(&self, spec: &Arc<Spec>, serial: u64, now: Moment) -> Stand {
        self.all().stand(spec, serial, now)
    }

    /// Takes the turn to ask; `None` where it came too late, and the turn went on to another.
    pub(crate) fn take_turn(&self, key: &Key, serial: u64, now: Moment) -> Option<Stand> {
        let mut all = self.all();
        let line = all.by_key.get_mut(key)?;
        let asker = line.asker(serial)?;
        asker.asks_at(now);
        Some(if line.front.serial == serial { Stand::Front } else { Stand::Beside })
    }

    /// Takes the front, if nobody is there.
    pub(crate) fn try_join(client: &Arc<Client>, spec: &Arc<Spec>) -> Option<Place> {
        let now = client.core.env.now();
        let mut all = client.core.lines.all();
        all.expire(&spec.key, now);
        if all.by_key.contains_key(&spec.key) {
            return None;
        }
        let (serial, stand) = all.join(spec, now);
        drop(all);
        Some(Place::new(client, spec, serial, stand))
    }

    /// Whether one that shares may try without standing in line: see [`Line::may_try`].
    pub(crate) fn may_try(&self, spec: &Spec, now: Moment) -> bool {
        let mut all = self.all();
        all.expire(&spec.key, now);
        all.by_key.get(&spec.key).is_none_or(|line| line.may_try(spec.claim))
    }

    /// Whether somebody in line certainly holds the lock.
    pub(crate) fn are_held(&self, key: &Key, now: Moment) -> bool {
        let all = self.all();
        all.hold(key).is_some_and(|hold| !hold.is_over() && now < hold.deadline())
    }

    /// Since when the store has failed whoever asked, and how. `None` where it answers.
    pub(crate) fn failing(&self, key: &Key) -> Option<(Moment, Error)> {
        self.all().by_key.get(key)?.failing.as_deref().cloned()
    }

    /// Lets the next one ask where a hold was lost, however long its guard still lives, or was not taken.
    pub(crate) fn over(&self, hold: &Hold, now: Moment) {
        let mut all = self.all();
        if all.hold(&hold.key).is_some_and(|front| front.serial == hold.serial) {
            all.advance(&hold.key, now);
        }
    }

    /// Calls `then` with the hold that has the claim of this one by now, which may have been handed on; nobody hands it
    /// on meanwhile.
    pub(crate) fn with_heir<T>(&self, hold: &Arc<Hold>, then: impl FnOnce(&Arc<Hold>) -> T) -> T {
        let all = self.all();
        then(all.hold(&hold.key).filter(|heir| heir.id == hold.id).unwrap_or(hold))
    }

    /// Takes note of a commit that is about to be sent: until it is over, the hold is not handed on. False where the hold is
    /// over by then, or was handed on already.
    pub(crate) fn begin_commit(&self, hold: &Hold) -> bool {
        // Whoever hands it on does so under this lock.
        let _all = self.all();
        hold.begin_commit();
        !hold.is_over()
    }

    /// Lets the next one ask where a hold has expired and nobody said so, as the runtime of its keeper may have ended, or
    /// where somebody who has its turn is not polled.
    pub(crate) fn expire(&self, key: &Key, now: Moment) {
        self.all().expire(key, now);
    }

    pub(crate) fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn join(&mut self, spec: &Arc<Spec>, now: Moment) -> (u64, Stand) {
        self.serial += 1;
        let serial = self.serial;
        (serial, self.stand(spec, serial, now))
    }

    /// A place: where one may ask, or else behind those who came before.
    pub(crate) fn stand(&mut self, spec: &Arc<Spec>, serial: u64, now: Moment) -> Stand {
        let asker = Asker::new(serial, spec.clone(), now);
        let Some(line) = self.by_key.get_mut(&spec.key) else {
            self.by_key.insert(spec.key.clone(), Line::new(asker));
            return Stand::Front;
        };
        let ahead = line.behind.partition_point(|behind| behind.serial < serial);
        if ahead == 0 && line.has_room(spec.claim) {
            line.beside.push(asker);
            return Stand::Beside;
        }
        let (sender, turn) = oneshot::channel();
        line.behind.insert(ahead, Behind { serial, spec: spec.clone(), turn: sender });
        Stand::Behind { ahead: ahead as u32, turn }
    }

    /// What the front of a line holds.
    fn hold(&self, key: &Key) -> Option<&Arc<Hold>> {
        self.by_key.get(key)?.hold.as_ref()
    }

    fn expire(&mut self, key: &Key, now: Moment) {
        if self.by_key.get_mut(key).is_some_and(|line| line.is_over(now)) {
            self.advance(key, now);
        }
    }

    /// The line, if that is its front.
    pub(crate) fn at_front(&mut self, key: &Key, serial: u64) -> Option<&mut Line> {
        self.by_key.get_mut(key).filter(|line| line.front.serial == serial)
    }

    /// Lets the next one ask in place of one that no longer does.
    pub(crate) fn leave(&mut self, key: &Key, serial: u64, now: Moment) {
        if self.at_front(key, serial).is_some() {
            self.advance(key, now);
        } else if let Some(line) = self.by_key.get_mut(key) {
            line.forget(serial);
            line.admit(now);
        }
    }

    /// Sends the next one to the front.
    pub(crate) fn advance(&mut self, key: &Key, now: Moment) {
        let Some(line) = self.by_key.get_mut(key) else { return };
        line.hold = None;
        match line.next(now) {
            Some(front) => line.front = front,
            None => return drop(self.by_key.remove(key)),
        }
        line.admit(now);
    }
}

mod turns;

#[cfg(all(test, loom))]
pub(crate) mod model;
