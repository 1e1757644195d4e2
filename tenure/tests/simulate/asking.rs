//! Somebody who asks for a lock, from the call to its end: whether it may be let in, in turn, and in time.

use std::sync::Arc;
use std::time::Duration;

use tenure::Fence;
use tokio::time::Instant;

use crate::grip::Grip;
use crate::history::{History, Told, note};
use crate::lock::{Claimant, Held, Lock, Manner, Wait};
use crate::scenario::Weather;

/// For how long a process may pass a hold on among its tasks before it asks whether others wait.
const FAIR: Duration = Duration::from_millis(100);

/// Stands for somebody who asks, until it is dropped.
pub(crate) struct Asking {
    history: Arc<History>,
    call: u64,
    who: Claimant,
    since: Instant,
}

impl Asking {
    pub(crate) fn new(history: &Arc<History>, who: Claimant) -> Self {
        let mut told = history.told();
        let lock = &mut told.locks[who.lock];
        lock.calls += 1;
        if who.manner == Manner::Several {
            (lock.engaged, lock.idle_since) = (lock.engaged + 1, None);
        }
        let (call, since) = (lock.calls, Instant::now());
        lock.waiting.push(Wait { call, since, overtaken: Vec::new() });
        Self { history: history.clone(), call, who, since }
    }

    /// It was let in, in this very moment; names the hold.
    pub(crate) fn held(self, grip: Grip, fence: Fence) -> u64 {
        let Claimant { process, task, owner, permits, limit, .. } = self.who;
        let (fence, spare) = (fence.get(), fence == Fence::NONE);
        let history = self.history.clone();
        note!(history, "p{process} t{task} holds lock {} with fence {fence}, owner {owner:?}", self.who.lock);
        history.look();
        let may_overlap = history.scenario.may_overlap();
        let mut told = history.told();
        let Told { locks, counts, .. } = &mut *told;
        let lock = &mut locks[self.who.lock];
        counts.holds += 1;
        let mut broken = Vec::new();
        if !grip.is_held() {
            broken.push("a hold was over when it was given".to_owned());
        }

        lock.holds.push(Held { call: self.call, grip, spare, who: self.who, over: false });
        let weight = lock.weight(spare.then_some(process));
        if spare {
            counts.degraded += 1;
            if weight > u64::from(limit) {
                broken.push(format!("degraded holds overlap in a process: {weight} permits out of {limit} are held"));
            }
            if !history.scenario.processes[process].fallback {
                broken.push("a hold without a fence, and there is no second store".to_owned());
            }
            drop(told);
            broken.into_iter().for_each(|broken| history.fail(broken));
            return self.call;
        }
        counts.together += u64::from(self.who.manner == Manner::Several);
        if weight > u64::from(limit) {
            counts.overlaps += 1;
            if !may_overlap {
                broken.push(format!("holds overlap: {weight} permits out of {limit} are held"));
            }
        }

        let all = permits == limit;
        let another = |other: &Option<u8>| owner.is_none() || owner != *other;
        if lock.given.get(&fence).is_some_and(|(other, _)| another(other)) {
            broken.push(format!("two holds have fence {fence}"));
        }
        let mut newer = lock.given.range(fence + 1..).filter(|(_, (other, of_all))| another(other) && (all || *of_all));
        if let Some((newer, _)) = newer.next().filter(|_| !may_overlap) {
            broken.push(format!("fence {fence} was given after {newer}, of a hold that excludes it"));
        }
        let entry = lock.given.entry(fence).or_insert((owner, all));
        entry.1 |= all;
        let place = lock.order.len();
        lock.order.entry(fence).or_insert(place);

        broken.extend(self.in_turn(lock));
        broken.extend(self.in_time(lock));
        (lock.idle_since, lock.abandoned) = (None, false);
        counts.waits += u64::from(self.since < Instant::now());
        drop(told);
        broken.into_iter().for_each(|broken| history.fail(broken));
        self.call
    }

    /// In calm weather everyone has its turn.
    ///
    /// * Who stands in a line of its process is served in the order of that line, and as its process has one place in the
    ///   queue at a time, others may come in between: each as often as there are tasks in that process. Those who share and
    ///   asked at the same time are let in as the store has room for each.
    /// * Who stands in the queue itself is overtaken by nobody, but by those in a line that passes a hold on for
    ///   [`FAIR`] longer, until it hears that others wait.
    fn in_turn(&self, lock: &mut Lock) -> Option<String> {
        let scenario = &self.history.scenario;
        let (now, trip) = (Instant::now(), scenario.trip());
        let hand_off = scenario.locks[self.who.lock].local_hand_off;
        let in_line = |who: &Claimant| hand_off && who.owner.is_none() && who.manner != Manner::Lease;
        let shares = |who: &Claimant| who.permits < u32::MAX;
        let wait = lock.waiting.iter().find(|wait| wait.call == self.call)?;
        // Who was let in together with others may hear of it a round trip after them.
        let earlier = wait.overtaken.iter().filter(|(_, at)| *at + 2 * trip < now);
        let excused = |who: &Claimant, at: Instant| in_line(who) && at <= self.since + FAIR + 2 * trip;
        let times = |who: &Claimant| {
            wait.overtaken.iter().filter(|(other, _)| other.process == who.process && other.task == who.task).count()
        };
        let unfair = |(who, at): &(Claimant, Instant)| match (in_line(&self.who), in_line(who)) {
            (true, true) if who.process == self.who.process => !(shares(&self.who) && shares(who)) || times(who) > 1,
            (true, _) => !excused(who, *at) && times(who) > scenario.processes[self.who.process].tasks.len(),
            (false, _) => !excused(who, *at),
        };
        let unfair = earlier.filter(|one| unfair(one)).map(|(who, _)| *who).next();
        for wait in lock.waiting.iter_mut().filter(|wait| wait.since < self.since) {
            if self.who.owner.is_none() {
                wait.overtaken.push((self.who, now));
            }
        }
        let unfair = unfair.filter(|_| self.who.waits && scenario.weather == Weather::Calm)?;
        Some(format!("{:?} was overtaken by {unfair:?}", self.who))
    }

    /// Nobody waits for a lock that nobody holds, but for the time that a release and a push take.
    fn in_time(&self, lock: &Lock) -> Option<String> {
        let scenario = &self.history.scenario;
        let idle = self.since.max(lock.idle_since?);
        if self.history.is_troubled(idle) {
            return None;
        }
        let mut bound = 6 * scenario.trip() + Duration::from_millis(8);
        if lock.abandoned {
            let (ttl, patience) = (scenario.longest(|lock| lock.ttl), scenario.longest(|lock| lock.patience));
            bound += ttl / 33 + patience / 3;
        }
        if scenario.processes[self.who.process].breaker.is_some() {
            // It may have to wait for a trial, and asks again a little later.
            bound += 4 * scenario.trip() + Duration::from_millis(50);
        }
        let waited = idle.elapsed();
        (self.who.waits && waited > bound)
            .then(|| format!("{:?} waited {waited:?} for a free lock, {bound:?} at most was promised", self.who))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut told = self.history.told();
        let lock = &mut told.locks[self.who.lock];
        lock.waiting.retain(|wait| wait.call != self.call);
        // Whoever gave up has to let go first.
        lock.idle_since = lock.idle_since.map(|_| Instant::now());
        if self.who.manner == Manner::Several {
            lock.engaged -= 1;
            lock.idle();
        }
    }
}
