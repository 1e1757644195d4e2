//! What a simulated saga acts upon, and the history of what happened to it.
//!
//! Each attempt at an action or a compensation draws its fate: it does its work or not, says so or fails, its process
//! dies or is cut off from the lock's store in the middle of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tenure::Fence;
use tenure::transaction::{Call, Failure, StepState};

use super::life::Life;
use crate::common::{Fault, ms};

/// The steps, in order.
pub(crate) const STEPS: [&str; 4] = ["reserve", "charge", "pack", "send"];

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A process was let in.
    Granted { fence: Fence },
    /// An attempt began.
    Begun { step: usize, undo: bool, key: String, action_key: String, fence: Fence },
    /// It did its work. Doing it again by the same key does nothing.
    Worked { step: usize, undo: bool },
    /// It told its success.
    Told { step: usize, undo: bool },
    /// A write was carried out, with the fence of its writer.
    Wrote { fence: Fence },
    /// The process died.
    Died,
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Well,
    /// Fails, and another attempt may succeed; before or after its work.
    Fail {
        worked: bool,
    },
    /// Fails for good; before or after its work.
    Refuse {
        worked: bool,
    },
    /// The process dies.
    Die {
        worked: bool,
    },
    /// The lock's store is not reached for longer than a hold lasts.
    CutOff {
        worked: bool,
    },
    /// Hangs until the hold is lost.
    Hang,
}

#[derive(Clone, Debug)]
pub(crate) struct World(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    chance: Chance,
    /// How many faults are still to come.
    faults: u32,
    /// Fates that are not left to chance, by step and direction.
    fixed: BTreeMap<(usize, bool), Vec<Fate>>,
    history: Vec<Entry>,
}

impl World {
    pub(crate) fn new(seed: u64, faults: u32) -> Self {
        let state = State { chance: Chance(seed), faults, fixed: BTreeMap::new(), history: Vec::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The next attempts at that step meet these fates, the first one first.
    pub(crate) fn fix(&self, step: usize, undo: bool, fates: &[Fate]) {
        let fates = fates.iter().rev().copied().collect();
        self.0.lock().unwrap().fixed.insert((step, undo), fates);
    }

    pub(crate) fn note(&self, entry: Entry) {
        self.0.lock().unwrap().history.push(entry);
    }

    pub(crate) fn history(&self) -> Vec<Entry> {
        self.0.lock().unwrap().history.clone()
    }

    /// Below `n`; zero where nothing is to go wrong any more.
    pub(crate) fn fault(&self, n: u64) -> u64 {
        let state = &mut *self.0.lock().unwrap();
        let drawn = if state.faults == 0 { 0 } else { state.chance.below(n) };
        state.faults -= u32::from(drawn != 0);
        drawn
    }

    fn fate(&self, step: usize, undo: bool) -> Fate {
        if let Some(fate) = self.0.lock().unwrap().fixed.get_mut(&(step, undo)).and_then(Vec::pop) {
            return fate;
        }
        match (self.fault(24), undo) {
            (1 | 2, _) => Fate::Fail { worked: false },
            (3 | 4, _) => Fate::Fail { worked: true },
            (5, _) => Fate::Refuse { worked: false },
            (6, _) => Fate::Refuse { worked: true },
            (7, _) => Fate::Die { worked: false },
            (8, _) => Fate::Die { worked: true },
            (9, _) => Fate::CutOff { worked: false },
            (10, _) => Fate::CutOff { worked: true },
            (11, false) => Fate::Hang,
            _ => Fate::Well,
        }
    }
}

/// One attempt at the action or the compensation of a step.
pub(crate) async fn attempt(call: Call<Life>, step: usize) -> Result<usize, Failure> {
    let (life, undo) = (call.context(), call.is_undo());
    let world = &life.world;
    assert_eq!(call.step(), STEPS[step]);
    assert_eq!(call.input::<String>().unwrap(), "a lamp");
    if !undo && step > 0 {
        assert_eq!(call.output::<usize>(STEPS[step - 1]).unwrap(), step - 1);
    }
    if undo {
        assert!(call.outcome::<usize>().unwrap().is_none_or(|output| output == step));
    }
    let (key, action_key) = (call.key(), call.action_key());
    let (due, status) = (if undo { StepState::Undoing } else { StepState::Begun }, life.written().await);
    assert_eq!(
        (status.steps()[step].state, status.fence()),
        (due, call.fence()),
        "it is written down before it begins"
    );
    world.note(Entry::Begun { step, undo, key, action_key, fence: call.fence() });
    let fate = world.fate(step, undo);
    tokio::time::sleep(ms(10)).await;
    let worked = match fate {
        Fate::Well => true,
        Fate::Hang => false,
        Fate::Fail { worked } | Fate::Refuse { worked } | Fate::Die { worked } | Fate::CutOff { worked } => worked,
    };
    if worked {
        world.note(Entry::Worked { step, undo });
    }
    match fate {
        Fate::Well => {}
        Fate::Fail { .. } => return Err(Failure::transient("try again")),
        Fate::Refuse { .. } => return Err(Failure::fatal("never")),
        Fate::Die { .. } => life.die().await,
        Fate::CutOff { .. } => {
            life.store.fault(Fault::Hang);
            tokio::time::sleep(ms(5_000)).await;
        }
        Fate::Hang => {
            life.store.fault(Fault::Refuse);
            std::future::pending().await
        }
    }
    world.note(Entry::Told { step, undo });
    Ok(step)
}

/// A stream of numbers from a seed: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
/// 2014).
#[derive(Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
