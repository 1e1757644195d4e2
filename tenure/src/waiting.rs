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
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use crate::bid::{Attempt, Bid, Stake};
use crate::client::Client;
use crate::degrade;
use crate::env::Moment;
use crate::error::{Error, Result};
use crate::event::Why;
use crate::guard::Guard;
use crate::hold::Fence;
use crate::line::{Lines, Turn};
use crate::lock::Spec;
use crate::pace::Pace;
use crate::place::Place;
use crate::proto::{Claim, Refusal};
use crate::reentry::Reentry;
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

impl Bid {
    /// Takes the lock if it is free.
    pub(crate) async fn once(self) -> Result<Option<Guard>> {
        let span = self.trail.span().clone();
        let mut asking = pin!(self.ask_once());
        poll_fn(|context| span.in_scope(|| asking.as_mut().poll(context))).await
    }

    async fn ask_once(mut self) -> Result<Option<Guard>> {
        if let Some(guard) = self.reenter()? {
            return Ok(Some(guard));
        }
        if !self.try_line()? {
            return Ok(None);
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

    /// Takes the front of the line of this process where it has to stand in one; false where somebody is before it, which
    /// ends the bid. One that shares stands behind those who wait, and not behind those who ask.
    pub(crate) fn try_line(&mut self) -> Result<bool> {
        if !self.stands_in_line() {
            return Ok(true);
        }
        let free = if self.spec.claim == Claim::EXCLUSIVE {
            self.place = Lines::try_join(&self.client, &self.spec);
            self.place.is_some()
        } else {
            self.client.core.lines.may_try(&self.spec, self.now)
        };
        if free {
            return Ok(true);
        }
        // One request of somebody else's may fail; for as long as an own one may take, it is the store.
        let failing = self.client.core.lines.failing(&self.spec.key);
        let lasting = |(since, _): &(Moment, Error)| self.now - *since >= self.spec.options.op_timeout;
        if let Some((_, error)) = failing.filter(lasting) {
            return Err(self.fail(error));
        }
        self.end(Why::Busy);
        Ok(false)
    }

    /// Waits until it is granted.
    pub(crate) async fn wait(self, timeout: Option<Duration>) -> Result<Guard> {
        let span = self.trail.span().clone();
        // Unlike `instrument`, this does not enter the span once more to drop what is done.
        let mut queueing = pin!(self.queue(timeout));
        poll_fn(|context| span.in_scope(|| queueing.as_mut().poll(context))).await
    }

    async fn queue(mut self, timeout: Option<Duration>) -> Result<Guard> {
        let (core, spec) = (self.client.core.clone(), self.spec.clone());
        let options = &spec.options;
        let give_up = timeout.map_or(Moment(u64::MAX), |timeout| self.begun + timeout);
        if let Some(guard) = self.reenter()? {
            return Ok(guard);
        }
        let mut pace = Pace::new(&spec, core.store.traits().push);
        let mut watch = None;
        let mut failure;
        loop {
            if let Some(guard) = self.stand_in_line(give_up, &mut pace).await? {
                return Ok(guard);
            }
            if let Err(error) = self.client.check_open() {
                return Err(self.fail(error));
            }
            let patience = self.place.as_ref().map_or(options.patience, Place::patience);
            if !patience.is_zero() {
                watch.get_or_insert_with(|| core.store.watch(&spec.key, self.id));
            }
            let limit = options.op_timeout.min((give_up - self.now).max(Duration::from_millis(1)));
            let attempt = self.ask(patience, limit).await?;
            let now = self.now;
            let ask_at = match attempt {
                Attempt::Held(fence, deadline, contact) => return Ok(self.granted(fence, deadline, Some(contact))),
                Attempt::Busy { .. } if patience.is_zero() => {
                    pace.recovered();
                    (self.stake, watch) = (Stake::None, None);
                    self.place.iter_mut().for_each(Place::step_back);
                    continue;
                }
                Attempt::Busy { ahead, retry_in } => {
                    if pace.answered() {
                        self.waiting(ahead);
                    }
                    failure = None;
                    now + pace.busy(ahead, retry_in)
                }
                Attempt::Failed(error) => match pace.failed(now) {
                    Some(delay) => {
                        failure = Some(error);
                        now + core.env.jitter(delay)
                    }
                    None => {
                        self.tell_line(Some(&error), now);
                        return Err(self.fail(error));
                    }
                },
            };
            self.tell_line(failure.as_ref(), ask_at);
            let Some(retry_at) = pace.next_retry(now) else { return Err(self.time_out(now, failure)) };
            let ask_at = ask_at.min(retry_at);
            tokio::select! {
                biased;
                push = watch.get_or_insert_with(|| core.store.watch(&spec.key, self.id)).next() => if let Some(guard) = self.pushed(push) { return Ok(guard) },
                () = core.env.sleep_until(ask_at.min(give_up)) => if ask_at >= give_up {
                    return Err(self.time_out(give_up, failure));
                },
            }
            self.now = core.env.now();
        }
    }

    /// Those behind in line have to know how the store answers, and when it is asked again.
    fn tell_line(&self, failure: Option<&Error>, again_at: Moment) {
        if let Some(place) = &self.place {
            place.asked(self.now, failure, again_at);
        }
    }

    /// Shares what its owner holds already.
    fn reenter(&mut self) -> Result<Option<Guard>> {
        match self.client.core.reentries.enter(&self.spec, self.now) {
            Reentry::None => Ok(None),
            Reentry::Shared(hold) => Ok(Some(self.win(hold, false))),
            Reentry::Full => Err(self.fail(self.spec.refused(Refusal::Full))),
        }
    }

    fn stands_in_line(&self) -> bool {
        let core = &self.client.core;
        let traits = core.store.traits();
        traits.queue && traits.fence && Lines::are_for(&self.spec) && !core.lines.disagree(&self.spec)
    }

    /// Waits until it may ask. The hold of the one before may come with it.
    async fn stand_in_line(&mut self, give_up: Moment, pace: &mut Pace) -> Result<Option<Guard>> {
        if self.place.is_none() && !self.stands_in_line() {
            return Ok(None);
        }
        let core = self.client.core.clone();
        let place = self.place.get_or_insert_with(|| Lines::join(&self.client, &self.spec));
        let Some(ahead) = place.ahead() else { return Ok(None) };
        self.waiting(ahead);
        while let Some(place) = &mut self.place {
            let look_at = give_up.min(self.now + self.spec.options.patience);
            let turn = tokio::select! {
                biased;
                turn = place.turn() => Some(turn),
                () = core.env.sleep_until(look_at) => None,
            };
            self.now = core.env.now();
            let failing = || core.lines.failing(&self.spec.key);
            match turn {
                Some(Turn::Hold(hold)) => return Ok(Some(self.win(hold, false))),
                Some(Turn::Ask) => {
                    failing().iter().for_each(|(since, _)| pace.failing_since(*since));
                    return Ok(None);
                }
                None if self.now >= give_up => {
                    let failing = failing().map(|(_, error)| error);
                    return Err(self.time_out(give_up, failing));
                }
                None => core.lines.expire(&self.spec.key, self.now),
            }
        }
        Ok(None)
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
}
