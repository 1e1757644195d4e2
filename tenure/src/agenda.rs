//! What the keeper has to do, by time.
//!
//! A hold has one entry: its next renewal, or its deadline while one is under way or where there is none to come.
//! Renewals that are due wait for room on the way to the store, and go in the order of their deadlines, those in doubt
//! first; then releases.

use std::cmp::{Ordering, Reverse};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::Span;

use crate::env::Moment;
use crate::hold::{Hold, HoldState, Watchdog};
use crate::key::Key;
use crate::meter::Meter;
use crate::proto::ClaimId;

/// What is due within this time is done in the same round.
const GATHER: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Agenda {
    pub(crate) items: BTreeMap<(Moment, u64), Item>,
    pub(crate) serial: u64,
    /// When the task looks at the agenda next by itself.
    pub(crate) wakes_at: Moment,
    /// Releases that are not certain yet, in the agenda or under way.
    pub(crate) partings: usize,
    pub(crate) task: Option<JoinHandle<()>>,
    pub(crate) client_gone: bool,
    /// Renewals that are due and not sent yet.
    renewals: BinaryHeap<Reverse<Urgency>>,
    /// Releases that are due and not sent yet.
    releases: VecDeque<Parting>,
}

/// A renewal that is due: those in doubt first, then by deadline.
#[derive(Debug)]
struct Urgency {
    rank: (bool, Moment, u64),
    hold: Arc<Hold>,
}

#[derive(Debug)]
pub(crate) enum Item {
    Hold(Arc<Hold>),
    /// A hold that was handed on, until it is taken, or was not in time. Nobody renews it meanwhile.
    Offer(Box<Offer>),
    /// In a box, so that holds, of which there are many more, take no more room than they need.
    Part(Box<Parting>),
}

/// A hold that was handed on and is not taken yet.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) hold: Arc<Hold>,
    /// When it is renewed next, once it is taken.
    pub(crate) renew_at: Moment,
}

/// A claim to be released, whatever became of it.
#[derive(Debug)]
pub(crate) struct Parting {
    pub(crate) key: Key,
    pub(crate) id: ClaimId,
    /// For how long the id is to be refused: not at all where no request for it can be under way.
    pub(crate) bury: Duration,
    /// The newest token that was minted for it.
    pub(crate) fence: u64,
    /// When the claim has ended by itself.
    pub(crate) give_up: Moment,
    pub(crate) op_timeout: Duration,
    /// The span that it follows.
    pub(crate) after: Span,
    /// The hold that it ends, where it was one that somebody had.
    pub(crate) kept: Option<Kept>,
    pub(crate) attempts: u32,
}

/// What is told of a hold when it is released.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) since: Moment,
    pub(crate) meter: Arc<Meter>,
}

impl Kept {
    pub(crate) fn by(hold: &Hold) -> Self {
        Self { since: hold.since, meter: hold.meter.clone() }
    }
}

