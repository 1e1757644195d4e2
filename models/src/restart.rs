//! A node that comes back without its memory, or with an old one.
//!
//! **What it models.** Clients acquire, are outbid, hold, renew and top up, are too late, and begin again, while nodes
//! lose what they knew or come back with what they had saved earlier. A restarted node has no vote until everything
//! that was sent before its restart is over (the longest ttl), and after that a weak one: it counts under a token that
//! is later than what enough others remember. A vote that was heard stays heard when its node restarts.
//!
//! **What it leaves out.** Late and doubled messages: `ballot.rs` has them; a request that got no answer is one that
//! was never carried out, or a claim whose time will pass. A weak node stays weak, as if tokens were remembered for
//! ever. That the clock has to do where so many have forgotten that nobody can know: then nothing is promised about
//! tokens but by the clock, and here nobody gets in.
//!
//! **Bounds, and what was seen.** Three nodes, two restarts, one of which may bring back what was saved once, an
//! attempt each of two rounds and a renewal: 210,000 states. Two attempts by one client, one restart: 72,000. Five
//! nodes, two restarts: 50,000. Each below 1 s. The shortcuts are found after 7 to 13 steps. One of them, a vote for a
//! later token that counts as knowing of none, was in the quorum once, and found here.

use stateright::{Model, Property};

use self::state::{Action, CLIENTS, Client, Line, Phase, Place, Quarantine, State, Weight, id};
use crate::node::{Answer, Id, Node};
use crate::{majorities, must_fail, must_hold};

mod state;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A restarted node votes at once.
    NoQuarantine,
    /// It votes fully once its time is over.
    NoReading,
    /// One node fewer is read than has to be.
    TooFewRead,
    /// Who voted is not read, though it may have voted for a later token than the one in question.
    AnyVoteKnows,
}

#[derive(Clone, Debug)]
struct Restart<const N: usize> {
    bug: Option<Bug>,
    attempts: [u8; CLIENTS],
    rounds: u8,
    restarts: u8,
    /// Whether a node may come back with what it saved once, and not only with nothing.
    stale: bool,
    renews: bool,
    clocks: [u8; CLIENTS],
}

impl<const N: usize> Restart<N> {
    fn decide(&self, state: &mut State<N>, client: usize) {
        let me = state.clients[client];
        match me.phase {
            Phase::Renewing if state.carries(client, me.token, Weight::Weak) => {
                (state.clients[client].phase, state.clients[client].renewed) = (Phase::Held, true);
                state.each_line(client, |line| {
                    line.vote = None;
                    if line.quarantine == Quarantine::Renewing {
                        line.quarantine = Quarantine::Over;
                    }
                });
            }
            Phase::Asking => {
                let tokens: Vec<u8> =
                    state.lines(client).filter_map(|line| line.vote).map(|(token, _)| token).collect();
                let fully = tokens.into_iter().find(|token| state.carries(client, *token, Weight::Full));
                let weakly =
                    || (state.carries(client, me.token, Weight::Weak) && self.knows(state, client)).then_some(me.token);
                let Some(token) = fully.or_else(weakly) else { return };
                state.was_weak |= fully.is_none();
                (state.clients[client].phase, state.clients[client].token) = (Phase::Held, token);
                state.fell |= token <= state.last;
                state.last = token;
                state.each_line(client, |line| (line.vote, line.was_read) = (None, false));
            }
            _ => {}
        }
    }

    /// Whether enough nodes that have kept their memory were asked what they remember; one that voted for the token
    /// remembers none that is later.
    fn knows(&self, state: &State<N>, client: usize) -> bool {
        let asked = |node: usize| state.places[node].lines[client].was_read || self.votes_fully(state, client, node);
        let who = majorities([(0..N).collect()]);
        match self.bug {
            Some(Bug::TooFewRead) => (0..N).any(|one| who.is_known_by(|node| node == one || asked(node))),
            _ => who.is_known_by(asked),
        }
    }

    fn votes_fully(&self, state: &State<N>, client: usize, node: usize) -> bool {
        let is_for = |token: u8| token == state.clients[client].token || self.bug == Some(Bug::AnyVoteKnows);
        state.places[node].lines[client].vote.is_some_and(|(token, weight)| weight == Weight::Full && is_for(token))
    }
}

