//! A hold that outlives the process: nobody renews it in the background, and dropping it releases nothing.
//!
//! ```text
//!   lock.lease(term) ─▶ Lease ── ticket ─▶ a file, a queue, another machine ─▶ locks.resume(ticket) ─▶ Lease
//!                        │ refresh, release, hand_over                                                  │
//!                        └─ into_guard: from now on renewed in the background, and released when dropped ┘
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::env::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::hold::{Fence, Granted, certain_until};
use crate::info::Meta;
use crate::key::Key;
use crate::leasing::unattended;
use crate::lock::Spec;
use crate::locks::Locks;
use crate::options::Options;
use crate::proto::{Micros, Op, Outcome, Owner, Release, Renew, Reply, Was};
use crate::ticket::Ticket;

mod heir;

/// A hold for a term, which outlives this value and its process. Its [ticket](Self::ticket) finds it again.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tenure::Result<()> {
/// use std::time::Duration;
/// use tenure::Ticket;
///
/// let locks = tenure::open("memory:").await?;
/// let lease = locks.mutex("upload-7").build()?.lease(Duration::from_secs(3600)).await?;
/// let text = lease.ticket().encode(); // keep it as a secret
/// drop(lease);                        // releases nothing
///
/// // Later, in another process:
/// let mut lease = locks.resume(Ticket::decode(&text)?).await?;
/// lease.refresh().await?;
/// assert!(lease.release().await?);
/// # Ok(())
/// # }
/// ```
pub struct Lease {
    client: Arc<Client>,
    ticket: Ticket,
    since: Moment,
    deadline: Moment,
}

impl Locks {
    /// The lease that the ticket is for. The store is asked whether it is still there, and its term goes on as it was.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when the store does not have it: it has expired, was released or handed over, or the ticket is
    /// for another store. [`ErrorKind::Invalid`] when the ticket does not agree with this store. Another kind when the
    /// store does not answer.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn resume(&self, ticket: Ticket) -> Result<Lease> {
        self.client.check_open()?;
        let here = self.client.core.node();
        if ticket.store != here {
            let Ticket { store, key, .. } = &ticket;
            let message =
                format!("the lease on {key:?} is of a {store} store, and this is a {here} store: open that one");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let now = self.client.core.env.now();
        let mut lease = Lease { client: self.client.clone(), ticket, since: now, deadline: now };
        // A renewal never shortens: the shortest of all only tells how things stand.
        lease.renew(Duration::from_micros(1)).await?;
        Ok(lease)
    }
}

impl Lease {
    /// Takes a hold out of its guard's hands. It has a whole term before it: without a watchdog, a grant that is pushed is
    /// asked for again.
    pub(crate) fn of(guard: Guard, spec: &Spec, client: &Arc<Client>) -> Result<Self> {
        if guard.is_degraded() {
            return Err(degraded(&spec.key));
        }
        let owner = spec.owner.clone().unwrap_or_else(|| Owner::new("nobody"));
        let core = &client.core;
        let (store, term) = (core.node().to_owned(), spec.options.ttl);
        let hold = guard.into_hold();
        let ticket = Ticket {
            store,
            key: spec.key.clone(),
            id: hold.id,
            owner,
            fence: hold.fence,
            claim: spec.claim,
            term,
            expires: core.env.wall() + (hold.deadline() - core.env.now()).as_micros() as Micros,
            bury: hold.ambiguous,
        };
        Ok(Self { client: client.clone(), ticket, since: hold.since, deadline: hold.deadline() })
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.ticket.name()
    }

    /// The token to pass with every write to what the lock protects.
    pub fn fence(&self) -> Fence {
        self.ticket.fence
    }

    /// What finds the lease again, anywhere: a secret, for whoever has it can release it.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// For how long it is certain unless it is refreshed; zero when that is over.
    pub fn remaining(&self) -> Duration {
        self.deadline - self.client.core.env.now()
    }

    /// Whether it is certainly still held, as far as this value knows: another who has the ticket may have released it.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Begins a new term, from now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when the store no longer has it; another kind when the store did not answer, and the lease is
    /// as certain as before.
    ///
    /// # Cancel safety
    ///
    /// The renewal may be carried out.
    pub async fn refresh(&mut self) -> Result<()> {
        self.renew(self.ticket.term).await
    }

    /// Releases it, and says whether it was still there.
    ///
    /// # Errors
    ///
    /// When the store did not answer: ask again, or let it expire.
    ///
    /// # Cancel safety
    ///
    /// It may be released.
    pub async fn release(&self) -> Result<bool> {
        let Ticket { key, id, term, bury, .. } = &self.ticket;
        let op = Op::Release(Release { id: *id, bury: if *bury { *term } else { Duration::ZERO }, fence: 0 });
        let reply = self.apply(key, &op).await?;
        let was_ours = reply.outcome == Outcome::Gone { was: Was::Holding };
        let core = &self.client.core;
        core.released(key, &core.meters.meter(key, self.ticket.claim), core.env.now() - self.since, was_ours);
        Ok(was_ours)
    }

    /// A guard of it: from now on it is renewed in the background for a term each, and released when the guard goes.
    pub fn into_guard(self) -> Guard {
        let Self { client, ticket, deadline, .. } = self;
        let options = Options { watchdog: true, watchdog_interval: None, ..unattended(&client.options, ticket.term) };
        let (meta, owner, max) = (Meta::bytes(&options), Some(ticket.owner), u32::MAX);
        let meter = client.core.meters.meter(&ticket.key, ticket.claim);
        let spec = Spec { key: ticket.key, claim: ticket.claim, owner, max, meta, options: options.into(), meter };
        let (now, ambiguous) = (client.core.env.now(), ticket.bury);
        let granted = Granted { id: ticket.id, fence: ticket.fence, now, deadline, ambiguous, contact: None };
        let hold = client.keeper.hold(&spec, granted);
        Guard::new(hold, client, None)
    }

    async fn renew(&mut self, ttl: Duration) -> Result<()> {
        let Ticket { key, id, fence, .. } = self.ticket.clone();
        let sent = self.client.core.env.now();
        let Reply { outcome, now: clock } = self.apply(&key, &Op::Renew(Renew { id, ttl, fence: 0 })).await?;
        let Outcome::Held { fence: at_store, since, until, .. } = outcome else { return Err(self.lost()) };
        if at_store != fence.get() {
            let message = format!("the lease's ticket for {key:?} does not agree with the store about the fence");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let env = &self.client.core.env;
        let (left, held) = (Duration::from_micros(until.saturating_sub(clock)), clock.saturating_sub(since));
        self.deadline = certain_until(sent, left);
        self.since = Moment(env.now().0.saturating_sub(held));
        self.ticket.expires = env.wall() + left.as_micros() as Micros;
        Ok(())
    }

    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        self.client.core.apply(key, op, self.client.options.op_timeout).await
    }

    fn lost(&self) -> Error {
        let message = format!(
            "the store has no such lease on the lock {:?}: it has expired, was released or handed over, or its ticket is \
             for another store",
            self.ticket.key
        );
        Error::new(ErrorKind::Lost, message)
    }
}

fn degraded(key: &Key) -> Error {
    let message = format!("the lock {key:?} can only be had degraded now, and not for a lease: try again later");
    Error::new(ErrorKind::Unavailable, message)
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("ticket", &self.ticket).field("remaining", &self.remaining()).finish()
    }
}
