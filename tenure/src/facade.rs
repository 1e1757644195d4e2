//! The figures through the [`metrics`] facade: whatever recorder the program has installed, Prometheus, StatsD or OTLP,
//! is given them under Prometheus' names and units.
//!
//! Handles are asked for once: for each kind of lock when the client is built, for each lock that is told by name when it is
//! built, for each node when it is first heard of. What is told by name is bounded by a number that the user gives; all
//! locks beyond it are `other`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key as Series, Label, Level, Metadata, Recorder, Unit};

use crate::env::Moment;
use crate::event::{Degradation, Why};
use crate::health::NodeHealth;
use crate::hold::Loss;
use crate::key::Key;
use crate::meter::{Meter, Named, OUTCOMES, Type, outcome};
use crate::transaction::{DOUBTS, Ending, WHYS};

/// The name of all locks beyond those that are told by name.
const OTHER: &str = "other";

/// The figures of a node.
const NODES: [Named; 3] = [
    Named { name: "node_up", help: "Whether a node of the store answers: 1 or 0.", kind: Type::Gauge },
    Named { name: "node_latency_seconds", help: "How long a node takes to answer, smoothed.", kind: Type::Gauge },
    Named {
        name: "node_failure_rate",
        help: "Which share of the requests to a node failed lately.",
        kind: Type::Gauge,
    },
];

/// A recorder of one's own.
pub(crate) type Own = Arc<dyn Recorder + Send + Sync>;

/// Of a name, by kind.
type Meters = [Option<Arc<Meter>>; 3];

/// Where handles come from.
pub(crate) struct Facade {
    prefix: String,
    recorder: Option<Own>,
    /// How many locks are told by name.
    names: usize,
    by_name: Mutex<HashMap<Arc<str>, Meters>>,
    nodes: Mutex<HashMap<String, [Gauge; 3]>>,
    /// When they are told next.
    nodes_at: AtomicU64,
}

/// How often the nodes are told, while there is something to tell.
const NODES_EVERY: Duration = Duration::from_secs(1);

impl Facade {
    pub(crate) fn new(prefix: String, recorder: Option<Own>, names: usize) -> Self {
        let (by_name, nodes, nodes_at) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        let facade = Self { prefix, recorder, names, by_name, nodes, nodes_at };
        Named::ALL.iter().chain(&NODES).for_each(|named| facade.describe(named));
        facade
    }

    /// The name that a lock is told by, where locks are.
    pub(crate) fn name(&self, key: &Key) -> Option<Arc<str>> {
        if self.names == 0 {
            return None;
        }
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_name.contains_key(key.as_str()) || by_name.len() < self.names;
        Some(if known { key.as_str().into() } else { OTHER.into() })
    }

