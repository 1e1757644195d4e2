//! What claims, nodes and messages are in `hand_over.rs`, and what may happen.

use tenure::proto::vote::Electorate;

use crate::node::{Answer, Holder, Id, Node};

pub(super) const NODES: usize = 3;

/// The claim that is handed over.
pub(super) const OLD: Id = 0;
/// The token under which it was granted.
pub(super) const GRANTED: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State<const N: usize> {
    pub(super) places: [Place<N>; NODES],
    pub(super) former: Keeper,
    pub(super) candidates: [Candidate; N],
    /// How often the old claim may still be taken in where it is missing.
    pub(super) top_ups: u8,
    /// The token of the last hold.
    pub(super) last: u8,
    pub(super) fell: bool,
    /// An heir was told that it is in.
    pub(super) is_handed_over: bool,
}

/// A node, and what is under way between it and everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place<const N: usize> {
    pub(super) node: Node,
    /// The former holder heard that its claim was renewed here.
    pub(super) is_renewed: bool,
    /// The old claim is to be released here, since the heir is in elsewhere.
    pub(super) sees_off: bool,
    pub(super) lines: [Line; N],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Line {
    /// A request that may still be carried out.
    pub(super) asks: bool,
    /// Under which token it was heard to be in, in this round.
    pub(super) vote: Option<u8>,
    /// It was heard to be in, in this round or an earlier one.
    pub(super) was_in: bool,
    pub(super) undo: Undo,
}

/// What undoes a vote that failed, on its way to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Undo {
    #[default]
    None,
    Release,
    /// The same where nobody knows whether it is in: its id must not come back.
    Bury,
}

/// Whoever has the old claim, and keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Keeper {
    pub(super) is_certain: bool,
    pub(super) is_renewing: bool,
    /// For how many terms it has asked.
    pub(super) terms: u8,
    /// Whether what it is certain of was asked for when no hand-over was under way.
    pub(super) counts: bool,
    /// The same of the renewal that is under way.
    pub(super) will_count: bool,
}

/// Whoever wants to be in: an heir by a hand-over, a rival by an acquisition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    pub(super) phase: Phase,
    pub(super) round: u8,
    /// What it proposed last, or is in under.
    pub(super) token: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    #[default]
    Idle,
    Asking,
    Held,
    Failed,
    /// It left, or its time has passed.
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Begin(usize),
    AskAgain(usize),
    Fail(usize),
    Leave(usize),
    /// A request is carried out, and its reply heard or lost.
    Ask {
        candidate: usize,
        node: usize,
        is_heard: bool,
    },
    /// The heir is taken in where it is missing.
    TopUpHeir {
        candidate: usize,
        node: usize,
    },
    Undo {
        candidate: usize,
        node: usize,
    },
    SeeOff {
        node: usize,
    },
    Renew,
    Renewal {
        node: usize,
    },
    TopUp {
        node: usize,
    },
    /// The former holder's time has passed, by its own clock.
    Lapse,
    /// It expects nothing more of its renewal either.
    GiveUp,
    Expire {
        node: usize,
    },
}

pub(super) fn id(candidate: usize) -> Id {
    candidate as Id + 1
}

impl Keeper {
    /// Whether a claim that was asked for for that many terms may not have ended yet.
    fn may_count_on(&self, terms: u8) -> bool {
        match (self.is_certain, self.is_renewing) {
            (true, true) => terms + 1 >= self.terms,
            (true, false) | (false, true) => terms >= self.terms,
            (false, false) => false,
        }
    }
}

impl Candidate {
    /// Whether a claim of its own may not have ended yet.
    pub(super) fn is_present(&self) -> bool {
        matches!(self.phase, Phase::Asking | Phase::Held)
    }
}

