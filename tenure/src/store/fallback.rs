//! A store to go to while another one is away: it grants what the first cannot, and says that this is not the same.
//!
//! ```text
//!                 ┌─ answers ─▶ the claim lives there: renewed and released there
//!   Acquire ──▶ primary
//!                 └─ unavailable ─▶ secondary: the claim lives *there*, under no fence, to its end
//! ```
//!
//! # What protects during a fallback
//!
//! The two stores know nothing of each other. While the primary is away for this process, others may still reach it; and
//! when it is back, it grants a lock whose degraded holder is still at work. So **two may hold the lock**. The secondary
//! excludes only those that share it: with a [`Memory`](super::Memory), the tasks of this process.
//!
//! What protects then is the resource: a degraded hold carries [`Fence::NONE`](crate::Fence::NONE), which is older than
//! every token, and a resource that checks fences refuses it once it has seen any other. Where nothing checks, ask
//! [`Guard::is_degraded`](crate::Guard::is_degraded), and do only what may be done twice.
//!
//! It is never silent: the guard says so, and the client tells [`What::Degraded`](crate::What::Degraded) and counts
//! [`Metrics::degraded`](crate::Metrics::degraded) for each such hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use self::strays::{Stray, Strays};
use super::{Seen, Store, Traits, Watch};
use crate::env::{Env, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{Acquire, ClaimId, Op, Outcome, Reply};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::transaction::{Settle, Verdict};

mod strays;

/// Two stores: claims go to the second while the first is unavailable. Clones share what they know.
///
/// ```
/// # fn main() -> tenure::Result<()> {
/// # fn redis() -> Arc<dyn tenure::store::Store> { Arc::new(Memory::new()) }
/// use std::sync::Arc;
/// use tenure::store::{Breaker, Fallback, Memory};
///
/// // Behind a breaker a store that is silent is soon told unavailable, too.
/// let primary = Breaker::new(redis());
/// let store = Fallback::new(Arc::new(primary), Arc::new(Memory::new()));
/// let locks = tenure::Locks::new(store.clone());
/// assert!(!store.is_degraded());
/// # Ok(())
/// # }
/// ```
///
/// Only [`Unavailable`](ErrorKind::Unavailable) sends a claim to the secondary, that is, a primary that certainly did not
/// carry it out. A missing reply does not: it may have been granted, and asking again tells. Put a
/// [`Breaker`](super::Breaker) around a primary that may fall silent.
///
/// Each new claim tries the primary first, so its return is noticed by the next one. A claim stays where it was granted
/// or queued, known by its id; what it may have left at the primary is released there in the background.
///
/// `read`, `scan` and `ping` ask the primary alone: what the secondary knows does not answer for it.
#[derive(Clone, Debug)]
pub struct Fallback(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    primary: Arc<dyn Store>,
    secondary: Arc<dyn Store>,
    env: Env,
    degraded: AtomicBool,
    claims: Mutex<Claims>,
    strays: Arc<Strays>,
}

/// The claims that the primary may know without our knowing it for sure, and those that went to the secondary.
#[derive(Debug, Default)]
struct Claims {
    by_id: HashMap<ClaimId, Whereabouts>,
    /// They are looked through for expired ones when there are this many: twice as many as were left the last time.
    purge_at: usize,
}

#[derive(Debug)]
struct Whereabouts {
    /// A request for it was sent to the primary that may have left something there.
    asked: bool,
    /// It went to the secondary.
    went: Arc<AtomicBool>,
    /// When it has ended by itself, wherever it is; a watch keeps it beyond that.
    until: Moment,
}

impl Fallback {
    /// Claims go to `secondary` while `primary` is unavailable.
    pub fn new(primary: Arc<dyn Store>, secondary: Arc<dyn Store>) -> Self {
        Self::with_env(primary, secondary, Env::system())
    }

    /// The same, with a clock of its own: for tests under a paused clock.
    pub fn with_env(primary: Arc<dyn Store>, secondary: Arc<dyn Store>, env: Env) -> Self {
        let strays = Strays::new(primary.clone(), env.clone());
        let (degraded, claims) = (AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Inner { primary, secondary, env, degraded, claims, strays }))
    }

    /// Whether the last claim went to the secondary.
    pub fn is_degraded(&self) -> bool {
        self.0.degraded.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the claim of that operation lives at the secondary. Takes note of a request that is about to be sent.
    fn went(&self, op: &Op) -> bool {
        let now = self.env.now();
        let mut claims = self.claims();
        match op {
            Op::Acquire(acquire) => {
                let until = now + longest(acquire);
                let claim = claims.of(acquire.id, now);
                claim.until = claim.until.max(until);
                claim.went.load(Ordering::Acquire)
            }
            Op::Renew(renew) => claims.by_id.get_mut(&renew.id).is_some_and(|claim| {
                claim.until = claim.until.max(now + renew.ttl);
                claim.went.load(Ordering::Acquire)
            }),
            Op::Release(release) => {
                claims.by_id.get(&release.id).is_some_and(|claim| claim.went.load(Ordering::Acquire))
            }
            // A degraded hold is handed over to nobody.
            Op::HandOver(_) => false,
        }
    }

    /// Sends operations to the primary, and to the secondary what it cannot take or what lives there.
    async fn apply_all(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        self.strays.see_that_they_go();
        let at_secondary: Vec<bool> = ops.iter().map(|(_, op)| self.went(op)).collect();
        let here: Vec<_> =
            ops.iter().zip(&at_secondary).filter(|(_, went)| !**went).map(|(op, _)| op.clone()).collect();
        let there: Vec<_> =
            ops.iter().zip(&at_secondary).filter(|(_, went)| **went).map(|(op, _)| op.clone()).collect();
        let (here, there) = tokio::join!(self.to_primary(&here), self.to_secondary(&there));
        let (mut here, mut there) = (here.into_iter(), there.into_iter());
        let mut reply = |went: bool| if went { there.next() } else { here.next() };
        at_secondary.into_iter().map(|went| reply(went).unwrap_or_else(|| Err(unanswered()))).collect()
    }

    async fn to_primary(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        if ops.is_empty() {
            return Vec::new();
        }
        let asked: Vec<bool> = ops.iter().map(|(_, op)| self.claims().ask(op)).collect();
        let mut replies = self.primary.apply_many(ops).await;
        let mut diverted = Vec::new();
        for (n, (_, op)) in ops.iter().enumerate() {
            let reply = &replies[n];
            self.claims().answered(op, asked[n], reply);
            if let Op::Acquire(acquire) = op {
                match reply {
                    Ok(_) => self.note(false),
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        self.note(true);
                        self.claims().went(acquire.id, true);
                        diverted.push(n);
                    }
                    Err(_) => {}
                }
            }
        }
        let second: Vec<_> = diverted.iter().map(|&n| ops[n].clone()).collect();
        for (n, reply) in diverted.into_iter().zip(self.to_secondary(&second).await) {
            replies[n] = match (reply, &replies[n]) {
                (Err(second), Err(first)) => {
                    // What certainly did not arrive may try the primary again.
                    if !second.is_ambiguous() {
                        self.claims().went(ops[n].1.id(), false);
                    }
                    Err(both_failed(first, second))
                }
                (reply, _) => reply,
            };
        }
        replies
    }

    async fn to_secondary(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        if ops.is_empty() {
            return Vec::new();
        }
        let replies = self.secondary.apply_many(ops).await;
        for ((key, op), _) in ops.iter().zip(&replies).filter(|(_, reply)| reply.is_ok()) {
            self.settled(key, op);
        }
        replies.into_iter().map(|reply| reply.map(without_fence)).collect()
    }

    /// The secondary has the claim, or is rid of it: what the primary may have of it is given up.
    fn settled(&self, key: &Key, op: &Op) {
        let now = self.env.now();
        let mut claims = self.claims();
        let Some(claim) = claims.by_id.get_mut(&op.id()) else { return };
        if std::mem::take(&mut claim.asked) {
            let (id, until) = (op.id(), claim.until);
            self.strays.release(Stray { key: key.clone(), id, bury: until - now, until });
        }
        if matches!(op, Op::Release(_)) {
            claims.by_id.remove(&op.id());
        }
    }

    /// Takes note of where the last claim went; a change is told.
    fn note(&self, degraded: bool) {
        if self.degraded.swap(degraded, Ordering::Relaxed) == degraded {
            return;
        }
        let (first, second) = (self.primary.traits().kind, self.secondary.traits().kind);
        match degraded {
            true => {
                tracing::warn!(target: "tenure", "the {first} store is unavailable: claims go to the {second} store")
            }
            false => tracing::info!(target: "tenure", "the {first} store answers again: claims go there"),
        }
    }
}

