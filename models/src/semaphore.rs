//! A semaphore over several nodes: how many votes a permit takes.
//!
//! **What it models.** Three clients, each after one of two permits: they ask, are outbid, hold and leave. Each node
//! lets in as many as there are permits, so claims meet at a node without excluding each other; only that each needs so
//! many nodes keeps their number down.
//!
//! A token says less than a mutex' does: of two that hold at once either may have the later one. But who begins to ask
//! when another holds already has a later one, and no two have the same.
//!
//! **What it leaves out.** Messages that come late, renewals, restarts: `ballot.rs` and `restart.rs` have them, and
//! nothing there depends on the number of votes but that two sets of them meet.
//!
//! **Bounds, and what was seen.** Three nodes, two permits, an attempt each, of two rounds for one client: 240,000
//! states, 2 s. The shortcuts are found after 8 and 12 steps, in at most 45,000 states.

use stateright::{Model, Property};
use tenure::proto::vote::{Electorate, Group, votes_needed};

use crate::crowd::{Answer, Crowd};
use crate::node::Id;
use crate::{must_fail, must_hold};

const CLIENTS: usize = 3;
const PERMITS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A majority is enough, as for a mutex.
    Majority,
    /// As is whoever is in at enough nodes, under whatever tokens.
    MixedVotes,
}

#[derive(Clone, Debug)]
struct Semaphore<const N: usize> {
    bug: Option<Bug>,
    /// How many rounds each client has.
    rounds: [u8; CLIENTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State<const N: usize> {
    places: [Place; N],
    clients: [Client; CLIENTS],
    /// The latest token of a hold.
    last: u8,
    fell: bool,
}

/// A node, which clients have a request under way to it, and the tokens under which it has said that they are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    node: Crowd,
    asks: [bool; CLIENTS],
    votes: [u8; CLIENTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    phase: Phase,
    round: u8,
    token: u8,
    /// The latest token of a hold when it began.
    before: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Asking,
    Held,
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Begin(usize),
    Ask {
        client: usize,
        node: usize,
    },
    AskAgain(usize),
    /// By its own will, or because its time has passed.
    Leave(usize),
    Expire {
        client: usize,
        node: usize,
    },
}

impl<const N: usize> Semaphore<N> {
    fn who(&self) -> Electorate {
        let limit = if self.bug == Some(Bug::Majority) { 1 } else { PERMITS };
        Electorate(vec![Group { members: (0..N).collect(), votes: votes_needed(N, limit) }])
    }

    fn is_in(&self, state: &State<N>, client: usize) -> bool {
        self.who().is_carried_by(|node| state.places[node].votes[client] > 0)
    }

    fn send(&self, state: &mut State<N>, client: usize, token: u8) {
        let me = &mut state.clients[client];
        if me.round == 0 {
            me.before = state.last;
        }
        (me.phase, me.round, me.token) = (Phase::Asking, me.round + 1, token);
        for place in &mut state.places {
            (place.asks[client], place.votes[client]) = (true, 0);
        }
    }

    fn decide(&self, state: &mut State<N>, client: usize) {
        let votes = |node: usize| state.places[node].votes[client];
        let carries = |token: u8| token > 0 && self.who().is_carried_by(|node| votes(node) == token);
        let token = match self.bug {
            Some(Bug::MixedVotes) => Some(state.clients[client].token).filter(|_| self.is_in(state, client)),
            _ => (0..N).map(votes).find(|token| carries(*token)),
        };
        let Some(token) = token else { return };
        let others = state.clients.iter().filter(|other| other.phase == Phase::Held);
        state.fell |= others.into_iter().any(|other| other.token == token);
        let me = &mut state.clients[client];
        (me.phase, me.token) = (Phase::Held, token);
        state.fell |= token <= me.before;
        state.last = state.last.max(token);
    }
}

impl<const N: usize> Model for Semaphore<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        let (places, clients) = ([Place::default(); N], [Client::default(); CLIENTS]);
        vec![State { places, clients, last: 0, fell: false }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for (client, me) in state.clients.iter().enumerate() {
            match me.phase {
                // In this order: which of the last two is which makes no difference.
                Phase::Idle if client == 0 || state.clients[client - 1].phase != Phase::Idle => {
                    actions.push(Action::Begin(client));
                }
                Phase::Idle => {}
                Phase::Asking | Phase::Held => actions.push(Action::Leave(client)),
                Phase::Left => {}
            }
            if me.phase == Phase::Asking && me.round < self.rounds[client] && self.is_in(state, client) {
                actions.push(Action::AskAgain(client));
            }
            for (node, place) in state.places.iter().enumerate() {
                if place.asks[client] {
                    actions.push(Action::Ask { client, node });
                }
                if me.phase == Phase::Left && place.node.token(client as Id).is_some() {
                    actions.push(Action::Expire { client, node });
                }
            }
        }
    }

    fn next_state(&self, state: &State<N>, action: Action) -> Option<State<N>> {
        let mut next = *state;
        match action {
            Action::Begin(client) => self.send(&mut next, client, 1),
            Action::AskAgain(client) => {
                let latest = next.places.iter().map(|place| place.votes[client]).max()?;
                self.send(&mut next, client, latest + 1);
            }
            Action::Ask { client, node } => {
                let me = next.clients[client];
                let place = &mut next.places[node];
                place.asks[client] = false;
                let answer = place.node.acquire(PERMITS, client as Id, me.token, false);
                if let (Answer::In(token), Phase::Asking) = (answer, me.phase) {
                    place.votes[client] = token;
                    self.decide(&mut next, client);
                }
            }
            Action::Leave(client) => {
                next.clients[client].phase = Phase::Left;
                next.places.iter_mut().for_each(|place| (place.asks[client], place.votes[client]) = (false, 0));
                let me = &mut next.clients[client];
                (me.round, me.token, me.before) = (0, 0, 0);
            }
            Action::Expire { client, node } => next.places[node].node.release(PERMITS, client as Id),
        }
        // Which node is which makes no difference.
        next.places.sort_unstable();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no more holds than permits", |_, state: &State<N>| state.held() <= PERMITS as usize),
            Property::always("who asks later has a later token", |_, state: &State<N>| !state.fell),
            Property::sometimes("all permits are had", |_, state: &State<N>| state.held() == PERMITS as usize),
            Property::sometimes("a permit is had again", |_, state: &State<N>| {
                state.held() == PERMITS as usize && state.clients.iter().any(|client| client.phase == Phase::Left)
            }),
        ]
    }
}

impl<const N: usize> State<N> {
    fn held(&self) -> usize {
        self.clients.iter().filter(|client| client.phase == Phase::Held).count()
    }
}

#[test]
fn a_semaphore_lets_in_as_many_as_it_has_permits() {
    must_hold("semaphore, 3 nodes", Semaphore::<3> { bug: None, rounds: [2, 1, 1] });
}

#[test]
fn every_shortcut_is_found() {
    must_fail("semaphore, a majority", Semaphore::<3> { bug: Some(Bug::Majority), rounds: [2, 1, 1] });
    must_fail("semaphore, mixed votes", Semaphore::<3> { bug: Some(Bug::MixedVotes), rounds: [2, 1, 1] });
}
