//! The tasks of one process that want the same lock for themselves stand in a line of their own.
//!
//! ```text
//!                    ┌────────────── hold, handed on ──────────────┐
//!                    ▼                                             │
//!   task, task, task ──▶ front ──▶ one claim in the store's queue ──▶ guard
//! ```
//!
//! Only the task at the front asks the store, so a thousand tasks are one place in its queue, one watch and one timer.
//! The others are served in the order in which they came.
//!
//! A hold that is released while others stand in line may pass to the next one without the store: the claim stays, its
//! fence rises by one. Three conditions make that safe and fair:
//!
//! * the store's last answer, not older than [`FAIR`], knew of nobody waiting outside this process. So others wait for at
//!   most that long and the hold under way;
//! * the fence stays behind the store's clock, as far as that is known from the last answer and the time since. Whatever
//!   the store grants later has a fence of at least its clock, and so a later one; the next renewal or release tells the
//!   store as well;
//! * the hold is certain, no commit under it may still come, and the next one asks for the same: time, metadata, watchdog.
//!
//! What a task is given in line it has to take within its patience: it may be a future that nobody polls any more.
//!
//! In line stand mutexes and writers without an owner. An owner may be in already and must not stand behind those who wait
//! for it; readers and permits share, and have a place each.

use std::collections::{HashMap, VecDeque};
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
use crate::proto::{Claim, Micros};
use crate::sync::{Mutex, MutexGuard};

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

#[derive(Debug)]
pub(crate) struct Line {
    /// The serial number of whoever asks the store, or holds.
    pub(crate) front: u64,
    /// What it asks for.
    pub(crate) spec: Arc<Spec>,
    /// What it holds.
    pub(crate) hold: Option<Arc<Hold>>,
    /// Until when it may take its turn to ask; `None` once it has. For a hold, the keeper's agenda knows.
    take_by: Option<Moment>,
    /// Since when the store has failed whoever was at the front, and how; in a box, as it seldom has.
    pub(crate) failing: Option<Box<(Moment, Error)>>,
    pub(crate) behind: VecDeque<Behind>,
}

#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) serial: u64,
    pub(crate) spec: Arc<Spec>,
    pub(crate) turn: oneshot::Sender<Turn>,
}

/// What whoever stood in line is given.
#[derive(Debug)]
pub(crate) enum Turn {
    /// To ask the store.
    Front,
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
        let is_plain = spec.owner.is_none() && spec.options.backoff.is_none();
        spec.claim == Claim::EXCLUSIVE && is_plain && spec.options.local_hand_off
    }

    /// Takes a place: at the front where nobody is there.
    pub(crate) fn join(client: &Arc<Client>, spec: &Arc<Spec>) -> Place {
        let mut all = client.core.lines.all();
        all.expire(&spec.key, client.core.env.now());
        all.serial += 1;
        let serial = all.serial;
        let stand = all.stand(spec, serial);
        drop(all);
        Place::new(client, spec, serial, stand)
    }

    /// Takes a place again, for one that was passed over: ahead of all who came after it.
    pub(crate) fn rejoin(&self, spec: &Arc<Spec>, serial: u64) -> Stand {
        self.all().stand(spec, serial)
    }

    /// Takes the turn to ask; false where it came too late, and the turn went on to another.
    pub(crate) fn take_turn(&self, key: &Key, serial: u64) -> bool {
        self.all().at_front(key, serial).is_some_and(|line| line.take_by.take().is_some())
    }

    /// Takes the front, if nobody is there.
    pub(crate) fn try_join(client: &Arc<Client>, spec: &Arc<Spec>) -> Option<Place> {
        let mut all = client.core.lines.all();
        all.expire(&spec.key, client.core.env.now());
        if all.by_key.contains_key(&spec.key) {
            return None;
        }
        all.serial += 1;
        let serial = all.serial;
        let stand = all.stand(spec, serial);
        drop(all);
        Some(Place::new(client, spec, serial, stand))
    }

    /// Whether somebody in line certainly holds the lock.
    pub(crate) fn are_held(&self, key: &Key, now: Moment) -> bool {
        let all = self.all();
        all.hold(key).is_some_and(|hold| !hold.is_over() && now < hold.deadline())
    }

    /// Since when the store has failed whoever was at the front, and how; in a box, as it seldom has. `None` where it answers.
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
    /// where a turn was not taken in time.
    pub(crate) fn expire(&self, key: &Key, now: Moment) {
        self.all().expire(key, now);
    }

    pub(crate) fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// A place: at the front where nobody is there, and otherwise behind those who came before.
    fn stand(&mut self, spec: &Arc<Spec>, serial: u64) -> Stand {
        let Some(line) = self.by_key.get_mut(&spec.key) else {
            let (spec, behind) = (spec.clone(), VecDeque::new());
            let line = Line { front: serial, spec, hold: None, take_by: None, failing: None, behind };
            self.by_key.insert(line.spec.key.clone(), line);
            return Stand::Front;
        };
        let (sender, turn) = oneshot::channel();
        let ahead = line.behind.partition_point(|behind| behind.serial < serial);
        line.behind.insert(ahead, Behind { serial, spec: spec.clone(), turn: sender });
        Stand::Behind { ahead: ahead as u32, turn }
    }

    /// What the front of a line holds.
    fn hold(&self, key: &Key) -> Option<&Arc<Hold>> {
        self.by_key.get(key)?.hold.as_ref()
    }

    fn expire(&mut self, key: &Key, now: Moment) {
        let Some(line) = self.by_key.get(key) else { return };
        let expired = line.hold.as_ref().is_some_and(|hold| now >= hold.deadline());
        if expired || line.take_by.is_some_and(|take_by| now >= take_by) {
            self.advance(key, now);
        }
    }

    /// The line, if that is its front.
    pub(crate) fn at_front(&mut self, key: &Key, serial: u64) -> Option<&mut Line> {
        self.by_key.get_mut(key).filter(|line| line.front == serial)
    }

    /// Sends the next one to the front.
    pub(crate) fn advance(&mut self, key: &Key, now: Moment) {
        let Some(line) = self.by_key.get_mut(key) else { return };
        line.hold = None;
        while let Some(Behind { serial, spec, turn }) = line.behind.pop_front() {
            line.take_by = Some(now + spec.options.patience);
            (line.front, line.spec) = (serial, spec);
            if turn.send(Turn::Front).is_ok() {
                return;
            }
        }
        self.by_key.remove(key);
    }
}

#[cfg(all(test, loom))]
pub(crate) mod model;
