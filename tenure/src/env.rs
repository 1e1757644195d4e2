//! The only clock, sleep, spawn and randomness in this crate; `clippy.toml` disallows the rest.
//!
//! The system's clock for leases is `CLOCK_BOOTTIME`, which goes on while the machine is suspended: a hold that expired
//! during the suspend is known to be over at the first look after it. [`std::time::Instant`] would still call it held.

#![allow(clippy::disallowed_methods, reason = "this is where they are allowed")]

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::proto::Micros;

/// Where a client has its time and its randomness from: the system, or a test.
#[derive(Clone, Debug)]
pub struct Env(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System,
    Simulated(Arc<Simulated>),
}

struct Simulated {
    start: Instant,
    random: Mutex<StdRng>,
    /// By how much the wall clock is ahead, in microseconds.
    skew: AtomicI64,
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").finish_non_exhaustive()
    }
}

/// Sleeping is cut into pieces of this length, so that a timer which stood still during a suspend is late by no more.
const SLICE: Duration = Duration::from_secs(1);

impl Env {
    /// The system's clocks, and the operating system's randomness.
    pub const fn system() -> Self {
        Self(Kind::System)
    }

    /// For tests: the clock of the tokio runtime this is called in, which can be paused, and random numbers from a seed.
    pub fn simulated(seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self(Kind::Simulated(Arc::new(Simulated { start: Instant::now(), random, skew: AtomicI64::new(0) })))
    }

    /// For tests: sets a simulated wall clock ahead of the runtime's by that many microseconds, or back. The clock that
    /// deadlines are counted on goes on as before, and the system's clocks are not touched.
    pub fn skew(&self, micros: i64) {
        if let Kind::Simulated(simulated) = &self.0 {
            simulated.skew.store(micros, Relaxed);
        }
    }

    /// Now, on a clock that never goes back and goes on through suspend.
    pub(crate) fn now(&self) -> Moment {
        match &self.0 {
            Kind::System => {
                let time = rustix::time::clock_gettime(BOOT_CLOCK);
                Moment(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000)
            }
            Kind::Simulated(simulated) => Moment(simulated.start.elapsed().as_micros() as u64),
        }
    }

    /// The wall clock: microseconds since the Unix epoch.
    pub(crate) fn wall(&self) -> Micros {
        match &self.0 {
            Kind::System => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
                time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
            }
            Kind::Simulated(simulated) => {
                let now = SIMULATED_EPOCH + simulated.start.elapsed().as_micros() as u64;
                now.saturating_add_signed(simulated.skew.load(Relaxed))
            }
        }
    }

    /// Sleeps until `moment`, to the millisecond.
    pub(crate) async fn sleep_until(&self, moment: Moment) {
        loop {
            let left = moment - self.now();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(SLICE)).await;
        }
    }

    /// Sleeps for `duration`, to the millisecond.
    pub(crate) async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// Stops the calling thread for `duration`: for the threads of [`spawn_thread`], never in a task.
    pub(crate) fn pause(&self, duration: Duration) {
        #[cfg(not(loom))]
        std::thread::sleep(duration);
        // A model has no time.
        #[cfg(loom)]
        let _ = (duration, loom::thread::yield_now());
    }

    /// Names the run of the machine and the namespace that the clock of [`now`](Self::now) counts for: processes with
    /// one name read one clock. `None` where the system has no such name.
    ///
    /// # Errors
    ///
    /// When the system has names for its runs, and does not tell.
    #[cfg(feature = "sqlite")]
    pub(crate) fn boot(&self) -> std::io::Result<Option<Boot>> {
        if cfg!(not(target_os = "linux")) {
            return Ok(None);
        }
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        // Kernels without time namespaces have no such link.
        let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default().to_string_lossy().into_owned();
        Ok(Some(Boot { id, namespace }))
    }

    /// The output of `future`, unless `duration` passes first.
    pub(crate) async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(duration, future).await.ok()
    }

    /// 128 bits that nobody can guess; from the seed, in a simulation.
    pub(crate) fn bits(&self) -> u128 {
        let mut bytes = [0; 16];
        match &self.0 {
            Kind::System => rand::rng().fill_bytes(&mut bytes),
            Kind::Simulated(simulated) => {
                simulated.random.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes);
            }
        }
        u128::from_ne_bytes(bytes)
    }

    /// `duration` by a random factor from 0.5 to 1, so that many who failed together do not come back together.
    pub(crate) fn jitter(&self, duration: Duration) -> Duration {
        duration.mul_f64(0.5 + (self.bits() as u32 as f64) / (2.0 * f64::from(u32::MAX)))
    }
}

#[cfg(target_os = "linux")]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
/// Elsewhere the monotonic clock, which on macOS also goes on through suspend.
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

/// Simulations begin on the first of January 2025.
const SIMULATED_EPOCH: Micros = 1_735_689_600_000_000;

/// Spawns a task on the runtime of the caller.
///
/// Returns `None` where the caller is in no runtime.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Option<tokio::task::JoinHandle<()>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    Some(runtime.spawn(future))
}

/// See [`Env::boot`].
#[cfg(feature = "sqlite")]
#[derive(Debug)]
pub(crate) struct Boot {
    /// The run of the machine.
    pub(crate) id: String,
    /// The time namespace, whose clock may be shifted against the machine's.
    pub(crate) namespace: String,
}

/// Spawns a thread, for what can only block.
pub(crate) fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// A point in time on the client's own clock, in microseconds since some start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub(crate) u64);

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Moment> for Moment {
    type Output = Duration;

    /// How long after `earlier` this is; zero if it is not.
    fn sub(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
