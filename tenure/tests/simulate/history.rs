//! What happened, and whether it may: every promise that is watched while a scenario runs.
//!
//! It goes by what the holders believe ([`Guard::is_held`]), what they are told, and what the store has after each
//! operation. The first broken promise is the failure of the scenario.
//!
//! The lines of a history are only written where they are wanted: when a seed that failed is played again.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tenure::Fence;
use tenure::proto::Record;
use tokio::time::{Instant, sleep_until};

use crate::asking::Asking;
use crate::grip::Grip;
use crate::lock::{Claimant, Lock};
use crate::scenario::{Scenario, Weather};

pub(crate) struct History {
    pub(crate) start: Instant,
    pub(crate) scenario: Arc<Scenario>,
    recording: bool,
    told: Mutex<Told>,
}

#[derive(Default)]
pub(crate) struct Told {
    lines: Vec<String>,
    failure: Option<String>,
    pub(crate) locks: Vec<Lock>,
    pub(crate) counts: Counts,
    /// How many leases each process took, that are not its own to release.
    pub(crate) leased: Vec<u64>,
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
    /// Holds that were taken together with others, leases that were found again or renewed, and degraded holds.
    pub(crate) together: u64,
    pub(crate) passed: u64,
    pub(crate) degraded: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: &Self) {
        self.holds += more.holds;
        self.waits += more.waits;
        self.lost += more.lost;
        self.refused_writes += more.refused_writes;
        self.overlaps += more.overlaps;
        self.handed_on += more.handed_on;
        self.together += more.together;
        self.passed += more.passed;
        self.degraded += more.degraded;
    }
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
        let leased = vec![0; scenario.processes.len()];
        let told = Mutex::new(Told { locks, leased, ..Told::default() });
        Self { start: Instant::now(), scenario, recording, told }
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
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

    /// Whether a storm raged at that time, or had left its traces.
    pub(crate) fn is_troubled(&self, at: Instant) -> bool {
        self.scenario.weather >= Weather::Storm && at < self.start + self.scenario.clear_at + self.scenario.aftermath()
    }

    /// Waits until a storm is over and its traces are gone.
    pub(crate) async fn over(&self) {
        sleep_until(self.start + self.scenario.clear_at + self.scenario.aftermath()).await;
    }

    /// Somebody asks for a lock, and does so for as long as the result lives.
    pub(crate) fn ask(self: &Arc<Self>, who: Claimant) -> Asking {
        Asking::new(self, who)
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
        lock.idle();
    }

    /// A lease was not released, and its place in the store may remain for a little.
    pub(crate) fn expired(&self, lock: usize) {
        self.told().locks[lock].abandoned = true;
        self.gone(lock);
    }

    /// Somebody may have the lock whose hold is not known, or has no more.
    pub(crate) fn engaged(&self, lock: usize, more: i32) {
        self.told().locks[lock].engaged += more;
    }

    /// What came of a call is in other hands now, or certain again.
    pub(crate) fn passed(&self, lock: usize, call: u64, grip: Grip) {
        let mut told = self.told();
        let Told { locks, counts, .. } = &mut *told;
        counts.passed += 1;
        let lock = &mut locks[lock];
        let Some(held) = lock.holds.iter_mut().find(|held| held.call == call) else { return };
        (held.over, held.grip) = (!grip.is_held(), grip);
        let (weight, limit) = (lock.weight(None), u64::from(held_limit(lock, call)));
        drop(told);
        let overlap = weight > limit && !self.scenario.may_overlap();
        self.demand(!overlap, || format!("a lease came back beside others: {weight} permits out of {limit} are held"));
    }

    /// It is somebody else's now, under another token.
    pub(crate) fn handed_over(&self, who: Claimant, call: u64, fence: Fence) {
        let mut told = self.told();
        let lock = &mut told.locks[who.lock];
        lock.given.insert(fence.get(), (who.owner, who.permits == who.limit));
        if let Some(held) = lock.holds.iter_mut().find(|held| held.call == call) {
            held.who = who;
        }
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
            held.over |= held.grip.remaining() <= time;
        }
    }

    /// What the store has after an operation.
    pub(crate) fn seen(&self, lock: usize, record: &Record) {
        let broken = self.told().locks[lock].seen(record);
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

fn held_limit(lock: &Lock, call: u64) -> u32 {
    lock.holds.iter().find(|held| held.call == call).map_or(u32::MAX, |held| held.who.limit)
}
