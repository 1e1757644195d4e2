//! What the tasks of a process do: take a lock in one way or another, write under its token, look whether they still
//! hold it, renew it, enter it again, and let go of it in one way or another. What they are told is checked on the spot.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure::{Error, ErrorKind, Guard, Lock, Locks, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::grip::Grip;
use crate::history::{History, note};
use crate::lock::{Claimant, Manner};
use crate::network::World;
use crate::scenario::{Kind, Process, Scenario, Spec, Weather};
use crate::wire::name_of_lock;

/// How late a paused clock's timers are at most.
pub(crate) const TICKS: Duration = Duration::from_millis(3);

pub(crate) struct Task {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) world: World,
    pub(crate) history: Arc<History>,
    /// The clients of all processes.
    pub(crate) clients: Arc<[Locks]>,
    pub(crate) process: usize,
    pub(crate) task: usize,
    pub(crate) rng: StdRng,
}

/// How a lock is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Try,
    Wait,
    /// Waits for so long.
    Within(Duration),
    /// Drops the wait after that time, or after so many polls.
    DropAfter(Duration),
    DropAtPoll(u32),
    DropTryAtPoll(u32),
}

impl How {
    /// It takes what is free now, and nothing else.
    pub(crate) fn is_try(self) -> bool {
        matches!(self, Self::Try | Self::DropTryAtPoll(_))
    }

    /// What it came to; `None` where it was dropped before.
    pub(crate) async fn carry_out<T>(self, taking: BoxFuture<'_, T>) -> Option<T> {
        match self {
            Self::DropAfter(time) => timeout(time, taking).await.ok(),
            Self::DropAtPoll(polls) | Self::DropTryAtPoll(polls) => poll_times(polls, taking).await,
            Self::Try | Self::Wait | Self::Within(_) => Some(taking.await),
        }
    }
}

impl Task {
    pub(crate) fn new(
        world: &World,
        history: &Arc<History>,
        scenario: &Arc<Scenario>,
        clients: &Arc<[Locks]>,
        at: (usize, usize),
    ) -> Self {
        let (process, task) = at;
        let rng = StdRng::seed_from_u64(scenario.seed ^ ((process as u64 + 1) << 40) ^ ((task as u64 + 1) << 50));
        let (world, history, scenario) = (world.clone(), history.clone(), scenario.clone());
        Self { scenario, world, history, clients: clients.clone(), process, task, rng }
    }

    pub(crate) async fn run(mut self) {
        let Some(owner) = self.scenario.processes[self.process].tasks.get(self.task).copied() else { return };
        let rounds = self.scenario.processes[self.process].rounds;
        for round in 0..=rounds {
            // After a storm, once more when its last trace is gone: then everything is as it was before.
            if self.history.has_failed() || (round == rounds && self.scenario.weather < Weather::Storm) {
                return;
            }
            if round == rounds {
                self.history.over().await;
            }
            let lock = self.rng.random_range(0..self.scenario.locks.len());
            let spec = self.scenario.locks[lock].clone();
            sleep(self.some(spec.hold)).await;
            let who = self.claimant(lock, &spec, owner);
            let Process { several, leases, .. } = self.scenario.processes[self.process];
            match self.rng.random_range(0..100) {
                n if n < several => self.several(owner).await,
                n if n < several + leases => self.lease(&spec, who).await,
                _ => self.round(&spec, who, 0).await,
            }
        }
    }

    pub(crate) fn claimant(&mut self, lock: usize, spec: &Spec, owner: Option<u8>) -> Claimant {
        let limit = spec.kind.limit();
        let permits = match spec.kind {
            Kind::Mutex => limit,
            Kind::ReadWrite => [1, 1, limit][self.rng.random_range(0..3)],
            Kind::Semaphore(_) => self.rng.random_range(1..=limit),
        };
        let (process, task) = (self.process, self.task);
        Claimant { lock, process, task, owner, permits, limit, waits: false, manner: Manner::Alone }
    }

    /// The client of its own process.
    pub(crate) fn client(&self) -> &Locks {
        &self.clients[self.process]
    }

