//! From the wish to the hold.
//!
//! ```text
//!   Acquire ──▶ Held ───────────────────────────────────────────────▶ Guard
//!      ▲   └──▶ Busy: a place in the queue, which lasts for `patience`
//!      │          ├── a push says that the place was let in ─────────▶ Guard, until the place's deadline; the keeper
//!      │          │                                                     confirms it
//!      └──────────┴── a timer: a third of the patience, or for the head what the store says nobody's time passes before
//! ```
//!
//! The id of a claim is the same for all its attempts, so a lost reply is answered by asking again. Whatever may have
//! reached the store belongs to a [`Bid`] before it is sent, and a bid that goes without a hold is released in the
//! background: that is all there is to cancelling.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::Instrument;

use crate::agenda::Parting;
use crate::client::Client;
use crate::degrade;
use crate::env::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Degradation, What, Why};
use crate::guard::Guard;
use crate::hold::{Fence, Granted, Hold, certain_until};
use crate::line::{Contact, Lines, Place, Turn};
use crate::lock::Spec;
use crate::pace::Pace;
use crate::proto::{Acquire, ClaimId, Micros, Op, Outcome};
use crate::store::Push;

/// A wait for a lock that has not begun: await it.
#[must_use = "nothing is asked for before it is awaited"]
pub struct Acquiring {
    spec: Arc<Spec>,
    client: Arc<Client>,
    timeout: Option<Duration>,
}

impl Acquiring {
    pub(crate) fn new(spec: Arc<Spec>, client: Arc<Client>) -> Self {
        Self { spec, client, timeout: None }
    }

    /// Gives up after that time; without, it waits for as long as it takes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl fmt::Debug for Acquiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquiring").field("name", &self.spec.key).field("timeout", &self.timeout).finish()
    }
}

impl IntoFuture for Acquiring {
    type Output = Result<Guard>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Guard>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.client.check_open()?;
            degrade::lock(&self.spec, &self.client, self.timeout).await
        })
    }
}

/// One acquisition on its way.
pub(crate) struct Bid {
    spec: Arc<Spec>,
    client: Arc<Client>,
    id: ClaimId,
    begun: Moment,
    /// When the clock was last read: before each request, and after it.
    now: Moment,
    /// What the store may have of it.
    stake: Stake,
    /// The store's clock at its last answer.
    answered: Micros,
    /// A request may still be under way that was given up.
    ambiguous: bool,
    /// Its place in the line of this process, where it stands in one.
    place: Option<Place>,
    /// How it ended, if it was not cancelled.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stake {
    /// Nothing.
    None,
    /// A place that is certain until then.
    Place(Moment),
    /// A request is under way or was not answered; before it, there was the place.
    Sent(Option<Moment>),
}

/// What one attempt came to.
enum Attempt {
    Held(Fence, Moment, Contact),
    Busy {
        ahead: u32,
        retry_in: Duration,
    },
    /// The store failed, and asking again may help.
    Failed(Error),
}

impl Bid {
    pub(crate) fn new(spec: Arc<Spec>, client: Arc<Client>) -> Self {
        let env = &client.core.env;
        let (id, begun) = (ClaimId::new(env.bits()), env.now());
        Self {
            spec,
            client,
            id,
            begun,
            now: begun,
            stake: Stake::None,
            answered: 0,
            ambiguous: false,
            place: None,
            ended: false,
        }
    }

    /// Takes the lock if it is free.
    pub(crate) async fn once(mut self) -> Result<Option<Guard>> {
        if self.stands_in_line() {
            self.place = Lines::try_join(&self.client, &self.spec);
            if self.place.is_none() {
                self.end(Why::Busy);
                return Ok(None);
            }
        }
        match self.ask(Duration::ZERO, self.spec.options.op_timeout).await? {
            Attempt::Held(fence, deadline, contact) => Ok(Some(self.granted(fence, deadline, Some(contact)))),
            Attempt::Busy { .. } => {
                self.stake = Stake::None;
                self.end(Why::Busy);
                Ok(None)
            }
            Attempt::Failed(error) => Err(self.fail(error)),
        }
    }

    /// Waits until it is granted.
    pub(crate) async fn wait(self, timeout: Option<Duration>) -> Result<Guard> {
        let span = tracing::debug_span!(
            target: "tenure", "lock", name = self.spec.key.as_str(), fence = tracing::field::Empty, waited = tracing::field::Empty
        );
        let begun = self.begun;
        let result = self.queue(timeout).instrument(span.clone()).await;
        if let Ok(guard) = &result {
            span.record("fence", guard.fence().get());
            span.record("waited", tracing::field::debug(guard.since() - begun));
        }
        result
    }

