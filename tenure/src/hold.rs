//! What guard and keeper share about one hold: its deadline, and how it stands.
//!
//! ```text
//!            a renewal failed          no renewal came through in time, or the store says that it is gone
//!   ┌──────┐ ───────────────▶ ┌─────────┐ ───────────────▶ ┌──────┐
//!   │ held │                  │ suspect │                  │ lost │   lost() completes, is_held() is false
//!   └──────┘ ◀─────────────── └─────────┘                  └──────┘
//!            one came through
//! ```

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::futures::Notified;

pub(crate) use crate::certain::{certain_for, certain_until};
use crate::env::Moment;
pub use crate::fence::Fence;
use crate::health::Pulse;
use crate::key::Key;
use crate::line::Contact;
use crate::lock::Spec;
pub use crate::loss::Loss;
use crate::meter::Meter;
use crate::proto::{ClaimId, Owner};
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, Notify};
use crate::trace::Trace;

/// How a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HoldState {
    /// It is certain.
    Held,
    /// A renewal failed; it is certain for [`Guard::remaining`](crate::Guard::remaining).
    Suspect,
    /// It is over.
    Lost,
}

const HELD: u8 = 0;
const SUSPECT: u8 = 1;
const EXPIRED: u8 = 2;
const GONE: u8 = 3;
const OUTLASTED: u8 = 4;
const ENDED: u8 = 5;

/// What guard and keeper share about one hold.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) key: Key,
    pub(crate) id: ClaimId,
    pub(crate) fence: Fence,
    pub(crate) owner: Option<Owner>,
    pub(crate) since: Moment,
    pub(crate) ttl: Duration,
    /// When it is renewed.
    pub(crate) watchdog: Watchdog,
    /// When it is over at the latest, whatever is renewed.
    pub(crate) end: Moment,
    /// How long to wait for a reply.
    pub(crate) op_timeout: Duration,
    /// A request for it may still be under way from before it was granted, so its release buries its id.
    pub(crate) ambiguous: bool,
    /// Its serial number with the keeper.
    pub(crate) serial: u64,
    /// When the keeper looks at it next; changed under the keeper's lock alone.
    pub(crate) due: AtomicU64,
    deadline: AtomicU64,
    state: AtomicU8,
    /// How many renewals have failed since the last one that came through.
    failures: AtomicU8,
    /// How many commits under it may still come; see [`Lines::begin_commit`](crate::line::Lines::begin_commit).
    commits: AtomicU32,
    changed: Notify,
    contact: Mutex<Option<Contact>>,
    pub(crate) meter: Arc<Meter>,
    /// See `trace.rs`.
    pub(crate) trace: Mutex<Option<Box<Trace>>>,
}

/// When a hold is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watchdog {
    /// Never.
    Off,
    /// As its node's health asks for.
    Adaptive,
    /// So long after the last renewal was sent.
    Every(Duration),
}

/// What a hold begins with.
pub(crate) struct Granted {
    pub(crate) id: ClaimId,
    pub(crate) fence: Fence,
    pub(crate) now: Moment,
    pub(crate) deadline: Moment,
    pub(crate) ambiguous: bool,
    /// What the store said with it, where it was not a push.
    pub(crate) contact: Option<Contact>,
}

impl Hold {
    pub(crate) fn new(lock: &Spec, granted: Granted, serial: u64) -> Self {
        let Granted { id, fence, now, deadline, ambiguous, contact } = granted;
        let options = &lock.options;
        let watchdog = match (options.watchdog, options.watchdog_interval) {
            (false, _) => Watchdog::Off,
            (true, None) => Watchdog::Adaptive,
            (true, Some(interval)) => Watchdog::Every(interval),
        };
        let end = options.max_hold.map_or(Moment(u64::MAX), |limit| now + limit);
        Self {
            key: lock.key.clone(),
            id,
            fence,
            owner: lock.owner.clone(),
            since: now,
            ttl: options.ttl,
            watchdog,
            end,
            op_timeout: options.op_timeout,
            ambiguous,
            serial,
            due: AtomicU64::new(0),
            deadline: AtomicU64::new(deadline.min(end).0),
            state: AtomicU8::new(HELD),
            failures: AtomicU8::new(0),
            commits: AtomicU32::new(0),
            changed: Notify::new(),
            contact: Mutex::new(contact),
            meter: lock.meter.clone(),
            trace: Mutex::new(None),
        }
        .counted()
    }

    /// The same claim in the hands of the next task of this process.
    pub(crate) fn successor(&self, fence: Fence, now: Moment, serial: u64) -> Self {
        Self {
            key: self.key.clone(),
            id: self.id,
            fence,
            owner: None,
            since: now,
            ttl: self.ttl,
            watchdog: self.watchdog,
            end: if self.end == Moment(u64::MAX) { self.end } else { now + (self.end - self.since) },
            op_timeout: self.op_timeout,
            ambiguous: self.ambiguous,
            serial,
            failures: AtomicU8::new(0),
            commits: AtomicU32::new(0),
            due: AtomicU64::new(0),
            deadline: AtomicU64::new(self.deadline().0),
            state: AtomicU8::new(HELD),
            changed: Notify::new(),
            contact: Mutex::new(self.contact()),
            meter: self.meter.clone(),
            trace: Mutex::new(None),
        }
        .counted()
    }

