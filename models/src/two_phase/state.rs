//! What records, messages and participants are in `two_phase.rs`, and what may happen.

/// The transaction of the first holder, and that of the next one.
pub(super) const TRANSACTIONS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State<const N: usize> {
    pub(super) lock: Lock,
    /// The next holder has recovered, and looks at what the lock protects.
    pub(super) is_looking: bool,
    pub(super) transactions: [Transaction; TRANSACTIONS],
    pub(super) places: [Place; N],
    /// A prepare landed at a participant after one under a later token.
    pub(super) was_stale: bool,
    /// A commit was applied after the next holder has looked, or at a participant after a prepare under a later token.
    pub(super) was_late: bool,
    /// A participant was reported to have gone another way than what was decided.
    pub(super) is_heuristic: bool,
}

/// Who may be certain of the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Lock {
    #[default]
    First,
    Free,
    Second,
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Transaction {
    pub(super) phase: Phase,
    pub(super) record: Record,
    /// Its coordinator knows that the record is there.
    pub(super) is_begun: bool,
    pub(super) sent: Sent,
    /// Somebody who looks for what is in doubt has found the first half of the reason to roll it back.
    pub(super) is_suspect: bool,
    /// What anybody was told about it.
    pub(super) told_committed: bool,
    pub(super) told_rolled_back: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Idle,
    Beginning,
    Preparing,
    Deciding,
    /// It takes no further step.
    GaveUp,
}

/// The transaction's record in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Record {
    #[default]
    Absent,
    Preparing,
    Committed,
    Aborted,
    /// All participants have acknowledged that it was committed, or rolled back.
    Done(Outcome),
    Forgotten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Outcome {
    Committed,
    RolledBack,
}

/// What was ever sent, by whomever; each may arrive at any time, any number of times, or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Sent {
    /// To the journal: writes of the record, each if it is still as expected.
    pub(super) begin: bool,
    pub(super) committed: bool,
    pub(super) aborted: bool,
    /// To every participant. That it may forget is said of what is done.
    pub(super) prepare: bool,
    pub(super) commit: bool,
    pub(super) rollback: bool,
    pub(super) forget: bool,
}

/// A participant, whose memory is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    /// The latest token under which anything was prepared.
    pub(super) fence: u8,
    pub(super) branches: [Branch; TRANSACTIONS],
}

/// What a participant has of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Branch {
    pub(super) row: Row,
    /// It has once answered that it is prepared, and that it has done as was decided.
    pub(super) said_yes: bool,
    pub(super) has_acknowledged: bool,
    /// How many times the effect was applied, and whether it was given up for good.
    pub(super) applied: u8,
    pub(super) undone: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Row {
    #[default]
    Nothing,
    Staged,
    Committed,
    /// Also where nothing was staged: a tombstone.
    RolledBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The lock's holder is not certain any more.
    Lose,
    /// The next one has it.
    Grant,
    // A coordinator's steps; where it takes none any more, it has crashed.
    Begin(usize),
    Prepare(usize),
    Decide(usize),
    GiveUp(usize),
    /// The next holder looks at what the lock protects.
    Look,
    // Anybody's: coordinators, those who recover, those who ask what became of it.
    Resolve(usize),
    Drive(usize),
    Finish(usize),
    Suspect(usize),
    Presume(usize),
    // What arrives at the journal.
    WriteBegin(usize),
    WriteCommitted(usize),
    WriteAborted(usize),
    Forget(usize),
    // What arrives at a participant.
    PrepareAt(usize, usize),
    CommitAt(usize, usize),
    RollbackAt(usize, usize),
    ForgetRow(usize, usize),
    /// It has lost what was not durable.
    Restart(usize),
}

/// The token under which a transaction's holder has the lock.
pub(super) fn fence(transaction: usize) -> u8 {
    transaction as u8 + 1
}

impl Transaction {
    pub(super) fn has_no_record(&self) -> bool {
        matches!(self.record, Record::Absent | Record::Forgotten)
    }
}

impl<const N: usize> State<N> {
    pub(super) fn new() -> Self {
        Self {
            lock: Lock::First,
            is_looking: false,
            transactions: [Transaction::default(); TRANSACTIONS],
            places: [Place::default(); N],
            was_stale: false,
            was_late: false,
            is_heuristic: false,
        }
    }

    /// Whether the holder that began a transaction may still be certain of the lock.
    pub(super) fn is_certain(&self, of: usize) -> bool {
        self.lock == [Lock::First, Lock::Second][of]
    }

    pub(super) fn each(&self, holds: impl Fn(usize, &Transaction) -> bool) -> bool {
        self.transactions.iter().enumerate().all(|(t, me)| holds(t, me))
    }

    pub(super) fn branches(&self, of: usize) -> impl Iterator<Item = &Branch> {
        self.places.iter().map(move |place| &place.branches[of])
    }

    pub(super) fn is_staged(&self, of: usize) -> bool {
        self.branches(of).any(|branch| branch.row == Row::Staged)
    }

    /// Which participant is which makes no difference.
    pub(super) fn normal(mut self) -> Self {
        self.places.sort_unstable();
        self
    }
}
