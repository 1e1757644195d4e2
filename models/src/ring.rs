//! A key of a ring that moves from store A to store B, or is sent back by somebody who was paused: `change.rs` over two
//! stores, each of which decides alone before or after, and both together in between. A store may be a quorum: then it
//! is one as `ballot.rs` has it.
//!
//! **Bounds, and what was seen.** An attempt each of two rounds and two renewals, one move: 10,000 states; two:
//! 170,000, below 1 s; one that is undone: 100,000. The shortcuts are found after 8 to 16 steps.
//!
//! To undo a change takes a promise only where somebody else has changed the members since: of the two that were to be
//! settled, the one that undoes writes both groups in any case. So that takes three stores.

use crate::change::{Bug, Change};
use crate::{must_fail, must_hold};

fn moves(bug: Option<Bug>, coordinators: usize) -> Change<2> {
    let (old, new) = (0b01, [0b10, 0b01, 0]);
    Change { bug, old, new, coordinators, undoes: false, claims: true, rounds: 2, renewals: 2, clocks: [2, 1] }
}

/// One moves the key, and another undoes that.
fn undo() -> Change<2> {
    Change { undoes: true, ..moves(None, 2) }
}

/// One moves the key to a second store, another goes on to a third, and whoever was to undo the first move wakes up.
/// Nobody claims anything.
fn undo_late(bug: Option<Bug>) -> Change<3> {
    let (old, new) = (0b001, [0b010, 0b100, 0]);
    Change { bug, old, new, coordinators: 3, undoes: true, claims: false, rounds: 0, renewals: 0, clocks: [0, 0] }
}

#[test]
fn a_key_that_moves_lets_nobody_in_twice() {
    must_hold("ring, one move", moves(None, 1));
    must_hold("ring, two moves", moves(None, 2));
    must_hold("ring, one undone", undo());
    must_hold("ring, one undone late", undo_late(None));
}

#[test]
fn every_shortcut_is_found() {
    must_fail("ring, no joint view", moves(Some(Bug::NoJoint), 1));
    must_fail("ring, no wait", moves(Some(Bug::NoWait), 1));
    must_fail("ring, no wait for claims", moves(Some(Bug::NoTtl), 1));
    must_fail("ring, no wait for tokens", moves(Some(Bug::NoMemory), 1));
    must_fail("ring, expired view", moves(Some(Bug::ExpiredView), 1));
    must_fail("ring, number not checked", moves(Some(Bug::NoCheck), 2));
    must_fail("ring, no promise", moves(Some(Bug::NoPromise), 2));
    must_fail("ring, fresh final", moves(Some(Bug::FreshFinal), 2));
    must_fail("ring, undone late without a promise", undo_late(Some(Bug::NoPromise)));
}
