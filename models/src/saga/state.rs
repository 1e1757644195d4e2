//! What runners, records and effects are in `saga.rs`, and what may happen.

pub(super) const STEPS: usize = 3;
/// The first holder of the lock, and the next one.
pub(super) const RUNNERS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// Whether the first holder has lost the lock, so that the next one may have it.
    pub(super) is_lost: bool,
    pub(super) record: Record,
    pub(super) runners: [Runner; RUNNERS],
    /// Which actions and compensations were ever sent, under which keys.
    pub(super) acts: [[bool; RUNNERS]; STEPS],
    pub(super) undoes: [[bool; RUNNERS]; STEPS],
    /// What they have come to at the resource.
    pub(super) effects: [[Effect; RUNNERS]; STEPS],
}

/// What the journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record {
    /// The token of whoever goes on with it.
    pub(super) fence: u8,
    pub(super) at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    /// So many steps are done, and the next one may be.
    Running {
        done: usize,
        intended: bool,
    },
    /// So many steps are left to undo; of how many is only kept where it matters.
    Compensating {
        left: usize,
        of: usize,
    },
    Completed,
    Compensated,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Runner {
    /// The record as it last was to its knowledge; none before it has begun, and when it was replaced.
    pub(super) seen: Option<Record>,
    /// What it has sent to the journal, and has no answer to.
    pub(super) writes: Option<Record>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    #[default]
    None,
    Done,
    /// The action takes no effect any more, however late it comes.
    Undone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Lose,
    /// A holder of the lock makes the record its own.
    Take(usize),
    Send(usize),
    Advance(usize),
    GiveUp(usize),
    // What arrives.
    Write(usize),
    Act {
        step: usize,
        key: usize,
    },
    Undo {
        step: usize,
        key: usize,
    },
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            is_lost: false,
            record: Record { fence: 0, at: At::Running { done: 0, intended: false } },
            runners: [Runner::default(); RUNNERS],
            acts: Default::default(),
            undoes: Default::default(),
            effects: Default::default(),
        }
    }

    /// How many times a step's effect is there.
    pub(super) fn times(&self, step: usize) -> usize {
        self.effects[step].iter().filter(|effect| **effect == Effect::Done).count()
    }

    pub(super) fn has_acted(&self, step: usize, key: usize) -> bool {
        self.effects[step][key] == Effect::Done
    }
}
