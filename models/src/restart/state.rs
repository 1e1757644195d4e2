//! What clients and nodes are in `restart.rs`, and what may happen.

use crate::majorities;
use crate::node::{Id, Node};

pub(super) const CLIENTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State<const N: usize> {
    pub(super) places: [Place; N],
    pub(super) clients: [Client; CLIENTS],
    pub(super) restarts: u8,
    pub(super) is_saved: bool,
    pub(super) last: u8,
    pub(super) fell: bool,
    pub(super) was_weak: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) node: Node,
    pub(super) saved: Option<Node>,
    pub(super) weight: Weight,
    pub(super) lines: [Line; CLIENTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) vote: Option<(u8, Weight)>,
    pub(super) was_read: bool,
    pub(super) quarantine: Quarantine,
}

/// Whether a client may be certain by what it sent before the node's restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Quarantine {
    #[default]
    Over,
    Lasts,
    /// Until the renewal that is under way has succeeded: it was sent after the restart.
    Renewing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Weight {
    None,
    Weak,
    Full,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) phase: Phase,
    pub(super) attempt: u8,
    pub(super) round: u8,
    pub(super) token: u8,
    pub(super) renewed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    #[default]
    Idle,
    Asking,
    Held,
    Renewing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Begin(usize),
    AskAgain(usize),
    Ask {
        client: usize,
        node: usize,
    },
    Read {
        client: usize,
        node: usize,
    },
    Renew(usize),
    /// By its own will, or because its time has passed.
    Leave(usize),
    Expire {
        node: usize,
    },
    Save {
        node: usize,
    },
    Restart {
        node: usize,
        stale: bool,
    },
    QuarantineEnds {
        node: usize,
    },
}

pub(super) fn id(client: usize, attempt: u8) -> Id {
    client as Id * 2 + attempt
}

impl Client {
    pub(super) fn is_certain(&self) -> bool {
        matches!(self.phase, Phase::Held | Phase::Renewing)
    }
}

impl<const N: usize> State<N> {
    pub(super) fn lines(&self, client: usize) -> impl Iterator<Item = &Line> {
        self.places.iter().map(move |place| &place.lines[client])
    }

    pub(super) fn each_line(&mut self, client: usize, change: impl Fn(&mut Line)) {
        self.places.iter_mut().for_each(|place| change(&mut place.lines[client]));
    }

    pub(super) fn carries(&self, client: usize, token: u8, enough: Weight) -> bool {
        let vote = |node: usize| self.places[node].lines[client].vote;
        let who = majorities([(0..N).collect()]);
        who.is_carried_by(|node| vote(node).is_some_and(|(other, weight)| other == token && weight >= enough))
    }

    /// The latest token under which the claim is in, if it is in at a majority under no single one.
    pub(super) fn outbid(&self, client: usize) -> Option<u8> {
        let who = majorities([(0..N).collect()]);
        let is_in = |node: usize| self.places[node].lines[client].vote.is_some_and(|(_, weight)| weight > Weight::None);
        let latest = self.lines(client).filter_map(|line| line.vote).map(|(token, _)| token).max();
        latest.filter(|_| who.is_carried_by(is_in))
    }

    pub(super) fn propose(&mut self, client: usize, token: u8) {
        let me = &mut self.clients[client];
        (me.phase, me.round, me.token) = (Phase::Asking, me.round + 1, token);
        self.each_line(client, |line| (line.vote, line.was_read) = (None, false));
    }

    pub(super) fn leave(&mut self, client: usize) {
        self.clients[client] = Client { attempt: self.clients[client].attempt, ..Client::default() };
        self.each_line(client, |line| *line = Line::default());
    }
}