    async fn queue(mut self, timeout: Option<Duration>) -> Result<Guard> {
        let (core, spec) = (self.client.core.clone(), self.spec.clone());
        let options = &spec.options;
        let give_up = timeout.map_or(Moment(u64::MAX), |timeout| self.begun + timeout);
        if let Some(guard) = self.stand_in_line(give_up).await? {
            return Ok(guard);
        }
        let mut watch = core.store.watch(&spec.key, self.id);
        let mut pace = Pace::new(&spec, core.store.traits().push);
        let mut failure;
        loop {
            if let Err(error) = self.client.check_open() {
                return Err(self.fail(error));
            }
            let limit = options.op_timeout.min((give_up - self.now).max(Duration::from_millis(1)));
            let attempt = self.ask(options.patience, limit).await?;
            let now = self.now;
            let ask_at = match attempt {
                Attempt::Held(fence, deadline, contact) => return Ok(self.granted(fence, deadline, Some(contact))),
                Attempt::Busy { ahead, retry_in } => {
                    if pace.answered() {
                        core.tell(&spec.key, || What::Waiting { ahead });
                    }
                    failure = None;
                    now + pace.busy(ahead, retry_in)
                }
                Attempt::Failed(error) => match pace.failed(now) {
                    Some(delay) => {
                        failure = Some(error);
                        now + core.env.jitter(delay)
                    }
                    None => return Err(self.fail(error)),
                },
            };
            let Some(retry_at) = pace.next_retry(now) else { return Err(self.time_out(now, failure)) };
            let ask_at = ask_at.min(retry_at);
            tokio::select! {
                biased;
                push = watch.next() => if let Some(guard) = self.pushed(push) { return Ok(guard) },
                () = core.env.sleep_until(ask_at.min(give_up)) => if ask_at >= give_up {
                    return Err(self.time_out(give_up, failure));
                },
            }
            self.now = core.env.now();
        }
    }

    fn stands_in_line(&self) -> bool {
        let traits = self.client.core.store.traits();
        traits.queue && traits.fence && Lines::are_for(&self.spec)
    }

    /// Waits until nobody of this process is before it. The hold of the one before may come with it.
    async fn stand_in_line(&mut self, give_up: Moment) -> Result<Option<Guard>> {
        if !self.stands_in_line() {
            return Ok(None);
        }
        let core = self.client.core.clone();
        let place = self.place.insert(Lines::join(&self.client, &self.spec));
        let Some(ahead) = place.ahead() else { return Ok(None) };
        core.tell(&self.spec.key, || What::Waiting { ahead });
        loop {
            let look_at = give_up.min(self.now + self.spec.options.patience);
            let turn = tokio::select! {
                biased;
                turn = place.turn() => Some(turn),
                () = core.env.sleep_until(look_at) => None,
            };
            self.now = core.env.now();
            match turn {
                Some(Turn::Hold(hold)) => return Ok(Some(self.win(hold, false))),
                Some(Turn::Front) => return Ok(None),
                None if self.now >= give_up => return Err(self.time_out(give_up, None)),
                None => core.lines.expire(&self.spec.key, self.now),
            }
        }
    }

    /// Asks once. Errors that asking again cannot mend end the bid.
    async fn ask(&mut self, patience: Duration, limit: Duration) -> Result<Attempt> {
        let (spec, core) = (self.spec.clone(), self.client.core.clone());
        let op = Op::Acquire(Acquire {
            id: self.id,
            claim: spec.claim,
            ttl: spec.options.ttl,
            patience,
            owner: spec.owner.clone(),
            max: spec.max,
            memory: spec.options.fence_memory,
            meta: spec.meta.clone(),
        });
        let (sent, place) = (self.now, self.until());
        self.stake = Stake::Sent(place);
        let reply = core.apply(&spec.key, &op, limit).await;
        self.now = core.env.now();
        self.answered = reply.as_ref().map_or(self.answered, |reply| reply.now);
        match reply.map(|reply| reply.outcome) {
            Ok(Outcome::Held { fence, waiting, .. }) => {
                let deadline = certain_until(sent, spec.options.ttl);
                if self.now < deadline {
                    return Ok(Attempt::Held(
                        Fence(fence),
                        deadline,
                        Contact { now: self.answered, at: self.now, waiting },
                    ));
                }
                let message = format!("the store took longer than the ttl to grant the lock {:?}", spec.key);
                Ok(Attempt::Failed(Error::new(ErrorKind::NoReply, message)))
            }
            Ok(Outcome::Busy { ahead, retry_in }) => {
                self.stake = Stake::Place(certain_until(sent, patience));
                Ok(Attempt::Busy { ahead, retry_in })
            }
            Ok(Outcome::Refused(refusal)) => {
                self.stake = Stake::None;
                Err(self.fail(spec.refused(refusal)))
            }
            Ok(Outcome::Gone { .. }) => {
                let message =
                    format!("the store answered a request for the lock {:?} as if it were a release", spec.key);
                Err(self.fail(Error::new(ErrorKind::Corrupt, message)))
            }
            Err(error) => {
                if error.is_ambiguous() {
                    self.ambiguous = true;
                } else {
                    self.stake = place.map_or(Stake::None, Stake::Place);
                }
                if error.is_transient() { Ok(Attempt::Failed(error)) } else { Err(self.fail(error)) }
            }
        }
    }