    /// The meter of that name and place, made where there is none.
    pub(crate) fn meter(&self, name: Arc<str>, place: usize, make: impl Fn(&str) -> Meter) -> Arc<Meter> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have taken the last name since it was given.
        let known = by_name.contains_key(&name) || by_name.len() < self.names;
        let name = if known { name } else { OTHER.into() };
        let places = by_name.entry(name.clone()).or_default();
        places[place].get_or_insert_with(|| Arc::new(make(&name))).clone()
    }

    /// The handles for locks of a kind, or for one of them.
    pub(crate) fn handles(&self, kind: &'static str, name: Option<&str>) -> Handles {
        let kind = Label::from_static_parts("kind", kind);
        let name = name.map(|name| Label::new("lock", name.to_owned()));
        let labels: Vec<_> = [kind].into_iter().chain(name).collect();
        let by = |label: &'static str, value| {
            let mut labels = labels.clone();
            labels.push(Label::from_static_parts(label, value));
            labels
        };
        let outcomes = |named: Named, value| self.counter(named, by("outcome", value));
        Handles {
            acquired: self.counter(Named::ACQUIRED, labels.clone()),
            failed: OUTCOMES.map(|value| outcomes(Named::FAILED, value)),
            timeouts: self.counter(Named::TIMEOUTS, labels.clone()),
            released: self.counter(Named::RELEASED, labels.clone()),
            handed_on: self.counter(Named::HANDED_ON, labels.clone()),
            lost: LOSSES.map(|loss| outcomes(Named::LOST, loss.name())),
            renewals: self.counter(Named::RENEWALS, labels.clone()),
            suspect: self.counter(Named::SUSPECT, labels.clone()),
            degraded: ["store", "lock", "unlocked"].map(|value| outcomes(Named::DEGRADED, value)),
            held: self.gauge(Named::HELD, labels.clone()),
            waiting: self.gauge(Named::WAITING, labels.clone()),
            wait: self.histogram(Named::WAIT, labels.clone()),
            hold: self.histogram(Named::HOLD, labels),
        }
    }

    /// For events that a sink was too slow for.
    pub(crate) fn events_dropped(&self) -> Counter {
        self.counter(Named::EVENTS_DROPPED, Vec::new())
    }

    /// For fenced commits.
    pub(crate) fn commits(&self) -> Commits {
        let by = |named, outcome| self.counter(named, vec![Label::from_static_parts("outcome", outcome)]);
        Commits {
            committed: self.counter(Named::COMMITTED, Vec::new()),
            rolled_back: WHYS.map(|why| by(Named::ROLLED_BACK, why)),
            unknown: DOUBTS.map(|why| by(Named::COMMITS_UNKNOWN, why)),
            took: self.histogram(Named::COMMIT, Vec::new()),
        }
    }

    /// Whether it is time to tell how the nodes fare; true for one of those who ask.
    pub(crate) fn are_nodes_due(&self, now: Moment) -> bool {
        let due = self.nodes_at.load(Relaxed);
        now.0 >= due && self.nodes_at.compare_exchange(due, (now + NODES_EVERY).0, Relaxed, Relaxed).is_ok()
    }

    /// Tells how the nodes fare. One that is no longer a member is told as `NaN`: neither up nor down.
    pub(crate) fn nodes(&self, healths: &[NodeHealth]) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|node, gauges| {
            let is_member = healths.iter().any(|health| health.node == *node);
            if !is_member {
                gauges.iter().for_each(|gauge| gauge.set(f64::NAN));
            }
            is_member
        });
        for health in healths {
            let label = || vec![Label::new("node", health.node.clone())];
            let gauges = || NODES.map(|named| self.gauge(named, label()));
            let [up, latency, failure_rate] = nodes.entry(health.node.clone()).or_insert_with(gauges);
            up.set(if health.up { 1.0 } else { 0.0 });
            latency.set(health.latency.as_secs_f64());
            failure_rate.set(health.failure_rate);
        }
    }

    fn describe(&self, Named { name, help, kind }: &Named) {
        let name = format!("{}_{name}", self.prefix);
        let unit = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        self.with(|recorder| match kind {
            Type::Counter => recorder.describe_counter(name.into(), Some(unit), (*help).into()),
            Type::Gauge => recorder.describe_gauge(name.into(), Some(unit), (*help).into()),
            Type::Histogram => recorder.describe_histogram(name.into(), Some(unit), (*help).into()),
        });
    }

    fn counter(&self, named: Named, labels: Vec<Label>) -> Counter {
        self.with(|recorder| recorder.register_counter(&self.series(named, labels), &METADATA))
    }

    fn gauge(&self, named: Named, labels: Vec<Label>) -> Gauge {
        self.with(|recorder| recorder.register_gauge(&self.series(named, labels), &METADATA))
    }

    fn histogram(&self, named: Named, labels: Vec<Label>) -> Histogram {
        self.with(|recorder| recorder.register_histogram(&self.series(named, labels), &METADATA))
    }

    fn series(&self, named: Named, labels: Vec<Label>) -> Series {
        Series::from_parts(format!("{}_{}", self.prefix, named.name), labels)
    }

    fn with<T>(&self, ask: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => ask(&**recorder),
            None => metrics::with_recorder(ask),
        }
    }
}

const METADATA: Metadata<'static> = Metadata::new("tenure", Level::INFO, Some("tenure"));

impl fmt::Debug for Facade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facade").field("prefix", &self.prefix).field("names", &self.names).finish_non_exhaustive()
    }
}

const LOSSES: [Loss; 3] = [Loss::Expired, Loss::Gone, Loss::MaxHold];

/// What locks of one kind, or one lock, are counted by.
#[derive(Debug)]
pub(crate) struct Handles {
    acquired: Counter,
    failed: [Counter; OUTCOMES.len()],
    timeouts: Counter,
    pub(crate) released: Counter,
    pub(crate) handed_on: Counter,
    lost: [Counter; 3],
    pub(crate) renewals: Counter,
    pub(crate) suspect: Counter,
    degraded: [Counter; 3],
    pub(crate) held: Gauge,
    pub(crate) waiting: Gauge,
    wait: Histogram,
    pub(crate) hold: Histogram,
}

impl Handles {
    pub(crate) fn acquired(&self, waited: Duration) {
        self.acquired.increment(1);
        self.wait.record(waited.as_secs_f64());
    }

    pub(crate) fn not_acquired(&self, why: Why) {
        self.failed[outcome(why)].increment(1);
        if why == Why::TimedOut {
            self.timeouts.increment(1);
        }
    }

    pub(crate) fn lost(&self, loss: Loss) {
        if let Some(place) = LOSSES.iter().position(|other| *other == loss) {
            self.lost[place].increment(1);
        }
    }

    pub(crate) fn degraded(&self, to: Degradation) {
        let place = match to {
            Degradation::Store => 0,
            Degradation::Lock => 1,
            Degradation::Unlocked => 2,
        };
        self.degraded[place].increment(1);
    }
}

/// What fenced commits are counted by.
#[derive(Debug)]
pub(crate) struct Commits {
    committed: Counter,
    rolled_back: [Counter; WHYS.len()],
    unknown: [Counter; DOUBTS.len()],
    took: Histogram,
}

impl Commits {
    pub(crate) fn ended(&self, ending: Ending, took: Duration) {
        let of = |whys: &[&str], why| whys.iter().position(|other| *other == why).expect("it is one of these");
        match ending {
            Ending::Committed => &self.committed,
            Ending::RolledBack(why) => &self.rolled_back[of(&WHYS, why)],
            Ending::Unknown(why) => &self.unknown[of(&DOUBTS, why)],
        }
        .increment(1);
        self.took.record(took.as_secs_f64());
    }
}
