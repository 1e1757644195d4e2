//! What clients and nodes are in `home.rs`, and what may happen.

use crate::crowd::{Answer, Crowd};
use crate::node::Id;

pub(super) const CLIENTS: usize = 2;
pub(super) const NODES: usize = 3;
/// The node in whose queue everybody waits.
pub(super) const HOME: usize = 0;
/// How many ids a client has at each node, one after the other: a new one whenever it was released there.
pub(super) const GENERATIONS: usize = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) nodes: [Crowd; NODES],
    pub(super) clients: [Client; CLIENTS],
    /// The token of the last hold.
    pub(super) last: u8,
    pub(super) fell: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) phase: Phase,
    pub(super) attempt: u8,
    pub(super) round: u8,
    pub(super) token: u8,
    /// Under which of its ids it is at the other nodes.
    pub(super) generation: usize,
    /// The last request under each id, until it was carried out: the token that it asks for.
    pub(super) asks: [[Option<u8>; GENERATIONS]; NODES],
    /// What it heard in this round.
    pub(super) votes: [Option<Answer>; NODES],
    /// It was let in at home, under that token, while it was in the queue.
    pub(super) told: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    #[default]
    Idle,
    Asking,
    Queued,
    Held,
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Begin(usize),
    /// It is in at enough nodes, under different tokens.
    AskAgain(usize),
    /// It cannot win this round, and waits.
    Lose(usize),
    /// It asks its home once more.
    Look(usize),
    /// It has heard that it was let in.
    Told(usize),
    Leave(usize),
    Deliver {
        client: usize,
        node: usize,
        generation: usize,
    },
    Expire {
        client: usize,
        node: usize,
        generation: usize,
    },
}

/// A claim's id.
pub(super) fn id(client: usize, generation: usize) -> Id {
    (client * GENERATIONS + generation) as Id
}

impl Client {
    /// The generation of its present id at a node.
    pub(super) fn at(&self, node: usize) -> usize {
        // At home it stays until it leaves altogether.
        if node == HOME { (self.attempt as usize).saturating_sub(1) } else { self.generation }
    }

    /// The tokens under which it is in.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u8> {
        self.votes.into_iter().filter_map(|vote| match vote {
            Some(Answer::In(token)) => Some(token),
            _ => None,
        })
    }
}

impl State {
    /// The home tells whom it has let in from its queue.
    pub(super) fn tell(&mut self) {
        for (client, me) in self.clients.iter_mut().enumerate().filter(|(_, me)| me.phase == Phase::Queued) {
            let token = self.nodes[HOME].token(id(client, me.at(HOME)));
            me.told = me.told.or(token);
        }
    }

    /// Whether nobody is about what would expire any more.
    pub(super) fn is_left(&self, action: Action) -> bool {
        let Action::Expire { client, node, generation } = action else { return false };
        let me = &self.clients[client];
        me.phase == Phase::Left || me.at(node) != generation
    }
}
