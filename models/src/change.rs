//! A change of who decides, while claims are made and held: what `members.rs` and `ring.rs` have in common.
//!
//! ```text
//!   final 1: old          joint 2: old and new                  final 3: new
//!   ──────────────────────┬─────────────────────────────────────┬──────────────────▶
//!            a majority of │ both has it                         │ a majority of the new has it
//!                          │◀─ every view, and every claim ─────▶│
//!                          │   made under one, that is older ends
//! ```
//!
//! Each node has a register for the *view*: a number, and one group of members (a final view) or two (a joint one). It
//! takes only views of rising numbers. Whoever changes it draws an even number, asks a majority for the latest view,
//! which makes them **refuse whatever has a lower number from then on**, and writes the joint view under that number to
//! a majority of both groups; finds it a joint view, it goes on with that change instead of its own. When all that
//! older views have made possible has passed (a view's lease and the longest ttl), it writes the final view under the
//! next number. There is no change lock here: that is for courtesy, and a coordinator may be paused at any step for any
//! time, while another one begins. One that undoes a change goes the same way, and ends with the old members alone: the
//! joint view under its own number keeps the first one's final view from taking effect any more, and then all who have
//! followed that already are waited for.
//!
//! A client reads the views of its nodes and follows the latest: it needs to have read a majority of each of that one's
//! groups. It begins and renews claims under a view only until its lease is over; a claim goes on under its view for
//! its ttl.
//!
//! **Tokens.** A new member has never heard of the tokens that the old ones remember. So the wait lasts until none has
//! to be remembered that was granted before the joint view: the lease, the ttl, and the memory of tokens after that.
//!
//! **What it leaves out.** Late messages: asking a node is one step, and `ballot.rs` has the rest. A client reads the
//! views of its nodes in one step.

use stateright::{Model, Property};

use self::state::{Action, CLIENTS, COORDINATORS, Client, Coordinator, Phase, Place, Set, State, Step, View, has};
use crate::node::{Answer, Id, Node};

mod state;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The final view is written at once.
    NoJoint,
    /// It is written as soon as the joint one is.
    NoWait,
    /// It is written when the views are over, and not the claims made under them.
    NoTtl,
    /// It is written when the claims are over, while the old members remember tokens that the new ones never heard of.
    NoMemory,
    /// A client begins claims under a view whose lease is over.
    ExpiredView,
    /// A node takes whatever view comes.
    NoCheck,
    /// Asking for the latest view leaves no mark.
    NoPromise,
    /// Who was paused draws a new number for its final view.
    FreshFinal,
    /// A change is undone by writing the old members at once.
    UndoneAtOnce,
}

#[derive(Clone, Debug)]
pub(crate) struct Change<const N: usize> {
    pub(crate) bug: Option<Bug>,
    pub(crate) old: Set,
    /// What each coordinator wants.
    pub(crate) new: [Set; COORDINATORS],
    /// How many of them there are.
    pub(crate) coordinators: usize,
    /// Whether the last one undoes what another has begun, and wants nothing of its own.
    pub(crate) undoes: bool,
    /// Whether clients claim anything, or only follow the views.
    pub(crate) claims: bool,
    pub(crate) rounds: u8,
    pub(crate) renewals: u8,
    pub(crate) clocks: [u8; CLIENTS],
}

