//! Holding and leaving: renewals that top up what a bare majority lacks, and releases that reach everyone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::claims::{Claim as Claimed, Standing};
use super::node::{Vote, Weight};
use crate::env;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::proto::vote::{Electorate, votes_needed};
use crate::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release, Renew, Reply, Was};

/// How often a renewal asks those that miss the claim to take it in, and how long it waits before it asks again, at first.
const TRIES: u32 = 4;
const TRY_AGAIN: Duration = Duration::from_millis(4);

impl Inner {
    pub(super) async fn renew(self: &Arc<Self>, key: &Key, op: &Renew) -> Result<Reply> {
        let (known, minted) = (self.known(key, op.id, op.ttl).await?, op.fence);
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
            if let Some((fence, mut reply)) = held(&who, &votes, known.fence, minted) {
                if let (Some(claim), Outcome::Held { since, .. }) = (self.claims().get(op.id()), &mut reply.outcome) {
                    claim.fence = fence;
                    *since = if claim.since > 0 { claim.since } else { *since };
                }
                self.top_up_later(key, op.id(), missing(&votes));
                return Ok(reply);
            }
        }
        // No majority has it any more, unless those that miss it take it in again. Where somebody else is just trying, that
        // one will leave, and the place in the queue keeps others out.
        for attempt in 0..TRIES {
            let (lacking, is_anywhere) = (missing(&votes), votes.iter().any(|vote| matches!(vote, Vote::In { .. })));
            let Some(asks) = known.asks.as_ref().filter(|_| is_anywhere && !lacking.is_empty()) else { break };
            if attempt > 0 {
                self.env.sleep(self.env.jitter(TRY_AGAIN * 2_u32.pow(attempt))).await;
            }
            for (node, reply) in self.top_up(key, op.id, asks, known.fence, &lacking, op.ttl).await {
                votes[node] = Vote::of(reply, |now| self.node(node).vote(now, self.longest, Duration::ZERO));
            }
            if let Some((_, reply)) = held(&who, &votes, known.fence, minted) {
                return Ok(reply);
            }
        }
        let gone = votes.iter().find_map(|vote| match vote {
            Vote::Out(reply) => Some(*reply),
            _ => None,
        });
        let is_possible = |vote: Vote| !matches!(vote, Vote::Out(_)) || (known.fence > 0 && waits(vote));
        let possible = who.is_carried_by(|node| is_possible(votes[node]));
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
        let (ops, lacking, kept): (Vec<(usize, Op)>, Vec<usize>, Vec<usize>) = {
            let (mut claims, now) = (self.claims(), self.env.now());
            let claim = claims.of(op.id, now, Duration::ZERO);
            let lasts = !known.is_found && claim.fence > 0 && claim.until > now;
            let stands = |standing: Standing, of: &Claimed| {
                who.nodes().into_iter().filter(|node| of.standing(*node) == standing).collect()
            };
            let (lacking, kept) =
                (stands(Standing::Out, claim), if lasts { stands(Standing::In, claim) } else { Vec::new() });
            let claim = claims.of(op.id, now, self.longest.max(op.bury));
            claim.is_over = true;
            let longest = known.asks.as_ref().map_or(self.longest, |asks| asks.ttl.max(asks.patience));
            let leave = |node: usize| {
                let bury = if claim.standing(node) == Standing::Unknown { op.bury.max(longest) } else { op.bury };
                (node, Op::Release(Release { id: claim.id(node), bury, fence: op.fence }))
            };
            let everywhere = known.is_found || !op.bury.is_zero() || claim.nodes().is_empty();
            let nodes = if everywhere { who.nodes() } else { Vec::new() };
            let nodes: BTreeSet<usize> = nodes.into_iter().chain(claim.nodes()).collect();
            // What is under way will be undone when it is answered.
            let asked = nodes.into_iter().filter(|node| everywhere || claim.standing(*node) != Standing::Asked);
            (asked.map(leave).collect(), if everywhere { Vec::new() } else { lacking }, kept)
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
        let is_out = |node: usize| matches!(votes[node], Vote::Out(_) | Vote::In { .. }) || lacking.contains(&node);
        let enough = who.is_carried_by(is_out) || answered == expected;
        let Some(reply) = last.filter(|_| enough) else {
            let message = format!("too few nodes of the quorum answered to a release: {}", errors.join("; "));
            return Err(Error::new(ErrorKind::NoReply, message));
        };
        self.see_rest_off(key, known.id, unheard);
        // Of one that cannot say it, what is known of it counts, as it did for the holder.
        let had = |node: usize| match votes[node] {
            Vote::Failed => kept.contains(&node),
            vote => was(vote) == Some(Was::Holding),
        };
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
            return Ok(Known::of(id, claim));
        }
        let found = self.find(key, id).await?;
        let agreed = |token: u64| {
            let is_for = |node: &&usize| found.iter().any(|(other, entry, _)| other == *node && entry.fence == token);
            let groups = &self.view().groups;
            groups.iter().any(|group| group.iter().filter(is_for).count() >= votes_needed(group.len(), Claim::ALL))
        };
        let fence = found.iter().map(|(_, entry, _)| entry.fence).find(|token| agreed(*token)).unwrap_or(0);
        let mut claims = self.claims();
        let claim = claims.of(id, now, lasts);
        claim.fence = claim.fence.max(fence);
        for (node, entry, record) in found {
            let standing = if entry.fence > 0 { Standing::In } else { Standing::Waits };
            claim.is_known_as(node, entry.id, standing);
            claim.is_found |= claim.asks.is_none();
            if let (Ok(what), None) = (Claim::new(entry.permits, record.limit), &claim.asks) {
                claim.asks = Some(Acquire {
                    id,
                    claim: what,
                    ttl: lasts,
                    patience: Duration::ZERO,
                    owner: entry.owner,
                    // It was let in before.
                    max: u32::MAX,
                    memory: Duration::from_micros(record.memory),
                    meta: entry.meta,
                    fence: 0,
                });
            }
        }
        Ok(Known::of(id, claim))
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
                let request = Acquire { id: claim.id(node), fence, ttl, patience: ttl, ..asks.clone() };
                claim.stand(node, Standing::Asked);
                (node, Op::Acquire(request))
            };
            nodes.iter().copied().map(request).collect()
        };
        let mut asked = self.send(key, ops);
        let mut replies = Vec::new();
        while let Some((node, op, reply)) = asked.next().await {
            // It may have been released meanwhile.
            self.heard_late(key, node, &op, reply.clone());
            replies.push((node, reply));
        }
        replies
    }
}

