//! What clients, nodes and messages are in `ballot.rs`, and what may happen.

use tenure::proto::vote::Electorate;

use crate::node::{Answer, Node};

pub(super) const CLIENTS: usize = 2;
pub(super) const ATTEMPTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State<const N: usize> {
    pub(super) places: [Place; N],
    pub(super) clients: [Client; CLIENTS],
    /// The token of the last hold.
    pub(super) last: u8,
    pub(super) fell: bool,
    pub(super) is_second: bool,
}

/// A node, and what is under way between it and each client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) node: Node,
    pub(super) lines: [Line; CLIENTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Line {
    /// The last request of each attempt, until it was carried out.
    pub(super) asks: [bool; ATTEMPTS],
    /// The release of each attempt, where it matters which attempt it ends.
    pub(super) releases: [bool; ATTEMPTS],
    /// The token of the reply to the present question, and whether it was heard. Only who is in is told.
    pub(super) reply: Option<u8>,
    pub(super) is_heard: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) phase: Phase,
    pub(super) attempt: u8,
    pub(super) round: u8,
    /// What it proposed last in each attempt.
    pub(super) tokens: [u8; ATTEMPTS],
    pub(super) token: u8,
    /// For how many terms it is certain, and how many have passed.
    pub(super) terms: u8,
    pub(super) passed: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    #[default]
    Idle,
    Asking,
    WritingBack,
    Held,
    Renewing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Begin(usize),
    AskAgain(usize),
    Leave(usize),
    Renew(usize),
    TermPasses(usize),
    Hear { client: usize, node: usize },
    Acquire { client: usize, attempt: u8, node: usize },
    WriteBack { client: usize, node: usize },
    Renewal { client: usize, node: usize },
    Release { client: usize, attempt: u8, node: usize },
    Expire { node: usize },
}

impl Client {
    pub(super) fn is_certain(&self) -> bool {
        matches!(self.phase, Phase::Held | Phase::Renewing) && self.passed < self.terms
    }

    pub(super) fn proposed(&self) -> u8 {
        self.tokens[self.attempt as usize - 1]
    }
}

impl Line {
    pub(super) fn heard(&self) -> Option<u8> {
        self.reply.filter(|_| self.is_heard)
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        if let (Answer::In(token), false) = (answer, self.is_heard) {
            self.reply = Some(token);
        }
    }
}

impl<const N: usize> State<N> {
    pub(super) fn is_in(&self, who: &Electorate, client: usize) -> bool {
        who.is_carried_by(|node| self.places[node].lines[client].heard().is_some())
    }

    /// Sends all nodes a question, after which answers to the last one are not heard any more.
    pub(super) fn send(&mut self, client: usize, token: u8) {
        let me = &mut self.clients[client];
        me.round += 1;
        me.tokens[me.attempt as usize - 1] = token;
        let attempt = me.attempt as usize - 1;
        for place in &mut self.places {
            place.lines[client].asks[attempt] = true;
        }
    }

    pub(super) fn forget_replies(&mut self, client: usize) {
        for place in &mut self.places {
            (place.lines[client].reply, place.lines[client].is_heard) = (None, false);
        }
    }

    /// Which node is which makes no difference, nor what was proposed in an attempt of which nothing is left.
    pub(super) fn normal(mut self) -> Self {
        for (client, me) in self.clients.iter_mut().enumerate() {
            for attempt in 0..ATTEMPTS {
                let is_present = me.phase != Phase::Idle && me.attempt as usize == attempt + 1;
                if !is_present && !self.places.iter().any(|place| place.lines[client].asks[attempt]) {
                    me.tokens[attempt] = 0;
                }
            }
        }
        self.places.sort_unstable();
        self
    }
}
