//! What happened, and whether it may: every promise that is watched while a scenario runs.
//!
//! It goes by what the holders believe ([`Guard::is_held`]), what they are told, and what the store has after each
//! operation. The first broken promise is the failure of the scenario.
//!
//! The lines of a history are only written where they are wanted: when a seed that failed is played again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tenure::proto::{ClaimId, Entry, Record};
use tenure::{Fence, Guard};
use tokio::time::Instant;

use crate::scenario::{Kind, Scenario, Weather};

/// For how long a process may pass a hold on among its tasks before it asks whether others wait.
const FAIR: Duration = Duration::from_millis(100);

pub(crate) struct History {
    start: Instant,
    scenario: Arc<Scenario>,
    recording: bool,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    lines: Vec<String>,
    failure: Option<String>,
    locks: Vec<Lock>,
    counts: Counts,
}

/// How much of what a scenario was worth its time for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) holds: u64,
    pub(crate) waits: u64,
    pub(crate) lost: u64,
    pub(crate) refused_writes: u64,
    pub(crate) overlaps: u64,
    pub(crate) handed_on: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: &Self) {
        self.holds += more.holds;
        self.waits += more.waits;
        self.lost += more.lost;
        self.refused_writes += more.refused_writes;
        self.overlaps += more.overlaps;
        self.handed_on += more.handed_on;
    }
}

#[derive(Default)]
struct Lock {
    holds: Vec<Held>,
    waiting: Vec<Wait>,
    calls: u64,
    /// Who was let in by the store, under which token; a claim may be let in again when it expired.
    grants: BTreeSet<(ClaimId, u64)>,
    /// The tokens in the order in which the store gave them.
    order: BTreeMap<u64, usize>,
    /// The newest of them.
    newest: u64,
    /// The tokens that holders were given, for whom, and whether for all there is.
    given: BTreeMap<u64, (Option<u8>, bool)>,
    /// The newest token that the protected resource has seen, and the place of its grant.
    written: (u64, usize),
    /// Since when nobody holds it and nobody gave up waiting, and whether a hold ended without a release.
    idle_since: Option<Instant>,
    abandoned: bool,
}

/// Who claims how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimant {
    pub(crate) lock: usize,
    pub(crate) process: usize,
    pub(crate) task: usize,
    pub(crate) owner: Option<u8>,
    pub(crate) permits: u32,
    pub(crate) limit: u32,
    /// It stands in the queue if it has to.
    pub(crate) waits: bool,
}

struct Held {
    guard: Weak<Guard>,
    who: Claimant,
    over: bool,
}

struct Wait {
    call: u64,
    since: Instant,
    /// Who came later and was let in earlier, and when.
    overtaken: Vec<(Claimant, Instant)>,
}

/// Writes a line of the history, if lines are written.
macro_rules! note {
    ($history:expr, $($line:tt)*) => {
        if $history.is_recording() {
            $history.line(format_args!($($line)*));
        }
    };
}
pub(crate) use note;

impl History {
    pub(crate) fn new(scenario: Arc<Scenario>, recording: bool) -> Self {
        let locks = scenario.locks.iter().map(|_| Lock::default()).collect();
        let told = Mutex::new(Told { locks, ..Told::default() });
        Self { start: Instant::now(), scenario, recording, told }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.recording
    }

    pub(crate) fn line(&self, line: fmt::Arguments<'_>) {
        let at = self.start.elapsed().as_secs_f64();
        self.told().lines.push(format!("{at:9.3} {line}"));
    }