    /// Until when the place in the queue is certain, if there is one.
    fn until(&self) -> Option<Moment> {
        match self.stake {
            Stake::None => None,
            Stake::Place(until) => Some(until),
            Stake::Sent(place) => place,
        }
    }

    /// A grant that was pushed is a hold until the place's deadline, if that is still to come. Where nobody would renew it
    /// before that, it is worth asking for a whole term.
    ///
    /// One from before the last answer has expired: the store would have said that the claim is in. A fence is never
    /// behind the clock at which it was given.
    fn pushed(&mut self, push: Push) -> Option<Guard> {
        let Push::Granted(fence) = push else { return None };
        if fence < self.answered || !self.spec.options.watchdog {
            return None;
        }
        self.now = self.client.core.env.now();
        let deadline = self.until().filter(|deadline| self.now < *deadline)?;
        Some(self.granted(Fence(fence), deadline, None))
    }

    /// A hold that was granted to this bid.
    fn granted(&mut self, fence: Fence, deadline: Moment, contact: Option<Contact>) -> Guard {
        let granted = Granted { id: self.id, fence, now: self.now, deadline, ambiguous: self.ambiguous, contact };
        let hold = self.client.keeper.hold(&self.spec, granted);
        self.win(hold, contact.is_none())
    }

    fn win(&mut self, hold: Arc<Hold>, pushed: bool) -> Guard {
        (self.stake, self.ambiguous, self.ended) = (Stake::None, false, true);
        let (core, waited, fence) = (&self.client.core, self.now - self.begun, hold.fence);
        core.counters.wait.record(waited);
        core.tell(&self.spec.key, || What::Acquired { fence, waited, pushed });
        if fence == Fence::NONE {
            core.degraded(&self.spec.key, Degradation::Store, None);
        }
        Guard::new(hold, self.client.clone(), self.place.take())
    }

    fn time_out(&mut self, now: Moment, cause: Option<Error>) -> Error {
        self.client.core.counters.timeouts.fetch_add(1, Relaxed);
        self.end(Why::TimedOut);
        let (waited, key) = (now - self.begun, &self.spec.key);
        let waited = Duration::from_millis(waited.as_millis() as u64);
        match cause {
            None => Error::new(ErrorKind::Timeout, format!("the lock {key:?} was busy for all of {waited:?}")),
            Some(cause) => {
                let message = format!("the lock {key:?} could not be had within {waited:?}: {cause}");
                Error::with_source(ErrorKind::Timeout, message, cause)
            }
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.end(Why::Failed(error.kind()));
        error
    }

    fn end(&mut self, why: Why) {
        self.ended = true;
        let core = &self.client.core;
        core.counters.failed.fetch_add(1, Relaxed);
        core.tell(&self.spec.key, || What::NotAcquired { waited: core.env.now() - self.begun, why });
    }
}

impl Drop for Bid {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Why::Cancelled);
        }
        if self.stake == Stake::None && !self.ambiguous {
            return;
        }
        let Spec { key, options, .. } = &*self.spec;
        let longest = options.ttl.max(options.patience);
        let under_way = self.ambiguous || matches!(self.stake, Stake::Sent(_));
        self.client.keeper.part(Parting {
            key: key.clone(),
            id: self.id,
            bury: if under_way { longest } else { Duration::ZERO },
            fence: 0,
            give_up: self.client.core.env.now() + longest + options.op_timeout,
            op_timeout: options.op_timeout,
            since: None,
            attempts: 0,
        });
    }
}