impl<const N: usize> Model for Restart<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        let place =
            Place { node: Node::default(), saved: None, weight: Weight::Full, lines: [Line::default(); CLIENTS] };
        let clients = [Client::default(); CLIENTS];
        let (restarts, is_saved) = (self.restarts, !self.stale);
        vec![State { places: [place; N], clients, restarts, is_saved, last: 0, fell: false, was_weak: false }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for (client, me) in state.clients.iter().enumerate() {
            let asks = |node: &usize| state.places[*node].lines[client].vote.is_none();
            let ask = (0..N).filter(asks).map(|node| Action::Ask { client, node });
            match me.phase {
                Phase::Idle if me.attempt < self.attempts[client] => actions.push(Action::Begin(client)),
                Phase::Idle => {}
                Phase::Asking => {
                    actions.extend(ask);
                    actions.push(Action::Leave(client));
                    if me.round < self.rounds && state.outbid(client).is_some() {
                        actions.push(Action::AskAgain(client));
                    }
                    if state.carries(client, me.token, Weight::Weak) {
                        let full = |node: &usize| {
                            state.places[*node].weight == Weight::Full && !self.votes_fully(state, client, *node)
                        };
                        actions.extend((0..N).filter(full).map(|node| Action::Read { client, node }));
                    }
                }
                Phase::Held => {
                    actions.push(Action::Leave(client));
                    if self.renews && !me.renewed {
                        actions.push(Action::Renew(client));
                    }
                }
                Phase::Renewing => {
                    actions.extend(ask);
                    actions.push(Action::Leave(client));
                }
            }
        }
        for (node, place) in state.places.iter().enumerate() {
            let is_of = |holder: Id, (client, me): (usize, &Client)| {
                me.phase != Phase::Idle && id(client, me.attempt) == holder
            };
            let of_nobody = |holder: Id| !state.clients.iter().enumerate().any(|client| is_of(holder, client));
            if place.node.holder.is_some_and(|holder| of_nobody(holder.id)) {
                actions.push(Action::Expire { node });
            }
            if !state.is_saved {
                actions.push(Action::Save { node });
            }
            if state.restarts > 0 {
                actions.push(Action::Restart { node, stale: false });
                actions.extend(place.saved.map(|_| Action::Restart { node, stale: true }));
            }
            if place.weight == Weight::None && place.lines.iter().all(|line| line.quarantine == Quarantine::Over) {
                actions.push(Action::QuarantineEnds { node });
            }
        }
    }

    fn next_state(&self, state: &State<N>, action: Action) -> Option<State<N>> {
        let mut next = *state;
        match action {
            Action::Begin(client) => {
                next.clients[client].attempt += 1;
                next.propose(client, self.clocks[client]);
            }
            Action::AskAgain(client) => {
                let latest = next.outbid(client)?;
                next.propose(client, latest + 1);
            }
            Action::Ask { client, node } => {
                let me = next.clients[client];
                let place = &mut next.places[node];
                // A renewal tops up where the claim is missing: that is an acquisition, which renews where it is not.
                if let Answer::In(token) = place.node.acquire(id(client, me.attempt), me.token) {
                    place.lines[client].vote = Some((token, place.weight));
                }
                self.decide(&mut next, client);
            }
            Action::Read { client, node } => {
                let (latest, me) = (next.places[node].node.fence, next.clients[client]);
                match latest >= me.token {
                    true if me.round < self.rounds => next.propose(client, latest + 1),
                    true => next.leave(client),
                    false => {
                        next.places[node].lines[client].was_read = true;
                        self.decide(&mut next, client);
                    }
                }
            }
            Action::Renew(client) => {
                next.clients[client].phase = Phase::Renewing;
                next.each_line(client, |line| {
                    if line.quarantine == Quarantine::Lasts {
                        line.quarantine = Quarantine::Renewing;
                    }
                });
            }
            Action::Leave(client) => next.leave(client),
            Action::Expire { node } => next.places[node].node.expire(),
            Action::Save { node } => {
                (next.is_saved, next.places[node].saved) = (true, Some(next.places[node].node));
            }
            Action::Restart { node, stale } => {
                next.restarts -= 1;
                let place = &mut next.places[node];
                place.node = if stale { place.saved.unwrap_or_default() } else { Node::default() };
                place.weight = if self.bug == Some(Bug::NoQuarantine) { Weight::Full } else { Weight::None };
                for (line, me) in place.lines.iter_mut().zip(&next.clients) {
                    let is_idle = me.phase == Phase::Idle;
                    line.quarantine = if is_idle { Quarantine::Over } else { Quarantine::Lasts };
                }
            }
            Action::QuarantineEnds { node } => {
                next.places[node].weight = if self.bug == Some(Bug::NoReading) { Weight::Full } else { Weight::Weak };
            }
        }
        if next.restarts == 0 {
            next.places.iter_mut().for_each(|place| place.saved = None);
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
            Property::sometimes("a hold by the vote of a restarted node", |_, state: &State<N>| state.was_weak),
        ]
    }
}

fn three(bug: Option<Bug>) -> Restart<3> {
    Restart { bug, attempts: [1, 1], rounds: 2, restarts: 1, stale: false, renews: false, clocks: [3, 1] }
}

#[test]
fn a_node_that_forgot_breaks_nothing() {
    must_hold("restart, 3 nodes", Restart { renews: true, restarts: 2, stale: true, ..three(None) });
    must_hold("restart, 3 nodes, begun again", Restart { attempts: [2, 1], ..three(None) });
}

#[test]
fn five_nodes_of_which_two_forgot_neither() {
    let [attempts, clocks] = [[1, 1], [3, 1]];
    let model = Restart::<5> { bug: None, attempts, rounds: 1, restarts: 2, stale: false, renews: false, clocks };
    must_hold("restart, 5 nodes", Restart { clocks: [1, 3], ..model });
}

#[test]
fn every_shortcut_is_found() {
    must_fail("restart, no quarantine", three(Some(Bug::NoQuarantine)));
    must_fail("restart, no reading", three(Some(Bug::NoReading)));
    must_fail("restart, any vote knows", Restart { attempts: [2, 1], ..three(Some(Bug::AnyVoteKnows)) });
    must_fail("restart, too few read", three(Some(Bug::TooFewRead)));
}
