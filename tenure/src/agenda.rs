//! What the keeper has to do, by time.
//!
//! A hold has one entry: its next renewal, or its deadline while one is under way or where there is none to come.
//! Renewals that are due together are done in the order of their deadlines, those in doubt first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::env::Moment;
use crate::hold::{Hold, HoldState, Watchdog};
use crate::key::Key;
use crate::proto::ClaimId;

/// What is due within this time is done in the same round.
const GATHER: Duration = Duration::from_millis(25);

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
}

#[derive(Debug)]
pub(crate) enum Item {
    Hold(Arc<Hold>),
    /// In a box, so that holds, of which there are many more, take no more room than they need.
    Part(Box<Parting>),
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
    /// Since when it was held, where it was.
    pub(crate) since: Option<Moment>,
    pub(crate) attempts: u32,
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
        }
    }

    pub(crate) fn remove(&mut self, hold: &Hold) {
        self.items.remove(&(Moment(hold.due.load(Relaxed)), hold.serial));
    }

    pub(crate) fn insert(&mut self, due: Moment, item: Item) {
        let serial = match &item {
            Item::Hold(hold) => {
                hold.due.store(due.0, Relaxed);
                hold.serial
            }
            Item::Part(_) => {
                self.serial += 1;
                self.serial
            }
        };
        self.items.insert((due, serial), item);
    }

    /// Takes what is due off it. A hold stays on it with its deadline.
    pub(crate) fn take_due(&mut self, now: Moment) -> Round {
        let mut round = Round::default();
        let soon = (now + GATHER, u64::MAX);
        let due =
            self.items.range(..=soon).filter(|((moment, _), item)| *moment <= now || item.may_be_early(*moment, now));
        let due: Vec<_> = due.map(|(at, _)| *at).collect();
        for at in due {
            match self.items.remove(&at) {
                Some(Item::Hold(hold)) if hold.deadline() <= now => round.lost.push(hold),
                Some(Item::Hold(hold)) => {
                    let deadline = hold.deadline();
                    self.insert(deadline, Item::Hold(hold.clone()));
                    if at.0 < deadline && hold.watchdog != Watchdog::Off {
                        round.renewals.push(hold);
                    }
                }
                Some(Item::Part(parting)) => round.partings.push(*parting),
                None => {}
            }
        }
        round.renewals.sort_by_key(|hold| (hold.state() != HoldState::Suspect, hold.deadline()));
        round
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
        let holds = self.items.values().filter_map(|item| match item {
            Item::Hold(hold) => Some(hold.deadline()),
            Item::Part(_) => None,
        });
        holds.fold((0, None), |(n, soonest), deadline| {
            (n + 1, Some(soonest.map_or(deadline, |soonest: Moment| soonest.min(deadline))))
        })
    }
}

impl Item {
    /// Whether it may be done now already, being due soon: a renewal may, a little; a retry or a deadline not.
    fn may_be_early(&self, due: Moment, now: Moment) -> bool {
        match self {
            Item::Hold(hold) if hold.state() == HoldState::Suspect => false,
            Item::Hold(hold) => due < hold.deadline() && due - now <= hold.early(),
            Item::Part(_) => false,
        }
    }
}

/// What one round has to do.
#[derive(Default)]
pub(crate) struct Round {
    /// In the order in which they are to be made.
    pub(crate) renewals: Vec<Arc<Hold>>,
    pub(crate) partings: Vec<Parting>,
    pub(crate) lost: Vec<Arc<Hold>>,
}
