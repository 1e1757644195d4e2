//! Steps with compensations, taken by whoever has the lock.
//!
//! ```text
//!   intend 1 ─▶ act 1 ─▶ intend 2 ─▶ act 2 ─▶ … ─▶ completed
//!       │                    └── undo 2 ─▶ undo 1 ─▶ compensated
//! ```
//!
//! **What it models.** A runner writes to the journal that a step may be done from now on, sends its action, hears that
//! it was carried out, and writes the next. At any moment it may give up instead, without knowing what became of its
//! last action; then it undoes that step, and all before it in reverse order, each until it has heard that it is
//! undone. It may stop at any moment, or go on though its lock is lost; the next holder then takes over the record, by
//! writing its later token into it, and goes on from there. The journal takes a write only if the record is as its
//! writer last saw it. Actions and compensations may arrive at any time after they were sent, any number of times, also
//! long after their runner was replaced, or never. All who send a step's action send it under the same key, by which
//! the resource carries it out once.
//!
//! **What it leaves out.** Runners after the second one. What an action failed with: who gives up may have any reason.
//!
//! **What it rests on.** The resource. A compensation whose action has not arrived must see to it that it never takes
//! effect: no order of messages is on the saga's side. See `Bug::NoTrace`.
//!
//! **Bounds, and what was seen.** Three steps, two runners, any number of messages: 2,900 states. The shortcuts are
//! found after 16 to 24 steps.

use stateright::{Model, Property};

use self::state::{Action, At, Effect, RUNNERS, Record, Runner, STEPS, State};
use crate::{must_fail, must_hold};

mod state;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A step is written down when its action was sent.
    RegisteredAfter,
    /// Compensations begin with the first step.
    ForwardOrder,
    /// What became of the last action is not known, so it is not undone.
    UnknownLeftOut,
    /// A step counts as undone before it is heard that it is.
    NotAwaited,
    /// Whoever takes over sends actions under keys of its own.
    NewKey,
    /// A compensation that comes before its action leaves nothing.
    NoTrace,
    /// The journal takes whatever is written last.
    NoCompare,
}

#[derive(Clone, Debug)]
struct Saga {
    bug: Option<Bug>,
}

impl Saga {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Under which key a runner sends a step's action.
    fn key(&self, runner: usize) -> usize {
        if self.is(Bug::NewKey) { runner } else { 0 }
    }

    /// Which step is to be undone next.
    fn undone_next(&self, left: usize, of: usize) -> usize {
        if self.is(Bug::ForwardOrder) { of - left } else { left - 1 }
    }

    /// What a runner would write next, by what it knows of the record and what it has heard.
    fn next_record(&self, state: &State, runner: usize) -> Option<At> {
        let key = self.key(runner);
        match state.runners[runner].seen?.at {
            At::Running { done: STEPS, .. } => Some(At::Completed),
            At::Running { done, intended: false } if self.is(Bug::RegisteredAfter) => {
                state.has_acted(done, key).then_some(At::Running { done: done + 1, intended: false })
            }
            At::Running { done, intended: false } => Some(At::Running { done, intended: true }),
            At::Running { done, intended: true } => {
                state.has_acted(done, key).then_some(At::Running { done: done + 1, intended: false })
            }
            At::Compensating { left: 0, .. } => Some(At::Compensated),
            At::Compensating { left, of } => {
                let step = self.undone_next(left, of);
                let is_undone = match state.effects[step][key] {
                    Effect::Undone => true,
                    Effect::None => self.is(Bug::NotAwaited) || self.is(Bug::NoTrace) && state.undoes[step][key],
                    Effect::Done => self.is(Bug::NotAwaited),
                };
                is_undone.then_some(At::Compensating { left: left - 1, of })
            }
            At::Completed | At::Compensated => None,
        }
    }

    fn given_up(&self, at: At) -> Option<At> {
        let At::Running { done, intended } = at else { return None };
        let left = if intended && !self.is(Bug::UnknownLeftOut) { done + 1 } else { done };
        Some(At::Compensating { left, of: if self.is(Bug::ForwardOrder) { left } else { 0 } })
    }

    /// Whether the next holder brings it to an end, if it is not disturbed.
    fn ends(&self, state: &State) -> bool {
        let mut after = *state;
        let mine = [Action::Take(1), Action::Write(1), Action::Send(1), Action::Advance(1)];
        let arrives = (0..STEPS)
            .flat_map(|step| (0..RUNNERS).flat_map(move |key| [Action::Act { step, key }, Action::Undo { step, key }]));
        let all: Vec<Action> = [Action::Lose].into_iter().chain(arrives).chain(mine).collect();
        while let Some(next) = all.iter().find_map(|action| self.next_state(&after, *action)) {
            after = next;
        }
        matches!(after.record.at, At::Completed | At::Compensated)
    }
}

