//! Requests at an open circuit whose time to try again has come. See `sync.rs`.
//!
//! Bugs that were planted, one at a time, and found: how the circuit stands is looked at and changed under two locks; a trial
//! that was cancelled is still awaited.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::{Circuit, Pass, Phase, Standing};
use crate::line::model::World;
use crate::store::BreakerState;
use crate::sync::Mutex;

const COOL_DOWN: Duration = Duration::from_secs(1);

/// A circuit that was open until now.
fn circuit(world: &World) -> Arc<Circuit> {
    let env = world.keeper().core.env.clone();
    let phase = Phase::Open { since: world.now(), until: world.now() };
    let now = Mutex::new(Standing { phase, last: None });
    Arc::new(Circuit { kind: "memory", failures: 1, cool_down: COOL_DOWN, silence: COOL_DOWN, env, now })
}

#[test]
fn model_one_request_alone_is_the_trial() {
    World::model(|world| {
        let circuit = circuit(world);
        let crowd = [(); 2].map(|()| {
            let circuit = circuit.clone();
            thread::spawn(move || circuit.admit(Pass::AsTrial).map(std::mem::forget).is_ok())
        });
        let admitted = crowd.map(|request| request.join().unwrap());
        assert_eq!(admitted.iter().filter(|admitted| **admitted).count(), 1, "{admitted:?}");
        assert_eq!(circuit.state(), BreakerState::HalfOpen);
    });
}

#[test]
fn model_a_trial_that_is_cancelled_leaves_the_next_one_its_turn() {
    World::model(|world| {
        let circuit = circuit(world);
        let other = circuit.clone();
        let cancelled = thread::spawn(move || drop(other.admit(Pass::AsTrial)));
        drop(circuit.admit(Pass::AsTrial));
        cancelled.join().unwrap();
        assert!(circuit.admit(Pass::AsTrial).is_ok());
    });
}
