//! Asking many nodes at once, and what becomes of answers that come late.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::Inner;
use super::claims::Standing;
use crate::env;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::proto::{Acquire, ClaimId, HandOver, Op, Outcome, Release, Reply, Was};

/// The answer of one node to one operation.
pub(super) type Answer = (usize, Op, Result<Reply>);

/// Operations under way, one for each of several nodes. What is left of them when nobody waits any more is heard all the
/// same, for it says where a claim stands.
pub(super) struct Asked {
    inner: Arc<Inner>,
    key: Key,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Asked {
    /// Sends one more node an operation.
    pub(super) fn also(&mut self, node: usize, op: Op) {
        let (inner, key) = (self.inner.clone(), self.key.clone());
        self.under_way.push(Box::pin(async move {
            let reply = inner.node(node).ask(&inner.env, inner.node_timeout, &key, &op).await;
            (node, op, reply)
        }));
    }

    /// Whether all have answered.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The next answer; `None` when there are no more.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        self.under_way.next().await
    }

    /// An answer that is there already.
    pub(super) fn ready(&mut self) -> Option<Answer> {
        self.under_way.next().now_or_never().flatten()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let (inner, key) = (self.inner.clone(), self.key.clone());
        let mut under_way = std::mem::take(&mut self.under_way);
        env::spawn(async move {
            while let Some((node, op, reply)) = under_way.next().await {
                inner.heard_late(&key, node, &op, reply);
            }
        });
    }
}

impl Inner {
    /// Sends each node its operation.
    pub(super) fn send(self: &Arc<Self>, key: &Key, ops: impl IntoIterator<Item = (usize, Op)>) -> Asked {
        let mut asked = Asked { inner: self.clone(), key: key.clone(), under_way: FuturesUnordered::new() };
        ops.into_iter().for_each(|(node, op)| asked.also(node, op));
        asked
    }

    /// Takes note of how a claim stands at a node after an answer; false for an answer to an earlier attempt.
    pub(super) fn note(&self, node: usize, op: &Op, reply: &Result<Reply>) -> bool {
        let mut claims = self.claims();
        let Some(claim) = claims.get(op.id()).filter(|claim| claim.is_at(node, op.id())) else { return false };
        let standing = match reply.as_ref().map(|reply| reply.outcome) {
            Ok(Outcome::Held { .. }) => Standing::In,
            Ok(Outcome::Busy { .. }) if matches!(op, Op::Acquire(acquire) if !acquire.patience.is_zero()) => {
                Standing::Waits
            }
            Ok(Outcome::Gone { was: Was::Waiting }) if matches!(op, Op::Renew(_)) => Standing::Waits,
            Ok(_) => Standing::Out,
            Err(error) if error.is_ambiguous() => Standing::Unknown,
            // It was certainly not carried out.
            Err(_) if claim.standing(node) == Standing::Asked => Standing::Out,
            Err(_) => return true,
        };
        claim.stand(node, standing);
        true
    }

    /// An answer that nobody waits for any more. What nobody wants any more is undone.
    pub(super) fn heard_late(self: &Arc<Self>, key: &Key, node: usize, op: &Op, reply: Result<Reply>) {
        let is_current = self.note(node, op, &reply);
        let is_wanted = is_current && self.claims().get(op.id()).is_some_and(|claim| !claim.is_over);
        let (undo, waits) = match op {
            Op::Acquire(acquire) => (Some(release(op.id(), acquire)), !acquire.patience.is_zero()),
            Op::HandOver(HandOver { id, ttl, .. }) => (Some(Release { id: *id, bury: *ttl, fence: 0 }), false),
            Op::Renew(_) | Op::Release(_) => (None, false),
        };
        match (reply.map(|reply| reply.outcome), undo) {
            (Ok(Outcome::Busy { .. }), Some(_)) if !waits => {}
            (Ok(Outcome::Held { .. } | Outcome::Busy { .. }), Some(undo)) if !is_wanted => {
                self.let_go(key, vec![(node, Release { bury: Duration::ZERO, ..undo })]);
            }
            (Err(error), Some(undo)) if !is_wanted && error.is_ambiguous() => self.let_go(key, vec![(node, undo)]),
            (Ok(Outcome::Gone { was: Was::Unknown }), None) if matches!(op, Op::Renew(_)) => {
                self.top_up_later(key, op.id(), vec![node]);
            }
            _ => {}
        }
    }

    /// Releases what is left of a failed attempt, in the background and until each answer is certain or the claim has ended
    /// by itself.
    pub(super) fn let_go(self: &Arc<Self>, key: &Key, releases: Vec<(usize, Release)>) {
        if !releases.is_empty() {
            drop(self.letting_go(key, releases));
        }
    }

    /// The same, and returns when it is done, after a node's time at the latest; whether it was.
    pub(super) async fn let_go_now(self: &Arc<Self>, key: &Key, releases: Vec<(usize, Release)>) -> bool {
        if releases.is_empty() {
            return true;
        }
        let done = self.env.timeout(self.node_timeout, self.letting_go(key, releases)).await;
        done.is_some_and(|done| done.unwrap_or(false))
    }

    fn letting_go(self: &Arc<Self>, key: &Key, releases: Vec<(usize, Release)>) -> oneshot::Receiver<bool> {
        let (inner, key, (tell, told)) = (self.clone(), key.clone(), oneshot::channel());
        env::spawn(async move {
            let gone = releases.into_iter().map(|(node, release)| inner.see_off(&key, node, release));
            _ = tell.send(join_all(gone).await.into_iter().all(|gone| gone));
        });
        told
    }

    /// Whether it is certain that nothing of it is left.
    async fn see_off(&self, key: &Key, node: usize, release: Release) -> bool {
        let give_up = self.env.now() + self.longest;
        let op = Op::Release(release);
        while self.env.now() < give_up {
            let reply = self.node(node).ask(&self.env, self.node_timeout, key, &op).await;
            if !reply.as_ref().is_err_and(Error::is_transient) {
                self.note(node, &op, &reply);
                return reply.is_ok();
            }
            self.env.sleep(self.env.jitter(2 * self.node_timeout)).await;
        }
        false
    }
}

/// What undoes an acquisition that may still be under way.
pub(super) fn release(id: ClaimId, acquire: &Acquire) -> Release {
    Release { id, bury: acquire.ttl.max(acquire.patience), fence: 0 }
}