impl<const N: usize> Change<N> {
    fn step(&self, state: &mut State<N>, k: usize, node: usize) -> Option<()> {
        let number = 2 * (k as u8 + 1);
        let place = &mut state.places[node];
        let me = &mut state.coordinators[k];
        let takes = |place: &Place, view: View| {
            let rises = view.number >= place.promised && view.number > place.view.number;
            rises || self.bug == Some(Bug::NoCheck)
        };
        match me.step {
            Step::Reading => {
                if place.view.number >= number || place.promised >= number && !has(me.done, node) {
                    me.step = Step::GaveUp;
                    return Some(());
                }
                if self.bug != Some(Bug::NoPromise) {
                    place.promised = number;
                }
                let latest = me.view.filter(|view| view.number > place.view.number).unwrap_or(place.view);
                (me.view, me.done) = (Some(latest), me.done | 1 << node);
                if !latest.who().is_carried_by(|node| has(me.done, node)) {
                    return Some(());
                }
                let view = match latest.old {
                    0 if self.undoes(k) => {
                        me.step = Step::GaveUp;
                        return Some(());
                    }
                    0 => View { number, old: latest.new, new: self.new[k] },
                    old => View { number, old, new: latest.new },
                };
                (me.step, me.view, me.done) = (Step::WritingJoint, Some(view), 0);
                if self.bug == Some(Bug::NoJoint) || self.bug == Some(Bug::UndoneAtOnce) && self.undoes(k) {
                    (me.step, me.view) = (Step::WritingFinal, Some(self.final_after(k, view)));
                }
            }
            Step::WritingJoint => {
                let view = me.view.filter(|view| takes(place, *view))?;
                (place.view, place.promised, me.done) = (view, view.number, me.done | 1 << node);
                if view.who().is_carried_by(|node| has(me.done, node)) {
                    (me.step, me.done) = (Step::Waiting, 0);
                    state.awaits |= 1 << k;
                    for client in &mut state.clients {
                        client.awaits[0] |= u8::from(client.view.is_some()) << k;
                        client.awaits[1] |= u8::from(client.phase != Phase::Idle) << k;
                        client.awaits[2] |= u8::from(client.phase == Phase::Renewing) << k;
                    }
                }
            }
            Step::WritingFinal => {
                let mut view = me.view?;
                if self.bug == Some(Bug::FreshFinal) {
                    view.number = view.number.max(place.promised.max(place.view.number) | 1);
                }
                if !takes(place, view) {
                    return None;
                }
                (place.view, place.promised, me.done) = (view, view.number, me.done | 1 << node);
            }
            Step::Waiting | Step::GaveUp => return None,
        }
        Some(())
    }

    fn undoes(&self, k: usize) -> bool {
        self.undoes && k + 1 == self.coordinators
    }

    /// What a coordinator writes when it has waited for long enough under a joint view.
    fn final_after(&self, k: usize, joint: View) -> View {
        View { number: joint.number + 1, old: 0, new: if self.undoes(k) { joint.old } else { joint.new } }
    }

    fn may_end_wait(&self, state: &State<N>, k: usize) -> bool {
        let parts = match self.bug {
            Some(Bug::NoWait) => 0,
            Some(Bug::NoTtl) => 1,
            _ => 2,
        };
        !state.clients.iter().any(|client| client.awaits[..parts].iter().any(|who| has(*who, k)))
    }
}

