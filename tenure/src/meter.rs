//! Where the figures of a lock are counted: in its client's own counters, and through the `metrics` facade where the
//! feature of that name is on.
//!
//! ```text
//!   LockBuilder::build ──▶ Meters: one Meter per kind of lock, or per name where the user said so
//!                              │
//!   Spec, Hold ────────────────┴──▶ Meter ──▶ Counters          locks.metrics()
//!                                        └──▶ facade handles    whatever recorder the program has installed
//! ```
//!
//! A lock has its meter from when it is built, so that nothing is looked up when something is counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::event::{Degradation, Why};
use crate::hold::Loss;
use crate::metrics::Counters;
use crate::proto::Claim;
use crate::transaction::Ending;
#[cfg(feature = "metrics")]
use crate::{
    env::Moment,
    error::ErrorKind,
    facade::{Commits, Facade, Handles},
    health::NodeHealth,
    key::Key,
};

/// A figure's name, less the prefix, and what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Type,
}

/// What becomes of a figure, in Prometheus' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Counter,
    Gauge,
    Histogram,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        })
    }
}

macro_rules! named {
    ($($constant:ident = $kind:ident $name:literal, $help:literal;)*) => {
        impl Named {
            $(pub(crate) const $constant: Named = Named { name: $name, help: $help, kind: Type::$kind };)*

            /// All there are.
            #[cfg(feature = "metrics")]
            pub(crate) const ALL: &[Named] = &[$(Named::$constant),*];
        }
    };
}

named! {
    ACQUIRED = Counter "acquired_total", "Claims that were let in.";
    FAILED = Counter "failed_total", "Claims that ended without a hold.";
    RELEASED = Counter "released_total", "Holds that were released to the store.";
    HANDED_ON = Counter "handed_on_total", "Holds that were passed to another task of the process.";
    LOST = Counter "lost_total", "Holds that were lost.";
    RENEWALS = Counter "renewals_total", "Renewals that came through.";
    TIMEOUTS = Counter "timeouts_total", "Claims whose time for waiting was used up.";
    SUSPECT = Counter "suspect_total", "Times that a hold came in doubt.";
    DEGRADED = Counter "degraded_total", "Claims that ended in something less than their lock.";
    EVENTS_DROPPED = Counter "events_dropped_total", "Events that a sink was too slow for.";
    HELD = Gauge "held", "Holds that there are now.";
    WAITING = Gauge "waiting", "Tasks that wait for a lock now.";
    COMMITTED = Counter "committed_total", "Fenced commits that were carried out.";
    ROLLED_BACK = Counter "rolled_back_total", "Fenced commits that wrote nothing.";
    COMMITS_UNKNOWN = Counter "commits_unknown_total", "Fenced commits of which it is not known whether they were carried out.";
    COMMIT = Histogram "commit_seconds", "From the call of a fenced commit to its end.";
    WAIT = Histogram "wait_seconds", "From the call to the hold.";
    HOLD = Histogram "hold_seconds", "From the hold to its end.";
}
/// Where a lock's figures are counted.
#[derive(Debug)]
pub(crate) struct Meter {
    counters: Arc<Counters>,
    #[cfg(feature = "metrics")]
    handles: Handles,
}

impl Meter {
    pub(crate) fn acquired(&self, waited: Duration) {
        self.counters.wait.record(waited);
        #[cfg(feature = "metrics")]
        self.handles.acquired(waited);
    }

    pub(crate) fn not_acquired(&self, why: Why) {
        self.counters.failed.fetch_add(1, Relaxed);
        if why == Why::TimedOut {
            self.counters.timeouts.fetch_add(1, Relaxed);
        }
        #[cfg(feature = "metrics")]
        self.handles.not_acquired(why);
    }

    /// A hold begins.
    pub(crate) fn began(&self) {
        self.counters.held.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.held.increment(1.0);
    }

