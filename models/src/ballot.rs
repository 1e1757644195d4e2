//! Claims and tokens over nodes that keep their memory.
//!
//! **What it models.** Two clients that acquire, are outbid, give up, hold, renew, are too late, and begin again. A
//! request may be carried out at any time after it was sent, also long after its client went on, or never, and where
//! `doubles` is set more than once while its answer is awaited; a reply may come at any time until its client asks
//! something else, or never. So messages are lost, doubled, late, and overtake each other. Clients' clocks stand
//! still, one ahead of the other: tokens cannot rest on them. Nodes are [`Node`](crate::node::Node)s, which are the
//! rule itself.
//!
//! A release is not a message of its own, except where a bug makes it matter which attempt it ends: once its client has
//! left, a claim may go at any moment, as one whose time has passed, and that is all that a release can do.
//!
//! **What it leaves out.** The common queue: it only makes collisions rarer, and a claim let in from it is a vote for a
//! token like any other. Graves: an id that comes back after its client has left is a claim that nobody counts; here it
//! always may. Of the requests of one attempt to one node, the last: those before it are lost.
//!
//! **Bounds, and what was seen.** Three nodes, an attempt each of two rounds and a renewal, messages doubled: 940,000
//! states, 4 s. Two attempts by one client, of two rounds: 570,000. Five nodes, an attempt each of two rounds: 48,000.
//! The broken rules are found after 9 to 24 steps, in at most 470,000 states.

use stateright::{Model, Property};
use tenure::proto::vote::Electorate;

use self::state::{ATTEMPTS, Action, CLIENTS, Client, Phase, Place, State};
use crate::node::{Answer, Id};
use crate::{majorities, must_fail, must_hold};

mod state;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Each node mints by itself, and the largest number is the token.
    LargestCounter,
    /// As before, and the largest is written to a majority before it counts; but a node does not ask whose it is.
    WriteBack,
    /// A node lets a claim in under its last token once more.
    EqualToken,
    /// Whoever is in at a majority has it, under whatever tokens.
    MixedVotes,
    /// The next attempt has the id of the last, so what comes late of the last is about the next.
    SameId,
}

#[derive(Clone, Debug)]
struct Ballot<const N: usize> {
    bug: Option<Bug>,
    /// How many attempts each client has.
    attempts: [u8; CLIENTS],
    rounds: u8,
    renews: bool,
    /// Whether a request that is awaited may be carried out more than once.
    doubles: bool,
    /// What each client's clock says.
    clocks: [u8; CLIENTS],
}

impl<const N: usize> Ballot<N> {
    fn who(&self) -> Electorate {
        majorities([(0..N).collect()])
    }

    fn id(&self, client: usize, attempt: u8) -> Id {
        let attempt = if self.bug == Some(Bug::SameId) { 1 } else { attempt };
        (client * ATTEMPTS) as Id + attempt - 1
    }

    /// What is decided by what a client heard.
    fn decide(&self, state: &mut State<N>, client: usize) {
        let who = self.who();
        let heard = |node: usize| state.places[node].lines[client].heard();
        let mut tokens = (0..N).filter_map(heard);
        let agreed = match self.bug {
            Some(Bug::LargestCounter | Bug::WriteBack) if state.is_in(&who, client) => tokens.max(),
            Some(Bug::MixedVotes) if state.is_in(&who, client) => Some(state.clients[client].proposed()),
            Some(Bug::LargestCounter | Bug::WriteBack | Bug::MixedVotes) => None,
            _ => tokens.find(|token| who.is_carried_by(|node| heard(node) == Some(*token))),
        };
        let Some(token) = agreed else { return };
        let me = &mut state.clients[client];
        match me.phase {
            Phase::Asking if self.bug == Some(Bug::WriteBack) => {
                (me.phase, me.token) = (Phase::WritingBack, token);
                state.forget_replies(client);
            }
            Phase::Asking | Phase::WritingBack => {
                (me.phase, me.token, me.terms) = (Phase::Held, token, 1);
                state.fell |= token <= state.last;
                state.is_second = state.last > 0;
                state.last = token;
            }
            Phase::Renewing if token >= me.token => (me.phase, me.terms) = (Phase::Held, 2),
            _ => {}
        }
    }
}