    pub(crate) fn lock(&self, spec: &Spec, who: &Claimant) -> Lock {
        let locks = match who.owner {
            Some(owner) => self.client().owner(format!("owner {owner}")),
            None => self.client().clone(),
        };
        let name = name_of_lock(who.lock);
        let builder = match spec.kind {
            Kind::Mutex => locks.mutex(name),
            Kind::ReadWrite if who.permits == 1 => locks.read(name),
            Kind::ReadWrite => locks.write(name),
            Kind::Semaphore(limit) => locks.semaphore(name, limit).permits(who.permits),
        };
        let builder = builder.ttl(spec.ttl).patience(spec.patience).op_timeout(spec.op_timeout).meta("");
        let builder = builder.fence_memory(spec.memory).watchdog(spec.watchdog).local_hand_off(spec.local_hand_off);
        // One that lasts for less than a trip is over before the others are had, and no two get ahead.
        let max_hold = spec.max_hold.filter(|_| who.manner != Manner::Several);
        let builder = if let Some(max) = max_hold { builder.max_hold(max) } else { builder };
        let builder = if let Some((times, gap)) = spec.retry { builder.retry(times, gap) } else { builder };
        let builder = if who.owner.is_some() { builder.reentrant(spec.max) } else { builder };
        let builder = if let Some(interval) = spec.interval { builder.watchdog_interval(interval) } else { builder };
        builder.build().expect("the options are valid")
    }

