//! What must be true of the history of one saga, whatever failed.

use std::collections::BTreeMap;

use tenure::Fence;
use tenure::transaction::{SagaState, SagaStatus};

use super::world::{Entry, STEPS};

/// What is wrong with a history that ended so, if anything.
pub(crate) fn check(history: &[Entry], ended: &SagaStatus) -> Result<(), String> {
    keys(history)?;
    fences(history)?;
    order(history)?;
    let worked = |step, undo| {
        history
            .iter()
            .rposition(|entry| matches!(entry, Entry::Worked { step: s, undo: u } if (*s, *u) == (step, undo)))
    };
    let told = |step, undo| {
        history.iter().any(|entry| matches!(entry, Entry::Told { step: s, undo: u } if (*s, *u) == (step, undo)))
    };
    for (step, name) in STEPS.iter().enumerate() {
        match ended.state() {
            SagaState::Completed => {
                if !told(step, false) {
                    return Err(format!("it has completed, and {name} was never carried out"));
                }
                if worked(step, true).is_some() {
                    return Err(format!("it has completed, and {name} was undone"));
                }
            }
            SagaState::Compensated => match (worked(step, false), worked(step, true)) {
                (Some(_), None) => return Err(format!("it was compensated, and {name} was never undone")),
                (Some(done), Some(undone)) if undone < done => {
                    return Err(format!(
                        "it was compensated, and {name} was carried out once more after it was undone"
                    ));
                }
                _ => {}
            },
            state => return Err(format!("it ended {state}")),
        }
    }
    Ok(())
}

/// One key for each step and direction, in all attempts of all processes; no two alike.
fn keys(history: &[Entry]) -> Result<(), String> {
    let mut seen: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
    let mut of: BTreeMap<(usize, bool), &str> = BTreeMap::new();
    for entry in history {
        let Entry::Begun { step, undo, key, action_key, .. } = entry else { continue };
        if *seen.entry(key).or_insert((*step, *undo)) != (*step, *undo) {
            return Err(format!("the key {key} is used for two things"));
        }
        if *of.entry((*step, *undo)).or_insert(key) != key {
            return Err(format!("the key of {} is {key} and was another before", STEPS[*step]));
        }
        if of.get(&(*step, false)).is_some_and(|key| key != action_key) {
            return Err(format!("a compensation undoes {action_key}, which is another key than the action had"));
        }
    }
    Ok(())
}

/// Nothing is begun or written under a fence once a later one has taken the saga up, nor begun once it was granted.
fn fences(history: &[Entry]) -> Result<(), String> {
    let (mut granted, mut wrote) = (Fence::NONE, Fence::NONE);
    for entry in history {
        match entry {
            Entry::Granted { fence } => granted = granted.max(*fence),
            Entry::Begun { step, fence, .. } if *fence < granted => {
                return Err(format!("{} was begun under {fence} after {granted} was granted", STEPS[*step]));
            }
            Entry::Wrote { fence } if *fence < wrote => {
                return Err(format!("a holder with {fence} wrote after one with {wrote}"));
            }
            Entry::Wrote { fence } => wrote = *fence,
            _ => {}
        }
    }
    Ok(())
}

/// Actions in order, each after the one before has told its success; then compensations in reverse, each after the one
/// behind has told its success; and no action after a compensation.
fn order(history: &[Entry]) -> Result<(), String> {
    let mut told = [[false; 2]; STEPS.len()];
    let mut undoing = None;
    for entry in history {
        match entry {
            Entry::Told { step, undo } => told[*step][usize::from(*undo)] = true,
            Entry::Begun { step, undo: false, .. } => {
                if let Some(undoing) = undoing {
                    let (step, undone): (_, &str) = (STEPS[*step], STEPS[undoing]);
                    return Err(format!("{step} was begun after {undone} began to be undone"));
                }
                if *step > 0 && !told[step - 1][0] {
                    return Err(format!("{} was begun before the one before it was carried out", STEPS[*step]));
                }
            }
            Entry::Begun { step, undo: true, .. } => {
                let first = undoing.is_none();
                if undoing.is_some_and(|last: usize| *step > last || *step + 1 < last) {
                    return Err(format!("{} is undone out of turn", STEPS[*step]));
                }
                if undoing == Some(step + 1) && !told[step + 1][1] {
                    return Err(format!("{} is undone before the one after it was", STEPS[*step]));
                }
                let begun = |other: &Entry| matches!(other, Entry::Begun { step: s, undo: false, .. } if s > step);
                if first && history.iter().any(begun) {
                    return Err(format!("{} is undone first, although a later one was begun", STEPS[*step]));
                }
                undoing = Some(*step);
            }
            _ => {}
        }
    }
    Ok(())
}