/// What is known of a claim that somebody renews or releases.
struct Known {
    id: ClaimId,
    asks: Option<Acquire>,
    is_found: bool,
    fence: u64,
}

impl Known {
    fn of(id: ClaimId, claim: &super::claims::Claim) -> Self {
        Self { id, asks: claim.asks.clone(), is_found: claim.is_found, fence: claim.fence }
    }
}

/// The token under which enough nodes have the claim, and such an answer.
///
/// A node counts that has it under a later token than the one it was granted under, as where it was taken in later and others
/// had been before: whoever comes next has to be later there all the more. Where that one is not known, they have to agree;
/// one that was minted since is the hold's own where they took it over.
fn held(who: &Electorate, votes: &[Vote], granted: u64, minted: u64) -> Option<(u64, Reply)> {
    let took_over = |node: usize| matches!(votes[node], Vote::In { fence, .. } if fence == minted);
    let granted = if minted > granted && who.is_carried_by(took_over) { minted } else { granted };
    votes.iter().find_map(|vote| {
        let Vote::In { fence, mut reply, .. } = *vote else { return None };
        let token = if granted > 0 { granted } else { fence };
        let counts = |node: usize| match votes[node] {
            Vote::In { fence, weight, .. } if weight > Weight::None => fence == token || (granted > 0 && fence > token),
            _ => false,
        };
        if let Outcome::Held { fence, .. } = &mut reply.outcome {
            *fence = token;
        }
        who.is_carried_by(counts).then_some((token, reply))
    })
}

/// The nodes that said that they don't have it.
fn missing(votes: &[Vote]) -> Vec<usize> {
    let lacks = |vote: &Vote| matches!(was(*vote), Some(Was::Unknown)) || waits(*vote);
    votes.iter().enumerate().filter(|(_, vote)| lacks(vote)).map(|(node, _)| node).collect()
}

/// Whether the claim stands in a queue there.
fn waits(vote: Vote) -> bool {
    let is_busy = matches!(vote, Vote::Out(Reply { outcome: Outcome::Busy { .. }, .. }));
    is_busy || was(vote) == Some(Was::Waiting)
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
