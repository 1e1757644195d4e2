//! Figures of one client since it was made, or since they were last taken: what was asked for, how it ended, how long it
//! took.
//!
//! They are a few hundred atomics, whatever the number of locks: nothing here grows with their names. `meter.rs` is where
//! they are counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::meter::Named;

/// A snapshot of a client's figures.
///
/// Its `Display` is the Prometheus text format, under the prefix that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// The prefix of the metrics' names: `tenure` unless another was set.
    pub prefix: String,
    /// Claims that were let in.
    pub acquired: u64,
    /// Claims that ended without a hold: busy, timed out, refused, failed or cancelled.
    pub failed: u64,
    /// Holds that were released to the store.
    pub released: u64,
    /// Holds that were passed to another task of this process without the store.
    pub handed_on: u64,
    /// Holds that were lost.
    pub lost: u64,
    /// Renewals that came through: the watchdog's, and those asked for by `refresh`.
    pub renewals: u64,
    /// Claims that ended because their time or their retries were used up; they are in `failed` too.
    pub timeouts: u64,
    /// Times that a hold came in doubt, as [`What::Suspect`](crate::What::Suspect) tells.
    pub suspect: u64,
    /// Claims that ended in something less than their lock, as [`What::Degraded`](crate::What::Degraded) tells.
    pub degraded: u64,
    /// Events that a [sink](crate::LocksBuilder::sink) was too slow for.
    pub events_dropped: u64,
    /// Fenced commits that were carried out.
    pub committed: u64,
    /// Fenced commits that wrote nothing.
    pub rolled_back: u64,
    /// Fenced commits of which no reply came, or whose future was dropped: they may have been carried out.
    pub commits_unknown: u64,
    /// How many holds there are now.
    pub held: u64,
    /// How many tasks wait for a lock now.
    pub waiting: u64,
    /// How long the holds that ended had lasted, on average; zero when none has ended.
    pub average_hold: Duration,
    /// From the call to the hold.
    pub wait: Histogram,
    /// From the hold to its release or loss.
    pub hold: Histogram,
    /// From the call of a fenced commit to its end.
    pub commit: Histogram,
}

/// Durations by size: each bucket is twice as wide as the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many durations there were.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
    /// How many lay below each bound and not below the bound before; empty buckets are left out.
    pub buckets: Vec<(Duration, u64)>,
}

impl Metrics {
    /// Bounds of buckets for the figures in seconds, from half a millisecond to an hour, for exporters that have to be told.
    pub const SECONDS: &'static [f64] = &[
        0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
        900.0, 3_600.0,
    ];
}

impl Histogram {
    /// The bound below which a share `q` of all durations lies, from 0 to 1: an upper estimate, within a factor of two.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = (q.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.buckets.iter().find(|(_, n)| {
            seen += n;
            seen >= rank
        });
        reached.map_or(Duration::ZERO, |(bound, _)| *bound)
    }
}

/// Counts while the client runs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) failed: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) handed_on: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) renewals: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) suspect: AtomicU64,
    pub(crate) degraded: AtomicU64,
    pub(crate) events_dropped: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) rolled_back: AtomicU64,
    pub(crate) commits_unknown: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) wait: Recorder,
    pub(crate) hold: Recorder,
    pub(crate) commit: Recorder,
}

impl Counters {
    pub(crate) fn snapshot(&self, prefix: &str) -> Metrics {
        self.read(prefix, |counter| counter.load(Relaxed))
    }

    /// The figures so far, which begin at zero again. Each is counted in one of two such snapshots, never in both.
    pub(crate) fn take(&self, prefix: &str) -> Metrics {
        self.read(prefix, |counter| counter.swap(0, Relaxed))
    }

    fn read(&self, prefix: &str, value: fn(&AtomicU64) -> u64) -> Metrics {
        let (wait, hold) = (self.wait.read(value), self.hold.read(value));
        Metrics {
            prefix: prefix.to_owned(),
            acquired: wait.count,
            failed: value(&self.failed),
            released: value(&self.released),
            handed_on: value(&self.handed_on),
            lost: value(&self.lost),
            renewals: value(&self.renewals),
            timeouts: value(&self.timeouts),
            suspect: value(&self.suspect),
            degraded: value(&self.degraded),
            events_dropped: value(&self.events_dropped),
            committed: value(&self.committed),
            rolled_back: value(&self.rolled_back),
            commits_unknown: value(&self.commits_unknown),
            // How things stand is not counted anew.
            held: self.held.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            average_hold: Duration::from_micros((hold.sum.as_micros() as u64).checked_div(hold.count).unwrap_or(0)),
            wait,
            hold,
            commit: self.commit.read(value),
        }
    }
}

