//! Tasks that take a lock for a term: they refresh it, carry its ticket to another process, hand it over, and release it,
//! let it expire, or have it renewed from then on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::RngExt;
use tenure::{ErrorKind, Fence, Lease, Result, Ticket};
use tokio::time::{Instant, sleep};

use crate::grip::{Grip, Term};
use crate::history::note;
use crate::lock::{Claimant, Manner};
use crate::scenario::{Spec, Weather};
use crate::task::{How, Task};

/// A lease in the hands of a task, and what the history knows of it.
struct Leased {
    lease: Lease,
    term: Arc<Term>,
    who: Claimant,
    call: u64,
    fence: Fence,
}

impl Task {
    /// Takes a lock for a term, does this and that with it, and lets go of it.
    pub(crate) async fn lease(&mut self, spec: &Spec, who: Claimant) {
        let who = Claimant { manner: Manner::Lease, ..who };
        let Some(leased) = self.acquire_lease(spec, who).await else { return };
        // Between two answers nobody knows for certain, and after its end the store may have it for a little.
        self.history.engaged(who.lock, 1);
        self.carry(spec, who, leased).await;
        self.history.engaged(who.lock, -1);
        self.history.gone(who.lock);
    }

    async fn carry(&mut self, spec: &Spec, who: Claimant, mut leased: Leased) {
        for _ in 0..self.rng.random_range(0..4) {
            if !leased.term.remaining().is_zero() {
                self.world.running(self.process).await;
            }
            if !leased.term.remaining().is_zero() {
                self.history.write(who.lock, leased.fence);
            }
            sleep(self.some(spec.hold / 2)).await;
            let done = match self.rng.random_range(0..3) {
                0 => self.refresh_lease(leased).await,
                1 => self.pass_on(leased).await,
                _ => self.hand_over(leased).await,
            };
            let Some(next) = done else { return };
            leased = next;
        }
        self.end_lease(spec, leased).await;
    }

