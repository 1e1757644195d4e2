//! A hand-over: a vote as for an acquisition, in which each node makes the old claim the heir's.
//!
//! ```text
//!   a   old ──▶ heir, under t       the heir is in at a majority, and so the old claim is at none: its id is buried where
//!   b   old ──▶ heir, under t       it was, and released at the others, so that its former holder's renewals bring nothing back
//!   c   old  (no answer)
//! ```
//!
//! A vote that fails releases the heir again wherever it may be. The old claim then goes on with the nodes that still have
//! it, if they are enough, and else it has ended: they are never both in. So that this is rare, it is not begun before the old
//! claim was renewed, by all that decide, and found to be its owner's only one.

use std::sync::Arc;
use std::time::Duration;

use super::claims::Standing;
use super::tally::{Ballot, Predecessor};
use super::{Inner, unavailable};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::proto::{Acquire, Claim, HandOver, Outcome, Release, Renew, Reply};

/// When to ask again where the owner has another claim: it says when it leaves, and nobody is told.
const RETRY: Duration = Duration::from_millis(250);

impl Inner {
    pub(super) async fn hand_over(self: &Arc<Self>, key: &Key, op: &HandOver) -> Result<Reply> {
        let is_begun = self.claims().get(op.id).is_some_and(|claim| !claim.nodes().is_empty());
        if !is_begun && let Some(reply) = self.keeps(key, op).await.map_err(not_begun)? {
            return Ok(reply);
        }
        let view = self.fresh_view().await?;
        let (asks, token) = {
            let mut claims = self.claims();
            let old = claims.get(op.from);
            let (asks, last) = old.map(|old| (old.asks.clone(), old.fence)).unwrap_or_default();
            let asks = asks.map(|asks| (asks.claim, asks.memory));
            let (claim, memory) = asks.unwrap_or((Claim::EXCLUSIVE, self.token_memory));
            let heir = claims.of(op.id, self.env.now(), op.ttl + 2 * self.node_timeout);
            heir.is_over = false;
            let asks = heir.asks.get_or_insert_with(|| Acquire {
                id: op.id,
                claim,
                ttl: op.ttl,
                patience: Duration::ZERO,
                owner: op.owner.clone(),
                max: u32::MAX,
                memory: memory.min(self.token_memory),
                meta: op.meta.clone(),
                fence: 0,
            });
            let later = self.env.wall().min(1 << 52).max(last + 1);
            (asks.clone(), if heir.fence > 0 { heir.fence } else { op.fence.max(later) })
        };
        let who = self.electorate(&view, key, asks.claim.limit());
        let nodes = self.in_order(key, who.nodes());
        let from = Some(Predecessor { id: op.from, bury: op.bury.max(self.longest) });
        let ballot = Ballot { key, op: &asks, who, nodes, home: None, from };
        let reply = self.vote(&ballot, token).await?;
        if let Outcome::Held { .. } = reply.outcome {
            self.see_old_off(&ballot, op);
        }
        Ok(reply)
    }

    /// Renews the old claim, and looks whether its owner has others: the answer where the old claim is not to be followed.
    async fn keeps(self: &Arc<Self>, key: &Key, op: &HandOver) -> Result<Option<Reply>> {
        let renewed = self.renew(key, &Renew { id: op.from, ttl: op.ttl, fence: 0 }).await?;
        let Outcome::Held { .. } = renewed.outcome else { return Ok(Some(renewed)) };
        let found = self.find(key, op.from).await?;
        let is_alone = found.iter().all(|(_, entry, record)| record.claims_of(entry.owner.as_ref()) <= 1);
        let busy = Outcome::Busy { ahead: 0, retry_in: self.env.jitter(RETRY) };
        Ok((!is_alone).then_some(Reply { outcome: busy, ..renewed }))
    }

    /// Releases what is left of the old claim where the heir did not follow it, in the background.
    fn see_old_off(self: &Arc<Self>, ballot: &Ballot<'_>, op: &HandOver) {
        let mut releases = Vec::new();
        {
            let mut claims = self.claims();
            for node in ballot.nodes.iter().copied() {
                if claims.get(op.id).is_none_or(|heir| heir.standing(node) != Standing::In) {
                    let id = claims.get(op.from).map_or(op.from, |old| old.id(node));
                    releases.push((node, Release { id, bury: op.bury.max(self.longest), fence: 0 }));
                }
            }
            claims.forget(op.from);
        }
        self.let_go(ballot.key, releases);
    }
}

/// Whatever became of the renewal, nothing was handed over.
fn not_begun(error: Error) -> Error {
    match error.is_ambiguous() {
        true => unavailable(format!("nothing was handed over yet: {error}")),
        false => error,
    }
}
