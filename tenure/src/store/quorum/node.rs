//! One node: its store, and whether it is worth asking.
//!
//! A node that was silent for its whole time, or could not be reached, is left alone for a while that doubles with each
//! further failure; then one request tries it. So it costs an acquisition its time once, and then nothing.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{NodeHealth, Vitals};
use crate::key::Key;
use crate::proto::vote::preference;
use crate::proto::{Op, Outcome, Reply};
use crate::store::Store;

/// For how long a node is left alone after a failure, and at most.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

pub(super) struct Node {
    pub(super) name: Arc<str>,
    pub(super) store: Arc<dyn Store>,
    /// How large a share of the keys it is to have in a ring, against the others.
    pub(super) weight: u32,
    failures: AtomicU32,
    vitals: Vitals,
    /// Until when it is left alone.
    rests_until: AtomicU64,
}

/// How much a lock's name prefers a node, in comparison with others; by its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Preference(f64);

impl Preference {
    pub(super) fn of(key: &str, node: &Node) -> Self {
        Self(preference(key, &node.name, node.weight))
    }
}

impl Eq for Preference {}

impl PartialOrd for Preference {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Preference {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// How much an answer of a node counts, which depends on for how long it has kept all that it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// Not at all: somebody may still hold what it has forgotten.
    None,
    /// Only under a token that is later than what others remember: it may have forgotten a later one.
    Weak,
    /// Fully.
    Full,
}

impl Node {
    pub(super) fn new(name: Arc<str>, store: Arc<dyn Store>, weight: u32) -> Self {
        Self {
            name,
            store,
            weight,
            failures: AtomicU32::new(0),
            vitals: Vitals::default(),
            rests_until: AtomicU64::new(0),
        }
    }

    /// Whether it has answered since it last failed.
    pub(super) fn is_well(&self) -> bool {
        self.failures.load(Relaxed) == 0
    }

    /// Asks it, and waits no longer than `limit`.
    pub(super) async fn ask(&self, env: &Env, limit: Duration, key: &Key, op: &Op) -> Result<Reply> {
        self.query(env, limit, self.store.apply(key, op)).await
    }

    /// Whatever else may be asked of it, within `limit`.
    pub(super) async fn query<T>(
        &self,
        env: &Env,
        limit: Duration,
        query: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.admit(env, limit)?;
        let sent = env.now();
        let reply = env.timeout(limit, query).await.unwrap_or_else(|| Err(self.silent(limit)));
        let now = env.now();
        match &reply {
            Err(error) if error.is_transient() => _ = self.vitals.failed(sent, now, error.is_ambiguous()),
            _ => _ = self.vitals.answered(sent, now),
        }
        self.judge(env, reply)
    }

    pub(super) fn health(&self, holds: usize) -> NodeHealth {
        self.vitals.health(self.name.to_string(), holds, None)
    }

    /// How much an answer counts that was given then by the node's clock.
    pub(super) fn vote(&self, now: u64, longest: Duration, memory: Duration) -> Weight {
        let kept = now.saturating_sub(self.store.traits().kept_since);
        let micros = |duration: Duration| duration.as_micros() as u64;
        match () {
            () if kept < micros(longest) => Weight::None,
            () if kept < micros(longest).saturating_add(micros(memory)) => Weight::Weak,
            () => Weight::Full,
        }
    }

    /// Why it has no vote yet.
    pub(super) fn is_young(&self, longest: Duration) -> String {
        format!(
            "{}: has no vote before it has kept its memory for {longest:?}, the longest ttl; it does not write to disk \
                 before it answers, and was started lately, or this user may not ask it (+info +config|get)",
            self.name
        )
    }

    fn admit(&self, env: &Env, limit: Duration) -> Result<()> {
        let now = env.now();
        let rests_until = self.rests_until.load(Relaxed);
        if rests_until > now.0 {
            return Err(Error::new(ErrorKind::Unavailable, format!("{}: failed lately, and is left alone", self.name)));
        }
        // The first one in tries it for the others.
        let tries = rests_until > 0
            && self.rests_until.compare_exchange(rests_until, (now + limit).0, Relaxed, Relaxed).is_err();
        match tries {
            true => Err(Error::new(ErrorKind::Unavailable, format!("{}: is just being tried again", self.name))),
            false => Ok(()),
        }
    }

    fn judge<T>(&self, env: &Env, result: Result<T>) -> Result<T> {
        match result {
            Err(error) if error.is_transient() => {
                let failures = self.failures.fetch_add(1, Relaxed);
                let rest = (REST.0 * 2_u32.pow(failures.min(8))).min(REST.1);
                self.rests_until.store((env.now() + env.jitter(rest)).0, Relaxed);
                Err(Error::with_source(error.kind(), format!("{}: {error}", self.name), error))
            }
            Err(error) => Err(Error::with_source(error.kind(), format!("{}: {error}", self.name), error)),
            Ok(value) => {
                self.failures.store(0, Relaxed);
                self.rests_until.store(0, Relaxed);
                Ok(value)
            }
        }
    }

    fn silent(&self, limit: Duration) -> Error {
        Error::new(ErrorKind::NoReply, format!("no answer within {limit:?}"))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name).field("store", &self.store).finish_non_exhaustive()
    }
}

/// What one node said to an acquisition or a renewal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vote {
    /// Nothing yet.
    Pending,
    /// The claim is in.
    In { fence: u64, weight: Weight, reply: Reply },
    /// Anything else that is an answer.
    Out(Reply),
    /// No answer.
    Failed,
}

impl Vote {
    /// The token under which it is in.
    pub(super) fn token(&self) -> Option<u64> {
        match self {
            Self::In { fence, .. } => Some(*fence),
            _ => None,
        }
    }

    pub(super) fn of(reply: Result<Reply>, weight: impl FnOnce(u64) -> Weight) -> Self {
        match reply {
            Ok(reply) => match reply.outcome {
                Outcome::Held { fence, .. } => Self::In { fence, weight: weight(reply.now), reply },
                _ => Self::Out(reply),
            },
            Err(_) => Self::Failed,
        }
    }
}
