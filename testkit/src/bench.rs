//! What benchmarks share: figures as lines, medians of runs that take turns, and what a run cost this process.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// What a figure should keep to.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// No more than that.
    AtMost(f64),
    /// No less than that.
    AtLeast(f64),
}

/// Prints one figure: a ratio that was measured in one run, and the absolutes behind it, which hold for one machine only.
pub fn figure(name: &str, ratio: f64, limit: Limit, absolutes: &str) {
    let (sign, limit) = match limit {
        Limit::AtMost(limit) => ('≤', limit),
        Limit::AtLeast(limit) => ('≥', limit),
    };
    println!("{name}: {ratio:.2} ({sign} {limit}) [{absolutes}]");
}

/// The median of the values; of an even number, the upper of the two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What something took: microseconds of time, and of this process's CPU.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The time that passed.
    pub time: f64,
    /// The CPU time of all threads of this process.
    pub cpu: f64,
}

/// Measures from when this is called until [`Stopwatch::stop`].
#[derive(Debug)]
pub struct Stopwatch(Instant, f64);

impl Stopwatch {
    /// Starts it.
    pub fn start() -> Self {
        Self(Instant::now(), cpu_micros())
    }

    /// What it took since.
    pub fn stop(self) -> Cost {
        Cost { time: self.0.elapsed().as_secs_f64() * 1e6, cpu: cpu_micros() - self.1 }
    }
}

/// The CPU time that this process has used so far, in microseconds.
fn cpu_micros() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 * 1e6 + used.tv_nsec as f64 / 1e3
}

/// The memory of this process, in bytes.
///
/// # Panics
///
/// Where there is no `/proc`.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number");
    kib * 1024
}
