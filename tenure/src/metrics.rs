//! Figures of one client since it was made: what was asked for, how it ended, how long it took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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
    /// Claims that ended in something less than their lock, as [`What::Degraded`](crate::What::Degraded) tells.
    pub degraded: u64,
    /// How long the holds that ended had lasted, on average; zero when none has ended.
    pub average_hold: Duration,
    /// From the call to the hold.
    pub wait: Histogram,
    /// From the hold to its release or loss.
    pub hold: Histogram,
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
    pub(crate) degraded: AtomicU64,
    pub(crate) wait: Recorder,
    pub(crate) hold: Recorder,
}

impl Counters {
    pub(crate) fn snapshot(&self, prefix: &str) -> Metrics {
        let (wait, hold) = (self.wait.snapshot(), self.hold.snapshot());
        Metrics {
            prefix: prefix.to_owned(),
            acquired: wait.count,
            failed: self.failed.load(Relaxed),
            released: self.released.load(Relaxed),
            handed_on: self.handed_on.load(Relaxed),
            lost: self.lost.load(Relaxed),
            renewals: self.renewals.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            degraded: self.degraded.load(Relaxed),
            average_hold: Duration::from_micros((hold.sum.as_micros() as u64).checked_div(hold.count).unwrap_or(0)),
            wait,
            hold,
        }
    }
}

/// One bucket per power of two of microseconds, up to twelve days.
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

    fn snapshot(&self) -> Histogram {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).enumerate().filter(|(_, n)| *n > 0);
        let buckets: Vec<_> = counts.map(|(i, n)| (Duration::from_micros(1 << i), n)).collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        Histogram { count, sum: Duration::from_micros(self.sum.load(Relaxed)), buckets }
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = &self.prefix;
        let counters = [
            ("acquired", "Claims that were let in.", self.acquired),
            ("failed", "Claims that ended without a hold.", self.failed),
            ("released", "Holds that were released to the store.", self.released),
            ("handed_on", "Holds that were passed to another task of the process.", self.handed_on),
            ("lost", "Holds that were lost.", self.lost),
            ("renewals", "Renewals that came through.", self.renewals),
            ("timeouts", "Claims whose time for waiting was used up.", self.timeouts),
            ("degraded", "Claims that ended in something less than their lock.", self.degraded),
        ];
        for (name, help, value) in counters {
            writeln!(f, "# HELP {prefix}_{name}_total {help}\n# TYPE {prefix}_{name}_total counter")?;
            writeln!(f, "{prefix}_{name}_total {value}")?;
        }
        for (name, help, histogram) in
            [("wait", "From the call to the hold.", &self.wait), ("hold", "From the hold to its end.", &self.hold)]
        {
            let name = format!("{prefix}_{name}_seconds");
            writeln!(f, "# HELP {name} {help}\n# TYPE {name} histogram")?;
            let mut below = 0;
            for (bound, n) in &histogram.buckets {
                below += n;
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
    fn quantiles_are_upper_bounds_within_a_factor_of_two() {
        let recorder = Recorder::default();
        (1..=1000).for_each(|ms| recorder.record(Duration::from_millis(ms)));
        let histogram = recorder.snapshot();
        assert_eq!((histogram.count, histogram.sum), (1000, Duration::from_millis(500_500)));
        for (q, exact) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let (bound, exact) = (histogram.quantile(q), Duration::from_millis(exact));
            assert!(bound >= exact && bound <= 2 * exact, "{q}: {bound:?} for {exact:?}");
        }
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