impl Agenda {
    pub(crate) fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            serial: 0,
            wakes_at: Moment(u64::MAX),
            partings: 0,
            task: None,
            client_gone: false,
            renewals: BinaryHeap::new(),
            releases: VecDeque::new(),
        }
    }

    pub(crate) fn remove(&mut self, hold: &Hold) {
        self.items.remove(&(Moment(hold.due.load(Relaxed)), hold.serial));
    }

    /// Takes the offer of a hold off it. Whoever does that has to see to the hold.
    pub(crate) fn take_offer(&mut self, hold: &Hold) -> Option<Offer> {
        match self.items.entry((Moment(hold.due.load(Relaxed)), hold.serial)) {
            Entry::Occupied(entry) if matches!(entry.get(), Item::Offer(_)) => match entry.remove() {
                Item::Offer(offer) => Some(*offer),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn insert(&mut self, due: Moment, item: Item) {
        let serial = match item.hold() {
            Some(hold) => {
                hold.due.store(due.0, Relaxed);
                hold.serial
            }
            None => {
                self.serial += 1;
                self.serial
            }
        };
        self.items.insert((due, serial), item);
    }

    /// Takes what is due off it; gives the holds that are over by now. A hold stays on it with its deadline.
    ///
    /// What is due soon waits until something is due: taken whenever the keeper happens to look, it would go in ones and
    /// twos with every answer that comes in.
    pub(crate) fn take_due(&mut self, now: Moment) -> Over {
        let mut over = Over::default();
        if self.items.first_key_value().is_none_or(|((moment, _), _)| *moment > now) {
            return over;
        }
        let soon = (now + GATHER, u64::MAX);
        let due =
            self.items.range(..=soon).filter(|((moment, _), item)| *moment <= now || item.may_be_early(*moment, now));
        let due: Vec<_> = due.map(|(at, _)| *at).collect();
        for at in due {
            match self.items.remove(&at) {
                Some(Item::Hold(hold)) if hold.deadline() <= now => over.lost.push(hold),
                Some(Item::Offer(offer)) if offer.hold.deadline() <= now => over.lost.push(offer.hold),
                Some(Item::Offer(offer)) => over.untaken.push(offer.hold),
                Some(Item::Hold(hold)) => {
                    let deadline = hold.deadline();
                    self.insert(deadline, Item::Hold(hold.clone()));
                    if at.0 < deadline && hold.watchdog != Watchdog::Off {
                        let rank = (hold.state() != HoldState::Suspect, deadline, hold.serial);
                        self.renewals.push(Reverse(Urgency { rank, hold }));
                    }
                }
                Some(Item::Part(parting)) => self.releases.push_back(*parting),
                None => {}
            }
        }
        over
    }

    /// The most urgent of what is due, as much as there is room for.
    pub(crate) fn next(&mut self, room: usize) -> Round {
        let mut round = Round::default();
        while round.renewals.len() < room
            && let Some(Reverse(Urgency { hold, .. })) = self.renewals.pop()
        {
            // It may have ended meanwhile, or its user has renewed it.
            if !hold.is_over() && Moment(hold.due.load(Relaxed)) == hold.deadline() {
                round.renewals.push(hold);
            }
        }
        let room = (room - round.renewals.len()).min(self.releases.len());
        round.releases = self.releases.drain(..room).collect();
        round
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.releases.is_empty()
    }

    /// Makes every renewal due that has none to come: what was under way in a runtime that ended never comes back.
    pub(crate) fn resume(&mut self, now: Moment) {
        let stalled = |((at, _), item): (&(Moment, u64), &Item)| match item {
            Item::Hold(hold) if hold.watchdog != Watchdog::Off && *at == hold.deadline() && *at < hold.end => {
                Some(hold.clone())
            }
            _ => None,
        };
        let stalled: Vec<_> = self.items.iter().filter_map(stalled).collect();
        for hold in stalled {
            self.remove(&hold);
            self.insert(now, Item::Hold(hold));
        }
    }

    /// How many holds there are, and the soonest of their deadlines.
    pub(crate) fn census(&self) -> (usize, Option<Moment>) {
        let holds = self.items.values().filter_map(|item| Some(item.hold()?.deadline()));
        holds.fold((0, None), |(n, soonest), deadline| {
            (n + 1, Some(soonest.map_or(deadline, |soonest: Moment| soonest.min(deadline))))
        })
    }
}

impl Item {
    fn hold(&self) -> Option<&Arc<Hold>> {
        match self {
            Item::Hold(hold) => Some(hold),
            Item::Offer(offer) => Some(&offer.hold),
            Item::Part(_) => None,
        }
    }

    /// Whether it may be done now already, being due soon: a renewal may, a little; a retry or a deadline not.
    fn may_be_early(&self, due: Moment, now: Moment) -> bool {
        match self {
            Item::Hold(hold) if hold.state() == HoldState::Suspect => false,
            Item::Hold(hold) => due < hold.deadline() && due - now <= hold.early(),
            Item::Offer(_) | Item::Part(_) => false,
        }
    }
}

/// Holds that are over.
#[derive(Default)]
pub(crate) struct Over {
    /// No renewal came through in time.
    pub(crate) lost: Vec<Arc<Hold>>,
    /// They were handed on, and nobody took them.
    pub(crate) untaken: Vec<Arc<Hold>>,
}

/// What is sent at once.
#[derive(Default)]
pub(crate) struct Round {
    /// In the order in which they are to be made.
    pub(crate) renewals: Vec<Arc<Hold>>,
    pub(crate) releases: Vec<Parting>,
}

impl Ord for Urgency {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl PartialOrd for Urgency {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Urgency {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Urgency {}
