//! How a saga is defined: its steps, and what is done when one fails.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::Saga;
use super::call::{Call, Failure};
use crate::env::Env;
use crate::error::Result;
use crate::options::{Backoff, invalid, within};
use crate::transaction::journal::Journal;

/// The longest name of a saga or a step, and the longest id, in bytes. Together they make an idempotency key, for which
/// many services take 255.
const NAME_MAX: usize = 64;
pub(super) const ID_MAX: usize = 64;

const DAY: Duration = Duration::from_secs(24 * 3600);

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;
type Run<C, T> = Box<dyn Fn(Call<C>) -> Boxed<T> + Send + Sync>;

/// What a saga's runs share.
pub(super) struct Definition<C> {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) steps: Vec<Step<C>>,
    pub(super) act: Policy,
    pub(super) undo: Policy,
    pub(super) fatal: Vec<fn(&(dyn StdError + 'static)) -> bool>,
    pub(super) keep: Duration,
    pub(super) context: Arc<C>,
    pub(super) journal: Arc<dyn Journal>,
}

pub(super) struct Step<C> {
    pub(super) name: String,
    pub(super) action: Run<C, Value>,
    pub(super) compensation: Run<C, ()>,
}

/// When a failed attempt is made again.
#[derive(Clone)]
pub(super) enum Policy {
    /// After so many retries no more; the first delay doubles up to the longest.
    Doubling { retries: u32, longest: Duration },
    /// As the user says.
    Given(Backoff),
}

impl Policy {
    const FIRST: Duration = Duration::from_millis(100);

    /// How long to wait after attempt number `attempt`, from 1, failed; `None` when it was the last.
    pub(super) fn delay(&self, attempt: u32, env: &Env) -> Option<Duration> {
        match self {
            Self::Doubling { retries, .. } if attempt > *retries => None,
            Self::Doubling { longest, .. } => {
                let factor = 2_u32.saturating_pow(attempt.saturating_sub(1).min(20));
                Some(env.jitter(Self::FIRST.saturating_mul(factor).min(*longest)))
            }
            Self::Given(backoff) => backoff.0().nth(attempt.saturating_sub(1) as usize),
        }
    }
}

/// The steps of a saga, in their order, and its options.
#[must_use = "nothing is made before `build`"]
pub struct SagaBuilder<C> {
    name: String,
    version: u32,
    steps: Vec<Step<C>>,
    act: Policy,
    undo: Policy,
    fatal: Vec<fn(&(dyn StdError + 'static)) -> bool>,
    keep: Duration,
}

impl<C: Send + Sync + 'static> SagaBuilder<C> {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            version: 1,
            steps: Vec::new(),
            act: Policy::Doubling { retries: 5, longest: Duration::from_secs(10) },
            undo: Policy::Doubling { retries: 12, longest: Duration::from_secs(30) },
            fatal: Vec::new(),
            keep: 7 * DAY,
        }
    }

    /// The version of the definition: 1 by default. Raise it when a step comes to mean something else. A saga that was
    /// begun under another version, or with steps of other names, is refused until it has ended under that one.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The next step: a name, which others see and idempotency keys are made of; the action; and the compensation,
    /// which undoes it.
    ///
    /// Both are carried out *at least once*, and have to be idempotent by their [`Call::key`]. The compensation may be
    /// called where the action did nothing, or is still on its way: see [`Call::outcome`]. What the action gives is
    /// written to the journal as JSON, so keep secrets out of it.
    pub fn step<O, A, AF, U, UF>(mut self, name: impl Into<String>, action: A, compensation: U) -> Self
    where
        O: Serialize + 'static,
        A: Fn(Call<C>) -> AF + Send + Sync + 'static,
        AF: Future<Output = Result<O, Failure>> + Send + 'static,
        U: Fn(Call<C>) -> UF + Send + Sync + 'static,
        UF: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let action = move |call| -> Boxed<Value> {
            let acting = action(call);
            Box::pin(async move { serde_json::to_value(acting.await?).map_err(Failure::fatal) })
        };
        let compensation = move |call| -> Boxed<()> { Box::pin(compensation(call)) };
        self.steps.push(Step { name: name.into(), action: Box::new(action), compensation: Box::new(compensation) });
        self
    }

    /// Gives an action up after `times` retries, `interval` apart.
    pub fn retry(self, times: usize, interval: Duration) -> Self {
        self.backoff(move || std::iter::repeat_n(interval, times))
    }

    /// Makes another attempt at an action after each of the delays, and gives it up when they end: then the saga is
    /// compensated. By default five retries, the first after 50 to 100 ms, each after twice as long, up to 10 s.
    ///
    /// The closure makes a new iterator each time. Attempts that a crash cut short count, so that an action which
    /// ends its process is not tried for ever.
    pub fn backoff<I>(mut self, delays: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Duration> + Send + 'static,
    {
        self.act = Policy::Given(Backoff(Arc::new(move || Box::new(delays()))));
        self
    }

    /// The same for compensations; when the delays end, the saga is stuck. By default twelve retries, up to 30 s apart:
    /// some two minutes, in which the lock stays held.
    pub fn undo_backoff<I>(mut self, delays: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Duration> + Send + 'static,
    {
        self.undo = Policy::Given(Backoff(Arc::new(move || Box::new(delays()))));
        self
    }

    /// Errors of type `E` are final: what failed with one is not tried again.
    pub fn fatal_on<E: StdError + 'static>(mut self) -> Self {
        self.fatal.push(|error| error.is::<E>());
        self
    }

    /// For how long the record of a saga is kept that has completed or was compensated: 7 days by default, a minute
    /// to a year. Until then [`run`](Saga::run) knows its id and does nothing twice; after that it would.
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// The saga, of which every action and compensation finds `context` in its [`Call`], and which is written down in
    /// `journal`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when there are no steps, two of one name, or a name that
    /// will not do; it says which.
    pub fn build(self, context: impl Into<Arc<C>>, journal: Arc<dyn Journal>) -> Result<Saga<C>> {
        let Self { name, version, steps, act, undo, fatal, keep } = self;
        named("saga", &name)?;
        for (at, step) in steps.iter().enumerate() {
            named("step", &step.name)?;
            if steps[..at].iter().any(|other| other.name == step.name) {
                let message = format!("saga {name:?} has two steps {:?}: give each a name of its own", step.name);
                return Err(invalid(message));
            }
        }
        if steps.is_empty() {
            return Err(invalid(format!("saga {name:?} has no steps: give it one")));
        }
        within("keep", keep, (Duration::from_secs(60), 365 * DAY))?;
        let context = context.into();
        Ok(Saga(Arc::new(Definition { name, version, steps, act, undo, fatal, keep, context, journal })))
    }
}

/// Slashes part an idempotency key.
fn named(what: &str, name: &str) -> Result<()> {
    let n = name.len();
    if !(1..=NAME_MAX).contains(&n) || name.contains(|c: char| c == '/' || c.is_control()) {
        let start: String = name.chars().take(24).collect();
        return Err(invalid(format!(
            "the {what}'s name {start:?} of {n} bytes: give it 1 to {NAME_MAX}, without slashes and control characters"
        )));
    }
    Ok(())
}

impl<C> Definition<C> {
    pub(super) fn is_fatal(&self, failure: &Failure) -> bool {
        failure.fatal || self.fatal.iter().any(|fatal| fatal(&*failure.error))
    }
}

impl<C> fmt::Debug for SagaBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<_> = self.steps.iter().map(|step| &step.name).collect();
        let mut debug = f.debug_struct("SagaBuilder");
        debug.field("name", &self.name).field("version", &self.version).field("steps", &steps).finish_non_exhaustive()
    }
}
