//! An acquisition: a vote of all nodes, or a place in the queue of the lock's home and then the vote.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::claims::Standing;
use super::node::{Vote, Weight};
use super::round::{Answer, release};
use super::tally::{Ballot, Round, agreed, calls_for_others, decide, shared, undecided};
use super::{Inner, unavailable};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::options::invalid;
use crate::proto::{Acquire, ClaimId, HandOver, Op, Outcome, Release, Reply};

/// How many rounds one request may take: the first, and as many as an outbid or a hand-over under way are worth.
const ROUNDS: u32 = 4;
/// After how many rounds that it could not win a claim gives up its home, too.
const PATIENCE: u32 = 12;
/// For how long the first to be asked may be silent before the others are asked as well.
const SLOW: Duration = Duration::from_millis(5);
/// How long to wait before asking again where nobody can say for how long the others hold: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(250));

impl Inner {
    pub(super) async fn acquire(self: &Arc<Self>, key: &Key, op: &Acquire) -> Result<Reply> {
        if op.ttl > self.longest {
            let message = format!(
                "the ttl of {:?} is longer than the {:?} that this quorum is made for: give its longest_ttl a higher value, at every client",
                op.ttl, self.longest
            );
            return Err(invalid(message));
        }
        let op = &Acquire { memory: op.memory.min(self.token_memory), ..op.clone() };
        let view = self.fresh_view().await?;
        let who = self.electorate(&view, key, op.claim.limit());
        let nodes = self.in_order(key, who.nodes());
        let (told, stood, granted) = {
            let mut claims = self.claims();
            let claim = claims.of(op.id, self.env.now(), op.ttl.max(op.patience) + 2 * self.node_timeout);
            claim.is_over = false;
            claim.asks.get_or_insert_with(|| op.clone());
            (claim.take_told(), claim.home, claim.fence)
        };
        let mut ballot = Ballot { key, op, who, nodes, home: None, from: None };
        let mut token = match granted.max(op.fence) {
            // One alone mints its own.
            0 if ballot.nodes.len() == 1 => 0,
            // The wall clock is below 2^52 until the year 2112; what is not below 2^53 would not fit a double.
            0 => self.env.wall().min(1 << 52),
            token => token,
        };
        match stood {
            // Where it is a member no more, nobody else goes by its queue.
            Some(home) if !op.patience.is_zero() && ballot.nodes.contains(&home) => match told {
                Some(fence) => (ballot.home, token) = (Some(home), fence),
                None => match self.ask_home(&ballot, home).await {
                    Ok(Reply { outcome: Outcome::Held { fence, .. }, .. }) => {
                        (ballot.home, token) = (Some(home), fence)
                    }
                    Ok(other) => return Ok(other),
                    // Another one will do.
                    Err(_) => self.give_up(&ballot, &[home]),
                },
            },
            Some(home) => _ = self.let_go_now(key, self.leave(&ballot, &[home])).await,
            None => {}
        }
        if ballot.home.is_none() {
            ballot.home = self.home(&ballot.nodes);
        }
        self.vote(&ballot, token).await
    }

    pub(super) async fn vote(self: &Arc<Self>, ballot: &Ballot<'_>, mut token: u64) -> Result<Reply> {
        let waits = !ballot.op.patience.is_zero();
        let mut round = 0;
        loop {
            round += 1;
            self.rounds.fetch_add(1, Relaxed);
            let (outcome, errors) = self.round(ballot, token).await;
            match outcome {
                Round::Won(reply) => return Ok(self.won(ballot, reply)),
                Round::Outbid(latest) if round < ROUNDS => {
                    self.collisions.fetch_add(1, Relaxed);
                    token = latest + 1;
                    continue;
                }
                _ => {}
            }
            // Only who is told that it is busy knows that there is something to come back for.
            let stays = waits && matches!(outcome, Round::Lost(Reply { outcome: Outcome::Busy { .. }, .. }));
            let Undone { home: has_home, everywhere } = self.lose(ballot, stays).await;
            // Gone, or refused for good: then the old claim is told to be lost in any case.
            let is_lost = matches!(&outcome, Round::Lost(reply) if !matches!(reply.outcome, Outcome::Busy { .. }));
            if ballot.from.is_some() && !everywhere && !is_lost {
                // What is under way may yet take a node from the old claim, which must not go on as if it still had it.
                return Err(may_yet_follow(errors));
            }
            let Round::Lost(reply) = outcome else { return Err(short(errors)) };
            let (Outcome::Busy { ahead, .. }, true) = (reply.outcome, waits) else { return Ok(reply) };
            match has_home {
                Some(Standing::Waits) => return Ok(reply),
                // The one before is about to leave the others as well; or it is somebody with another home.
                Some(_) => {
                    self.collisions.fetch_add(1, Relaxed);
                    let rounds = self.rounds_with_home(ballot);
                    if rounds >= PATIENCE {
                        self.give_up(ballot, &ballot.nodes);
                    }
                    if round >= ROUNDS || rounds >= PATIENCE {
                        return Ok(busy(reply, ahead, self.env.jitter(pause(rounds))));
                    }
                    if round > 1 {
                        self.env.sleep(self.env.jitter(RETRY.0)).await;
                    }
                }
                None => return Ok(busy(reply, ahead, self.env.jitter(pause(self.rounds_with_home(ballot))))),
            }
        }
    }

