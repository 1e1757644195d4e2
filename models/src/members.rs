//! Members of a quorum that change while locks are held: `change.rs` over three nodes, of which one is replaced.
//!
//! **Bounds, and what was seen.** One change, an attempt each: 580,000 states, 3 s. Two coordinators, one to replace a
//! node and one to leave all as it was, each paused at any step, and clients that only follow the views: 59,000; where
//! the second one undoes what the first has begun, 26,000. The shortcuts are found after 7 to 17 steps, in at most
//! 370,000 states; `ring.rs` has holds that are renewed across a change.

use crate::change::{Bug, Change};
use crate::{must_fail, must_hold};

fn replace(bug: Option<Bug>, coordinators: usize) -> Change<4> {
    let (old, new, claims) = (0b0111, [0b1110, 0b0111, 0], coordinators == 1);
    Change { bug, old, new, coordinators, undoes: false, claims, rounds: 1, renewals: 0, clocks: [1, 2] }
}

/// One replaces a node, and another undoes that.
fn undo(bug: Option<Bug>) -> Change<4> {
    Change { undoes: true, ..replace(bug, 2) }
}

#[test]
fn a_replaced_node_lets_nobody_in_twice() {
    must_hold("members, one change", replace(None, 1));
    must_hold("members, two changes", replace(None, 2));
    must_hold("members, one undone", undo(None));
}

#[test]
fn every_shortcut_is_found() {
    must_fail("members, no joint view", replace(Some(Bug::NoJoint), 1));
    must_fail("members, no wait", replace(Some(Bug::NoWait), 1));
    must_fail("members, no wait for claims", replace(Some(Bug::NoTtl), 1));
    must_fail("members, no wait for tokens", Change { clocks: [2, 1], ..replace(Some(Bug::NoMemory), 1) });
    must_fail("members, expired view", replace(Some(Bug::ExpiredView), 1));
    must_fail("members, number not checked", replace(Some(Bug::NoCheck), 2));
    must_fail("members, no promise", replace(Some(Bug::NoPromise), 2));
    must_fail("members, fresh final", replace(Some(Bug::FreshFinal), 2));
    must_fail("members, undone at once", undo(Some(Bug::UndoneAtOnce)));
}
