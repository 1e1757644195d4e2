//! What each does, step by step, and what is told to whom.

use super::state::{Action, Lock, Outcome, Phase, Record, Row, State, fence};
use super::{Bug, TwoPhase};

impl<const N: usize> TwoPhase<N> {
    /// What becomes of a record where an outcome is written.
    fn decided(&self, record: Record, outcome: Outcome) -> Option<Record> {
        let is_open = match record {
            Record::Preparing => true,
            Record::Committed | Record::Aborted => self.is(Bug::NoCompare),
            Record::Absent | Record::Done(_) | Record::Forgotten => false,
        };
        is_open.then_some(match outcome {
            Outcome::Committed => Record::Committed,
            Outcome::RolledBack => Record::Aborted,
        })
    }

    /// A coordinator's own steps, and those of the lock.
    pub(super) fn coordinate(&self, next: &mut State<N>, action: Action) -> Option<()> {
        match action {
            Action::Lose => {
                next.lock = match next.lock {
                    Lock::First => Lock::Free,
                    Lock::Second => Lock::Over,
                    Lock::Free | Lock::Over => return None,
                }
            }
            Action::Grant => next.lock = (next.lock == Lock::Free).then_some(Lock::Second)?,
            Action::Begin(t) => {
                if next.transactions[t].phase != Phase::Idle || !next.is_certain(t) {
                    return None;
                }
                let me = &mut next.transactions[t];
                (me.phase, me.sent.begin) = (Phase::Beginning, true);
            }
            Action::Prepare(t) => {
                let me = &mut next.transactions[t];
                if me.phase != Phase::Beginning || !me.is_begun {
                    return None;
                }
                (me.phase, me.sent.prepare) = (Phase::Preparing, true);
            }
            Action::Decide(t) => {
                let all_agree = next.branches(t).all(|branch| branch.said_yes);
                let is_certain = next.is_certain(t) || self.is(Bug::NoLook);
                let me = &mut next.transactions[t];
                if me.phase != Phase::Preparing || !all_agree || !is_certain {
                    return None;
                }
                (me.phase, me.sent.committed) = (Phase::Deciding, true);
                me.sent.commit |= self.is(Bug::CommitFirst);
            }
            // It does not know whether the record is there, and says that nothing has happened: nobody has prepared.
            Action::GiveUp(t) => {
                let me = &mut next.transactions[t];
                if me.phase != Phase::Beginning {
                    return None;
                }
                (me.phase, me.told_rolled_back) = (Phase::GaveUp, true);
            }
            Action::Look => {
                let is_settled =
                    matches!(next.transactions[0].record, Record::Absent | Record::Done(_) | Record::Forgotten);
                if next.lock != Lock::Second || !is_settled && !self.is(Bug::NoRecovery) {
                    return None;
                }
                next.is_looking = true;
            }
            _ => unreachable!("{action:?} is somebody else's"),
        }
        Some(())
    }

    /// What anybody may do who knows of the transaction.
    pub(super) fn recover(&self, next: &mut State<N>, action: Action) -> Option<()> {
        match action {
            Action::Resolve(t) => {
                let me = &mut next.transactions[t];
                match me.record {
                    Record::Absent if self.is(Bug::NotYetIsRolledBack) => me.told_rolled_back = true,
                    Record::Preparing if self.is(Bug::PresumesCommit) => me.sent.committed = true,
                    Record::Preparing => me.sent.aborted = true,
                    Record::Committed | Record::Done(Outcome::Committed) => me.told_committed = true,
                    Record::Aborted | Record::Done(Outcome::RolledBack) => me.told_rolled_back = true,
                    Record::Forgotten if self.is(Bug::GoneIsRolledBack) => me.told_rolled_back = true,
                    Record::Absent | Record::Forgotten => return None,
                }
            }
            Action::Drive(t) => {
                let me = &mut next.transactions[t];
                match me.record {
                    Record::Committed => me.sent.commit = true,
                    Record::Aborted => me.sent.rollback = true,
                    Record::Done(_) => me.sent.forget = true,
                    _ => return None,
                }
            }
            Action::Finish(t) => {
                let is_over = self.is(Bug::DoneEarly) || next.branches(t).all(|branch| branch.has_acknowledged);
                let me = &mut next.transactions[t];
                me.record = match me.record {
                    Record::Committed if is_over => Record::Done(Outcome::Committed),
                    Record::Aborted if is_over => Record::Done(Outcome::RolledBack),
                    _ => return None,
                };
            }
            Action::Suspect(t) => {
                let is_gone = next.transactions[t].has_no_record();
                let reason = if self.is(Bug::JournalFirst) { is_gone } else { next.is_staged(t) };
                next.transactions[t].is_suspect |= reason;
            }
            Action::Presume(t) => {
                let is_gone = next.transactions[t].has_no_record();
                let reason = if self.is(Bug::JournalFirst) { next.is_staged(t) } else { is_gone };
                let me = &mut next.transactions[t];
                me.sent.rollback |= me.is_suspect && reason;
            }
            _ => unreachable!("{action:?} is somebody else's"),
        }
        Some(())
    }