    /// One round: asks for the token, until it is decided. At first only as many as carry a vote if all of them agree; the
    /// others as soon as one does not, or is slow. Those are asked for the token of its owner where the first told it.
    async fn round(self: &Arc<Self>, ballot: &Ballot<'_>, token: u64) -> (Round, Vec<String>) {
        let (first, mut others) = self.by_preference(ballot);
        let mut asked = self.send(ballot.key, self.requests(ballot, &first, token));
        let mut votes = vec![Vote::Pending; ballot.nodes.iter().max().map_or(0, |last| last + 1)];
        let (mut errors, mut is_known, slow_at) = (Vec::new(), false, self.env.now() + SLOW);
        let round = loop {
            while let Some(answer) = asked.ready() {
                self.hear(ballot, answer, &mut votes, &mut errors);
            }
            let is_slow = self.env.now() >= slow_at;
            if let Some(round) = decide(ballot, &votes, token, is_known, is_slow) {
                break round;
            }
            let shared = shared(ballot, &votes, token);
            if !others.is_empty() && (asked.is_empty() || calls_for_others(ballot, &votes, token, shared, is_slow)) {
                let (others, token) = (std::mem::take(&mut others), shared.unwrap_or(token));
                self.requests(ballot, &others, token).into_iter().for_each(|(node, op)| asked.also(node, op));
                continue;
            }
            let answer = tokio::select! {
                biased;
                answer = asked.next() => answer,
                () = self.env.sleep_until(slow_at), if !is_slow => continue,
            };
            match answer {
                Some(answer) => self.hear(ballot, answer, &mut votes, &mut errors),
                None => match agreed(ballot, &votes, Weight::Weak).filter(|_| !is_known) {
                    // All have answered, and all that is missing are the votes of nodes with a short memory.
                    Some((token, _)) => match self.latest_known(ballot, &votes, token).await {
                        Some(latest) if latest >= token => break Round::Outbid(latest),
                        Some(_) => is_known = true,
                        None => {
                            let message = "of the nodes that were not started lately, too few tell their last token";
                            errors.push(message.to_owned());
                            break Round::Short;
                        }
                    },
                    None => break undecided(ballot, &votes),
                },
            }
        };
        (round, errors)
    }

    fn hear(&self, ballot: &Ballot<'_>, (node, op, reply): Answer, votes: &mut [Vote], errors: &mut Vec<String>) {
        self.note(node, &op, &reply);
        errors.extend(reply.as_ref().err().map(ToString::to_string));
        votes[node] = Vote::of(reply, |now| self.node(node).vote(now, self.longest, ballot.op.memory));
        if let Vote::In { weight: Weight::None, .. } = votes[node] {
            errors.push(self.node(node).is_young(self.longest));
        }
    }

    /// What asks those nodes for the token; something of the claim may be there from now on.
    fn requests(&self, ballot: &Ballot<'_>, nodes: &[usize], token: u64) -> Vec<(usize, Op)> {
        let Ballot { op, home, from, .. } = ballot;
        let mut claims = self.claims();
        let mut request = |node: usize| {
            let old = from.map(|from| (claims.get(from.id).map_or(from.id, |old| old.id(node)), from.bury));
            let claim = claims.of(op.id, self.env.now(), op.ttl);
            let patience = if Some(node) == *home { op.patience } else { Duration::ZERO };
            if claim.standing(node) == Standing::Out {
                claim.stand(node, Standing::Asked);
            }
            let request = Acquire { id: claim.id(node), patience, fence: token, ..(*op).clone() };
            let op = match old {
                Some((from, bury)) => in_place_of(from, bury, request),
                None => Op::Acquire(request),
            };
            (node, op)
        };
        nodes.iter().map(|node| request(*node)).collect()
    }

