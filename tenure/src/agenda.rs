//! What the keeper has to do, by time.
//!
//! A hold has one entry: its next renewal, or its deadline while one is under way or where there is no watchdog.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::env::Moment;
use crate::hold::{Hold, HoldState};
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
    Part(Parting),
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
                    self.insert(hold.deadline(), Item::Hold(hold.clone()));
                    match hold.interval {
                        None => {}
                        Some(_) if at.0 >= hold.deadline() => {}
                        Some(_) if hold.state() == HoldState::Suspect => round.suspect.push(hold),
                        Some(_) => round.calm.push(hold),
                    }
                }
                Some(Item::Part(parting)) => round.partings.push(parting),
                None => {}
            }
        }
        round
    }
}

impl Item {
    /// Whether it may be done now already, being due soon: a renewal may, a little; a retry or a deadline not.
    fn may_be_early(&self, due: Moment, now: Moment) -> bool {
        match self {
            Item::Hold(hold) if hold.state() == HoldState::Suspect => false,
            Item::Hold(hold) => due < hold.deadline() && due - now <= hold.interval.unwrap_or_default() / 4,
            Item::Part(_) => false,
        }
    }
}

/// What one round has to do.
#[derive(Default)]
pub(crate) struct Round {
    pub(crate) calm: Vec<Arc<Hold>>,
    pub(crate) suspect: Vec<Arc<Hold>>,
    pub(crate) partings: Vec<Parting>,
    pub(crate) lost: Vec<Arc<Hold>>,
}
