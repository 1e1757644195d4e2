//! When a waiting client asks again.

use std::time::Duration;

use crate::env::Moment;
use crate::lock::Spec;
use crate::options::Delays;

/// How long after a failure the store is asked again, at first; it doubles, up to `RETRY_MOST`.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// How often a store is asked that cannot push.
const POLL: Duration = Duration::from_millis(10);

/// The least time between two attempts of the user's policy: at less it would ask as fast as the store answers.
const DELAY_LEAST: Duration = Duration::from_millis(1);

/// How long a store may have failed without a break before a wait is given up: the lock's ttl, but at least this.
const OUTAGE: Duration = Duration::from_secs(10);

/// When to ask next.
pub(crate) struct Pace {
    ttl: Duration,
    patience: Duration,
    push: bool,
    delays: Option<Delays>,
    retry_at: Option<Moment>,
    answered: bool,
    failing_since: Option<Moment>,
    failures: u32,
}

impl Pace {
    pub(crate) fn new(spec: &Spec, push: bool) -> Self {
        let options = &spec.options;
        Self {
            ttl: options.ttl,
            patience: options.patience,
            push,
            delays: options.backoff.as_ref().map(|backoff| backoff.0()),
            retry_at: None,
            answered: false,
            failing_since: None,
            failures: 0,
        }
    }

    /// Takes note of an answer; true for the first.
    pub(crate) fn answered(&mut self) -> bool {
        self.recovered();
        !std::mem::replace(&mut self.answered, true)
    }

    /// Takes note that the store answers.
    pub(crate) fn recovered(&mut self) {
        (self.failing_since, self.failures) = (None, 0);
    }

    /// Takes note that the store failed others before.
    pub(crate) fn failing_since(&mut self, since: Moment) {
        self.failing_since = Some(since);
    }

    /// How long to wait after a busy answer. The head asks when somebody's time passes, for nobody may be left to push.
    pub(crate) fn busy(&self, ahead: u32, retry_in: Duration) -> Duration {
        let refresh = self.patience / 3;
        match (self.push, ahead) {
            (false, _) => refresh.min(POLL),
            (true, 0) => refresh.min(retry_in + Duration::from_millis(1)),
            (true, _) => refresh,
        }
    }

    /// How long to wait after a failure; `None` when the store has failed for too long.
    pub(crate) fn failed(&mut self, now: Moment) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert(now);
        let delay = (RETRY_FIRST * 2_u32.pow(self.failures.min(8))).min(RETRY_MOST);
        self.failures += 1;
        (now - since < self.ttl.max(OUTAGE)).then_some(delay)
    }

    /// When the user's policy has it ask again, if there is one; `None` when that is used up.
    pub(crate) fn next_retry(&mut self, now: Moment) -> Option<Moment> {
        let Some(delays) = &mut self.delays else { return Some(Moment(u64::MAX)) };
        if self.retry_at.is_none_or(|at| at <= now) {
            self.retry_at = Some(now + delays.next()?.max(DELAY_LEAST));
        }
        self.retry_at
    }
}
