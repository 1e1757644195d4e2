//! Waiting for a quorum, in the queue of one of its nodes.
//!
//! **What it models.** Clients that wait. Each asks all nodes, and its *home*, the same for all, to keep it in the
//! queue where it is busy. Who cannot win a round lets go of all other nodes, and stays at home; whoever is let in
//! there is told its token, and asks all nodes for that one. What a client was told may have passed by the time it
//! hears it: a place lasts until its deadline, and so does a claim that was let in from it. Requests are carried out at
//! any time after they were sent, also when their client has gone on, or never. Anybody may give up at any time.
//!
//! **What it leaves out.** A home that other clients do not agree on, or that its clients give up: then it is a node
//! like any other, which is what `ballot.rs` is about. Time, as everywhere: what a client may rest on is what it asked
//! for in this round; all else may pass at any moment.
//!
//! **Bounds, and what was seen.** Three nodes and two clients, an attempt each of three rounds: 120,000 states, 3 s;
//! from where one holds, and will want it again, and the other waits: 54,000. The shortcuts are found after 7 to 12
//! steps, in at most 15,000 states.

use stateright::{Model, Property};
use tenure::proto::vote::Electorate;

use self::state::{Action, CLIENTS, Client, GENERATIONS, HOME, NODES, Phase, State, id};
use crate::crowd::Answer;
use crate::{majorities, must_fail, must_hold};

mod state;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Who is let in at home has it.
    HomeDecides,
    /// What a client was told by its home counts as the home's vote.
    ToldIsVote,
    /// Who comes back to a node has the id that it was released under.
    SameId,
    /// Who waits does not look again whether it was let in, or has a place still.
    AsksOnce,
}

#[derive(Clone, Debug)]
struct Home {
    bug: Option<Bug>,
    /// How many rounds each client has in an attempt.
    rounds: [u8; CLIENTS],
    /// How often each client wants it.
    attempts: [u8; CLIENTS],
    /// What each client's clock says.
    clocks: [u8; CLIENTS],
}

impl Home {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn who(&self) -> Electorate {
        majorities([(0..NODES).collect()])
    }

    fn id(&self, client: usize, node: usize, generation: usize) -> u8 {
        id(client, if self.is(Bug::SameId) && node != HOME { 0 } else { generation })
    }

    fn send(&self, state: &mut State, client: usize, token: u8) {
        let me = &mut state.clients[client];
        (me.phase, me.round, me.token, me.told, me.votes) = (Phase::Asking, me.round + 1, token, None, [None; NODES]);
        for node in 0..NODES {
            me.asks[node][me.at(node)] = Some(token);
        }
    }

    /// What a client comes to by what it heard in this round.
    fn decide(&self, me: &mut Client) -> bool {
        let carries = |token: u8| self.who().is_carried_by(|node| me.votes[node] == Some(Answer::In(token)));
        let Some(token) = me.tokens().find(|token| carries(*token)) else { return false };
        (me.phase, me.token) = (Phase::Held, token);
        true
    }

    /// Whether a client rests on what it has at a node.
    fn rests_on(&self, me: &Client, node: usize, generation: usize) -> bool {
        let is_present = matches!(me.phase, Phase::Asking | Phase::Held) && me.at(node) == generation;
        // What a client was told lasts no longer than its place.
        let was_asked = !self.is(Bug::ToldIsVote) || node != HOME || me.round < 2;
        is_present && was_asked && me.asks[node][generation].is_none() && me.votes[node].is_some()
    }

    /// Whether one of those who ask or wait gets it, if nobody gives up and nothing is lost from now on.
    fn goes_on(&self, state: &State) -> bool {
        let patient = Self { rounds: [u8::MAX; CLIENTS], ..self.clone() };
        let mut after = *state;
        for me in &mut after.clients {
            me.round = 0;
        }
        let is_waiting =
            |state: &State| state.clients.iter().any(|me| matches!(me.phase, Phase::Asking | Phase::Queued));
        let has_won = |state: &State| state.clients.iter().any(|me| me.phase == Phase::Held);
        for _ in 0..8 {
            if has_won(&after) || !is_waiting(&after) {
                return true;
            }
            let mut actions = Vec::new();
            for client in 0..CLIENTS {
                let delivery = (0..NODES).flat_map(|node| {
                    (0..GENERATIONS).map(move |generation| Action::Deliver { client, node, generation })
                });
                let old = (0..NODES).flat_map(|node| {
                    (0..GENERATIONS).map(move |generation| Action::Expire { client, node, generation })
                });
                // Nothing passes that somebody is still about.
                actions.extend(old.filter(|action| after.is_left(*action)));
                actions.extend(delivery);
            }
            let moves = [Action::AskAgain, Action::Lose, Action::Look, Action::Told];
            actions.extend(moves.into_iter().flat_map(|action| (0..CLIENTS).map(action)));
            for action in actions {
                after = patient.next_state(&after, action).unwrap_or(after);
            }
        }
        false
    }
}