    /// A hold is over, in whatever way.
    pub(crate) fn ended(&self) {
        self.counters.held.fetch_sub(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.held.decrement(1.0);
    }

    /// How long a hold lasted that somebody had.
    pub(crate) fn held_for(&self, held: Duration) {
        self.counters.hold.record(held);
        #[cfg(feature = "metrics")]
        self.handles.hold.record(held.as_secs_f64());
    }

    pub(crate) fn released(&self) {
        self.counters.released.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.released.increment(1);
    }

    pub(crate) fn handed_on(&self) {
        self.counters.handed_on.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.handed_on.increment(1);
    }

    pub(crate) fn lost(&self, #[cfg_attr(not(feature = "metrics"), expect(unused))] loss: Loss) {
        self.counters.lost.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.lost(loss);
    }

    pub(crate) fn renewed(&self) {
        self.counters.renewals.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.renewals.increment(1);
    }

    pub(crate) fn suspect(&self) {
        self.counters.suspect.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.suspect.increment(1);
    }

    pub(crate) fn degraded(&self, #[cfg_attr(not(feature = "metrics"), expect(unused))] to: Degradation) {
        self.counters.degraded.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.handles.degraded(to);
    }
}

/// One that waits counts for as long as this lives.
#[derive(Debug)]
pub(crate) struct Waits(Arc<Meter>);

impl Waits {
    pub(crate) fn new(meter: &Arc<Meter>) -> Self {
        meter.counters.waiting.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        meter.handles.waiting.increment(1.0);
        Self(meter.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.counters.waiting.fetch_sub(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.0.handles.waiting.decrement(1.0);
    }
}

/// How a claim that ended without a hold is counted: in few words, whatever may go wrong.
#[cfg(feature = "metrics")]
pub(crate) fn outcome(why: Why) -> usize {
    match why {
        Why::Busy => 0,
        Why::TimedOut => 1,
        Why::Cancelled => 2,
        Why::Failed(kind) if is_refusal(kind) => 3,
        Why::Failed(_) => 4,
    }
}

/// See [`outcome`].
#[cfg(feature = "metrics")]
pub(crate) const OUTCOMES: [&str; 5] = ["busy", "timeout", "cancelled", "refused", "store"];

/// Whether what was asked for was at fault, not the store.
#[cfg(feature = "metrics")]
fn is_refusal(kind: ErrorKind) -> bool {
    use ErrorKind::{Closed, Deadlock, Invalid, Lost, Mismatch, ReentryLimit, Timeout};
    matches!(kind, Closed | Deadlock | Invalid | Lost | Mismatch | ReentryLimit | Timeout)
}

/// What kind of lock a claim is on: `exclusive` for a mutex or a writer, `shared` for a reader, `semaphore`.
pub(crate) fn kind(claim: Claim) -> &'static str {
    KINDS[place(claim)]
}

const KINDS: [&str; 3] = ["exclusive", "shared", "semaphore"];

fn place(claim: Claim) -> usize {
    match (claim.limit(), claim.permits()) {
        (Claim::ALL, Claim::ALL) => 0,
        (Claim::ALL, _) => 1,
        _ => 2,
    }
}

/// The meters of a client.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) counters: Arc<Counters>,
    by_kind: [Arc<Meter>; 3],
    #[cfg(feature = "metrics")]
    facade: Facade,
    #[cfg(feature = "metrics")]
    events_dropped: metrics::Counter,
    #[cfg(feature = "metrics")]
    commits: Commits,
}

impl Meters {
    /// Takes note of an event that the sinks had no room for.
    pub(crate) fn event_dropped(&self) {
        self.counters.events_dropped.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.events_dropped.increment(1);
    }

    /// Takes note of how a fenced commit ended.
    pub(crate) fn commit_ended(&self, ending: Ending, took: Duration) {
        let counter = match ending {
            Ending::Committed => &self.counters.committed,
            Ending::RolledBack(_) => &self.counters.rolled_back,
            Ending::Unknown(_) => &self.counters.commits_unknown,
        };
        counter.fetch_add(1, Relaxed);
        self.counters.commit.record(took);
        #[cfg(feature = "metrics")]
        self.commits.ended(ending, took);
    }
}

#[cfg(not(feature = "metrics"))]
impl Meters {
    pub(crate) fn new() -> Self {
        let counters: Arc<Counters> = Arc::default();
        let by_kind = KINDS.map(|_| Arc::new(Meter { counters: counters.clone() }));
        Self { counters, by_kind }
    }

    /// Where a lock is counted.
    pub(crate) fn meter(&self, _key: &crate::key::Key, claim: Claim) -> Arc<Meter> {
        self.by_kind[place(claim)].clone()
    }
}

#[cfg(feature = "metrics")]
impl Meters {
    pub(crate) fn new(facade: Facade) -> Self {
        let counters: Arc<Counters> = Arc::default();
        let meter = |kind| Meter { counters: counters.clone(), handles: facade.handles(kind, None) };
        let by_kind = KINDS.map(|kind| Arc::new(meter(kind)));
        let (events_dropped, commits) = (facade.events_dropped(), facade.commits());
        Self { counters, by_kind, facade, events_dropped, commits }
    }

    /// Whether it is time to tell how the nodes fare.
    pub(crate) fn are_nodes_due(&self, now: Moment) -> bool {
        self.facade.are_nodes_due(now)
    }

    /// Tells how the nodes fare.
    pub(crate) fn nodes(&self, healths: &[NodeHealth]) {
        self.facade.nodes(healths);
    }

    /// Where a lock is counted.
    pub(crate) fn meter(&self, key: &Key, claim: Claim) -> Arc<Meter> {
        let name = self.facade.name(key);
        let make = |name: &str| Meter {
            counters: self.counters.clone(),
            handles: self.facade.handles(KINDS[place(claim)], Some(name)),
        };
        match name {
            None => self.by_kind[place(claim)].clone(),
            Some(name) => self.facade.meter(name, place(claim), make),
        }
    }
}
