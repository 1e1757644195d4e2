//! What views, nodes, clients and coordinators are in `change.rs`, and what may happen.

use tenure::proto::vote::{Electorate, Group, votes_needed};

use crate::node::Node;

pub(super) const CLIENTS: usize = 2;
pub(crate) const COORDINATORS: usize = 3;

/// Nodes, a bit each.
pub(crate) type Set = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct View {
    pub(super) number: u8,
    /// Empty in a final view.
    pub(super) old: Set,
    pub(super) new: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct State<const N: usize> {
    pub(super) places: [Place; N],
    pub(super) clients: [Client; CLIENTS],
    pub(super) coordinators: [Coordinator; COORDINATORS],
    /// The token of the last hold, and the coordinators that wait until it need not be remembered any more.
    pub(super) last: u8,
    pub(super) awaits: u8,
    pub(super) fell: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) node: Node,
    pub(super) view: View,
    /// Views under a lower number are refused.
    pub(super) promised: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Client {
    /// The view under which it may begin.
    pub(super) view: Option<View>,
    pub(super) phase: Phase,
    pub(super) attempted: bool,
    pub(super) round: u8,
    pub(super) renewals: u8,
    pub(super) token: u8,
    /// The view under which its claim was sent last, and the tokens under which it is in.
    pub(super) claim: View,
    pub(super) votes: [u8; 4],
    /// The coordinators that wait for the end of its view, of its claim, and of its claim once it is renewed; a bit
    /// each.
    pub(super) awaits: [u8; 3],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Idle,
    Asking,
    Held,
    Renewing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Coordinator {
    pub(super) step: Step,
    /// The nodes that answered in this step.
    pub(super) done: Set,
    pub(super) view: Option<View>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Step {
    #[default]
    Reading,
    WritingJoint,
    Waiting,
    WritingFinal,
    GaveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Follow {
        client: usize,
        node: usize,
    },
    LeaseEnds(usize),
    Begin(usize),
    AskAgain(usize),
    Ask {
        client: usize,
        node: usize,
    },
    Renew(usize),
    /// By its own will, or because its time has passed.
    Leave(usize),
    Expire {
        node: usize,
    },
    Step {
        coordinator: usize,
        node: usize,
    },
    WaitEnds {
        coordinator: usize,
    },
}

pub(super) fn has(set: Set, node: usize) -> bool {
    set >> node & 1 == 1
}

impl View {
    pub(super) fn who(&self) -> Electorate {
        let group = |set: Set| {
            let members: Vec<usize> = (0..8).filter(|node| has(set, *node)).collect();
            Group { votes: votes_needed(members.len(), 1), members }
        };
        Electorate([self.old, self.new].into_iter().filter(|set| *set != 0).map(group).collect())
    }

    pub(super) fn nodes(&self) -> Set {
        self.old | self.new
    }
}

impl Client {
    pub(super) fn is_certain(&self) -> bool {
        matches!(self.phase, Phase::Held | Phase::Renewing)
    }

    pub(super) fn send(&mut self, token: u8, view: View) {
        (self.token, self.claim, self.votes) = (token, view, [0; 4]);
    }

    pub(super) fn outbid(&self) -> Option<u8> {
        let is_in = self.claim.who().is_carried_by(|node| self.votes[node] > 0);
        self.votes.iter().copied().max().filter(|_| is_in)
    }

    pub(super) fn agreed(&self) -> Option<u8> {
        let carries = |token: u8| token > 0 && self.claim.who().is_carried_by(|node| self.votes[node] == token);
        self.votes.into_iter().find(|token| carries(*token))
    }
}

impl<const N: usize> State<N> {
    pub(super) fn decide(&mut self, client: usize) {
        let me = &mut self.clients[client];
        let Some(token) = me.agreed() else { return };
        match me.phase {
            Phase::Asking => {
                (me.phase, me.token) = (Phase::Held, token);
                self.fell |= token <= self.last;
                (self.last, self.awaits) = (token, me.awaits[1]);
            }
            Phase::Renewing if token == me.token => {
                (me.phase, me.awaits[1]) = (Phase::Held, me.awaits[2]);
                self.awaits = me.awaits[1];
            }
            _ => return,
        }
        (me.votes, me.awaits[2]) = ([0; 4], 0);
    }

    /// Nobody asks what a client's view is that will not begin again. Of four nodes the second and the third are
    /// members before and after, and it makes no difference which is which.
    pub(super) fn normal(mut self) -> Self {
        for me in self.clients.iter_mut().filter(|me| me.attempted && me.phase == Phase::Idle) {
            (me.view, me.awaits) = (None, [0; 3]);
        }
        if N < 4 {
            return self;
        }
        let mut other = self;
        other.places.swap(1, 2);
        other.clients.iter_mut().for_each(|me| me.votes.swap(1, 2));
        for me in &mut other.coordinators {
            me.done = me.done & !0b110 | (me.done & 0b010) << 1 | (me.done & 0b100) >> 1;
        }
        self.min(other)
    }

    /// Whether who reads the nodes may find this to be the latest view.
    pub(super) fn is_latest(&self, view: View) -> bool {
        view.who().is_carried_by(|node| self.places[node].view.number <= view.number)
    }
}