    /// A promise was broken.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        note!(self, "BROKEN: {what}");
        self.told().failure.get_or_insert(what);
    }

    pub(crate) fn demand(&self, kept: bool, what: impl FnOnce() -> String) {
        if !kept {
            self.fail(what());
        }
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.told().counts);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.told().failure.is_some()
    }

    /// The lines, the failure, and the counts.
    pub(crate) fn close(&self) -> (Vec<String>, Option<String>, Counts) {
        let mut told = self.told();
        (std::mem::take(&mut told.lines), told.failure.take(), told.counts)
    }

    /// Somebody asks for a lock, and does so for as long as the result lives.
    pub(crate) fn ask(self: &Arc<Self>, who: Claimant) -> Asking {
        let mut told = self.told();
        let lock = &mut told.locks[who.lock];
        lock.calls += 1;
        let (call, since) = (lock.calls, Instant::now());
        lock.waiting.push(Wait { call, since, overtaken: Vec::new() });
        Asking { history: self.clone(), call, who, since }
    }

    /// Somebody wants to write under its token what the lock protects.
    pub(crate) fn write(&self, lock: usize, fence: Fence) {
        let mut told = self.told();
        let Told { locks, counts, .. } = &mut *told;
        let lock = &mut locks[lock];
        let order = lock.order.get(&fence.get()).copied();
        if fence.get() < lock.written.0 || fence == Fence::NONE {
            counts.refused_writes += 1;
            return;
        }
        let last = lock.written.1;
        lock.written = (fence.get(), order.unwrap_or(last).max(last));
        drop(told);
        self.demand(order.is_none_or(|order| order >= last), || {
            format!("the resource took a write under fence {fence} after one that was granted later")
        });
    }

    /// A guard goes, with or without its hold.
    pub(crate) fn gone(&self, lock: usize) {
        let mut told = self.told();
        let lock = &mut told.locks[lock];
        lock.look();
        lock.idle_since = lock.holds.iter().all(|held| held.over).then(Instant::now);
    }

    /// A hold was told lost. Its place in the store may remain for a little.
    pub(crate) fn lost(&self, lock: usize) {
        let mut told = self.told();
        told.counts.lost += 1;
        told.locks[lock].abandoned = true;
        drop(told);
        self.gone(lock);
    }

    /// All clocks but the store's jump by that much next, and nobody can do anything meanwhile.
    pub(crate) fn suspend(&self, time: Duration) {
        for held in self.told().locks.iter_mut().flat_map(|lock| &mut lock.holds) {
            held.over |= held.guard.upgrade().is_none_or(|guard| guard.remaining() <= time);
        }
    }

    /// What the store has after an operation.
    pub(crate) fn seen(&self, lock: usize, record: &Record) {
        let mut told = self.told();
        let lock = &mut told.locks[lock];
        let (mut weights, mut strangers) = (BTreeMap::new(), 0);
        for entry in &record.holders {
            let permits = u64::from(entry.permits);
            match &entry.owner {
                None => strangers += permits,
                Some(owner) => {
                    let most: &mut u64 = weights.entry(owner).or_default();
                    *most = permits.max(*most);
                }
            }
        }
        let mut broken = None;
        let weight = strangers + weights.values().sum::<u64>();
        if weight > u64::from(record.limit) {
            broken = Some(format!("the store let in {weight} permits out of {}", record.limit));
        }
        for entry in &record.holders {
            if !lock.grants.insert((entry.id, entry.fence)) {
                continue;
            }
            let same = |other: &&Entry| other.owner == entry.owner && other.fence == entry.fence;
            let shared = entry.owner.is_some() && record.holders.iter().filter(same).count() > 1;
            let before = lock.newest.max(lock.given.last_key_value().map_or(0, |(fence, _)| *fence));
            // A token that a hold was handed on with is told later, with a renewal.
            let handed_on = lock.given.contains_key(&entry.fence)
                && lock.grants.iter().any(|(id, fence)| *id == entry.id && *fence < entry.fence);
            if entry.fence <= before && !shared && !handed_on {
                broken = Some(format!("the store granted with fence {} after {before}", entry.fence));
            }
            lock.newest = lock.newest.max(entry.fence);
            let place = lock.order.len();
            lock.order.entry(entry.fence).or_insert(place);
        }
        drop(told);
        if let Some(broken) = broken {
            self.fail(broken);
        }
    }

    /// Looks whether everyone who was in is still in, or was rightly told that it is not.
    pub(crate) fn look(&self) {
        let revived = self.told().locks.iter_mut().any(Lock::look);
        self.demand(!revived, || "a hold that was over is held again".to_owned());
    }
}

