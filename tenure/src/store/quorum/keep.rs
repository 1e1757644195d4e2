//! Holding and leaving: renewals that top up what a bare majority lacks, and releases that reach everyone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::claims::Standing;
use super::node::{Vote, Weight};
use super::round::release;
use crate::env;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::proto::vote::Electorate;
use crate::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release, Renew, Reply, Was};

impl Inner {
    pub(super) async fn renew(self: &Arc<Self>, key: &Key, op: &Renew) -> Result<Reply> {
        let known = self.known(key, op.id, op.ttl).await?;
        let limit = known.asks.as_ref().map_or(Claim::ALL, |asks| asks.claim.limit());
        let view = self.fresh_view().await?;
        let who = self.electorate(&view, key, limit);
        let ops: Vec<(usize, Op)> = {
            let mut claims = self.claims();
            let claim = claims.of(op.id, self.env.now(), op.ttl);
            // Who takes it in later does so for as long.
            if let Some(asks) = &mut claim.asks {
                asks.ttl = asks.ttl.max(op.ttl);
            }
            let renewal = |node: usize| (node, Op::Renew(Renew { id: claim.id(node), ..op.clone() }));
            who.nodes().into_iter().map(renewal).collect()
        };
        let mut asked = self.send(key, ops);
        let mut votes = vec![Vote::Pending; self.width()];
        let mut errors = Vec::new();
        while let Some((node, op, reply)) = asked.next().await {
            self.note(node, &op, &reply);
            errors.extend(reply.as_ref().err().map(ToString::to_string));
            votes[node] = Vote::of(reply, |now| self.node(node).vote(now, self.longest, Duration::ZERO));
            if let Some((fence, mut reply)) = held(&who, &votes, known.fence) {
                if let (Some(claim), Outcome::Held { since, .. }) = (self.claims().get(op.id()), &mut reply.outcome) {
                    claim.fence = fence;
                    *since = if claim.since > 0 { claim.since } else { *since };
                }
                self.top_up_later(key, op.id(), missing(&votes));
                return Ok(reply);
            }
        }
        // No majority has it any more, unless those that miss it take it in again.
        let lacking = missing(&votes);
        let is_anywhere = votes.iter().any(|vote| matches!(vote, Vote::In { .. }));
        if let (Some(asks), true, false) = (&known.asks, is_anywhere, lacking.is_empty()) {
            for (node, reply) in self.top_up(key, op.id, asks, known.fence, &lacking, op.ttl).await {
                votes[node] = Vote::of(reply, |now| self.node(node).vote(now, self.longest, Duration::ZERO));
            }
            if let Some((_, reply)) = held(&who, &votes, known.fence) {
                return Ok(reply);
            }
        }
        let gone = votes.iter().find_map(|vote| match vote {
            Vote::Out(reply) => Some(*reply),
            _ => None,
        });
        let possible = who.is_carried_by(|node| !matches!(votes[node], Vote::Out(_)));
        match gone {
            Some(reply) if !possible => {
                self.end(key, op.id);
                Ok(Reply { outcome: Outcome::Gone { was: waiting_or(Was::Unknown, &votes) }, ..reply })
            }
            _ => {
                let message = format!("too few nodes of the quorum answered to a renewal: {}", errors.join("; "));
                Err(Error::new(ErrorKind::NoReply, message))
            }
        }
    }

    pub(super) async fn release(self: &Arc<Self>, key: &Key, op: &Release) -> Result<Reply> {
        let known = self.known(key, op.id, self.longest).await?;
        let limit = known.asks.as_ref().map_or(Claim::ALL, |asks| asks.claim.limit());
        let who = self.electorate(&self.view(), key, limit);
        let ops: Vec<(usize, Op)> = {
            let mut claims = self.claims();
            let claim = claims.of(op.id, self.env.now(), self.longest.max(op.bury));
            claim.is_over = true;
            let longest = known.asks.as_ref().map_or(self.longest, |asks| asks.ttl.max(asks.patience));
            let leave = |node: usize| {
                let bury = if claim.standing(node) == Standing::Unknown { op.bury.max(longest) } else { op.bury };
                (node, Op::Release(Release { id: claim.id(node), bury, fence: op.fence }))
            };
            let everywhere = known.asks.is_none() || !op.bury.is_zero() || claim.nodes().is_empty();
            let nodes = if everywhere { who.nodes() } else { Vec::new() };
            let nodes: BTreeSet<usize> = nodes.into_iter().chain(claim.nodes()).collect();
            // What is under way will be undone when it is answered.
            nodes.into_iter().filter(|node| everywhere || claim.standing(*node) != Standing::Asked).map(leave).collect()
        };
        let expected = ops.len();
        let mut asked = self.send(key, ops);
        let mut votes = vec![Vote::Pending; self.width()];
        let (mut last, mut errors, mut unheard) = (None, Vec::new(), Vec::new());
        let mut answered = 0;
        while let Some((node, op, reply)) = asked.next().await {
            self.note(node, &op, &reply);
            match &reply {
                Ok(_) => answered += 1,
                Err(error) => {
                    errors.push(error.to_string());
                    unheard.push((node, op));
                }
            }
            last = reply.as_ref().ok().copied().or(last);
            votes[node] = Vote::of(reply, |_| Weight::Full);
        }
        // Everyone who is up has answered, so that whoever asks next finds it free.
        let enough =
            who.is_carried_by(|node| matches!(votes[node], Vote::Out(_) | Vote::In { .. })) || answered == expected;
        let Some(reply) = last.filter(|_| enough) else {
            let message = format!("too few nodes of the quorum answered to a release: {}", errors.join("; "));
            return Err(Error::new(ErrorKind::NoReply, message));
        };
        self.see_rest_off(key, known.id, unheard);
        let had = |node: usize| matches!(was(votes[node]), Some(Was::Holding));
        let was = if who.is_carried_by(had) { Was::Holding } else { waiting_or(Was::Unknown, &votes) };
        Ok(Reply { outcome: Outcome::Gone { was }, ..reply })
    }

