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
//! * the hold is certain, and the next one asks for the same: time, metadata, watchdog.
//!
//! In line stand mutexes and writers without an owner. An owner may be in already and must not stand behind those who wait
//! for it; readers and permits share, and have a place each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::client::Client;
use crate::env::Moment;
use crate::error::Error;
use crate::hold::{Fence, Hold, HoldState};
use crate::key::Key;
use crate::lock::Spec;
use crate::proto::{Claim, Micros};

/// For how long after its last answer the store is not asked whether others wait.
const FAIR: Duration = Duration::from_millis(100);

/// The lines of one client.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    by_key: HashMap<Key, Line>,
    serial: u64,
}

#[derive(Debug)]
struct Line {
    /// The serial number of whoever asks the store, or holds.
    front: u64,
    /// What it asks for.
    spec: Arc<Spec>,
    /// What it holds.
    hold: Option<Arc<Hold>>,
    /// Since when the store has failed whoever was at the front, and how.
    failing: Option<(Moment, Error)>,
    behind: VecDeque<Behind>,
}

#[derive(Debug)]
struct Behind {
    serial: u64,
    spec: Arc<Spec>,
    turn: oneshot::Sender<Turn>,
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
    fn clock(&self, now: Moment) -> Micros {
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
        let stand = match all.by_key.get_mut(&spec.key) {
            None => all.found(spec),
            Some(line) => {
                let (sender, turn) = oneshot::channel();
                line.behind.push_back(Behind { serial, spec: spec.clone(), turn: sender });
                Stand::Behind { ahead: line.behind.len() as u32 - 1, turn }
            }
        };
        Place { client: client.clone(), key: spec.key.clone(), serial, stand }
    }

    /// Takes the front, if nobody is there.
    pub(crate) fn try_join(client: &Arc<Client>, spec: &Arc<Spec>) -> Option<Place> {
        let mut all = client.core.lines.all();
        all.expire(&spec.key, client.core.env.now());
        if all.by_key.contains_key(&spec.key) {
            return None;
        }
        all.serial += 1;
        let (serial, stand) = (all.serial, all.found(spec));
        Some(Place { client: client.clone(), key: spec.key.clone(), serial, stand })
    }

    /// Whether somebody in line certainly holds the lock.
    pub(crate) fn are_held(&self, key: &Key, now: Moment) -> bool {
        let all = self.all();
        let hold = all.by_key.get(key).and_then(|line| line.hold.as_ref());
        hold.is_some_and(|hold| !hold.is_over() && now < hold.deadline())
    }

    /// Since when the store has failed whoever was at the front, and how; `None` where it answers.
    pub(crate) fn failing(&self, key: &Key) -> Option<(Moment, Error)> {
        self.all().by_key.get(key)?.failing.clone()
    }

    /// Lets the next one ask where a hold was lost, however long its guard still lives.
    pub(crate) fn lost(&self, hold: &Hold) {
        let mut all = self.all();
        let front = all.by_key.get(&hold.key).and_then(|line| line.hold.as_ref());
        if front.is_some_and(|front| front.serial == hold.serial) {
            all.advance(&hold.key);
        }
    }

