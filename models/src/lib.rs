//! The protocols of the quorum and of transactions as models, checked in every order of events up to a bound.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `ballot.rs` | claims, tokens, replies that come late or never |
//! | `hand_over.rs` | a hold that becomes somebody else's, by a vote that may fail half-way |
//! | `restart.rs` | a node that lost its memory, or came back with an old one |
//! | `members.rs` | members that change while locks are held |
//! | `ring.rs` | a key that moves from one store to another |
//! | `change.rs` | what the last two have in common |
//! | `semaphore.rs` | how many votes a permit takes |
//! | `home.rs` | waiting in the queue of one node |
//! | `two_phase.rs` | a transaction over several participants, whoever crashes |
//! | `saga.rs` | steps that are undone where they cannot be finished |
//!
//! A model that finds nothing wrong says nothing until it has been seen to find something: each comes with variants in
//! which one rule is broken, and of each a counterexample must be found. `node.rs` is a node, and `crowd.rs` one with
//! many claims: they answer by the rule itself. Who decides is asked of `proto::vote`, as in the store. What
//! coordinators, participants and sagas do is written here once more, for much of it is in the languages of databases.
//!
//! **Time** is in none of them. A claim lasts for a number of terms; that one has passed is an event that may come at
//! any moment. A client counts from when it sent, and a node from when it received, so a client knows before a node
//! does: a node may let go of a claim only when its client has ceased to be certain, and then at any moment, or never.
//! So whatever holds here holds for every ttl, delay and pause, as long as clocks go at the same rate.
//!
//! Run one, and see how many states it has: `cargo test -p models -- --nocapture ballot`. With `MODELS_VERBOSE=1` each
//! counterexample is told step by step; a node's number there is its place in the order in which nodes are sorted
//! after each step, where it makes no difference which is which.

#![cfg(test)]
#![allow(clippy::disallowed_methods, reason = "how long a model took is real time")]

mod ballot;
mod change;
mod crowd;
mod hand_over;
mod home;
mod members;
mod node;
mod restart;
mod ring;
mod saga;
mod semaphore;
mod two_phase;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use tenure::proto::vote::{Electorate, Group, votes_needed};

/// Checks every state there is.
fn must_hold<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + Send + Sync + Clone + PartialEq + 'static,
    M::Action: Debug + Clone + PartialEq,
{
    let start = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    println!("{name}: holds in {} states, {:.1?}", checker.unique_state_count(), start.elapsed());
}

/// Checks that a counterexample is found, and says how many steps it has; a shorter one may exist.
fn must_fail<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + Send + Sync + Clone + PartialEq + 'static,
    M::Action: Debug + Clone + PartialEq,
{
    let start = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let states = checker.unique_state_count();
    let found = checker.model().properties().into_iter().find_map(|property| {
        let path = checker.discovery(property.name).filter(|_| property.expectation.discovery_is_failure());
        path.map(|path| (property.name, path.into_actions()))
    });
    let Some((property, actions)) = found else { panic!("{name}: nothing was found wrong in {states} states") };
    println!("{name}: not {property} after {} steps, {states} states, {:.1?}", actions.len(), start.elapsed());
    if std::env::var_os("MODELS_VERBOSE").is_some() {
        actions.iter().for_each(|action| println!("    {action:?}"));
    }
}

/// A majority of each of these sets.
fn majorities<const N: usize>(sets: [Vec<usize>; N]) -> Electorate {
    let group = |members: Vec<usize>| Group { votes: votes_needed(members.len(), 1), members };
    Electorate(sets.into_iter().map(group).collect())
}
