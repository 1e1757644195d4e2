//! A key of a ring that moves from store A to store B, or is sent back by somebody who was paused: `change.rs` over two
//! stores, each of which decides alone before or after, and both together in between. A store may be a quorum: then it
//! is one as `ballot.rs` has it.
//!
//! **Bounds, and what was seen.** An attempt each of two rounds and two renewals, one move: 10,000 states; two:
//! 170,000, below 1 s. The shortcuts are found after 8 to 16 steps.

use crate::change::{Bug, Change};
use crate::{must_fail, must_hold};

fn moves(bug: Option<Bug>, coordinators: usize) -> Change<2> {
    Change { bug, old: 0b01, new: [0b10, 0b01], coordinators, claims: true, rounds: 2, renewals: 2, clocks: [2, 1] }
}

#[test]
fn a_key_that_moves_lets_nobody_in_twice() {
    must_hold("ring, one move", moves(None, 1));
    must_hold("ring, two moves", moves(None, 2));
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
}