/// One bucket per power of two of microseconds, up to six days; the last is for all that is longer, too.
const BUCKETS: usize = 40;

/// A histogram while it is filled.
#[derive(Debug)]
pub(crate) struct Recorder {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Recorder {
    fn default() -> Self {
        Self { sum: AtomicU64::new(0), buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Recorder {
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (64 - micros.leading_zeros() as usize).min(BUCKETS - 1);
        self.sum.fetch_add(micros, Relaxed);
        self.buckets[bucket].fetch_add(1, Relaxed);
    }

    fn read(&self, value: fn(&AtomicU64) -> u64) -> Histogram {
        let counts = self.buckets.iter().map(value).enumerate().filter(|(_, n)| *n > 0);
        let buckets: Vec<_> = counts.map(|(i, n)| (Duration::from_micros(1 << i), n)).collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        Histogram { count, sum: Duration::from_micros(value(&self.sum)), buckets }
    }
}

/// The powers of two of microseconds that are told to Prometheus, from 64 µs to 19 h: always the same, as the rate of a
/// bucket that comes and goes means nothing.
const TOLD: std::ops::RangeInclusive<u32> = 6..=36;

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = &self.prefix;
        let single = [
            (Named::ACQUIRED, self.acquired),
            (Named::FAILED, self.failed),
            (Named::RELEASED, self.released),
            (Named::HANDED_ON, self.handed_on),
            (Named::LOST, self.lost),
            (Named::RENEWALS, self.renewals),
            (Named::TIMEOUTS, self.timeouts),
            (Named::SUSPECT, self.suspect),
            (Named::DEGRADED, self.degraded),
            (Named::EVENTS_DROPPED, self.events_dropped),
            (Named::COMMITTED, self.committed),
            (Named::ROLLED_BACK, self.rolled_back),
            (Named::COMMITS_UNKNOWN, self.commits_unknown),
            (Named::HELD, self.held),
            (Named::WAITING, self.waiting),
        ];
        for (Named { name, help, kind }, value) in single {
            writeln!(f, "# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} {kind}\n{prefix}_{name} {value}")?;
        }
        let histograms = [(Named::WAIT, &self.wait), (Named::HOLD, &self.hold), (Named::COMMIT, &self.commit)];
        for (Named { name, help, kind }, histogram) in histograms {
            let name = format!("{prefix}_{name}");
            writeln!(f, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
            for bound in TOLD.map(|power| Duration::from_micros(1 << power)) {
                let below = histogram.buckets.iter().filter(|(top, _)| *top <= bound).map(|(_, n)| n).sum::<u64>();
                writeln!(f, "{name}_bucket{{le=\"{}\"}} {below}", bound.as_secs_f64())?;
            }
            writeln!(f, "{name}_bucket{{le=\"+Inf\"}} {0}\n{name}_count {0}", histogram.count)?;
            writeln!(f, "{name}_sum {}", histogram.sum.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_counted_anew_and_how_things_stand_is_not() {
        let counters = Counters::default();
        counters.lost.fetch_add(2, Relaxed);
        counters.held.fetch_add(1, Relaxed);
        counters.wait.record(Duration::from_millis(3));
        let taken = counters.take("tenure");
        assert_eq!((taken.lost, taken.held, taken.acquired, taken.wait.sum), (2, 1, 1, Duration::from_millis(3)));
        let anew = counters.snapshot("tenure");
        assert_eq!((anew.lost, anew.held, anew.acquired, anew.wait), (0, 1, 0, Histogram::default()));
    }

    #[test]
    fn quantiles_are_upper_bounds_within_a_factor_of_two() {
        let recorder = Recorder::default();
        (1..=1000).for_each(|ms| recorder.record(Duration::from_millis(ms)));
        let histogram = recorder.read(|counter| counter.load(Relaxed));
        assert_eq!((histogram.count, histogram.sum), (1000, Duration::from_millis(500_500)));
        for (q, exact) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let (bound, exact) = (histogram.quantile(q), Duration::from_millis(exact));
            assert!(bound >= exact && bound <= 2 * exact, "{q}: {bound:?} for {exact:?}");
        }
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