    /// Nothing of the claim counts any more: what is left of it is released in the background.
    fn end(self: &Arc<Self>, key: &Key, id: ClaimId) {
        let mut releases = Vec::new();
        if let Some(claim) = self.claims().get(id) {
            claim.is_over = true;
            let longest = claim.asks.as_ref().map_or(self.longest, |asks| asks.ttl);
            for node in claim.nodes() {
                let (standing, id) = (claim.standing(node), claim.id(node));
                let bury = if standing == Standing::Unknown { longest } else { Duration::ZERO };
                releases.push((node, Release { id, bury, fence: 0 }));
            }
        }
        self.let_go(key, releases);
    }

    /// What was not answered is asked for again in the background; the claim is forgotten.
    fn see_rest_off(self: &Arc<Self>, key: &Key, id: ClaimId, unheard: Vec<(usize, Op)>) {
        self.claims().forget(id);
        let releases = unheard.into_iter().filter_map(|(node, op)| match op {
            Op::Release(release) => Some((node, release)),
            _ => None,
        });
        self.let_go(key, releases.collect());
    }

    /// What is known of a claim; of one that another process made, what a look at the nodes tells.
    async fn known(self: &Arc<Self>, key: &Key, id: ClaimId, lasts: Duration) -> Result<Known> {
        let now = self.env.now();
        if let Some(claim) = self.claims().get(id).filter(|claim| !claim.nodes().is_empty()) {
            return Ok(Known { id, asks: claim.asks.clone(), fence: claim.fence });
        }
        let found = self.find(key, id).await?;
        let mut claims = self.claims();
        let claim = claims.of(id, now, lasts);
        for (node, entry) in found {
            let standing = if entry.fence > 0 { Standing::In } else { Standing::Waits };
            claim.is_known_as(node, entry.id, standing);
        }
        Ok(Known { id, asks: claim.asks.clone(), fence: claim.fence })
    }

    /// Takes the claim in again where it is missing, in the background.
    pub(super) fn top_up_later(self: &Arc<Self>, key: &Key, id: ClaimId, nodes: Vec<usize>) {
        let asks = self
            .claims()
            .get(id)
            .filter(|claim| !claim.is_over && claim.fence > 0)
            .map(|claim| (claim.asks.clone(), claim.fence));
        let Some((Some(asks), fence)) = asks.filter(|_| !nodes.is_empty()) else { return };
        let (inner, key) = (self.clone(), key.clone());
        env::spawn(async move {
            inner.top_up(&key, id, &asks, fence, &nodes, asks.ttl).await;
        });
    }

    async fn top_up(
        self: &Arc<Self>,
        key: &Key,
        id: ClaimId,
        asks: &Acquire,
        fence: u64,
        nodes: &[usize],
        ttl: Duration,
    ) -> Vec<(usize, Result<Reply>)> {
        let ops: Vec<(usize, Op)> = {
            let mut claims = self.claims();
            let Some(claim) = claims.get(id).filter(|claim| !claim.is_over) else { return Vec::new() };
            let request = |node: usize| {
                let request = Acquire { id: claim.id(node), fence, ttl, patience: Duration::ZERO, ..asks.clone() };
                claim.stand(node, Standing::Asked);
                (node, Op::Acquire(request))
            };
            nodes.iter().copied().map(request).collect()
        };
        let mut asked = self.send(key, ops);
        let mut replies = Vec::new();
        while let Some((node, op, reply)) = asked.next().await {
            let is_current = self.note(node, &op, &reply);
            let is_in = matches!(reply.as_ref().map(|reply| reply.outcome), Ok(Outcome::Held { .. }));
            let is_over = self.claims().get(id).is_none_or(|claim| claim.is_over);
            // It was released meanwhile.
            if is_in && (!is_current || is_over) {
                self.let_go(key, vec![(node, release(op.id(), asks))]);
            }
            replies.push((node, reply));
        }
        replies
    }
}

/// What is known of a claim that somebody renews or releases.
struct Known {
    id: ClaimId,
    asks: Option<Acquire>,
    fence: u64,
}

/// The token under which enough nodes have the claim, not before the last one known, and such an answer.
fn held(who: &Electorate, votes: &[Vote], token: u64) -> Option<(u64, Reply)> {
    votes.iter().find_map(|vote| {
        let Vote::In { fence, reply, .. } = *vote else { return None };
        let same = |node: usize| {
            matches!(votes[node], Vote::In { fence: other, weight, .. } if other == fence && weight > Weight::None)
        };
        (fence >= token && who.is_carried_by(same)).then_some((fence, reply))
    })
}

/// The nodes that said that they don't have it.
fn missing(votes: &[Vote]) -> Vec<usize> {
    let lacks = |vote: &Vote| matches!(was(*vote), Some(Was::Unknown));
    votes.iter().enumerate().filter(|(_, vote)| lacks(vote)).map(|(node, _)| node).collect()
}

fn was(vote: Vote) -> Option<Was> {
    match vote {
        Vote::Out(Reply { outcome: Outcome::Gone { was }, .. }) => Some(was),
        _ => None,
    }
}

fn waiting_or(other: Was, votes: &[Vote]) -> Was {
    if votes.iter().any(|vote| was(*vote) == Some(Was::Waiting)) { Was::Waiting } else { other }
}