impl<const N: usize> Model for Ballot<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        let clients = [Client::default(); CLIENTS];
        vec![State { places: [Place::default(); N], clients, last: 0, fell: false, is_second: false }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for (client, me) in state.clients.iter().enumerate() {
            match me.phase {
                Phase::Idle if me.attempt < self.attempts[client] => actions.push(Action::Begin(client)),
                Phase::Idle => {}
                Phase::Asking if me.round < self.rounds => {
                    actions.extend([Action::AskAgain(client), Action::Leave(client)]);
                }
                Phase::Held if self.renews && me.terms == 1 => {
                    actions.extend([Action::Renew(client), Action::Leave(client)]);
                }
                _ => actions.push(Action::Leave(client)),
            }
            // The last one's end is that the client leaves.
            if me.passed == 0 && (me.phase == Phase::Renewing || me.terms == 2) {
                actions.push(Action::TermPasses(client));
            }
            for (node, place) in state.places.iter().enumerate() {
                let line = place.lines[client];
                if line.reply.is_some() && !line.is_heard {
                    actions.push(Action::Hear { client, node });
                }
                match me.phase {
                    Phase::WritingBack => actions.push(Action::WriteBack { client, node }),
                    Phase::Renewing => actions.push(Action::Renewal { client, node }),
                    _ => {}
                }
                for attempt in 0..me.attempt {
                    if line.asks[attempt as usize] {
                        actions.push(Action::Acquire { client, attempt: attempt + 1, node });
                    }
                    if line.releases[attempt as usize] {
                        actions.push(Action::Release { client, attempt: attempt + 1, node });
                    }
                }
            }
        }
        let held = (0..N).filter(|node| state.places[*node].node.holder.is_some());
        actions.extend(held.map(|node| Action::Expire { node }));
    }

    fn next_state(&self, state: &State<N>, action: Action) -> Option<State<N>> {
        let mut next = *state;
        match action {
            Action::Begin(client) => {
                let me = &mut next.clients[client];
                *me = Client { phase: Phase::Asking, attempt: me.attempt + 1, tokens: me.tokens, ..Client::default() };
                next.send(client, self.clocks[client]);
            }
            Action::AskAgain(client) => {
                let latest = next.places.iter().filter_map(|place| place.lines[client].heard()).max()?;
                if !next.is_in(&self.who(), client) {
                    return None;
                }
                next.send(client, latest + 1);
                next.forget_replies(client);
            }
            Action::Leave(client) => {
                let me = &mut next.clients[client];
                if self.bug == Some(Bug::SameId) {
                    next.places.iter_mut().for_each(|place| {
                        place.lines[client].releases[me.attempt as usize - 1] = true;
                    });
                }
                *me = Client { attempt: me.attempt, tokens: me.tokens, ..Client::default() };
                if self.bug != Some(Bug::SameId) {
                    next.forget_replies(client);
                }
            }
            Action::Renew(client) => {
                next.clients[client].phase = Phase::Renewing;
                next.forget_replies(client);
            }
            Action::TermPasses(client) => next.clients[client].passed += 1,
            Action::Hear { client, node } => {
                next.places[node].lines[client].is_heard = true;
                self.decide(&mut next, client);
            }
            Action::Acquire { client, attempt, node } => {
                let me = &next.clients[client];
                let token = match self.bug {
                    Some(Bug::LargestCounter | Bug::WriteBack) => 0,
                    _ => me.tokens[attempt as usize - 1],
                };
                let is_awaited = me.phase == Phase::Asking && (me.attempt == attempt || self.bug == Some(Bug::SameId));
                let Place { node: there, lines } = &mut next.places[node];
                let line = &mut lines[client];
                let last = there.fence;
                if self.bug == Some(Bug::EqualToken) && token == last {
                    there.fence -= 1;
                }
                let answer = there.acquire(self.id(client, attempt), token);
                there.fence = there.fence.max(last);
                line.asks[attempt as usize - 1] = self.doubles && is_awaited;
                if is_awaited {
                    line.answer(answer);
                }
            }
            Action::WriteBack { client, node } => {
                let token = next.clients[client].token;
                let fence = &mut next.places[node].node.fence;
                *fence = token.max(*fence);
                next.places[node].lines[client].answer(Answer::In(token));
            }
            Action::Renewal { client, node } => {
                let id = self.id(client, next.clients[client].attempt);
                let answer = next.places[node].node.renew(id, 2);
                next.places[node].lines[client].answer(answer);
            }
            Action::Release { client, attempt, node } => {
                next.places[node].lines[client].releases[attempt as usize - 1] = false;
                next.places[node].node.release(self.id(client, attempt), false);
            }
            Action::Expire { node } => {
                let holder = next.places[node].node.holder?;
                let of = |client: usize, attempt: u8| self.id(client, attempt) == holder.id;
                let is_over = |(client, me): (usize, &Client)| {
                    let is_present = me.phase != Phase::Idle && of(client, me.attempt);
                    !is_present || me.passed >= holder.terms
                };
                if !next.clients.iter().enumerate().all(is_over) {
                    return None;
                }
                next.places[node].node.expire();
            }
        }
        let next = next.normal();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one hold at a time", |_, state: &State<N>| {
                state.clients.iter().filter(|client| client.is_certain()).count() <= 1
            }),
            Property::always("later holds have later tokens", |_, state: &State<N>| !state.fell),
            Property::sometimes("a hold", |_, state: &State<N>| state.clients[0].is_certain()),
            Property::sometimes("a renewed hold", |model: &Self, state: &State<N>| {
                !model.renews || state.clients.iter().any(|client| client.is_certain() && client.terms == 2)
            }),
            Property::sometimes("a hold after another's", |_, state: &State<N>| {
                state.clients[1].is_certain() && state.is_second
            }),
        ]
    }
}

fn three(bug: Option<Bug>, attempts: [u8; CLIENTS]) -> Ballot<3> {
    Ballot { bug, attempts, rounds: 1, renews: false, doubles: false, clocks: [2, 1] }
}

#[test]
fn three_nodes_grant_one_hold_at_a_time_under_rising_tokens() {
    must_hold("ballot, 3 nodes", Ballot { rounds: 2, renews: true, doubles: true, ..three(None, [1, 1]) });
    must_hold("ballot, 3 nodes, begun again", Ballot { rounds: 2, clocks: [1, 3], ..three(None, [2, 1]) });
}

#[test]
fn five_nodes_do_too() {
    let model = Ballot::<5> { bug: None, attempts: [1, 1], rounds: 2, renews: false, doubles: false, clocks: [1, 2] };
    must_hold("ballot, 5 nodes", model);
}

#[test]
fn every_broken_rule_is_found() {
    must_fail("ballot, largest counter", three(Some(Bug::LargestCounter), [2, 1]));
    must_fail("ballot, equal token", Ballot { clocks: [1, 1], ..three(Some(Bug::EqualToken), [1, 1]) });
    must_fail("ballot, mixed votes", three(Some(Bug::MixedVotes), [1, 1]));
    must_fail("ballot, same id", three(Some(Bug::SameId), [2, 1]));
    must_fail("ballot, write-back", three(Some(Bug::WriteBack), [2, 1]));
}
