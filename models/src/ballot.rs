//! Claims and tokens over nodes that keep their memory.
//!
//! **What it models.** Two clients that acquire, are outbid, give up, hold, renew, are too late, release and begin again.
//! A request may be carried out at any time after it was sent, also long after its client went on, any number of times,
//! or never; a reply may come at any time until its client asks something else, or never. So messages are lost,
//! doubled, late, and overtake each other. Clients' clocks stand still, one ahead of the other: tokens cannot rest on
//! them. Nodes are [`Node`]s, which are the rule itself.
//!
//! **What it leaves out.** The common queue: it only makes collisions rarer, and a claim let in from it is a vote for a
//! token like any other. Graves are kept for ever: an id that comes back after its grave has gone is a claim that
//! nobody counts, and stands in the way for a ttl at most; here one does that where a node's release needed no grave.
//!
//! **Bounds, and what was seen**: three nodes, at most two attempts by one client and one by the other, two rounds of
//! voting each, one renewal; five nodes, an attempt each.

use stateright::{Model, Property};
use tenure::proto::vote::{Electorate, Group, votes_needed};

use crate::node::{Answer, Id, Node};
use crate::{must_fail, must_hold};

const CLIENTS: usize = 2;
const ATTEMPTS: usize = 2;
const ROUNDS: usize = 2;

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
    /// What each client's clock says.
    clocks: [u8; CLIENTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State<const N: usize> {
    places: [Place; N],
    clients: [Client; CLIENTS],
    /// The token of the last hold.
    last: u8,
    fell: bool,
}

/// A node, and what is under way between it and each client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    node: Node,
    lines: [Line; CLIENTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Line {
    reply: Option<Answer>,
    is_heard: bool,
    /// The release of each attempt.
    releases: [Option<Leave>; ATTEMPTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Leave {
    Plain,
    Bury,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    phase: Phase,
    attempt: u8,
    round: u8,
    /// What it proposed in each round of each attempt; zero where it sent nothing.
    tokens: [[u8; ROUNDS]; ATTEMPTS],
    token: u8,
    /// For how many terms it is certain, and how many have passed.
    terms: u8,
    passed: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Asking,
    WritingBack,
    Held,
    Renewing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Begin(usize),
    AskAgain(usize),
    Leave(usize),
    Renew(usize),
    TermPasses(usize),
    Hear { client: usize, node: usize },
    Acquire { client: usize, attempt: u8, round: u8, node: usize },
    WriteBack { client: usize, node: usize },
    Renewal { client: usize, node: usize },
    Release { client: usize, attempt: u8, node: usize },
    Expire { node: usize },
}

impl Client {
    fn is_certain(&self) -> bool {
        matches!(self.phase, Phase::Held | Phase::Renewing) && self.passed < self.terms
    }
}

impl<const N: usize> Ballot<N> {
    fn who(&self) -> Electorate {
        Electorate(vec![Group { members: (0..N).collect(), votes: votes_needed(N, 1) }])
    }

    fn id(&self, client: usize, attempt: u8) -> Id {
        let attempt = if self.bug == Some(Bug::SameId) { 1 } else { attempt };
        (client * ATTEMPTS) as Id + attempt - 1
    }

    /// What is decided by what a client heard.
    fn decide(&self, state: &mut State<N>, client: usize) {
        let heard = |node: usize| {
            let line = state.places[node].lines[client];
            line.reply.filter(|_| line.is_heard)
        };
        let who = self.who();
        let carries = |token: u8| who.is_carried_by(|node| heard(node) == Some(Answer::In(token)));
        let is_in = who.is_carried_by(|node| matches!(heard(node), Some(Answer::In(_))));
        let tokens = || (0..N).filter_map(|node| if let Some(Answer::In(token)) = heard(node) { Some(token) } else { None });
        let agreed = match self.bug {
            Some(Bug::LargestCounter | Bug::MixedVotes | Bug::WriteBack) if is_in => tokens().max(),
            _ => tokens().find(|token| carries(*token)),
        };
        let Some(token) = agreed else { return };
        let me = &mut state.clients[client];
        match me.phase {
            Phase::Asking if self.bug == Some(Bug::WriteBack) => {
                (me.phase, me.token) = (Phase::WritingBack, token);
                state.forget_replies(client);
            }
            Phase::Asking | Phase::WritingBack if me.passed == 0 => {
                (me.phase, me.token, me.terms) = (Phase::Held, token, 1);
                state.fell |= token <= state.last;
                state.last = token;
            }
            Phase::Renewing if token >= me.token && me.passed < 2 => (me.phase, me.terms) = (Phase::Held, 2),
            _ => {}
        }
    }
}

impl<const N: usize> State<N> {
    fn forget_replies(&mut self, client: usize) {
        self.places.iter_mut().for_each(|place| {
            (place.lines[client].reply, place.lines[client].is_heard) = (None, false);
        });
    }

    fn answer(&mut self, client: usize, node: usize, answer: Answer) {
        let line = &mut self.places[node].lines[client];
        if !line.is_heard {
            line.reply = Some(answer);
        }
    }

    fn leave(&mut self, client: usize) {
        let attempt = self.clients[client].attempt as usize - 1;
        for place in &mut self.places {
            let line = &mut place.lines[client];
            line.releases[attempt] = match (line.reply, line.is_heard) {
                (Some(Answer::In(_)), true) => Some(Leave::Plain),
                (Some(Answer::Out), true) => None,
                _ => Some(Leave::Bury),
            };
        }
    }
}

impl<const N: usize> Model for Ballot<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        let clients = [Client::default(); CLIENTS];
        vec![State { places: [Place::default(); N], clients, last: 0, fell: false }]
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
            let terms = if me.phase == Phase::Renewing { 2 } else { me.terms.max(1) };
            if me.phase != Phase::Idle && me.passed < terms {
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
                for attempt in 1..=me.attempt {
                    let sent = me.tokens[attempt as usize - 1].iter().filter(|token| **token > 0).count();
                    let requests =
                        (1..=sent as u8).map(|round| Action::Acquire { client, attempt, round, node });
                    actions.extend(requests);
                    if line.releases[attempt as usize - 1].is_some() {
                        actions.push(Action::Release { client, attempt, node });
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
                me.attempt += 1;
                (me.phase, me.round, me.token, me.terms, me.passed) = (Phase::Asking, 1, 0, 0, 0);
                me.tokens[me.attempt as usize - 1][0] = self.clocks[client];
                if self.bug != Some(Bug::SameId) {
                    next.forget_replies(client);
                }
            }
            Action::AskAgain(client) => {
                let votes = next.places.iter().map(|place| place.lines[client]).filter(|line| line.is_heard);
                let latest = votes.filter_map(|line| if let Some(Answer::In(token)) = line.reply { Some(token) } else { None });
                let latest = latest.max()?;
                let heard = |node: usize| next.places[node].lines[client];
                let is_in = |node: usize| matches!(heard(node).reply, Some(Answer::In(_))) && heard(node).is_heard;
                if !self.who().is_carried_by(is_in) {
                    return None;
                }
                let me = &mut next.clients[client];
                me.tokens[me.attempt as usize - 1][me.round as usize] = latest + 1;
                me.round += 1;
                next.forget_replies(client);
            }
            Action::Leave(client) => {
                next.leave(client);
                if self.bug != Some(Bug::SameId) {
                    next.forget_replies(client);
                }
                let me = &mut next.clients[client];
                (me.phase, me.round, me.token, me.terms, me.passed) = (Phase::Idle, 0, 0, 0, 0);
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
            Action::Acquire { client, attempt, round, node } => {
                let me = &next.clients[client];
                let token = me.tokens[attempt as usize - 1][round as usize - 1];
                let is_present = me.phase == Phase::Asking && me.attempt == attempt && me.round == round;
                let there = &mut next.places[node].node;
                let last = there.fence;
                let token = match self.bug {
                    Some(Bug::LargestCounter | Bug::WriteBack) => 0,
                    _ => token,
                };
                if self.bug == Some(Bug::EqualToken) && token == last {
                    there.fence -= 1;
                }
                let answer = there.acquire(self.id(client, attempt), token);
                there.fence = there.fence.max(last);
                if is_present || self.bug == Some(Bug::SameId) {
                    next.answer(client, node, answer);
                }
            }
            Action::WriteBack { client, node } => {
                let token = next.clients[client].token;
                let fence = &mut next.places[node].node.fence;
                *fence = token.max(*fence);
                next.answer(client, node, Answer::In(token));
            }
            Action::Renewal { client, node } => {
                let id = self.id(client, next.clients[client].attempt);
                let answer = next.places[node].node.renew(id, 2);
                next.answer(client, node, answer);
            }
            Action::Release { client, attempt, node } => {
                let leave = next.places[node].lines[client].releases[attempt as usize - 1]?;
                next.places[node].node.release(self.id(client, attempt), leave == Leave::Bury);
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
        // Which node is which makes no difference.
        next.places.sort_unstable();
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
                state.clients[1].is_certain() && state.clients[1].token < state.last || state.clients[1].is_certain() && state.clients[0].attempt > 0
            }),
        ]
    }
}

fn three(bug: Option<Bug>) -> Ballot<3> {
    Ballot { bug, attempts: [2, 1], rounds: 2, renews: bug.is_none(), clocks: [2, 1] }
}

#[test]
fn three_nodes_grant_one_hold_at_a_time_under_rising_tokens() {
    must_hold("ballot, 3 nodes", Ballot::<3> { attempts: [1, 1], rounds: 2, ..three(None) });
}

#[test]
fn five_nodes_do_too() {
    must_hold("ballot, 5 nodes", Ballot::<5> { bug: None, attempts: [1, 1], rounds: 1, renews: false, clocks: [2, 1] });
}

#[test]
fn every_broken_rule_is_found() {
    must_fail("ballot, largest counter", three(Some(Bug::LargestCounter)));
    must_fail("ballot, write-back", three(Some(Bug::WriteBack)));
    must_fail("ballot, equal token", three(Some(Bug::EqualToken)));
    must_fail("ballot, mixed votes", three(Some(Bug::MixedVotes)));
    must_fail("ballot, same id", three(Some(Bug::SameId)));
}