    fn won(&self, ballot: &Ballot<'_>, mut reply: Reply) -> Reply {
        if let (Some(claim), Outcome::Held { fence, since, .. }) = (self.claims().get(ballot.op.id), &mut reply.outcome)
        {
            if claim.since == 0 {
                claim.since = *since;
            }
            (claim.fence, claim.home, claim.rounds, *since) = (*fence, None, 0, claim.since);
        }
        reply
    }

    /// Lets go of everything, but of the home if it stays there.
    async fn lose(self: &Arc<Self>, ballot: &Ballot<'_>, stays: bool) -> Undone {
        let (mut home, mut is_under_way) = (None, false);
        if let Some(claim) = self.claims().get(ballot.op.id) {
            is_under_way = ballot.nodes.iter().any(|node| claim.standing(*node) == Standing::Asked);
            let standing = ballot.home.map(|home| claim.standing(home));
            home = standing.filter(|standing| stays && matches!(standing, Standing::In | Standing::Waits));
            claim.home = ballot.home.filter(|_| home.is_some());
            claim.rounds += 1;
        }
        let others: Vec<usize> =
            ballot.nodes.iter().copied().filter(|node| home.is_none() || Some(*node) != ballot.home).collect();
        let releases = self.leave(ballot, &others);
        // Who will not wait has nothing left behind; who waits need not wait for that as well.
        let everywhere = match home {
            Some(_) => {
                self.let_go(ballot.key, releases);
                false
            }
            None => self.let_go_now(ballot.key, releases).await && !is_under_way,
        };
        Undone { home, everywhere }
    }

    /// Releases whatever may be at those nodes, in the background.
    fn give_up(self: &Arc<Self>, ballot: &Ballot<'_>, nodes: &[usize]) {
        let releases = self.leave(ballot, nodes);
        self.let_go(ballot.key, releases);
    }

    /// From now on nothing of the claim counts that is at those nodes: what releases it. Of what is still under way the
    /// answer will be heard.
    fn leave(&self, ballot: &Ballot<'_>, nodes: &[usize]) -> Vec<(usize, Release)> {
        let mut claims = self.claims();
        let Some(claim) = claims.get(ballot.op.id) else { return Vec::new() };
        let mut releases = Vec::new();
        for node in nodes.iter().copied() {
            if claim.standing(node) == Standing::Out {
                continue;
            }
            let (id, standing) = claim.leave(node);
            let undo = release(id, ballot.op);
            match standing {
                Standing::In | Standing::Waits => releases.push((node, Release { bury: Duration::ZERO, ..undo })),
                Standing::Unknown => releases.push((node, undo)),
                Standing::Asked | Standing::Out => {}
            }
        }
        releases
    }

    fn rounds_with_home(&self, ballot: &Ballot<'_>) -> u32 {
        self.claims().get(ballot.op.id).map_or(0, |claim| claim.rounds)
    }

    /// Keeps the place in the home's queue, or learns that it was let in.
    async fn ask_home(self: &Arc<Self>, ballot: &Ballot<'_>, home: usize) -> Result<Reply> {
        let id = self.claims().get(ballot.op.id).map_or(ballot.op.id, |claim| claim.id(home));
        let op = Op::Acquire(Acquire { id, ..ballot.op.clone() });
        let reply = self.node(home).ask(&self.env, self.node_timeout, ballot.key, &op).await;
        self.note(home, &op, &reply);
        reply
    }
}

/// What is left of a ballot that was lost.
struct Undone {
    /// How it stands at its home, if it stays there.
    home: Option<Standing>,
    /// Whether there is certainly nothing of it at any node, nor on its way to one.
    everywhere: bool,
}

/// The same request, for the place of another claim.
fn in_place_of(from: ClaimId, bury: Duration, request: Acquire) -> Op {
    let Acquire { id, ttl, owner, meta, fence, .. } = request;
    Op::HandOver(HandOver { id, from, bury, ttl, owner, meta, fence })
}

fn busy(reply: Reply, ahead: u32, retry_in: Duration) -> Reply {
    Reply { outcome: Outcome::Busy { ahead, retry_in }, ..reply }
}

fn pause(rounds: u32) -> Duration {
    (RETRY.0 * 2_u32.pow(rounds.min(8))).min(RETRY.1)
}

fn may_yet_follow(errors: Vec<String>) -> Error {
    let message = format!("too few nodes of the quorum took the claim over, and others may yet: {}", errors.join("; "));
    Error::new(ErrorKind::NoReply, message)
}

fn short(errors: Vec<String>) -> Error {
    unavailable(format!("too few nodes of the quorum could vote: {}", errors.join("; ")))
}
