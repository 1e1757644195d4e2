//! One acquisition on its way: what the store may have of it, and what its answers mean.

use std::sync::Arc;
use std::time::Duration;

use crate::agenda::Parting;
use crate::client::Client;
use crate::env::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Degradation, What, Why};
use crate::guard::Guard;
use crate::hold::{Fence, Granted, Hold, certain_until};
use crate::line::Contact;
use crate::lock::Spec;
use crate::meter::Waits;
use crate::place::Place;
use crate::proto::{Acquire, ClaimId, Micros, Op, Outcome, Reply};
use crate::trace::Trail;

/// One acquisition on its way.
pub(crate) struct Bid {
    pub(crate) spec: Arc<Spec>,
    pub(crate) client: Arc<Client>,
    pub(crate) id: ClaimId,
    pub(crate) begun: Moment,
    /// When the clock was last read: before each request, and after it.
    pub(crate) now: Moment,
    /// What the store may have of it.
    pub(crate) stake: Stake,
    /// The store's clock at its last answer.
    pub(crate) answered: Micros,
    /// A request may still be under way that was given up.
    ambiguous: bool,
    /// Its place in the line of this process, where it stands in one.
    pub(crate) place: Option<Place>,
    /// How it ended, if it was not cancelled.
    ended: bool,
    waits: Option<Waits>,
    pub(crate) trail: Trail,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stake {
    /// Nothing.
    None,
    /// A place that is certain until then.
    Place(Moment),
    /// A request is under way or was not answered; before it, there was the place.
    Sent(Option<Moment>),
}

/// What one attempt came to.
pub(crate) enum Attempt {
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
        let trail = Trail::begin(&spec, client.core.node());
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
            waits: None,
            trail,
        }
    }

    /// Takes note that it waits.
    pub(crate) fn waiting(&mut self, ahead: u32) {
        self.waits.get_or_insert_with(|| Waits::new(&self.spec.meter));
        self.client.core.tell(&self.spec.key, || What::Waiting { ahead });
    }

    /// Asks once. Errors that asking again cannot mend end the bid.
    pub(crate) async fn ask(&mut self, patience: Duration, limit: Duration) -> Result<Attempt> {
        let core = self.client.core.clone();
        let op = self.request(patience);
        let reply = core.apply(&self.spec.key, &op, limit).await;
        self.hear(patience, reply)
    }

    /// The operation that asks. From here on the store may have something of it.
    pub(crate) fn request(&mut self, patience: Duration) -> Op {
        self.stake = Stake::Sent(self.until());
        let spec = &self.spec;
        Op::Acquire(Acquire {
            id: self.id,
            claim: spec.claim,
            ttl: spec.options.ttl,
            patience,
            owner: spec.owner.clone(),
            max: spec.max,
            memory: spec.options.fence_memory,
            meta: spec.meta.clone(),
            fence: 0,
        })
    }

    /// The answer to the last request, which was sent at `now`. Errors that asking again cannot mend end the bid.
    pub(crate) fn hear(&mut self, patience: Duration, reply: Result<Reply>) -> Result<Attempt> {
        let (spec, sent, place) = (self.spec.clone(), self.now, self.until());
        self.now = self.client.core.env.now();
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
    pub(crate) fn until(&self) -> Option<Moment> {
        match self.stake {
            Stake::None => None,
            Stake::Place(until) => Some(until),
            Stake::Sent(place) => place,
        }
    }

    /// A hold that was granted to this bid.
    pub(crate) fn granted(&mut self, fence: Fence, deadline: Moment, contact: Option<Contact>) -> Guard {
        let granted = Granted { id: self.id, fence, now: self.now, deadline, ambiguous: self.ambiguous, contact };
        let hold = self.client.keeper.hold(&self.spec, granted);
        self.client.core.reentries.offer(&self.spec, &hold);
        self.win(hold, contact.is_none())
    }

    pub(crate) fn win(&mut self, hold: Arc<Hold>, pushed: bool) -> Guard {
        (self.stake, self.ambiguous, self.ended) = (Stake::None, false, true);
        self.waits = None;
        let (core, waited, fence) = (&self.client.core, self.now - self.begun, hold.fence);
        self.spec.meter.acquired(waited);
        self.trail.held(self, &hold, waited);
        core.tell_in(self.trail.span(), &self.spec.key, || What::Acquired { fence, waited, pushed });
        if fence == Fence::NONE {
            core.degraded(&self.spec, Degradation::Store, None);
        }
        let place = self.place.take().and_then(|place| place.won(&hold));
        Guard::new(hold, self.client.clone(), place)
    }

    pub(crate) fn time_out(&mut self, now: Moment, cause: Option<Error>) -> Error {
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

    pub(crate) fn fail(&mut self, error: Error) -> Error {
        self.end(Why::Failed(error.kind()));
        error
    }

    pub(crate) fn end(&mut self, why: Why) {
        (self.ended, self.waits) = (true, None);
        let core = &self.client.core;
        let waited = core.env.now() - self.begun;
        self.spec.meter.not_acquired(why);
        self.trail.ended(why, waited);
        core.tell_in(self.trail.span(), &self.spec.key, || What::NotAcquired { waited, why });
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
            after: self.trail.span().clone(),
            kept: None,
            attempts: 0,
        });
    }
}
