//! A circuit breaker around a store: when it keeps failing, claims are told so at once instead of waiting for it.
//!
//! ```text
//!             failures in a row                 cool-down over: one request is the trial
//!   ┌────────┐ ──────────────▶ ┌──────┐ ─────────────────────────────────▶ ┌───────────┐
//!   │ closed │                 │ open │                                    │ half-open │
//!   └────────┘ ◀────────────── └──────┘ ◀───────────────────────────────── └───────────┘
//!        ▲     any answer: of a renewal, say         the trial failed            │
//!        └───────────────────────────────────────────────────────────────────────┘
//!                                    it was answered
//! ```
//!
//! While it is open, `Acquire`, `read` and `scan` fail fast. `Renew`, `Release` and `ping` always pass, and so a hold is
//! never lost that would have been kept without the breaker: they are few, the client sends them in batches and backs
//! off by itself, and an answer to one of them closes the breaker sooner than the cool-down would.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::circuit::{Circuit, Pass, Request, Standing};
use super::{Seen, Store, Traits, Watch};
use crate::env::Env;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::options::{invalid, within};
use crate::proto::{ClaimId, Op, Reply};
use crate::transaction::{Settle, Verdict};

mod circuit;

/// A store behind a circuit breaker. Clones share the breaker; keep one to look at its [state](Self::state).
///
/// ```
/// # fn main() -> tenure::Result<()> {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tenure::store::{Breaker, Memory};
///
/// let breaker = Breaker::builder(Arc::new(Memory::new())).failures(3).cool_down(Duration::from_secs(1)).build()?;
/// let locks = tenure::Locks::new(breaker.clone());
/// # Ok(())
/// # }
/// ```
///
/// A failure is an [`Unavailable`](ErrorKind::Unavailable) or a [`NoReply`](ErrorKind::NoReply), or a request that its
/// caller gave up after a [silence](BreakerBuilder::silence). Any other answer, a refusal too, shows that the store is
/// there. What fails fast was not sent, so it was certainly not carried out.
///
/// A lock that is waited for goes on asking, and so does the keeper for its holds: whoever asks first once the cool-down
/// is over finds out that the store is back.
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    circuit: Circuit,
}

/// How a [`Breaker`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Everything passes.
    Closed,
    /// Claims fail fast.
    Open {
        /// How long until one of them is let through; zero: the next one is.
        retry_in: Duration,
    },
    /// One claim is on its way to the store; the others fail fast until it is known what became of it.
    HalfOpen,
}

impl Breaker {
    /// That store behind a breaker with the default thresholds.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::builder(store).build().expect("the default thresholds are valid")
    }

    /// That store behind a breaker, with thresholds of one's own.
    pub fn builder(store: Arc<dyn Store>) -> BreakerBuilder {
        let (cool_down, silence) = (Duration::from_secs(2), Duration::from_millis(250));
        BreakerBuilder { store, failures: 5, cool_down, silence, env: Env::system() }
    }

    /// How it stands now.
    pub fn state(&self) -> BreakerState {
        self.0.circuit.state()
    }
}

/// Thresholds for a [`Breaker`].
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `build`"]
pub struct BreakerBuilder {
    store: Arc<dyn Store>,
    failures: u32,
    cool_down: Duration,
    silence: Duration,
    env: Env,
}

impl BreakerBuilder {
    /// How many failures in a row open it: 5 by default, 1 to 1,000,000. A batch counts as one request.
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// How long it stays open before a claim may try the store: 2 s by default, 1 ms to 1 h.
    pub fn cool_down(mut self, cool_down: Duration) -> Self {
        self.cool_down = cool_down;
        self
    }

    /// How long a request must have gone without a reply to count as a failure when its caller gives it up: 250 ms by
    /// default, 1 ms to 10 min.
    ///
    /// Give less than the client's [`op_timeout`](crate::LocksBuilder::op_timeout), or a silent store never opens the
    /// breaker. What was cancelled sooner says nothing about the store.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Where time comes from: the system by default.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// The breaker, closed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a threshold that cannot be meant; it says which, and what would do.
    pub fn build(self) -> Result<Breaker> {
        let Self { store, failures, cool_down, silence, env } = self;
        if !(1..=1_000_000).contains(&failures) {
            return Err(invalid(format!("failures of {failures} is out of range: give 1 to 1000000")));
        }
        within("cool_down", cool_down, (Duration::from_millis(1), Duration::from_secs(3600)))?;
        within("silence", silence, (Duration::from_millis(1), Duration::from_secs(600)))?;
        let (kind, now) = (store.traits().kind, Standing::default().into());
        let circuit = Circuit { kind, failures, cool_down, silence, env, now };
        Ok(Breaker(Arc::new(Inner { store, circuit })))
    }
}

impl Inner {
    async fn send_many(&self, ops: &[(Key, Op)], mut request: Request<'_>) -> Vec<Result<Reply>> {
        let replies = self.store.apply_many(ops).await;
        // One answer among them shows that the store is there.
        let answered = replies.iter().any(|reply| !reply.as_ref().is_err_and(Error::is_transient));
        request.judge(replies.iter().find_map(|reply| reply.as_ref().err()).filter(|_| !answered));
        replies
    }
}

#[async_trait]
impl Store for Breaker {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        let request = self.0.circuit.admit(Pass::of(op))?;
        request.end(self.0.store.apply(key, op).await)
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        if ops.is_empty() {
            return Vec::new();
        }
        let always = ops.iter().all(|(_, op)| Pass::of(op) == Pass::Always);
        match self.0.circuit.admit(if always { Pass::Always } else { Pass::AsTrial }) {
            Ok(request) => self.0.send_many(ops, request).await,
            Err(refusal) => {
                let passing = ops.iter().filter(|(_, op)| Pass::of(op) == Pass::Always).cloned();
                let passing: Vec<_> = passing.collect();
                let replies = match self.0.circuit.admit(Pass::Always) {
                    Ok(request) if !passing.is_empty() => self.0.send_many(&passing, request).await,
                    _ => Vec::new(),
                };
                let mut replies = replies.into_iter();
                let mut reply = |op: &Op| match Pass::of(op) {
                    Pass::Always => replies.next().unwrap_or_else(|| Err(refusal.clone())),
                    Pass::AsTrial => Err(refusal.clone()),
                };
                ops.iter().map(|(_, op)| reply(op)).collect()
            }
        }
    }

    /// Always passes: it is asked for under a hold.
    async fn settle(&self, settle: &Settle) -> Result<Verdict> {
        let request = self.0.circuit.admit(Pass::Always)?;
        request.end(self.0.store.settle(settle).await)
    }

    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        self.0.store.watch(key, id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let request = self.0.circuit.admit(Pass::AsTrial)?;
        request.end(self.0.store.read(key).await)
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        let request = self.0.circuit.admit(Pass::AsTrial)?;
        request.end(self.0.store.scan().await)
    }

    async fn ping(&self) -> Result<()> {
        let request = self.0.circuit.admit(Pass::Always)?;
        request.end(self.0.store.ping().await)
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        self.0.store.nodes()
    }

    fn traits(&self) -> Traits {
        self.0.store.traits()
    }
}