impl<const N: usize> State<N> {
    pub(super) fn new(having: usize, top_ups: u8) -> Self {
        let (node, lines) = (Node::default(), [Line::default(); N]);
        let mut places = [Place { node, is_renewed: false, sees_off: false, lines }; NODES];
        places[NODES - having..].iter_mut().for_each(|place| _ = place.node.acquire(OLD, GRANTED));
        Self {
            places,
            former: Keeper { is_certain: true, terms: 1, counts: true, ..Keeper::default() },
            candidates: [Candidate::default(); N],
            top_ups,
            last: GRANTED,
            fell: false,
            is_handed_over: false,
        }
    }

    /// Who is certain to be in, of those whose certainty was asked for when no hand-over was under way.
    pub(super) fn holds(&self) -> usize {
        let former = self.former.is_certain && self.former.counts;
        self.candidates.iter().filter(|candidate| candidate.phase == Phase::Held).count() + usize::from(former)
    }

    /// Whether a node must not let go of it yet.
    pub(super) fn may_be_counted_on(&self, holder: Holder) -> bool {
        match holder.id {
            OLD => self.former.may_count_on(holder.terms),
            other => self.candidates[usize::from(other) - 1].is_present(),
        }
    }

    /// Whether that claim is in at so many nodes.
    pub(super) fn has(&self, who: &Electorate, id: Id) -> bool {
        who.is_carried_by(|node| self.places[node].node.holder.is_some_and(|holder| holder.id == id))
    }

    pub(super) fn is_undone(&self, candidate: usize) -> bool {
        self.places.iter().all(|place| place.lines[candidate].undo == Undo::None)
    }

    /// The latest token under which a candidate is in, if it is in at enough nodes.
    pub(super) fn outbid(&self, who: &Electorate, candidate: usize) -> Option<u8> {
        let vote = |node: usize| self.places[node].lines[candidate].vote;
        let latest = (0..NODES).filter_map(vote).max();
        latest.filter(|_| who.is_carried_by(|node| vote(node).is_some()))
    }

    /// Sends all nodes a request, after which answers to the last one are not heard any more.
    pub(super) fn send(&mut self, candidate: usize, token: u8) {
        let me = &mut self.candidates[candidate];
        *me = Candidate { phase: Phase::Asking, round: me.round + 1, token };
        for place in &mut self.places {
            let line = &mut place.lines[candidate];
            (line.asks, line.vote) = (true, None);
        }
    }

    /// Which node is which makes no difference, nor what was heard by whom it does not concern any more, nor requests that
    /// nothing can come of, nor tokens once nobody asks any more.
    pub(super) fn normal(mut self) -> Self {
        for (candidate, me) in self.candidates.iter_mut().enumerate() {
            if me.phase != Phase::Asking {
                for place in &mut self.places {
                    let Place { node, lines, .. } = place;
                    let line = &mut lines[candidate];
                    (line.vote, line.was_in) = (None, false);
                    line.asks &= !node.is_buried(id(candidate));
                    line.asks &= !node.is_buried(OLD) || node.holder.is_some_and(|holder| holder.id == id(candidate));
                }
            }
            let is_awaited = self.places.iter().any(|place| place.lines[candidate].asks);
            if !me.is_present() {
                (me.round, me.token) = (0, if is_awaited { me.token } else { 0 });
            }
        }
        for Place { node, sees_off, .. } in &mut self.places {
            *sees_off &= !node.is_buried(OLD);
        }
        let is_over = !self.candidates.iter().any(|candidate| matches!(candidate.phase, Phase::Idle | Phase::Asking));
        for Place { node, .. } in &mut self.places {
            let is_lost = !self.former.is_certain && !self.former.is_renewing;
            if let Some(holder) = &mut node.holder {
                holder.terms = if is_lost { 1 } else { holder.terms };
                holder.fence = if is_over { 0 } else { holder.fence };
            }
            node.fence = if is_over { 0 } else { node.fence };
        }
        if is_over {
            self.last = 0;
            self.candidates.iter_mut().for_each(|candidate| candidate.token = 0);
        }
        self.places.sort_unstable();
        self
    }
}

impl Line {
    pub(super) fn hear(&mut self, answer: Answer) {
        if let Answer::In(token) = answer {
            (self.vote, self.was_in) = (Some(token), true);
        }
    }
}