    /// Lets the next one ask where a hold has expired and nobody said so: the runtime of its keeper may have ended.
    pub(crate) fn expire(&self, key: &Key, now: Moment) {
        self.all().expire(key, now);
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn found(&mut self, spec: &Arc<Spec>) -> Stand {
        let line = Line { front: self.serial, spec: spec.clone(), hold: None, failing: None, behind: VecDeque::new() };
        self.by_key.insert(spec.key.clone(), line);
        Stand::Front
    }

    fn expire(&mut self, key: &Key, now: Moment) {
        let hold = self.by_key.get(key).and_then(|line| line.hold.as_ref());
        if hold.is_some_and(|hold| now >= hold.deadline()) {
            self.advance(key);
        }
    }

    /// The line, if that is its front.
    fn at_front(&mut self, key: &Key, serial: u64) -> Option<&mut Line> {
        self.by_key.get_mut(key).filter(|line| line.front == serial)
    }

    /// Sends the next one to the front.
    fn advance(&mut self, key: &Key) {
        let Some(line) = self.by_key.get_mut(key) else { return };
        line.hold = None;
        while let Some(Behind { serial, spec, turn }) = line.behind.pop_front() {
            (line.front, line.spec) = (serial, spec);
            if turn.send(Turn::Front).is_ok() {
                return;
            }
        }
        self.by_key.remove(key);
    }
}

/// A task's place in a line; whoever is behind it moves up when it goes.
pub(crate) struct Place {
    client: Arc<Client>,
    key: Key,
    serial: u64,
    stand: Stand,
}

enum Stand {
    Front,
    Behind {
        ahead: u32,
        turn: oneshot::Receiver<Turn>,
    },
    /// Passed on, with what it held.
    Gone,
}

impl Place {
    /// How many stand before it, of those who do not ask the store yet; `None`: it is at the front.
    pub(crate) fn ahead(&self) -> Option<u32> {
        match &self.stand {
            Stand::Behind { ahead, .. } => Some(*ahead),
            Stand::Front | Stand::Gone => None,
        }
    }

    /// Waits for its turn. Nothing is lost when the future is dropped.
    pub(crate) async fn turn(&mut self) -> Turn {
        let turn = match &mut self.stand {
            Stand::Behind { turn, .. } => turn.await.unwrap_or(Turn::Front),
            Stand::Front | Stand::Gone => Turn::Front,
        };
        self.stand = Stand::Front;
        turn
    }

    /// Takes note of what it holds.
    pub(crate) fn holds(&self, hold: &Arc<Hold>) {
        if let Some(line) = self.client.core.lines.all().at_front(&self.key, self.serial) {
            (line.hold, line.failing) = (Some(hold.clone()), None);
        }
    }

    /// Takes note of how the store answers it: those behind have to know.
    pub(crate) fn asked(&self, now: Moment, failure: Option<&Error>) {
        if let Some(line) = self.client.core.lines.all().at_front(&self.key, self.serial) {
            let since = line.failing.as_ref().map_or(now, |(since, _)| *since);
            line.failing = failure.map(|error| (since, error.clone()));
        }
    }

    /// Passes the hold to the next in line, if that may be done without the store: then it is over for the present one.
    pub(crate) fn hand_on(&mut self, hold: &Hold) -> Option<Fence> {
        let now = self.client.core.env.now();
        let mut all = self.client.core.lines.all();
        let line = all.at_front(&self.key, self.serial)?;
        line.behind.retain(|behind| !behind.turn.is_closed());
        let fence = later_fence(hold, now)?;
        line.behind.front().filter(|next| next.spec.is_like(&line.spec))?;
        let successor = self.client.keeper.hand_on(hold, fence, now)?;
        let Behind { serial, turn, .. } = line.behind.pop_front()?;
        (line.front, line.hold) = (serial, Some(successor.clone()));
        self.stand = Stand::Gone;
        if let Err(Turn::Hold(hold)) = turn.send(Turn::Hold(successor)) {
            // It went away in this very moment.
            self.client.keeper.release(&hold);
            all.advance(&self.key);
        }
        Some(fence)
    }

    fn leave_front(&self) {
        let mut all = self.client.core.lines.all();
        if all.at_front(&self.key, self.serial).is_some() {
            all.advance(&self.key);
        }
    }
}

/// The token for whoever takes the hold over without the store; `None` where that may not be.
fn later_fence(hold: &Hold, now: Moment) -> Option<Fence> {
    // A degraded hold is not handed on: the next one asks whether the store is back.
    let contact = hold.contact().filter(|_| hold.fence > Fence::NONE)?;
    let fence = hold.fence.get() + 1;
    let fair = contact.waiting == 0 && now - contact.at <= FAIR;
    let certain = hold.state() == HoldState::Held && now < hold.deadline();
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
                            self.client.keeper.release(&hold);
                            self.leave_front();
                        }
                    }
                    Err(_) => {
                        if let Some(line) = self.client.core.lines.all().by_key.get_mut(&self.key) {
                            line.behind.retain(|behind| behind.serial != self.serial);
                        }
                    }
                }
            }
        }
    }
}
