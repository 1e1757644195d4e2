//! Tasks that take all locks there are at once, and let go of them together or one by one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::RngExt;
use tenure::{Guards, Lock, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::grip::Grip;
use crate::history::note;
use crate::lock::{Claimant, Manner};
use crate::scenario::{Spec, Weather};
use crate::task::{How, TICKS, Task, poll_times};

impl Task {
    /// Takes all locks, holds them for a while, and lets go of them.
    pub(crate) async fn several(&mut self, owner: Option<u8>) {
        let spec = self.longest();
        let how = self.how(&spec);
        let mut order: Vec<usize> = (0..self.scenario.locks.len()).collect();
        if self.rng.random() {
            order.reverse();
        }
        let mut all = Vec::new();
        for lock in order {
            let spec = self.scenario.locks[lock].clone();
            let who = Claimant { manner: Manner::Several, ..self.claimant(lock, &spec, owner) };
            all.push((who, self.lock(&spec, &who)));
        }
        let (all, locks): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let Some(guards) = self.acquire_all(&all, &locks, &spec, how).await else { return };
        self.hold_all(&all, &guards, &spec).await;
        let guards = Arc::into_inner(guards).expect("nobody else has them");
        self.let_go_of_all(&all, guards).await;
    }

    /// What bounds them all.
    fn longest(&self) -> Spec {
        let scenario = &self.scenario;
        let retry = scenario.locks.iter().find_map(|lock| lock.retry);
        let (hold, op_timeout) = (scenario.longest(|lock| lock.hold), scenario.longest(|lock| lock.op_timeout));
        Spec { hold, op_timeout, retry, ..scenario.locks[0].clone() }
    }

    async fn acquire_all(&self, all: &[Claimant], locks: &[Lock], spec: &Spec, how: How) -> Option<Arc<Guards>> {
        note!(self.history, "p{} t{} asks for all locks, {} first: {how:?}", self.process, self.task, all[0].lock);
        self.world.running(self.process).await;
        let asking: Vec<_> = all.iter().map(|who| self.history.ask(*who)).collect();
        let (client, start) = (self.client().clone(), Instant::now());
        let taking: BoxFuture<'_, Result<Option<Guards>>> = match how {
            _ if how.is_try() => Box::pin(async move { client.try_lock_all(locks).await }),
            How::Within(time) => Box::pin(async move { client.lock_all(locks).timeout(time).await.map(Some) }),
            _ => Box::pin(async move { client.lock_all(locks).await.map(Some) }),
        };
        let error = match how.carry_out(taking).await {
            Some(Ok(Some(guards))) => {
                let guards = Arc::new(guards);
                for (n, asking) in asking.into_iter().enumerate() {
                    let its_own = guards[n].name() == locks[n].name();
                    self.history.demand(its_own, || "guards are not in the order of the list".to_owned());
                    asking.held(Grip::OneOf(Arc::downgrade(&guards), n), guards[n].fence());
                }
                return Some(guards);
            }
            outcome => outcome.and_then(Result::err),
        };
        drop(asking);
        self.gave_up(how, spec, start, error);
        None
    }

    async fn hold_all(&mut self, all: &[Claimant], guards: &Arc<Guards>, spec: &Spec) {
        let time = self.some(spec.hold);
        let end = Instant::now() + time;
        loop {
            for (who, guard) in all.iter().zip(guards.iter()) {
                self.write(*who, guard).await;
            }
            let step = self.some(time / 3 + Duration::from_millis(2)).min(end - Instant::now());
            let told = timeout(step, guards.lost()).await.is_ok();
            let over: Vec<_> = (0..all.len()).filter(|n| !guards[*n].is_held()).collect();
            let known = told || over.is_empty() || timeout(TICKS, guards.lost()).await.is_ok();
            self.history.demand(known, || "one of several holds was over and its holder was not told".to_owned());
            self.history.demand(!told || !over.is_empty(), || "told that one was lost, and all are held".to_owned());
            over.iter().for_each(|n| self.history.lost(all[*n].lock));
            if !over.is_empty() || Instant::now() >= end {
                return;
            }
        }
    }

    async fn let_go_of_all(&mut self, all: &[Claimant], guards: Guards) {
        let calm = self.scenario.weather < Weather::Storm;
        let certain = calm && guards.iter().all(|guard| guard.remaining() > 2 * self.scenario.trip());
        let way = self.rng.random_range(0..5);
        note!(self.history, "p{} t{} lets go of all locks: {way}", self.process, self.task);
        let outcome = match way {
            0 => {
                drop(guards);
                None
            }
            1 => poll_times(self.rng.random_range(0..5), guards.release()).await,
            2 => {
                for (who, guard) in all.iter().zip(guards.into_vec()) {
                    sleep(self.some(Duration::from_millis(5))).await;
                    self.let_go(*who, guard).await;
                }
                return;
            }
            _ => Some(guards.release().await),
        };
        all.iter().for_each(|who| self.history.gone(who.lock));
        match outcome {
            None => {}
            Some(Ok(was_ours)) => {
                self.history.demand(was_ours || !certain, || "several were released, and one was not known".to_owned());
            }
            Some(Err(error)) => {
                let expected = error.is_transient() && !calm;
                self.history.demand(expected, || format!("a release of several ended with {error:?}"));
            }
        }
    }
}