    async fn acquire_lease(&mut self, spec: &Spec, who: Claimant) -> Option<Leased> {
        let (lock, how) = (self.lock(spec, &who), self.how(spec));
        let time = spec.ttl.mul_f64(self.rng.random_range(0.5..1.0));
        note!(self.history, "p{} t{} asks for a lease on lock {}: {how:?}", self.process, self.task, who.lock);
        self.world.running(self.process).await;
        let (asking, start) = (self.history.ask(Claimant { waits: !how.is_try(), ..who }), Instant::now());
        let taking: BoxFuture<'_, Result<Option<Lease>>> = match how {
            _ if how.is_try() => Box::pin(lock.try_lease(time)),
            How::Within(most) => Box::pin(async move { lock.lease(time).timeout(most).await.map(Some) }),
            _ => Box::pin(async move { lock.lease(time).await.map(Some) }),
        };
        let error = match how.carry_out(taking).await {
            Some(Ok(Some(lease))) => {
                let (term, fence) = (Arc::new(Term::of(&lease)), lease.fence());
                self.history.demand(lease.remaining() <= time, || "a lease is longer than its term".to_owned());
                self.history.told().leased[self.process] += 1;
                let call = asking.held(Grip::Term(Arc::downgrade(&term)), fence);
                return Some(Leased { lease, term, who, call, fence });
            }
            outcome => outcome.and_then(Result::err),
        };
        drop(asking);
        self.gave_up(how, spec, start, error);
        None
    }

    async fn refresh_lease(&mut self, mut leased: Leased) -> Option<Leased> {
        let outcome = leased.lease.refresh().await;
        self.told(leased, outcome.map(|()| None))
    }

    /// The ticket goes to another process, as text, and the lease goes on there.
    async fn pass_on(&mut self, leased: Leased) -> Option<Leased> {
        let text = leased.lease.ticket().encode();
        let there = self.clients[self.rng.random_range(0..self.clients.len())].clone();
        let ticket = Ticket::decode(&text).expect("a ticket that was issued");
        let outcome = there.resume(ticket).await;
        self.told(leased, outcome.map(Some))
    }

    /// Somebody else has it from now on, under another ticket and a later token, and nobody had it in between.
    async fn hand_over(&mut self, leased: Leased) -> Option<Leased> {
        let old = leased.lease.ticket().clone();
        let Leased { lease, term, mut who, call, fence } = leased;
        let heir = self.rng.random_bool(0.5).then(|| self.rng.random_range(0..3));
        note!(self.history, "p{} t{} hands over its lease on lock {} to {heir:?}", self.process, self.task, who.lock);
        let until = Instant::now() + term.remaining();
        let handed_over = match heir {
            Some(heir) => {
                // From when the answer is under way, that owner's others may be in beside it.
                term.end();
                lease.hand_over_to(format!("owner {heir}")).await
            }
            None => lease.hand_over().await,
        };
        match handed_over {
            Ok(lease) => {
                self.is_void(old).await;
                let later = lease.fence() > fence;
                self.history.demand(later, || "a lease was handed over under no later fence".to_owned());
                let fence = lease.fence();
                who.owner = heir;
                self.history.handed_over(who, call, fence);
                self.told(Leased { lease, term, who, call, fence }, Ok(None))
            }
            // Whether the heir is in is not known, and it will be released.
            Err(error) if error.is_ambiguous() => {
                self.history.demand(self.is_rough(), || format!("a lease could not be handed over: {error}"));
                term.end();
                self.expire(self.scenario.locks[who.lock].ttl, who).await;
                None
            }
            // It is as it was: where the store can be asked, it says so.
            Err(error) if error.is_transient() || error.kind() == ErrorKind::ReentryLimit => {
                let expected = self.is_rough() || (!error.is_transient() && who.owner.is_some());
                self.history.demand(expected, || format!("a lease could not be handed over: {error}"));
                let resumed = self.client().resume(old).await;
                match resumed {
                    Ok(lease) => self.told(Leased { lease, term, who, call, fence }, Ok(None)),
                    Err(error) => {
                        term.lasts_until(until);
                        self.is_gone(&term, &error);
                        self.expire(until - Instant::now(), who).await;
                        None
                    }
                }
            }
            Err(error) => {
                term.lasts_until(until);
                self.is_gone(&term, &error);
                self.history.expired(who.lock);
                None
            }
        }
    }

    /// What follows from an answer about a lease: it goes on, in other hands perhaps, or it is gone.
    fn told(&self, mut leased: Leased, answer: Result<Option<Lease>>) -> Option<Leased> {
        match answer {
            Ok(lease) => {
                leased.lease = lease.unwrap_or(leased.lease);
                let same = leased.lease.fence() == leased.fence;
                self.history.demand(same, || "a lease has another fence than before".to_owned());
                leased.term.renew(&leased.lease);
                self.history.passed(leased.who.lock, leased.call, Grip::Term(Arc::downgrade(&leased.term)));
                Some(leased)
            }
            Err(error) if error.is_transient() => {
                self.history.demand(self.is_rough(), || format!("a lease could not be asked for: {error}"));
                Some(leased)
            }
            Err(error) => {
                self.is_gone(&leased.term, &error);
                self.history.expired(leased.who.lock);
                None
            }
        }
    }

    fn is_rough(&self) -> bool {
        self.scenario.weather >= Weather::Storm
    }

    /// It was told that it is gone: that may not be while it is certain.
    fn is_gone(&self, term: &Term, error: &tenure::Error) {
        note!(self.history, "p{} t{} has its lease no more: {error}", self.process, self.task);
        let certain = !term.remaining().is_zero() && self.scenario.weather < Weather::Disaster;
        let expected = if error.is_lost() { !certain } else { self.is_rough() };
        self.history.demand(expected, || format!("a lease was gone before its time: {error}"));
        term.end();
    }

    /// A ticket that finds nothing any more.
    async fn is_void(&self, ticket: Ticket) {
        if self.is_rough() {
            return;
        }
        let resumed = self.client().resume(ticket).await.map(|lease| lease.remaining());
        let void = resumed.as_ref().is_err_and(tenure::Error::is_lost);
        self.history.demand(void, || format!("a ticket that is void finds {resumed:?}"));
    }

    /// Waits until the store has forgotten it.
    async fn expire(&mut self, left: Duration, who: Claimant) {
        let Spec { ttl, patience, .. } = self.scenario.locks[who.lock];
        // A grant to a place in the queue lasts for as long as the place, where that is longer than the term.
        sleep(left + patience + ttl / 25 + 2 * self.scenario.trip() + Duration::from_millis(5)).await;
        self.history.expired(who.lock);
    }

    async fn end_lease(&mut self, spec: &Spec, leased: Leased) {
        let Leased { lease, term, who, call, .. } = leased;
        let way = self.rng.random_range(0..4);
        note!(self.history, "p{} t{} lets go of its lease on lock {}: {way}", self.process, self.task, who.lock);
        match way {
            // Dropping it releases nothing.
            0 => {
                drop(lease);
                self.expire(term.remaining(), who).await;
            }
            1 if !lease.remaining().is_zero() => {
                let guard = Arc::new(lease.into_guard());
                self.history.passed(who.lock, call, Grip::One(Arc::downgrade(&guard)));
                let spec = Spec { max_hold: None, ..spec.clone() };
                self.hold(&spec, who, &guard, 2).await;
                let guard = Arc::into_inner(guard).expect("nobody else has it");
                self.let_go(who, guard).await;
            }
            _ => {
                let certain = !self.is_rough() && lease.remaining() > 2 * self.scenario.trip();
                let left = term.remaining();
                drop(term);
                let released = lease.release().await;
                match &released {
                    Ok(was_ours) => {
                        self.history.demand(*was_ours || !certain, || "a lease was released and not known".to_owned());
                        self.history.gone(who.lock);
                        self.is_void(lease.ticket().clone()).await;
                    }
                    Err(error) => {
                        let expected = error.is_transient() && self.is_rough();
                        self.history.demand(expected, || format!("the release of a lease ended with {error:?}"));
                        self.expire(left, who).await;
                    }
                }
            }
        }
    }
}