impl<const N: usize> Model for Change<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        let first = View { number: 1, old: 0, new: self.old };
        let nothing = View { number: 0, ..first };
        let view = |node: usize| if has(self.old, node) { first } else { nothing };
        let place = |node: usize| Place { node: Node::default(), view: view(node), promised: 0 };
        let client = Client {
            view: Some(first),
            phase: Phase::Idle,
            attempted: false,
            round: 0,
            renewals: 0,
            token: 0,
            claim: first,
            votes: [0; 4],
            awaits: [0; 3],
        };
        let places = std::array::from_fn(place);
        let mut coordinators = [Coordinator::default(); COORDINATORS];
        coordinators[self.coordinators..].iter_mut().for_each(|absent| absent.step = Step::GaveUp);
        vec![State { places, clients: [client; CLIENTS], coordinators, last: 0, awaits: 0, fell: false }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for (client, me) in state.clients.iter().enumerate() {
            if me.view.is_some() && me.awaits[0] != 0 {
                actions.push(Action::LeaseEnds(client));
            }
            let follows = |node: &usize| {
                let view = state.places[*node].view;
                view.number > 0 && (me.view != Some(view) || me.awaits[0] != 0) && state.is_latest(view)
            };
            actions.extend((0..N).filter(follows).map(|node| Action::Follow { client, node }));
            if me.phase != Phase::Idle {
                actions.push(Action::Leave(client));
            }
            match me.phase {
                Phase::Idle if self.claims && me.view.is_some() && !me.attempted => actions.push(Action::Begin(client)),
                Phase::Asking | Phase::Renewing => {
                    let asks = |node: &usize| has(me.claim.nodes(), *node) && me.votes[*node] == 0;
                    actions.extend((0..N).filter(asks).map(|node| Action::Ask { client, node }));
                    if me.phase == Phase::Asking && me.round < self.rounds && me.outbid().is_some() {
                        actions.push(Action::AskAgain(client));
                    }
                }
                Phase::Held if me.view.is_some() && me.renewals < self.renewals => actions.push(Action::Renew(client)),
                _ => {}
            }
        }
        for (node, place) in state.places.iter().enumerate() {
            let is_over = |holder: Id| state.clients[holder as usize].phase == Phase::Idle;
            if place.node.holder.is_some_and(|holder| is_over(holder.id)) {
                actions.push(Action::Expire { node });
            }
        }
        for (coordinator, me) in state.coordinators.iter().enumerate() {
            match me.step {
                Step::GaveUp => {}
                Step::Waiting => actions.push(Action::WaitEnds { coordinator }),
                _ => {
                    let nodes = match (me.step, me.view) {
                        (Step::Reading, None) => self.old,
                        (Step::WritingFinal, _) => Set::MAX,
                        (_, view) => view.map_or(0, |view| view.nodes()),
                    };
                    let asks = |node: &usize| has(nodes, *node) && !has(me.done, *node);
                    actions.extend((0..N).filter(asks).map(|node| Action::Step { coordinator, node }));
                }
            }
        }
    }

    fn next_state(&self, state: &State<N>, action: Action) -> Option<State<N>> {
        let mut next = *state;
        match action {
            Action::Follow { client, node } => {
                let me = &mut next.clients[client];
                (me.view, me.awaits[0]) = (Some(next.places[node].view), 0);
            }
            Action::LeaseEnds(client) => {
                let me = &mut next.clients[client];
                me.awaits[0] = 0;
                if self.bug != Some(Bug::ExpiredView) {
                    me.view = None;
                }
            }
            Action::Begin(client) => {
                let me = &mut next.clients[client];
                (me.phase, me.round, me.attempted, me.awaits[1]) = (Phase::Asking, 1, true, me.awaits[0]);
                me.send(self.clocks[client], me.view?);
            }
            Action::AskAgain(client) => {
                let me = &mut next.clients[client];
                me.round += 1;
                me.send(me.outbid()? + 1, me.claim);
            }
            Action::Ask { client, node } => {
                let token = next.clients[client].token;
                if let Answer::In(token) = next.places[node].node.acquire(client as Id, token) {
                    next.clients[client].votes[node] = token;
                }
                next.decide(client);
            }
            Action::Renew(client) => {
                let me = &mut next.clients[client];
                (me.phase, me.renewals, me.awaits[2]) = (Phase::Renewing, me.renewals + 1, me.awaits[0]);
                me.send(me.token, me.view?);
            }
            Action::Leave(client) => {
                let me = &mut next.clients[client];
                let first = View { number: 1, old: 0, new: self.old };
                (me.phase, me.round, me.renewals, me.awaits) = (Phase::Idle, 0, 0, [me.awaits[0], 0, 0]);
                me.send(0, first);
            }
            Action::Expire { node } => next.places[node].node.expire(),
            Action::Step { coordinator, node } => self.step(&mut next, coordinator, node)?,
            Action::WaitEnds { coordinator } => {
                if !self.may_end_wait(&next, coordinator) {
                    return None;
                }
                if has(next.awaits, coordinator) && self.bug != Some(Bug::NoMemory) {
                    (next.last, next.awaits) = (0, 0);
                }
                let me = &mut next.coordinators[coordinator];
                me.step = Step::WritingFinal;
                me.view = me.view.map(|view| self.final_after(coordinator, view));
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
            Property::always("one final view in use at a time", |_, state: &State<N>| {
                let finals = state.clients.iter().filter_map(|client| client.view).filter(|view| view.old == 0);
                let mut members = finals.map(|view| view.new);
                let first = members.next();
                members.all(|set| Some(set) == first)
            }),
            Property::sometimes("a hold under the new members alone", |model: &Self, state: &State<N>| {
                let mut holds = state.clients.iter().filter(|client| client.is_certain());
                !model.claims || holds.any(|client| client.claim.old == 0 && client.claim.new == model.new[0])
            }),
            Property::sometimes("the old members alone again", |model: &Self, state: &State<N>| {
                let finals = state.clients.iter().filter_map(|client| client.view);
                !model.undoes
                    || finals.into_iter().any(|view| view.number > 1 && view.old == 0 && view.new == model.old)
            }),
            Property::sometimes("a hold that was renewed across the change", |model: &Self, state: &State<N>| {
                let crossed = |client: &Client| client.phase == Phase::Held && client.renewals == model.renewals;
                model.renewals < 2
                    || state.clients.iter().any(|client| crossed(client) && client.claim.new == model.new[0])
            }),
        ]
    }
}
