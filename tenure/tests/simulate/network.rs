//! What lies between a process and the store: messages take their time, get lost, come twice or late; and the store
//! itself, which may go down, come back empty, or have its clock jump.
//!
//! ```text
//!   process 0 ── Wire ──┐  request   ┌─────────┐
//!                       ├───────────▶│  World  │──▶ Memory, the real one
//!   process 1 ── Wire ──┘◀───────────│         │──▶ History, which sees the record after every operation
//!                    reply, push     └─────────┘
//! ```
//!
//! A request that was sent arrives, if it does, whether its sender still waits for the reply or not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure::env::Env;
use tenure::proto::{ClaimId, Grant, Inbox, Op, Reply};
use tenure::store::{Hub, Memory, Push, Store, Watch};
use tenure::{Error, ErrorKind, Key, Locks, Result};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::history::{History, note};
use crate::scenario::{Odds, Scenario};
use crate::wire::{Wire, name_of, name_of_lock, number_of};

#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    scenario: Arc<Scenario>,
    history: Arc<History>,
    start: Instant,
    /// The store's clock.
    env: Env,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    memory: Memory,
    /// In the order in which they began to wait.
    relays: Vec<Relay>,
    links: Vec<Link>,
    jumped: i64,
}

/// How a process is connected.
#[derive(Clone, Copy)]
struct Link {
    cut_until: Instant,
    loud: bool,
    paused_until: Instant,
    dead: bool,
}

/// Takes the pushes for one claim from the store and brings them to its process, or not.
struct Relay {
    process: usize,
    key: Key,
    id: ClaimId,
    from: Watch,
    to: Hub,
}

/// What becomes of a message and its answer.
struct Trip {
    there: Duration,
    back: Duration,
    again: Option<Duration>,
    lost: bool,
    unanswered: bool,
    refused: bool,
    /// Its loss is noticed by the one who sent it.
    noticed: bool,
}

impl World {
    pub(crate) fn new(scenario: &Arc<Scenario>, history: &Arc<History>) -> Self {
        let (start, env) = (Instant::now(), Env::simulated(scenario.seed));
        let link = Link { cut_until: start, loud: false, paused_until: start, dead: false };
        let state = State {
            rng: StdRng::seed_from_u64(scenario.seed ^ 0x5eed),
            memory: Memory::with_env(env.clone()),
            relays: Vec::new(),
            links: vec![link; scenario.processes.len()],
            jumped: 0,
        };
        let (scenario, history) = (scenario.clone(), history.clone());
        Self(Arc::new(Inner { scenario, history, start, env, state: Mutex::new(state) }))
    }

    /// The store as a process sees it.
    pub(crate) fn wire(&self, process: usize) -> Arc<dyn Store> {
        Arc::new(Wire { world: self.clone(), process })
    }