    /// It counts as held from here until it is over; not so one that the keeper knows nothing of.
    fn counted(self) -> Self {
        if self.serial > 0 {
            self.meter.began();
        }
        self
    }

    /// What the store said last.
    pub(crate) fn contact(&self) -> Option<Contact> {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn heard(&self, contact: Contact) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(contact);
    }

    /// Until when it is certain.
    pub(crate) fn deadline(&self) -> Moment {
        Moment(self.deadline.load(Ordering::Acquire))
    }

    pub(crate) fn state(&self) -> HoldState {
        match self.state.load(Ordering::Acquire) {
            HELD => HoldState::Held,
            SUSPECT => HoldState::Suspect,
            _ => HoldState::Lost,
        }
    }

    pub(crate) fn loss(&self) -> Option<Loss> {
        match self.state.load(Ordering::Acquire) {
            EXPIRED => Some(Loss::Expired),
            GONE => Some(Loss::Gone),
            OUTLASTED => Some(Loss::MaxHold),
            _ => None,
        }
    }

    /// How it is lost if that happens by time.
    pub(crate) fn loss_by_time(&self) -> Loss {
        if self.deadline() == self.end { Loss::MaxHold } else { Loss::Expired }
    }

    /// How long after a renewal was sent the next one is due; `None` where there is none to come.
    pub(crate) fn interval(&self, pulse: Pulse) -> Option<Duration> {
        match self.watchdog {
            // It is certain to its very end.
            _ if self.deadline() == self.end => None,
            Watchdog::Off => None,
            Watchdog::Every(interval) => Some(interval),
            Watchdog::Adaptive => Some(pulse.interval(self.ttl, self.op_timeout)),
        }
    }

    /// How much sooner than planned it may be renewed, to be gathered with others: a quarter of the interval.
    pub(crate) fn early(&self) -> Duration {
        match self.watchdog {
            Watchdog::Off => Duration::ZERO,
            Watchdog::Every(interval) => interval / 4,
            Watchdog::Adaptive => self.ttl / 40,
        }
    }

    /// For how long to ask in a renewal: a ttl, or what is left until its end with the margin and what the clocks may
    /// drift apart, so that the store does not keep it for much longer.
    pub(crate) fn lease_from(&self, sent: Moment) -> Duration {
        let left = self.end - sent;
        self.ttl.min(left.saturating_add(left / 50).saturating_add(Duration::from_millis(4)))
    }

    /// Takes note of a renewal that came through. It comes too late where the hold was lost or its deadline has passed:
    /// what was told to be over stays over.
    pub(crate) fn extend(&self, deadline: Moment, now: Moment) -> bool {
        if self.is_over() || now >= self.deadline() {
            return false;
        }
        self.deadline.fetch_max(deadline.min(self.end).0, Ordering::AcqRel);
        self.failures.store(0, Ordering::Relaxed);
        self.shift(&[SUSPECT], HELD);
        !self.is_over()
    }

    /// Takes note of a renewal that failed; false where that is no news.
    pub(crate) fn suspect(&self) -> bool {
        let failures = self.failures();
        self.failures.store(failures.saturating_add(1), Ordering::Relaxed);
        self.shift(&[HELD], SUSPECT)
    }

    /// Declares it lost; false where that is no news.
    pub(crate) fn lose(&self, loss: Loss) -> bool {
        let to = match loss {
            Loss::Expired => EXPIRED,
            Loss::Gone => GONE,
            Loss::MaxHold => OUTLASTED,
        };
        self.shut(to)
    }

    /// Takes note that its user ended it, after which it cannot be lost; false where it was lost before.
    pub(crate) fn end(&self) -> bool {
        self.shut(ENDED)
    }

    fn shut(&self, to: u8) -> bool {
        let news = self.shift(&[HELD, SUSPECT], to);
        if news {
            self.discount();
            self.changed.notify_waiters();
        }
        news
    }

    fn discount(&self) {
        if self.serial > 0 {
            self.meter.ended();
        }
    }

    /// Whether its user ended it.
    pub(crate) fn is_ended(&self) -> bool {
        self.state.load(Ordering::Acquire) == ENDED
    }

    /// Takes note of a commit under it that is about to be sent.
    pub(crate) fn begin_commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note that one of them is over: it was answered, or not sent.
    pub(crate) fn end_commit(&self) {
        self.commits.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a commit under it may still come.
    pub(crate) fn may_be_committed_under(&self) -> bool {
        self.commits.load(Ordering::Relaxed) > 0
    }

    /// How many renewals have failed since the last one that came through.
    pub(crate) fn failures(&self) -> u8 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state() == HoldState::Lost
    }

    fn shift(&self, from: &[u8], to: u8) -> bool {
        // In one step for all that it may change from: between two, it may go from the second to the first.
        let change = |state| from.contains(&state).then_some(to);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }

    /// Completes when it is lost or ended from now on.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// For how long its release refuses its id.
    pub(crate) fn bury(&self) -> Duration {
        if self.ambiguous { self.ttl } else { Duration::ZERO }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Its client went with everything, and nobody ended it.
        if !self.is_over() {
            self.discount();
        }
    }
}

#[cfg(all(test, loom))]
mod model;