    /// Up to that much.
    pub(crate) fn some(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.rng.random_range(0..=most.as_millis() as u64))
    }

    pub(crate) fn how(&mut self, spec: &Spec) -> How {
        if self.rng.random_range(0..100) < self.scenario.processes[self.process].cancels {
            return match self.rng.random_range(0..3) {
                0 => How::DropAfter(self.some(2 * spec.hold)),
                1 => How::DropAtPoll(self.rng.random_range(0..12)),
                _ => How::DropTryAtPoll(self.rng.random_range(0..6)),
            };
        }
        match self.rng.random_range(0..10) {
            0..2 => How::Try,
            2..4 => How::Within(self.some(4 * spec.hold)),
            _ => How::Wait,
        }
    }

    /// Takes the lock, holds it for a while, and lets go of it.
    async fn round(&mut self, spec: &Spec, who: Claimant, depth: u32) {
        let lock = self.lock(spec, &who);
        let how = self.how(spec);
        let Some(guard) = self.acquire(&lock, spec, who, how).await else { return };
        self.hold(spec, who, &guard, depth).await;
        let guard = Arc::into_inner(guard).expect("nobody else has it");
        self.let_go(who, guard).await;
    }

    fn enter_again<'a>(&'a mut self, spec: &'a Spec, who: Claimant, depth: u32) -> BoxFuture<'a, ()> {
        Box::pin(self.round(spec, who, depth))
    }

    async fn acquire(&mut self, lock: &Lock, spec: &Spec, who: Claimant, how: How) -> Option<Arc<Guard>> {
        let waits = !how.is_try();
        note!(self.history, "p{} t{} asks for lock {} of {}: {how:?}", self.process, self.task, who.lock, who.permits);
        self.world.running(self.process).await;
        let asking = self.history.ask(Claimant { waits, ..who });
        let start = Instant::now();
        let taking: BoxFuture<'_, _> = match how {
            _ if how.is_try() => Box::pin(lock.try_lock()),
            How::Within(time) => Box::pin(async move { lock.lock().timeout(time).await.map(Some) }),
            _ => Box::pin(async move { lock.lock().await.map(Some) }),
        };
        let error = match how.carry_out(taking).await {
            Some(Ok(Some(guard))) => {
                let guard = Arc::new(guard);
                asking.held(Grip::One(Arc::downgrade(&guard)), guard.fence());
                return Some(guard);
            }
            outcome => outcome.and_then(Result::err),
        };
        drop(asking);
        self.gave_up(how, spec, start, error);
        None
    }

    /// Whether it may end like that, and after such a time. The spec has the longest time limit.
    pub(crate) fn gave_up(&self, how: How, spec: &Spec, start: Instant, error: Option<Error>) {
        if let Some(error) = error {
            self.refused(&error, how, spec, start);
        }
        note!(self.history, "p{} t{} gave up", self.process, self.task);
        let most = match how {
            How::Within(time) => time,
            How::Try => spec.op_timeout,
            _ => return,
        };
        let took = start.elapsed();
        self.history.demand(took <= most + TICKS || self.scenario.stands_still(), || {
            format!("{how:?} took {took:?} of {most:?}")
        });
    }

    /// Whether such an error may come in such a weather.
    fn refused(&self, error: &Error, how: How, spec: &Spec, begun: Instant) {
        note!(self.history, "p{} t{} was refused: {error}", self.process, self.task);
        let kind = error.kind();
        let expected = match kind {
            ErrorKind::Timeout => matches!(how, How::Within(_)) || (spec.retry.is_some() && !matches!(how, How::Try)),
            ErrorKind::Deadlock | ErrorKind::ReentryLimit => true,
            // It was let in and broken before it knew.
            ErrorKind::Lost => self.scenario.weather == Weather::Disaster,
            ErrorKind::NoReply | ErrorKind::Unavailable if self.history.is_troubled(begun) => true,
            // A breaker that opened in the storm lets one request through first, and the others fail meanwhile, or go to
            // a second store, which has no leases.
            ErrorKind::Unavailable => {
                let process = &self.scenario.processes[self.process];
                process.breaker.is_some() && (how.is_try() || process.fallback)
            }
            _ => false,
        };
        self.history.demand(expected, || format!("{how:?} ended with {kind:?}: {error}"));
    }

    pub(crate) async fn hold(&mut self, spec: &Spec, who: Claimant, guard: &Arc<Guard>, depth: u32) {
        let time = self.some(spec.hold);
        let (begin, end) = (Instant::now(), Instant::now() + time);
        loop {
            let overdue = spec.max_hold.is_some_and(|max| begin.elapsed() > max) && guard.is_held();
            self.history.demand(!overdue, || format!("held for {:?}, longer than max_hold", begin.elapsed()));
            self.write(who, guard).await;
            let step = self.some(time / 3 + Duration::from_millis(2)).min(end - Instant::now());
            tokio::select! {
                biased;
                loss = guard.lost() => {
                    self.history.demand(!guard.is_held(), || format!("told lost ({loss}), and held"));
                    note!(self.history, "p{} t{} was told: {loss}", self.process, self.task);
                    self.history.lost(who.lock);
                    self.write(who, guard).await;
                    return;
                }
                () = sleep(step) => {}
            }
            if !guard.is_held() {
                let told = timeout(TICKS, guard.lost()).await.is_ok();
                self.history.demand(told, || "a hold was over and its holder was not told".to_owned());
                self.history.lost(who.lock);
                return;
            }
            if Instant::now() >= end {
                return;
            }
            match self.rng.random_range(0..8) {
                0 => self.refresh(guard).await,
                1 if who.owner.is_some() && depth < 2 => {
                    let again = self.claimant(who.lock, spec, who.owner);
                    self.enter_again(spec, again, depth + 1).await;
                }
                _ => {}
            }
        }
    }

    /// Writes under the hold's token, if it is held; it may be paused right before.
    pub(crate) async fn write(&mut self, who: Claimant, guard: &Guard) {
        if guard.is_held() {
            self.world.running(self.process).await;
            if !self.world.is_clear() && self.rng.random_bool(0.1) {
                let time = self.some(2 * self.scenario.locks[who.lock].ttl);
                sleep(time).await;
            }
            self.history.write(who.lock, guard.fence());
        }
    }

    async fn refresh(&mut self, guard: &Guard) {
        let outcome = guard.refresh().await;
        let held = guard.is_held();
        let right = match &outcome {
            Ok(()) => held,
            Err(error) if error.is_lost() => !held,
            Err(error) => error.is_transient() && self.scenario.weather >= Weather::Storm,
        };
        self.history.demand(right, || format!("a refresh said {outcome:?}, and is_held said {held}"));
    }

    pub(crate) async fn let_go(&mut self, who: Claimant, guard: Guard) {
        let calm = self.scenario.weather < Weather::Storm;
        let certain = calm && guard.remaining() > 2 * self.scenario.trip();
        let way = self.rng.random_range(0..4);
        note!(self.history, "p{} t{} lets go of lock {}: {way}", self.process, self.task, who.lock);
        let outcome: Option<Result<bool>> = match way {
            0 => {
                drop(guard);
                None
            }
            1 => poll_times(self.rng.random_range(0..5), guard.release()).await,
            _ => Some(guard.release().await),
        };
        self.history.gone(who.lock);
        match outcome {
            None => {}
            Some(Ok(was_ours)) => {
                self.history.demand(was_ours || !certain, || "a hold was released and not known".to_owned());
            }
            Some(Err(error)) => {
                self.history.demand(error.is_transient() && !calm, || format!("a release ended with {error:?}"));
            }
        }
    }
}

/// Polls `future` up to `k` times; what it came to, if it did.
pub(crate) async fn poll_times<F: Future>(k: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..k {
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        match polled {
            Poll::Ready(output) => return Some(output),
            Poll::Pending => sleep(Duration::from_millis(1)).await,
        }
    }
    None
}
