//! What the history has of a hold: enough to see whether its holder believes in it, and not enough to keep it alive.

use std::sync::{Mutex, Weak};
use std::time::Duration;

use tenure::{Guard, Guards, Lease};
use tokio::time::Instant;

/// A hold, as its holder sees it.
pub(crate) enum Grip {
    One(Weak<Guard>),
    /// One of several that were taken together.
    OneOf(Weak<Guards>, usize),
    Term(Weak<Term>),
}

impl Grip {
    /// Whether its holder still has it in hand, be it over or not.
    pub(crate) fn is_there(&self) -> bool {
        match self {
            Self::One(guard) => guard.strong_count() > 0,
            Self::OneOf(guards, _) => guards.strong_count() > 0,
            Self::Term(term) => term.strong_count() > 0,
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::One(guard) => guard.upgrade().is_some_and(|guard| guard.is_held()),
            Self::OneOf(guards, n) => guards.upgrade().is_some_and(|guards| guards[*n].is_held()),
            Self::Term(term) => term.upgrade().is_some_and(|term| !term.remaining().is_zero()),
        }
    }

    pub(crate) fn remaining(&self) -> Duration {
        match self {
            Self::One(guard) => guard.upgrade().map(|guard| guard.remaining()),
            Self::OneOf(guards, n) => guards.upgrade().map(|guards| guards[*n].remaining()),
            Self::Term(term) => term.upgrade().map(|term| term.remaining()),
        }
        .unwrap_or_default()
    }
}

/// Until when a lease is certain, whatever hands it goes through.
pub(crate) struct Term(Mutex<Instant>);

impl Term {
    pub(crate) fn of(lease: &Lease) -> Self {
        Self(Mutex::new(Instant::now() + lease.remaining()))
    }

    pub(crate) fn renew(&self, lease: &Lease) {
        *self.0.lock().expect("no panic") = Instant::now() + lease.remaining();
    }

    /// It was released, or is not there any more.
    pub(crate) fn end(&self) {
        *self.0.lock().expect("no panic") = Instant::now();
    }

    /// It is as certain as it was then.
    pub(crate) fn lasts_until(&self, until: Instant) {
        *self.0.lock().expect("no panic") = until;
    }

    pub(crate) fn remaining(&self) -> Duration {
        *self.0.lock().expect("no panic") - Instant::now()
    }
}
