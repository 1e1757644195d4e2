//! How a lease becomes somebody else's: in one step of the store, asked for again where no reply came.

use std::sync::Arc;
use std::time::Duration;

use tracing::Span;

use super::Lease;
use crate::agenda::Parting;
use crate::error::{Error, ErrorKind, Result};
use crate::hold::{Fence, certain_until};
use crate::info::Meta;
use crate::lock::{check_owner, drawn};
#[cfg(doc)]
use crate::locks::Locks;
use crate::proto::{ClaimId, HandOver, Micros, Op, Outcome, Owner, Reply};
use crate::ticket::Ticket;

/// How long to wait before a hand-over is asked for again that got no answer, each time: the same again tells.
const AGAIN: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(100)];

impl Lease {
    /// A lease for somebody else, under a new ticket; the old ones are void from then on.
    ///
    /// In one step the claim becomes another one, of an owner whose name is drawn, and under a later fence: the lock is never
    /// free in between, whoever waits for it goes on waiting, and a resource that checks fences refuses the former holder
    /// once it has seen the new one. A whole term begins. A [guard](Self::into_guard) of the old claim, anywhere, learns with
    /// its next renewal that it is lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// let lease = locks.mutex("upload-7").build()?.lease(std::time::Duration::from_secs(3600)).await?;
    /// let (old, fence) = (lease.ticket().clone(), lease.fence());
    /// let lease = lease.hand_over_to("worker-2").await?;
    /// assert!(lease.fence() > fence && lease.ticket().owner() == "worker-2");
    /// assert!(locks.resume(old).await.unwrap_err().is_lost());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when it is no longer held; [`ErrorKind::ReentryLimit`] when its owner has other claims on the lock, in
    /// or waiting, which would be in beside another owner's. [`ErrorKind::NoReply`] when it was asked three times and it is not
    /// known what became of it: take it for lost, for it may be released in the background. A quorum answers so, too, where a vote
    /// failed and not every node has told yet that nothing is left of it. Otherwise it is as it was: [resume](Locks::resume)
    /// it, which also tells whether a quorum of which nodes failed meanwhile still has it.
    ///
    /// # Cancel safety
    ///
    /// As for `NoReply`: what may have been handed over is released in the background.
    pub async fn hand_over(self) -> Result<Lease> {
        let owner = drawn(&self.client);
        self.pass_to(owner).await
    }

    /// The same for the owner of that name, 1 to 256 bytes. It may be in already, or wait: claims of one owner do not exclude each
    /// other, and how many it may have is not asked.
    ///
    /// # Errors
    ///
    /// As [`hand_over`](Self::hand_over), and [`ErrorKind::Invalid`] for a name that is too long, or empty.
    ///
    /// # Cancel safety
    ///
    /// As [`hand_over`](Self::hand_over).
    pub async fn hand_over_to(self, owner: impl Into<Arc<str>>) -> Result<Lease> {
        let owner = Owner::new(owner);
        check_owner(&owner)?;
        self.pass_to(owner).await
    }

    async fn pass_to(self, owner: Owner) -> Result<Lease> {
        let core = self.client.core.clone();
        let Ticket { key, id: from, term, bury, .. } = self.ticket.clone();
        let mut heir = Heir { lease: &self, id: ClaimId::new(core.env.bits()), is_certain: false };
        let (id, sent, bury) = (heir.id, core.env.now(), if bury { term } else { Duration::ZERO });
        let (meta, of) = (Meta::bytes(&self.client.options), Some(owner.clone()));
        let op = Op::HandOver(HandOver { id, from, bury, ttl: term, owner: of, meta, fence: 0 });
        let (mut reply, mut is_open) = (self.apply(&key, &op).await, false);
        for pause in AGAIN {
            is_open |= reply.as_ref().is_err_and(Error::is_ambiguous);
            if !is_open || !reply.as_ref().is_err_and(Error::is_transient) {
                break;
            }
            core.env.sleep(core.env.jitter(pause)).await;
            reply = self.apply(&key, &op).await;
        }
        is_open |= reply.as_ref().is_err_and(Error::is_ambiguous);
        let is_settled = |reply: &Reply| !matches!(reply.outcome, Outcome::Busy { .. });
        heir.is_certain = !is_open || reply.as_ref().is_ok_and(is_settled);
        drop(heir);
        let reply = reply.map_err(|error| if is_open { self.unanswered(error) } else { error })?;
        let fence = match reply.outcome {
            Outcome::Held { fence, .. } => Fence(fence),
            // What got no reply may yet arrive, when the others have left.
            Outcome::Busy { .. } if is_open => return Err(self.unanswered(self.shared())),
            Outcome::Busy { .. } => return Err(self.shared()),
            _ => return Err(self.lost()),
        };
        let (deadline, now) = (certain_until(sent, term), core.env.now());
        core.released(&key, &core.meters.meter(&key, self.ticket.claim), now - self.since, true);
        let expires = core.env.wall() + (deadline - now).as_micros() as Micros;
        let ticket = Ticket { id, owner, fence, bury: false, expires, ..self.ticket };
        Ok(Lease { ticket, since: now, deadline, client: self.client })
    }

    /// Releases a claim on its lock in the background.
    fn part(&self, id: ClaimId) {
        let (op_timeout, bury) = (self.client.options.op_timeout, self.ticket.term);
        let give_up = self.client.core.env.now() + bury + op_timeout;
        let key = self.ticket.key.clone();
        self.client.keeper.part(Parting {
            key,
            id,
            bury,
            fence: 0,
            give_up,
            op_timeout,
            after: Span::none(),
            kept: None,
            attempts: 0,
        });
    }

    fn unanswered(&self, error: Error) -> Error {
        let message = format!("the lease on the lock {:?} may have been handed over: {error}", self.ticket.key);
        Error::with_source(ErrorKind::NoReply, message, error)
    }

    fn shared(&self) -> Error {
        let Ticket { key, owner, .. } = &self.ticket;
        let message = format!(
            "the owner {:?} has other claims on the lock {key:?}, and nobody else may be in beside them: release them, and \
             hand over then",
            owner.as_str()
        );
        Error::new(ErrorKind::ReentryLimit, message)
    }
}

/// The claim that a lease is handed over to. While it is open whether it is in, its end releases it.
struct Heir<'a> {
    lease: &'a Lease,
    id: ClaimId,
    is_certain: bool,
}

impl Drop for Heir<'_> {
    fn drop(&mut self) {
        if !self.is_certain {
            self.lease.part(self.id);
        }
    }
}
