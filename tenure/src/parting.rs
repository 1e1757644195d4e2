//! The keeper's releases: of holds whose guards were dropped, and of claims that nobody waits for any more.
//!
//! A release is repeated until its answer is certain or its claim has ended by itself. One that was under way in a
//! runtime that ended goes back to the agenda, for the next runtime.

use std::sync::Arc;
use std::time::Duration;

use tracing::Span;

use crate::agenda::{Item, Kept, Parting};
use crate::error::{Error, Result};
use crate::hold::Hold;
use crate::keeper::Shared;
use crate::proto::{Op, Outcome, Release, Reply, Was};

/// How long after a failure it is tried again, at first; it doubles, up to `RETRY_MOST`.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(1);

impl Shared {
    /// Releases a hold in the background, after what that span is for; with what is to be told, where it is.
    pub(crate) fn release(self: &Arc<Self>, hold: &Hold, after: Span, kept: Option<Kept>) {
        self.enter_parting(Parting {
            key: hold.key.clone(),
            id: hold.id,
            bury: hold.bury(),
            fence: hold.fence.get(),
            // A renewal that was given up may have arrived all the same.
            give_up: self.core.env.now() + hold.ttl + hold.op_timeout,
            op_timeout: hold.op_timeout,
            after,
            kept,
            attempts: 0,
        });
    }

    pub(crate) fn enter_parting(self: &Arc<Self>, parting: Parting) {
        let mut agenda = self.agenda();
        agenda.partings += 1;
        let now = self.core.env.now();
        self.enter(agenda, now, Item::Part(parting.into()));
    }

    pub(crate) async fn part(&self, batch: Vec<Parting>) {
        let op = |parting: &Parting| Op::Release(Release { id: parting.id, bury: parting.bury, fence: parting.fence });
        let ops: Vec<_> = batch.iter().map(|parting| (parting.key.clone(), op(parting))).collect();
        let limit = batch.iter().map(|parting| parting.op_timeout).max().unwrap_or_default();
        let mut under_way = UnderWay { shared: self, batch };
        let replies = self.core.apply_many(&ops, limit).await;
        for (parting, reply) in std::mem::take(&mut under_way.batch).into_iter().zip(replies) {
            self.parted(parting, reply);
        }
    }

    pub(crate) fn parted(&self, mut parting: Parting, reply: Result<Reply>) {
        let now = self.core.env.now();
        if reply.as_ref().is_err_and(Error::is_transient) && now < parting.give_up {
            let delay = (RETRY_FIRST * 2_u32.pow(parting.attempts.min(8))).min(RETRY_MOST);
            parting.attempts += 1;
            self.agenda().insert(now + self.core.env.jitter(delay), Item::Part(parting.into()));
            return;
        }
        let was_ours = reply.is_ok_and(|reply| reply.outcome == Outcome::Gone { was: Was::Holding });
        if let Some(Kept { since, meter }) = &parting.kept {
            self.core.released(&parting.key, meter, now - *since, was_ours);
        }
        let mut agenda = self.agenda();
        agenda.partings -= 1;
        if agenda.partings == 0 {
            self.idle.notify_waiters();
        }
    }
}

/// Releases that were sent.
struct UnderWay<'a> {
    shared: &'a Shared,
    batch: Vec<Parting>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        for parting in self.batch.drain(..) {
            let now = self.shared.core.env.now();
            self.shared.agenda().insert(now, Item::Part(parting.into()));
        }
    }
}