    /// Listens for a claim of a process.
    pub(crate) fn watch(&self, process: usize, key: &Key, id: ClaimId) -> Watch {
        let (to, mut state) = (Hub::new(), self.state());
        let (from, watch) = (state.memory.watch(key, id), to.watch(id));
        state.relays.push(Relay { process, key: key.clone(), id, from, to });
        watch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn cut(&self, process: usize, time: Duration, loud: bool) {
        let link = &mut self.state().links[process];
        (link.cut_until, link.loud) = (Instant::now() + time, loud);
    }

    pub(crate) fn pause(&self, process: usize, time: Duration) {
        self.state().links[process].paused_until = Instant::now() + time;
    }

    pub(crate) fn kill(&self, process: usize) {
        self.state().links[process].dead = true;
    }

    pub(crate) fn jump(&self, micros: i64) {
        self.state().jumped += micros;
    }

    /// The store is there again, and has nothing. Who waits there listens again.
    pub(crate) fn empty(&self) {
        let mut state = self.state();
        state.memory = Memory::with_env(self.0.env.clone());
        let State { memory, relays, .. } = &mut *state;
        relays.iter_mut().for_each(|relay| relay.from = memory.watch(&relay.key, relay.id));
    }

    /// Takes a lock away from whoever holds it, right at the store.
    pub(crate) async fn break_lock(&self, lock: usize) {
        let locks = Locks::builder(Arc::new(self.memory())).env(self.0.env.clone()).build().expect("valid");
        let name = name_of_lock(lock);
        locks.break_lock(&name).await.expect("memory does not fail");
        self.after(&Key::new(name).expect("a name"));
    }

    /// The store, as it is, and nobody waits there who does not wait here.
    pub(crate) fn memory(&self) -> Memory {
        let mut state = self.state();
        state.relays.retain(|relay| !relay.to.is_empty());
        self.set_clock(&state);
        state.memory.clone()
    }

    /// Whether a process is no more.
    pub(crate) fn is_dead(&self, process: usize) -> bool {
        self.state().links[process].dead
    }

    /// Waits until every process that lives can reach the store again.
    pub(crate) async fn whole(&self) {
        sleep_until(self.0.start + self.0.scenario.clear_at).await;
        loop {
            let ends = self.state().links.iter().map(|link| link.cut_until.max(link.paused_until)).max();
            match ends.filter(|end| *end > Instant::now()) {
                Some(end) => sleep_until(end).await,
                None => return,
            }
        }
    }

    /// Waits until the process is not paused.
    pub(crate) async fn running(&self, process: usize) {
        loop {
            let until = self.state().links[process].paused_until;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    pub(crate) fn is_clear(&self) -> bool {
        self.0.start.elapsed() >= self.0.scenario.clear_at
    }

    fn odds(&self) -> Odds {
        if self.is_clear() { Odds::default() } else { self.0.scenario.odds }
    }

    fn trip(&self) -> Trip {
        let (odds, scenario) = (self.odds(), &self.0.scenario);
        let mut state = self.state();
        let rng = &mut state.rng;
        let mut time = || Duration::from_millis(rng.random_range(scenario.delay.0..=scenario.delay.1));
        let (there, back, gap) = (time(), time(), time());
        let mut happens = |odds: u32| odds > 0 && rng.random_ratio(odds, 1_000);
        let (late, again) = (happens(odds.late), happens(odds.twice));
        let (lost, unanswered, refused) = (happens(odds.lost), happens(odds.lost), happens(odds.refused));
        let (very_late, noticed) = (scenario.very_late().mul_f64(rng.random()), rng.random());
        let there = if late { there + very_late } else { there };
        let again = again.then(|| gap + if rng.random() { Duration::ZERO } else { very_late });
        Trip { there, back, again, lost, unanswered, refused, noticed }
    }

    /// Whether nothing comes through to or from a process now; loudly, if that is noticed.
    fn is_cut(&self, process: usize) -> Option<bool> {
        let link = self.state().links[process];
        (link.dead || link.cut_until > Instant::now()).then_some(link.loud && !link.dead)
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn send(&self, process: usize, ops: Arc<[(Key, Op)]>) -> Result<Vec<Reply>> {
        self.running(process).await;
        let trip = self.trip();
        let cut = self.is_cut(process);
        if cut == Some(true) || (cut.is_none() && trip.refused) {
            sleep(trip.there.min(self.0.scenario.trip())).await;
            return Err(Error::new(ErrorKind::Unavailable, "the store cannot be reached"));
        }
        let noticed = trip.noticed;
        let (tell, told) = oneshot::channel();
        if cut.is_none() && !trip.lost {
            tokio::spawn(self.clone().carry(process, ops, trip, tell));
        } else {
            drop(tell);
        }
        let reply = told.await;
        self.running(process).await;
        match reply {
            Ok(replies) => Ok(replies),
            Err(_) if noticed && !self.state().links[process].dead => {
                Err(Error::new(ErrorKind::NoReply, "the connection broke before the reply"))
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// Carries a request to the store and its reply back. Where that is lost, `tell` is dropped.
    async fn carry(self, process: usize, ops: Arc<[(Key, Op)]>, trip: Trip, tell: oneshot::Sender<Vec<Reply>>) {
        if !trip.there.is_zero() {
            sleep(trip.there).await;
        }
        if self.is_cut(process).is_some() {
            return;
        }
        let replies = self.carry_out(process, &ops);
        if !trip.back.is_zero() {
            sleep(trip.back).await;
        }
        if !trip.unanswered && self.is_cut(process).is_none() {
            let _ = tell.send(replies);
        }
        if let Some(later) = trip.again {
            sleep(later).await;
            self.carry_out(process, &ops);
        }
    }

    fn carry_out(&self, process: usize, ops: &[(Key, Op)]) -> Vec<Reply> {
        ops.iter().map(|(key, op)| self.apply(process, key, op)).collect()
    }

    fn apply(&self, process: usize, key: &Key, op: &Op) -> Reply {
        let reply = self.memory().apply(key, op).now_or_never().expect("it does not wait").expect("it does not fail");
        note!(self.0.history, "  p{process} lock {} {} ▶ {:?}", number_of(key), name_of(op), reply.outcome);
        self.after(key);
        reply
    }

    /// What follows from an operation: it goes into the history, and whoever was let in is told.
    fn after(&self, key: &Key) {
        let mut told = Vec::new();
        let mut state = self.state();
        let State { memory, relays, .. } = &mut *state;
        let seen = memory.read(key).now_or_never().expect("it does not wait").expect("it does not fail");
        relays.retain_mut(|relay| {
            let push = relay.from.next().now_or_never();
            if let Some(Push::Granted(fence)) = push {
                let grant = Grant { id: relay.id, fence, inbox: Inbox::from("") };
                told.push((relay.process, relay.to.clone(), grant));
            }
            !relay.to.is_empty()
        });
        drop(state);
        self.0.history.seen(number_of(key), &seen.record);
        self.0.history.look();
        told.into_iter().for_each(|(process, hub, grant)| self.push(process, hub, grant));
    }

    /// Brings a grant to its claimant, perhaps.
    fn push(&self, process: usize, hub: Hub, grant: Grant) {
        let odds = self.odds();
        let (trip, lost) = (self.trip(), self.draw(odds.unpushed));
        if lost || self.is_cut(process).is_some() {
            return;
        }
        note!(self.0.history, "  p{process} is told of fence {}", grant.fence);
        let world = self.clone();
        tokio::spawn(async move {
            if !trip.there.is_zero() {
                sleep(trip.there).await;
            }
            world.running(process).await;
            hub.deliver(&grant);
        });
        if self.draw(odds.spurious) {
            self.state().relays.iter().for_each(|relay| relay.to.wake_all());
        }
    }

    fn draw(&self, odds: u32) -> bool {
        odds > 0 && self.state().rng.random_ratio(odds, 1_000)
    }

    fn set_clock(&self, state: &State) {
        let drift = self.0.start.elapsed().as_micros() as i64 * self.0.scenario.drift / 1_000_000;
        self.0.env.skew(drift + state.jumped);
    }
}