    /// What arrives at the journal.
    pub(super) fn write(&self, next: &mut State<N>, action: Action) -> Option<()> {
        match action {
            Action::WriteBegin(t) => {
                let me = &mut next.transactions[t];
                if me.record != Record::Absent || !me.sent.begin {
                    return None;
                }
                (me.record, me.is_begun) = (Record::Preparing, true);
            }
            Action::WriteCommitted(t) => {
                let me = &mut next.transactions[t];
                me.record = self.decided(me.record, Outcome::Committed).filter(|_| me.sent.committed)?;
            }
            Action::WriteAborted(t) => {
                let me = &mut next.transactions[t];
                me.record = self.decided(me.record, Outcome::RolledBack).filter(|_| me.sent.aborted)?;
            }
            Action::Forget(t) => {
                let me = &mut next.transactions[t];
                if !matches!(me.record, Record::Done(_)) {
                    return None;
                }
                me.record = if self.is(Bug::ForgottenTooSoon) { Record::Absent } else { Record::Forgotten };
            }
            _ => unreachable!("{action:?} is somebody else's"),
        }
        Some(())
    }

    /// What arrives at a participant, or happens to it.
    pub(super) fn participate(&self, next: &mut State<N>, action: Action) -> Option<()> {
        match action {
            Action::PrepareAt(t, at) => {
                let place = &mut next.places[at];
                let is_stale = place.fence > fence(t);
                let is_in_doubt = place.branches[..t].iter().any(|earlier| earlier.row == Row::Staged);
                let branch = &mut place.branches[t];
                match branch.row {
                    Row::Nothing if is_stale && !self.is(Bug::NoFence) => {}
                    Row::Nothing if is_in_doubt && !self.is(Bug::NoDoubt) => {}
                    Row::Nothing => {
                        (branch.row, branch.said_yes) = (Row::Staged, true);
                        next.was_stale |= is_stale;
                        place.fence = place.fence.max(fence(t));
                    }
                    Row::Staged | Row::Committed => branch.said_yes = true,
                    Row::RolledBack => {}
                }
            }
            Action::CommitAt(t, at) => {
                let place = &mut next.places[at];
                let branch = &mut place.branches[t];
                match branch.row {
                    Row::Staged => {
                        (branch.row, branch.has_acknowledged) = (Row::Committed, true);
                        branch.applied += 1;
                        next.was_late |= place.fence > fence(t) || t == 0 && next.is_looking;
                    }
                    Row::Committed => branch.has_acknowledged = true,
                    // Told by a compare-and-set of the record, so only while that is as it was.
                    Row::Nothing | Row::RolledBack => {
                        next.is_heuristic |= next.transactions[t].record == Record::Committed;
                    }
                }
            }
            Action::RollbackAt(t, at) => {
                let place = &mut next.places[at];
                let (has_moved_on, branch) = (place.fence > fence(t), &mut place.branches[t]);
                match branch.row {
                    Row::Staged => {
                        (branch.row, branch.has_acknowledged, branch.undone) = (Row::RolledBack, true, true);
                    }
                    // Whatever comes late of it is refused by its token.
                    Row::Nothing if has_moved_on => branch.has_acknowledged = true,
                    Row::Nothing => {
                        branch.has_acknowledged = true;
                        branch.undone |= branch.applied == 0;
                        if !self.is(Bug::NoTombstone) {
                            branch.row = Row::RolledBack;
                        }
                    }
                    Row::RolledBack => branch.has_acknowledged = true,
                    Row::Committed => next.is_heuristic |= next.transactions[t].record == Record::Aborted,
                }
            }
            Action::ForgetRow(t, at) => {
                let place = &mut next.places[at];
                let has_moved_on = place.fence > fence(t) || self.is(Bug::ForgottenRow);
                let may = has_moved_on && (next.transactions[t].sent.forget || self.is(Bug::ForgottenUnasked));
                let row = &mut place.branches[t].row;
                if !matches!(row, Row::Committed | Row::RolledBack) || !may {
                    return None;
                }
                *row = Row::Nothing;
            }
            Action::Restart(at) => {
                let staged = next.places[at].branches.iter_mut().filter(|branch| branch.row == Row::Staged);
                staged.for_each(|branch| branch.row = Row::Nothing);
            }
            _ => unreachable!("{action:?} is somebody else's"),
        }
        Some(())
    }
}
