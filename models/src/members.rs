//! Members of a quorum that change while locks are held: `change.rs` over three nodes, of which one is replaced.
//!
//! **Bounds, and what was seen.** One change, an attempt each: 580,000 states, 3 s. Two coordinators, one to replace a
//! node and one to leave all as it was, each paused at any step, and clients that only follow the views: 59,000. The
//! shortcuts are found after 7 to 17 steps, in at most 370,000 states; `ring.rs` has holds that are renewed across a
//! change.

use crate::change::{Bug, Change};
use crate::{must_fail, must_hold};

fn replace(bug: Option<Bug>, coordinators: usize) -> Change<4> {
    let new = [0b1110, 0b0111];
    Change { bug, old: 0b0111, new, coordinators, claims: coordinators == 1, rounds: 1, renewals: 0, clocks: [1, 2] }
}

#[test]
fn a_replaced_node_lets_nobody_in_twice() {
    must_hold("members, one change", replace(None, 1));
    must_hold("members, two changes", replace(None, 2));
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
}