impl Model for Home {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        if self.attempts == [1, 1] {
            return vec![State::default()];
        }
        // The first holds, and the second waits.
        let of = |client: usize| (0..NODES).map(move |node| Action::Deliver { client, node, generation: 0 });
        let before = [Action::Begin(0)].into_iter().chain(of(0)).chain([Action::Begin(1)]).chain(of(1));
        let mut state = State::default();
        for action in before.chain([Action::Lose(1)]) {
            state = self.next_state(&state, action).expect("nothing stands in the way of it");
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (client, me) in state.clients.iter().enumerate() {
            let own = [Action::Begin, Action::AskAgain, Action::Lose, Action::Look, Action::Told, Action::Leave];
            actions.extend(own.map(|action| action(client)));
            for node in 0..NODES {
                for generation in 0..GENERATIONS {
                    if me.asks[node][generation].is_some() {
                        actions.push(Action::Deliver { client, node, generation });
                    }
                    let is_there = state.nodes[node].ids().any(|id| id == self.id(client, node, generation));
                    if is_there {
                        actions.push(Action::Expire { client, node, generation });
                    }
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Begin(client) => {
                let me = &mut next.clients[client];
                if !matches!(me.phase, Phase::Idle | Phase::Left) || me.attempt >= self.attempts[client] {
                    return None;
                }
                if me.attempt > 0 {
                    me.generation = (me.generation + 1).min(GENERATIONS - 1);
                }
                (me.attempt, me.round) = (me.attempt + 1, 0);
                self.send(&mut next, client, self.clocks[client]);
            }
            Action::AskAgain(client) => {
                let me = next.clients[client];
                let is_in = self.who().is_carried_by(|node| matches!(me.votes[node], Some(Answer::In(_))));
                if me.phase != Phase::Asking || !is_in || me.round >= self.rounds[client] {
                    return None;
                }
                self.send(&mut next, client, me.tokens().max()? + 1);
            }
            Action::Lose(client) => {
                let me = &mut next.clients[client];
                let may_be_in = |node: usize| matches!(me.votes[node], None | Some(Answer::In(_)));
                let has_home = matches!(me.votes[HOME], Some(Answer::In(_) | Answer::Waits));
                if me.phase != Phase::Asking || self.who().is_carried_by(may_be_in) || !has_home {
                    return None;
                }
                me.phase = Phase::Queued;
                if let Some(Answer::In(token)) = me.votes[HOME] {
                    me.told = Some(token);
                }
                me.votes = [None; NODES];
                me.generation = (me.generation + 1).min(GENERATIONS - 1);
            }
            Action::Look(client) => {
                let me = next.clients[client];
                if me.phase != Phase::Queued || me.told.is_some() || self.is(Bug::AsksOnce) {
                    return None;
                }
                if let Answer::In(token) =
                    next.nodes[HOME].acquire(1, self.id(client, HOME, me.at(HOME)), me.token, true)
                {
                    next.clients[client].told = Some(token);
                }
            }
            Action::Told(client) => {
                let me = next.clients[client];
                let token = me.told.filter(|_| me.phase == Phase::Queued && me.round < self.rounds[client])?;
                if self.is(Bug::HomeDecides) {
                    (next.clients[client].phase, next.clients[client].token) = (Phase::Held, token);
                } else {
                    self.send(&mut next, client, token);
                }
                if self.is(Bug::ToldIsVote) {
                    let me = &mut next.clients[client];
                    let at = me.at(HOME);
                    (me.votes[HOME], me.asks[HOME][at]) = (Some(Answer::In(token)), None);
                }
            }
            Action::Leave(client) => {
                let me = &mut next.clients[client];
                if matches!(me.phase, Phase::Idle | Phase::Left) {
                    return None;
                }
                (me.phase, me.votes, me.told) = (Phase::Left, [None; NODES], None);
            }
            Action::Deliver { client, node, generation } => {
                let id = self.id(client, node, generation);
                let token = next.clients[client].asks[node][generation].take()?;
                let answer = next.nodes[node].acquire(1, id, token, node == HOME);
                let me = &mut next.clients[client];
                if me.phase == Phase::Asking && me.at(node) == generation {
                    me.votes[node] = Some(answer);
                    if self.decide(me) {
                        let token = me.token;
                        next.fell |= token <= next.last;
                        next.last = token;
                    }
                }
            }
            Action::Expire { client, node, generation } => {
                let me = next.clients[client];
                let was_released = self.is(Bug::SameId) && node != HOME && me.generation > 0;
                if self.rests_on(&me, node, generation) && !was_released {
                    return None;
                }
                next.nodes[node].release(1, self.id(client, node, generation));
            }
        }
        next.tell();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one hold at a time", |_, state: &State| {
                state.clients.iter().filter(|me| me.phase == Phase::Held).count() <= 1
            }),
            Property::always("later holds have later tokens", |_, state: &State| !state.fell),
            Property::always("of those who wait somebody gets it", |model: &Self, state: &State| model.goes_on(state)),
            Property::sometimes("a hold after a wait", |_, state: &State| {
                let [first, second] = state.clients;
                first.phase == Phase::Left && second.phase == Phase::Held && second.generation == 1 && second.round > 1
            }),
        ]
    }
}

fn once(bug: Option<Bug>) -> Home {
    Home { bug, rounds: [2, 2], attempts: [1, 1], clocks: [2, 1] }
}

fn again(bug: Option<Bug>) -> Home {
    Home { rounds: [1, 2], attempts: [2, 1], ..once(bug) }
}

#[test]
fn whoever_waits_at_home_waits_for_all() {
    must_hold("home", Home { rounds: [3, 3], ..once(None) });
    must_hold("home, begun again", again(None));
}

#[test]
fn every_shortcut_is_found() {
    must_fail("home, home decides", once(Some(Bug::HomeDecides)));
    must_fail("home, same id", once(Some(Bug::SameId)));
    must_fail("home, asks once", once(Some(Bug::AsksOnce)));
    must_fail("home, told is vote", again(Some(Bug::ToldIsVote)));
}