/// Stands for somebody who asks, until it is dropped.
pub(crate) struct Asking {
    history: Arc<History>,
    call: u64,
    who: Claimant,
    since: Instant,
}

impl Asking {
    /// It was let in, in this very moment.
    pub(crate) fn held(self, guard: &Arc<Guard>) {
        let Claimant { process, task, owner, permits, limit, .. } = self.who;
        let fence = guard.fence().get();
        let history = self.history.clone();
        note!(history, "p{process} t{task} holds lock {} with fence {fence}, owner {owner:?}", self.who.lock);
        history.look();
        let may_overlap = history.scenario.may_overlap();
        let mut told = history.told();
        let Told { locks, counts, .. } = &mut *told;
        let lock = &mut locks[self.who.lock];
        counts.holds += 1;
        let mut broken = Vec::new();
        if !guard.is_held() {
            broken.push("a hold was over when it was given".to_owned());
        }

        lock.holds.push(Held { guard: Arc::downgrade(guard), who: self.who, over: false });
        let weight = lock.weight();
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
    }

    /// In calm weather everyone has its turn.
    ///
    /// * Who stands in a line of its process is served in the order of that line, and as its process has one place in the
    ///   queue at a time, others may come in between: each as often as there are tasks in that process.
    /// * Who stands in the queue itself is overtaken by nobody, but by those in a line that passes a hold on for
    ///   [`FAIR`] longer, until it hears that others wait.
    fn in_turn(&self, lock: &mut Lock) -> Option<String> {
        let scenario = &self.history.scenario;
        let (now, trip) = (Instant::now(), scenario.trip());
        let hand_off = scenario.locks[self.who.lock].local_hand_off;
        let in_line = |who: &Claimant| hand_off && who.owner.is_none() && who.permits == u32::MAX;
        let wait = lock.waiting.iter().find(|wait| wait.call == self.call)?;
        // Who was let in together with others may hear of it a round trip after them.
        let earlier = wait.overtaken.iter().filter(|(_, at)| *at + 2 * trip < now);
        let excused = |who: &Claimant, at: Instant| in_line(who) && at <= self.since + FAIR + 2 * trip;
        let unfair = |(who, at): &(Claimant, Instant)| match (in_line(&self.who), in_line(who)) {
            (true, true) if who.process == self.who.process => true,
            (true, _) => {
                let times =
                    wait.overtaken.iter().filter(|(other, _)| other.process == who.process && other.task == who.task);
                !excused(who, *at) && times.count() > scenario.processes[self.who.process].tasks.len()
            }
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
        let trouble = scenario.clear_at + scenario.aftermath();
        if scenario.weather >= Weather::Storm && idle < self.history.start + trouble {
            return None;
        }
        let mut bound = 6 * scenario.trip() + Duration::from_millis(8);
        if lock.abandoned {
            let (ttl, patience) = (scenario.longest(|lock| lock.ttl), scenario.longest(|lock| lock.patience));
            bound += ttl / 33 + patience / 3;
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
    }
}

impl Lock {
    /// Forgets the guards that are gone, and tells whether a hold came back to life.
    fn look(&mut self) -> bool {
        self.holds.retain(|held| held.guard.strong_count() > 0);
        let mut revived = false;
        for held in &mut self.holds {
            let is_held = held.guard.upgrade().is_some_and(|guard| guard.is_held());
            revived |= held.over && is_held;
            held.over |= !is_held;
        }
        revived
    }

    /// The permits that are held, an owner's claims counted as the largest of them.
    fn weight(&self) -> u64 {
        let held = || self.holds.iter().filter(|held| !held.over).map(|held| held.who);
        let of = |owner| held().filter(move |who| who.owner == Some(owner)).map(|who| who.permits).max().unwrap_or(0);
        let strangers = held().filter(|who| who.owner.is_none()).map(|who| who.permits);
        (0..3).map(of).chain(strangers).map(u64::from).sum()
    }
}

impl Kind {
    pub(crate) fn limit(self) -> u32 {
        if let Kind::Semaphore(limit) = self { limit } else { u32::MAX }
    }
}
