//! An acquisition: a vote of all nodes, or a place in the queue of the lock's home and then the vote.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::join_all;

use super::Inner;
use super::claims::Standing;
use super::node::{Vote, Weight};
use super::round::{Answer, release};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::options::invalid;
use crate::proto::vote::{Electorate, score};
use crate::proto::{Acquire, Op, Outcome, Release, Reply};

/// How many rounds one request may take: the first, and as many as an outbid or a hand-over under way are worth.
const ROUNDS: u32 = 4;
/// After how many rounds that it could not win a claim gives up its home, too.
const PATIENCE: u32 = 12;
/// How long to wait before asking again where nobody can say for how long the others hold: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(250));

/// What a round of voting came to.
enum Round {
    Won(Reply),
    /// A claim is in at enough nodes, but not under one token: this is the latest of them.
    Outbid(u64),
    /// It cannot be had now. The best reply says why.
    Lost(Reply),
    /// Too few nodes answered.
    Short,
}

/// One acquisition and who decides on it.
struct Ballot<'a> {
    key: &'a Key,
    op: &'a Acquire,
    who: Electorate,
    nodes: Vec<usize>,
    home: Option<usize>,
}

impl Inner {
    pub(super) async fn acquire(self: &Arc<Self>, key: &Key, op: &Acquire) -> Result<Reply> {
        if op.ttl > self.longest {
            let message = format!(
                "the ttl of {:?} is longer than the {:?} that this quorum is made for: give its longest_ttl a higher value, at every client",
                op.ttl, self.longest
            );
            return Err(invalid(message));
        }
        let who = self.electorate(op.claim.limit());
        let nodes = who.nodes();
        let (told, stood, granted) = {
            let mut claims = self.claims();
            let claim = claims.of(op.id, self.env.now(), op.ttl.max(op.patience) + 2 * self.node_timeout);
            claim.is_over = false;
            claim.asks.get_or_insert_with(|| op.clone());
            (claim.take_told(), claim.home, claim.fence)
        };
        let mut ballot = Ballot { key, op, who, nodes, home: None };
        // The wall clock is below 2^53 for two centuries, and a number of which that is not true would not fit a double.
        let mut token = if granted > 0 { granted } else { self.env.wall().min(1 << 52) };
        match stood {
            Some(home) if !op.patience.is_zero() => match told {
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
            Some(home) => self.let_go_now(key, self.leave(&ballot, &[home])).await,
            None => {}
        }
        if ballot.home.is_none() {
            ballot.home = self.home(key, &ballot.nodes);
        }
        self.vote(&mut ballot, token).await
    }

    async fn vote(self: &Arc<Self>, ballot: &mut Ballot<'_>, mut token: u64) -> Result<Reply> {
        let waits = !ballot.op.patience.is_zero();
        for round in 1.. {
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
            let has_home = self.lose(ballot, waits).await;
            let reply = match outcome {
                Round::Lost(reply) => reply,
                _ => return Err(short(errors)),
            };
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
        Err(short(Vec::new()))
    }

    /// One round: asks all for the token, until it is decided.
    async fn round(self: &Arc<Self>, ballot: &Ballot<'_>, token: u64) -> (Round, Vec<String>) {
        let Ballot { key, op, who, nodes, home } = ballot;
        let ops: Vec<(usize, Op)> = {
            let mut claims = self.claims();
            let claim = claims.of(op.id, self.env.now(), op.ttl);
            let mut request = |node: usize| {
                let patience = if Some(node) == *home { op.patience } else { Duration::ZERO };
                let acquire = Acquire { id: claim.id(node), patience, fence: token, ..(*op).clone() };
                if claim.standing(node) == Standing::Out {
                    claim.stand(node, Standing::Asked);
                }
                (node, Op::Acquire(acquire))
            };
            nodes.iter().map(|node| request(*node)).collect()
        };
        let mut asked = self.send(key, ops);
        let mut votes = vec![Vote::Pending; self.nodes.len()];
        let mut errors = Vec::new();
        let mut is_known = false;
        let mut hear = |(node, op, reply): Answer, votes: &mut Vec<Vote>| {
            self.note(node, &op, &reply);
            errors.extend(reply.as_ref().err().map(ToString::to_string));
            votes[node] = Vote::of(reply, |now| self.nodes[node].weight(now, self.longest, ballot.op.memory));
        };
        let round = loop {
            while let Some(answer) = asked.ready() {
                hear(answer, &mut votes);
            }
            if let Some(round) = self.decide(ballot, &votes, token, is_known) {
                break round;
            }
            match asked.next().await {
                Some(answer) => hear(answer, &mut votes),
                // All have answered, and only the votes of nodes with a short memory are missing.
                None if !is_known && self.carries(who, &votes, token, Weight::Weak) => {
                    match self.latest_known(ballot, &votes, token).await {
                        Some(latest) if latest >= token => break Round::Outbid(latest),
                        Some(_) => is_known = true,
                        None => break Round::Short,
                    }
                }
                None => break undecided(who, &votes, nodes),
            }
        };
        (round, errors)
    }

    fn decide(&self, ballot: &Ballot<'_>, votes: &[Vote], token: u64, is_known: bool) -> Option<Round> {
        let Ballot { who, nodes, home, .. } = ballot;
        let home = home.map(|home| votes[home]);
        // Whoever waits in the home's queue is not overtaken, as long as it answers.
        if let Some(Vote::Pending) = home {
            return None;
        }
        let overtakes = matches!(home, Some(Vote::Out(Reply { outcome: Outcome::Busy { .. }, .. })));
        let enough = if is_known { Weight::Weak } else { Weight::Full };
        let agreed = || {
            nodes.iter().find_map(|node| match votes[*node] {
                Vote::In { fence, reply, .. } => self.carries(who, votes, fence, enough).then_some(reply),
                _ => None,
            })
        };
        if let Some(reply) = agreed().filter(|_| !overtakes) {
            return Some(Round::Won(reply));
        }
        let could = |node: usize, under: Option<u64>| match votes[node] {
            Vote::Pending => true,
            Vote::In { fence, weight, .. } => weight > Weight::None && under.is_none_or(|token| token == fence),
            Vote::Out(_) | Vote::Failed => false,
        };
        let agree = |token: u64| who.is_carried_by(|node| could(node, Some(token)));
        let is_outbid = is_in(who, votes) && !agree(token) && !votes.iter().any(|vote| vote.token().is_some_and(agree));
        let is_lost = overtakes || !who.is_carried_by(|node| could(node, None));
        (is_outbid || is_lost).then(|| undecided(who, votes, nodes))
    }

    fn carries(&self, who: &Electorate, votes: &[Vote], token: u64, enough: Weight) -> bool {
        who.is_carried_by(
            |node| matches!(votes[node], Vote::In { fence, weight, .. } if fence == token && weight >= enough),
        )
    }

    /// The latest token that nodes remember, of which enough have kept all that they acknowledged; those that are for the
    /// present one remember none that is later.
    async fn latest_known(&self, ballot: &Ballot<'_>, votes: &[Vote], token: u64) -> Option<u64> {
        // One that voted for another token may do so because it remembers a later one.
        let voted = |node: usize| matches!(votes[node], Vote::In { fence, weight: Weight::Full, .. } if fence == token);
        let others: Vec<usize> = ballot.nodes.iter().copied().filter(|node| !voted(*node)).collect();
        let reads = others.iter().map(|node| async {
            let node = &self.nodes[*node];
            let seen = node.query(&self.env, self.node_timeout, node.store.read(ballot.key)).await.ok()?;
            (node.weight(seen.now, self.longest, ballot.op.memory) == Weight::Full).then_some(seen.record.fence)
        });
        let read: Vec<(usize, Option<u64>)> = others.iter().copied().zip(join_all(reads).await).collect();
        let asked = |node: usize| voted(node) || read.iter().any(|(other, seen)| *other == node && seen.is_some());
        ballot.who.is_known_by(asked).then(|| read.iter().filter_map(|(_, seen)| *seen).max().unwrap_or(0))
    }

    fn won(&self, ballot: &Ballot<'_>, reply: Reply) -> Reply {
        if let (Some(claim), Outcome::Held { fence, .. }) = (self.claims().get(ballot.op.id), reply.outcome) {
            (claim.fence, claim.home, claim.rounds) = (fence, None, 0);
        }
        reply
    }

    /// Lets go of everything but the home, if it is to wait there; says how it stands there.
    async fn lose(self: &Arc<Self>, ballot: &Ballot<'_>, waits: bool) -> Option<Standing> {
        let mut kept = None;
        if let Some(claim) = self.claims().get(ballot.op.id) {
            let standing = ballot.home.map(|home| claim.standing(home));
            kept = standing.filter(|standing| waits && matches!(standing, Standing::In | Standing::Waits));
            claim.home = ballot.home.filter(|_| kept.is_some());
            claim.rounds += 1;
        }
        let others: Vec<usize> =
            ballot.nodes.iter().copied().filter(|node| kept.is_none() || Some(*node) != ballot.home).collect();
        let releases = self.leave(ballot, &others);
        // Who will not wait has nothing left behind; who waits need not wait for that as well.
        match kept {
            Some(_) => self.let_go(ballot.key, releases),
            None => self.let_go_now(ballot.key, releases).await,
        }
        kept
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
        claim.home = claim.home.filter(|home| !nodes.contains(home));
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
        let reply = self.nodes[home].ask(&self.env, self.node_timeout, ballot.key, &op).await;
        self.note(home, &op, &reply);
        reply
    }

    /// The node in whose queue claims on this lock wait: for all clients the same, as long as they find the same ones up.
    fn home(&self, key: &Key, nodes: &[usize]) -> Option<usize> {
        let now = self.env.now();
        let rank = |node: &usize| score(key.as_str(), &self.nodes[*node].name);
        let wall = self.env.wall();
        let serves = |node: &usize| {
            let node = &self.nodes[*node];
            node.is_up(now) && node.weight(wall, self.longest, Duration::ZERO) > Weight::None
        };
        nodes.iter().copied().filter(serves).max_by_key(rank)
    }
}

/// What a round came to that cannot be won under its token.
fn undecided(who: &Electorate, votes: &[Vote], nodes: &[usize]) -> Round {
    let waits = |vote: &Vote| matches!(vote, Vote::Out(Reply { outcome: Outcome::Busy { .. }, .. }));
    if is_in(who, votes) {
        let tokens = votes.iter().filter_map(Vote::token);
        // Where somebody waits in the queue of the home, that counts more.
        if !votes.iter().any(waits) {
            return Round::Outbid(tokens.max().unwrap_or_default());
        }
    }
    let mut answers = nodes.iter().filter_map(|node| match votes[*node] {
        Vote::Out(reply) => Some(reply),
        _ => None,
    });
    let refused = answers.clone().find(|reply| matches!(reply.outcome, Outcome::Refused(_)));
    refused.or_else(|| answers.next()).map_or(Round::Short, Round::Lost)
}

/// Whether the claim is in at enough nodes, under whatever tokens.
fn is_in(who: &Electorate, votes: &[Vote]) -> bool {
    who.is_carried_by(|node| matches!(votes[node], Vote::In { weight, .. } if weight > Weight::None))
}

fn busy(reply: Reply, ahead: u32, retry_in: Duration) -> Reply {
    Reply { outcome: Outcome::Busy { ahead, retry_in }, ..reply }
}

fn pause(rounds: u32) -> Duration {
    (RETRY.0 * 2_u32.pow(rounds.min(8))).min(RETRY.1)
}

fn short(errors: Vec<String>) -> Error {
    Error::new(ErrorKind::NoReply, format!("too few nodes of the quorum could vote: {}", errors.join("; ")))
}
