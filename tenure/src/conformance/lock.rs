//! What the promises are tried with: a lock under a fresh name, and claims on it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Subject;
use crate::env::Env;
use crate::key::Key;
use crate::proto::{Acquire, Claim, ClaimId, Micros, Op, Outcome, Owner, Release, Renew, Reply, Was};
use crate::store::{Seen, Store};

/// Longer than any test takes.
pub(super) const LONG: Duration = Duration::from_secs(30);
/// Long enough to be seen, and soon over.
pub(super) const SHORT: Duration = Duration::from_millis(50);

/// One lock, by one handle.
#[derive(Clone, Debug)]
pub(super) struct Lock {
    pub(super) store: Arc<dyn Store>,
    pub(super) key: Key,
}

/// What [`Outcome::Held`] says, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) fence: u64,
    pub(super) since: Micros,
    pub(super) until: Micros,
    pub(super) waiting: u32,
    pub(super) now: Micros,
}

impl Lock {
    /// A lock that nobody has used, and its store by a first handle.
    pub(super) async fn fresh(subject: &Subject) -> Self {
        Self { store: subject.open().await, key: fresh_key("lock-") }
    }

    /// The same lock by another handle.
    pub(super) async fn elsewhere(&self, subject: &Subject) -> Self {
        Self { store: subject.open().await, key: self.key.clone() }
    }

    pub(super) async fn apply(&self, op: Op) -> Reply {
        self.store.apply(&self.key, &op).await.unwrap_or_else(|error| panic!("{op:?} on {:?}: {error}", self.key))
    }

    pub(super) async fn acquire(&self, claim: &Acquire) -> Reply {
        self.apply(Op::Acquire(claim.clone())).await
    }

    /// Acquires, and is in.
    pub(super) async fn enter(&self, claim: &Acquire) -> Held {
        let reply = self.acquire(claim).await;
        held(reply).unwrap_or_else(|| panic!("{claim:?} is to be let in: {reply:?}"))
    }

    /// Acquires, and is told that it is busy: the number of those ahead, and when to ask again.
    pub(super) async fn is_kept_out(&self, claim: &Acquire) -> (u32, Duration) {
        match self.acquire(claim).await.outcome {
            Outcome::Busy { ahead, retry_in } => (ahead, retry_in),
            other => panic!("{claim:?} is to be kept out: {other:?}"),
        }
    }

    pub(super) async fn renew(&self, id: ClaimId, ttl: Duration) -> Reply {
        self.apply(Op::Renew(Renew { id, ttl, fence: 0 })).await
    }

    pub(super) async fn release(&self, id: ClaimId) -> Was {
        self.release_and_bury(id, Duration::ZERO).await.0
    }

    pub(super) async fn release_and_bury(&self, id: ClaimId, bury: Duration) -> (Was, Micros) {
        let reply = self.apply(Op::Release(Release { id, bury, fence: 0 })).await;
        match reply.outcome {
            Outcome::Gone { was } => (was, reply.now),
            other => panic!("a release leaves nothing: {other:?}"),
        }
    }

    pub(super) async fn read(&self) -> Seen {
        self.store.read(&self.key).await.unwrap_or_else(|error| panic!("reading {:?}: {error}", self.key))
    }

    /// The ids of those who are in, and of those who wait.
    pub(super) async fn who(&self) -> (Vec<ClaimId>, Vec<ClaimId>) {
        let record = self.read().await.record;
        (record.holders.iter().map(|entry| entry.id).collect(), record.queue.iter().map(|entry| entry.id).collect())
    }

    /// Whether the name is among those that the store lists.
    pub(super) async fn is_listed(&self) -> bool {
        self.store.scan().await.unwrap_or_else(|error| panic!("scanning: {error}")).contains(&self.key)
    }
}

pub(super) fn held(Reply { outcome, now }: Reply) -> Option<Held> {
    match outcome {
        Outcome::Held { fence, since, until, waiting } => Some(Held { fence, since, until, waiting, now }),
        _ => None,
    }
}

/// A name that nobody has used, after `start`.
pub(super) fn fresh_key(start: &str) -> Key {
    Key::new(format!("{start}{:016x}", Env::system().bits() as u64)).expect("it is short")
}

pub(super) fn fresh_id() -> ClaimId {
    ClaimId::new(Env::system().bits())
}

/// A new claim that holds for long and does not wait.
pub(super) fn claim(claim: Claim) -> Acquire {
    Acquire {
        id: fresh_id(),
        claim,
        ttl: LONG,
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: Duration::from_secs(2),
        meta: Bytes::new(),
        fence: 0,
    }
}

pub(super) fn mutex() -> Acquire {
    claim(Claim::EXCLUSIVE)
}

pub(super) fn reader() -> Acquire {
    claim(Claim::SHARED)
}

pub(super) fn permits(permits: u32, limit: u32) -> Acquire {
    claim(Claim::new(permits, limit).expect("it can be granted"))
}

/// The same claim, waiting, with another ttl, of an owner.
pub(super) trait With {
    fn waiting(self, patience: Duration) -> Self;
    fn ttl(self, ttl: Duration) -> Self;
    fn of(self, owner: &Owner, max: u32) -> Self;
}

impl With for Acquire {
    fn waiting(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    fn of(self, owner: &Owner, max: u32) -> Self {
        Self { owner: Some(owner.clone()), max, ..self }
    }
}

/// Asks every other millisecond until there is an answer, for ten seconds.
pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let env = Env::system();
    let deadline = env.now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(env.now() < deadline, "not within ten seconds: {what}");
        env.sleep(Duration::from_millis(2)).await;
    }
}
