//! What the votes of a round come to.

use std::time::Duration;

use futures_util::future::join_all;

use super::Inner;
use super::node::{Preference, Vote, Weight};
use crate::key::Key;
use crate::proto::vote::{Electorate, Group};
use crate::proto::{Acquire, ClaimId, Outcome, Reply};

/// What a round of voting came to.
pub(super) enum Round {
    Won(Reply),
    /// A claim is in at enough nodes, but not under one token: this is the latest of them.
    Outbid(u64),
    /// It cannot be had now. The best reply says why.
    Lost(Reply),
    /// Too few nodes answered.
    Short,
}

/// One acquisition and who decides on it.
pub(super) struct Ballot<'a> {
    pub(super) key: &'a Key,
    pub(super) op: &'a Acquire,
    pub(super) who: Electorate,
    /// Everyone who decides, those first whom the lock's name prefers.
    pub(super) nodes: Vec<usize>,
    pub(super) home: Option<usize>,
    /// The claim in whose place it enters.
    pub(super) from: Option<Predecessor>,
}

/// A claim that is handed over, and for how long its id is buried then.
#[derive(Clone, Copy)]
pub(super) struct Predecessor {
    pub(super) id: ClaimId,
    pub(super) bury: Duration,
}

impl Ballot<'_> {
    /// Whether its owner may be in already, and under a token that it shares. A claim that follows another has one of its own.
    fn may_share(&self) -> bool {
        self.op.owner.is_some() && self.from.is_none()
    }
}

/// What is decided already, if anything is.
pub(super) fn decide(ballot: &Ballot<'_>, votes: &[Vote], token: u64, is_known: bool, is_slow: bool) -> Option<Round> {
    let home = ballot.home.map(|home| votes[home]);
    // Whoever waits in the home's queue is not overtaken, as long as it answers soon.
    if let (Some(Vote::Pending), false) = (home, is_slow) {
        return None;
    }
    let overtakes = home.is_some_and(|vote| is_busy(&vote));
    let enough = if is_known { Weight::Weak } else { Weight::Full };
    if let Some((_, reply)) = agreed(ballot, votes, enough).filter(|_| !overtakes) {
        return Some(Round::Won(reply));
    }
    let could = |node: usize, under: Option<u64>| match votes[node] {
        Vote::Pending => true,
        Vote::In { fence, weight, .. } => weight > Weight::None && under.is_none_or(|token| token == fence),
        Vote::Out(_) | Vote::Failed => false,
    };
    // One that is slow is not waited for to learn whether it would agree: a later token costs less. But for an owner, which
    // may be in already: its token is minted once.
    let may = |node: usize| ballot.may_share() || !(is_slow && matches!(votes[node], Vote::Pending));
    let agree = |token: u64| ballot.who.is_carried_by(|node| may(node) && could(node, Some(token)));
    let is_outbid = is_in(ballot, votes) && !agree(token) && !votes.iter().any(|vote| vote.token().is_some_and(agree));
    let is_lost = overtakes || !ballot.who.is_carried_by(|node| could(node, None));
    (is_outbid || is_lost).then(|| undecided(ballot, votes))
}

/// The token under which its owner is in already, where a node told one: a node lets nobody in under an earlier token than
/// the proposed one but for that reason. Of several the one that most told.
///
/// It is safe to propose it to others, granted or not. For as long as a node has had the owner in under it, it let in nobody
/// else whom the owner excludes; so a later token that others were granted was granted before the node took this one, and
/// then it would not have. Those who are asked take it only where it is later than their last, as any other.
pub(super) fn shared(ballot: &Ballot<'_>, votes: &[Vote], token: u64) -> Option<u64> {
    let told = || votes.iter().filter_map(Vote::token).filter(|told| ballot.may_share() && *told < token);
    told().max_by_key(|one| (told().filter(|other| other == one).count(), *one))
}

/// Whether those that were asked at first leave a doubt that others have to settle: one does not agree, or is slow.
///
/// Where the claim's owner may be in already, who knows it and is slow is worth waiting for. Others are asked once its token is
/// known; or once so many don't know it that those who are left, if any are a majority, all do.
pub(super) fn calls_for_others(
    ballot: &Ballot<'_>,
    votes: &[Vote],
    token: u64,
    shared: Option<u64>,
    is_slow: bool,
) -> bool {
    let agrees = |vote: &Vote| matches!(vote, Vote::In { fence, weight: Weight::Full, .. } if *fence == token);
    if ballot.may_share() {
        let leaves_a_majority = |group: &Group| {
            let new = group.members.iter().filter(|node| votes[**node].token() == Some(token)).count();
            new + group.votes >= group.members.len()
        };
        return shared.is_some() || (is_slow && ballot.who.0.iter().all(leaves_a_majority));
    }
    is_slow || !votes.iter().all(|vote| agrees(vote) || matches!(vote, Vote::Pending))
}

/// The token under which enough nodes have the claim, counting those of at least that weight, and one of their answers.
pub(super) fn agreed(ballot: &Ballot<'_>, votes: &[Vote], enough: Weight) -> Option<(u64, Reply)> {
    ballot.nodes.iter().find_map(|node| {
        let Vote::In { fence: token, reply, .. } = votes[*node] else { return None };
        let is_for =
            |node: usize| matches!(votes[node], Vote::In { fence, weight, .. } if fence == token && weight >= enough);
        ballot.who.is_carried_by(is_for).then_some((token, reply))
    })
}

