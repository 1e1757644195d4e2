//! Who is let in by a gate while others are, in whatever order they come. See `sync.rs`.
//!
//! Bugs that were planted, one at a time, and found: the gate is opened again between the check and the token that it
//! takes in; the write is carried out when it is open again; what is forgotten raises no floor.

use std::sync::Arc;

use loom::thread;

use super::FenceGate;
use crate::hold::Fence;
use crate::sync::{Mutex, model};

#[test]
fn model_writes_are_carried_out_in_the_order_of_their_tokens() {
    model(|| {
        let (gate, written) = (Arc::new(FenceGate::new(1)), Arc::new(Mutex::new(Vec::new())));
        let holders = [8, 7].map(|fence| {
            let (gate, written) = (gate.clone(), written.clone());
            thread::spawn(move || gate.admit("r", Fence::new(fence), |_| written.lock().unwrap().push(fence)).is_ok())
        });
        let [newer, older] = holders.map(|holder| holder.join().unwrap());
        let written = written.lock().unwrap();
        assert!(newer, "nobody is newer");
        assert_eq!(*written, if older { vec![7, 8] } else { vec![8] });
        assert_eq!(gate.newest("r"), Some(Fence::new(8)));
    });
}

#[test]
fn model_what_is_forgotten_meanwhile_lets_nobody_older_in() {
    model(|| {
        let gate = Arc::new(FenceGate::new(1));
        gate.check("r", Fence::new(8)).unwrap();
        let (forgetting, late) = (gate.clone(), gate.clone());
        let other = thread::spawn(move || forgetting.check("other", Fence::new(9)).is_ok());
        let late = thread::spawn(move || late.check("r", Fence::new(7)).is_ok());
        assert_eq!((other.join().unwrap(), late.join().unwrap()), (true, false));
    });
}