impl Claims {
    fn of(&mut self, id: ClaimId, now: Moment) -> &mut Whereabouts {
        if self.by_id.len() > self.purge_at {
            self.by_id.retain(|_, claim| claim.until > now || Arc::strong_count(&claim.went) > 1);
            self.purge_at = 2 * self.by_id.len() + 64;
        }
        self.by_id.entry(id).or_insert_with(|| Whereabouts { asked: false, went: Arc::default(), until: now })
    }

    fn went(&mut self, id: ClaimId, went: bool) {
        if let Some(claim) = self.by_id.get(&id) {
            claim.went.store(went, Ordering::Release);
        }
    }

    /// Takes note that the primary is about to be asked for a claim; whether it had been before.
    fn ask(&mut self, op: &Op) -> bool {
        let Op::Acquire(acquire) = op else { return true };
        self.by_id.get_mut(&acquire.id).is_some_and(|claim| std::mem::replace(&mut claim.asked, true))
    }

    /// Takes note of the primary's answer. What it certainly knows nothing of, or has let in, need not be remembered.
    fn answered(&mut self, op: &Op, asked: bool, reply: &Result<Reply>) {
        let id = op.id();
        let forget = match (op, reply) {
            (Op::Acquire(_), Err(error)) if error.is_ambiguous() => false,
            (Op::Acquire(_), Err(_)) => {
                if let Some(claim) = self.by_id.get_mut(&id) {
                    claim.asked = asked;
                }
                false
            }
            (Op::Acquire(acquire), Ok(Reply { outcome: Outcome::Busy { .. }, .. })) => acquire.patience.is_zero(),
            (Op::Acquire(_), Ok(_)) => true,
            (Op::Renew(_) | Op::HandOver(_), _) => false,
            (Op::Release(_), reply) => reply.is_ok(),
        };
        // A watch still tells where its claim went.
        if forget && self.by_id.get(&id).is_some_and(|claim| Arc::strong_count(&claim.went) == 1) {
            self.by_id.remove(&id);
        }
    }
}