/// What a round came to that cannot be won under its token.
pub(super) fn undecided(ballot: &Ballot<'_>, votes: &[Vote]) -> Round {
    // Where somebody waits in the queue of the home, that counts more; a hand-over is nowhere in line.
    if is_in(ballot, votes) && (ballot.from.is_some() || !votes.iter().any(is_busy)) {
        return Round::Outbid(votes.iter().filter_map(Vote::token).max().unwrap_or_default());
    }
    let answers = ballot.nodes.iter().filter_map(|node| match votes[*node] {
        Vote::Out(reply) => Some(reply),
        _ => None,
    });
    let mut refusals = answers.clone().filter(|reply| matches!(reply.outcome, Outcome::Refused(_)));
    if let Some(reply) = refusals.next().or_else(|| home_of(ballot, votes)).or_else(|| answers.clone().next()) {
        // One that never had the old claim says nothing of the others.
        let may_have_it = |node: usize| matches!(votes[node], Vote::Pending | Vote::Failed);
        if matches!(reply.outcome, Outcome::Gone { .. }) && ballot.who.is_carried_by(may_have_it) {
            return Round::Short;
        }
        // It may be free as soon as it is at one of them.
        let retries = answers.filter_map(|reply| match reply.outcome {
            Outcome::Busy { retry_in, .. } => Some(retry_in),
            _ => None,
        });
        return Round::Lost(match (reply.outcome, retries.min()) {
            (Outcome::Busy { ahead, .. }, Some(retry_in)) => {
                Reply { outcome: Outcome::Busy { ahead, retry_in }, ..reply }
            }
            _ => reply,
        });
    }
    Round::Short
}

/// What the home said, where it said that it is busy.
fn home_of(ballot: &Ballot<'_>, votes: &[Vote]) -> Option<Reply> {
    match votes[ballot.home?] {
        Vote::Out(reply) => Some(reply),
        _ => None,
    }
}

/// Whether the claim is in at enough nodes, under whatever tokens.
fn is_in(ballot: &Ballot<'_>, votes: &[Vote]) -> bool {
    ballot.who.is_carried_by(|node| matches!(votes[node], Vote::In { weight, .. } if weight > Weight::None))
}

fn is_busy(vote: &Vote) -> bool {
    matches!(vote, Vote::Out(Reply { outcome: Outcome::Busy { .. }, .. }))
}

impl Inner {
    /// The latest token that enough nodes remember which have kept all that they acknowledged; those that are for
    /// `token` remember none that is later. Where so many have lost their memory that nobody can know, the clock has to do,
    /// as it does for a single store: they have had no vote for a longest ttl.
    pub(super) async fn latest_known(&self, ballot: &Ballot<'_>, votes: &[Vote], token: u64) -> Option<u64> {
        let voted = |node: usize| matches!(votes[node], Vote::In { fence, weight: Weight::Full, .. } if fence == token);
        let others: Vec<usize> = ballot.nodes.iter().copied().filter(|node| !voted(*node)).collect();
        let reads = others.iter().map(|node| async {
            let node = self.node(*node);
            let seen = node.query(&self.env, self.node_timeout, node.store.read(ballot.key)).await.ok()?;
            Some((node.vote(seen.now, self.longest, ballot.op.memory), seen.record.fence))
        });
        let read: Vec<(usize, Option<(Weight, u64)>)> = others.iter().copied().zip(join_all(reads).await).collect();
        let of = |node: usize| read.iter().find(|(other, _)| *other == node).and_then(|(_, read)| *read);
        let remembers = |node: usize| voted(node) || of(node).is_some_and(|(weight, _)| weight == Weight::Full);
        let may_remember = |node: usize| voted(node) || of(node).is_none_or(|(weight, _)| weight == Weight::Full);
        let is_known = ballot.who.is_known_by(remembers) || !ballot.who.is_known_by(may_remember);
        let latest = read.iter().filter_map(|(_, read)| *read).filter(|(weight, _)| *weight == Weight::Full);
        is_known.then(|| latest.map(|(_, fence)| fence).max().unwrap_or(0))
    }

    /// Those nodes in the order in which the lock's name prefers them: for all clients the same.
    pub(super) fn in_order(&self, key: &Key, mut nodes: Vec<usize>) -> Vec<usize> {
        nodes.sort_by_cached_key(|node| std::cmp::Reverse(Preference::of(key.as_str(), &self.node(*node))));
        nodes
    }

    /// The nodes to ask at first, which carry a vote if all of them agree, and the others. The home is among the first, and
    /// then those that have not failed lately, in the order in which the lock's name prefers them.
    pub(super) fn by_preference(&self, ballot: &Ballot<'_>) -> (Vec<usize>, Vec<usize>) {
        let mut nodes = ballot.nodes.clone();
        nodes.sort_by_cached_key(|node| std::cmp::Reverse((ballot.home == Some(*node), self.node(*node).is_well())));
        let mut first = Vec::new();
        for group in &ballot.who.0 {
            let members = nodes.iter().copied().filter(|node| group.members.contains(node));
            first.extend(members.take(group.votes));
        }
        let others = nodes.into_iter().filter(|node| !first.contains(node)).collect();
        first.sort_unstable();
        first.dedup();
        (first, others)
    }

    /// The node in whose queue claims on this lock wait, of those in order: for all clients the same, as long as they find the
    /// same ones up.
    pub(super) fn home(&self, in_order: &[usize]) -> Option<usize> {
        let wall = self.env.wall();
        let serves = |node: &usize| {
            let node = self.node(*node);
            // One that failed is tried again by those who need not wait for it.
            node.is_well() && node.vote(wall, self.longest, Duration::ZERO) > Weight::None
        };
        in_order.iter().copied().find(serves)
    }
}
