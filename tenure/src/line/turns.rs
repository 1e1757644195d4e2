//! Who of a line asks the store, and who waits for the turn to.
//!
//! ```text
//!   width 64 ──▶ front and up to 63 beside it ask ──▶ each is let in, and leaves
//!      ▲                                         └──▶ busy: width 1, and who tried waits behind the front
//!      └── a reader is let in at once: all may ask; permits are: one more may
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Turn;
use crate::env::Moment;
use crate::error::Error;
use crate::hold::Hold;
use crate::lock::Spec;
use crate::proto::Claim;

/// How many may ask side by side.
pub(crate) const WIDE: usize = 64;

#[derive(Debug)]
pub(crate) struct Line {
    /// Who asks the store for a place, or holds.
    pub(crate) front: Asker,
    /// What it holds.
    pub(crate) hold: Option<Arc<Hold>>,
    /// Who tries beside it. Where one does, all of them share.
    pub(crate) beside: Vec<Asker>,
    /// How many may ask side by side. One: somebody was told that the lock is busy, and nobody was let in at once since.
    pub(crate) width: usize,
    /// Since when the store has failed whoever asked, and how; in a box, as it seldom has.
    pub(crate) failing: Option<Box<(Moment, Error)>>,
    pub(crate) behind: VecDeque<Behind>,
}

/// Who asks the store, or has its turn to.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) serial: u64,
    pub(crate) spec: Arc<Spec>,
    /// Until when it shows that somebody polls it. For a hold, the keeper's agenda knows.
    look_by: Moment,
}

#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) serial: u64,
    pub(crate) spec: Arc<Spec>,
    pub(crate) turn: oneshot::Sender<Turn>,
}

/// What the store said to somebody who asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// It is let in, and so many others wait.
    Held {
        waiting: u32,
    },
    /// It was let in after a while.
    Pushed,
    Busy,
}

impl Line {
    pub(crate) fn new(front: Asker) -> Self {
        Self { front, hold: None, beside: Vec::new(), width: WIDE, failing: None, behind: VecDeque::new() }
    }

    /// Whoever asks or has its turn to, by its serial number.
    pub(crate) fn asker(&mut self, serial: u64) -> Option<&mut Asker> {
        std::iter::once(&mut self.front).chain(&mut self.beside).find(|asker| asker.serial == serial)
    }

    /// Takes note of what the store said to somebody who asked. Whether another reader would be let in, it has said with
    /// that; whether there are more permits, it has not.
    pub(crate) fn heard(&mut self, claim: Claim, answer: Answer) {
        self.failing = None;
        self.width = match answer {
            Answer::Held { waiting: 0 } if claim.limit() == Claim::ALL => WIDE,
            Answer::Held { waiting: 0 } => (self.width + 1).min(WIDE),
            Answer::Held { .. } | Answer::Busy => 1,
            Answer::Pushed => self.width,
        };
    }

    /// Whether its front is over. Whoever is beside it and not polled no longer is.
    pub(crate) fn is_over(&mut self, now: Moment) -> bool {
        self.beside.retain(|asker| now < asker.look_by);
        self.admit(now);
        now >= self.hold.as_ref().map_or(self.front.look_by, |hold| hold.deadline())
    }

    /// Forgets one that is not its front.
    pub(crate) fn forget(&mut self, serial: u64) {
        self.beside.retain(|asker| asker.serial != serial);
        if let Ok(n) = self.behind.binary_search_by_key(&serial, |behind| behind.serial) {
            self.behind.remove(n);
        }
    }

    /// Whether one may ask beside those who do.
    pub(crate) fn has_room(&self, claim: Claim) -> bool {
        claim != Claim::EXCLUSIVE && self.beside.len() + 1 < self.width && self.lets_by(claim)
    }

    /// Whether one that shares may try without standing in line: nobody is known to wait, but for the turn to ask.
    pub(crate) fn may_try(&self, claim: Claim) -> bool {
        let mut behind = self.behind.iter();
        let least = if self.behind.is_empty() { 2 } else { WIDE };
        self.width >= least && self.lets_by(claim) && behind.all(|other| other.spec.claim.permits() <= claim.permits())
    }

    /// Whether nobody asks for more, whom it might overtake.
    fn lets_by(&self, claim: Claim) -> bool {
        let fits = |other: &Asker| other.spec.claim.permits() <= claim.permits();
        fits(&self.front) && self.beside.iter().all(fits)
    }

    /// Lets those ask who may.
    pub(crate) fn admit(&mut self, now: Moment) {
        while self.behind.front().is_some_and(|next| self.has_room(next.spec.claim)) {
            let asker = self.behind.pop_front().and_then(|next| next.give_turn(now));
            self.beside.extend(asker);
        }
    }

    /// Who goes to the front: of those who ask already, whoever came first.
    pub(crate) fn next(&mut self, now: Moment) -> Option<Asker> {
        if let Some(first) = (0..self.beside.len()).min_by_key(|n| self.beside[*n].serial) {
            return Some(self.beside.swap_remove(first));
        }
        std::iter::from_fn(|| self.behind.pop_front()).find_map(|next| next.give_turn(now))
    }
}

impl Behind {
    /// Gives it its turn to ask; `None` where it went away.
    fn give_turn(self, now: Moment) -> Option<Asker> {
        let Self { serial, spec, turn } = self;
        let look_by = now + spec.options.patience;
        turn.send(Turn::Ask).is_ok().then_some(Asker { serial, spec, look_by })
    }
}

impl Asker {
    pub(crate) fn new(serial: u64, spec: Arc<Spec>, now: Moment) -> Self {
        let mut asker = Self { serial, spec, look_by: now };
        asker.asks_at(now);
        asker
    }

    /// It asks then, and looks at the answer.
    pub(crate) fn asks_at(&mut self, then: Moment) {
        let options = &self.spec.options;
        self.look_by = then + options.op_timeout + options.patience;
    }
}