/// When whatever a request may have brought about has ended by itself.
fn longest(acquire: &Acquire) -> Duration {
    acquire.ttl.max(acquire.patience)
}

/// A hold that is not the primary's has no token that compares with the primary's.
fn without_fence(reply: Reply) -> Reply {
    match reply.outcome {
        Outcome::Held { since, until, waiting, .. } => {
            Reply { outcome: Outcome::Held { fence: 0, since, until, waiting }, ..reply }
        }
        _ => reply,
    }
}

fn both_failed(first: &Error, second: Error) -> Error {
    let message = format!("the primary store failed ({first}), and so did the secondary: {second}");
    Error::with_source(second.kind(), message, second)
}

fn unanswered() -> Error {
    Error::new(ErrorKind::NoReply, "a store gave fewer answers than it was asked for")
}

#[async_trait]
impl Store for Fallback {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        let mut replies = self.0.apply_all(&[(key.clone(), op.clone())]).await;
        replies.pop().unwrap_or_else(|| Err(unanswered()))
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        self.0.apply_all(ops).await
    }

    /// The secondary has none of the data.
    async fn settle(&self, settle: &Settle) -> Result<Verdict> {
        self.0.primary.settle(settle).await
    }

    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        let went = self.0.claims().of(id, self.0.env.now()).went.clone();
        self.0.primary.watch(key, id).beside(self.0.secondary.watch(key, id), went)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        self.0.primary.read(key).await
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        self.0.primary.scan().await
    }

    async fn ping(&self) -> Result<()> {
        self.0.primary.ping().await
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        self.0.primary.nodes()
    }

    /// What both can do, but the kind and the fence of the primary: what comes from the secondary carries none.
    fn traits(&self) -> Traits {
        let (first, second) = (self.0.primary.traits(), self.0.secondary.traits());
        Traits {
            queue: first.queue && second.queue,
            push: first.push && second.push,
            durable: first.durable && second.durable,
            ..first
        }
    }
}