impl Model for Saga {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Lose);
        for runner in 0..RUNNERS {
            let own = [Action::Take, Action::Send, Action::Advance, Action::GiveUp, Action::Write];
            actions.extend(own.map(|action| action(runner)));
        }
        for step in 0..STEPS {
            for key in 0..RUNNERS {
                if state.acts[step][key] {
                    actions.push(Action::Act { step, key });
                }
                if state.undoes[step][key] {
                    actions.push(Action::Undo { step, key });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Lose => next.is_lost = true,
            Action::Take(runner) => {
                if (runner == 1) != next.is_lost || next.runners[runner] != Runner::default() {
                    return None;
                }
                let fence = runner as u8 + 1;
                next.runners[runner] =
                    Runner { seen: Some(next.record), writes: Some(Record { fence, ..next.record }) };
            }
            Action::Advance(runner) | Action::GiveUp(runner) => {
                let me = next.runners[runner];
                let seen = me.seen.filter(|_| me.writes.is_none())?;
                let at = match action {
                    Action::GiveUp(_) => self.given_up(seen.at)?,
                    _ => self.next_record(&next, runner)?,
                };
                next.runners[runner].writes = Some(Record { at, ..seen });
            }
            Action::Send(runner) => {
                let me = next.runners[runner];
                let key = self.key(runner);
                match me.seen.filter(|_| me.writes.is_none())?.at {
                    At::Running { done, intended } if done < STEPS && (intended || self.is(Bug::RegisteredAfter)) => {
                        next.acts[done][key] = true;
                    }
                    At::Compensating { left, of } if left > 0 => {
                        next.undoes[self.undone_next(left, of)][key] = true;
                    }
                    _ => return None,
                }
            }
            Action::Write(runner) => {
                let me = &mut next.runners[runner];
                let (seen, written) = (me.seen?, me.writes?);
                me.writes = None;
                match next.record == seen || self.is(Bug::NoCompare) {
                    true => (next.record, me.seen) = (written, Some(written)),
                    // Somebody else goes on.
                    false => me.seen = None,
                }
            }
            Action::Act { step, key } => {
                let effect = &mut next.effects[step][key];
                if !next.acts[step][key] || *effect != Effect::None {
                    return None;
                }
                *effect = Effect::Done;
            }
            Action::Undo { step, key } => {
                if !next.undoes[step][key] {
                    return None;
                }
                let effect = &mut next.effects[step][key];
                match *effect {
                    Effect::None if self.is(Bug::NoTrace) => {}
                    _ => *effect = Effect::Undone,
                }
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is done is a beginning of the steps", |_, state: &State| {
                let done: Vec<bool> = (0..STEPS).map(|step| state.times(step) > 0).collect();
                done.is_sorted_by(|before, after| before >= after)
            }),
            Property::always("no step is done twice", |_, state: &State| (0..STEPS).all(|step| state.times(step) <= 1)),
            Property::always("what is done is in the record", |_, state: &State| {
                let known = match state.record.at {
                    At::Running { done, intended } => done + usize::from(intended),
                    At::Compensating { left, .. } => left,
                    At::Completed => STEPS,
                    At::Compensated => 0,
                };
                (known..STEPS).all(|step| state.times(step) == 0)
            }),
            Property::always("what is completed is done", |_, state: &State| {
                state.record.at != At::Completed || (0..STEPS).all(|step| state.times(step) == 1)
            }),
            Property::always("the next holder can end it", |model: &Self, state: &State| model.ends(state)),
            Property::sometimes("completed by the next holder", |_, state: &State| {
                state.record == Record { fence: 2, at: At::Completed }
            }),
            Property::sometimes("compensated before its last action came", |_, state: &State| {
                let late = |step: usize| state.acts[step][0] && state.undoes[step][0];
                state.record.at == At::Compensated && late(0) && late(STEPS - 1)
            }),
        ]
    }
}

#[test]
fn a_saga_is_completed_or_undone_by_whoever_has_the_lock() {
    must_hold("saga, 3 steps", Saga { bug: None });
}

#[test]
fn every_shortcut_is_found() {
    for bug in [
        Bug::RegisteredAfter,
        Bug::ForwardOrder,
        Bug::UnknownLeftOut,
        Bug::NotAwaited,
        Bug::NewKey,
        Bug::NoTrace,
        Bug::NoCompare,
    ] {
        must_fail(&format!("saga, {bug:?}"), Saga { bug: Some(bug) });
    }
}
