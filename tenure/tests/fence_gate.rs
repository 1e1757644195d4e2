//! `FenceGate`: random writes against what an attentive observer remembers of all of them. The order of threads is in
//! `transaction/gate/model.rs`.
//!
//! Bugs that were planted, one at a time, and found: `<=` for `<`; a known resource keeps its first token; what is
//! forgotten raises no floor; the floor is the last token that was forgotten rather than the newest; `learn` knows
//! nothing of the floor; a snapshot without its floor, or in another order; the token that was used last is forgotten
//! first.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tenure::transaction::{FenceGate, GateSnapshot};
use tenure::{ErrorKind, Fence};

/// What happens to a gate.
#[derive(Clone, Debug)]
enum Step {
    Write(u8, u64),
    Learn(u8, u64),
    /// It is replaced by one that knows what it knew, with another capacity.
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8u8, 1..20u64).prop_map(|(resource, fence)| Step::Write(resource, fence)),
        1 => (0..8u8, 1..20u64).prop_map(|(resource, fence)| Step::Learn(resource, fence)),
        1 => (1..6usize).prop_map(Step::Restart),
    ]
}

/// A seed that fails is kept in the output rather than in a file.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_token_is_let_in_behind_a_newer_one(steps in prop::collection::vec(step(), 1..60), capacity in 1..6usize) {
        let mut gate = FenceGate::new(capacity);
        let mut capacity = capacity;
        let mut newest: BTreeMap<u8, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Write(resource, fence) => {
                    let before = newest.get(&resource).copied().unwrap_or(0);
                    let known = gate.newest(&resource.to_string());
                    let outcome = gate.admit(&resource.to_string(), Fence::new(fence), |admitted| admitted.rose);
                    match outcome {
                        Ok(rose) => {
                            prop_assert!(before <= fence, "{} was let in after {}", fence, before);
                            prop_assert!(rose || before == fence, "a token that rose is told");
                            newest.insert(resource, fence);
                        }
                        Err(error) => {
                            prop_assert_eq!(error.kind(), ErrorKind::Lost);
                            // Nobody is refused for what the gate forgot, as long as it knows the resource.
                            prop_assert!(known.is_none_or(|known| fence < known.get()));
                        }
                    }
                }
                Step::Learn(resource, fence) => {
                    gate.learn(&resource.to_string(), Fence::new(fence));
                    let known = newest.entry(resource).or_default();
                    *known = fence.max(*known);
                }
                Step::Restart(another) => {
                    capacity = another;
                    let snapshot = serde_json::to_string(&gate.snapshot()).unwrap();
                    gate = FenceGate::restore(capacity, &serde_json::from_str(&snapshot).unwrap());
                }
            }
            prop_assert!(gate.snapshot().newest.len() <= capacity, "memory is bounded");
        }
    }

    #[test]
    fn nobody_is_refused_without_cause_while_nothing_is_forgotten(writes in prop::collection::vec((0..8u8, 1..20u64), 1..80)) {
        let gate = FenceGate::new(8);
        let mut newest: BTreeMap<u8, u64> = BTreeMap::new();
        for (resource, fence) in writes {
            let known = newest.entry(resource).or_default();
            let admitted = gate.check(&resource.to_string(), Fence::new(fence));
            prop_assert_eq!(admitted.is_ok(), *known <= fence);
            prop_assert_eq!(admitted.is_ok_and(|admitted| admitted.rose), *known < fence);
            *known = fence.max(*known);
        }
    }
}

fn refused(gate: &FenceGate, resource: &str, fence: u64) -> Option<ErrorKind> {
    gate.check(resource, Fence::new(fence)).err().map(|error| error.kind())
}

#[test]
fn the_resource_that_was_written_to_longest_ago_is_forgotten_first() {
    let gate = FenceGate::new(2);
    for (resource, fence) in [("a", 1), ("b", 2), ("a", 1), ("c", 3)] {
        assert_eq!(refused(&gate, resource, fence), None);
    }
    // A is in use, though its token is the oldest.
    assert_eq!((gate.newest("a"), gate.newest("b")), (Some(Fence::new(1)), None));
    let GateSnapshot { floor, newest, .. } = gate.snapshot();
    assert_eq!((floor, newest.len()), (Fence::new(2), 2));
    // After a restart as well.
    let restored = FenceGate::restore(1, &gate.snapshot());
    assert_eq!((restored.newest("a"), restored.newest("c")), (None, Some(Fence::new(3))));
    // B comes back with the token that it had, and nobody with an older one.
    assert_eq!(refused(&gate, "b", 1), Some(ErrorKind::Lost));
    assert_eq!(refused(&gate, "b", 2), None);
}

#[test]
fn the_floor_is_the_newest_of_all_that_was_forgotten() {
    let gate = FenceGate::new(1);
    for (resource, fence) in [("a", 9), ("b", 10), ("a", 10), ("c", 10)] {
        assert_eq!(refused(&gate, resource, fence), None, "{resource} {fence}");
    }
    let gate = FenceGate::restore(
        1,
        &GateSnapshot { floor: Fence::new(5), newest: vec![("a".into(), Fence::new(9)), ("b".into(), Fence::new(3))] },
    );
    assert_eq!(refused(&gate, "b", 3), None, "what is known of it counts");
    assert_eq!(refused(&gate, "c", 9), None);
    assert_eq!((refused(&gate, "a", 8), refused(&gate, "b", 4)), (Some(ErrorKind::Lost), Some(ErrorKind::Lost)));
}

#[test]
fn a_floor_refuses_every_hold_from_before_a_restart() {
    let gate = FenceGate::new(10);
    gate.raise_floor(Fence::new(100));
    gate.raise_floor(Fence::new(50));
    assert_eq!((refused(&gate, "a", 99), refused(&gate, "a", 100)), (Some(ErrorKind::Lost), None));
}

#[test]
fn what_is_no_token_or_no_name_is_refused_and_not_remembered() {
    let gate = FenceGate::new(10);
    assert_eq!(refused(&gate, "a", 0), Some(ErrorKind::Lost));
    assert_eq!(refused(&gate, "", 1), Some(ErrorKind::Invalid));
    assert_eq!(refused(&gate, &"n".repeat(1_025), 1), Some(ErrorKind::Invalid));
    assert_eq!(refused(&gate, &"n".repeat(1_024), 1), None);
    assert_eq!(gate.snapshot().newest.len(), 1);
}

#[test]
fn a_write_that_panics_leaves_the_gate_in_use() {
    let gate = FenceGate::new(10);
    let panics = std::panic::AssertUnwindSafe(|| gate.admit("a", Fence::new(8), |_| panic!("the write fails")));
    assert!(std::panic::catch_unwind(panics).is_err());
    assert_eq!((refused(&gate, "a", 7), refused(&gate, "a", 8)), (Some(ErrorKind::Lost), None));
}
